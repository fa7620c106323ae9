"""One request from head to last byte, whatever protocol its two sides speak.

The only link between a client's stream and upstream connections. Order of the steps: route, limits, faults, plugins and
filters, backend by weight, service breaker and bulkhead, attempts until one answers or none may follow, response filters
and plugins in reverse, body passed on with back-pressure. Each decision is a pure room's, synchronous, on values; this
module does what they say. A request that finds an idle connection costs no task, future or timer.

This module is the way to an upstream. One class for each subject, each made of the one before: `standing` (what is known),
`ending`, `answering` (the way back), `trying` (attempts), `receiving` (what the client does meanwhile), and `Exchange`. They share
their slots, and no step from one to the other costs a call.
"""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING

from nexus_core.match.tables import Entry
from nexus_wire.server import Stream

from nexus_gateway.edge import replies, requests
from nexus_gateway.edge.attempts import Attempt
from nexus_gateway.edge.hooked import Hooked
from nexus_gateway.edge.looking import look
from nexus_gateway.edge.mirrors import Collected
from nexus_gateway.edge.plugins.slots import ROUTE
from nexus_gateway.edge.receiving import Receiving
from nexus_gateway.edge.runtimes import Backend, Plan, Runtime
from nexus_gateway.filters.sizes import refuses_request
from nexus_gateway.resilience import deadlines
from nexus_gateway.resilience.attempts import IDEMPOTENT
from nexus_gateway.resilience.breakers import CLOSED

if TYPE_CHECKING:
    from nexus_gateway.edge.proxy import Proxy


class Exchange(Receiving):
    """A request being served."""

    __slots__ = ()

    def __init__(self, proxy: Proxy, stream: Stream, runtime: Runtime, now: float) -> None:
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
        self.hooked = self.head = None
        self.attempt = None
        self.extra = None
        self.attempts = self.status = self.bytes_out = 0
        self.reason = ""
        self.responding = self.over = False
        self.limited = None

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
        router = runtime.routers[self.stream.context.site]
        entry = router.find(line.method, host, line.path, block, line.query)
        if entry is None:
            entry = self._find_departed(host)
            if entry is None:
                return
        self.entry = entry
        self.plan = plan = entry.payload
        if plan.plain:
            self.choose_backend()
        elif plan.guarded:
            self._guard()
        elif plan.chain is None:
            self._prepare()
        elif look(self, plan.chain):
            self.choose_backend()

    def _find_departed(self, host: str) -> Entry[Plan] | None:
        """Return what takes a request that the live runtime has nothing for: on a connection to a site that is gone, its last
        runtime knows. None, and the request is refused, if that has nothing either."""
        site = self.stream.context.site
        runtime = self.runtime
        entry = None
        if site not in runtime.routers and (last := self.proxy.departures.find(site)) is not None:
            runtime.left()
            last.users += 1
            self.runtime = runtime = last
            line = self.line
            entry = last.routers[site].find(line.method, host, line.path, self.block, line.query)
        if entry is None:
            self.refuse(runtime.refusal(runtime.routers[site], host))
        return entry

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
        if size is not None and refuses_request(size, self.block.length, self.content_in):
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
        chain = plan.chain
        if chain is not None:
            if not look(self, chain):
                return
        elif plan.filters and plan.lane is None:
            self.hooked = hooked = Hooked(self)
            if not hooked.filter(plan.filters):
                return
        self.choose_backend()

    def choose_backend(self, chosen: Backend | None = None) -> None:
        """Go on to the backend whose turn it is. chosen: by plugins, in its place."""
        plan = self.plan
        backend = plan.only if chosen is None else chosen
        if backend is None:
            index = plan.split.next()
            if index is None:
                self.refuse("NoBackends")
                return
            backend = plan.backends[index]
        began_at = self.started_at
        hooked = self.hooked
        if hooked is not None:
            phases = hooked.phases
            if phases is not None:
                began_at = phases.began_at
                if phases.bits & ROUTE and chosen is None:
                    backend = phases.route(backend)
                    if backend is None:
                        return
            if backend.filters and not hooked.filter(backend.filters):
                return
        elif backend.lane is None:
            self.hooked = Hooked(self)
            if not self.hooked.filter(plan.filters + backend.filters):
                return
        if not backend.plain or not self.complete or not self._goes_at_once(backend):
            self._enter(backend, began_at)

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
        if (
            block.upgrade
            or not block.authority
            or block.length == -2
            or (aside is not None and deadlines.are_in(aside))
        ):
            return False
        limiter = pool.limiter
        if limiter is not None:
            if not limiter.enter():
                return False
            self.limited = limiter
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

    # ---- the way to an attempt

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
        if limiter is not None and self.limited is None:
            extra = self.extras()
            admitted = limiter.acquire(now, self.admitted)
            if admitted is None:
                # In the queue: `_admitted` will be called, or the deadline comes.
                extra.queued = limiter
                self._set_deadline(now)
                return
            if not admitted:
                self.proxy.measurements.shed("UpstreamOverloaded")
                self._failed_for_good("UpstreamOverloaded")
                return
            self.limited = limiter
        self._begin(now)

    def admitted(self) -> None:
        """A place in the bulkhead got free."""
        extra = self.extras()
        self.limited, extra.queued = extra.queued, None
        if self.over:
            self.release_limiter(0.0, monotonic(), ok=False)
        else:
            self._begin(monotonic())

    def _compose(self) -> bytes:
        """Return the request's head for upstream, but for what differs between attempts."""
        block, line, backend, hooked, head = self.block, self.line, self.backend, self.hooked, self.head
        if hooked is not None:
            start, lines = hooked.render()
        else:
            start = line.start
            if head is None:
                own, added = (
                    self.proxy.forwarding.lines(self.stream.context, line.authority or block.authority, block.aside),
                    b"\r\n",
                )
            else:
                own, added = head.own, head.added
            lines = b"".join((own, block.forward, b"x-request-id: ", self.request_id, added))
            lane = backend.lane if backend is not None else None
            if lane is not None:
                if lane.target is not None and self.entry is not None:
                    start = lane.target.apply_bytes(start, self.entry.match.path)
                if lane.request is not None:
                    lines = lane.request.apply_bytes(lines)
        if block.upgrade and self.upgrades:
            if self.is_overheard:
                # Messages that plugins see are plain: nothing is agreed on that would change their frames.
                lines = requests.without(lines, b"sec-websocket-extensions")
            lines += b"connection: upgrade\r\nupgrade: websocket\r\n"
        return start + lines

    def _begin(self, now: float) -> None:
        """Send the request as soon as as much of its body is here as has to be."""
        self.replayable = True  # until a byte of an incomplete one is sent
        if not self.complete:
            if self.extra is None or not (self.extra.fell_back or self.extra.invited):
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
            self._mirror()
        self._try(now)

    def _mirror(self) -> None:
        """Send the copies, or have them sent when the body is over: a conversation must not wait for its own end."""
        mirrors = self.proxy.mirrors
        pools = mirrors.draw(self, self.plan.mirrors)
        if self.complete:
            mirrors.send(self, pools, self.body)
        elif self.block.length >= 0:
            mirrors.give_up(pools)
        elif pools:
            extra = self.extras()
            extra.copied = Collected(pools, self.proxy.max_replay_bytes)
            for piece in (self.body, *(extra.pending or ())):
                self.copy(piece)

    def send_copies(self) -> None:
        """The body that is copied has come to its end."""
        extra = self.extras()
        collected, extra.copied = extra.copied, None
        if collected is not None:
            self.proxy.mirrors.send(self, collected.pools, b"".join(collected.pieces))

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
