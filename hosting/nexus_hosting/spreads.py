"""Durations, counted by what they are at most. Who measures only keeps them; they are sorted into buckets when somebody looks."""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable

_KEPT = 4096


class Spread:
    """One series of a histogram, in seconds.

    took: keeps one duration, to be counted later. For hot paths, where one call in C is what there is time for; whoever uses it has
    something look at the series now and then, since it keeps all that came since.
    """

    __slots__ = ("_buckets", "_fresh", "_sum", "bounds", "took")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self._buckets = [0] * (len(bounds) + 1)
        self._sum = 0.0
        self._fresh = array("d")  # of numbers as such: each float object would be memory that no cache has yet
        self.took: Callable[[float], None] = self._fresh.append

    def observe(self, seconds: float) -> None:
        """Count one duration."""
        self.took(seconds)
        if len(self._fresh) >= _KEPT:
            self.settle()

    def take(self, other: Spread) -> None:
        """Count what another one did, by the bounds here. Its bounds have those among them."""
        buckets = self.buckets
        for bound, count in zip((*other.bounds, float("inf")), other.buckets, strict=True):
            buckets[bisect_left(self.bounds, bound)] += count
        self._sum += other.sum

    @property
    def buckets(self) -> list[int]:
        """How many were at most as long as each bound and longer than the one before; last, how many were longer than all."""
        self.settle()
        return self._buckets

    @property
    def sum(self) -> float:
        """Of all durations."""
        self.settle()
        return self._sum

    def settle(self) -> None:
        """Count what came since somebody looked last."""
        if not self._fresh:
            return
        fresh = sorted(self._fresh)
        del self._fresh[:]  # the same array: `took` knows it
        self._sum += sum(fresh)
        below = 0
        for index, bound in enumerate(self.bounds):
            upto = bisect_right(fresh, bound, below)
            self._buckets[index] += upto - below
            below = upto
        self._buckets[-1] += len(fresh) - below
