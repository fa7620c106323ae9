"""`ring-hash`: each client's requests to the same endpoint, with the least possible change when endpoints come and go."""

from __future__ import annotations

import struct
from array import array
from collections.abc import Sequence
from hashlib import blake2b

from nexus_gateway.balance.hashing import Hashing

POINTS = 512
"""Points of an endpoint of mean share. Its load is then within some 6 % of its share."""

MAX_POINTS = 16_384
"""Points of all together, about: endpoints of a larger set than 32 have fewer each, so that a
ring builds in 1 to 7 ms."""

SLOTS = 1 << 15
"""Hashes are told apart by their first 15 bits, so that a lookup is one index (a search among the points takes 0.4 µs more).
A slot has one owner, and it is the ring's: what is promised of keys holds for slots."""

_SHIFT = 32 - 15
_UNPACK = struct.Struct("<16I").unpack
_AT_ONCE = 16


class RingHash(Hashing):
    """Places points of every endpoint on a circle of 32 bits; a key belongs to the first point at or after its hash.

    When an endpoint leaves, its keys move, each to the next point; when one comes, it takes keys from all. No other keys move
    while all shares are equal and MAX_POINTS suffice. Else the number of points of the others changes a little, because the mean
    share or the size of the set does, which moves at most as many keys again.
    Cost: O(1) a pick. Source: R. Jones, "libketama", 2007; Karger et al., "Consistent Hashing and Random Trees", STOC 1997.
    """

    def _build(self, members: Sequence[tuple[str, float]]) -> array[int]:
        total = sum(share for _, share in members)
        scale = min(POINTS * len(members), MAX_POINTS) / total
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
