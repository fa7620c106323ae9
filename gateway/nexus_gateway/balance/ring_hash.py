"""`ring-hash`: each client's requests to the same endpoint, with the least possible change when endpoints come and go."""

from __future__ import annotations

import struct
from array import array
from collections.abc import Sequence
from hashlib import blake2b
from math import floor, log2

from nexus_gateway.balance.hashing import Hashing

POINTS = 1024
"""Points of an endpoint of mean share: more than half as many, this many at most. Its load is then within some 4 % of its share."""

MAX_POINTS = 16_384
"""Points of all together, about: the ring of hundreds of endpoints has fewer for each, and builds in some 10 ms."""

SLOTS = 1 << 15
"""Hashes are told apart by their first 15 bits, so that a lookup is one index (a search among the points takes 0.4 µs more).
A slot has one owner, and it is the ring's: what is promised of keys holds for slots."""

_SHIFT = 32 - 15
_UNPACK = struct.Struct("<16I").unpack
_AT_ONCE = 16


class RingHash(Hashing):
    """Places points of every endpoint on a circle of 32 bits; a key belongs to the first point at or after its hash.

    When an endpoint leaves, its keys alone move, each to the next point; when one comes, it takes keys from all.
    The scale of points for a share moves in powers of two, and an endpoint's points for half the share are half of those it
    has for the whole: a change of the set that alters the mean share does not redraw the circle.
    Cost: O(1) a pick. Source: R. Jones, "libketama", 2007; Karger et al., "Consistent Hashing and Random Trees", STOC 1997.
    """

    def _build(self, members: Sequence[tuple[str, float]]) -> array[int]:
        total = sum(share for _, share in members)
        per_share = min(POINTS * len(members), MAX_POINTS) / total
        scale: float = 2.0 ** floor(log2(per_share))
        # Point and owner in one number: sorting pairs takes three times as long.
        placed: list[int] = []
        for index, (authority, share) in enumerate(members):
            placed.extend(point << 16 | index for point in _points(authority, max(1, round(share * scale))))
        placed.sort()
        # A slot belongs to the first point at or after its beginning; past the last point the circle begins anew.
        owners = array("H")
        for each in placed:
            slots = (each >> 16 + _SHIFT) + 1 - len(owners)
            if slots > 0:
                owners.extend((each & 0xFFFF,) * slots)
        owners.extend(array("H", (placed[0] & 0xFFFF,)) * (SLOTS - len(owners)))
        return owners

    def _owner(self, digest: int) -> int:
        return self._table[digest >> _SHIFT]


def _points(authority: str, count: int) -> list[int]:
    """Return the first `count` of the endpoint's points, in an order that does not depend on the count."""
    name = authority.encode()
    found: list[int] = []
    for number in range(-(-count // _AT_ONCE)):
        found.extend(_UNPACK(blake2b(name, salt=number.to_bytes(8, "big")).digest()))
    return found[:count]
