"""What all exchanges of one gateway share, and the counting of their ends."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextvars import copy_context
from datetime import UTC, datetime
from email.utils import format_datetime
from time import monotonic, time

from nexus_core.hooks import Reply
from nexus_hosting import traces
from nexus_wire import presence
from nexus_wire.clock import Clock
from nexus_wire.h2server import Http2
from nexus_wire.http1 import Refused, RequestParser, ResponseParser
from nexus_wire.server import AnyConnection, ServerConnection, ServerOptions, Stream

from nexus_gateway.edge import replies, requests
from nexus_gateway.edge.accesslogs import AccessLog
from nexus_gateway.edge.connectors import Connector
from nexus_gateway.edge.debugging import Debugging
from nexus_gateway.edge.departures import Departures
from nexus_gateway.edge.ending import Ending
from nexus_gateway.edge.exchanges import Exchange
from nexus_gateway.edge.hedges import Hedges
from nexus_gateway.edge.listeners.plans import Site
from nexus_gateway.edge.measurements import Measurements
from nexus_gateway.edge.mirrors import Mirrors
from nexus_gateway.edge.recording import Recorder
from nexus_gateway.edge.requests import Forwarding
from nexus_gateway.edge.runtimes import Runtime, empty
from nexus_gateway.edge.samples import Samples
from nexus_gateway.edge.tls.origination import Originations
from nexus_gateway.settings import GatewaySettings
from nexus_gateway.telemetry.contexts import Contexts, traceparent_of
from nexus_gateway.telemetry.decisions import LOG, TRACE, Decisions
from nexus_gateway.telemetry.finished import NOTHING, Finished, shortened
from nexus_gateway.telemetry.red import Red

log = logging.getLogger("nexus.gateway")

SITE_GRACE_S = 1.0
"""A connection to a listener that is gone is closed after this, if it has no request; requests until then are answered."""
_WRITTEN_S = 0.05
"""How often a stop looks whether clients have taken what they were answered."""

SERVER = b"server: nexus\r\n"
"""What the gateway's own answers carry: no version, which would tell attackers more."""


class Proxy:
    """Serves the streams of all listeners with the live runtime.

    runtime: what new requests get; assign a new one to swap. in_flight: exchanges being served now.
    """

    def __init__(
        self,
        settings: GatewaySettings,
        recorder: Recorder,
        contexts: Contexts,
        measurements: Measurements,
        access_log: AccessLog,
        decisions: Decisions,
        rng: random.Random,
        samples: Samples,
    ) -> None:
        self.settings = settings
        self.loop = loop = asyncio.get_running_loop()
        self.clock = Clock(loop)
        self.rng = rng
        self.samples = samples
        self.debugging = Debugging(settings.debug_key)
        self._recorder = recorder
        self.contexts = contexts
        self.measurements = measurements
        self.access_log = access_log
        self._decide = decisions.end
        self.runtime: Runtime = empty()
        self.forwarding = Forwarding(settings.trusted_proxies)
        self.tls = Originations()
        self.parser = RequestParser(
            aside=requests.ASIDE,
            aside_prefixes=requests.ASIDE_PREFIXES,
            drop=requests.DROP,
            max_head_bytes=settings.max_head_bytes,
        )
        self.http2 = Http2(self.parser)
        responses = ResponseParser()
        self.connector = Connector(loop, self.clock, responses, self.tls.context)
        self.hedges = Hedges(loop)
        self.mirrors = Mirrors(self)
        self.max_replay_bytes = settings.max_body_replay_bytes
        self._max_in_flight = settings.max_in_flight
        self._slow_s = settings.trace_slow_s or float("inf")
        self.in_flight = 0
        self.connections: set[AnyConnection] = set()
        self.elsewhere: Callable[[], int] = lambda: 0
        """Client connections that share the limit and are not served here."""
        self._idle = asyncio.Event()
        self._no_connections = asyncio.Event()
        self._no_connections.set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.date_line = self.own_lines = b""
        self._new_date()
        self.clock.every_second += [self._new_date, self._look_after, responses.age, self.parser.age, self.http2.age]
        self._draining = False
        self._paused: set[ServerConnection] = set()
        self._sites: dict[str, ServerOptions] = {}
        self._planned: Mapping[str, Site] = {}
        self._admissions: Mapping[str, object] = {}
        # A little longer than connections have: their last requests come with the word that they close.
        self.departures = Departures(loop, SITE_GRACE_S + 1.0)

    # ---- sites

    def options(self, site: str) -> ServerOptions:
        """Return the options of a site's connections; the same ones as long as the site is there."""
        found = self._sites.get(site)
        if found is None:
            found = self._sites[site] = self._build_options(site)
        return found

    def _build_options(self, site: str) -> ServerOptions:
        settings = self.settings
        options = ServerOptions(
            parser=self.parser,
            clock=self.clock,
            on_request=self.serve,
            on_refused=self._refused,
            on_open=lambda connection: self._opened(connection, site),
            on_close=self._closed,
            head_timeout_s=settings.head_timeout_s,
            keepalive_s=settings.keepalive_s,
            min_body_bytes_per_s=settings.min_body_bytes_per_s,
            http2=self.http2,
            draining=self._draining,
        )
        options.paused = self._paused
        return options

    def sites(self, sites: Mapping[str, Site], admissions: Mapping[str, object]) -> None:
        """Take note of the sites there are now; see `listeners.doors.Host`."""
        self._planned = sites
        before, self._admissions = self._admissions, admissions
        left = [
            self._sites.pop(site)
            for site in tuple(self._sites)
            if site not in sites or before.get(site) != admissions.get(site)
        ]
        for options in left:
            options.draining = True
        if left:
            for connection in tuple(self.connections):
                if any(connection.options is options for options in left):
                    connection.drain()
            # A request may be on its way on a connection that has none; it is answered still.
            self.loop.call_later(SITE_GRACE_S, self._close_idle, left)

    def _close_idle(self, left: Sequence[ServerOptions]) -> None:
        for connection in tuple(self.connections):
            if any(connection.options is options for options in left):
                connection.close_idle()

    def drain(self) -> None:
        """Have every answer from here on say that its connection closes, and connections of HTTP/2 at once."""
        self._draining = True
        for options in self._sites.values():
            options.draining = True
        for connection in tuple(self.connections):
            connection.drain()

    @staticmethod
    def now_unix() -> float:
        """Return the wall clock, seconds."""
        return time()

    # ---- one request

    def serve(self, stream: Stream) -> None:
        """Serve the request that a stream brings."""
        now = monotonic()
        runtime = self.runtime
        stream.requestor = exchange = Exchange(self, stream, runtime, now)
        self.in_flight += 1
        runtime.users += 1
        try:
            if self.in_flight > self._max_in_flight and not self._has_priority(stream):
                self.measurements.shed("Overloaded")
                exchange.shed()
            else:
                exchange.run()
        except Exception:
            log.exception("the gateway failed on a request")
            exchange.fail()

    def _has_priority(self, stream: Stream) -> bool:
        """Whether a request is served even when others are shed: a load balancer that takes a busy gateway for a dead one
        makes the others busier. Bounded, so that it is no way around the limit."""
        settings = self.settings
        return stream.line.path in settings.priority_paths and self.in_flight <= settings.max_in_flight * 1.1 + 16

    def ended(self, exchange: Ending, now: float) -> None:
        """Count an exchange that is over; called once for each."""
        self.in_flight -= 1
        if not self.in_flight:
            self._idle.set()
        runtime = exchange.runtime
        hooked = exchange.hooked
        if hooked is not None and hooked.phases is not None:
            hooked.phases.over(now - exchange.started_at)
        runtime.users -= 1
        if runtime.retired and not runtime.users:
            runtime.idle.set()
        seconds = now - exchange.started_at
        status = exchange.status if exchange.extra is None else exchange.outcome_status
        backend = exchange.backend
        red = backend.red if backend is not None else None
        if status:
            if red is None:
                red = self._red(exchange)
            red.add(status, seconds)
        wanted = self._decide(exchange.context, status, seconds, exchange.attempts, exchange.reason)
        if wanted:
            done = shortened(exchange.finished(now))
            if wanted & LOG:
                self.access_log.write(done)
            if wanted & TRACE:
                self._recorder.record(done)
                if red is not None:
                    red.exemplar(exchange.context[16:48], seconds, time())
        samples = self.samples
        samples.left -= 1
        if samples.left < 0:
            samples.take(exchange, now)
        # Attempts and hooks point back at their exchange: without this every request would be left to the garbage collector,
        # which stops the loop for as long as it looks at all of them.
        exchange.attempt = exchange.hooked = exchange.extra = None

    def _red(self, exchange: Ending) -> Red:
        """Return the counts that an exchange belongs to, and remember them where the next one finds them."""
        entry = exchange.entry
        red = self.measurements.red(entry.route.id if entry is not None else "", exchange.upstream_id)
        if exchange.backend is not None and entry is not None:
            exchange.backend.red = red
        return red

    def spawn(self, work: Coroutine[object, object, None], lines: bytes = b"") -> None:
        """Run the asynchronous part of an exchange; owned here, ended with the gateway.

        lines: the exchange's context lines, which what plugins call in it is sent.
        """
        if lines:
            context = copy_context()
            context.run(traces.current.set, traceparent_of(lines))
            task = self.loop.create_task(work, context=context)
        else:
            task = self.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended_task)

    def _ended_task(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("the gateway failed on a request", exc_info=error)

    # ---- connections

    def _opened(self, connection: AnyConnection, site: str) -> bool:
        limit = self.settings.max_connections
        if limit and len(self.connections) + self.elsewhere() >= limit:
            self.measurements.refused("TooManyConnections")
            connection.turn_away(self._render(replies.problem("Overloaded", "")))
            return False
        planned = self._planned.get(site)
        connection.context = self.forwarding.peer(
            connection.peer,
            secure=connection.secure,
            site=site,
            port=planned.port if planned is not None else 0,
            elsewhere=planned is None or planned.elsewhere,
        )
        self.connections.add(connection)
        self._no_connections.clear()
        return True

    def _closed(self, connection: AnyConnection) -> None:
        self.connections.discard(connection)
        if not self.connections:
            self._no_connections.set()

    def _refused(self, connection: AnyConnection, refused: Refused) -> bytes:
        """Return the whole answer to a head that is not served."""
        self.measurements.refused(refused.reason)
        now = monotonic()
        self.access_log.write(
            Finished(NOTHING, NOTHING, connection.peer, b"", b"", now, now, refused.status, refused.reason)
        )
        return self._render(replies.problem(refused.reason, "", refused.detail))

    def _render(self, reply: Reply) -> bytes:
        return b"%b%bcontent-length: %d\r\n%bconnection: close\r\n\r\n%b" % (
            replies.status_line(reply.status), requests.render(reply.headers), len(reply.body), self.own_lines, reply.body,
        )  # fmt: skip

    def _new_date(self) -> None:
        self.date_line = b"date: %b\r\n" % format_datetime(datetime.now(UTC), usegmt=True).encode()
        self.own_lines = SERVER + self.date_line

    def _look_after(self) -> None:
        """Once a second: age out idle connections, cut slow clients off, notice those that left while nobody read from them."""
        for router in self.runtime.routers.values():
            router.age()
        self.connector.sweep()
        for connection in presence.find_left(self._paused) if self._paused else ():
            connection.transport.abort()
        for stream in [
            each for connection in self.connections if not connection.complete for each in connection.dripping()
        ]:
            requestor = stream.requestor
            if isinstance(requestor, Exchange):
                requestor.too_slow()

    # ---- the end

    async def quiet(self, grace_s: float) -> None:
        """Give clients `grace_s` seconds to finish and leave, then close the connections that have no request.

        Answers while draining carry `Connection: close`, so that busy connections go by themselves.
        """
        self.drain()
        try:
            async with asyncio.timeout(grace_s):
                await self._no_connections.wait()
        except TimeoutError:
            for connection in tuple(self.connections):
                connection.close_idle()

    async def drained(self) -> None:
        """Return when no request is in flight."""
        while self.in_flight:
            self._idle.clear()
            await self._idle.wait()

    async def written(self) -> None:
        """Return when clients have taken, as far as this machine knows, all that they were answered."""
        # A transport says only that its buffer is low, not that it is empty.
        while any(each.unwritten() for each in self.connections):  # noqa: ASYNC110
            await asyncio.sleep(_WRITTEN_S)

    async def cut_off(self) -> None:
        """Break off every connection, with the request that it has and the hooks that look at it."""
        for connection in tuple(self.connections):
            connection.transport.abort()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def close(self) -> None:
        """Cut off what is left, and let go of everything."""
        await self.cut_off()
        self.mirrors.close()
        self.hedges.close()
        await self.connector.close()
        self.clock.stop()
