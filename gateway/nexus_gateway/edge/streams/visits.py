"""One stay of a connection, or of a client's datagrams, at an endpoint: how it is chosen, and what it is told by the stay.

A visit owns its place on the endpoint from its making to `leave`, and gives at most one verdict on it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from time import monotonic

from nexus_gateway.balance import latency
from nexus_gateway.edge.measurements import Measurements
from nexus_gateway.edge.pools import Pool
from nexus_gateway.resilience.attempts import Outcome, choose
from nexus_gateway.resilience.breakers import CLOSED, HALF_OPEN
from nexus_gateway.resilience.concurrency import Limiter
from nexus_gateway.resilience.endpoints import EndpointState
from nexus_gateway.telemetry.finished import Tried


class Refused(Exception):
    """The gateway does not take the connection. reason: one word, as in the documentation of errors."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Client:
    """What hashing balancers see of a client below HTTP: its address."""

    __slots__ = ("client_ip",)

    query = ""

    def __init__(self, client_ip: str) -> None:
        self.client_ip = client_ip

    def header(self, name: str) -> str | None:
        """None: there are no headers."""
        return None


class Admission:
    """A connection's or session's place at an upstream as a whole: in its bulkhead, and past the circuit of the service."""

    __slots__ = ("_limiter", "_probe", "pool")

    def __init__(self, pool: Pool, now: float) -> None:
        """Raises `Refused`: CircuitOpen."""
        self.pool = pool
        self._limiter: Limiter | None = None
        self._probe = False
        breaker = pool.service_breaker
        if breaker is not None:
            if not breaker.acquire(now):
                raise Refused("CircuitOpen")
            self._probe = breaker.state is HALF_OPEN
        pool.budget.request(now)

    async def wait(self) -> None:
        """Take a place in the bulkhead, waiting for one as the upstream's policy allows. Raises `Refused`: UpstreamOverloaded."""
        limiter = self.pool.limiter
        if limiter is None:
            return
        came = asyncio.get_running_loop().create_future()

        def wake() -> None:
            if came.done():  # called off in the meantime: the place is for the next one
                limiter.release(monotonic(), 0.0, ok=False)
            else:
                came.set_result(None)

        admitted = limiter.acquire(monotonic(), wake)
        if admitted is False:
            raise Refused("UpstreamOverloaded")
        if admitted is None:
            try:
                await came
            except asyncio.CancelledError:
                if not limiter.leave(wake) and came.done() and not came.cancelled():
                    limiter.release(monotonic(), 0.0, ok=False)
                raise
        self._limiter = limiter

    def take(self) -> None:
        """Take a place in the bulkhead that is free now. Raises `Refused`: UpstreamOverloaded."""
        limiter = self.pool.limiter
        if limiter is not None:
            if not limiter.enter():
                raise Refused("UpstreamOverloaded")
            self._limiter = limiter

    def judged(self, now: float, *, ok: bool) -> None:
        """Tell the service's circuit of an endpoint that serves, or does not."""
        breaker = self.pool.service_breaker
        if breaker is None:
            return
        probe, self._probe = self._probe, False
        if not ok:
            breaker.failure(now, probe=probe)
        elif breaker.watching:
            breaker.success(now, probe=probe)

    def leave(self) -> None:
        """Give everything back. Any number of times."""
        limiter, self._limiter = self._limiter, None
        if limiter is not None:
            # Without a time: how long connections last says nothing of the upstream's load.
            limiter.release(monotonic(), 0.0, ok=False)
        if self._probe:
            self._probe = False
            if self.pool.service_breaker is not None:
                self.pool.service_breaker.abandon(probe=True)


class Visit:
    """A connection or session at an endpoint. probe: it tests a half-open circuit. started_at, ended_at: monotonic seconds;
    ended_at is when it was connected, or when it was clear that it would not be; 0 before."""

    __slots__ = (
        "_admission", "_breaker_state", "_left", "_measurements", "ended_at", "endpoint", "judged", "outcome", "pool", "probe",
        "started_at",
    )  # fmt: skip

    def __init__(
        self, admission: Admission, endpoint: EndpointState, measurements: Measurements, now: float, *, probe: bool
    ) -> None:
        self._admission = admission
        self.pool = admission.pool
        self.endpoint = endpoint
        self.probe = probe
        self.started_at = now
        self.ended_at = 0.0
        self.judged = False
        self.outcome = ""
        self._left = False
        self._measurements = measurements
        self._breaker_state = endpoint.breaker.state
        endpoint.active += 1
        endpoint.attempts += 1
        endpoint.connections += 1

    def connected(self, now: float) -> None:
        """It is connected. No word on the endpoint yet: what forwards for it may take connections that it does not."""
        self.ended_at = now
        pool = self.pool
        if pool.observe is not None:
            pool.observe(self.endpoint, now - self.started_at, now)

    def succeeded(self, now: float) -> None:
        """The endpoint serves. Does nothing after a verdict."""
        if self.judged:
            return
        self.judged = True
        self.outcome = "answered"
        pool, endpoint = self.pool, self.endpoint
        if endpoint.strikes and pool.outliers is not None:
            pool.outliers.success(endpoint)
        breaker = endpoint.breaker
        if breaker.watching:
            breaker.success(now, probe=self.probe)
            if self.probe:
                pool.dirty()
        self._admission.judged(now, ok=True)
        self._measurements.attempt(pool.upstream.id, self.outcome)

    def failed(self, outcome: Outcome, now: float) -> None:
        """The endpoint does not serve. Does nothing after a verdict."""
        self.ended_at = self.ended_at or now
        if self.judged:
            return
        self.judged = True
        self.outcome = outcome.value
        pool, endpoint = self.pool, self.endpoint
        endpoint.failures += 1
        if pool.outliers is not None and pool.outliers.failure(endpoint, pool.endpoints, now):
            pool.dirty()
            self._measurements.ejection(pool.upstream.id)
        if pool.observe is not None:
            # Otherwise an endpoint that fails fast would look like the fastest.
            latency.observe_failure(endpoint, now - self.started_at, now)
        endpoint.breaker.failure(now, probe=self.probe)
        if endpoint.breaker.state is not CLOSED:
            pool.dirty()
        self._admission.judged(now, ok=False)
        self._measurements.attempt(pool.upstream.id, self.outcome)

    def unsettle(self) -> None:
        """Forget the verdict: the endpoint served once, and what it does now is news."""
        self.judged = False
        self.probe = self.probe and not self.outcome

    def leave(self) -> None:
        """Give the endpoint back. Any number of times."""
        if self._left:
            return
        self._left = True
        endpoint = self.endpoint
        endpoint.active -= 1
        endpoint.connections -= 1
        if not self.judged:
            # The client left before there was anything to say; a probe's place must not stay taken.
            self.judged = True
            self.outcome = "abandoned"
            endpoint.breaker.abandon(probe=self.probe)
            if self.probe:
                self.pool.dirty()
            self._measurements.attempt(self.pool.upstream.id, self.outcome)

    def tried(self, now: float, lines: bytes) -> Tried:
        """Return what log and traces keep of it. now: when all was over. lines: the trace context."""
        return Tried(
            self.endpoint.authority, lines, self.started_at, self.ended_at or now, 0, self.outcome, self._breaker_state
        )


def enter(admission: Admission, tried: Collection[str], key: bytes, measurements: Measurements) -> Visit:
    """Return a visit to the endpoint whose turn it is, its place taken. tried: authorities that were tried, for nothing.

    Raises `Refused`: NoEndpoints, CircuitOpen or UpstreamOverloaded, where every endpoint has as many connections as it may.
    """
    now = monotonic()
    pool = admission.pool
    if now >= pool.look_again_at:
        pool.refresh(now)
    limit = pool.upstream.concurrency.max_connections
    for _ in range(2):
        live = pool.live
        if not live:
            raise Refused("CircuitOpen" if pool.endpoints else "NoEndpoints")
        if limit and any(state.connections >= limit for state in live):
            live = tuple(state for state in live if state.connections < limit)
            if not live:
                raise Refused("UpstreamOverloaded")
        endpoint = choose(live, tried, pool.pick, key, now)
        breaker = endpoint.breaker
        if not breaker.watching or breaker.state == CLOSED:
            return Visit(admission, endpoint, measurements, now, probe=False)
        if breaker.acquire(now):
            # The place for probes is taken: others go elsewhere.
            probe = breaker.state == HALF_OPEN
            pool.dirty()
            return Visit(admission, endpoint, measurements, now, probe=probe)
        pool.refresh(now)
    raise Refused("CircuitOpen")
