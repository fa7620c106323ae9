"""Spans of finished requests: one of the request, one for each call of a plugin and each attempt.

Names and attributes: OpenTelemetry's HTTP conventions.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

from nexus_gateway.telemetry.contexts import find_parent, is_sampled, span_id_of, trace_id_of
from nexus_gateway.telemetry.finished import Finished, Hook, Tried, text
from nexus_gateway.telemetry.redactions import redact_query
from nexus_gateway.telemetry.trees import SpanRecord

Value = str | int | float | bool
INTERNAL = 1
SERVER = 2
CLIENT = 3
"""Values of OTLP's `SpanKind`."""
KINDS = {INTERNAL: "internal", SERVER: "server", CLIENT: "client"}
MAX_TEXT = 2048
_GRPC_FAILURES = frozenset((2, 4, 12, 13, 14, 15))
"""Statuses of gRPC that are a server's errors (semantic conventions of gRPC): unknown, deadline exceeded, unimplemented, internal,
unavailable, data loss."""
_NS = 1e9


class Fixed:
    """Attributes that many spans share, with a place for the encoder to keep what it made of them."""

    __slots__ = ("encoded", "values")

    def __init__(self, values: dict[str, Value]) -> None:
        self.values = values
        self.encoded = b""


class Span(NamedTuple):
    """One finished span. Ids: lower-case hex, parent_id empty for none. Times: Unix, nanoseconds. remote: the parent is a caller's.

    fixed, varied: its attributes; varied are those whose values clients choose.
    """

    trace_id: bytes
    span_id: bytes
    parent_id: bytes
    remote: bool
    sampled: bool
    state: bytes
    name: str
    kind: int
    start_ns: int
    end_ns: int
    error: bool
    fixed: Fixed
    varied: dict[str, Value]

    @property
    def attributes(self) -> dict[str, Value]:
        """All attributes."""
        return {**self.fixed.values, **self.varied}


def spans_of(done: Finished, offset_ns: int, entropy: Callable[[int], bytes]) -> list[Span]:
    """Return the request's span, those of its plugins' calls and those of its attempts.

    done: with context lines. offset_ns: what to add to monotonic nanoseconds for Unix time. entropy: bytes → that many random ones.
    """
    parent = find_parent(done.block.aside) if done.block.aside is not None else None
    line, tried, status, reason = done.line, done.tried, done.status, done.reason
    sampled = is_sampled(done.lines)
    varied: dict[str, Value] = {
        "url.path": line.path[:MAX_TEXT],
        "client.address": text(done.client_ip),
        "nexus.request_id": text(done.request_id),
    }
    if line.query:
        varied["url.query"] = redact_query(line.query)[:MAX_TEXT]
    agent = done.block.joined.get("user-agent")
    if agent:
        varied["user_agent.original"] = agent[:200]
    failed = False
    if done.grpc:
        code = int(done.grpc)
        varied["rpc.system"] = "grpc"
        varied["rpc.grpc.status_code"] = code
        failed = code in _GRPC_FAILURES
    hedges = sum(each.hedge for each in tried) if len(tried) > 1 else 0
    request = Span(
        trace_id_of(done.lines),
        entropy(8).hex().encode(),
        parent.span_id if parent is not None else b"",
        parent is not None,
        sampled,
        parent.state if parent is not None else b"",
        f"{line.method} {done.route}" if done.route else line.method or "HTTP",
        SERVER,
        offset_ns + int(done.started_at * _NS),
        offset_ns + int(done.ended_at * _NS),
        # Semantic conventions: a server span is an error for 5xx alone; a response broken off is one too.
        failed or status >= 500 or not status or (bool(reason) and 200 <= status < 400),
        _of_request(
            line.method, done.scheme, done.block.host, done.route, done.rule, done.upstream, status, reason,
            len(tried) - hedges - 1, hedges, sampled,
        ),
        varied,
    )  # fmt: skip
    return [
        request,
        *(_call(each, request, offset_ns, entropy) for each in done.hooks),
        *(_attempt(done, each, number, request, offset_ns) for number, each in enumerate(tried)),
    ]


def _call(hook: Hook, request: Span, offset_ns: int, entropy: Callable[[int], bytes]) -> Span:
    return Span(
        request.trace_id,
        entropy(8).hex().encode(),
        request.span_id,
        False,
        request.sampled,
        request.state,
        f"{hook.plugin} {hook.hook}",
        INTERNAL,
        offset_ns + int(hook.started_at * _NS),
        offset_ns + int((hook.started_at + hook.duration_s) * _NS),
        bool(hook.error),
        _of_call(hook.plugin, hook.version, hook.hook, hook.candidate, hook.error),
        {},
    )


def _attempt(done: Finished, tried: Tried, number: int, request: Span, offset_ns: int) -> Span:
    method, upstream, status, outcome = done.line.method, done.upstream, tried.status, tried.outcome
    return Span(
        request.trace_id,
        span_id_of(tried.lines),
        request.span_id,
        False,
        request.sampled,
        request.state,
        f"{method} {upstream}",
        CLIENT,
        offset_ns + int(tried.started_at * _NS),
        offset_ns + int(tried.ended_at * _NS),
        # Semantic conventions: a client span is an error for 4xx too.
        # Of gRPC: every status but OK.
        outcome != "answered" or status >= 400 or tried.grpc != 0,
        _of_attempt(method, upstream, tried.endpoint, tried.breaker, outcome, status, number, tried.hedge, tried.grpc),
        {},
    )


@lru_cache(4096)
def _of_request(
    method: str, scheme: str, host: str, route: str, rule: str, upstream: str, status: int, reason: str, retries: int, hedges: int,
    sampled: bool,
) -> Fixed:  # fmt: skip
    values: dict[str, Value] = {"http.request.method": method, "url.scheme": scheme, "server.address": host}
    if route:
        values["http.route"] = route
        values["nexus.rule"] = rule
    if upstream:
        values["nexus.upstream"] = upstream
    if status:
        values["http.response.status_code"] = status
    if reason:
        values["error.type"] = reason
    if retries > 0:
        values["nexus.retries"] = retries
    if hedges:
        values["nexus.hedges"] = hedges
    if not sampled:
        values["nexus.kept"] = True
    return Fixed(values)


@lru_cache(4096)
def _of_call(plugin: str, version: str, hook: str, candidate: bool, error: str) -> Fixed:
    values: dict[str, Value] = {"nexus.plugin": plugin, "nexus.hook": hook}
    if version:
        values["nexus.plugin.version"] = version
    if candidate:
        values["nexus.plugin.candidate"] = True
    if error:
        values["error.type"] = error
    return Fixed(values)


@lru_cache(4096)
def _of_attempt(
    method: str,
    upstream: str,
    endpoint: str,
    breaker: str,
    outcome: str,
    status: int,
    number: int,
    hedge: bool,
    grpc: int,
) -> Fixed:
    address, _, port = endpoint.rpartition(":")
    values: dict[str, Value] = {
        "http.request.method": method,
        "server.address": address.strip("[]"),
        "nexus.upstream": upstream,
        "nexus.endpoint": endpoint,
        "nexus.breaker.state": breaker,
        "nexus.outcome": outcome,
    }
    if port.isdecimal():
        values["server.port"] = int(port)
    if number:
        values["http.request.resend_count"] = number
    if hedge:
        values["nexus.hedge"] = True
    if status:
        values["http.response.status_code"] = status
    if grpc:
        values["rpc.system"] = "grpc"
        values["rpc.grpc.status_code"] = grpc
        values["error.type"] = str(grpc)
    elif outcome != "answered":
        values["error.type"] = outcome
    elif status >= 400:
        values["error.type"] = str(status)
    return Fixed(values)


def to_record(span: Span, service: str) -> SpanRecord:
    """Return the span as the in-memory traces keep it."""
    return SpanRecord(
        span.trace_id.decode(),
        span.span_id.decode(),
        span.parent_id.decode(),
        service,
        span.name,
        KINDS[span.kind],
        span.start_ns,
        span.end_ns,
        "error" if span.error else "",
        span.attributes,
    )
