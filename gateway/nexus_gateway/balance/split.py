"""The split of a rule's requests over its backends, by weight."""

from __future__ import annotations

from collections.abc import Sequence

from nexus_gateway.balance.schedules import build_round


class Split:
    """Deals requests to backends in exact proportion: after each full round every backend has its share.

    Deterministic (smooth weighted round robin), not random: a 1 % canary gets one request in every hundred.
    Cost: O(1) while a round is short (weights 999 and 1 are, reduced by what they have in common), else O(backends).
    """

    __slots__ = ("_at", "_credit", "_round", "_total", "_weights")

    def __init__(self, weights: Sequence[int]) -> None:
        """weights: 0 or more each; a backend with weight 0 is never chosen."""
        self._weights = tuple(weights)
        self._total = sum(self._weights)
        self._round = build_round(self._weights)
        self._at = -1
        self._credit = [0] * len(self._weights)

    def next(self) -> int | None:
        """Return the index of the backend that takes the next request; None when no weight is above 0."""
        dealt = self._round
        if dealt:
            self._at = at = self._at + 1
            if at < len(dealt):
                return dealt[at]
            self._at = 0
            return dealt[0]
        return self._reckon() if self._total else None

    def _reckon(self) -> int:
        """Deal one request of a round that is too long to keep."""
        best = -1
        credit = self._credit
        for index, weight in enumerate(self._weights):
            if weight:
                credit[index] += weight
                if best < 0 or credit[index] > credit[best]:
                    best = index
        credit[best] -= self._total
        return best
