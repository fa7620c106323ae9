"""What hooks of the GraphQL gateway see."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from nexus_core.hooks.http import Headers


@dataclass(frozen=True, slots=True)
class Operation:
    """A GraphQL operation that was parsed and is valid.

    name: empty for an anonymous one. fields: names of its top-level fields, fragments included, in their order. depth: of its
    deepest field, 1 for a top-level one. headers: of the request, names lower-case; those that the plugin may read.
    """

    kind: Literal["query", "mutation", "subscription"]
    query: str
    name: str = ""
    variables: Mapping[str, Any] = field(default_factory=dict)
    fields: tuple[str, ...] = ()
    depth: int = 1
    headers: Headers = ()

    def with_variables(self, variables: Mapping[str, Any]) -> Operation:
        """Return a copy with other variables."""
        return replace(self, variables=variables)


@dataclass(frozen=True, slots=True)
class Resolved:
    """What an operation gave. data: JSON values, None when it failed as a whole. errors: as GraphQL writes them. seconds: it took."""

    data: Mapping[str, Any] | None
    errors: tuple[Mapping[str, Any], ...] = ()
    extensions: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
