"""Code that is no longer used, taken apart: what it held is free at once, whether or not a garbage collection ever sees it.

A gateway freezes its heap, so that collections do not walk it; cycles that were in it then live for ever. A module is one with its
functions, a class with its methods, an object with those it knows: they are opened here. What stays are the emptied classes themselves, a
kilobyte each, and cycles of containers alone. For these the heap is thawed once in a very long while (`Leftovers`): with 5,000 routes it
has 360,000 objects, and to collect them stops the process for 0.1 to 0.25 s.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import linecache
import logging
import types
import typing
import weakref
from collections.abc import Iterable
from typing import Any

from nexus_hosting.memory import Walk, own_modules

_KEPT = frozenset({"__dict__", "__weakref__", "__module__", "__doc__", "__class__"})
SWEEP_AFTER = 256
SWEEP_LEFT = 4096
"""Unloads, or things that are still there, before the heap is thawed, collected and frozen again."""
_WATCHED = 1000
_SLICE_S = 0.002


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
    for name in [name for name in loggers if f"{name}.".startswith(below)]:
        del loggers[name]
    # `Optional[OfThePlugin]` is remembered with the class in it.
    for forget in getattr(typing, "_cleanups", ()):
        forget()


async def drop(plugin: Any, prefix: str) -> None:
    """Empty a plugin's object, and all of its own classes' that it or its modules hold. In slices, between which the loop goes on."""
    walk = Walk(prefix, plugin, collect=True)
    walk.start(plugin, *own_modules(prefix))
    while walk.step(_SLICE_S):  # noqa: ASYNC110  # nothing is waited for
        await asyncio.sleep(0)
    for number, thing in enumerate(walk.instances or ()):
        with contextlib.suppress(AttributeError, TypeError):  # it has no dict, or cannot be referred to weakly
            object.__getattribute__(thing, "__dict__").clear()
            if number < _WATCHED:
                leftovers.watch(thing)


def _empty(kind: type, below: str, seen: set[int]) -> None:
    """Delete what a class of the plugin holds, and classes inside it."""
    # By the class' own dict, whatever its metaclass makes of attributes: no code of the plugin's runs here.
    held = type.__getattribute__(kind, "__dict__")
    if id(kind) in seen or not str(held.get("__module__", "")).startswith(below):
        return
    seen.add(id(kind))
    leftovers.watch(kind)
    for name, value in list(held.items()):
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
        self.count()

    def count(self) -> int:
        """Return how much of it is still there."""
        self._left = [each for each in self._left if each() is not None]
        return len(self._left)

    def is_due(self) -> bool:
        """Return whether a sweep is worth its pause: only a frozen heap needs one, others are collected anyway."""
        if not gc.get_freeze_count() or (self._unloads < SWEEP_AFTER and len(self._left) < SWEEP_LEFT):
            return False
        left = self.count()
        return left >= SWEEP_LEFT or (left > 0 and self._unloads >= SWEEP_AFTER)

    def sweep(self) -> None:
        """Thaw the heap, collect all of it, and freeze it again."""
        self._unloads = 0
        gc.unfreeze()
        gc.collect()
        gc.freeze()


leftovers = Leftovers()
"""Of this process, as its heap is."""
