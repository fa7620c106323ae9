"""The newest events, shared by all subscriptions: a live event is read from memory once and not from disk for each."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from nexus_events.ports import Stored

MAX_EVENTS = 2048
MAX_BYTES = 32 * 1024 * 1024


class Tail:
    """Gapless in what it holds: events `first` to `head`. Pure."""

    def __init__(self, head: int = 0, *, max_events: int = MAX_EVENTS, max_bytes: int = MAX_BYTES) -> None:
        self.head = head
        self._events: deque[Stored] = deque()
        self._bytes = 0
        self._max_events, self._max_bytes = max_events, max_bytes

    def add(self, events: Sequence[Stored]) -> None:
        """events: the next ones, in offset order."""
        for event in events:
            if event.offset != self.head + 1:  # a gap (the database skipped numbers): only what follows it is known
                self._events.clear()
                self._bytes = 0
            self._events.append(event)
            self._bytes += len(event.body)
            self.head = event.offset
        while self._events and (len(self._events) > self._max_events or self._bytes > self._max_bytes):
            self._bytes -= len(self._events.popleft().body)

    def find(self, after: int, limit: int) -> Sequence[Stored] | None:
        """Return the events beyond `after`, at most `limit`; None if some of them are no longer here."""
        if after >= self.head:
            return ()
        if not self._events or after + 1 < self._events[0].offset:
            return None
        start = after + 1 - self._events[0].offset
        return [self._events[i] for i in range(start, min(start + limit, len(self._events)))]
