"""`round-robin`: smooth and weighted."""

from __future__ import annotations

import random
from collections.abc import Sequence

from nexus_gateway.balance.candidates import C


class RoundRobin:
    """Spreads weighted picks evenly: weights 5, 1, 1 give a a b a c a a, not a a a a a b c.

    Cost: O(n) a pick. Source: nginx' smooth weighted round robin, commit 52327e0, 2012.
    """

    def __init__(self, rng: random.Random) -> None:
        """rng: unused; every balancer is built alike."""
        self._credit: dict[str, int] = {}
        self._known: Sequence[object] = ()

    def pick(self, candidates: Sequence[C]) -> C:
        """Return the endpoint with the most credit; it pays the round's total."""
        if candidates is not self._known:
            # Endpoints that left must not keep credit, those that stay keep their place in the cycle.
            self._credit = {each.authority: self._credit.get(each.authority, 0) for each in candidates}
            self._known = candidates
        credit = self._credit
        total = 0
        best = candidates[0]
        most: int | None = None
        for each in candidates:
            total += each.weight
            now = credit[each.authority] + each.weight
            credit[each.authority] = now
            if most is None or now > most:
                best, most = each, now
        credit[best.authority] -= total
        return best
