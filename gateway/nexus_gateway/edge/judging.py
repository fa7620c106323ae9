"""What breakers, outlier detection and balancers are told of an attempt's endpoint.

The verdict is by the response's head. A gRPC call that fails says so in its trailers, with 200 in its head; what counts is the HTTP
status that means the same, by the same rules:

- A status that is here with the head (an answer of trailers alone, or a short one that came in one piece) is judged with it.
- Else the verdict waits for the end of the answer. A stream may go on for hours, and others wait for a probe's place: a probe counts
  as a success with the head, and gives its place back; a failure at its end takes that back (`Breaker.relapse`).
- A client that leaves before the end has seen no failure, and none is counted; nor does an answer that breaks off say anything.
- Who gives an endpoint less time than the route does cannot have it blamed for `DEADLINE_EXCEEDED`.

Requests that are no gRPC calls pay nothing for this, and calls that succeed while all is well pay for one comparison.
"""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING

from nexus_wire.http1 import ResponseBlock

from nexus_gateway.balance import latency
from nexus_gateway.filters.grpc import DEADLINE_EXCEEDED, http_status_of
from nexus_gateway.resilience.attempts import Outcome, outcome_of
from nexus_gateway.resilience.endpoints import EndpointState

if TYPE_CHECKING:
    from nexus_gateway.edge.pools import Pool
    from nexus_gateway.edge.trying import Trying

_OK = b"0"


class Call:
    """What is known of a gRPC call, if that is more than of any request.

    code: the error that it was answered with; 0 for none yet. begun: its answer began before its status was known. waits: the
    verdict waits for the answer's end. service_probe: it tested the whole service's half-open circuit.
    """

    __slots__ = ("begun", "code", "service_probe", "waits")

    def __init__(self, *, begun: bool) -> None:
        self.code = 0
        self.begun = begun
        self.waits = False
        self.service_probe = False


class Judging:
    """An attempt, as far as its endpoint is told of it.

    probe: it tests a half-open circuit. status: of the response's head, 0 before. outcome: empty until the endpoint's verdict.
    started_at, ended_at: monotonic seconds; ended_at is when the response's head came, or when it was clear that it would not.
    """

    __slots__ = ("_call", "_judged", "ended_at", "endpoint", "exchange", "outcome", "probe", "started_at", "status")

    exchange: Trying
    endpoint: EndpointState
    probe: bool
    status: int
    outcome: str
    started_at: float
    ended_at: float
    _judged: bool
    _call: Call | None

    def _blame(self, outcome: Outcome, now: float) -> None:
        """Tell breaker, outlier detection and service breaker of a failure. An ordinary 500 is the outlier's business alone."""
        endpoint, call, exchange = self.endpoint, self._call, self.exchange
        pool = exchange.pool
        assert pool is not None
        if call is not None and call.code == DEADLINE_EXCEEDED and exchange.hurried:
            self._judged = call.begun
            return
        self._judged = True
        if pool.outliers is not None and pool.outliers.failure(endpoint, pool.endpoints, now):
            pool.dirty()
            exchange.proxy.measurements.ejection(pool.upstream.id)
        if outcome is Outcome.ANSWERED:  # an ordinary 500
            self._pass_circuits(pool, now)
            return
        endpoint.failures += 1
        if pool.observe is not None:
            # Otherwise an endpoint that fails fast would look like the fastest.
            latency.observe_failure(endpoint, now - self.started_at, now)
        breaker, service = endpoint.breaker, pool.service_breaker
        if self.probe and call is not None and call.begun:
            breaker.relapse(now, self.started_at)
        else:
            breaker.failure(now, probe=self.probe)
        if breaker.state != "closed":
            pool.dirty()
        if service is None:
            return
        if call is not None and call.service_probe:
            service.relapse(now, self.started_at)
        else:
            service.failure(now, probe=exchange.took_service_probe())

    def _pass_circuits(self, pool: Pool, now: float) -> None:
        """Count a success. A probe whose answer had begun has counted already."""
        breaker, service, call = self.endpoint.breaker, pool.service_breaker, self._call
        if breaker.watching and not (self.probe and call is not None and call.begun):
            breaker.success(now, probe=self.probe)
        if service is not None and service.watching and not (call is not None and call.service_probe):
            service.success(now, probe=self.exchange.took_service_probe())

    def _praise(self, now: float) -> None:
        """Tell outlier detection and circuits that a call went well, whose answer had begun before that was known."""
        pool = self.exchange.pool
        assert pool is not None
        if self.endpoint.strikes and pool.outliers is not None:
            pool.outliers.success(self.endpoint)
        self._pass_circuits(pool, now)

    # ---- gRPC calls

    def _told(self, grpc: bytes) -> int:
        """Take note of a status that is no OK, in an answer that is here to its end; return what it means in HTTP. 200, as it came,
        for what is no call. grpc: digits."""
        exchange = self.exchange
        if not exchange.is_grpc:
            return 200
        call = self._call
        if call is None:
            call = self._call = Call(begun=False)
        call.code = int(grpc)
        meant = exchange.extras().meant = http_status_of(call.code)
        return meant

    def _waits_for_end(self, block: ResponseBlock) -> bool:
        """Return whether an answer that has begun is a call's, whose end has to be awaited because somebody counts."""
        return (self.probe or self._is_counted()) and b"application/grpc" in block.forward and self.exchange.is_grpc

    def _is_counted(self) -> bool:
        """Return whether a good answer is of interest now: to the outlier detection, or to one of the two circuits."""
        endpoint, pool = self.endpoint, self.exchange.pool
        assert pool is not None
        service = pool.service_breaker
        return bool(endpoint.strikes) or endpoint.breaker.watching or (service is not None and service.watching)

    def _put_off(self, now: float) -> None:
        """Leave the verdict to the answer's end, but for what others wait for: a probe counts as a success for now."""
        self._judged = False
        self._call = call = Call(begun=True)
        call.waits = True
        pool = self.exchange.pool
        assert pool is not None
        if self.probe:
            self.endpoint.breaker.success(now, probe=True)
        service = pool.service_breaker
        if service is not None and self.exchange.took_service_probe():
            call.service_probe = True
            service.success(now, probe=True)

    def _ended(self, grpc: bytes) -> None:
        """Judge by what a call's end says, after its answer had begun. grpc: digits."""
        call = self._call
        if call is None:
            if grpc == _OK and not self._is_counted():
                return
            if self.status != 200 or not self.exchange.is_grpc:
                return
            self._call = call = Call(begun=True)
        now = monotonic()
        call.waits = False
        self._judged = True
        code = 200 if grpc == _OK else self._told(grpc)
        if code < 500:
            self._praise(now)
            return
        outcome = outcome_of(code)
        self.outcome = outcome.value
        self._blame(outcome, now)

    def _left(self) -> None:
        """There will be no verdict: something else ended the attempt, mostly its client, who left."""
        call, pool = self._call, self.exchange.pool
        if call is not None and call.waits:
            self._judged = True
            self._praise(monotonic())
            return
        # No word on the endpoint, but a probe's place must not stay taken.
        self.outcome = self.outcome or "abandoned"
        self.endpoint.breaker.abandon(probe=self.probe)
        if self.probe and pool is not None:
            pool.dirty()
