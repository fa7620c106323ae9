"""The limits on requests that all workers of one gateway keep together; see `places` for how they count.

A worker that is killed cannot give its places back. Each therefore writes the time into its column of a *roster* at each tick, and
the others write zeros over what one leaves behind that has been silent for `SILENT_S`. One that only stood still writes its
counts anew.

Cost with four workers: 0.1 µs for each request below half of the limit, 0.4 µs above; nothing for a gateway of one process.
"""

from __future__ import annotations

from weakref import WeakSet, WeakValueDictionary

from nexus_core.snapshot import Concurrency

from nexus_gateway.resilience.cells import Cells, Slot
from nexus_gateway.resilience.concurrency import Limiter
from nexus_gateway.resilience.places import Places

SILENT_S = 1.5
"""A worker that has not ticked for so long counts as gone: fifteen ticks, more than a loop that is merely busy stands still."""

SPARE = 2
"""Columns beyond one for each worker: a predecessor that drains while its successor serves has its own."""


class Bulkheads:
    """Makes the limiters of one worker, and keeps its columns true."""

    def __init__(self, cells: Cells, now: float, *, column: int = 0, workers: int = 1) -> None:
        """column: of this worker, 0 or more; no two alive have the same. workers: how many there are meant to be.

        A worker whose column is beyond `workers + SPARE` counts for itself alone.
        """
        self._cells = cells
        self._workers = workers
        self._columns = workers + SPARE
        self._column = column
        self._places: WeakValueDictionary[str, Places] = WeakValueDictionary()
        self._limiters: WeakSet[Limiter] = WeakSet()
        self._buried: dict[int, float] = {}
        """When the last worker of a column that is gone was heard of last."""
        self._roster: Slot | None = None
        if workers > 1 and column < self._columns:
            self._roster = cells.slot("bulkheads", self._columns, now)
            self.tick(now)

    def limiter(self, upstream: str, policy: Concurrency, now: float) -> Limiter:
        """Return a new limiter. Its places are those of all limiters of the upstream, in all workers."""
        if self._roster is None:
            return Limiter(policy, now)
        places = self._places.get(upstream)
        if places is None:
            slot = self._cells.slot(f"bulkhead/{upstream}", 2 * self._columns, now)
            places = self._places[upstream] = Places(slot, self._column, self._columns, self._workers)
            view, at = self._roster.view, self._roster.at
            for column, heard_at in self._buried.items():
                if view[at + column] == heard_at:
                    places.clear(column)
        made = Limiter(policy, now, places)
        self._limiters.add(made)
        return made

    def tick(self, now: float) -> None:
        """Say that this worker lives, take back what dead ones hold, and let requests in that wait for places of other workers.
        Called every 100 ms."""
        roster = self._roster
        if roster is None:
            return
        view, at = roster.view, roster.at
        view[at + self._column] = now
        places = list(self._places.values())
        for column in range(self._columns):
            heard_at = view[at + column]
            if now - heard_at > SILENT_S and self._buried.get(column) != heard_at:
                self._buried[column] = heard_at
                for each in places:
                    each.clear(column)
        for each in places:
            each.tick()
        for limiter in list(self._limiters):
            if limiter.pending:
                limiter.look()

    def touch(self, now: float) -> None:
        """Keep the cells in use. Called once a minute."""
        if self._roster is not None:
            every = list(self._places.values())
            self._cells.touch((self._roster, *(each.slot for each in every)), now)
            for each in every:
                each.aim()

    def leave(self) -> None:
        """Give everything back: this worker ends."""
        if self._roster is not None:
            for each in self._places.values():
                each.clear(self._column)
            self._roster.view[self._roster.at + self._column] = 0.0
            self._roster = None
