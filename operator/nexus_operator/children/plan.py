"""What has to be applied and deleted so that the cluster holds exactly the rendered children."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from nexus_operator.world.inventory import Object, key_of

ChildKey = tuple[str, str, str]
"""(kind, namespace, name)."""


@dataclass(frozen=True, slots=True)
class Settled:
    """One child after it was applied. wanted: as rendered. edition: of the live object then."""

    wanted: Object
    edition: str


@dataclass(frozen=True, slots=True)
class Plan:
    """apply, delete: in a stable order. delete holds the live objects."""

    apply: tuple[Object, ...]
    delete: tuple[Object, ...]


def build_plan(wanted: Iterable[Object], live: Iterable[Object], settled: Mapping[ChildKey, Settled]) -> Plan:
    """Return what to do.

    wanted: rendered children. live: objects of the same kinds that carry our label. settled: what was last applied, and
    what the API server made of it; it writes quantities its own way, so a comparison of fields alone would never rest.
    A live object is deleted only when a NexusService that is still there controls it and wants it no more: children of
    deleted NexusServices are the garbage collector's.
    """
    by_key = {child_key(obj): obj for obj in live}
    want = {child_key(obj): obj for obj in wanted}
    apply = [
        obj
        for key, obj in want.items()
        if key not in by_key or (settled.get(key) != Settled(obj, edition(by_key[key])) and not holds(by_key[key], obj))
    ]
    delete = [obj for key, obj in sorted(by_key.items()) if key not in want and owner_uid(obj)]
    return Plan(tuple(apply), tuple(delete))


def child_key(obj: Object) -> ChildKey:
    """Return (kind, namespace, name)."""
    return (str(obj["kind"]), *key_of(obj))


def edition(obj: Object) -> str:
    """Return what changes when somebody edits the object, and (for Deployments) not when only its status does."""
    meta = obj["metadata"]
    return str(meta.get("generation") or meta.get("resourceVersion"))


def owner_uid(obj: Object) -> str:
    """Return the uid of the NexusService that controls the object; empty for none."""
    for ref in obj["metadata"].get("ownerReferences") or ():
        if (
            ref.get("controller")
            and ref.get("kind") == "NexusService"
            and str(ref.get("apiVersion", "")).startswith("nexus.dev/")
        ):
            return str(ref.get("uid") or "")
    return ""


def holds(live: Any, wanted: Any) -> bool:
    """Return whether everything in `wanted` is in `live`; what the API server has added besides does not matter."""
    if isinstance(wanted, Mapping):
        return isinstance(live, Mapping) and all(
            key in live and holds(live[key], value) for key, value in wanted.items()
        )
    if isinstance(wanted, list | tuple):
        return isinstance(live, list | tuple) and len(live) == len(wanted) and all(map(holds, live, wanted))
    return bool(live == wanted)
