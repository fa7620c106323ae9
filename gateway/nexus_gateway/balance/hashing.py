"""What balancers that send a client to the same endpoint each time have in common."""

from __future__ import annotations

import random
from array import array
from collections.abc import Mapping, Sequence
from math import log
from typing import Any
from zlib import crc32

from nexus_gateway.balance.candidates import C, Candidate
from nexus_gateway.balance.plans import Planned
from nexus_gateway.balance.random_choice import RandomChoice

_TABLES = 4
"""Tables kept, the last used ones: an endpoint whose circuit opens and closes brings the same sets back again and again,
and a table takes milliseconds to make."""


class Hashing(Planned):
    """Finds the owner of a key in a plan that depends on authorities and shares alone, never on their order.

    Keys are hashed with CRC-32: the same in every worker, gateway and release, and five times as fast as a cryptographic
    hash. Who can choose keys can load one endpoint with either; that is what limits are for.
    A request without a key is dealt at random. Of a passing choice (a retry) that lacks the owner, each key has an owner of
    its own by weighted rendezvous: Thaler & Ravishankar, IEEE/ACM Transactions on Networking 6 (1998); weights as in
    Schindelhauer & Schomaker, "Weighted Distributed Hash Tables", SPAA 2005.
    """

    def __init__(self, rng: random.Random) -> None:
        super().__init__()
        self._random = RandomChoice(rng)
        self._members: list[Any] = []
        self._table: array[int] = array("H")
        self._tables: dict[tuple[tuple[str, float], ...], array[int]] = {}

    def _plan(self, candidates: Sequence[Candidate]) -> None:
        self._members = sorted(candidates, key=lambda each: each.authority)
        planned = tuple((each.authority, each.share) for each in self._members)
        table = self._tables.pop(planned, None)
        if table is None:
            table = self._build(planned)
            if len(self._tables) >= _TABLES:
                del self._tables[next(iter(self._tables))]
        self._table = self._tables[planned] = table

    def _build(self, members: Sequence[tuple[str, float]]) -> array[int]:
        """Return the table that `_owner` looks into. members: (authority, share), sorted by authority."""
        raise NotImplementedError

    def _owner(self, digest: int) -> int:
        """Return the place among the members of the key's owner. digest: 32 bits."""
        raise NotImplementedError

    def pick(self, candidates: Sequence[C], key: bytes = b"", now: float = 0.0) -> C:
        """Return the key's owner; any endpoint for an empty key."""
        if not key:
            return self._random.pick(candidates)
        if candidates is not self._known:
            passing = self._admit(candidates)
            if passing is not None:
                found = passing.get(self._members[self._owner(crc32(key))].authority)
                return found if found is not None else _rendezvous(passing, key)
        owner: C = self._members[self._owner(crc32(key))]
        return owner


def _rendezvous(candidates: Mapping[str, C], key: bytes) -> C:
    def score(each: C) -> float:
        # -share / ln(u): the largest of these falls to each in proportion to its share. u is in (0, 1).
        u = (crc32(each.authority.encode(), crc32(key)) * 0x9E3779B1 % 0x100000000 + 0.5) / 0x100000000
        return -each.share / log(u)

    return max(candidates.values(), key=score)
