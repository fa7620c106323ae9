"""How the process gets memory from the system and gives it back. For a process that is a gateway alone; not done on import.

What a swap or a large answer of the admin API takes in passing is given back, with two settings of glibc (`man mallopt`):

- One arena for all threads. Snapshots are decoded, and large answers made, in threads; by default each gets an arena of its own,
  whose holes only the same thread fills again. The interpreter lets one thread run at a time, so there is nobody to wait for.
- A threshold above which a block is a mapping of its own, that does not move. By default it grows with the largest block that
  was ever freed: after one Snapshot of 4 MB in its wire form all blocks come from the heap, and leave holes in it.

With 5,000 routes a gateway grew by 11 MB in ten swaps and three answers of `GET /config`; with these by nothing.
"""

from __future__ import annotations

import ctypes

_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8

MAPPED_BYTES = 2**20
"""Blocks from here on are mappings of their own. Well above what requests take: bodies pass in pieces of 64 to 256 KB, and a system
call and fresh pages for each of these would be dear."""
SPARE_BYTES = 2 * 2**20
"""What is free at the end of the heap is kept up to this, so that a rise and fall of connections is no system call each."""


def settle() -> bool:
    """Set both; return whether the C library has them (musl has not, and needs neither). Before the first thread starts."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    wishes = ((_M_ARENA_MAX, 1), (_M_MMAP_THRESHOLD, MAPPED_BYTES), (_M_TRIM_THRESHOLD, SPARE_BYTES))
    taken = [mallopt(option, value) == 1 for option, value in wishes]  # all of them, whatever becomes of the first
    return all(taken)


def trim() -> bool:
    """Give whole free pages inside the heap back; return whether there were any. Takes about a millisecond: not between requests."""
    malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    return malloc_trim is not None and malloc_trim(0) == 1
