"""The attempts of an exchange: on which endpoint, for how long, what follows one that failed, and who is hedged."""

from __future__ import annotations

from math import inf
from time import monotonic

from nexus_wire.client import grow_writes
from nexus_wire.clock import NEVER

from nexus_gateway.balance.availability import is_available
from nexus_gateway.edge import replies
from nexus_gateway.edge.answering import Answering
from nexus_gateway.edge.attempts import Attempt
from nexus_gateway.edge.plugins.slots import ENDPOINT
from nexus_gateway.edge.pools import Pool
from nexus_gateway.edge.runtimes import Backend
from nexus_gateway.filters import fallbacks
from nexus_gateway.filters.direct_replies import build_reply
from nexus_gateway.resilience import deadlines, hedging
from nexus_gateway.resilience.attempts import IDEMPOTENT, Outcome, choose, may_retry, names
from nexus_gateway.resilience.endpoints import EndpointState


class Trying(Answering):
    """The upstream's side of an exchange."""

    __slots__ = ()

    # ---- an attempt

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
        if not self._is_signed(attempt):
            attempt.cancel()
            self.refuse("PluginUnavailable")
            return
        self._set_deadline(now)
        self._connect(attempt, fresh=fresh)
        if backend.hedge is not None and attempt.number == 0 and not self.over:
            self._plan_hedge(now)

    def _is_signed(self, attempt: Attempt) -> bool:
        """Ask plugins for the headers of an attempt, if any has some. Return whether it may be made."""
        phases = self.hooked.phases if self.hooked is not None else None
        return phases is None or not phases.bits & ENDPOINT or phases.sign(attempt)

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
        self.proxy.connector.open(
            attempt, attempt.endpoint, upstream.tls, self.host, backend.timeouts.connect_s, limit, upstream.protocol
        )

    def request_bytes(self, attempt: Attempt) -> bytes:
        """Return what an attempt sends first: the head, with what is its own, and what of the body is here."""
        lines = self.context
        aside = self.block.aside
        if attempt.number:
            lines = self.proxy.contexts.again(lines, aside)
        attempt.context = lines
        if not self.block.authority and self.hostless:
            lines += b"host: %b\r\n" % attempt.endpoint.authority.encode()
        if aside is not None:
            lines += deadlines.remaining_lines(aside, self.deadline_at - monotonic() if self.deadline_at else 0.0)
        if self.hooked is not None and (phases := self.hooked.phases) is not None:
            lines += phases.lines_of(attempt)
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

    # ---- waiting

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

    def _is_early(self, now: float) -> bool:
        """Return whether time is not over yet, though the clock says so; `on_late` comes again then.

        A gateway that was held up counts the next deadlines from when that began, which is no endpoint's fault.
        """
        backend, attempt = self.backend, self.attempt
        due_at = self.deadline_at or inf
        if backend is not None and backend.timeouts.try_s and attempt is not None and not attempt.status:
            due_at = min(due_at, attempt.started_at + backend.timeouts.try_s)
        if not now < due_at < inf:
            return False
        clock, stream = self.proxy.clock, self.stream
        stream.deadline = clock.at(due_at - now)
        clock.soon(stream)
        return True

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

    # ---- hedging

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
        if not self._is_signed(second):
            extra.hedge = None
            second.cancel()
            return
        self.proxy.measurements.hedge(self.upstream_id)
        self._connect(second)

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

    def may_follow(self, attempt: Attempt, outcome: Outcome, status: int, now: float) -> bool:
        """Return whether a response is not passed on, because another attempt runs or follows. status: that it means."""
        extra = self.extras()
        other = self.attempt if attempt is extra.hedge else extra.hedge
        if other is not None and not other.released:
            self.attempt, extra.hedge = other, None
        elif not self._try_again(attempt, outcome, nothing_sent=False, now=now, status=status):
            return False
        extra.failed.append(attempt)
        return True

    def _try_again(
        self, attempt: Attempt, outcome: Outcome, *, nothing_sent: bool, now: float, status: int = 0
    ) -> bool:
        """Return whether another attempt follows; it is arranged then. status: of the answer, 0 for none."""
        pool, backend = self.pool, self.backend
        assert pool is not None
        assert backend is not None
        retry = backend.retry
        idempotent = self.line.method in IDEMPOTENT
        wait_s = may_retry(
            idempotent, outcome, retry, self.attempts, self.replayable, nothing_sent, pool.budget, now,
            self.deadline_at or None, self.proxy.rng, status,
        )  # fmt: skip
        if wait_s is None:
            if self.replayable and idempotent and self.attempts <= retry.attempts and names(retry, outcome, status):
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
                if self.limited is not None:
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

    def _enter(self, backend: Backend, now: float) -> None:
        """Compose the request for the backend, ask for admission, and begin."""
        raise NotImplementedError
