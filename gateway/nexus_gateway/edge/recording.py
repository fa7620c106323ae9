"""Takes finished requests and makes spans of them: for a collector, in a thread, and for the traces kept in memory, when read."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping

from opentelemetry.sdk.resources import Resource

from nexus_gateway.edge.collecting import Collector, SendFailed
from nexus_gateway.edge.measurements import Tally
from nexus_gateway.telemetry.finished import Finished
from nexus_gateway.telemetry.otlp import encode_request, encode_resource, encode_scope, encode_span
from nexus_gateway.telemetry.spans import Span, Value, spans_of, to_record
from nexus_gateway.telemetry.streams import FinishedStream, stream_span
from nexus_gateway.telemetry.trees import TraceBook

log = logging.getLogger("nexus.gateway.tracing")

SERVICE = "nexus-gateway"
MAX_PENDING = 8192
"""Requests whose spans wait for the exporter; more are counted and dropped."""
MAX_PENDING_DOWN = 512
"""The same while the collector is away: what is kept for its return, and all that its absence may cost in memory."""
BATCH = 256
"""Requests in one export."""
SLICE = 32
"""Requests encoded at a time, 0.5 ms: the event loop never waits longer than that for the interpreter."""
PAUSE_S = 0.0002
"""Between slices. `sleep(0)` would not do: who lets go of the interpreter and wants it back at once gets it, and the event
loop, still waking up, waits until the switch interval (5 ms) is over."""
EVERY_S = 0.2
BACKOFF_MAX_S = 30.0
WARN_EVERY_S = 60.0
CLOSE_S = 3.0


class Recorder:
    """Keeps finished requests until they are exported. `record` is called on the event loop, and never blocks it."""

    def __init__(
        self,
        replica: str,
        dropped: Tally,
        *,
        otlp_endpoint: str = "",
        book: TraceBook | None = None,
        version: str = "",
        environ: Mapping[str, str] = os.environ,
        entropy: Callable[[int], bytes] = os.urandom,
    ) -> None:
        """dropped: counts requests whose spans were not exported. otlp_endpoint: base URL of a collector, empty for none.
        Raises `SettingInvalid` for one that cannot be used. book: traces in memory; it asks for what is new when it is read."""
        self.active = bool(otlp_endpoint) or book is not None
        self._dropped = dropped
        self._entropy = entropy
        self._collector = Collector(otlp_endpoint, environ) if otlp_endpoint else None
        self._pending: deque[Finished | FinishedStream] = deque()
        self._limit = MAX_PENDING
        self._book = book
        self._unread: deque[Finished | FinishedStream] = deque(maxlen=book.max_traces if book is not None else 0)
        if book is not None:
            book.feed = self.settle
        resource = Resource.create({"service.name": SERVICE, "service.instance.id": replica})
        known: dict[str, Value] = {
            key: value for key, value in resource.attributes.items() if isinstance(value, str | int | float | bool)
        }
        self._resource = encode_resource(known)
        self._scope = encode_scope("nexus.gateway", version)
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        self._warned_at = float("-inf")

    def start(self) -> None:
        """Begin exporting. After a fork, not before it: threads stay behind."""
        if self._collector is not None and self._thread is None:
            self._thread = threading.Thread(target=self._run, name="nexus-spans", daemon=True)
            self._thread.start()

    def record(self, done: Finished | FinishedStream) -> None:
        """Take one finished request, or connection, that has context lines."""
        if self._book is not None:
            self._unread.append(done)
        if self._collector is not None:
            if len(self._pending) >= self._limit:
                self._dropped.value += 1
                return
            self._pending.append(done)

    def settle(self) -> None:
        """Put what was recorded since into the traces in memory. On the event loop; the book calls it when it is read."""
        book = self._book
        assert book is not None
        offset_ns = _offset_ns()
        while self._unread:
            for span in _spans(self._unread.popleft(), offset_ns, self._entropy):
                book.add(to_record(span, SERVICE))

    def close(self) -> None:
        """Export what is left, within `CLOSE_S`; blocking."""
        if self._thread is None:
            return
        self._closing.set()
        self._thread.join(CLOSE_S)
        if self._thread.is_alive() or self._pending:
            self._dropped.value += len(self._pending)
            log.warning("spans of %d requests were not exported before the end", len(self._pending))

    def _run(self) -> None:
        collector = self._collector
        assert collector is not None
        wait_s = EVERY_S
        closing = False
        while not closing:
            closing = self._closing.wait(wait_s)
            try:
                self._drain(collector, closing)
            except SendFailed as failed:
                wait_s = min(max(wait_s * 2, 1.0), BACKOFF_MAX_S)
                self._limit = MAX_PENDING_DOWN
                self._warn(failed)
            except Exception:
                # Whatever it is, the next batch may do better, and requests must not be the ones to find out.
                wait_s = BACKOFF_MAX_S
                log.exception("spans could not be exported")
            else:
                wait_s = EVERY_S
                self._limit = MAX_PENDING
        collector.close()

    def _drain(self, collector: Collector, closing: bool) -> None:
        """Export all that waits. Raises `SendFailed`; the batch that failed is put back or counted."""
        give_up_at = time.monotonic() + CLOSE_S * 0.8
        while self._pending:
            timeout_s = max(give_up_at - time.monotonic(), 0.0) if self._closing.is_set() else None
            if timeout_s is not None and timeout_s <= 0:
                return
            taken = [self._pending.popleft() for _ in range(min(BATCH, len(self._pending)))]
            body = encode_request(self._resource, self._scope, self._encoded(taken))
            try:
                collector.send(body, timeout_s)
            except SendFailed as failed:
                if failed.retry and not closing:
                    self._pending.extendleft(reversed(taken))
                    # The newest are kept: what led up to the collector's return says more than its absence's beginning.
                    while len(self._pending) > MAX_PENDING_DOWN:
                        self._pending.popleft()
                        self._dropped.value += 1
                else:
                    self._dropped.value += len(taken)
                raise

    def _encoded(self, taken: list[Finished | FinishedStream]) -> list[bytes]:
        offset_ns = _offset_ns()
        spans: list[bytes] = []
        for index, done in enumerate(taken):
            try:
                spans += map(encode_span, _spans(done, offset_ns, self._entropy))
            except Exception:
                # One odd request costs its own spans; the rest of the batch goes.
                self._dropped.value += 1
                log.exception("a request could not be made into spans")
            if index % SLICE == SLICE - 1:
                time.sleep(PAUSE_S)
        return spans

    def _warn(self, failed: SendFailed) -> None:
        now = time.monotonic()
        if now - self._warned_at >= WARN_EVERY_S:
            self._warned_at = now
            log.warning(
                "the trace collector takes no spans: %s; %d were dropped so far", failed, int(self._dropped.value)
            )


def _offset_ns() -> int:
    # Taken anew for each batch: the wall clock may be set.
    return time.time_ns() - time.monotonic_ns()


def _spans(done: Finished | FinishedStream, offset_ns: int, entropy: Callable[[int], bytes]) -> list[Span]:
    if isinstance(done, FinishedStream):
        return [stream_span(done, offset_ns, entropy)]
    return spans_of(done, offset_ns, entropy)
