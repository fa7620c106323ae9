"""Random draws in proportion to shares, in constant time."""

from __future__ import annotations

import random
from collections.abc import Sequence

BITS = 30
"""Random bits of one draw: as many as CPython holds in one digit of an int, so the draw is cheapest. The bias is below 2⁻¹⁰
of a share even with a million endpoints."""

_FRACTION = (1 << BITS) - 1


class Alias:
    """Draws indexes in proportion to weights, in O(1) each; O(n) to build.

    Every column holds at most two indexes: its own up to a threshold, and one other, its alias, above that.
    Source: A. J. Walker, "An Efficient Method for Generating Discrete Random Variables with General Distributions", ACM
    TOMS 3 (1977); built as M. D. Vose, IEEE Transactions on Software Engineering 17 (1991).
    """

    __slots__ = ("_alias", "_bits", "_size", "_threshold")

    def __init__(self, weights: Sequence[float], rng: random.Random) -> None:
        """weights: one or more, above 0."""
        self._bits = rng.getrandbits
        self._size = size = len(weights)
        scale = size / sum(weights)
        height = [weight * scale for weight in weights]
        self._alias = list(range(size))
        small = [index for index in range(size) if height[index] < 1.0]
        large = [index for index in range(size) if height[index] >= 1.0]
        threshold = [1.0] * size
        while small and large:
            low, high = small.pop(), large[-1]
            threshold[low], self._alias[low] = height[low], high
            height[high] -= 1.0 - height[low]
            if height[high] < 1.0:
                small.append(large.pop())
        # As the fraction of a draw: the column is its whole part, the rest decides between the column and its alias.
        self._threshold = [int(part * (1 << BITS)) for part in threshold]

    def draw(self) -> int:
        """Return one index."""
        wide = self._bits(BITS) * self._size
        column = wide >> BITS
        return column if wide & _FRACTION < self._threshold[column] else self._alias[column]

    def draw_two(self) -> tuple[int, int]:
        """Return two indexes, drawn one after the other and so perhaps the same; cheaper than two calls."""
        bits, size, threshold = self._bits, self._size, self._threshold
        wide = bits(BITS) * size
        one = wide >> BITS
        if wide & _FRACTION >= threshold[one]:
            one = self._alias[one]
        wide = bits(BITS) * size
        two = wide >> BITS
        if wide & _FRACTION >= threshold[two]:
            two = self._alias[two]
        return one, two
