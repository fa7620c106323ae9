"""Copies of requests to other upstreams. Nobody waits for them, their answers are thrown away, their number is bounded."""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING

from nexus_wire.client import Broken, Upward
from nexus_wire.http1 import ResponseBlock, StatusLine
from nexus_wire.pieces import Piece

from nexus_gateway.edge.connectors import RETRY_OPEN
from nexus_gateway.edge.pools import Pool
from nexus_gateway.filters.mirrors import LINE
from nexus_gateway.resilience.endpoints import EndpointState

if TYPE_CHECKING:
    from nexus_gateway.edge.exchanges import Exchange
    from nexus_gateway.edge.proxy import Proxy
    from nexus_gateway.edge.runtimes import MirrorPlan

MAX_COPIES = 256
"""Copies on their way at once; more are not sent. A slow mirror must not cost the requests it mirrors."""


class Copy:
    """One mirrored request. It learns nothing and teaches nothing: no breaker, no retry, no balancing by its answer."""

    __slots__ = (
        "_connection", "_data", "_endpoint", "_head_only", "_host", "_mirrors", "_pool", "_trailers", "closed", "deadline",
    )  # fmt: skip

    def __init__(
        self,
        mirrors: Mirrors,
        pool: Pool,
        endpoint: EndpointState,
        data: bytes,
        head_only: bool,
        host: str,
        trailers: bytes | None,
    ) -> None:
        """trailers: of a raw body; None for one that the head frames."""
        self._mirrors = mirrors
        self._pool = pool
        self._endpoint = endpoint
        self._data = data
        self._head_only = head_only
        self._host = host
        self._trailers = trailers
        self._connection: Upward | None = None
        self.closed = False
        clock = mirrors.proxy.clock
        self.deadline = clock.at(pool.upstream.timeouts.request_s or 15.0)
        endpoint.active += 1
        clock.watch(self)
        connection = mirrors.proxy.connector.take(endpoint, pool.upstream.tls, host)
        if connection is not None:
            self.on_connection(connection)
        else:
            self._open()

    def _open(self) -> None:
        upstream = self._pool.upstream
        self._mirrors.proxy.connector.open(
            self,
            self._endpoint,
            upstream.tls,
            self._host,
            upstream.timeouts.connect_s,
            upstream.concurrency.max_connections,
            upstream.protocol,
        )

    def on_connection(self, connection: Upward) -> None:
        """Send the copy."""
        if self.closed:
            self._mirrors.proxy.connector.keep(connection)
            return
        self._connection = connection
        raw = self._trailers is not None
        connection.begin(self, self._data, head_only=self._head_only, raw=raw)
        if self._trailers is not None:
            connection.finish(self._trailers)

    def on_no_connection(self, timed_out: bool, detail: str) -> None:
        """Drop the copy, or ask again."""
        if detail is RETRY_OPEN and not self.closed:
            self._open()
        else:
            self._end()

    def on_response(
        self,
        connection: Upward,
        status: StatusLine,
        block: ResponseBlock,
        length: int,
        data: Piece,
        complete: bool,
    ) -> None:
        """Throw the answer away."""
        if complete:
            self._end()

    def on_data(self, data: bytes) -> None:
        """Throw it away."""

    def on_end(self, connection: Upward) -> None:
        """The answer is over."""
        self._end()

    def on_interim(self, head: bytes, code: int) -> None:
        """Throw it away."""

    def on_broken(self, connection: Upward, why: Broken, detail: str) -> None:
        """Drop the copy."""
        self._end()

    def on_upstream_blocked(self) -> None:
        """The copy is handed over whole; nothing more is written."""

    def on_upstream_ready(self) -> None:
        """Nothing waits."""

    def on_deadline(self) -> None:
        """Call it off."""
        if self._connection is not None and not self._connection.closed:
            self._connection.abort()
        elif self._connection is None:
            self._mirrors.proxy.connector.leave(self, self._endpoint)
        self._end()

    def _end(self) -> None:
        if self.closed:
            return
        self.closed = True
        self._data = b""  # the clock keeps the copy for up to a second more, which must not keep a body
        self._endpoint.active -= 1
        self._mirrors.running -= 1
        connection = self._connection
        if connection is not None and not connection.closed and connection.receiver is None:
            if connection.reusable:
                self._mirrors.proxy.connector.keep(connection)
            else:
                connection.close()


class Collected:
    """What has come of a body whose length nobody knows, and which is passed on as it comes; copied when it is over.

    pools: the mirrors whose turn it is. left: bytes that it may still grow by.
    """

    __slots__ = ("left", "pieces", "pools")

    def __init__(self, pools: tuple[Pool, ...], most: int) -> None:
        self.pools = pools
        self.left = most
        self.pieces: list[bytes] = []

    def take(self, data: bytes) -> bool:
        """Keep a piece; return whether there was room for it."""
        self.left -= len(data)
        if self.left < 0:
            self.pieces.clear()
            return False
        self.pieces.append(data)
        return True


class Mirrors:
    """Sends copies. running: copies on their way."""

    def __init__(self, proxy: Proxy) -> None:
        self.proxy = proxy
        self.running = 0

    def draw(self, exchange: Exchange, plans: tuple[MirrorPlan, ...]) -> tuple[Pool, ...]:
        """Return the mirrors whose turn it is. A WebSocket's handshake is not copied: nobody would speak behind it."""
        if exchange.upgrades:
            return ()
        return tuple(plan.pool for plan in plans if plan.pool is not None and plan.draw())

    def send(self, exchange: Exchange, pools: tuple[Pool, ...], body: bytes) -> None:
        """Send the exchange's request, which is here in full, to these mirrors."""
        for pool in pools:
            now = monotonic()
            if now >= pool.look_again_at:
                pool.refresh(now)
            if self.running >= MAX_COPIES or not pool.live:
                self.proxy.measurements.mirrored(pool.upstream.id, False)
                continue
            endpoint = pool.pick(pool.live, b"", now)
            context = self.proxy.contexts.again(exchange.context, exchange.block.aside)
            if exchange.hostless:
                context += b"host: %b\r\n" % endpoint.authority.encode()
            data = b"".join((exchange.lines, context, LINE, b"\r\n", body))
            self.running += 1
            trailers = exchange.trailers if exchange.block.length == -2 else None
            Copy(self, pool, endpoint, data, exchange.head_only, exchange.host, trailers)
            self.proxy.measurements.mirrored(pool.upstream.id, True)

    def give_up(self, pools: tuple[Pool, ...]) -> None:
        """Count the copies of a request that cannot be copied: its body is too large, or nobody waits for its end any more."""
        for pool in pools:
            self.proxy.measurements.mirrored(pool.upstream.id, False)

    def close(self) -> None:
        """Copies end with their connections, which the connector closes."""
