"""For tests and experiments: a small service and a small client on bare connections of the wire, all on 127.0.0.1."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from nexus_wire.client import Broken, ClientConnection, Upward
from nexus_wire.clock import Clock
from nexus_wire.h2server import Http2
from nexus_wire.http1 import Refused, RequestParser, ResponseBlock, ResponseParser, StatusLine
from nexus_wire.pieces import Piece
from nexus_wire.server import AnyConnection, ServerOptions, Stream


class Served:
    """One request of the service: collects the body, then answers what `App.answer` says."""

    def __init__(self, app: App, stream: Stream) -> None:
        self.app = app
        self.stream = stream
        self.body = bytearray(stream.body)
        self.events: list[str] = []
        stream.requestor = self
        app.served.append(self)
        if app.on_head is not None and app.on_head(self):
            return
        if stream.complete:
            self.answer()

    def answer(self, status: bytes = b"HTTP/1.1 200 OK\r\n") -> None:
        body = b"%b %b" % (self.stream.line.path.encode(), bytes(self.body))
        self.stream.respond(status, b"content-length: %d\r\n" % len(body), len(body), body, True)

    def on_body(self, data: bytes, complete: bool) -> None:
        self.body += data
        if complete:
            self.events.append("complete")
            if self.stream.requestor is self:
                self.answer()

    def on_gone(self) -> None:
        self.events.append("gone")

    def on_refused(self, refused: Refused) -> None:
        self.events.append("refused")
        self.answer(b"HTTP/1.1 400 Bad Request\r\n")

    def on_blocked(self) -> None:
        self.events.append("blocked")

    def on_ready(self) -> None:
        self.events.append("ready")

    def on_late(self) -> None:
        self.events.append("late")
        self.answer(b"HTTP/1.1 504 Gateway Timeout\r\n")

    def on_tunnel(self, data: bytes) -> None:
        self.body += data


class App:
    """The service. on_head: sees each request first; returns whether it serves it itself."""

    def __init__(self, clock: Clock, **options: Any) -> None:
        self.served: list[Served] = []
        self.connections: set[AnyConnection] = set()
        self.opened = 0
        self._writers: list[asyncio.StreamWriter] = []
        self.on_head: Callable[[Served], bool] | None = None
        parser = RequestParser()
        options.setdefault("http2", Http2(parser))
        self.options = ServerOptions(
            parser=parser, clock=clock, on_request=self._request, on_refused=self._refused,
            on_open=self._open, on_close=self.connections.discard, **options,
        )  # fmt: skip
        self.port = 0

    def _request(self, stream: Stream) -> None:
        Served(self, stream)

    def _refused(self, connection: AnyConnection, refused: Refused) -> bytes:
        return b"HTTP/1.1 %d %b\r\ncontent-length: 0\r\nconnection: close\r\n\r\n" % (
            refused.status, refused.reason.encode(),
        )  # fmt: skip

    def _open(self, connection: AnyConnection) -> bool:
        self.opened += 1
        self.connections.add(connection)
        return True

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Open a client's connection; `close` ends it if nobody else does."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        self._writers.append(writer)
        return reader, writer

    def close(self) -> None:
        """Cut off all connections, of both sides."""
        for writer in self._writers:
            writer.transport.abort()
        for connection in tuple(self.connections):
            connection.transport.abort()

    async def raw(self, data: bytes, *, and_then: bytes = b"") -> bytes:
        """Send bytes, and others a little later, and return all that comes until the service closes."""
        reader, writer = await self.connect()
        try:
            writer.write(data)
            if and_then:
                await asyncio.sleep(0.02)
                writer.write(and_then)
            async with asyncio.timeout(5):
                return await reader.read()
        except ConnectionError:
            return b""
        finally:
            writer.close()


class Answer:
    """What a client's request came to."""

    def __init__(self) -> None:
        self.status = 0
        self.length = 0
        self.block: ResponseBlock | None = None
        self.body = bytearray()
        self.trailers = b""
        self.interim: list[int] = []
        self.broken: Broken | None = None
        self.detail = ""
        self.blocked = 0
        self.begun = asyncio.Event()
        self.done = asyncio.Event()

    def on_response(
        self,
        connection: Upward,
        status: StatusLine,
        block: ResponseBlock,
        length: int,
        data: Piece,
        complete: bool,
    ) -> None:
        assert not self.begun.is_set(), "one response"
        self.status, self.block, self.length = status.code, block, length
        self.body += data
        self.begun.set()
        if complete:
            self.trailers = connection.trailers
            self.done.set()

    def on_data(self, data: bytes) -> None:
        assert self.begun.is_set()
        assert not self.done.is_set()
        self.body += data

    def on_end(self, connection: Upward) -> None:
        assert not self.done.is_set()
        self.trailers = connection.trailers
        self.done.set()

    def on_interim(self, head: bytes, code: int) -> None:
        self.interim.append(code)

    def on_broken(self, connection: Upward, why: Broken, detail: str) -> None:
        assert not self.done.is_set(), "one end"
        self.broken, self.detail = why, detail
        self.done.set()

    def on_upstream_blocked(self) -> None:
        self.blocked += 1

    def on_upstream_ready(self) -> None:
        self.blocked -= 1


class Caller:
    """Opens client connections and counts those that are left."""

    def __init__(self) -> None:
        self.parser = ResponseParser()
        self.connections: set[ClientConnection] = set()

    async def connect(self, port: int) -> ClientConnection:
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(
            lambda: ClientConnection(self.parser, self.connections.discard), "127.0.0.1", port
        )
        self.connections.add(connection)
        return connection
