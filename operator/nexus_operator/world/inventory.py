"""The last known state of every watched object.

Two sources feed it, in any order: watch events (fast, but deletions that happen while a watch is down are never told)
and full lists (slow, complete). `resourceVersion` decides which of the two is newer.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from nexus_core.translate import features
from nexus_core.translate.features import Field

from nexus_operator.world.named import NOTHING, Named
from nexus_operator.world.packed import Packed, keep
from nexus_operator.world.trims import trim

Object = Mapping[str, Any]
Key = tuple[str, str]
"""(namespace, name); namespace is empty for cluster-scoped kinds."""

_QUIET_META = frozenset({"resourceVersion", "managedFields", "generation"})
_LOUD_STATUS = frozenset({"Service", "Deployment", "Pod"})
"""Kinds whose status the operator reads. Of others it is the operator itself who writes the status: no reason to wake."""


@dataclass(slots=True)
class _Shelf:
    objects: dict[Key, Object] = field(default_factory=dict)
    order: list[Key] | None = None  # the keys, sorted; None after one came or went
    graves: dict[Key, int] = field(default_factory=dict)  # version at which an object was deleted
    listed_at: int = -1  # version of the last full list; -1: never listed

    def drop(self, key: Key) -> bool:
        """Forget an object; return whether it was there."""
        if self.objects.pop(key, None) is None:
            return False
        self.order = None
        return True


class Inventory:
    """Objects by kind. Not thread-safe; it lives in one event loop. Objects handed in must not be changed afterwards."""

    def __init__(self, kinds: Iterable[str]) -> None:
        self._shelves = {kind: _Shelf() for kind in kinds}
        self._fields: frozenset[Field] = frozenset()
        self._named: Named = NOTHING

    @property
    def unlisted(self) -> tuple[str, ...]:
        """Kinds that no full list has covered yet, sorted. While there are any, nothing may be concluded from absence."""
        return tuple(sorted(kind for kind, shelf in self._shelves.items() if shelf.listed_at < 0))

    def keep(self, kind: str, obj: Object) -> Object | None:
        """Return what is kept of an object, None for nothing."""
        return keep(kind, obj, self._named)

    def name(self, named: Named) -> tuple[tuple[str, Key], ...]:
        """Take in what is kept beside the usual from now on; return the objects, by kind and key, of which more is wanted than is here.

        What is named no more is dropped at once. What is wanted anew has to be read, and given to `observe`.
        """
        before, self._named = self._named, named
        short: list[tuple[str, Key]] = []
        for at in sorted(before.keys() | named.keys()):
            kind, key = at[0], at[1:]
            if at in named and (at not in before or not _covers(before[at], named[at])):
                short.append((kind, key))
            shelf = self._shelves[kind]
            held = shelf.objects.get(key)
            if held is None or (at in before and at in named and before[at] == named[at]):
                continue
            kept = self.keep(kind, held)
            if kept is None:
                shelf.drop(key)
            elif kept != held:
                shelf.objects[key] = kept
        return tuple(short)

    def observe(self, kind: str, obj: Object, *, deleted: bool = False) -> bool:
        """Take in one watch event; return whether anything the operator cares for has changed."""
        shelf = self._shelves[kind]
        key, version = key_of(obj), version_of(obj)
        known = shelf.objects.get(key)
        if known is not None and version < version_of(known):
            return False
        if deleted:
            shelf.graves[key] = version
            return shelf.drop(key)
        if version < shelf.graves.get(key, -1):
            return False
        kept = self.keep(kind, obj)
        if kept is None:
            return shelf.drop(key)
        if known is not None and version == version_of(known) and not any(_differ(known, kept)):
            # An echo of what we wrote: it keeps its identity, by which later steps know that nothing has changed.
            return False
        if isinstance(kept, Packed) and isinstance(known, Packed):
            kept.share(known)
        shelf.objects[key] = kept
        if known is None:
            shelf.order = None
        return known is None or matters(kind, known, kept)

    def replace(self, kind: str, objects: Iterable[Object], version: int) -> bool:
        """Take in a full list made at `version`; return whether anything the operator cares for has changed.

        Objects missing from the list are dropped, unless a watch event newer than the list told of them. A version
        below that of the list before means that the API server's store was restored: the list is then the whole truth.
        """
        shelf = self._shelves[kind]
        if version < shelf.listed_at:
            shelf.objects.clear()
            shelf.graves.clear()
            shelf.order = None
        first = shelf.listed_at < 0
        shelf.listed_at = version
        listed = {key_of(obj): obj for obj in objects if trim(kind, obj, self._named) is not None}
        changed = first
        for key in [k for k, known in shelf.objects.items() if k not in listed and version_of(known) <= version]:
            changed |= shelf.drop(key)
        shelf.graves = {key: at for key, at in shelf.graves.items() if at > version}
        for key, obj in listed.items():
            held = shelf.objects.get(key)
            if held is None or version_of(held) != version_of(obj):
                changed |= self.observe(kind, obj)
        return changed

    def get(self, kind: str, namespace: str, name: str) -> Object | None:
        """Return one object, or None."""
        return self._shelves[kind].objects.get((namespace, name))

    def all(self, kind: str) -> Iterator[Object]:
        """Yield the objects of a kind by namespace and name."""
        return iter([obj for _, obj in self.items(kind)])

    def items(self, kind: str) -> Iterable[tuple[Key, Object]]:
        """Return the objects of a kind with their keys, sorted by these."""
        shelf = self._shelves[kind]
        if shelf.order is None:
            shelf.order = sorted(shelf.objects)
        return [(key, shelf.objects[key]) for key in shelf.order]

    def is_installed(self, kind: str) -> bool:
        """Return whether the cluster knows the kind, as of its last list."""
        shelf = self._shelves[kind]
        return shelf.listed_at > 0 or bool(shelf.objects)

    def note_fields(self, fields: frozenset[Field]) -> bool:
        """Take in which fields that not every release of the Gateway API has the cluster's kinds have; return whether that is news."""
        changed, self._fields = fields != self._fields, fields
        return changed

    @property
    def lacking(self) -> frozenset[str]:
        """The features of the Gateway API that nobody can ask for in this cluster, as of its last lists."""
        return features.lacking(self._fields, [kind for kind in self._shelves if self.is_installed(kind)])

    def count(self, kind: str) -> int:
        """Return how many objects of the kind are known."""
        return len(self._shelves[kind].objects)


def key_of(obj: Object) -> Key:
    """Return (namespace, name)."""
    meta = obj.get("metadata") or {}
    return str(meta.get("namespace") or ""), str(meta.get("name") or "")


def _covers(held: frozenset[str] | None, wanted: frozenset[str] | None) -> bool:
    """Whether these keys of an object (None: all) are among those that are kept."""
    return held is None or (wanted is not None and wanted <= held)


def _differ(old: Object, new: Object) -> Iterator[str]:
    """Yield the parts in which two objects differ."""
    for part in old.keys() | new.keys():
        if isinstance(old, Packed) and isinstance(new, Packed):
            if old.differs(new, part):
                yield part
        elif old.get(part) != new.get(part):
            yield part


def version_of(obj: Object) -> int:
    """Return the resourceVersion as a number, 0 when it has none.

    Comparable as integers by contract since Kubernetes 1.35 (KEP-5504), and in practice (etcd revisions) always.
    """
    return parse_version(str((obj.get("metadata") or {}).get("resourceVersion") or ""))


def parse_version(text: str) -> int:
    """Return a resourceVersion as a number, 0 for anything else."""
    return int(text) if text.isdecimal() else 0


def matters(kind: str, old: Object, new: Object) -> bool:
    """Return whether two editions of one object differ in anything the operator reads."""
    ignored = set() if kind in _LOUD_STATUS else {"status"}
    if any(part not in ignored and part != "metadata" for part in _differ(old, new)):
        return True
    before = {k: v for k, v in old["metadata"].items() if k not in _QUIET_META}
    after = {k: v for k, v in new["metadata"].items() if k not in _QUIET_META}
    return before != after
