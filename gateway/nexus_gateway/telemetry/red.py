"""Rate, errors, duration: the counts of one (route, upstream), kept as plain numbers and rendered when scraped."""

from __future__ import annotations

from bisect import bisect_left
from typing import Any

BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Upper bounds of the duration buckets, seconds; a fifteenth bucket has none."""

Exemplar = tuple[str, float, float]
"""Trace id (32 hex digits), seconds it took, Unix time at which it ended."""


class Red:
    """Requests of one route to one upstream (either may be empty: no route took it, or none was asked).

    codes: answers by hundreds of the status, 0..9. buckets: durations by `BOUNDS`, each alone, not added up. sum: seconds.
    exemplars: the newest recorded trace of each bucket that has one.
    """

    __slots__ = ("buckets", "codes", "exemplars", "route", "sum", "upstream")

    def __init__(self, route: str, upstream: str) -> None:
        self.route = route
        self.upstream = upstream
        self.codes = [0] * 10
        self.buckets = [0] * (len(BOUNDS) + 1)
        self.sum = 0.0
        self.exemplars: dict[int, Exemplar] | None = None

    def add(self, code: int, seconds: float) -> None:
        """Count one answered request. code: 100..999. Called once per request."""
        self.codes[code // 100] += 1
        self.buckets[bisect_left(BOUNDS, seconds)] += 1
        self.sum += seconds

    def exemplar(self, trace_id: bytes, seconds: float, at_unix: float) -> None:
        """Remember a recorded trace as example of its bucket. Called for recorded requests only."""
        if self.exemplars is None:
            self.exemplars = {}
        self.exemplars[bisect_left(BOUNDS, seconds)] = (trace_id.decode("latin-1"), seconds, at_unix)

    def state(self) -> dict[str, Any]:
        """Return the counts as JSON values."""
        return {
            "route": self.route,
            "upstream": self.upstream,
            "codes": list(self.codes),
            "buckets": list(self.buckets),
            "sum": self.sum,
            "exemplars": {str(bucket): list(found) for bucket, found in (self.exemplars or {}).items()},
        }
