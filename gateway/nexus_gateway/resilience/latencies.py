"""Response times of one upstream as they are now: a histogram that forgets.

Buckets grow by 2^(1/8), so a percentile is off by 4.5 % at most. All counts are halved each `HALF_LIFE_S`: what is said of
the upstream follows a change within a few of those.

A request only appends its time to a bounded queue (40 ns); the queue is sorted into the buckets when a percentile is asked
for, so an upstream whose percentiles nobody wants pays for nothing else. Of more than `SAMPLES` times between two such
moments the last ones count.
"""

from __future__ import annotations

from bisect import bisect
from collections import deque

HALF_LIFE_S = 5.0
REFRESH_S = 0.2
"""A percentile is worked out anew at most this often; in between, the last one is handed out."""

SAMPLES = 512
"""Sorted in at once, at most: 60 µs."""

_STEPS = 8.0
_BOUNDS = [1e-5 * 2.0 ** (step / _STEPS) for step in range(217)]  # 10 µs to 1,340 s; what is beyond, counts as that
_POLICIES = 16


class Latencies:
    """What observers count and hedges ask for. Each worker knows what it saw itself."""

    __slots__ = ("_counts", "_forgot_at", "_known", "_recent")

    def __init__(self) -> None:
        self._counts = [0.0] * (len(_BOUNDS) + 1)
        self._recent: deque[float] = deque(maxlen=SAMPLES)
        self._forgot_at = 0.0
        self._known: dict[float, tuple[float, float, float]] = {}

    def observe(self, seconds: float, now: float) -> None:
        """Count a response time. now: unused; when a time came in is settled when it is sorted in."""
        self._recent.append(seconds)

    def percentile(self, p: float, now: float, beyond: float = 0.0) -> float:
        """Return the response time in seconds that a share `p` (0..1) of the recent ones did not exceed.

        beyond: how many of them have to lie above it, at least, for it to be believed; a half-forgotten one counts half.
        0.0 when there are fewer, or none at all.
        """
        known = self._known.get(p)
        if known is None or now >= known[2]:
            known = self._work_out(p, now)
        return known[0] if known[1] >= beyond else 0.0

    def _work_out(self, p: float, now: float) -> tuple[float, float, float]:
        self._forget(now)
        for seconds in self._recent:
            self._counts[bisect(_BOUNDS, seconds)] += 1.0
        self._recent.clear()
        count = sum(self._counts)
        left = p * count
        found = 0.0
        for bucket, here in enumerate(self._counts):
            if here:
                left -= here
                # The middle of the bucket, on the scale of the buckets.
                found = _BOUNDS[0] * 2.0 ** ((bucket - 0.5) / _STEPS)
                if left <= 0.0:
                    break
        if len(self._known) >= _POLICIES:
            self._known.clear()  # policies name few percentiles; these are from older ones
        self._known[p] = known = (found, (1.0 - p) * count, now + REFRESH_S)
        return known

    def _forget(self, now: float) -> None:
        passed_s = now - self._forgot_at
        if not self._forgot_at or passed_s < 0.0:
            self._forgot_at = now
        elif passed_s >= HALF_LIFE_S / 8.0:
            self._forgot_at = now
            keep = 0.5 ** (passed_s / HALF_LIFE_S)
            # Counts that say nothing any more go, so that an upstream without requests is soon one that nothing is known of.
            self._counts = [here * keep if here * keep >= 0.01 else 0.0 for here in self._counts]
