"""The access log: one JSON line a request, written off the event loop's way in batches."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import sys
from datetime import UTC, datetime
from typing import TextIO

from nexus_gateway.telemetry.records import AccessRecord

log = logging.getLogger("nexus.gateway.access")

_FLUSH_AFTER_S = 0.2
_CLOSE_S = 3.0
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
        self._closing = asyncio.Event()
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
            self._wake.clear()
            # Not `sleep`: the last lines are written as soon as the log closes.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_FLUSH_AFTER_S):
                    await self._closing.wait()
            text = self._take()
            if text:
                await asyncio.to_thread(self._write, text)
            if self._closing.is_set() and not self._pending:
                return

    def _take(self) -> str:
        """Return what waits. On the event loop, where lines are added too, so that none falls between."""
        lines, self._pending = self._pending, []
        if self._dropped:
            lines.append(json.dumps({"kind": "access-log", "dropped": self._dropped}))
            self._dropped = 0
        return "".join(line + "\n" for line in lines)

    def _write(self, text: str) -> None:
        try:
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError) as error:
            # The reader of standard output is gone: requests go on without a log.
            log.error("the access log cannot be written: %s", error)
            self.enabled = False

    async def close(self) -> None:
        """Write the rest and stop, within `_CLOSE_S`."""
        if self._task is None:
            return
        self._closing.set()
        self._wake.set()
        try:
            async with asyncio.timeout(_CLOSE_S):
                await self._task
        except TimeoutError:
            log.warning("the last lines of the access log were not taken in time")
