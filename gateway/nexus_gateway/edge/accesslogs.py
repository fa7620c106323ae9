"""The access log off the hot path: a request appends its record, a thread makes lines of them and writes."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections import deque
from typing import BinaryIO

import msgspec

from nexus_gateway.edge.measurements import Tally
from nexus_gateway.telemetry.finished import Finished
from nexus_gateway.telemetry.lines import log_line, stamp
from nexus_gateway.telemetry.streams import FinishedStream, stream_line

log = logging.getLogger("nexus.gateway.access")

MAX_PENDING = 20_000
"""Records held while the reader of standard output is slow (60 MB when no two are alike); more are counted and dropped: a log must not
stop traffic."""
SLICE = 64
"""Records made into lines at a time, 0.3 ms: the event loop never waits longer than that for the interpreter."""
PAUSE_S = 0.0002
"""Between slices. `sleep(0)` would not do: who lets go of the interpreter and wants it back at once gets it, and the event
loop, still waking up, waits until the switch interval (5 ms) is over."""
EVERY_S = 0.1
CLOSE_S = 3.0


class AccessLog:
    """Writes the lines of finished requests. Thread-safe for one event loop and its own writer."""

    def __init__(self, enabled: bool, dropped: Tally, stream: BinaryIO | None = None) -> None:
        """dropped: counts lines that were not written. stream: standard output when None."""
        self.enabled = enabled
        self._stream = stream
        self._dropped = dropped
        self._told = 0.0
        self._pending: deque[Finished | FinishedStream] = deque()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin writing. After a fork, not before it: threads stay behind."""
        if self.enabled and self._thread is None:
            self._thread = threading.Thread(target=self._run, name="nexus-access-log", daemon=True)
            self._thread.start()

    def write(self, done: Finished | FinishedStream) -> None:
        """Add the line of one request, or connection. Never blocks."""
        if not self.enabled:
            return
        if len(self._pending) >= MAX_PENDING:
            self._dropped.value += 1
            return
        self._pending.append(done)

    def close(self) -> None:
        """Write the rest and stop, within `CLOSE_S`; blocking."""
        if self._thread is None:
            return
        self._closing.set()
        self._thread.join(CLOSE_S)
        if self._thread.is_alive():
            log.warning("the last %d lines of the access log were not taken in time", len(self._pending))

    def _run(self) -> None:
        stream = self._stream if self._stream is not None else sys.stdout.buffer
        closing = False
        while not closing:
            # Read before the queue is emptied: what was added before `close` is written.
            closing = self._closing.wait(EVERY_S)
            try:
                self._drain(stream)
                self._tell(stream, now=closing)
            except (OSError, ValueError) as error:
                # The reader of standard output is gone: requests go on without a log.
                log.error("the access log cannot be written: %s", error)
                self.enabled = False
                self._pending.clear()
                return

    def _drain(self, stream: BinaryIO) -> None:
        pending = self._pending
        # Monotonic to Unix time, taken anew each time: the wall clock may be set.
        offset_s = time.time() - time.monotonic()
        while pending:
            lines = []
            for _ in range(min(SLICE, len(pending))):
                done = pending.popleft()
                try:
                    lines.append(_line(done, offset_s))
                except Exception:
                    # One odd request costs its own line; the rest is written.
                    self._dropped.value += 1
                    log.exception("a line of the access log could not be made")
            stream.write(b"".join(lines))
            stream.flush()
            time.sleep(PAUSE_S)

    def _tell(self, stream: BinaryIO, *, now: bool) -> None:
        """Say in the log itself that lines are missing, once for each stretch of it."""
        dropped = self._dropped.value - self._told
        if dropped and (now or not self._pending):
            self._told = self._dropped.value
            line = {"time": stamp(time.time()), "kind": "access-log", "dropped": int(dropped)}
            stream.write(msgspec.json.encode(line) + b"\n")
            stream.flush()


def _line(done: Finished | FinishedStream, offset_s: float) -> bytes:
    return stream_line(done, offset_s) if isinstance(done, FinishedStream) else log_line(done, offset_s)
