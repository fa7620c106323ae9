"""One request from head to last byte, whatever protocol its two sides speak.

The only link between a client's stream and upstream connections. Order of the steps: route, limits, faults, plugins and
filters, backend by weight, service breaker and bulkhead, attempts until one answers or none may follow, response filters
and plugins in reverse, body passed on with back-pressure. Each decision is a pure room's, synchronous, on values; this
module does what they say. A request that finds an idle connection costs no task, future or timer.

Whatever happens, `_over` runs exactly once for each exchange, and `Attempt.release` exactly once for each attempt.
"""

from __future__ import annotations

import asyncio
import logging
from time import monotonic
from typing import TYPE_CHECKING

from nexus_core.hooks import Reply, ResponseHead
from nexus_core.match.router import Entry
from nexus_core.snapshot import DirectReply
from nexus_wire.client import ClientConnection, grow_writes
from nexus_wire.clock import NEVER
from nexus_wire.http1 import Refused, RequestBlock, RequestLine, ResponseBlock, StatusLine
from nexus_wire.server import ServerConnection

from nexus_gateway.edge import replies, requests
from nexus_gateway.edge.attempts import Attempt
from nexus_gateway.edge.hooked import Hooked
from nexus_gateway.edge.pools import Pool
from nexus_gateway.edge.runtimes import Backend, Plan, Runtime
from nexus_gateway.resilience import deadlines, hedging
from nexus_gateway.resilience.attempts import IDEMPOTENT, Outcome, choose, may_retry
from nexus_gateway.resilience.endpoints import EndpointState
from nexus_gateway.telemetry.finished import Finished

if TYPE_CHECKING:
    from nexus_gateway.edge.proxy import Proxy

log = logging.getLogger("nexus.gateway")

CLIENT_CLOSED = 499
"""What logs and metrics show for a client that left before the answer; nginx made the number common."""
_MAX_PENDING_BYTES = 65536
"""Of a streamed body, held while its connection opens; the client is paused beyond."""


class Exchange:
    """A request being served.

    status: 0 until answered. reason: why the gateway answered itself, or broke off; empty otherwise. attempts: made so far.
    complete: whether the request body has come in full. started_at, deadline_at: monotonic seconds.
    """

    __slots__ = (
        "_delay", "_endpoints_timer", "_fell_back", "_holding", "_pending",
        "_pending_bytes", "_replayable", "_tunnel", "_upgrade",
        "attempt", "attempts", "authority", "backend", "block", "body", "body_seen", "bytes_out", "complete", "context", "deadline_at",
        "entry", "failed", "hedge", "hooked", "host", "lines", "line", "over", "plan", "pool", "port", "proxy", "reason",
        "request_id", "responding", "runtime", "started_at", "status", "stream", "tried", "upstream_id",
        "_pass", "_limiter_held", "_until_body", "response_lines", "hash_key", "sticky",
    )  # fmt: skip

    stream: ServerConnection
    line: RequestLine
    block: RequestBlock
    plan: Plan
    backend: Backend
    pool: Pool

    def __init__(self, proxy: Proxy, stream: ServerConnection, now: float) -> None:
        self.proxy = proxy
        self.stream = stream
        self.context = b""
        self.request_id = b""
        self.line = stream.line
        self.block = stream.block
        self.started_at = now
        self.complete = stream.complete
        self.body = stream.body
        self.body_seen = len(stream.body)
        self.entry: Entry[Plan] | None = None
        self.hooked: Hooked | None = None
        self.attempt: Attempt | None = None
        self.hedge: Attempt | None = None
        self.attempts = 0
        self.tried: set[str] | None = None
        self.failed: list[Attempt] | None = None
        self.status = 0
        self.reason = ""
        self.bytes_out = 0
        self.responding = False
        self.over = False
        self.upstream_id = ""
        self.response_lines = b""
        self.hash_key = b""
        self.sticky: EndpointState | None = None
        self._holding: list[bytes] | None = None
        self._pending: list[bytes] | None = None
        self._pending_bytes = 0
        self._tunnel = False
        self._delay: asyncio.TimerHandle | None = None
        self._endpoints_timer: asyncio.TimerHandle | None = None
        self._limiter_held = False
        self._pass = False
        self._fell_back = False
        self._until_body = False

    # ---- the way to a backend

    def run(self, runtime: Runtime) -> None:
        """Route the request and set out. Everything goes on from callbacks."""
        proxy = self.proxy
        block = self.block
        line = self.line
        self.runtime = runtime
        aside = block.aside
        self.context = context = proxy.contexts.start(aside)
        # The trace's id serves as the request's where the client sent none: one thing less to look for in two places.
        self.request_id = requests.request_id(aside) or context[16:48]
        if line.authority:
            self.authority, self.host, self.port = requests.authority_of(line, block)
        else:
            self.authority = block.authority
            self.host = block.host
            self.port = block.port
        if not runtime.published.generation:
            self.refuse("NotConfigured")
            return
        entry = runtime.router.find(line.method, self.host, line.path, block)
        if entry is None:
            self.refuse("RouteNotFound")
            return
        self.entry = entry
        self.plan = plan = entry.payload
        if plan.plain:
            self.choose_backend()
        else:
            self._guard()

    def _guard(self) -> None:
        """Limits, sizes and faults of the rule, then its plugins and filters."""
        plan = self.plan
        now = self.started_at
        for limit in plan.limits:
            wait_s = limit.take(limit.key(self) if limit.key is not None else b"", now)
            if wait_s > 0.0:
                self.proxy.measurements.rate_limited(limit.name)
                self.refuse("RateLimited", retry_after_s=wait_s)
                return
        size = plan.size
        if size is not None and size.request_bytes and max(self.block.length, self.body_seen) > size.request_bytes:
            self.refuse("BodyTooLarge")
            return
        fault = plan.fault
        if fault is not None:
            delay_s, status = fault.decide()
            if delay_s > 0.0:
                self._delay = self.proxy.loop.call_later(delay_s, self._after_fault, status)
                return
            if status:
                self._abort_on_purpose(status)
                return
        self._prepare()

    def _after_fault(self, status: int) -> None:
        self._delay = None
        if self.over:
            return
        if status:
            self._abort_on_purpose(status)
        else:
            self._prepare()

    def _abort_on_purpose(self, status: int) -> None:
        self.reason = "FaultInjected"
        self.reply(replies.fault(status, self.request_id.decode("latin-1")))

    def _prepare(self) -> None:
        """Run plugins and filters over the request's head, if the rule has any."""
        if self.plan.plugins or self.plan.filters:
            self.hooked = hooked = Hooked(self)
            hooked.run()
        else:
            self.choose_backend()

    def choose_backend(self) -> None:
        """Go on to the backend whose turn it is."""
        plan = self.plan
        backend = plan.only
        if backend is None:
            index = plan.split.next()
            if index is None:
                self.refuse("NoBackends")
                return
            backend = plan.backends[index]
        if backend.filters:
            if self.hooked is None:
                self.hooked = Hooked(self)
            if not self.hooked.filter(backend.filters):
                return
        self._enter(backend, self.started_at)

    def _enter(self, backend: Backend, now: float) -> None:
        """Compose the request for the backend, ask for admission, and begin. now: when its time begins to run."""
        pool = backend.pool
        if pool is None:
            self.refuse("BackendNotFound")
            return
        self.backend = backend
        self.pool = pool
        self.upstream_id = pool.upstream.id
        client_s = None
        block = self.block
        aside = block.aside
        if aside is not None:
            client_s = deadlines.client_timeout_s(aside)
        request_s = backend.timeouts.request_s
        if client_s is not None and (not request_s or client_s < request_s):
            request_s = client_s
        self.deadline_at = now + request_s if request_s else 0.0
        self.lines = self._compose(backend)
        breaker = pool.service_breaker
        if breaker is not None and not breaker.acquire(now):
            self.refuse("CircuitOpen")
            return
        self._pass = breaker is not None
        pool.budget.request(now)
        if pool.key is not None:
            self.hash_key = pool.key(self)
        if backend.sessions is not None:
            self.sticky = backend.sessions.recall(self, pool.endpoints, self.proxy.now_unix())
        if self.plan.mirrors and self.complete:
            self.proxy.mirrors.send(self, self.plan.mirrors)
        limiter = pool.limiter
        if limiter is not None:
            admitted = limiter.acquire(now, self._admitted)
            if admitted is None:
                # In the queue: `_admitted` will be called, or the deadline comes.
                self._set_deadline(now)
                return
            if not admitted:
                self.refuse("UpstreamOverloaded")
                return
            self._limiter_held = True
        self._begin(now)

    def _admitted(self) -> None:
        """A place in the bulkhead got free."""
        if self.over:
            limiter = self.pool.limiter
            if limiter is not None:
                limiter.release(monotonic(), 0.0, ok=False)
            return
        self._limiter_held = True
        self._begin(monotonic())

    def _compose(self, backend: Backend) -> bytes:
        """Return the request's head for upstream, but for what differs between attempts."""
        proxy = self.proxy
        block = self.block
        hooked = self.hooked
        upgrade = block.upgrade
        self._upgrade = upgrade == b"websocket" and self.line.method == "GET"
        if upgrade and not self._upgrade:
            # Another protocol is not passed on: an h2c tunnel, for one, would carry requests that no route, plugin or limit
            # ever sees. Nor is what follows read as HTTP, since its sender may not have meant it so.
            self.stream.keep = False
        if hooked is None or not hooked.changed:
            start = self.line.start
            own = proxy.forwarding.lines(self.stream.context, self.authority, block.aside)
            middle = b"%b%bx-request-id: %b\r\n" % (own, block.forward, self.request_id)
        else:
            start, middle = hooked.render(block)
        if self._upgrade:
            return b"%b%bconnection: upgrade\r\nupgrade: websocket\r\n" % (start, middle)
        return start + middle

    def _begin(self, now: float) -> None:
        """Send the request as soon as as much of its body is here as has to be."""
        backend = self.backend
        if self.complete:
            self._replayable = True
            self._try(now)
            return
        stream = self.stream
        stream.invite()
        retry = backend.retry
        if (
            retry.attempts
            and 0 < self.block.length <= self.proxy.max_replay_bytes
            and self.line.method in IDEMPOTENT
        ):
            # Held so that it can be sent again.
            self._holding = [self.body]
            self._until_body = True
            self._set_deadline(now)
            return
        self._replayable = True  # until a byte of it is sent
        self._try(now)

    # ---- attempts

    def _try(self, now: float, *, fresh: bool = False) -> None:
        """Begin an attempt. fresh: on a connection of its own, because a kept one proved stale."""
        pool = self.pool
        if now >= pool.look_again_at:
            pool.refresh(now)
        live = pool.live
        if not live:
            self._wait_for_endpoints(now)
            return
        deadline_at = self.deadline_at
        if deadline_at and now >= deadline_at:
            self._failed_for_good(self.reason or "RequestTimeout")
            return
        endpoint = self._pick(live, now)
        breaker = endpoint.breaker
        probe = False
        if breaker.watching and breaker.state != "closed":
            if not breaker.acquire(now):
                pool.refresh(now)
                if not pool.live or self._spins(pool):
                    self._failed_for_good(self.reason or "CircuitOpen")
                    return
                endpoint = self._pick(pool.live, now)
                breaker = endpoint.breaker
                if breaker.state != "closed" and not breaker.acquire(now):
                    self._failed_for_good(self.reason or "CircuitOpen")
                    return
            probe = breaker.state == "half-open"
            if probe:
                pool.dirty()
        attempt = Attempt(self, endpoint, self.attempts, probe, now)
        self.attempts += 1
        self.attempt = attempt
        self._set_deadline(now)
        if not fresh:
            idle = endpoint.idle
            while idle:
                connection = idle.pop()
                if not connection.closed:
                    attempt.send(connection)
                    break
            else:
                self._open(attempt)
        else:
            self._open(attempt)
        hedge = self.backend.hedge
        if hedge is not None and attempt.number == 0:
            self._plan_hedge(now)

    def _pick(self, live: tuple[EndpointState, ...], now: float) -> EndpointState:
        tried = self.tried
        if tried is None:
            sticky = self.sticky
            if sticky is not None and sticky in live:
                return sticky
            return self.pool.pick(live, self.hash_key, now)
        return choose(live, tried, self.pool.pick, self.hash_key, now)

    def _spins(self, pool: Pool) -> bool:
        return all(state.breaker.state == "open" for state in pool.live)

    def open_again(self, attempt: Attempt) -> None:
        """A place for a connection got free."""
        self._open(attempt)

    def _open(self, attempt: Attempt) -> None:
        upstream = self.pool.upstream
        if self._pending is None and not self.complete:
            self._pending = []
        self.proxy.connector.open(
            attempt, attempt.endpoint, upstream.tls, self.host, self.backend.timeouts.connect_s,
            upstream.concurrency.max_connections,
        )  # fmt: skip

    def _set_deadline(self, now: float) -> None:
        """Have `on_late` called when the attempt's, or the request's, time is over."""
        deadline_at = self.deadline_at
        try_s = self.backend.timeouts.try_s
        if try_s and (not deadline_at or now + try_s < deadline_at) and self.attempt is not None:
            deadline_at = now + try_s
        stream = self.stream
        clock = self.proxy.clock
        if deadline_at:
            stream.deadline = tick = clock.at(deadline_at - now) if deadline_at > now else clock.tick + 1
            if tick - clock.tick <= 10:
                clock.soon(stream)
        else:
            stream.deadline = NEVER

    def _wait_for_endpoints(self, now: float) -> None:
        """Wait for a first endpoint a little: a fresh start or a scale-up drops nothing."""
        pool = self.pool
        if self._endpoints_timer is not None or pool.endpoints or self.attempts:
            # There are endpoints, and all are out; or the wait is over.
            self._failed_for_good(self.reason or ("CircuitOpen" if pool.endpoints else "NoEndpoints"))
            return
        wait_s = self.proxy.settings.endpoints_wait_s
        if self.deadline_at:
            wait_s = min(wait_s, self.deadline_at - now)
        if wait_s <= 0:
            self._failed_for_good("NoEndpoints")
            return
        pool.wait(self._endpoints_came)
        self._endpoints_timer = self.proxy.loop.call_later(wait_s, self._endpoints_came)

    def _endpoints_came(self) -> None:
        timer = self._endpoints_timer
        if timer is None or self.over:
            return
        timer.cancel()
        self.pool.stop_waiting(self._endpoints_came)
        self._try(monotonic())

    def _plan_hedge(self, now: float) -> None:
        """Look again at the live percentile of response times: a request still without an answer then is hedged."""
        backend = self.backend
        hedge = backend.hedge
        assert hedge is not None
        if self.line.method not in IDEMPOTENT or not self.complete or self._upgrade:
            return
        delay_s = hedging.delay_s(hedge, self.pool.latencies, now)
        if delay_s is not None:
            self.proxy.hedges.after(delay_s, self, now)

    def hedge_now(self, now: float) -> None:
        """Begin a second attempt beside the first one, if it still makes sense and the budget allows."""
        first = self.attempt
        hedge = self.backend.hedge
        if self.over or self.responding or first is None or self.hedge is not None or hedge is None or self.attempts > 1:
            return
        pool = self.pool
        live = tuple(state for state in pool.live if state is not first.endpoint and state.breaker.state == "closed")
        if not live or not hedging.may_hedge(
            hedge, pool.hedge_budget, pool.limiter, now, idempotent=True, replayable=self._replayable
        ):
            return
        endpoint = pool.pick(live, self.hash_key, now)
        second = Attempt(self, endpoint, self.attempts, False, now)
        self.attempts += 1
        second.hedge = True
        self.hedge = second
        self.proxy.measurements.hedge(self.upstream_id)
        idle = endpoint.idle
        while idle:
            connection = idle.pop()
            if not connection.closed:
                second.send(connection)
                return
        self._open(second)

    def request_bytes(self, attempt: Attempt) -> bytes:
        """Return what an attempt sends first: the head, with what is its own, and what of the body is here."""
        lines = self.context
        aside = self.block.aside
        if attempt.number:
            lines = self.proxy.contexts.again(lines, aside)
        attempt.context = lines
        if not self.authority:
            # An HTTP/1.0 client without a Host header; HTTP/1.1 upstream has to have one.
            lines += b"host: %b\r\n" % attempt.endpoint.authority.encode()
        if aside is not None:
            lines += deadlines.remaining_lines(aside, self.deadline_at - monotonic() if self.deadline_at else 0.0)
        body = self.body
        pending = self._pending
        if pending:
            body = b"".join((body, *pending))
            pending.clear()
            self._pending_bytes = 0
            self.stream.resume()
        if not self.complete:
            self._pending = None
            self._replayable = False
            self.body = b""
            grow_writes(attempt.connection, self.block.length)  # type: ignore[arg-type]  # it is being sent on
        return b"".join((self.lines, lines, b"\r\n", body))

    def shed(self) -> None:
        """Answer at once: the gateway serves as many requests as it can."""
        self.context = self.proxy.contexts.start(None)
        self.request_id = self.context[16:48]
        self.refuse("Overloaded")

    def fail(self) -> None:
        """A bug of ours: nobody is left waiting for it."""
        if self.over:
            return
        self.call_off()
        if self.status:
            self._break_off("InternalError")
        else:
            self.refuse("InternalError")

    def too_slow(self) -> None:
        """The request's body comes slower than the gateway waits for."""
        if self.over:
            return
        responding = self.responding
        self.call_off()
        if responding:
            self._break_off("SlowClient")
        else:
            self.refuse("BodyTimeout")

    @property
    def head_only(self) -> bool:
        """Whether it is a HEAD request."""
        return self.line.method == "HEAD"

    @property
    def tunnelled(self) -> bool:
        """Whether the connection was upgraded."""
        return self._tunnel

    @property
    def upgrades(self) -> bool:
        """Whether the client asked for a WebSocket."""
        return self._upgrade

    # ---- what attempts report

    def attempt_failed(self, attempt: Attempt, outcome: Outcome, reason: str, *, nothing_sent: bool, now: float) -> None:
        """An attempt ended without a response to pass on. reason: of `replies.TITLES`, should it be the last."""
        if self.failed is None:
            self.failed = []
        self.failed.append(attempt)
        if attempt is self.hedge:
            self.hedge = None
            if self.attempt is not None:
                return  # the first one still runs
        elif self.hedge is not None:
            # The hedge goes on in the place of the one that failed.
            self.attempt, self.hedge = self.hedge, None
            return
        else:
            self.attempt = None
        self.reason = reason
        if outcome is Outcome.STALE:
            if nothing_sent or (self.line.method in IDEMPOTENT and self._replayable):
                # Not the endpoint's failure: a connection it had closed. Its other idle ones are likely as stale.
                self.proxy.connector.flush(attempt.endpoint)
                self._try(now, fresh=True)
                return
            outcome = Outcome.RESET
        if not self.try_again(attempt, outcome, nothing_sent=nothing_sent, now=now):
            self._failed_for_good(reason)

    def may_follow(self, attempt: Attempt, outcome: Outcome, now: float) -> bool:
        """Return whether a response is not passed on, because another attempt runs or follows."""
        other = self.attempt if attempt is self.hedge else self.hedge
        if other is not None and not other.released:
            self.attempt, self.hedge = other, None
        elif self.try_again(attempt, outcome, nothing_sent=False, now=now):
            self.attempt = None
        else:
            return False
        if self.failed is None:
            self.failed = []
        self.failed.append(attempt)
        return True

    def try_again(self, attempt: Attempt, outcome: Outcome, *, nothing_sent: bool, now: float) -> bool:
        """Return whether another attempt follows; it is arranged then."""
        wait_s = may_retry(
            self.line.method in IDEMPOTENT,
            outcome,
            self.backend.retry,
            self.attempts,
            self._replayable,
            nothing_sent,
            self.pool.budget,
            now,
            self.deadline_at or None,
            self.proxy.rng,
        )
        if wait_s is None:
            retry = self.backend.retry
            if self._replayable and self.attempts <= retry.attempts and outcome.value in retry.on:
                self.proxy.measurements.budget_spent(self.upstream_id)
            return False
        if self.tried is None:
            self.tried = set()
        self.tried.add(attempt.endpoint.authority)
        self.proxy.measurements.retry(self.upstream_id)
        self._delay = self.proxy.loop.call_later(wait_s, self._retry)
        return True

    def _retry(self) -> None:
        self._delay = None
        if not self.over:
            self._try(monotonic())

    def _failed_for_good(self, reason: str) -> None:
        """No attempt answered, and none follows: the rule's fallback, else the gateway's own answer."""
        if self._pass:
            self._pass = False
            breaker = self.pool.service_breaker
            if breaker is not None:
                breaker.abandon(probe=breaker.state == "half-open")
        fallback = self.plan.fallback
        if fallback is not None and not self._fell_back and replies.TITLES[reason][0] in (502, 503, 504):
            self._fell_back = True
            self.proxy.measurements.fallback(self.upstream_id)
            if fallback.backend is not None and self._replayable and not self.over:
                self._release_limiter(0.0, ok=False)
                self.reason = ""
                self.tried = None
                self._endpoints_timer = None
                self._enter(fallback.backend, monotonic())
                return
            if fallback.policy.reply is not None:
                self.reason = reason
                self.reply(_direct(fallback.policy.reply))
                return
        if reason == "RequestTimeout" and not self.complete:
            # Not the endpoint's failure: a few slow uploads must not open its circuit.
            reason = "BodyTimeout"
        self.refuse(reason)

    def answered(
        self, attempt: Attempt, status: StatusLine, block: ResponseBlock, length: int, data: bytes, complete: bool
    ) -> None:
        """Pass a response on to the client. The attempt is the winner; any other one is called off."""
        hedge = self.hedge
        if hedge is not None:
            loser = self.attempt if attempt is hedge else hedge
            self.attempt = attempt
            self.hedge = None
            if loser is not None and loser is not attempt:
                loser.cancel()
        self.responding = True
        self.reason = ""
        sessions = self.backend.sessions
        if sessions is not None and self.sticky is not attempt.endpoint:
            secure = self.stream.secure
            self.response_lines += sessions.lines(attempt.endpoint, self.proxy.now_unix(), secure=secure)
        size = self.plan.size
        if size is not None and size.response_bytes and max(length, len(data)) > size.response_bytes:
            if not complete:
                attempt.cancel()
            self.refuse("ResponseTooLarge")
            return
        if self.hooked is not None or status.code == 101:
            self._respond_hooked(attempt, status, block, length, data, complete)
            return
        lines = block.forward
        if not block.has_date:
            lines += self.proxy.date_line
        if self.response_lines:
            lines += self.response_lines
        self._pass_on(attempt, status.code, status.line, lines, length, data, complete)

    def _pass_on(
        self, attempt: Attempt, code: int, status_line: bytes, lines: bytes, length: int, data: bytes, complete: bool
    ) -> None:
        self.status = code
        self.bytes_out = len(data)
        stream = self.stream
        if complete:
            self._over(attempt, stream)
            stream.respond(status_line, lines, length, data, True)
            return
        idle_s = self.backend.timeouts.idle_s
        stream.deadline = self.proxy.clock.at(idle_s)
        stream.respond(status_line, lines, length, data, False)
        if stream.blocked:
            attempt.pause()

    def _respond_hooked(
        self, attempt: Attempt, status: StatusLine, block: ResponseBlock, length: int, data: bytes, complete: bool
    ) -> None:
        """Run response filters and plugins; the body waits meanwhile."""
        came = ResponseHead(status.code, block.headers)

        def go_on(answer: ResponseHead) -> None:
            if self.over:
                return
            if answer is came:
                line, lines = status.line, block.forward
                if not block.has_date:
                    lines += self.proxy.date_line
            else:
                line = status.line if answer.status == status.code else replies.status_line(answer.status)
                lines = requests.render(answer.headers) + block.framing
                if not any(name == "date" for name, _ in answer.headers):
                    lines += self.proxy.date_line
            lines += self.response_lines
            if status.code == 101:
                self._switch(attempt, block, lines, data)
                return
            self._pass_on(attempt, answer.status, line, lines, length, data, complete)
            attempt.let_go()

        if not complete:
            attempt.hold()
        if self.hooked is None:
            go_on(came)
        else:
            self.hooked.respond(came, go_on)

    def data(self, data: bytes) -> None:
        """Pass a piece of the response's body on."""
        self.bytes_out += len(data)
        size = self.plan.size
        if size is not None and size.response_bytes and self.bytes_out > size.response_bytes:
            self._break_off("ResponseTooLarge")
            return
        stream = self.stream
        stream.deadline = self.proxy.clock.at(self.backend.timeouts.idle_s)
        stream.write(data)

    def ended(self, attempt: Attempt) -> None:
        """The response is complete."""
        stream = self.stream
        if self._tunnel:
            self._over(attempt, stream)
            stream.close_tunnel()
            return
        self._over(attempt, stream)
        stream.finish()

    def broke_off(self, attempt: Attempt) -> None:
        """The upstream broke off in the middle of its response."""
        if self._tunnel:
            self._over(attempt, self.stream)
            self.stream.close_tunnel()
            return
        self._break_off("UpstreamReset")

    def _break_off(self, reason: str) -> None:
        # The status is gone out: the only honest end is one that the client cannot take for a whole response.
        self.reason = reason
        attempt = self.attempt
        if attempt is not None and not attempt.released:
            attempt.cancel()
        log.info("response of %s broken off: %s", attempt.endpoint.authority if attempt is not None else "-", reason)
        stream = self.stream
        self._over(None, stream)
        stream.abort()

    def _switch(self, attempt: Attempt, block: ResponseBlock, lines: bytes, data: bytes) -> None:
        self._tunnel = True
        self.status = 101
        stream = self.stream
        stream.deadline = self.proxy.clock.at(self.backend.timeouts.idle_s)
        ahead = stream.switch(
            b"HTTP/1.1 101 Switching Protocols\r\n%bconnection: upgrade\r\nupgrade: %b\r\n\r\n%b"
            % (lines, block.upgrade, data)
        )
        self.bytes_out += len(data)
        attempt.let_go()
        if ahead and attempt.connection is not None:
            attempt.connection.write(ahead)

    # ---- what the client does

    def on_body(self, data: bytes, complete: bool) -> None:
        """Pass a piece of the request's body on, or hold it."""
        self.body_seen += len(data)
        if complete:
            self.complete = True
        plan = self.plan if self.entry is not None else None
        if plan is not None and plan.size is not None and 0 < plan.size.request_bytes < self.body_seen:
            self.call_off()
            self.refuse("BodyTooLarge")
            return
        holding = self._holding
        if holding is not None:
            holding.append(data)
            self._more_time()
            if complete:
                self.body = b"".join(holding)
                self._holding = None
                self._until_body = False
                self._replayable = True
                self._try(monotonic())
            return
        attempt = self.attempt
        if attempt is None or self._pending is not None or attempt.connection is None:
            # Nobody takes it yet: plugins are at work, or the connection is being opened.
            pending = self._pending
            if pending is None:
                pending = self._pending = []
            pending.append(data)
            self._pending_bytes += len(data)
            if self._pending_bytes > _MAX_PENDING_BYTES and not complete:
                self.stream.pause()
            return
        if data:
            attempt.connection.write(data)
        if not self.responding:
            self._more_time()

    def _more_time(self) -> None:
        """While a body comes, its end is what the request's time is counted from."""
        request_s = self.backend.timeouts.request_s
        if request_s and self.deadline_at:
            now = monotonic()
            self.deadline_at = max(self.deadline_at, now + request_s)
            self._set_deadline(now)

    def on_refused(self, refused: Refused) -> None:
        """The request's body is not valid HTTP."""
        self.call_off()
        if self.responding:
            self._break_off("BadRequest")
        else:
            self.refuse("BadRequest", refused.detail)

    def on_gone(self) -> None:
        """The client left: call the upstream off."""
        if self.over:
            return
        if self._tunnel and self.attempt is not None and self.attempt.connection is not None:
            attempt = self.attempt
            connection = attempt.connection
            self._over(attempt, self.stream)
            if connection is not None:
                connection.close()
            return
        self.call_off()
        self.reason = "ClientClosed"
        self.status = self.status or CLIENT_CLOSED
        self._over(None, self.stream)

    def on_blocked(self) -> None:
        """The client reads slowly."""
        if self.attempt is not None:
            self.attempt.pause()

    def on_ready(self) -> None:
        """The client reads on."""
        if self.attempt is not None:
            self.attempt.resume()

    def on_tunnel(self, data: bytes) -> None:
        """Pass bytes of an upgraded connection on."""
        self.stream.deadline = self.proxy.clock.at(self.backend.timeouts.idle_s)
        attempt = self.attempt
        if attempt is not None and attempt.connection is not None:
            attempt.connection.write(data)

    def on_late(self) -> None:
        """Time is over: the attempt's, the request's, or the silence allowed in a response or tunnel."""
        if self._tunnel:
            attempt = self.attempt
            if attempt is not None and attempt.connection is not None:
                attempt.connection.close()
            self._over(attempt, self.stream)
            self.stream.close_tunnel()
            return
        if self.responding:
            self._break_off("UpstreamReset" if not self.stream.blocked else "ClientClosed")
            return
        if self._until_body:
            self.refuse("BodyTimeout")
            return
        now = monotonic()
        attempt = self.attempt
        if attempt is None:
            if self._delay is None and self._endpoints_timer is None:
                # Still in the bulkhead's queue.
                limiter = self.pool.limiter
                if limiter is not None:
                    limiter.leave(self._admitted)
            self.refuse("RequestTimeout")
            return
        if not self.complete and (not self.deadline_at or now >= self.deadline_at - 0.05):
            self.call_off()
            self.refuse("BodyTimeout")
            return
        hedge = self.hedge
        if hedge is not None:
            hedge.cancel()
            self.hedge = None
        attempt.timed_out(now)

    # ---- the end

    def refuse(self, reason: str, detail: str = "", *, retry_after_s: float = 0.0) -> None:
        """Answer with the gateway's own problem. reason: of `replies.TITLES`."""
        if self.over:
            return
        self.reason = reason
        self.proxy.measurements.refused(reason)
        reply = replies.problem(reason, self.request_id.decode("latin-1"), detail, retry_after_s=retry_after_s)
        self._send_reply(reply)

    def reply(self, reply: Reply) -> None:
        """Answer with what a plugin, a filter or the rule said; response hooks run over it."""
        if self.hooked is None:
            self._send_reply(reply)
            return
        self.hooked.respond(
            ResponseHead(reply.status, reply.headers),
            lambda answer: self._send_reply(Reply(answer.status, answer.headers, reply.body)),
        )

    def _send_reply(self, reply: Reply) -> None:
        if self.over:
            return
        body = bytes(reply.body)
        self.status = reply.status
        self.bytes_out = 0 if self.head_only else len(body)
        lines = requests.render(reply.headers)
        if reply.status not in (204, 304):
            lines += b"content-length: %d\r\n" % len(body)
        else:
            body = b""
        lines += self.proxy.own_lines
        stream = self.stream
        if self.reason in _CLOSING:
            stream.keep = False
        self._over(None, stream)
        stream.respond(replies.status_line(reply.status), lines, len(body), b"" if self.head_only else body, True)

    def call_off(self) -> None:
        """Cancel whatever runs upstream."""
        self.responding = False
        for attempt in (self.attempt, self.hedge):
            if attempt is not None and not attempt.released:
                attempt.cancel()
        self.attempt = self.hedge = None

    def _release_limiter(self, seconds: float, *, ok: bool) -> None:
        if self._limiter_held:
            self._limiter_held = False
            limiter = self.pool.limiter
            if limiter is not None:
                limiter.release(monotonic(), seconds, ok=ok)

    def _over(self, attempt: Attempt | None, stream: ServerConnection) -> None:
        """Settle everything; the exchange is over. attempt: the one that answered, whose endpoint is given back."""
        if self.over:
            return
        self.over = True
        stream.requestor = None
        if attempt is not None:
            attempt.release()
        if self._delay is not None:
            self._delay.cancel()
        if self._endpoints_timer is not None:
            self._endpoints_timer.cancel()
            self.pool.stop_waiting(self._endpoints_came)
        now = monotonic()
        if self._limiter_held:
            self._release_limiter(now - self.started_at, ok=self.status < 500)
        if self._pass:
            breaker = self.pool.service_breaker
            if breaker is not None and breaker.watching:
                breaker.abandon(probe=breaker.state == "half-open")
        self.proxy.ended(self, now)

    def finished(self, now: float) -> Finished:
        """Return what log and traces keep of the exchange. For those that are wanted there, when it is over."""
        entry = self.entry
        tried = self.failed or []
        if self.attempt is not None and self.attempt not in tried:
            tried = [*tried, self.attempt]
        proxy = self.proxy
        peer, aside = self.stream.context, self.block.aside
        return Finished(
            self.line,
            self.block,
            proxy.forwarding.client_ip(peer, aside),
            self.request_id,
            self.context,
            self.started_at,
            now,
            self.status,
            self.reason,
            entry.route.id if entry is not None else "",
            entry.rule.id if entry is not None else "",
            self.upstream_id,
            tuple(each.tried(now) for each in tried),
            self.body_seen,
            self.bytes_out,
            proxy.forwarding.scheme(peer, aside),
            tuple(self.hooked.times) if self.hooked is not None else (),
        )

    # ---- what hash keys see

    def header(self, name: str) -> str | None:
        """Return a request header as received, repeats joined. name: lower-case."""
        return self.block.joined.get(name)

    @property
    def query(self) -> str:
        """The raw query."""
        return self.line.query

    @property
    def client_ip(self) -> str:
        """The client's address, as trusted proxies tell it."""
        return self.proxy.forwarding.client_ip(self.stream.context, self.block.aside)


_CLOSING = frozenset({"BadRequest", "BodyTimeout", "MethodRefused", "HeadTooLarge", "BodyTooLarge"})


def _direct(reply: DirectReply) -> Reply:
    return Reply(reply.status, (("content-type", reply.content_type),), reply.body.encode())
