"""Where the SDK hands its envelopes over. It only keeps them: sending is the plugin's, through its context."""

from __future__ import annotations

import gzip
from collections import deque

from sentry_sdk.envelope import Envelope
from sentry_sdk.transport import Transport


class Queue(Transport):
    """Envelopes that wait, oldest first. lost: how many found no place."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.lost = 0
        self._size = size
        self._waiting: deque[bytes] = deque()

    def capture_envelope(self, envelope: Envelope) -> None:
        """Keep an envelope, packed; when there is no place, the new one is lost, so that the first of a row of errors is kept."""
        if len(self._waiting) >= self._size:
            self.lost += 1
            return
        self._waiting.append(gzip.compress(envelope.serialize(), mtime=0))

    def __len__(self) -> int:
        return len(self._waiting)

    def __bool__(self) -> bool:
        return True

    def next(self) -> bytes | None:
        """Return the oldest envelope and forget it; None when there is none."""
        return self._waiting.popleft() if self._waiting else None

    def clear(self) -> int:
        """Forget all; return how many there were."""
        count = len(self._waiting)
        self._waiting.clear()
        return count
