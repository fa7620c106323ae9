"""The access log: one JSON line a request, written off the event loop's way in batches."""

from __future__ import annotations

import asyncio
import json
import sys
from datetime import UTC, datetime
from typing import TextIO

from nexus_gateway.telemetry.records import AccessRecord

_FLUSH_AFTER_S = 0.2
_MAX_PENDING = 10_000
"""Lines held while the reader of standard output is slow; more are counted and dropped: a log must not stop traffic."""


class AccessLog:
    """Collects lines and writes them in a thread, so that a slow terminal or pipe never blocks a request."""

    def __init__(self, enabled: bool, stream: TextIO | None = None) -> None:
        self.enabled = enabled
        self._stream = stream or sys.stdout
        self._pending: list[str] = []
        self._dropped = 0
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin writing."""
        if self.enabled:
            self._task = asyncio.create_task(self._run(), name="access log")

    def write(self, record: AccessRecord) -> None:
        """Add one request's line."""
        if not self.enabled:
            return
        if len(self._pending) >= _MAX_PENDING:
            self._dropped += 1
            return
        now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        self._pending.append(json.dumps(record.fields(now), ensure_ascii=True))
        self._wake.set()

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            await asyncio.sleep(_FLUSH_AFTER_S)
            self._wake.clear()
            await asyncio.to_thread(self._flush)

    def _flush(self) -> None:
        lines, self._pending = self._pending, []
        if self._dropped:
            lines.append(json.dumps({"kind": "access-log", "dropped": self._dropped}))
            self._dropped = 0
        if lines:
            self._stream.write("\n".join(lines) + "\n")
            self._stream.flush()

    async def close(self) -> None:
        """Write the rest and stop."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            await asyncio.to_thread(self._flush)
