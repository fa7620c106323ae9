"""`maglev`: each client's requests to the same endpoint, at the cost of one index, with very even shares."""

from __future__ import annotations

import heapq
from array import array
from collections.abc import Sequence
from hashlib import blake2b

from nexus_gateway.balance.hashing import Hashing

SIZE = 8191
"""Entries of the table, a prime. Shares are even to 1 % with up to 80 endpoints of equal share, to 10 % with up to 800.
The paper has 65,537, which takes 13 ms (3 endpoints) to 38 ms (500) to fill in Python and would stop all requests for as long;
this size takes 2 to 5 ms, 10 ms with unequal shares. It is the same for any number of endpoints, because another size moves every key."""


class Maglev(Hashing):
    """Lets endpoints choose entries of a table in turn, each in its own order of preference, until all are taken.

    An entry's owner does not depend on the order of the endpoints. When one leaves, its entries are dealt among the others;
    a few more move as well (the paper's "minimal disruption" is not zero), in exchange for shares that differ by one entry.
    With unequal shares turns come in proportion to them, the smallest of which may be worth no entry beyond 8,191 to 1.
    Cost: O(1) a pick. Source: D. E. Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer", NSDI 2016, section 3.4.
    """

    def _build(self, members: Sequence[tuple[str, float]]) -> array[int]:
        table = [-1] * SIZE
        wanted, steps = [], []
        for authority, _ in members:
            digest = blake2b(authority.encode(), digest_size=16, person=b"maglev").digest()
            wanted.append(int.from_bytes(digest[:8], "big") % SIZE)
            steps.append(int.from_bytes(digest[8:], "big") % (SIZE - 1) + 1)
        even = len({share for _, share in members}) == 1
        turns = _even_turns(len(members)) if even else _weighted_turns([share for _, share in members])
        for index in turns:
            entry, step = wanted[index], steps[index]
            while table[entry] >= 0:
                entry = (entry + step) % SIZE
            table[entry] = index
            wanted[index] = (entry + step) % SIZE
        return array("H", table)

    def _owner(self, digest: int) -> int:
        return self._table[digest % SIZE]


def _even_turns(count: int) -> list[int]:
    rounds, rest = divmod(SIZE, count)
    return list(range(count)) * rounds + list(range(rest))


def _weighted_turns(shares: Sequence[float]) -> list[int]:
    """Return whose turn it is, SIZE times: the k-th turn of a share comes at (k + ½) / share, whoever else is there."""
    due = [(0.5 / share, index, 1.0 / share) for index, share in enumerate(shares)]
    heapq.heapify(due)
    turns = []
    for _ in range(SIZE):
        at, index, pace = due[0]
        turns.append(index)
        heapq.heapreplace(due, (at + pace, index, pace))
    return turns
