"""Budgets of an upstream: retries and hedges are bounded shares of its recent requests, so that they cannot pile onto a failing upstream.

Each worker counts its own requests and spends its own share of them, which comes to the same share for all together; the
floor is each worker's.
"""

from __future__ import annotations

WINDOW_S = 10.0
_PARTS = 10
_PART_S = WINDOW_S / _PARTS

FLOOR = 10
"""Retries always allowed in a window, whatever the ratio: with a handful of requests a share of them rounds to nothing,
and those few are where a retry helps most. Hedges have no floor: without one, nothing is lost but speed."""


class _Recent:
    """How often something happened in the last `WINDOW_S` seconds; both calls are O(1).

    total: since ever. The window's count is what was added since the total was noted at the beginning of its oldest part.
    """

    __slots__ = ("_marks", "_part", "_until", "total")

    def __init__(self) -> None:
        self.total = 0
        self._marks = [0] * _PARTS
        self._part = 0
        self._until = 0.0

    def count(self, now: float) -> int:
        if now >= self._until:
            self._advance(now)
        return self.total - self._marks[(self._part + 1) % _PARTS]

    def _advance(self, now: float) -> None:
        part = int(now / _PART_S)
        for begun in range(max(self._part + 1, part - _PARTS + 1), part + 1):
            self._marks[begun % _PARTS] = self.total
        # A clock that goes back counts into the newest part.
        self._part = max(self._part, part)
        self._until = (self._part + 1) * _PART_S


class RetryBudget(_Recent):
    """Counts requests, and retries among them."""

    __slots__ = ("_retries",)

    def __init__(self) -> None:
        super().__init__()
        self._retries = _Recent()

    def request(self, now: float) -> None:
        """Count a request's first attempt."""
        if now >= self._until:
            self._advance(now)
        self.total += 1

    def take(self, ratio: float, now: float) -> bool:
        """Return whether a retry is within the budget, and count it if so. ratio: 0..1 of the window's requests."""
        if self._retries.count(now) >= FLOOR + ratio * self.count(now):
            return False
        self._retries.total += 1
        return True


class HedgeBudget:
    """Counts hedges against the requests that a `RetryBudget` counts."""

    __slots__ = ("_hedges", "_requests")

    def __init__(self, requests: RetryBudget) -> None:
        self._requests = requests
        self._hedges = _Recent()

    def take(self, ratio: float, now: float) -> bool:
        """Return whether a hedge is within the budget, and count it if so. ratio: 0..1 of the window's requests."""
        if self._hedges.count(now) + 1 > ratio * self._requests.count(now):
            return False
        self._hedges.total += 1
        return True
