"""What Consul's catalog holds of one virtual node, as values, and the difference between two such states."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, order=True)
class Registration:
    """One instance in the catalog. id: unique on its node. tags, meta: sorted. weight: 1..65535."""

    id: str
    service: str
    address: str
    port: int
    passing: bool
    tags: tuple[str, ...] = ()
    meta: tuple[tuple[str, str], ...] = ()
    weight: int = 1


@dataclass(frozen=True, slots=True)
class Difference:
    """What to write so that the catalog holds what it should. Both in id order; first register, then deregister."""

    register: tuple[Registration, ...]
    deregister: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(self.register or self.deregister)


def diff(wanted: Mapping[str, Registration], held: Mapping[str, Registration]) -> Difference:
    """Return what has to be written for the catalog to hold exactly `wanted`."""
    register = tuple(wanted[sid] for sid in sorted(wanted) if held.get(sid) != wanted[sid])
    return Difference(register, tuple(sid for sid in sorted(held) if sid not in wanted))


def counts(registrations: Iterable[Registration]) -> dict[str, tuple[int, int]]:
    """Return (passing, all) instances by service."""
    found: dict[str, tuple[int, int]] = {}
    for entry in registrations:
        ready, total = found.get(entry.service, (0, 0))
        found[entry.service] = (ready + entry.passing, total + 1)
    return found
