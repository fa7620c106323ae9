"""The retry budget of an upstream: retries are a bounded share of recent requests, so that they cannot pile onto a failing upstream."""

from __future__ import annotations

WINDOW_S = 10.0
_SLOTS = 10
FLOOR = 10
"""Retries always allowed in a window, whatever the ratio: with a handful of requests a share of them rounds to nothing,
and those few are where a retry helps most."""


class RetryBudget:
    """Counts requests and retries of the last `WINDOW_S` seconds in one-second slots."""

    __slots__ = ("_epoch", "_requests", "_retries")

    def __init__(self) -> None:
        self._epoch = 0
        self._requests = [0] * _SLOTS
        self._retries = [0] * _SLOTS

    def request(self, now: float) -> None:
        """Count a request's first attempt."""
        self._requests[self._slot(now)] += 1

    def take(self, ratio: float, now: float) -> bool:
        """Return whether a retry is within the budget, and count it if so. ratio: 0..1 of the window's requests."""
        slot = self._slot(now)
        if sum(self._retries) >= FLOOR + ratio * sum(self._requests):
            return False
        self._retries[slot] += 1
        return True

    def _slot(self, now: float) -> int:
        epoch = int(now * _SLOTS / WINDOW_S)
        for passed in range(max(self._epoch + 1, epoch - _SLOTS + 1), epoch + 1):
            self._requests[passed % _SLOTS] = 0
            self._retries[passed % _SLOTS] = 0
        self._epoch = max(self._epoch, epoch)
        return self._epoch % _SLOTS
