"""ReferenceGrant: who may use whose objects."""

from __future__ import annotations

from pydantic import Field

from nexus_core.model.base import ThinModel


class GrantFrom(ThinModel):
    """Who may refer."""

    group: str
    kind: str
    namespace: str


class GrantTo(ThinModel):
    """What may be referred to. name: None for every object of the kind."""

    group: str
    kind: str
    name: str | None = None


class ReferenceGrantSpec(ThinModel):
    """A namespace's permission for others to use its objects."""

    from_: tuple[GrantFrom, ...] = Field(alias="from")
    to: tuple[GrantTo, ...]
