"""Turns in proportion to whole weights, spread evenly, worked out once for a full round."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import gcd

MAX_STEPS = 16_384
"""Rounds that take more steps to work out (turns × members) than this are not: 16,384 take some 2 ms."""


def build_round(weights: Sequence[int]) -> tuple[int, ...] | None:
    """Return the indexes of one round in their order, or None when it would be too long.

    weights: 0 or more; an index with weight 0 has no turn. All zero: an empty round.
    Weights 5, 1, 1 give 0 0 1 0 2 0 0. Source: nginx' smooth weighted round robin, commit 52327e0, 2012.
    """
    whole = gcd(*weights)
    if not whole:
        return ()
    reduced = tuple(weight // whole for weight in weights)
    return _deal(reduced) if sum(reduced) * len(reduced) <= MAX_STEPS else None


@lru_cache(maxsize=256)
def _deal(weights: tuple[int, ...]) -> tuple[int, ...]:
    total = sum(weights)
    turns = [index for index, weight in enumerate(weights) if weight]
    credit = list(weights)
    dealt = []
    for _ in range(total):
        best = turns[0]
        for index in turns:
            if credit[index] > credit[best]:
                best = index
        dealt.append(best)
        credit[best] -= total
        for index in turns:
            credit[index] += weights[index]
    return tuple(dealt)
