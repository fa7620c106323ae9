"""How much memory is reachable from a plugin: from its object, its modules and its tasks, and not into what is others'.

A walk over references, as the garbage collector sees them, in slices of half a millisecond: the event loop goes on meanwhile. What two
plugins share counts for both. No code of the plugin runs for it.
"""

from __future__ import annotations

import asyncio
import contextvars
import gc
import logging
import os
import sys
import threading
import types
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, Any, NamedTuple

from nexus_core.hooks import Plugin

if TYPE_CHECKING:
    from nexus_hosting.running import Running

GROWN_BYTES = 16 * 2**20
AGAIN_S = 30.0
LOOK_S = 1.0
SLICE_S = 0.0005
REST_S = 0.005
_BATCH = 64
_SEEN_BITS = 24
_HEADER_BYTES = 16
"""Of the garbage collector's, before each container."""
_OTHERS = (
    asyncio.AbstractEventLoop, logging.Logger, logging.Handler, logging.Filterer, threading.Thread, contextvars.Context,
    types.BuiltinFunctionType,
)  # fmt: skip


class Rounds:
    """When to measure: the process has grown since the last time, or it was long ago."""

    def __init__(self) -> None:
        self._looked_at = 0.0
        self._measured_at = 0.0
        self._resident = 0

    def is_due(self, now: float) -> bool:
        """Return whether plugins are to be measured now. now: monotonic seconds."""
        if now - self._looked_at < LOOK_S:
            return False
        self._looked_at = now
        resident = resident_bytes()
        if now - self._measured_at < AGAIN_S and resident - self._resident < GROWN_BYTES:
            return False
        self._measured_at, self._resident = now, resident
        return True


def resident_bytes() -> int:
    """Return this process' resident memory; 0 where the system does not tell."""
    try:
        with open("/proc/self/statm", "rb") as file:  # noqa: PTH123  # once a second: a path object is not worth it
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0


def measure(running: Running, pause: Callable[[], bool]) -> int | None:
    """Return the bytes that are reachable from a plugin; once they are over its budget, what was counted by then.

    pause: called between two slices; False ends the walk, for None.
    """
    prefix = running.prefix
    limit = running.instance.budgets.memory_mb * 2**20 or sys.maxsize
    walk = Walk(prefix, running.plugin)
    walk.start(running.plugin, *own_modules(prefix), *running.context.owned.running())
    while walk.step(SLICE_S):
        if walk.bytes > limit:
            break
        if not pause():
            return None
    return walk.bytes


def own_modules(prefix: str) -> list[types.ModuleType]:
    """Return the modules below a private prefix."""
    return [module for name, module in list(sys.modules.items()) if name.startswith(f"{prefix}.")]


class Walk:
    """One walk. bytes: counted so far. instances: of the plugin's own classes, when they are collected, else None."""

    def __init__(self, prefix: str, plugin: Any, *, collect: bool = False) -> None:
        """collect: the instances of its own classes, instead of counting bytes."""
        self._below = f"{prefix}."
        self._plugin = plugin
        self._waiting: list[Any] = []
        # Containers are told apart for sure: one that is missed hides all that is in it. Of strings and numbers there are too many;
        # they share a field of bits by their addresses, where a few in a hundred take each other's place.
        self._containers: set[int] = set()
        self._leaves = bytearray(0 if collect else 2 ** (_SEEN_BITS - 3))
        # By address, and never compared: a metaclass of the plugin's may have a hash and an equality of its own.
        self._natures: dict[int, _Nature] = {}
        self._own_globals: set[int] = set()
        self._others_globals: set[int] = set()
        self.bytes = 0
        self.instances: list[Any] | None = [] if collect else None

    def start(self, *roots: Any) -> None:
        """Begin with these."""
        for name, module in list(sys.modules.items()):
            if isinstance(module, types.ModuleType):
                own = name.startswith(self._below)
                (self._own_globals if own else self._others_globals).add(id(module.__dict__))
        self._waiting.extend(roots)

    def step(self, seconds: float) -> bool:
        """Go on for a slice; return whether there is more."""
        end = monotonic() + seconds
        waiting = self._waiting
        while waiting:
            for _ in range(min(_BATCH, len(waiting))):
                self._visit(waiting.pop())
            if monotonic() >= end:
                break
        return bool(waiting)

    def _visit(self, thing: Any) -> None:
        kind = type(thing)
        if not gc.is_tracked(thing) and kind is not dict and kind is not tuple:
            # Neither tracked nor a container that the collector lets alone while it holds plain values only.
            if self.instances is None and self._is_fresh(id(thing)):
                self.bytes += self._size(kind, thing)
                if not (kind is str or kind is bytes or kind is int or kind is float or kind is bytearray):
                    self._waiting.extend(gc.get_referents(thing))
            return
        address = id(thing)
        if address in self._containers or self._is_others(kind, thing):
            return
        self._containers.add(address)
        self._waiting.extend(gc.get_referents(thing))
        if self.instances is None:
            self.bytes += self._size(kind, thing) + _HEADER_BYTES
            if issubclass(kind, dict):
                self._waiting.extend(dict.keys(thing))  # the collector passes over those that are strings
        elif self._nature(kind).own and not issubclass(kind, type):
            self.instances.append(thing)

    def _is_fresh(self, address: int) -> bool:
        place = (address >> 4) & (2**_SEEN_BITS - 1)
        bit = 1 << (place & 7)
        if self._leaves[place >> 3] & bit:
            return False
        self._leaves[place >> 3] |= bit
        return True

    def _is_others(self, kind: type, thing: Any) -> bool:
        """Return whether something is not the plugin's, whoever it was reached from."""
        if kind is dict:
            return id(thing) in self._others_globals or "__build_class__" in thing
        if kind is types.FunctionType:
            return id(thing.__globals__) not in self._own_globals
        if kind is types.FrameType:
            return id(thing.f_globals) not in self._own_globals
        if self._nature(kind).others:
            return True
        if issubclass(kind, types.ModuleType):
            return not str(types.ModuleType.__getattribute__(thing, "__dict__").get("__name__", "")).startswith(
                self._below
            )
        if issubclass(kind, type):
            return not self._is_own_class(thing)
        return issubclass(kind, Plugin) and thing is not self._plugin

    def _is_own_class(self, kind: type) -> bool:
        return str(type.__getattribute__(kind, "__dict__").get("__module__", "")).startswith(self._below)

    def _nature(self, kind: type) -> _Nature:
        nature = self._natures.get(id(kind))
        if nature is None:
            # Not `sys.getsizeof`: a class of the plugin's may have a __sizeof__ of its own.
            bases = type.__dict__["__mro__"].__get__(kind)
            builtin: Any = next((base for base in bases if not self._is_own_class(base)), object)
            nature = self._natures[id(kind)] = _Nature(
                kind, self._is_own_class(kind), issubclass(kind, _OTHERS) or _is_hosting(kind), builtin.__sizeof__
            )
        return nature

    def _size(self, kind: type, thing: Any) -> int:
        try:
            return int(self._nature(kind).size(thing))
        except TypeError:  # of a class whose size is not told
            return 0


class _Nature(NamedTuple):
    """What a walk knows of a class. kind: keeps its address its own. others: its instances are not a plugin's, whoever has them."""

    kind: type
    own: bool
    others: bool
    size: Callable[[Any], int]


def _is_hosting(kind: type) -> bool:
    return str(type.__getattribute__(kind, "__dict__").get("__module__", "")).startswith("nexus_hosting")
