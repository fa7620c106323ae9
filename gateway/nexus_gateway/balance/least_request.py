"""`least-request`: the less loaded of two."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import accumulate

from nexus_gateway.balance.candidates import C


class LeastRequest:
    """Draws two endpoints by weight and takes the one with fewer running attempts for its weight.

    A slow endpoint collects running attempts and so gets fewer new ones, without any measured latency.
    Cost: O(log n) a pick while the candidates stay the same object.
    Source: Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing", 2001.
    """

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._known: Sequence[object] = ()
        self._cumulative: list[int] = []

    def pick(self, candidates: Sequence[C]) -> C:
        """Return the better of two draws; the first when they are even, so an idle upstream follows the weights."""
        if len(candidates) == 1:
            return candidates[0]
        if candidates is not self._known:
            self._known = candidates
            self._cumulative = list(accumulate(each.weight for each in candidates))
        first, second = self._rng.choices(candidates, cum_weights=self._cumulative, k=2)
        return second if second.active * first.weight < first.active * second.weight else first
