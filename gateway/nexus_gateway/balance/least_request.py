"""`least-request`: the less loaded of two."""

from __future__ import annotations

import random
from collections.abc import Sequence

from nexus_gateway.balance.candidates import C, Candidate
from nexus_gateway.balance.pairs import Pairs


class LeastRequest:
    """Draws two endpoints by share and takes the one with fewer running attempts for its share.

    A slow endpoint collects running attempts and so gets fewer new ones, without any measured latency.
    Cost: O(1) a pick while the candidates stay the same object; one random number when all are of equal share.
    Source: Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing", 2001.
    """

    def __init__(self, rng: random.Random) -> None:
        self._bits = rng.getrandbits
        self._pairs = Pairs(rng)

    def prepare(self, candidates: Sequence[Candidate]) -> None:
        """Learn the shares."""
        self._pairs.learn(candidates)

    def pick(self, candidates: Sequence[C], key: bytes = b"", now: float = 0.0) -> C:
        """Return the better of two draws; the first when they are even, so an idle upstream follows the shares."""
        pairs = self._pairs
        if candidates is not pairs.known:
            pairs.learn(candidates)
        first: C
        second: C
        table = pairs.table
        if table:
            # As `draw` does; a call would be a third of the cost. 30 is `draws.BITS`, as a constant.
            first, second = table[self._bits(30) * pairs.size >> 30]
            return second if second.active < first.active else first
        if len(candidates) == 1:
            return candidates[0]
        first, second = pairs.draw()
        if pairs.even:
            return second if second.active < first.active else first
        return second if second.active * first.share < first.active * second.share else first
