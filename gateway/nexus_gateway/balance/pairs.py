"""Two endpoints at random: the first half of every choice of two."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from nexus_gateway.balance.candidates import Candidate, is_even
from nexus_gateway.balance.draws import BITS, Alias

_MOST_PAIRED = 24
"""Endpoints up to which all ordered pairs (552) are kept in a table: one random number, one multiplication, one index."""


class Pairs:
    """What a choice of two keeps of the candidates it was last handed.

    known: these candidates. even: whether all are of equal share.
    table: all ordered pairs of different ones, when they are few and even, else empty. size: its length.
    """

    __slots__ = ("_alias", "_bits", "_others", "_pairs", "_rng", "even", "known", "size", "table")

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._bits = rng.getrandbits
        self.known: Sequence[Any] = ()
        self.even = True
        self.table: tuple[tuple[Any, Any], ...] = ()
        self.size = 0
        self._alias: Alias | None = None
        self._others = self._pairs = 0

    def learn(self, candidates: Sequence[Candidate]) -> None:
        """Work out what draws from these candidates need."""
        self.known = candidates
        self.even = is_even(candidates)
        self._alias = None if self.even else Alias([each.share for each in candidates], self._rng)
        self._others = len(candidates) - 1
        self._pairs = len(candidates) * self._others
        self.table = ()
        if self.even and 1 < len(candidates) <= _MOST_PAIRED:
            self.table = tuple((one, two) for one in candidates for two in candidates if two is not one)
        self.size = len(self.table)

    def draw(self) -> tuple[Any, Any]:
        """Return two of two or more, in random order: different ones if all are of equal share.

        Else each is drawn by share, so they may be the same one: drawing without return would take from the heavier ones.
        """
        known = self.known
        if self._alias is not None:
            one, two = self._alias.draw_two()
            return known[one], known[two]
        # One number holds both: which of n, and which of the n - 1 others.
        one, two = divmod(self._bits(BITS) * self._pairs >> BITS, self._others)
        return known[one], known[two + (two >= one)]
