"""Which objects need a new status, and what to write. One write per object, with everything in it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from nexus_operator.world.inventory import Object


@dataclass(frozen=True, slots=True)
class StatusWrite:
    """One status update. kind: of the object. obj: as it was read. status: a merge patch of `.status`."""

    kind: str
    obj: Object
    status: Mapping[str, Any]


def needed(writes: Iterable[StatusWrite]) -> tuple[StatusWrite, ...]:
    """Return the writes that would change anything, in their order."""
    return tuple(w for w in writes if not _shows(w.obj.get("status") or {}, w.status))


def _shows(held: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Whether merging `wanted` (None removes) leaves `held` as it is."""
    return all((key not in held) if value is None else held.get(key) == value for key, value in wanted.items())
