"""The places that an upstream has for requests, taken by all workers of one gateway.

Each worker writes its own count into a *column* of shared cells, and reads the others'. A count that everybody may change, and
none of whose changes is lost, does not exist in memory without locks; a count with one writer does. Two workers that look at the
same instant may both take the last place: by so many a limit can be exceeded, for as long as these requests run.

Reading all columns for each request costs 0.4 µs. So while less than half of the limit is taken, a worker keeps a few places beyond
those it uses (a share of what is free, set anew at each tick): what its column says is *kept*, the sum of which is held
against the limit, and a request that finds one of its worker's kept places free costs no look at the others. From half on, and always for
limits that are small for so many workers, kept is what is used, and every request looks.
"""

from __future__ import annotations

import struct

from nexus_gateway.resilience.cells import Slot

SPARE_PART = 8
"""A worker keeps at most this part of its share of the free places without using them."""


class Places:
    """The places of one upstream, in one worker.

    running, waiting: of this worker's requests. kept: `running` or a little more. tight: what gets free is given back at once.
    `Limiter` does the short way itself, without a call: it takes a kept place, and gives one back to `view[own]`.
    """

    __slots__ = (
        "__weakref__", "_at", "_column", "_columns", "_limit", "_read", "_workers", "kept", "own", "running", "slot", "tight",
        "view", "waiting",
    )  # fmt: skip

    def __init__(self, slot: Slot, column: int, columns: int, workers: int) -> None:
        """slot: 2 · columns cells: how many places are kept, then how many requests wait. column: this worker's."""
        self.slot = slot
        self._column = column
        self._columns = columns
        self._workers = workers
        self._read = struct.Struct(f"{columns}d").unpack_from
        self.running = self.kept = self.waiting = self._limit = 0
        self.tight = True
        self.aim()
        self.write()

    def aim(self) -> None:
        """Look where the slot is: it may have moved."""
        self.view = self.slot.view
        self.own = self.slot.at + self._column
        self._at = self.slot.at * 8

    def enter(self, limit: int) -> bool:
        """Take a place if one is free; return whether. limit: places that there are for all workers together; 0 for any number.

        A worker beyond its share (limit / workers) takes none while another worker's requests wait.
        """
        running = self.running
        self._limit = limit
        if running >= self.kept:
            if limit:
                total = sum(self._read(self.view, self._at))
                if total >= limit:
                    return False
                if running * self._workers >= limit and self.pending() > self.waiting:
                    return False
                self.tight = self._is_tight(total)
            self.kept = running + 1
            self.view[self.own] = running + 1
        self.running = running + 1
        return True

    def _is_tight(self, total: float) -> bool:
        return 2 * total >= self._limit or self._limit < SPARE_PART * self._workers

    def tick(self) -> None:
        """Keep what is right to keep now, and write it again, whatever has become of what was written."""
        running = kept = self.running
        if not (running or self.kept or self.waiting):
            return
        if self._limit and running:
            total = sum(self._read(self.view, self._at))
            self.tight = self._is_tight(total)
            if not self.tight:
                # All workers may do so at the same instant: together they keep a part of what is free.
                kept += int(self._limit - total) // (SPARE_PART * self._workers)
        self.kept = kept
        self.write()

    def wait(self, more: int) -> None:
        """Count requests that wait; less than 0 for those that do no more."""
        self.waiting += more
        self.view[self.own + self._columns] = self.waiting

    def taken(self) -> int:
        """Return how many requests of all workers run; of other workers, with the places that they keep."""
        return int(sum(self._read(self.view, self._at))) - self.kept + self.running

    def pending(self) -> int:
        """Return how many requests of all workers wait."""
        return int(sum(self._read(self.view, self._at + self._columns * 8)))

    def write(self) -> None:
        """Write this worker's counts."""
        self.view[self.own] = self.kept
        self.view[self.own + self._columns] = self.waiting

    def clear(self, column: int) -> None:
        """Take back what a worker that is gone has left in its column."""
        self.view[self.slot.at + column] = 0.0
        self.view[self.slot.at + self._columns + column] = 0.0
