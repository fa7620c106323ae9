"""What differs between two Snapshots, object by object."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from nexus_core.snapshot.listeners import Certificate
from nexus_core.snapshot.plugins import PluginInstance, SealedValue
from nexus_core.snapshot.snapshots import Snapshot

SECTIONS = ("gateways", "certificates", "listeners", "routes", "streams", "upstreams", "plugins")
MAX_DEPTH = 4
"""Fields further down are told by the field above them."""

_UNBORN = "9999-12-31T23:59:59Z"


@dataclass(frozen=True, slots=True)
class Difference:
    """One object. section: of `SECTIONS`. fields: of a changed one, paths such as `rules[0].backends`, sorted."""

    section: str
    id: str
    change: Literal["added", "removed", "changed"]
    fields: tuple[str, ...] = ()


def find_differences(old: Snapshot, new: Snapshot) -> tuple[Difference, ...]:
    """Return what must be done to `old` to get `new`, by section and id. With which key secrets are sealed makes no difference."""
    return tuple(_walk(old, new))


def _walk(old: Snapshot, new: Snapshot) -> Iterator[Difference]:
    for section in SECTIONS:
        before = {item.id: item for item in getattr(old, section)}
        after = {item.id: item for item in getattr(new, section)}
        for name in sorted(before.keys() | after.keys()):
            one, other = before.get(name), after.get(name)
            if one is None:
                yield Difference(section, name, "added")
            elif other is None:
                yield Difference(section, name, "removed")
            elif one != other and not _is_sealed_anew(one, other):
                yield Difference(section, name, "changed", tuple(sorted(_fields("", one, other, 0))))


def _is_sealed_anew(one: Any, other: Any) -> bool:
    """Whether two certificates differ in nothing but the seal on their key: a chain has but one key that belongs to it, and who can
    open it is told by the listeners that show it. Of two plugins, whether they do in nothing but sealed secrets of the same names:
    whether one of them was exchanged cannot be told from what two keys sealed."""
    if isinstance(one, PluginInstance) and isinstance(other, PluginInstance):
        return _unsealed(one) == _unsealed(other)
    return isinstance(one, Certificate) and msgspec.structs.replace(one, key=other.key, holders=other.holders) == other


def _unsealed(plugin: PluginInstance) -> PluginInstance:
    """The plugin with the names of its secrets alone."""
    candidate = plugin.candidate
    if candidate is not None:
        candidate = msgspec.structs.replace(candidate, instance=_unsealed(candidate.instance))
    names = tuple(SealedValue(value.name, "") for value in plugin.sealed)
    return msgspec.structs.replace(plugin, sealed=names, candidate=candidate)


def _fields(path: str, one: Any, other: Any, depth: int) -> Iterator[str]:
    if one == other:
        return
    if depth < MAX_DEPTH:
        if isinstance(one, msgspec.Struct) and type(one) is type(other):
            for each in msgspec.structs.fields(one):
                name = f"{path}.{each.name}" if path else each.name
                yield from _fields(name, getattr(one, each.name), getattr(other, each.name), depth + 1)
            return
        if isinstance(one, tuple) and isinstance(other, tuple) and len(one) == len(other) and path:
            for index, (left, right) in enumerate(zip(one, other, strict=True)):
                yield from _fields(f"{path}[{index}]", left, right, depth)
            return
    yield path


def align(new: Snapshot, old: Snapshot) -> Snapshot:
    """Return a Snapshot made from files as the cluster would make it: with the ages of the objects that run.

    Files do not know when objects were made, which decides between routes of equal matches. Those that run keep theirs;
    new ones are younger than all. Nothing changes when the running ones have no age either.
    """
    born = {route.id: route.created_at for route in old.routes}
    born |= {stream.id: stream.created_at for stream in old.streams}
    if not any(born.values()):
        return new
    return msgspec.structs.replace(
        new,
        routes=tuple(
            msgspec.structs.replace(route, created_at=route.created_at or born.get(route.id, _UNBORN))
            for route in new.routes
        ),
        streams=tuple(
            msgspec.structs.replace(stream, created_at=stream.created_at or born.get(stream.id, _UNBORN))
            for stream in new.streams
        ),
    )
