"""`random`: by weight and nothing else."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from nexus_gateway.balance.candidates import C, Candidate, is_even
from nexus_gateway.balance.draws import BITS, Alias


class RandomChoice:
    """Draws an endpoint in proportion to its share. Remembers nothing, so any number of gateways spread alike.

    Cost: O(1) a pick while the candidates stay the same object.
    """

    def __init__(self, rng: random.Random) -> None:
        self._bits = rng.getrandbits
        self._rng = rng
        self._known: Sequence[Any] = ()
        self._alias: Alias | None = None

    def prepare(self, candidates: Sequence[Candidate]) -> None:
        """Learn the shares."""
        self._known = candidates
        self._alias = None if is_even(candidates) else Alias([each.share for each in candidates], self._rng)

    def pick(self, candidates: Sequence[C], key: bytes = b"", now: float = 0.0) -> C:
        """Return any of them."""
        if candidates is not self._known:
            self.prepare(candidates)
        if self._alias is None:
            return candidates[self._bits(BITS) * len(candidates) >> BITS]
        return candidates[self._alias.draw()]
