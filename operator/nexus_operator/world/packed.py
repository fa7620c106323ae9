"""Objects as they are kept in memory: without what is never read, and routes as text.

There are thousands of routes, and what is seldom read of them takes a sixth as JSON text of what it takes as values.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from nexus_operator.world import words
from nexus_operator.world.kinds import ROUTES
from nexus_operator.world.named import NOTHING, Named
from nexus_operator.world.trims import LAST_APPLIED, trim

Object = Mapping[str, Any]
PACKED = frozenset(kind.kind for kind in ROUTES)
"""A route's spec is read when it has changed, and its status when it is to be written."""
_OPEN = ("apiVersion", "kind", "metadata")
"""What every round asks for."""


class Packed(Mapping[str, Any]):
    """An object as the API server gave it. `get("spec")` and its like read the text, each time anew: keep what you use twice."""

    __slots__ = ("_open", "_texts")

    def __init__(self, obj: Object) -> None:
        """obj: of JSON values; what cannot be written as JSON is kept as it is."""
        self._open: dict[str, Any] = {}
        self._texts: dict[str, bytes] = {}
        for key, value in obj.items():
            key = sys.intern(key)  # one text for all objects: a decoder makes a new one for each
            if key in _OPEN:
                self._open[key] = _interned(value)
                continue
            try:
                self._texts[key] = msgspec.json.encode(value)
            except (TypeError, ValueError, OverflowError, RecursionError, UnicodeError):
                self._open[key] = value

    def __getitem__(self, key: str) -> Any:
        if key in self._open:
            return self._open[key]
        return msgspec.json.decode(self._texts[key])

    def __iter__(self) -> Iterator[str]:
        yield from self._open
        yield from self._texts

    def __len__(self) -> int:
        return len(self._open) + len(self._texts)

    def differs(self, other: Packed, key: str) -> bool:
        """Return whether one part of two objects differs, mostly without reading it."""
        mine, theirs = self._texts.get(key), other._texts.get(key)
        if mine is not None and mine == theirs:
            return False
        return bool(self.get(key) != other.get(key))

    def share(self, other: Packed) -> None:
        """Take over texts that are equal, so that both are one."""
        for key, text in other._texts.items():
            if self._texts.get(key) == text:
                self._texts[key] = text


def keep(kind: str, obj: Object, named: Named = NOTHING) -> Object | None:
    """Return the object as it is kept, None for nothing. The object itself stays as it is; one that is kept already is returned.

    named: what is kept beside the usual.
    """
    if isinstance(obj, Packed):
        return obj
    trimmed = trim(kind, obj, named)
    if trimmed is None:
        return None
    slim = _slim(kind, trimmed)
    return Packed(slim) if kind in PACKED else slim


def _slim(kind: str, obj: Object) -> Object:
    """Drop what is often the largest part of an object and hardly read here: managedFields, and the copy that kubectl keeps."""
    meta = {k: v for k, v in obj["metadata"].items() if k != "managedFields"}
    writers = words.writers_of(obj["metadata"]) if kind in words.KINDS else []
    if writers:
        meta["managedFields"] = writers
    annotations = meta.get("annotations") or {}
    if LAST_APPLIED in annotations:
        meta["annotations"] = {k: v for k, v in annotations.items() if k != LAST_APPLIED}
    return {**obj, "metadata": meta}


def _interned(value: Any) -> Any:
    if isinstance(value, str):
        return sys.intern(value) if type(value) is str and len(value) < 64 else value
    if isinstance(value, dict):
        return {sys.intern(k) if type(k) is str else k: v for k, v in value.items()}
    return value
