"""Spans of requests and attempts, and trace context in and out. OpenTelemetry's SDK makes and sends them.

In: W3C `traceparent`, else B3, else Jaeger's `uber-trace-id`. Out: always W3C, and the other formats as the client used them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from multidict import CIMultiDict
from nexus_core.hooks import RequestHead
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.propagators.b3 import B3MultiFormat, B3SingleFormat
from opentelemetry.propagators.jaeger import JaegerPropagator
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import (
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    TraceState,
)

from nexus_gateway.resilience.exchanges import Attempt
from nexus_gateway.telemetry.contexts import TraceContext, find_traceparent, format_traceparent
from nexus_gateway.telemetry.records import redact_query

_B3_SINGLE = B3SingleFormat()
_B3_MULTI = B3MultiFormat()
_JAEGER = JaegerPropagator()
_CONTEXT_HEADERS = ("traceparent", "tracestate", "b3", "uber-trace-id")
_NO_STATE = TraceState()


class Tracing:
    """Makes the spans of one gateway. Owns its tracer provider: nothing global is touched."""

    def __init__(self, ratio: float, otlp_endpoint: str, extra: tuple[SpanProcessor, ...], replica: str) -> None:
        """otlp_endpoint: base URL of a collector, empty for none. extra: processors besides, in-memory traces for one."""
        self._recording = bool(otlp_endpoint or extra)
        self._ids = RandomIdGenerator()
        self._sampled_below = TraceIdRatioBased.get_bound_for_rate(ratio)
        resource = Resource.create({"service.name": "nexus-gateway", "service.instance.id": replica})
        self._provider = TracerProvider(
            sampler=ParentBased(TraceIdRatioBased(ratio)), resource=resource, shutdown_on_exit=False
        )
        for processor in extra:
            self._provider.add_span_processor(processor)
        if otlp_endpoint:
            exporter = OTLPSpanExporter(endpoint=otlp_endpoint.rstrip("/") + "/v1/traces", timeout=5)
            self._provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=1000))
        self._tracer = self._provider.get_tracer("nexus.gateway")

    def request(self, head: RequestHead, headers: Mapping[str, str], scheme: str) -> RequestSpan:
        """Open the span of a request, as child of the caller's. headers: names lower-case."""
        parent = _parent(headers)
        if not self._recording:
            return RequestSpan(None, NonRecordingSpan(self._passed_on(parent)), headers)
        attributes: dict[str, Any] = {
            "http.request.method": head.method,
            "url.scheme": scheme,
            "url.path": head.path,
            "server.address": head.host,
            "client.address": head.client_ip,
        }
        if head.query:
            attributes["url.query"] = redact_query(head.query)
        agent = headers.get("user-agent")
        if agent:
            attributes["user_agent.original"] = agent[:200]
        context = trace.set_span_in_context(NonRecordingSpan(parent), Context()) if parent is not None else Context()
        span = self._tracer.start_span(head.method, context=context, kind=SpanKind.SERVER, attributes=attributes)
        return RequestSpan(self._tracer, span, headers)

    def _passed_on(self, parent: SpanContext | None) -> SpanContext:
        """Return the context for upstreams when nobody takes spans from here.

        They may still record theirs, so a new trace gets the sampling decision that recording would have made; making
        spans only to throw them away costs 60 µs a request.
        """
        if parent is not None:
            return parent
        trace_id = self._ids.generate_trace_id()
        sampled = trace_id & TraceIdRatioBased.TRACE_ID_LIMIT < self._sampled_below
        flags = TraceFlags(TraceFlags.SAMPLED if sampled else TraceFlags.DEFAULT)
        return SpanContext(trace_id, self._ids.generate_span_id(), False, flags)

    def close(self) -> None:
        """Send what is left, for at most the exporter's timeout; blocking."""
        self._provider.shutdown()


class RequestSpan:
    """The span of one request."""

    __slots__ = ("_headers", "_span", "_tracer")

    def __init__(self, tracer: trace.Tracer | None, span: Span, headers: Mapping[str, str]) -> None:
        """tracer: None when nothing is recorded; attempts then carry this span's context on."""
        self._tracer = tracer
        self._span = span
        self._headers = headers

    @property
    def trace_id(self) -> str:
        """32 hex digits."""
        return f"{self._span.get_span_context().trace_id:032x}"

    def routed(self, method: str, route: str, rule: str, upstream: str) -> None:
        """Name the span after its route."""
        self._span.update_name(f"{method} {route}")
        self._span.set_attribute("http.route", route)
        self._span.set_attribute("nexus.rule", rule)
        if upstream:
            self._span.set_attribute("nexus.upstream", upstream)

    def attempt(self, method: str, upstream: str, attempt: Attempt) -> AttemptSpan:
        """Open the span of one attempt."""
        if self._tracer is None:
            return AttemptSpan(self._span, self._headers)
        endpoint = attempt.endpoint.endpoint
        attributes: dict[str, Any] = {
            "http.request.method": method,
            "server.address": endpoint.address,
            "server.port": endpoint.port,
            "nexus.upstream": upstream,
            "nexus.endpoint": attempt.endpoint.authority,
            "nexus.breaker.state": attempt.breaker_state,
        }
        if attempt.number:
            attributes["http.request.resend_count"] = attempt.number
        span = self._tracer.start_span(
            f"{method} {upstream}",
            context=trace.set_span_in_context(self._span, Context()),
            kind=SpanKind.CLIENT,
            attributes=attributes,
        )
        return AttemptSpan(span, self._headers)

    def end(self, status: int, reason: str, request_id: str) -> None:
        """Close the span. reason: why the gateway answered itself or broke off; empty otherwise."""
        span = self._span
        if span.is_recording():
            span.set_attribute("nexus.request_id", request_id)
            if status:
                span.set_attribute("http.response.status_code", status)
            if reason:
                span.set_attribute("error.type", reason)
            # Semantic conventions: a server span is an error for 5xx alone.
            if status >= 500 or (reason and not status):
                span.set_status(Status(StatusCode.ERROR))
        span.end()


class AttemptSpan:
    """The span of one attempt, whose context goes upstream."""

    __slots__ = ("_headers", "_span")

    def __init__(self, span: Span, headers: Mapping[str, str]) -> None:
        self._span = span
        self._headers = headers

    def inject(self, headers: CIMultiDict[str]) -> None:
        """Put the context into the attempt's headers, in place of the client's."""
        context = self._span.get_span_context()
        for name in _CONTEXT_HEADERS:
            headers.popall(name, None)
        headers["traceparent"] = format_traceparent(
            TraceContext(context.trace_id, context.span_id, bool(context.trace_flags & TraceFlags.SAMPLED))
        )
        if context.trace_state:
            headers["tracestate"] = context.trace_state.to_header()
        inbound = self._headers
        if "b3" in inbound or "x-b3-traceid" in inbound or "uber-trace-id" in inbound:
            here = trace.set_span_in_context(self._span, Context())
            if "b3" in inbound:
                _B3_SINGLE.inject(headers, here)
            if "x-b3-traceid" in inbound:
                headers.popall("x-b3-parentspanid", None)
                _B3_MULTI.inject(headers, here)
            if "uber-trace-id" in inbound:
                _JAEGER.inject(headers, here)

    def end(self, status: int, error: str) -> None:
        """Close the span. status: of the response head, 0 without one. error: the outcome, empty when answered."""
        span = self._span
        if span.is_recording():
            if status:
                span.set_attribute("http.response.status_code", status)
            # Semantic conventions: a client span is an error for 4xx too.
            if error or status >= 400:
                span.set_attribute("error.type", error or str(status))
                span.set_status(Status(StatusCode.ERROR))
        span.end()


def _parent(headers: Mapping[str, str]) -> SpanContext | None:
    found = find_traceparent(headers.get("traceparent"))
    if found is not None:
        state = headers.get("tracestate")
        flags = TraceFlags(TraceFlags.SAMPLED if found.sampled else TraceFlags.DEFAULT)
        return SpanContext(
            found.trace_id, found.span_id, True, flags, TraceState.from_header([state]) if state else _NO_STATE
        )
    for name, propagator in (("b3", _B3_SINGLE), ("x-b3-traceid", _B3_MULTI), ("uber-trace-id", _JAEGER)):
        if name in headers:
            # `Context()` rather than None: what runs around this task is no part of the client's trace.
            context = trace.get_current_span(propagator.extract(dict(headers), Context())).get_span_context()
            if context.is_valid:
                return context
    return None
