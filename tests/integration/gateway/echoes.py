"""One service by either protocol behind the gateway, clients of either protocol before it, and a question by them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any

import pytest
from h2.exceptions import StreamClosedError
from nexus_gateway.testing import Harness
from nexus_wire.client import ClientConnection, Upward
from nexus_wire.clock import Clock
from nexus_wire.h2client import Carrier, Heads
from nexus_wire.http1 import Dechunker, ResponseParser
from nexus_wire.server import ServerConnection
from nexus_wire.testing import Answer, App, Served

from tests.integration.h2_servers import OK, Call, Peer, Server

Connect = Callable[..., Awaitable[Upward]]
Listen = Callable[..., Awaitable[int]]
PROTOCOLS = ("h1", "h2")
combinations = pytest.mark.parametrize(("client", "server"), [(a, b) for a in PROTOCOLS for b in PROTOCOLS])


@pytest.fixture
async def clock() -> AsyncIterator[Clock]:
    made = Clock(asyncio.get_running_loop())
    yield made
    made.stop()


@pytest.fixture
async def connect(harness: Harness, clock: Clock) -> AsyncIterator[Connect]:
    """Opens a client's connection to the gateway: by HTTP/1.1, or one exchange by HTTP/2."""
    opened: list[Any] = []
    heads = Heads()

    async def begin(protocol: str) -> Upward:
        assert harness.gateway is not None
        loop, port = asyncio.get_running_loop(), harness.gateway.port
        if protocol == "h1":
            _, connection = await loop.create_connection(
                lambda: ClientConnection(ResponseParser(), lambda _: None), "127.0.0.1", port
            )
            opened.append(connection)
            return connection
        _, carrier = await loop.create_connection(lambda: Carrier(heads, clock, lambda _: None), "127.0.0.1", port)
        opened.append(carrier)
        await carrier.ready
        return carrier.exchange()

    yield begin
    for each in opened:
        each.abort()
    await asyncio.sleep(0.01)


class Echo:
    """The same service by either protocol: answers with the request's body and, as trailers, its length and the trailers it came with."""

    def __init__(self) -> None:
        self.server = Server()
        self.server.on_call = self._on_call
        self.heads: list[dict[str, str]] = []

    # by HTTP/2

    def _on_call(self, peer: Peer, call: Call, what: str) -> None:
        if what == "head":
            self.heads.append({name.decode(): value.decode() for name, value in call.headers})
            peer.left = {}  # type: ignore[attr-defined]
        if what != "end":
            return
        path = call.header(b":path")
        if path in (b"/204", b"/304"):
            peer.h2.send_headers(call.stream, [(":status", path[1:].decode())], end_stream=True)
            return
        lines = [*OK, ("content-length", str(len(call.body)))] if path == b"/sized" else OK
        if call.header(b":method") == b"HEAD":
            peer.h2.send_headers(call.stream, [*OK, ("content-length", "7")], end_stream=True)
            return
        if path == b"/hints":
            peer.h2.send_headers(call.stream, [(":status", "103"), ("link", "</a>")])
        peer.h2.send_headers(call.stream, lines)
        asyncio.get_running_loop().create_task(self._send(peer, call, path == b"/sized"))

    async def _send(self, peer: Peer, call: Call, sized: bool) -> None:
        with contextlib.suppress(StreamClosedError):  # its client may leave at any time
            await self._send_all(peer, call, sized)

    async def _send_all(self, peer: Peer, call: Call, sized: bool) -> None:
        body = bytes(call.body)
        while body:
            size = min(peer.h2.local_flow_control_window(call.stream), 16384, len(body))
            if size <= 0:
                await asyncio.sleep(0.001)
                continue
            peer.h2.send_data(call.stream, body[:size], end_stream=sized and size == len(body))
            peer.flush()
            body = body[size:]
        if not sized:
            got = dict(call.trailers or [])
            peer.h2.send_headers(
                call.stream,
                [("x-length", str(len(call.body))), ("x-got", got.get(b"x-sent", b"").decode())],
                end_stream=True,
            )
            peer.flush()

    # by HTTP/1.1

    def on_head(self, served: Served) -> bool:
        block = served.stream.block
        self.heads.append({":path": served.stream.line.path, **dict(block.headers)})
        served.answer = lambda *_: self._answer(served)  # type: ignore[method-assign]
        return False

    def _answer(self, served: Served) -> None:
        stream = served.stream
        body, trailers = bytes(served.body), b""
        if stream.block.length == -1:
            dechunker = Dechunker()
            body, _ = dechunker.take(body)
            trailers = dechunker.trailers
        path = stream.line.path
        if path in ("/204", "/304"):
            stream.respond(b"HTTP/1.1 %b X\r\n" % path[1:].encode(), b"", 0, b"", True)
        elif stream.line.method == "HEAD":
            stream.respond(b"HTTP/1.1 200 OK\r\n", b"content-length: 7\r\n", 0, b"", True)
        elif path == "/sized":
            stream.respond(b"HTTP/1.1 200 OK\r\n", b"content-length: %d\r\n" % len(body), len(body), body, True)
        else:
            if path == "/hints":
                stream.inform(b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n")
            stream.respond(b"HTTP/1.1 200 OK\r\n", b"", -2, body, False)
            got = trailers.partition(b"x-sent: ")[2].partition(b"\r\n")[0]
            stream.finish(b"x-length: %d\r\nx-got: %b\r\n" % (len(body), got))


@pytest.fixture
async def echo() -> Echo:
    return Echo()


@pytest.fixture
async def listen(echo: Echo, clock: Clock) -> AsyncIterator[Listen]:
    """Starts the service by a protocol; returns its port."""
    servers: list[asyncio.Server] = []
    apps: list[App] = []

    async def begin(protocol: str, **options: Any) -> int:
        if protocol == "h2":
            servers.append(await echo.server.listen(**options))
            return echo.server.port
        app = App(clock)
        app.on_head = echo.on_head
        apps.append(app)
        server = await asyncio.get_running_loop().create_server(lambda: ServerConnection(app.options), "127.0.0.1", 0)
        servers.append(server)
        return int(server.sockets[0].getsockname()[1])

    yield begin
    for server in servers:
        server.close()
    for app in apps:
        app.close()
    for peer in echo.server.peers:
        peer.transport.abort()
    await asyncio.sleep(0.01)


@dataclass
class Got:
    status: int
    headers: dict[str, str]
    body: bytes
    trailers: bytes
    interim: list[int]


async def ask(
    connection: Upward,
    start: bytes,
    body: Iterable[bytes] = (),
    *,
    sized: int | None = 0,
    trailers: bytes = b"",
    lines: bytes = b"",
) -> Got:
    """Send a request and return its answer. sized: the body's announced length; None for one that is framed as it comes."""
    answer = Answer()
    pieces = list(body)
    length = b"content-length: %d\r\n" % sized if sized else b""
    head = start + b" HTTP/1.1\r\nhost: x\r\n" + lines + length + b"\r\n"
    head_only = start.startswith(b"HEAD")
    connection.begin(answer, head + (pieces[0] if pieces else b""), raw=sized is None, head_only=head_only)
    for piece in pieces[1:]:
        while connection.blocked:  # noqa: ASYNC110 - what is waited for sends no event
            await asyncio.sleep(0.001)
        connection.write(piece)
        await asyncio.sleep(0)
    if sized is None:
        connection.finish(trailers)
    await asyncio.wait_for(answer.done.wait(), 20)
    assert answer.broken is None, answer.detail
    assert answer.block is not None
    content, after = bytes(answer.body), connection.trailers
    if answer.length == -1:
        dechunker = Dechunker()
        content, _ = dechunker.take(content)
        after = dechunker.trailers
    return Got(answer.status, dict(answer.block.headers), content, after, answer.interim)
