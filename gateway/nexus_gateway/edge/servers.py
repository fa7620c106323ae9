"""The listener: aiohttp's HTTP server with our limits and our error bodies."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp.http_exceptions import BadHttpMessage, LineTooLong
from aiohttp.web import BaseRequest, RequestHandler, Response, Server, StreamResponse
from nexus_core.hooks import Reply

from nexus_gateway.edge.heads import outbound
from nexus_gateway.edge.replies import problem

Handler = Callable[[BaseRequest], Awaitable[StreamResponse]]

_HEAD_TIMEOUT = (
    b"HTTP/1.1 408 Request Timeout\r\nContent-Type: application/problem+json\r\nConnection: close\r\nContent-Length: "
)
_MAX_FIELD_BYTES = 16384
SERVER_NAME = "nexus"
"""What answers without a Server header of their own carry: not aiohttp's name and version, which tell attackers more."""


class Connection(RequestHandler):
    """One client connection. Adds to aiohttp's: a deadline for each request head, errors as problem details."""

    __slots__ = ("_edge", "_head_timeout_s", "_head_timer", "_on_refused")

    def __init__(self, server: EdgeServer, **kwargs: Any) -> None:
        super().__init__(server, **kwargs)
        self._edge = server
        self._head_timer: asyncio.TimerHandle | None = None
        self._head_timeout_s = server.head_timeout_s
        self._on_refused = server.on_refused

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Count the connection in."""
        super().connection_made(transport)
        self._edge.opened(self)

    def data_received(self, data: bytes) -> None:
        """Feed the parser; a head that began must be complete within the head timeout, however slowly it drips."""
        before = self._request_count
        super().data_received(data)
        waiting = self._request_count == before and self._current_request is None and not self._messages
        if not waiting:
            self._stop_head_timer()
        elif self._head_timer is None and data and self._head_timeout_s:
            self._head_timer = self._loop.call_later(self._head_timeout_s, self._head_late)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Forget the timer with the connection, and count it out."""
        self._stop_head_timer()
        self._edge.closed(self)
        super().connection_lost(exc)

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_late(self) -> None:
        self._head_timer = None
        if self.transport is None or self._current_request is not None or self._messages:
            return
        body = problem("HeadTimeout", "").body
        self._on_refused("HeadTimeout")
        self.transport.write(_HEAD_TIMEOUT + str(len(body)).encode() + b"\r\n\r\n" + body)
        self.force_close()

    def handle_error(
        self, request: BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> StreamResponse:
        """Return the problem that a client gets for a message that is not HTTP, or for a bug of ours."""
        if request.writer.output_size > 0:
            raise ConnectionError("the response has begun; another one cannot follow")
        if isinstance(exc, LineTooLong):
            reason, detail = "HeadTooLarge", ""
        elif isinstance(exc, BadHttpMessage) or status == 400:
            reason, detail = "BadRequest", "The message is not valid HTTP."
        else:
            reason, detail = "InternalError", ""
            self.logger.error("the gateway failed on a request", exc_info=exc)
        self._on_refused(reason)
        response = to_response(problem(reason, "", detail))
        response.force_close()
        return response

    @property
    def busy(self) -> bool:
        """Whether a request is being served or is about to be."""
        return self._current_request is not None or bool(self._messages)


class EdgeServer(Server):
    """Makes `Connection`s."""

    def __init__(
        self,
        handler: Handler,
        *,
        max_head_bytes: int,
        head_timeout_s: float,
        keepalive_s: float,
        on_refused: Callable[[str], None],
    ) -> None:
        super().__init__(handler, handler_cancellation=True)
        self.head_timeout_s = head_timeout_s
        self.on_refused = on_refused
        self._live: set[Connection] = set()
        self._nobody = asyncio.Event()
        self._nobody.set()
        self._connection_args: dict[str, Any] = {
            "loop": asyncio.get_running_loop(),
            "keepalive_timeout": keepalive_s,
            "tcp_keepalive": True,
            "access_log": None,
            "max_line_size": min(max_head_bytes, _MAX_FIELD_BYTES),
            "max_field_size": min(max_head_bytes, _MAX_FIELD_BYTES),
            "max_headers": 128,
            "lingering_time": 2.0,
            "auto_decompress": False,
            "read_bufsize": 2**16,
        }

    def __call__(self) -> RequestHandler:
        """Return the protocol of a new connection."""
        return Connection(self, **self._connection_args)

    def opened(self, connection: Connection) -> None:
        """Take note of a new connection."""
        self._live.add(connection)
        self._nobody.clear()

    def closed(self, connection: Connection) -> None:
        """Take note of a connection's end."""
        self._live.discard(connection)
        if not self._live:
            self._nobody.set()

    async def quiet(self, grace_s: float) -> None:
        """Give clients `grace_s` seconds to finish and leave, then close the connections that have no request.

        Answers while draining carry `Connection: close`, so that busy connections go by themselves.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace_s):
                await self._nobody.wait()
        for connection in tuple(self._live):
            if not connection.busy:
                connection.force_close()


def to_response(reply: Reply) -> Response:
    """Return a reply of ours or of a plugin as aiohttp sends it."""
    response = Response(status=reply.status, headers=outbound(reply.headers, ()), body=bytes(reply.body))
    response.headers.setdefault("Server", SERVER_NAME)
    return response
