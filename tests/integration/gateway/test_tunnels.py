"""WebSocket pass-through: both ends see each other as if nothing were between."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from aiohttp import WSCloseCode, WSMsgType, WSServerHandshakeError, web
from nexus_core.snapshot import Retry
from nexus_gateway.testing import Harness, route, rule, simple, snapshot, until, upstream


async def echo(request: web.Request) -> web.StreamResponse:
    socket = web.WebSocketResponse(protocols=("v2", "v1"), compress=True, max_msg_size=0, autoping=False)
    await socket.prepare(request)
    async for message in socket:
        if message.type is WSMsgType.TEXT and message.data == "bye":
            await socket.close(code=4001, message=b"because")
        elif message.type is WSMsgType.TEXT:
            await socket.send_str(message.data)
        elif message.type is WSMsgType.BINARY:
            await socket.send_bytes(message.data)
        elif message.type is WSMsgType.PING:
            await socket.pong(message.data + b"!")
    return socket


async def test_messages_subprotocol_pings_and_close_codes_pass(harness: Harness) -> None:
    await harness.start(simple(await harness.upstreams.start(echo)))
    async with harness.client.ws_connect(
        harness.url("/ws"), protocols=("v1",), compress=15, max_msg_size=0, autoping=False
    ) as socket:
        assert (socket.protocol, socket.compress) == ("v1", 15)
        await socket.send_str("hello")
        assert (await socket.receive()).data == "hello"
        large = bytes(range(256)) * 20_000
        await socket.send_bytes(large)
        assert (await socket.receive()).data == large
        await socket.ping(b"p")
        pong = await socket.receive()
        assert (pong.type, pong.data) == (WSMsgType.PONG, b"p!")
        await socket.send_str("bye")
        closing = await socket.receive()
        assert (closing.type, closing.data, closing.extra) == (WSMsgType.CLOSE, 4001, "because")
    assert harness.gateway is not None
    proxy = harness.gateway.proxy
    await until(lambda: not proxy.in_flight)  # the tunnel ends with its sockets


async def test_messages_sent_right_after_the_handshake_are_not_lost(harness: Harness) -> None:
    async def greet(request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        for number in range(100):
            await socket.send_str(str(number))
        await socket.close(code=WSCloseCode.GOING_AWAY)
        return socket

    await harness.start(simple(await harness.upstreams.start(greet)))
    async with harness.client.ws_connect(harness.url("/ws")) as socket:
        assert [message.data async for message in socket] == [str(number) for number in range(100)]
        assert socket.close_code == WSCloseCode.GOING_AWAY


async def test_a_refused_handshake_comes_back_as_it_is(harness: Harness) -> None:
    async def refuse(request: web.Request) -> web.Response:
        return web.json_response({"error": "no"}, status=403)

    await harness.start(simple(await harness.upstreams.start(refuse)))
    with pytest.raises(WSServerHandshakeError) as refused:
        await harness.client.ws_connect(harness.url("/ws"))
    assert refused.value.status == 403


async def test_an_abrupt_end_on_either_side_ends_the_other(harness: Harness) -> None:
    ended = asyncio.Event()

    async def handle(request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        assert request.transport is not None
        if request.path == "/server":
            request.transport.abort()
            return socket
        await socket.send_str("ready")
        try:
            await socket.receive()
        finally:
            ended.set()
        return socket

    await harness.start(simple(await harness.upstreams.start(handle)))
    async with asyncio.timeout(5):
        socket = await harness.client.ws_connect(harness.url("/server"))
        assert (await socket.receive()).type in (WSMsgType.CLOSED, WSMsgType.ERROR, WSMsgType.CLOSE)
        await socket.close()
        socket = await harness.client.ws_connect(harness.url("/client"))
        await socket.receive()
        assert socket._response.connection is not None
        assert socket._response.connection.transport is not None
        socket._response.connection.transport.abort()
        await ended.wait()
        await socket.close()


async def test_a_swap_leaves_tunnels_alone(harness: Harness) -> None:
    port = await harness.upstreams.start(echo)
    await harness.start(simple(port))
    async with harness.client.ws_connect(harness.url("/ws")) as socket:
        await harness.publish(snapshot(route(rule("shop/orders", path="/elsewhere")), upstream(port)))
        await socket.send_str("still here")
        assert (await socket.receive()).data == "still here"


@pytest.mark.parametrize(
    ("version", "switched", "status"),
    [(b"1.1", b"websocket", b"101"), (b"1.0", b"websocket", b"502"), (b"1.1", b"h2c", b"502")],
    ids=["as asked", "HTTP/1.0 asks", "another protocol"],
)
async def test_a_tunnel_is_for_who_may_ask_and_to_what_was_asked(
    harness: Harness, peers: Callable[..., Awaitable[int]], version: bytes, switched: bytes, status: bytes
) -> None:
    """What speaks h2c behind a tunnel would pass routes, plugins and limits by (RFC 9110 section 7.8)."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 101 S\r\nconnection: upgrade\r\nupgrade: " + switched + b"\r\n\r\nhello")
        writer.write_eof()
        await reader.read(-1)

    await harness.start(simple(await peers(serve), retry=Retry(attempts=0)))
    answer = await harness.raw(
        b"GET / HTTP/" + version + b"\r\nhost: x\r\nconnection: close, upgrade\r\nupgrade: websocket\r\n\r\n"
    )
    assert answer.startswith(b"HTTP/1.1 " + status)
    assert answer.endswith(b"hello") == (status == b"101")
