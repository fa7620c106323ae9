"""A source whose files have to be read within one time together."""

from __future__ import annotations

from collections.abc import Callable

from nexus_marketplace.sources.ports import SourcePort
from nexus_marketplace.troubles import AGAIN, MarketplaceTrouble

UPDATE_S = 60.0
"""For all files of one look together. A place may take its time for each: without this bound, one that sends 64 roots of others, each
just in time, would hold whoever waits for a quarter of an hour. What was verified by then is kept, so that the next look goes on there.
"""


class Hurried:
    """A `SourcePort` that is not asked any more when the time of one look is over."""

    def __init__(self, source: SourcePort, clock: Callable[[], float]) -> None:
        self._source = source
        self._clock = clock
        self._ends_at = 0.0
        self.base_url, self.for_people, self.signed = source.base_url, source.for_people, source.signed

    def begin(self) -> None:
        """Begin a look."""
        self._ends_at = self._clock() + UPDATE_S
        self._source.begin()

    def read(self, path: str, max_bytes: int) -> bytes:
        """Return a file of the source. Raises `MarketplaceTrouble` when time is over, and what the source raises."""
        if self._clock() >= self._ends_at:
            raise MarketplaceTrouble(
                "MarketplaceUnreachable",
                f"{self.for_people} takes too long: after {UPDATE_S:g} s, {path} and perhaps more had still not been read.",
                f"See why its server is slow, or who delays it. {AGAIN}",
                retryable=True,
            )
        return self._source.read(path, max_bytes)
