"""What has to be applied and deleted so that the cluster holds exactly the rendered children."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from nexus_core.problems import ObjectRef

from nexus_operator.world.inventory import Object, key_of
from nexus_operator.world.kinds import RENDERED

ChildKey = tuple[str, str, str]
"""(kind, namespace, name)."""
OWNERS = {"NexusService": "nexus.dev/", "Gateway": "gateway.networking.k8s.io/", "NexusGatewayParameters": "nexus.dev/"}
"""The kinds that have children, and the group of each."""


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
    A live object is deleted only when an owner that is still there controls it and wants it no more: children of
    deleted owners are the garbage collector's.
    """
    by_key = {child_key(obj): obj for obj in live}
    want = {child_key(obj): obj for obj in wanted}
    apply = [obj for key, obj in want.items() if not _rests(by_key.get(key), obj, settled.get(key))]
    delete = [obj for key, obj in sorted(by_key.items()) if key not in want and (owner_uid(obj) or is_unowned(obj))]
    return Plan(tuple(apply), tuple(delete))


def settle_names(wanted: Iterable[Object], live: Iterable[Object]) -> tuple[tuple[Object, ...], tuple[Object, ...]]:
    """Return what is to be made, and what cannot be because another owner's child has its name: a Gateway `web` and a NexusService
    `web-nexus` would both have a Service `web-nexus`. Who has it keeps it; of two new ones, the first in order gets it.
    """
    owners = {child_key(obj): owner_uid(obj) for obj in live}
    taken: dict[ChildKey, Object] = {}
    disputed: list[Object] = []
    for obj in wanted:
        key = child_key(obj)
        other = taken.get(key)
        if other is not None and not (owner_uid(obj) and owners.get(key) == owner_uid(obj)):
            disputed.append(obj)
            continue
        if other is not None:
            disputed.append(other)
        taken[key] = obj
    return tuple(taken.values()), tuple(disputed)


def _rests(live: Object | None, wanted: Object, settled: Settled | None) -> bool:
    """Whether the live object is as it is wanted.

    A field that is wanted no more is not in `wanted`: only what was applied last tells that it has to go.
    """
    if live is None:
        return False
    if settled is not None and settled.wanted != wanted:
        return False
    return (settled is not None and settled.edition == edition(live)) or holds(live, wanted)


def child_key(obj: Object) -> ChildKey:
    """Return (kind, namespace, name)."""
    return (str(obj["kind"]), *key_of(obj))


def edition(obj: Object) -> str:
    """Return what changes when somebody edits the object, and (for Deployments) not when only its status does."""
    meta = obj["metadata"]
    return str(meta.get("generation") or meta.get("resourceVersion"))


def owner_uid(obj: Object) -> str:
    """Return the uid of the owner of ours that controls the object; empty for none."""
    return str(_owner(obj).get("uid") or "")


def owner_of(obj: Object) -> ObjectRef | None:
    """Return the owner of ours that controls the object."""
    owner = _owner(obj)
    return ObjectRef(str(owner["kind"]), key_of(obj)[0], str(owner["name"])) if owner else None


def is_unowned(obj: Object) -> bool:
    """Return whether the operator made it for nobody in particular: for the Gateway that stands in while there is none."""
    meta = obj["metadata"]
    return not meta.get("ownerReferences") and RENDERED in (meta.get("annotations") or {})


def _owner(obj: Object) -> Mapping[str, Any]:
    for ref in obj["metadata"].get("ownerReferences") or ():
        group = OWNERS.get(str(ref.get("kind")))
        if ref.get("controller") and group is not None and str(ref.get("apiVersion", "")).startswith(group):
            return dict(ref)
    return {}


def holds(live: Any, wanted: Any) -> bool:
    """Return whether everything in `wanted` is in `live`; what the API server has added besides does not matter."""
    if isinstance(wanted, Mapping):
        return isinstance(live, Mapping) and all(
            key in live and holds(live[key], value) for key, value in wanted.items()
        )
    if isinstance(wanted, list | tuple):
        return isinstance(live, list | tuple) and len(live) == len(wanted) and all(map(holds, live, wanted))
    return bool(live == wanted)
