"""Response times of one upstream as they are now: a histogram that forgets.

Buckets grow by 2^(1/8), so a percentile is off by 4.5 % at most. Every `HALF_LIFE_S` all counts are halved: what is said of
the upstream follows a change within a few of those, and costs a request one addition.
"""

from __future__ import annotations

from math import log2

HALF_LIFE_S = 5.0
REFRESH_S = 0.2
"""A percentile is worked out anew at most this often; in between, the last one is handed out."""

_STEPS = 8.0
_FLOOR_S = 1e-6
_OFFSET = 160.0  # -log2(_FLOOR_S) * _STEPS, rounded up: the shortest time falls into bucket 0
_BUCKETS = 400  # to 2^30 s: no response takes longer


class Latencies:
    """count: observations, those of the past at half, a quarter … of their number."""

    __slots__ = ("_counts", "_forget_at", "_known", "count")

    def __init__(self) -> None:
        self.count = 0.0
        self._counts = [0.0] * _BUCKETS
        self._forget_at = 0.0
        self._known: dict[float, tuple[float, float]] = {}

    def observe(self, seconds: float, now: float) -> None:
        """Count a response time. Negative ones (a clock that was set) count as none."""
        if seconds < _FLOOR_S:
            seconds = _FLOOR_S
        self._counts[int(log2(seconds) * _STEPS + _OFFSET)] += 1.0
        self.count += 1.0
        if now >= self._forget_at:
            self._forget(now)

    def percentile(self, p: float, now: float) -> float:
        """Return the response time in seconds that a share `p` (0..1) of the recent ones did not exceed; 0.0 without any."""
        known = self._known.get(p)
        if known is not None and now < known[1]:
            return known[0]
        if now >= self._forget_at:
            self._forget(now)
        found = self._find(p)
        if len(self._known) > 16:  # policies name a few; after many changes of them, begin anew
            self._known.clear()
        self._known[p] = (found, now + REFRESH_S)
        return found

    def _find(self, p: float) -> float:
        left = p * self.count
        found = 0.0
        for bucket, count in enumerate(self._counts):
            if count:
                left -= count
                # The middle of the bucket, in the scale of the buckets.
                found = 2.0 ** ((bucket + 0.5 - _OFFSET) / _STEPS)
                if left <= 0.0:
                    break
        return found

    def _forget(self, now: float) -> None:
        if self._forget_at:
            halves = min(64, 1 + int((now - self._forget_at) / HALF_LIFE_S))
            keep = 0.5**halves
            # Counts that say nothing any more go, so that an upstream without requests is soon without percentiles.
            self._counts = [count * keep if count * keep >= 0.01 else 0.0 for count in self._counts]
            self.count = sum(self._counts)
        self._forget_at = now + HALF_LIFE_S
