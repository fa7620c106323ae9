"""Code that is no longer used, taken apart: what it held is free at once, whether or not a garbage collection ever sees it.

A gateway freezes its heap, so that collections do not walk it; cycles that were in it then live for ever. A module is one with its
functions, a class with its methods: they are opened here. What stays are the emptied classes themselves, a kilobyte each, and cycles among
a plugin's own objects; for these the heap is thawed once in a while (`Leftovers`).
"""

from __future__ import annotations

import contextlib
import gc
import linecache
import logging
import types
import typing
import weakref
from collections.abc import Iterable
from typing import Any

_KEPT = frozenset({"__dict__", "__weakref__", "__module__", "__doc__", "__class__"})
SWEEP_AFTER = 32
"""Unloads that left something, before the heap is thawed, collected and frozen again."""


def take_apart(gone: Iterable[types.ModuleType], prefix: str) -> None:
    """Empty modules and the classes in them, and what the standard library remembers of them. prefix: of their private names."""
    below = f"{prefix}."
    waiting = list(gone)
    for module in waiting:
        for value in list(vars(module).values()):
            if isinstance(value, type):
                _empty(value, below, set())
    for module in waiting:
        vars(module).clear()
    for file in [name for name in linecache.cache if name.startswith(f"<{prefix}>/")]:
        del linecache.cache[file]
    loggers = logging.Logger.manager.loggerDict
    for name in [name for name in loggers if name.startswith(below)]:
        del loggers[name]
    # `Optional[OfThePlugin]` is remembered with the class in it.
    for forget in getattr(typing, "_cleanups", ()):
        forget()


def drop(plugin: Any) -> None:
    """Empty a plugin's object. Its class is emptied with its module."""
    with contextlib.suppress(AttributeError, TypeError):
        vars(plugin).clear()


def _empty(kind: type, below: str, seen: set[type]) -> None:
    """Delete what a class of the plugin holds, and classes inside it."""
    if kind in seen or not str(getattr(kind, "__module__", "")).startswith(below):
        return
    seen.add(kind)
    leftovers.watch(kind)
    for name, value in list(vars(kind).items()):
        if isinstance(value, type):
            _empty(value, below, seen)
        if name not in _KEPT:
            with contextlib.suppress(AttributeError, TypeError):  # what a metaclass in C holds on to
                type.__delattr__(kind, name)


class Leftovers:
    """What of unloaded code is still there, and when to look for it with a full collection."""

    def __init__(self) -> None:
        self._left: list[weakref.ref[Any]] = []
        self._unloads = 0

    def watch(self, thing: Any) -> None:
        """Note something that ought to be gone soon."""
        self._left.append(weakref.ref(thing))

    def unloaded(self) -> None:
        """Note that code was unloaded."""
        self._unloads += 1

    def count(self) -> int:
        """Return how much of it is still there."""
        self._left = [each for each in self._left if each() is not None]
        return len(self._left)

    def is_due(self) -> bool:
        """Return whether a sweep is worth its pause: only a frozen heap needs one, others are collected anyway."""
        return self._unloads >= SWEEP_AFTER and gc.get_freeze_count() > 0 and self.count() > 0

    def sweep(self) -> None:
        """Thaw the heap, collect all of it, and freeze it again."""
        self._unloads = 0
        gc.unfreeze()
        gc.collect()
        gc.freeze()


leftovers = Leftovers()
"""Of this process, as its heap is."""
