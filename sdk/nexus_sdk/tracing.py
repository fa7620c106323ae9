"""Tracing of one app: its own provider, no global is set. W3C trace context is read and written explicitly."""

from __future__ import annotations

import asyncio
import threading
import uuid
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import aiohttp
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware
from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.instrumentation import aiohttp_server
from opentelemetry.instrumentation.aiohttp_client import create_trace_config
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider, sampling
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from nexus_sdk.settings import Settings, TraceSettings

W3C = TraceContextTextMapPropagator()
"""The format that Nexus always reads and writes; OTEL_PROPAGATORS adds others (jaeger, b3)."""

UNTRACED = frozenset({"/healthz", "/readyz", "/metrics"})
QUEUE_SPANS = 4096
"""Spans waiting for export; more are dropped, because a slow receiver must not cost memory."""
EXPORT_TIMEOUT_S = 5.0


def build_sampler(settings: TraceSettings) -> sampling.Sampler:
    """Return the sampler that OTEL_TRACES_SAMPLER names."""
    root: sampling.Sampler = {
        "always_on": sampling.ALWAYS_ON,
        "always_off": sampling.ALWAYS_OFF,
        "traceidratio": sampling.TraceIdRatioBased(settings.sampler_ratio),
    }[settings.sampler.removeprefix("parentbased_")]
    return sampling.ParentBased(root) if settings.sampler.startswith("parentbased_") else root


class Tracing:
    """The provider of one app, its middleware for servers and its trace configuration for clients."""

    def __init__(self, settings: Settings, version: str, processors: Iterable[SpanProcessor] = ()) -> None:
        """processors: more receivers of spans, such as a test's memory. Starts the exporter's thread if one is set."""
        self._flush_s = settings.traces.flush_s
        resource = Resource.create({
            "service.name": settings.name, "service.namespace": settings.namespace, "service.version": version,
            "service.instance.id": str(uuid.uuid4()),
        })  # fmt: skip
        # Not at exit: the interpreter would wait for a receiver that is away; `stop` flushes with a deadline.
        self.provider = TracerProvider(
            sampler=build_sampler(settings.traces), resource=resource, shutdown_on_exit=False
        )
        if settings.traces.endpoint is not None:
            self.provider.add_span_processor(_exporting(settings.traces.endpoint))
        for processor in processors:
            self.provider.add_span_processor(processor)
        self.tracer = self.provider.get_tracer("nexus_sdk", version)

    def build_middleware(self) -> Middleware:
        """Return the server middleware: one span a request, child of the caller's; health endpoints have none."""
        _prepare_instrumentation()
        traced: Middleware = aiohttp_server.create_aiohttp_middleware(tracer_provider=self.provider)

        @web.middleware
        async def trace_request(request: web.Request, handler: Handler) -> web.StreamResponse:
            if request.path in UNTRACED:
                return await handler(request)
            # Explicit, and under the instrumentation's own extraction: OTEL_PROPAGATORS cannot switch W3C off.
            token = otel_context.attach(W3C.extract(request.headers, context=Context()))
            try:
                return await traced(request, handler)
            finally:
                otel_context.detach(token)

        return trace_request

    def build_trace_config(self) -> aiohttp.TraceConfig:
        """Return the client's trace configuration: one span an attempt, its context sent to the peer."""
        config = create_trace_config(tracer_provider=self.provider)

        async def inject(
            _session: aiohttp.ClientSession, context: object, params: aiohttp.TraceRequestStartParams
        ) -> None:
            del context
            W3C.inject(params.headers)

        config.on_request_start.append(inject)
        return config

    async def stop(self) -> bool:
        """Flush and end. Returns False if the receiver was too slow and spans were lost."""
        loop, done = asyncio.get_running_loop(), asyncio.Event()

        def shut_down() -> None:
            try:
                self.provider.shutdown()
            finally:
                try:
                    loop.call_soon_threadsafe(done.set)
                except RuntimeError:
                    return  # the loop has ended before the receiver answered: nobody waits any more

        # A daemon thread and not the loop's executor: asyncio.run waits minutes for executors, and daemons die with us.
        threading.Thread(target=shut_down, name="nexus-trace-flush", daemon=True).start()
        try:
            async with asyncio.timeout(self._flush_s):
                await done.wait()
        except TimeoutError:
            return False
        return True


@contextmanager
def untraced() -> Iterator[None]:
    """Within this, calls to other services carry a context that is not sampled: no span is recorded, here or there.

    For what a service does by itself every few seconds: its traces would hide those of people's requests. A service
    whose sampler is not `parentbased_` records its own side all the same.
    """
    ids = RandomIdGenerator()
    context = trace.SpanContext(ids.generate_trace_id(), ids.generate_span_id(), is_remote=False)  # flags: none
    token = otel_context.attach(trace.set_span_in_context(trace.NonRecordingSpan(context), Context()))
    try:
        yield
    finally:
        otel_context.detach(token)


def _exporting(endpoint: str) -> SpanProcessor:
    # Imported here: 0.1 s that a service without a receiver does not pay.
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    exporter = OTLPSpanExporter(endpoint=endpoint, timeout=EXPORT_TIMEOUT_S)
    return BatchSpanProcessor(
        exporter, max_queue_size=QUEUE_SPANS, max_export_batch_size=512, schedule_delay_millis=1000
    )


def _prepare_instrumentation() -> None:
    """Fill the module variables that the instrumentation's middleware reads, without leaving anything patched.

    `create_aiohttp_middleware` is public but reads counters that only `instrument()` makes, and `instrument()` also
    replaces `web.Application` for everybody; undone at once, in one synchronous step.
    """
    if aiohttp_server._excluded_urls is None:
        instrumentor = aiohttp_server.AioHttpServerInstrumentor()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # it subclasses web.Application; the class is not used
            instrumentor.instrument(skip_dep_check=True)  # the check reads every installed package's metadata
            instrumentor.uninstrument()


def trace_id() -> str:
    """Return the current trace's id, 32 hexadecimal digits; empty outside of a trace."""
    context = trace.get_current_span().get_span_context()
    return f"{context.trace_id:032x}" if context.is_valid else ""
