"""Requests that are on their way to the service for all who ask the same meanwhile."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from nexus_sdk.plugin import RequestHead, ResponseHead

from .entries import Entry

Key = tuple[str, ...]
V = TypeVar("V")

_MOST = 20_000
"""Requests that others can wait for."""
_LONGEST_S = 60.0
"""After which a request that was never heard of again holds nobody back."""


@dataclass(slots=True, eq=False)
class Flight:
    """One request on its way. came: as it reached the plugin. sent: as it went on. stale: what it asks about, if anything.

    why: the `fwd` of Cache-Status. draft: the head of what it brings and what is stored of it, body aside.
    entry: what it brought, when it has landed; None when that is for nobody else.
    """

    key: Key
    url: str
    came: RequestHead
    sent: RequestHead
    stale: Entry | None
    why: str
    at: float
    draft: tuple[ResponseHead, Entry] | None = None
    entry: Entry | None = None
    landed: asyncio.Event = field(default_factory=asyncio.Event)


class Flights:
    """All of a worker's. Found by what they are for, and by their request's notes. name: theirs there."""

    __slots__ = ("_by_key", "_name")

    def __init__(self, name: str) -> None:
        self._by_key: dict[Key, Flight] = {}
        self._name = name

    def __len__(self) -> int:
        return len(self._by_key)

    def find(self, key: Key, now: float) -> Flight | None:
        """Return the one for a key."""
        flight = self._by_key.get(key)
        if flight is not None and now - flight.at > _LONGEST_S:
            self.land(flight, None)
            return None
        return flight

    def start(self, flight: Flight, *, alone: bool) -> bool:
        """Remember a request that goes on; let others wait for it unless it is alone. Return whether there was room for it."""
        if not alone:
            if len(self._by_key) >= _MOST:
                return False
            self._by_key[flight.key] = flight
        flight.came.notes[self._name] = flight
        return True

    def of(self, request: RequestHead) -> Flight | None:
        """Return the one that a request leads, None for any other."""
        flight: Flight | None = request.notes.get(self._name)
        return flight

    def land(self, flight: Flight, entry: Entry | None) -> None:
        """Let go of those who wait. entry: what they can be answered with."""
        if self._by_key.get(flight.key) is flight:
            del self._by_key[flight.key]
        flight.came.notes.pop(self._name, None)
        flight.entry = entry
        flight.landed.set()


class Recent(Generic[V]):
    """The last so many values by URL or key; those put longest ago go first."""

    __slots__ = ("_capacity", "_values")

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._values: OrderedDict[object, V] = OrderedDict()

    def get(self, key: object, otherwise: V) -> V:
        return self._values.get(key, otherwise)

    def put(self, key: object, value: V) -> None:
        self._values[key] = value
        self._values.move_to_end(key)
        if len(self._values) > self._capacity:
            self._values.popitem(last=False)

    def drop(self, key: object) -> None:
        self._values.pop(key, None)
