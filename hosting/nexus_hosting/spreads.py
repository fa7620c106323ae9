"""Durations, counted by what they are at most: plain numbers that a hot path adds to."""

from __future__ import annotations

from bisect import bisect_left


class Spread:
    """One series of a histogram, in seconds."""

    __slots__ = ("bounds", "buckets", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.buckets = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, seconds: float) -> None:
        """Count one duration."""
        self.buckets[bisect_left(self.bounds, seconds)] += 1
        self.sum += seconds
