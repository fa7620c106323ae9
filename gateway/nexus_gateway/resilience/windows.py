"""How many of the recent requests failed, in cells that all workers share."""

from __future__ import annotations

from nexus_gateway.resilience.cells import Slot

PARTS = 10
"""The window moves in tenths: what leaves it leaves a tenth at a time."""

SIZE = 3 * PARTS


class Window:
    """Requests and failures of the last `window_s` seconds.

    Cells: for each part its number (time divided by the part's length), requests, failures. Two workers that add at the
    same instant may lose one addition, or, when a part begins, a few: the ratio moves by less than one request in some hundred.
    """

    __slots__ = ("_part_s", "_slot")

    def __init__(self, slot: Slot, window_s: float) -> None:
        """slot: of `SIZE` doubles, for this length of window alone."""
        self._slot = slot
        self._part_s = window_s / PARTS

    def add(self, requests: int, failures: int, now: float) -> None:
        """Count these."""
        view = self._slot.view
        # From 1: zero is the number of a part that was never used.
        part = int(now / self._part_s) + 1
        at = self._slot.at + part % PARTS * 3
        if view[at] < part:
            view[at + 1] = requests
            view[at + 2] = failures
            view[at] = part
        elif view[at] == part:
            view[at + 1] += requests
            view[at + 2] += failures

    def counts(self, now: float) -> tuple[int, int]:
        """Return (requests, failures) in the window."""
        view, first = self._slot.view, self._slot.at
        oldest = int(now / self._part_s) + 1 - PARTS
        requests = failures = 0.0
        for at in range(first, first + SIZE, 3):
            if view[at] > oldest:
                requests += view[at + 1]
                failures += view[at + 2]
        return int(requests), int(failures)

    def clear(self) -> None:
        """Forget all."""
        for at in range(self._slot.at, self._slot.at + SIZE):
            self._slot.view[at] = 0.0
