"""`peak-ewma`: of two endpoints the one that should answer sooner."""

from __future__ import annotations

import random
from collections.abc import Sequence

from nexus_gateway.balance import latency
from nexus_gateway.balance.candidates import C, Candidate
from nexus_gateway.balance.pairs import Pairs

_UNMEASURED_S = 3600.0
"""Cost of one running attempt on an endpoint that has never answered: it gets one request and then waits for that answer."""


class PeakEwma:
    """Draws two endpoints by share and takes the one with the smaller product of response time and load.

    Load is running attempts for the share, plus the one to come. Unlike `least-request` it also tells apart endpoints that
    are idle, and moves away from one that got slow after a single answer.
    Cost: O(1) a pick. Source: Finagle's `PeakEwma`, see `latency`.
    """

    observe = staticmethod(latency.observe)
    """Takes in response times: `observe(state, seconds, now)`, by the edge at the end of each answered attempt."""

    observe_failure = staticmethod(latency.observe_failure)
    """The same for failed attempts."""

    def __init__(self, rng: random.Random) -> None:
        self._bits = rng.getrandbits
        self._pairs = Pairs(rng)

    def prepare(self, candidates: Sequence[Candidate]) -> None:
        """Learn the shares."""
        self._pairs.learn(candidates)

    def pick(self, candidates: Sequence[C], key: bytes = b"", now: float = 0.0) -> C:
        """Return the better of two draws; the first when they are even."""
        pairs = self._pairs
        if candidates is not pairs.known:
            pairs.learn(candidates)
        first: C
        second: C
        table = pairs.table
        if table:
            first, second = table[self._bits(30) * pairs.size >> 30]
        elif len(candidates) == 1:
            return candidates[0]
        else:
            first, second = pairs.draw()
        one, two = first.ewma_s, second.ewma_s
        # The usual case, written out: both measured, a moment ago. 0.1 is `latency.FRESH_S`.
        if one and two and now - first.ewma_at < 0.1 and now - second.ewma_at < 0.1:
            here, there = first.share, second.share
            return second if two * (second.active + there) * here < one * (first.active + here) * there else first
        return second if _cost(second, now) < _cost(first, now) else first


def _cost(state: Candidate, now: float) -> float:
    if not state.ewma_s:
        return state.active * _UNMEASURED_S
    return latency.latency(state, now) * (state.active / state.share + 1.0)
