"""Resources without their specs, for whoever has thousands: a model takes ten times what its manifest does as text."""

from __future__ import annotations

from nexus_core.model.base import Model
from nexus_core.model.load import parse
from nexus_core.model.resources import Resource

_FIELDS = ("ref", "generation", "created_at", "labels", "annotations", "problems", "raw", "group")


class _Lean(Resource):
    """Has everything but the spec, which is read from the manifest each time it is asked for."""

    __slots__ = ("_readable",)
    _readable: bool

    def __init__(self, resource: Resource) -> None:
        for name in _FIELDS:
            object.__setattr__(self, name, getattr(resource, name))
        object.__setattr__(self, "_readable", resource.readable)

    @property
    def spec(self) -> Model | None:
        """The model, made anew each time."""
        return parse(self.raw).spec if self._readable else None

    @property
    def readable(self) -> bool:
        """Whether there is a spec; costs nothing."""
        return self._readable


def lean(resource: Resource) -> Resource:
    """Return the same resource without its spec in memory. resource: as `load.parse` gave it, with its whole manifest in `raw`.

    Asking for the spec costs what parsing does, so it is for kinds whose specs are read when they have changed.
    """
    return _Lean(resource)
