"""One request from head to last byte: the order of the steps, and who is told what went wrong.

1. overload bound  2. head read and checked  3. route found  4. plugins, then the rule's filters  5. backend by weight, its
filters  6. attempts until one answers or the exchange gives up  7. response filters and plugins in reverse  8. body
streamed. The decisions are the pure rooms'; this module does what they say.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from aiohttp import ClientError, ClientResponse
from aiohttp.hdrs import CONTENT_TYPE, SERVER
from aiohttp.web import BaseRequest, StreamResponse
from nexus_core.hooks import Reply, RequestHead, ResponseHead
from nexus_core.snapshot import Timeouts

from nexus_gateway.edge import heads, replies
from nexus_gateway.edge.bodies import RequestBody
from nexus_gateway.edge.heads import Inbound, RequestRefused
from nexus_gateway.edge.logs import AccessLog
from nexus_gateway.edge.measurements import Measurements
from nexus_gateway.edge.plugins.slots import PluginUnavailable, Slot
from nexus_gateway.edge.pools import Pool
from nexus_gateway.edge.runtimes import Backend, Plan, Runtime
from nexus_gateway.edge.servers import SERVER_NAME, to_response
from nexus_gateway.edge.tracing import RequestSpan, Tracing
from nexus_gateway.edge.tunnels import Tunnel
from nexus_gateway.edge.upstreams import AttemptFailed, Upstreams
from nexus_gateway.filters.place import HeadFilter, Place
from nexus_core.match.router import Entry
from nexus_gateway.resilience.exchanges import IDEMPOTENT, Exchange, Outcome, Refusal, outcome_of
from nexus_gateway.settings import GatewaySettings
from nexus_gateway.telemetry.records import AccessRecord

log = logging.getLogger("nexus.gateway")

_CLIENT_CLOSED = 499
"""What logs and metrics show for a client that left before the answer; nginx made the number common."""


class Refused(Exception):
    """The gateway answers itself. reason: of `replies.TITLES`."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.detail = detail


@dataclass(slots=True)
class Work:
    """What is known of a request so far. plugins: with the head each returned, for its response hook."""

    message: BaseRequest
    runtime: Runtime
    started_at: float
    record: AccessRecord
    inbound: Inbound | None = None
    span: RequestSpan | None = None
    plugins: list[tuple[Slot, RequestHead]] = field(default_factory=list)
    filters: list[HeadFilter] = field(default_factory=list)
    upgraded: bool = False


class ProxyResponse(StreamResponse):
    """A response passed on: nothing is invented that the upstream did not send, save Date and framing."""

    async def _prepare_headers(self) -> None:
        typed = CONTENT_TYPE in self.headers
        self.headers.setdefault(SERVER, SERVER_NAME)
        await super()._prepare_headers()
        if not typed:
            self.headers.popall(CONTENT_TYPE, None)


class Proxy:
    """Serves requests with the live runtime."""

    def __init__(
        self,
        settings: GatewaySettings,
        runtime: Callable[[], Runtime],
        upstreams: Upstreams,
        tracing: Tracing,
        measurements: Measurements,
        access_log: AccessLog,
        rng: random.Random,
    ) -> None:
        self._settings = settings
        self._runtime = runtime
        self._upstreams = upstreams
        self._tracing = tracing
        self._measurements = measurements
        self._access_log = access_log
        self._rng = rng
        self._idle = asyncio.Event()
        self.in_flight = 0
        self.draining = False

    async def handle(self, message: BaseRequest) -> StreamResponse:
        """Serve one request; aiohttp's server calls it."""
        loop = asyncio.get_running_loop()
        runtime = self._runtime()
        work = Work(message, runtime, loop.time(), AccessRecord(method=message.method, client_ip=message.remote or ""))
        self.in_flight += 1
        self._measurements.in_flight.inc()
        runtime.enter()
        try:
            return await self._answer(work)
        except asyncio.CancelledError:
            work.record.reason = work.record.reason or "ClientClosed"
            work.record.status = work.record.status or _CLIENT_CLOSED
            raise
        finally:
            runtime.leave()
            self.in_flight -= 1
            self._measurements.in_flight.dec()
            if not self.in_flight:
                self._idle.set()
            self._finish(work, loop.time())

    async def _answer(self, work: Work) -> StreamResponse:
        try:
            if self.in_flight > self._settings.max_in_flight:
                raise Refused("Overloaded")
            work.inbound = inbound = heads.read(
                work.message, self._settings.trusted_proxies, self._settings.max_head_bytes
            )
            self._note(work, inbound)
            return await self._route(work, inbound)
        except (Refused, RequestRefused) as refused:
            reply = self._problem(work, refused.reason, refused.detail)
        except PluginUnavailable as unavailable:
            log.warning("request refused: plugin %s is not running and fails closed", unavailable.plugin)
            reply = self._problem(work, "PluginUnavailable")
        return await self._send(work, reply)

    def _note(self, work: Work, inbound: Inbound) -> None:
        head, record = inbound.request, work.record
        record.host, record.path, record.query = head.host, head.path, head.query
        record.request_id = inbound.request_id
        record.user_agent = inbound.headers.get("user-agent", "")
        work.span = self._tracing.request(head, inbound.headers, inbound.scheme)
        record.trace_id = work.span.trace_id

    async def _route(self, work: Work, inbound: Inbound) -> StreamResponse:
        head = inbound.request
        if not work.runtime.published.generation:
            raise Refused("NotConfigured")
        entry = work.runtime.router.find(head.method, head.host, head.path, inbound.headers)
        if entry is None:
            raise Refused("RouteNotFound")
        head = replace(head, route=entry.route.id)
        work.record.route = entry.route.id
        plan = entry.payload
        result = await self._prepare(work, head, plan, _place(entry, inbound))
        if isinstance(result, Reply):
            return await self._send(work, await self._respond(work, result))
        backend, head = result
        pool = backend.pool
        if pool is None:
            raise Refused("BackendNotFound")
        work.record.upstream = pool.upstream.id
        if work.span is not None:
            work.span.routed(head.method, entry.route.id, entry.rule.id, pool.upstream.id)
        return await self._call(work, inbound, head, backend, pool)

    async def _prepare(
        self, work: Work, head: RequestHead, plan: Plan, place: Place
    ) -> Reply | tuple[Backend, RequestHead]:
        """Return the reply of a plugin or filter, or the backend with the head for it."""
        for slot in plan.plugins:
            result = await slot.on_request(head)
            if isinstance(result, Reply):
                return result
            head = result
            work.plugins.append((slot, head))
        for each in plan.filters:
            outcome = each.on_request(head, place)
            if isinstance(outcome, Reply):
                return outcome
            head = outcome
            work.filters.append(each)
        index = plan.split.next()
        if index is None:
            raise Refused("NoBackends")
        backend = plan.backends[index]
        for each in backend.filters:
            outcome = each.on_request(head, place)
            if isinstance(outcome, Reply):
                return outcome
            head = outcome
            work.filters.append(each)
        return backend, head

    async def _call(
        self, work: Work, inbound: Inbound, head: RequestHead, backend: Backend, pool: Pool
    ) -> StreamResponse:
        loop = asyncio.get_running_loop()
        timeouts = backend.timeouts
        body = RequestBody(work.message, timeouts.idle_s)
        exchange = Exchange(
            head.method, backend.retry, timeouts, pool.budget, pool.balancer.pick, self._rng, work.started_at,
            heads.client_timeout_s(inbound.headers),
        )  # fmt: skip
        if backend.retry.attempts and head.method in IDEMPOTENT:
            await body.hold(self._settings.max_body_replay_bytes, exchange.deadline_at)
        if not pool.endpoints:
            wait_s = self._settings.endpoints_wait_s
            if exchange.deadline_at is not None:
                wait_s = min(wait_s, exchange.deadline_at - loop.time())
            await pool.wait(wait_s)
        try:
            response = await self._attempts(work, inbound, head, body, exchange, timeouts, pool)
            try:
                return await self._pass_on(work, head, response, timeouts)
            finally:
                response.close()
        finally:
            # Whatever happened since the last verdict (the client left, above all) says nothing about the endpoint.
            exchange.release()

    async def _attempts(
        self,
        work: Work,
        inbound: Inbound,
        head: RequestHead,
        body: RequestBody,
        exchange: Exchange,
        timeouts: Timeouts,
        pool: Pool,
    ) -> ClientResponse:
        """Return the response that the client gets. Raises `Refused` or `RequestRefused`."""
        loop = asyncio.get_running_loop()
        upstream = pool.upstream.id
        last = ""
        span = work.span
        assert span is not None
        while True:
            attempt = exchange.next(pool.endpoints, loop.time())
            if isinstance(attempt, Refusal):
                raise Refused(last or attempt.value)
            work.record.attempts = exchange.attempts
            work.record.endpoint = attempt.endpoint.authority
            if attempt.number:
                self._measurements.retry(upstream)
            attempt_span = span.attempt(head.method, upstream, attempt)
            headers = heads.outbound(head.headers, inbound.request.headers)
            attempt_span.inject(headers)
            if inbound.upgrade:
                headers["connection"] = "upgrade"
                headers["upgrade"] = inbound.upgrade
            if heads.DEADLINE in headers and exchange.deadline_at is not None:
                # Only a deadline that the caller set goes on, shortened: ours ends with the response's head, and a
                # service would take it for the end of a stream.
                headers[heads.DEADLINE] = f"{max(exchange.deadline_at - loop.time(), 0.001):.3f}"
            outcome, status = Outcome.ABANDONED, 0
            response: ClientResponse | None = None
            try:
                response = await self._upstreams.call(attempt, head, headers, body.data(), timeouts)
                status = response.status
                outcome = outcome_of(status)
            except AttemptFailed as failed:
                if body.refused is not None:
                    raise body.refused from failed
                if failed.outcome is Outcome.TIMEOUT and body.waiting:
                    # Not the endpoint's failure: a few slow uploads must not open its circuit.
                    raise RequestRefused(
                        "BodyTimeout", "The request body did not come within the request's time."
                    ) from failed
                outcome, last = failed.outcome, failed.reason
            finally:
                exchange.settle(outcome, loop.time())
                self._measurements.attempt(upstream, outcome.value)
                attempt_span.end(status, "" if outcome is Outcome.ANSWERED else outcome.value)
            if outcome is Outcome.ANSWERED and response is not None:
                return response
            again = exchange.again(outcome, replayable=body.replayable, now=loop.time())
            if again is None:
                if exchange.budget_spent:
                    self._measurements.budget_spent(upstream)
                if response is not None:
                    return response
                raise Refused(last)
            if response is not None:
                response.release()
            exchange.release()
            await asyncio.sleep(again.after_s)

    async def _pass_on(
        self, work: Work, head: RequestHead, response: ClientResponse, timeouts: Timeouts
    ) -> StreamResponse:
        """Stream the upstream's response to the client."""
        message = work.message
        if response.status == 101:
            return await self._tunnel(work, response, timeouts)
        came = ResponseHead(response.status, heads.from_upstream(response.raw_headers))
        answer = await self._respond_head(work, came)
        work.record.status = answer.status
        out = ProxyResponse(
            status=answer.status, reason=_reason(response, answer), headers=heads.outbound(answer.headers, came.headers)
        )
        if self.draining or (work.inbound is not None and work.inbound.last):
            out.force_close()
        idle_s = timeouts.idle_s or None
        await out.prepare(message)
        content = response.content
        try:
            while True:
                chunk = await content.readany()
                if not chunk:
                    break
                work.record.bytes_out += len(chunk)
                async with asyncio.timeout(idle_s):
                    await out.write(chunk)
        except (ClientError, OSError, TimeoutError) as error:
            # The status is gone out: the only honest end is one that the client cannot take for a whole response.
            work.record.reason = "UpstreamReset" if isinstance(error, ClientError) else "ClientClosed"
            log.info("response of %s broken off: %s: %s", work.record.endpoint, type(error).__name__, error)
            _abort(message)
            return out
        await out.write_eof()
        return out

    async def _tunnel(self, work: Work, response: ClientResponse, timeouts: Timeouts) -> StreamResponse:
        assert work.inbound is not None
        if not work.inbound.upgrade:
            raise Refused("UpstreamProtocolError")
        answer = await self._respond_head(work, ResponseHead(101, heads.from_upstream(response.raw_headers)))
        work.record.status = 101
        work.upgraded = True
        upgrade = response.headers.get("Upgrade", work.inbound.upgrade)
        tunnel = Tunnel(work.message, response, timeouts.idle_s)
        try:
            return await tunnel.run(
                (("connection", "upgrade"), ("upgrade", upgrade), *heads.outbound(answer.headers, ()).items())
            )
        finally:
            work.record.bytes_out = tunnel.bytes_out

    async def _respond_head(self, work: Work, answer: ResponseHead) -> ResponseHead:
        for each in reversed(work.filters):
            answer = each.on_response(answer)
        while work.plugins:
            slot, seen = work.plugins.pop()
            answer = await slot.on_response(seen, answer)
        return answer

    async def _respond(self, work: Work, reply: Reply) -> Reply:
        """Run the response hooks over a reply that a plugin or filter made."""
        answer = await self._respond_head(work, ResponseHead(reply.status, reply.headers))
        return replace(reply, status=answer.status, headers=answer.headers)

    def _problem(self, work: Work, reason: str, detail: str = "") -> Reply:
        work.record.reason = reason
        self._measurements.refused(reason)
        return replies.problem(reason, work.record.request_id, detail)

    async def _send(self, work: Work, reply: Reply) -> StreamResponse:
        response = to_response(reply)
        if (
            self.draining
            or (work.inbound is not None and work.inbound.last)
            or work.record.reason in ("BadRequest", "BodyTimeout", "MethodRefused", "HeadTooLarge")
        ):
            response.force_close()
        work.record.status = reply.status
        work.record.bytes_out = len(reply.body)
        return response

    def _finish(self, work: Work, now: float) -> None:
        record = work.record
        record.duration_s = now - work.started_at
        if work.span is not None:
            work.span.end(record.status, record.reason, record.request_id)
        if record.status:
            self._measurements.request(record.route, record.upstream, record.status, record.duration_s)
        self._access_log.write(record)

    async def drained(self) -> None:
        """Return when no request is in flight."""
        while self.in_flight:
            self._idle.clear()
            await self._idle.wait()


def _place(entry: Entry[Plan], inbound: Inbound) -> Place:
    return Place(entry.match.path, inbound.scheme, inbound.port)


def _reason(response: ClientResponse, answer: ResponseHead) -> str | None:
    return response.reason if answer.status == response.status else None


def _abort(message: BaseRequest) -> None:
    transport = message.transport
    if transport is not None:
        transport.abort()
