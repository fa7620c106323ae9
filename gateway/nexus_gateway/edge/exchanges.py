"""One request from head to last byte, whatever protocol its two sides speak.

The only link between a client's stream and upstream connections. Order of the steps: route, limits, faults, plugins and
filters, backend by weight, service breaker and bulkhead, attempts until one answers or none may follow, response filters
and plugins in reverse, body passed on with back-pressure. Each decision is a pure room's, synchronous, on values; this
module does what they say. A request that finds an idle connection costs no task, future or timer.

This module is the way to the upstream; `answering` is the way back.
"""

from __future__ import annotations

import math
from time import monotonic
from typing import TYPE_CHECKING

from nexus_wire.client import grow_writes
from nexus_wire.clock import NEVER
from nexus_wire.http1 import Refused
from nexus_wire.server import ServerConnection

from nexus_gateway.balance.availability import is_available
from nexus_gateway.edge import replies, requests
from nexus_gateway.edge.answering import CLIENT_CLOSED, Answering
from nexus_gateway.edge.attempts import Attempt
from nexus_gateway.edge.hooked import Hooked
from nexus_gateway.edge.pools import Pool
from nexus_gateway.edge.runtimes import Backend, Runtime
from nexus_gateway.filters import fallbacks
from nexus_gateway.filters.direct_replies import build_reply
from nexus_gateway.filters.sizes import refuses_request
from nexus_gateway.resilience import deadlines, hedging
from nexus_gateway.resilience.attempts import IDEMPOTENT, Blame, Outcome, blame_for_delay, choose, may_retry, names
from nexus_gateway.resilience.breakers import CLOSED
from nexus_gateway.resilience.endpoints import EndpointState

if TYPE_CHECKING:
    from nexus_gateway.edge.proxy import Proxy

_MAX_PENDING_BYTES = 65536
"""Of a streamed body, held while its connection opens; the client is paused beyond."""


class Exchange(Answering):
    """A request being served."""

    __slots__ = ()

    def __init__(self, proxy: Proxy, stream: ServerConnection, runtime: Runtime, now: float) -> None:
        self.proxy = proxy
        self.stream = stream
        self.runtime = runtime
        self.line = stream.line
        self.block = stream.block
        self.body = body = stream.body
        self.bytes_in = len(body)
        self.complete = stream.complete
        self.started_at = now
        self.context = self.request_id = b""
        self.entry = None
        self.backend = self.pool = None
        self.hooked = None
        self.attempt = None
        self.extra = None
        self.attempts = self.status = self.bytes_out = 0
        self.reason = ""
        self.responding = self.over = self.limited = False

    # ---- the way to a backend

    def run(self) -> None:
        """Route the request and set out. Everything goes on from callbacks."""
        block = self.block
        line = self.line
        aside = block.aside
        self.context = context = self.proxy.contexts.start(aside)
        # The trace's id serves as the request's where the client sent none: one thing less to look for in two places.
        self.request_id = context[16:48] if aside is None else requests.request_id(aside) or context[16:48]
        if aside is not None and b"x-nexus-debug" in aside and self.proxy.debugging.asked(self):
            self.extras().debug = True
        runtime = self.runtime
        host = block.host if not line.authority else requests.authority_of(line, block)[1]
        entry = runtime.router.find(line.method, host, line.path, block, line.query)
        if entry is None:
            self.refuse("RouteNotFound" if runtime.published.generation else "NotConfigured")
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
        if plan.cors is not None and self.line.method == "OPTIONS" and not Hooked(self).filter((plan.cors,)):
            return  # a preflight, answered; it counts against no limit and asks no plugin
        for limit in plan.limits:
            wait_s = limit.take(limit.key(self) if limit.key is not None else b"", now)
            if wait_s > 0.0:
                self.proxy.measurements.rate_limited(limit.name)
                self.refuse("RateLimited", retry_after_s=wait_s)
                return
        size = plan.size
        if size is not None and refuses_request(size, self.block.length, self._content()):
            self.refuse("BodyTooLarge")
            return
        if plan.fault is not None:
            delay_s, status = plan.fault.decide()
            if delay_s > 0.0:
                self.extras().delay = self.proxy.loop.call_later(delay_s, self._after_fault, status)
                return
            if status:
                self._abort_on_purpose(status)
                return
        self._prepare()

    def _after_fault(self, status: int) -> None:
        self.extras().delay = None
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
        """Run plugins and filters over the request's head, if the rule has any that need it as a value."""
        plan = self.plan
        if plan.plugins or (plan.filters and plan.lane is None):
            self.hooked = hooked = Hooked(self)
            if not hooked.plugins(plan.plugins):
                return
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
        if self.hooked is not None:
            if backend.filters and not self.hooked.filter(backend.filters):
                return
        elif backend.lane is None:
            self.hooked = Hooked(self)
            if not self.hooked.filter(plan.filters + backend.filters):
                return
        if not backend.plain or not self.complete or not self._goes_at_once(backend):
            self._enter(backend, self.started_at)

    def _goes_at_once(self, backend: Backend) -> bool:
        """Send the request on an idle connection, as nearly all go. Return whether that was all there was to do.

        The steps of `_enter`, `_begin` and `_try` in one, for a request that is here in full, to an upstream whose policies do not
        look at single requests, while everything is well.
        """
        pool = backend.pool
        now = self.started_at
        if pool is None or not pool.plain or self.extra is not None or now >= pool.look_again_at or not pool.live:
            return False
        block = self.block
        aside = block.aside
        if block.upgrade or not block.authority or (aside is not None and deadlines.are_in(aside)):
            return False
        limiter = pool.limiter
        if limiter is not None:
            if not limiter.enter():
                return False
            self.limited = True
        endpoint = pool.pick(pool.live, b"", now)
        idle = endpoint.idle
        if not idle or endpoint.breaker.state is not CLOSED:
            # The pick counts: a balancer that takes endpoints in turn would leave this one out.
            self.extras().picked = endpoint
            return False
        connection = idle.pop()
        if connection.closed:
            self.extras().picked = endpoint
            return False
        self.backend = backend
        self.pool = pool
        pool.budget.request(now)
        proxy = self.proxy
        request_s = backend.timeouts.request_s
        self.deadline_at = now + request_s if request_s else 0.0
        self.replayable = True
        self.attempts = 1
        self.attempt = attempt = Attempt(self, endpoint, 0, False, now)
        attempt.connection = connection
        attempt.context = context = self.context
        stream = self.stream
        ticks = backend.ticks
        stream.deadline = proxy.clock.tick + ticks
        if ticks <= 10:
            proxy.clock.soon(stream)
        self.lines = lines = self._compose()
        connection.begin(attempt, b"".join((lines, context, b"\r\n", self.body)), head_only=self.line.method == "HEAD")
        return True

    def _enter(self, backend: Backend, now: float) -> None:
        """Compose the request for the backend, ask for admission, and begin. now: when its time begins to run."""
        pool = backend.pool
        if pool is None:
            self.refuse("BackendNotFound")
            return
        self.backend = backend
        self.pool = pool
        aside = self.block.aside
        client_s = deadlines.client_timeout_s(aside) if aside is not None else None
        request_s = backend.timeouts.request_s
        if client_s is not None and (not request_s or client_s < request_s):
            request_s = client_s
        self.deadline_at = now + request_s if request_s else 0.0
        upgrade = self.block.upgrade
        if upgrade and not self.upgrades:
            # Another protocol is not passed on: an h2c tunnel, for one, would carry requests that no route, plugin or limit
            # ever sees. Nor is what follows read as HTTP, since its sender may not have meant it so.
            self.stream.keep = False
        self.lines = self._compose()
        self.replayable = self.complete  # until it is known whether more of it will be
        breaker = pool.service_breaker
        if breaker is not None:
            if not breaker.acquire(now):
                self._failed_for_good("CircuitOpen")
                return
            if breaker.state == "half-open":
                self.extras().service_probe = True
        pool.budget.request(now)
        if pool.key is not None:
            self.extras().hash_key = pool.key(self)
        if backend.sessions is not None:
            self.extras().sticky = backend.sessions.recall(self, pool.endpoints, self.proxy.now_unix())
        limiter = pool.limiter
        if limiter is not None and not self.limited:
            extra = self.extras()
            admitted = limiter.acquire(now, self.admitted)
            if admitted is None:
                # In the queue: `_admitted` will be called, or the deadline comes.
                extra.queued = True
                self._set_deadline(now)
                return
            if not admitted:
                self.proxy.measurements.shed("UpstreamOverloaded")
                self._failed_for_good("UpstreamOverloaded")
                return
            self.limited = True
        self._begin(now)

    def admitted(self) -> None:
        """A place in the bulkhead got free."""
        extra = self.extras()
        extra.queued = False
        self.limited = True
        if self.over:
            self.release_limiter(0.0, monotonic(), ok=False)
        else:
            self._begin(monotonic())

    def _compose(self) -> bytes:
        """Return the request's head for upstream, but for what differs between attempts."""
        block, line, backend, hooked = self.block, self.line, self.backend, self.hooked
        own = self.proxy.forwarding.lines(self.stream.context, line.authority or block.authority, block.aside)
        if hooked is not None:
            start, lines = hooked.render(own)
        else:
            start = line.start
            lines = b"".join((own, block.forward, b"x-request-id: ", self.request_id, b"\r\n"))
            lane = backend.lane if backend is not None else None
            if lane is not None:
                if lane.target is not None and self.entry is not None:
                    start = lane.target.apply_bytes(start, self.entry.match.path)
                if lane.request is not None:
                    lines = lane.request.apply_bytes(lines)
        if block.upgrade and self.upgrades:
            lines += b"connection: upgrade\r\nupgrade: websocket\r\n"
        return start + lines

    def _begin(self, now: float) -> None:
        """Send the request as soon as as much of its body is here as has to be."""
        self.replayable = True  # until a byte of an incomplete one is sent
        if not self.complete:
            if self.extra is None or not self.extra.fell_back:
                self.stream.invite()
            backend = self.backend
            assert backend is not None
            length = self.block.length
            again = backend.retry.attempts and self.line.method in IDEMPOTENT
            if (again or self.plan.mirrors) and 0 < length <= self.proxy.max_replay_bytes:
                # Held so that it can be sent again, or copied.
                extra = self.extras()
                extra.holding = [self.body, *(extra.pending or ())]
                extra.pending = None
                extra.until_body = True
                self._set_deadline(now)
                return
        self._whole(now)

    def _whole(self, now: float) -> None:
        """Send the request, and its copies if all of it is here."""
        extra = self.extra
        if self.complete and extra is not None and extra.pending is not None:
            # What came while plugins were at work.
            self.body = b"".join((self.body, *extra.pending))
            extra.pending = None
        if self.plan.mirrors and (extra is None or not extra.fell_back):
            if self.complete:
                self.proxy.mirrors.send(self, self.plan.mirrors)
            else:
                self.proxy.mirrors.give_up(self.plan.mirrors)
        self._try(now)

    # ---- attempts

    def _try(self, now: float, *, fresh: bool = False) -> None:
        """Begin an attempt. fresh: on a connection of its own, because a kept one proved stale."""
        pool, backend = self.pool, self.backend
        assert pool is not None
        assert backend is not None
        if now >= pool.look_again_at:
            pool.refresh(now)
        if not pool.live:
            self._wait_for_endpoints(pool, now)
            return
        if self.deadline_at and now >= self.deadline_at:
            self._failed_for_good(self.reason or "RequestTimeout")
            return
        found = self._find_endpoint(pool, now)
        if found is None:
            self._failed_for_good(self.reason or "CircuitOpen")
            return
        endpoint, probe = found
        self.attempt = attempt = Attempt(self, endpoint, self.attempts, probe, now)
        self.attempts += 1
        self._set_deadline(now)
        self._connect(attempt, fresh=fresh)
        if backend.hedge is not None and attempt.number == 0 and not self.over:
            self._plan_hedge(now)

    def _find_endpoint(self, pool: Pool, now: float) -> tuple[EndpointState, bool] | None:
        """Return an endpoint whose circuit lets the attempt pass, and whether it is a probe; None for none."""
        for _ in range(2):
            endpoint = self._pick(pool, now)
            breaker = endpoint.breaker
            if not breaker.watching or breaker.state == "closed":
                return endpoint, False
            if breaker.acquire(now):
                # The place for probes is taken: others go elsewhere.
                probe = breaker.state == "half-open"
                pool.dirty()
                return endpoint, probe
            pool.refresh(now)
            if not pool.live:
                break
        return None

    def _pick(self, pool: Pool, now: float) -> EndpointState:
        extra = self.extra
        live = pool.live
        if extra is None:
            return pool.pick(live, b"", now)
        if extra.picked is not None:
            picked, extra.picked = extra.picked, None
            if picked in live:
                return picked
        if extra.tried is None:
            sticky = extra.sticky
            if sticky is not None and is_available(sticky, now):
                return sticky
            return pool.pick(live, extra.hash_key, now)
        return choose(live, extra.tried, pool.pick, extra.hash_key, now)

    def _connect(self, attempt: Attempt, *, fresh: bool = False) -> None:
        """Give the attempt an idle connection of its endpoint, or have one opened."""
        if not fresh:
            assert self.pool is not None
            connection = self.proxy.connector.take(attempt.endpoint, self.pool.upstream.tls, self.host)
            if connection is not None:
                attempt.send(connection)
                return
        self.open(attempt)

    def open(self, attempt: Attempt) -> None:
        """Have a connection opened for the attempt."""
        pool, backend = self.pool, self.backend
        assert pool is not None
        assert backend is not None
        if not self.complete:
            extra = self.extras()
            if extra.pending is None:
                extra.pending = []
        upstream = pool.upstream
        limit = upstream.concurrency.max_connections
        self.proxy.connector.open(attempt, attempt.endpoint, upstream.tls, self.host, backend.timeouts.connect_s, limit)

    def _set_deadline(self, now: float) -> None:
        """Have `on_late` called when the attempt's, or the request's, time is over."""
        assert self.backend is not None
        deadline_at = self.deadline_at
        try_s = self.backend.timeouts.try_s
        attempt = self.attempt
        if try_s and (not deadline_at or now + try_s < deadline_at) and attempt is not None and not attempt.status:
            deadline_at = now + try_s
        stream = self.stream
        clock = self.proxy.clock
        if deadline_at:
            stream.deadline = clock.at(deadline_at - now) if deadline_at > now else clock.tick + 1
            clock.soon(stream)
        else:
            stream.deadline = NEVER

    def _wait_for_endpoints(self, pool: Pool, now: float) -> None:
        """Wait for a first endpoint a little: a fresh start or a scale-up drops nothing."""
        extra = self.extras()
        if extra.waiting is not None or pool.endpoints or self.attempts:
            # There are endpoints, and all are out; or the wait is over.
            self._failed_for_good(self.reason or ("CircuitOpen" if pool.endpoints else "NoEndpoints"))
            return
        wait_s = self.proxy.settings.endpoints_wait_s
        if self.deadline_at:
            wait_s = min(wait_s, self.deadline_at - now)
        if wait_s <= 0:
            self._failed_for_good("NoEndpoints")
            return
        pool.wait(self.endpoints_came)
        extra.waiting = self.proxy.loop.call_later(wait_s, self.endpoints_came)

    def endpoints_came(self) -> None:
        """There is a first endpoint, or the wait for one is over."""
        extra, pool = self.extra, self.pool
        if extra is None or extra.waiting is None or self.over or pool is None:
            return
        extra.waiting.cancel()
        pool.stop_waiting(self.endpoints_came)
        self._try(monotonic())

    def _plan_hedge(self, now: float) -> None:
        """Look again at the live percentile of response times: a request still without an answer then is hedged."""
        backend, pool = self.backend, self.pool
        assert backend is not None
        assert pool is not None
        if backend.hedge is None or self.line.method not in IDEMPOTENT or not self.complete or self.upgrades:
            return
        delay_s = hedging.delay_s(backend.hedge, pool.latencies, now)
        if delay_s is not None:
            self.proxy.hedges.after(delay_s, self, now)

    def hedge_now(self, now: float) -> None:
        """Begin a second attempt beside the first one, if it still makes sense and the budget allows."""
        first, pool, backend = self.attempt, self.pool, self.backend
        if self.over or self.responding or first is None or first.released or self.attempts > 1:
            return
        if pool is None or backend is None or backend.hedge is None:
            return
        live = tuple(state for state in pool.live if state is not first.endpoint and state.breaker.state == "closed")
        if not live:
            return
        if not hedging.may_hedge(
            backend.hedge, pool.hedge_budget, pool.limiter, now, idempotent=True, replayable=self.replayable
        ):
            self.proxy.measurements.hedge_budget_spent(self.upstream_id)
            return
        extra = self.extras()
        endpoint = pool.pick(live, extra.hash_key, now)
        extra.hedge = second = Attempt(self, endpoint, self.attempts, False, now)
        self.attempts += 1
        second.hedge = True
        self.proxy.measurements.hedge(self.upstream_id)
        self._connect(second)

    def request_bytes(self, attempt: Attempt) -> bytes:
        """Return what an attempt sends first: the head, with what is its own, and what of the body is here."""
        lines = self.context
        aside = self.block.aside
        if attempt.number:
            lines = self.proxy.contexts.again(lines, aside)
        attempt.context = lines
        if not self.block.authority and not self.line.authority:
            # An HTTP/1.0 client without a Host header; HTTP/1.1 upstream has to have one.
            lines += b"host: %b\r\n" % attempt.endpoint.authority.encode()
        if aside is not None:
            lines += deadlines.remaining_lines(aside, self.deadline_at - monotonic() if self.deadline_at else 0.0)
        body = self.body
        extra = self.extra
        if extra is not None and extra.pending is not None:
            body = b"".join((body, *extra.pending))
            extra.pending_bytes = 0
            extra.pending = None
            if self.complete:
                self.body = body
            self.stream.resume()
        if not self.complete:
            self.replayable = False
            self.body = b""
            assert attempt.connection is not None
            grow_writes(attempt.connection, self.block.length)
        return b"".join((self.lines, lines, b"\r\n", body))

    # ---- what attempts report

    def attempt_failed(
        self, attempt: Attempt, outcome: Outcome, reason: str, *, nothing_sent: bool, now: float
    ) -> None:
        """An attempt ended without a response to pass on. reason: of `replies.TITLES`, should it be the last."""
        extra = self.extras()
        extra.failed.append(attempt)
        if attempt is extra.hedge:
            extra.hedge = None
            if self.attempt is not None and not self.attempt.released:
                return  # the first one still runs
        elif extra.hedge is not None:
            # The hedge goes on in the place of the one that failed.
            self.attempt, extra.hedge = extra.hedge, None
            return
        self.attempt = None
        self.reason = reason
        if outcome is Outcome.STALE:
            if nothing_sent or (self.line.method in IDEMPOTENT and self.replayable):
                # Not the endpoint's failure: a connection it had closed. Its other idle ones are likely as stale.
                self.proxy.connector.flush(attempt.endpoint)
                self._try(now, fresh=True)
                return
            outcome = Outcome.RESET
        if not self._try_again(attempt, outcome, nothing_sent=nothing_sent, now=now):
            self._failed_for_good(reason)

    def repeats(self, status: int) -> bool:
        """Return whether the policy repeats requests that are answered so. For statuses that are no failures of an endpoint."""
        backend = self.backend
        return backend is not None and names(backend.retry, Outcome.ANSWERED, status)

    def may_follow(self, attempt: Attempt, outcome: Outcome, now: float) -> bool:
        """Return whether a response is not passed on, because another attempt runs or follows."""
        extra = self.extras()
        other = self.attempt if attempt is extra.hedge else extra.hedge
        if other is not None and not other.released:
            self.attempt, extra.hedge = other, None
        elif not self._try_again(attempt, outcome, nothing_sent=False, now=now):
            return False
        extra.failed.append(attempt)
        return True

    def _try_again(self, attempt: Attempt, outcome: Outcome, *, nothing_sent: bool, now: float) -> bool:
        """Return whether another attempt follows; it is arranged then."""
        pool, backend = self.pool, self.backend
        assert pool is not None
        assert backend is not None
        retry = backend.retry
        idempotent = self.line.method in IDEMPOTENT
        wait_s = may_retry(
            idempotent, outcome, retry, self.attempts, self.replayable, nothing_sent, pool.budget, now,
            self.deadline_at or None, self.proxy.rng, attempt.status,
        )  # fmt: skip
        if wait_s is None:
            if (
                self.replayable
                and idempotent
                and self.attempts <= retry.attempts
                and names(retry, outcome, attempt.status)
            ):
                self.proxy.measurements.budget_spent(self.upstream_id)
            return False
        extra = self.extras()
        if extra.tried is None:
            extra.tried = set()
        extra.tried.add(attempt.endpoint.authority)
        self.attempt = None
        self._set_deadline(now)  # the request's: the attempt's own is over
        self.proxy.measurements.retry(self.upstream_id)
        extra.delay = self.proxy.loop.call_later(wait_s, self._retry)
        return True

    def _retry(self) -> None:
        self.extras().delay = None
        if not self.over:
            self._try(monotonic())

    def _failed_for_good(self, reason: str) -> None:
        """No attempt answered, and none follows: the rule's fallback, else the gateway's own answer."""
        extra = self.extras()
        fallback = self.plan.fallback
        if fallback is not None and not self.over:
            choice = fallbacks.choose(
                fallback.policy,
                replies.TITLES[reason][0],
                tried=extra.fell_back,
                idempotent=self.line.method in IDEMPOTENT,
                replayable=self.replayable,
                nothing_sent=all(attempt.connection is None for attempt in extra.failed),
            )
            if choice is not fallbacks.Choice.NONE and not extra.fell_back:
                self.proxy.measurements.fallback(self.upstream_id)
            if choice is fallbacks.Choice.UPSTREAM and fallback.backend is not None:
                extra.fell_back = True
                self._settle(extra)
                if self.limited:
                    self._give_place_back(monotonic())
                extra.tried = extra.sticky = extra.waiting = extra.delay = None
                self.reason = ""
                self._enter(fallback.backend, monotonic())
                return
            if choice is not fallbacks.Choice.NONE and fallback.policy.reply is not None:
                self.reason = reason
                self.reply(build_reply(fallback.policy.reply))
                return
        self.refuse(reason)

    # ---- what the client does

    def on_body(self, data: bytes, complete: bool) -> None:
        """Pass a piece of the request's body on, or hold it."""
        self.bytes_in += len(data)
        self.complete = complete
        size = self.plan.size if self.entry is not None else None
        if size is not None and refuses_request(size, -1, self._content()):
            responding = self.responding
            self.call_off()
            if responding:
                self._break_off("BodyTooLarge")
            else:
                self.refuse("BodyTooLarge")
            return
        extra = self.extra
        if extra is not None and extra.holding is not None:
            extra.holding.append(data)
            if complete:
                self.body = b"".join(extra.holding)
                extra.holding = None
                extra.until_body = False
                self._whole(monotonic())
            else:
                self._more_time()
            return
        attempt = self.attempt
        if attempt is None or attempt.connection is None:
            # Nobody takes it yet: plugins are at work, or the connection is being opened.
            extra = self.extras()
            if extra.pending is None:
                extra.pending = []
            extra.pending.append(data)
            extra.pending_bytes += len(data)
            if extra.pending_bytes > _MAX_PENDING_BYTES and not complete:
                self.stream.pause()
            return
        if data:
            attempt.connection.write(data)
        if not self.responding:
            self._more_time()

    def _content(self) -> int:
        """Return how much of the body has come, or is announced by the chunk that is coming: without the chunks' framing."""
        return self.bytes_in if self.block.length >= 0 else self.stream.content

    def _more_time(self) -> None:
        """While a body comes, its end is what the route's time for a request is counted from. The client's own holds as it is."""
        backend = self.backend
        if backend is None or not self.deadline_at:
            return
        now = monotonic()
        request_s = backend.timeouts.request_s
        if request_s:
            self.deadline_at = max(self.deadline_at, min(now + request_s, self._clients_deadline_at()))
        self._set_deadline(now)

    def _clients_deadline_at(self) -> float:
        """Return until when the client waits, as it says itself; infinite when it says nothing."""
        aside = self.block.aside
        client_s = deadlines.client_timeout_s(aside) if aside is not None else None
        return math.inf if client_s is None else self.started_at + client_s

    def on_refused(self, refused: Refused) -> None:
        """The request's body is not valid HTTP."""
        responding = self.responding
        self.call_off()
        if responding:
            self._break_off("BadRequest")
        else:
            self.refuse("BadRequest", refused.detail)

    def on_gone(self) -> None:
        """The client left: call the upstream off."""
        if self.over:
            return
        attempt = self.attempt
        if self.tunnelled and attempt is not None and attempt.connection is not None:
            # What the client sent last is still written.
            connection = attempt.connection
            self._over(attempt)
            connection.close()
            return
        self.call_off()
        self.reason = "ClientClosed"
        self.status = self.status or CLIENT_CLOSED
        self._over(None)

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
        attempt = self.attempt
        if attempt is not None and attempt.connection is not None and self.backend is not None:
            self.stream.deadline = self.proxy.clock.tick + self.backend.idle_ticks
            attempt.connection.write(data)

    def on_late(self) -> None:
        """Time is over: the attempt's, the request's, or the silence allowed in a response or tunnel."""
        attempt, extra = self.attempt, self.extra
        if extra is not None and extra.tunnel:
            if attempt is not None and attempt.connection is not None:
                attempt.connection.close()
            self._over(attempt)
            self.stream.close_tunnel()
            return
        if self.responding:
            self._break_off("ClientClosed" if self.stream.blocked else "UpstreamReset")
            return
        if extra is not None and extra.until_body:
            self.refuse("BodyTimeout")
            return
        if attempt is None:
            self._leave_queue()
            self._failed_for_good("RequestTimeout")
            return
        now = monotonic()
        connection = attempt.connection
        blame = blame_for_delay(
            answered=attempt.status != 0,
            complete=self.complete,
            taking=connection is not None and not connection.blocked,
            clients=now >= self._clients_deadline_at(),
        )
        if blame is Blame.CLIENT:
            self.call_off()
            self.refuse("BodyTimeout")
        elif blame is not Blame.GATEWAY:
            self.drop_hedge()
            attempt.timed_out(blamed=blame is Blame.ENDPOINT)
        elif self.deadline_at and now >= self.deadline_at:
            self.call_off()
            self.refuse("RequestTimeout", "Plugins were not done with the upstream's answer in time.")
        else:
            self._set_deadline(now)  # it was the attempt's time that is over, and the attempt was in time

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

    # ---- what the proxy says

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
