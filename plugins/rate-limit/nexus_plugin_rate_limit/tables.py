"""Where one worker keeps its keys: bounded, those not seen for longest go first."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from .gcra import Limit, Standing, ask

Key = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Asked:
    """One limit that a request meets: under which key, for how much."""

    limit: Limit
    key: Key
    cost: int


class Table:
    """Theoretical arrival times by key. capacity: of keys; about 300 bytes each."""

    __slots__ = ("_arrivals", "_capacity")

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._arrivals: OrderedDict[Key, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._arrivals)

    def take(self, asked: Sequence[Asked], now: float) -> list[Standing]:
        """Return where each key stands. If one has to wait, none is charged."""
        standings = [ask(each.limit, self._arrivals.get(each.key, now), now, each.cost) for each in asked]
        if not any(each.wait_s for each in standings):
            for each, standing in zip(asked, standings, strict=True):
                self.put(each.key, standing, now)
        return standings

    def look(self, asked: Asked, now: float) -> Standing:
        """Return where a key stands, without a request."""
        return ask(asked.limit, self._arrivals.get(asked.key, now), now, 0)

    def put(self, key: Key, standing: Standing, now: float) -> None:
        """Remember where a key stands."""
        self._arrivals[key] = now + standing.ahead_s
        self._arrivals.move_to_end(key)
        if len(self._arrivals) > self._capacity:
            self._arrivals.popitem(last=False)
