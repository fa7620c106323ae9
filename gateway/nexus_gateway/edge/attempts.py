"""One try of an exchange on one endpoint: what it makes of the endpoint's answer, and what the endpoint is told by it.

An attempt owns its place on the endpoint from its making to `release`, and gives exactly one verdict on it (`judging`).
"""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING

from nexus_wire.client import Broken, Upward
from nexus_wire.http1 import ResponseBlock, StatusLine
from nexus_wire.pieces import Piece

from nexus_gateway.edge.connectors import NOT_PROVED, RETRY_OPEN
from nexus_gateway.edge.judging import Call, Judging
from nexus_gateway.resilience.attempts import Outcome, outcome_of
from nexus_gateway.resilience.endpoints import EndpointState
from nexus_gateway.telemetry.finished import Tried

if TYPE_CHECKING:
    from nexus_gateway.edge.trying import Trying


class Attempt(Judging):
    """One try on one endpoint.

    number: 0 for the first. fresh: on a new connection. context: the trace context lines it sends. hedge: it ran beside another one.
    """

    __slots__ = ("_held", "breaker_state", "connection", "context", "fresh", "hedge", "number", "released")

    def __init__(self, exchange: Trying, endpoint: EndpointState, number: int, probe: bool, now: float) -> None:
        self.exchange = exchange
        self.endpoint = endpoint
        self.number = number
        self.probe = probe
        self.started_at = now
        self.ended_at = 0.0
        self.connection: Upward | None = None
        self.fresh = False
        self.status = 0
        self.outcome = ""
        self.context = b""
        self.hedge = False
        self.released = False
        self.breaker_state = endpoint.breaker.state
        self._judged = False
        self._held: list[bytes] | None = None
        self._call: Call | None = None
        endpoint.active += 1
        endpoint.attempts += 1

    def send(self, connection: Upward) -> None:
        """Send the request on this connection."""
        exchange = self.exchange
        self.connection = connection
        upgrade = b"websocket" if exchange.upgrades else b""
        raw = exchange.block.length == -2
        connection.begin(self, exchange.request_bytes(self), head_only=exchange.head_only, upgrade=upgrade, raw=raw)
        if raw and exchange.complete:
            connection.finish(exchange.trailers)

    # ---- from the connector

    def on_connection(self, connection: Upward) -> None:
        """A new connection is open, or a kept one got free."""
        if self.released:
            # The exchange ended meanwhile; the connection is as good as new for another one.
            self.exchange.proxy.connector.keep(connection)
            return
        self.fresh = connection.begun == 0
        self.send(connection)

    def on_no_connection(self, timed_out: bool, detail: str) -> None:
        """No connection could be had."""
        if self.released:
            return
        if detail is RETRY_OPEN:
            self.exchange.open(self)
            return
        if detail is NOT_PROVED:
            self._fail(Outcome.ABANDONED, "UpstreamNotVerified", nothing_sent=True, blamed=False)
            return
        self._fail(Outcome.CONNECT_FAILURE, "UpstreamConnectFailure", nothing_sent=True)

    # ---- from the connection

    def on_response(
        self,
        connection: Upward,
        status: StatusLine,
        block: ResponseBlock,
        length: int,
        data: Piece,
        complete: bool,
    ) -> None:
        """Judge the endpoint by the response's head, or by the gRPC status that is here already; then pass it on or try again."""
        exchange = self.exchange
        code = status.code
        self.status = code
        self.ended_at = now = monotonic()
        self._judged = True
        endpoint = self.endpoint
        pool = exchange.pool
        assert pool is not None
        grpc = connection.grpc
        if grpc and grpc != b"0" and code == 200:
            code = self._told(grpc)
        if code < 500:
            if not complete and pool.upstream.protocol == "h2" and self._waits_for_end(block):
                self._put_off(now)
            else:
                if endpoint.strikes and pool.outliers is not None:
                    pool.outliers.success(endpoint)
                breaker = endpoint.breaker
                if breaker.watching:
                    breaker.success(now, probe=self.probe)
            if code >= 400 and exchange.repeats(code) and self._is_repeated(Outcome.ANSWERED, code, data, now):
                exchange.proxy.measurements.attempt(exchange.upstream_id, "answered")
                self._discard(connection, complete)
                return
            if pool.plain:
                pool.answered.value += 1
                exchange.answered(self, status, block, length, data, complete, now)
                return
            service = pool.service_breaker
            if service is not None and service.watching and self._judged:
                service.success(now, probe=exchange.took_service_probe())
            seconds = now - self.started_at
            if pool.hedged:
                pool.latencies.observe(seconds, now)
            if pool.observe is not None:
                pool.observe(endpoint, seconds, now)
        else:
            outcome = outcome_of(code)
            self.outcome = outcome.value
            self._blame(outcome, now)
            named = outcome is not Outcome.ANSWERED or exchange.repeats(code)
            if named and self._is_repeated(outcome, code, data, now):
                exchange.proxy.measurements.attempt(exchange.upstream_id, outcome.value)
                self._discard(connection, complete)
                return
        exchange.proxy.measurements.attempt(exchange.upstream_id, self.outcome or "answered")
        exchange.answered(self, status, block, length, data, complete, now)

    def _is_repeated(self, outcome: Outcome, code: int, data: Piece, now: float) -> bool:
        """Return whether the answer is not passed on, since another attempt follows. A call's error after a message is the end of
        something that its client was to see."""
        return not (data and self._call is not None) and self.exchange.may_follow(self, outcome, code, now)

    def _discard(self, connection: Upward, complete: bool) -> None:
        """Let a response go that is not passed on."""
        exchange = self.exchange
        if self._call is not None:
            exchange.extras().meant = 0
        if complete and connection.reusable and exchange.complete:
            self.release()
        else:
            self.cancel()

    def on_data(self, data: bytes) -> None:
        """Pass a piece of the body on."""
        if self._held is not None:
            self._held.append(data)
        else:
            self.exchange.data(data)

    def on_end(self, connection: Upward) -> None:
        """The response is complete."""
        if connection.grpc:
            self._ended(connection.grpc)
        if self._held is not None:
            self._held.append(b"")
        else:
            self.exchange.ended(self)

    def on_interim(self, head: bytes, code: int) -> None:
        """Pass 102, 103 and the like on."""
        self.exchange.stream.inform(head)

    def on_broken(self, connection: Upward, why: Broken, detail: str) -> None:
        """The connection broke before the response was complete."""
        if self.released:
            return
        if self.exchange.responding and self.exchange.attempt is self:
            self._judged = True  # as little is said of a call that broke off as of any answer
            self.exchange.broke_off(self)
            return
        if why is Broken.UNSEEN:
            # As if nothing had been sent, but for what is not here any more to be sent again. A connection that served before
            # refuses for its own reasons (its server goes, or it is full); one that was made for this one speaks for its endpoint.
            outcome = Outcome.RESET if self.fresh else Outcome.STALE
            self._fail(outcome, "UpstreamReset", nothing_sent=self.exchange.replayable)
        elif why is Broken.PROTOCOL:
            self._fail(Outcome.RESET, "UpstreamProtocolError", nothing_sent=False)
        elif not self.fresh and not connection.answered:
            self._fail(Outcome.STALE, "UpstreamReset", nothing_sent=False)
        else:
            self._fail(Outcome.RESET, "UpstreamReset", nothing_sent=False)

    def on_upstream_blocked(self) -> None:
        """The endpoint reads slowly: so may the client write."""
        if not self.exchange.complete or self.exchange.tunnelled:
            self.exchange.stream.pause()

    def on_upstream_ready(self) -> None:
        """The endpoint reads on."""
        self.exchange.stream.resume()

    # ---- from the exchange

    def timed_out(self, *, blamed: bool) -> None:
        """The attempt's time is over. blamed: whether that is the endpoint's doing."""
        self._fail(Outcome.TIMEOUT, "RequestTimeout", nothing_sent=False, blamed=blamed)

    def cancel(self) -> None:
        """Call the attempt off: nobody waits for it any more. No word on the endpoint."""
        connection = self.connection
        if connection is not None and not connection.closed:
            connection.abort()
        if connection is None:
            self.exchange.proxy.connector.leave(self, self.endpoint)
        self.release()

    def pause(self) -> None:
        """Stop reading the response."""
        if self.connection is not None and not self.connection.closed:
            self.connection.pause()

    def resume(self) -> None:
        """Read on."""
        if self._held is None and self.connection is not None and not self.connection.closed:
            self.connection.resume()

    def hold(self) -> None:
        """Keep the body back: its head is not written yet."""
        self._held = []
        self.pause()

    def let_go(self) -> None:
        """Pass on what was held back, and what comes from now on."""
        held, self._held = self._held, None
        if held is None or self.released:
            return
        for data in held:
            if data:
                self.exchange.data(data)
            else:
                self.exchange.ended(self)
                return
        if not self.exchange.stream.blocked:
            self.resume()

    def release(self) -> None:
        """Give the endpoint back, and the connection if it can serve again. Once."""
        if self.released:
            return
        self.released = True
        endpoint = self.endpoint
        endpoint.active -= 1
        if not self._judged:
            self._left()
        connection = self.connection
        if connection is None or connection.closed or connection.receiver is not None:
            return
        if connection.reusable and self.exchange.complete and not endpoint.draining:
            if connection.paused:
                connection.resume()
            self.exchange.proxy.connector.keep(connection)
        else:
            connection.close()

    def tried(self, now: float) -> Tried:
        """Return what log and traces keep of the attempt. now: when the exchange ended, for one that has no end of its own."""
        return Tried(
            self.endpoint.authority, self.context, self.started_at, self.ended_at or now, self.status,
            self.outcome or ("answered" if self.status else "abandoned"), self.breaker_state, self.hedge,
            self._call.code if self._call is not None else 0,
        )  # fmt: skip

    def _fail(self, outcome: Outcome, reason: str, *, nothing_sent: bool, blamed: bool = True) -> None:
        self.ended_at = now = monotonic()
        self.outcome = outcome.value
        exchange = self.exchange
        if blamed and outcome is not Outcome.STALE:
            self._blame(outcome, now)
        self.cancel()
        exchange.proxy.measurements.attempt(exchange.upstream_id, outcome.value)
        exchange.attempt_failed(self, outcome, reason, nothing_sent=nothing_sent, now=now)
