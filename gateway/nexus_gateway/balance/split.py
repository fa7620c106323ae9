"""The split of a rule's requests over its backends, by weight."""

from __future__ import annotations

from collections.abc import Sequence


class Split:
    """Deals requests to backends in exact proportion: after each full round every backend has its share.

    Deterministic (smooth weighted round robin), not random: a 1 % canary gets one request in every hundred.
    """

    __slots__ = ("_credit", "_total", "_weights")

    def __init__(self, weights: Sequence[int]) -> None:
        """weights: 0 or more each; a backend with weight 0 is never chosen."""
        self._weights = tuple(weights)
        self._credit = [0] * len(self._weights)
        self._total = sum(self._weights)

    def next(self) -> int | None:
        """Return the index of the backend that takes the next request; None when no weight is above 0."""
        if self._total <= 0:
            return None
        best = -1
        for index, weight in enumerate(self._weights):
            if weight:
                self._credit[index] += weight
                if best < 0 or self._credit[index] > self._credit[best]:
                    best = index
        self._credit[best] -= self._total
        return best
