"""Plugins that see the messages of WebSockets: changed, dropped, refused, whatever the two ends speak."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import h2.events
import pytest
from aiohttp import ClientWebSocketResponse, WSMsgType, web
from nexus_core.snapshot import Budgets, PluginInstance
from nexus_gateway.testing import Harness, route, rule, snapshot, until, upstream
from nexus_hosting.testing import make_instance
from nexus_wire.websocket import BINARY, CLOSE, TEXT, Frame, MessageReader, frame

from tests.integration.gateway.plugged import Plugged
from tests.integration.gateway.test_http2 import Client

Peers = Callable[..., Awaitable[int]]
Clients = Callable[..., Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]
Settled = Callable[..., Awaitable[None]]

CODE = """
    import asyncio
    from nexus_sdk.plugin import Close, Message, Plugin

    class Demo(Plugin):
        def on_request(self, request):
            return request.with_header("x-seen", "1")

        {kind}def on_client_message(self, socket, message):
            {wait}
            if message.data == "crash":
                raise RuntimeError("boom")
            if message.data == "wrong":
                return 7
            if message.data == "drop":
                return None
            if message.data == "leave":
                return Close(4001, "go away")
            if message.data == "who":
                return Message(socket.request.header("x-seen") + " " + socket.request.path)
            if isinstance(message.data, bytes):
                return Message(message.data[::-1])
            return Message(message.data.upper())

        {kind}def on_server_message(self, socket, message):
            {wait}
            return Message(message.data + "!") if isinstance(message.data, str) else message
"""
HOOKS = ("on_client_message", "on_request", "on_server_message")
SYNC = {"kind": "", "wait": "pass"}
WAITING = {"kind": "async ", "wait": "await asyncio.sleep(0.001)"}
pytestmark = pytest.mark.usefixtures("loop_errors")
both = pytest.mark.parametrize("way", [SYNC, WAITING], ids=["plain", "coroutine"])


HANDSHAKE = (
    b"GET /ws HTTP/1.1\r\nhost: shop.example\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
    b"sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"


class Echo:
    """A service that keeps what it hears."""

    def __init__(self) -> None:
        self.heard: list[Any] = []
        self.closed: list[int | None] = []
        self.extensions: list[str | None] = []

    async def serve(self, request: web.Request) -> web.StreamResponse:
        self.extensions.append(request.headers.get("sec-websocket-extensions"))
        socket = web.WebSocketResponse(compress=True, max_msg_size=0)
        await socket.prepare(request)
        async for message in socket:
            self.heard.append(message.data)
            if message.data == "STORM":
                for number in range(500):
                    await socket.send_str(str(number))
                await socket.close(code=4100, message=b"done")
            elif message.type is WSMsgType.TEXT:
                await socket.send_str(message.data)
            elif message.type is WSMsgType.BINARY:
                await socket.send_bytes(message.data)
        self.closed.append(socket.close_code)
        return socket


async def start(harness: Harness, way: dict[str, str] = SYNC, **fields: Any) -> Echo:
    echo = Echo()
    port = await harness.upstreams.start(echo.serve)
    instance: PluginInstance = make_instance(
        harness.tmp_path / "plugins", CODE.format(**way), release={"hooks": HOOKS}, **fields
    )
    await harness.start()
    rules = rule("shop/orders", plugins=(instance.id,))
    await harness.publish(snapshot(route(rules), upstream(port), plugins=(instance,)))
    assert harness.gateway is not None
    assert harness.gateway.runtime.slots[instance.id].report.state == "loaded"
    return echo


async def said(socket: ClientWebSocketResponse, text: str | bytes) -> Any:
    await (socket.send_str(text) if isinstance(text, str) else socket.send_bytes(text))
    return (await socket.receive()).data


@both
async def test_messages_are_changed_each_way(harness: Harness, way: dict[str, str]) -> None:
    echo = await start(harness, way)
    async with harness.client.ws_connect(harness.url("/ws"), compress=15) as socket:
        assert not socket.compress  # nobody agreed on what would hide messages
        assert await said(socket, "hello") == "HELLO!"
        assert await said(socket, b"\x00\x01") == b"\x01\x00"
        assert await said(socket, "who") == "1 /ws!"
        large = "x" * 100_000
        assert await said(socket, large) == large.upper() + "!"
        await socket.ping(b"p")
        assert await said(socket, "still") == "STILL!"
    assert echo.extensions == [None]
    assert echo.heard[0] == "HELLO"


@both
async def test_many_messages_keep_their_order(harness: Harness, way: dict[str, str]) -> None:
    await start(harness, way)
    async with harness.client.ws_connect(harness.url("/ws")) as socket:
        for number in range(200):
            await socket.send_str(f"m{number}")
        assert [(await socket.receive()).data for _ in range(200)] == [f"M{number}!" for number in range(200)]


@both
async def test_what_a_service_says_last_arrives_before_its_close(harness: Harness, way: dict[str, str]) -> None:
    await start(harness, way)
    async with harness.client.ws_connect(harness.url("/ws")) as socket:
        await socket.send_str("storm")
        got = [message.data async for message in socket]
        assert got == [f"{number}!" for number in range(500)]
        assert socket.close_code == 4100


@both
async def test_what_a_client_says_last_arrives_before_its_leave(harness: Harness, way: dict[str, str]) -> None:
    echo = await start(harness, way)
    async with harness.client.ws_connect(harness.url("/ws")) as socket:
        for number in range(50):
            await socket.send_str(f"m{number}")
    await until(lambda: len(echo.heard) == 50)
    assert echo.heard[-1] == "M49"
    assert harness.gateway is not None
    proxy = harness.gateway.proxy
    await until(lambda: not proxy.in_flight)


@both
async def test_a_dropped_message_reaches_nobody(harness: Harness, way: dict[str, str]) -> None:
    echo = await start(harness, way)
    async with harness.client.ws_connect(harness.url("/ws")) as socket:
        await socket.send_str("drop")
        assert await said(socket, "next") == "NEXT!"
    assert echo.heard == ["NEXT"]


@both
async def test_a_plugin_closes_both_sides(harness: Harness, way: dict[str, str]) -> None:
    echo = await start(harness, way)
    async with harness.client.ws_connect(harness.url("/ws")) as socket:
        await socket.send_str("leave")
        await socket.send_str("unheard")
        message = await socket.receive()
        assert (message.type, message.data, message.extra) == (WSMsgType.CLOSE, 4001, "go away")
    await until(lambda: echo.closed == [4001])
    assert echo.heard == []
    assert harness.gateway is not None
    proxy = harness.gateway.proxy
    await until(lambda: not proxy.in_flight)


@both
@pytest.mark.parametrize("text", ["crash", "wrong"])
async def test_a_failing_plugin_is_passed_over_or_ends_it(harness: Harness, way: dict[str, str], text: str) -> None:
    await start(harness, way)
    async with harness.client.ws_connect(harness.url("/ws")) as socket:
        assert await said(socket, text) == f"{text}!"
    await start_again(harness, way)
    async with harness.client.ws_connect(harness.url("/ws")) as socket:
        await socket.send_str(text)
        message = await socket.receive()
        assert (message.type, message.data) == (WSMsgType.CLOSE, 1011)


async def start_again(harness: Harness, way: dict[str, str]) -> None:
    port = await harness.upstreams.start(Echo().serve)
    instance = make_instance(
        harness.tmp_path / "plugins", CODE.format(**way), release={"hooks": HOOKS}, failure_policy="closed"
    )
    rules = rule("shop/orders", plugins=(instance.id,))
    await harness.publish(snapshot(route(rules), upstream(port), plugins=(instance,)))


async def test_a_message_that_is_too_large_ends_it(harness: Harness) -> None:
    echo = await start(harness, budgets=Budgets(body_bytes=2048))
    async with harness.client.ws_connect(harness.url("/ws"), max_msg_size=0) as socket:
        assert await said(socket, "x" * 2047) == "X" * 2047 + "!"
        await socket.send_str("x" * 2049)
        message = await socket.receive()
        assert (message.type, message.data) == (WSMsgType.CLOSE, 1009)
    await until(lambda: echo.closed == [1009])


async def test_a_client_that_speaks_no_websocket_is_cut_off(harness: Harness) -> None:
    await start(harness)
    assert harness.gateway is not None
    reader, writer = await asyncio.open_connection("127.0.0.1", harness.gateway.port)
    writer.write(HANDSHAKE)
    head = await reader.readuntil(b"\r\n\r\n")
    assert b" 101 " in head
    writer.write(b"\x81\x05hello")  # not masked
    close = await reader.readexactly(4)
    assert (close[0], int.from_bytes(close[2:4], "big")) == (0x88, 1002)
    proxy = harness.gateway.proxy
    writer.close()
    await until(lambda: not proxy.in_flight)


@both
@pytest.mark.parametrize("talks", ["client", "service"])
async def test_a_side_that_does_not_read_holds_the_other_one_up(
    harness: Harness, peers: Callable[..., Awaitable[int]], way: dict[str, str], talks: str
) -> None:
    """Also while hooks wait between the messages: what they let go of may still have to wait for the reader."""
    piece, most = frame(BINARY, bytes(60_000)), 20 * 2**20
    sent = 0
    over = asyncio.Event()

    async def talk(writer: asyncio.StreamWriter, data: bytes) -> None:
        nonlocal sent
        writer.transport.set_write_buffer_limits(0)
        while sent < most:
            writer.write(data)
            await writer.drain()
            sent += len(data)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        reader._transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(SWITCH)
        talking = asyncio.create_task(talk(writer, piece)) if talks == "service" else None
        await over.wait()
        if talking is not None:
            talking.cancel()
        writer.transport.abort()

    await start(harness, way)
    port = await peers(serve)
    instance = make_instance(harness.tmp_path / "plugins", CODE.format(**way), release={"hooks": HOOKS})
    rules = rule("shop/orders", plugins=(instance.id,))
    await harness.publish(snapshot(route(rules), upstream(port), plugins=(instance,)))
    assert harness.gateway is not None
    reader, writer = await asyncio.open_connection("127.0.0.1", harness.gateway.port)
    writer.write(HANDSHAKE)
    assert b" 101 " in await reader.readuntil(b"\r\n\r\n")
    reader._transport.pause_reading()  # type: ignore[attr-defined]
    talking = asyncio.create_task(
        talk(writer, frame(BINARY, bytes(60_000), b"abcd")) if talks == "client" else asyncio.sleep(0)
    )
    before = -1
    while before != sent or not sent:  # until nothing more goes
        before = sent
        await asyncio.sleep(0.3)
    assert 0 < sent < most
    talking.cancel()
    over.set()
    writer.transport.abort()
    proxy = harness.gateway.proxy
    await until(lambda: not proxy.in_flight)


async def test_an_update_changes_new_conversations_and_keeps_old_ones(harness: Harness) -> None:
    await start(harness)
    async with harness.client.ws_connect(harness.url("/ws")) as old:
        assert await said(old, "a") == "A!"
        port = await harness.upstreams.start(Echo().serve)
        code = CODE.format(**SYNC).replace('+ "!"', '+ "?"')
        newer = make_instance(harness.tmp_path / "plugins", code, release={"hooks": HOOKS, "version": "1.1.0"})
        rules = rule("shop/orders", plugins=(newer.id,))
        await harness.publish(snapshot(route(rules), upstream(port), plugins=(newer,)))
        async with harness.client.ws_connect(harness.url("/ws")) as new:
            assert await said(new, "b") == "B?"
        assert await said(old, "c") == "C!"


@pytest.mark.parametrize(("policy", "said_back"), [("open", b"\x81\x02hi"), ("closed", b"\x88")])
async def test_a_plugin_that_is_disabled_during_the_handshake(
    plugged: Plugged, peers: Peers, clients: Clients, settled: Settled, policy: str, said_back: bytes
) -> None:
    """Its failure policy has a say in each message, as in the middle of a conversation."""
    asked, answer = asyncio.Event(), asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        asked.set()
        await answer.wait()
        writer.write(SWITCH)
        messages = MessageReader(masked=True, limit=1000)
        while data := await reader.read(1000):
            messages.feed(data)
            for found in messages.frames():
                writer.write(frame(found.opcode, found.payload))

    code = "def on_client_message(self, socket, message):\n    return message"
    await plugged.serve(await peers(serve), plugged.plugin(code, failure_policy=policy))
    reader, writer = await clients(HANDSHAKE)
    await asked.wait()
    plugged.slot().open = False
    answer.set()
    assert b" 101 " in await reader.readuntil(b"\r\n\r\n")
    writer.write(frame(TEXT, b"hi", b"abcd"))
    assert (await reader.read(100)).startswith(said_back)
    writer.transport.abort()
    await settled()


@pytest.mark.parametrize("how", ["the stream's end", "a reset", "the connection's end"])
@pytest.mark.parametrize(
    "word", ["return Close(4001)", "return message", "raise RuntimeError", "return 7", "return None"]
)
async def test_a_client_of_http_2_that_leaves_while_a_hook_waits(
    plugged: Plugged, peers: Peers, clients: Clients, settled: Settled, how: str, word: str
) -> None:
    """A stream that is gone has no clock: whatever the hook says then, it is the end, also for a service that answers no Close."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(SWITCH)
        await reader.read(-1)

    code = f"""
from nexus_sdk.plugin import Close
---
called = left = None
async def on_client_message(self, socket, message):
    self.called.set()
    await self.left.wait()
    {word}
"""
    await plugged.serve(await peers(serve), plugged.plugin(code, failure_policy="closed"))
    live = plugged.live()
    live.called, live.left = asyncio.Event(), asyncio.Event()
    client = Client(*await clients())
    client.h2.config.validate_outbound_headers = False
    stream = client.h2.get_next_available_stream_id()
    client.h2.send_headers(
        stream,
        [(":method", "CONNECT"), (":protocol", "websocket"), (":scheme", "http"), (":path", "/ws"), (":authority", "a.example")],
    )  # fmt: skip
    client.flush()
    assert await client.status(stream) == "200"
    client.h2.send_data(stream, frame(TEXT, b"hi", b"abcd"), end_stream=how == "the stream's end")
    client.flush()
    await live.called.wait()
    if how == "a reset":
        client.h2.reset_stream(stream)
        client.flush()
        client.h2.ping(b"12345678")
        client.flush()
        await client.until(h2.events.PingAckReceived)  # the gateway has read it
    elif how == "the connection's end":
        client.writer.transport.abort()
        assert plugged.harness.gateway is not None
        proxy = plugged.harness.gateway.proxy
        await until(lambda: not proxy.connections)
    live.left.set()
    await settled(clients=how == "the connection's end")


async def test_what_goes_out_of_messages_is_plain(
    plugged: Plugged, peers: Peers, clients: Clients, settled: Settled
) -> None:
    """Classes below those that hooks may return say something else each time they are asked."""
    code = """
from nexus_sdk.plugin import Close, Message
class Shifting(Message):
    __slots__ = ()
    asked = []
    @property
    def data(self):
        self.asked.append(True)
        return "once" if len(self.asked) == 1 else 7
class Short(bytes):
    def __len__(self):
        return 3
class Odd(int):
    def to_bytes(self, *how):
        raise RuntimeError
---
def on_client_message(self, socket, message):
    if message.data == "shifting":
        return object.__new__(Shifting)
    return Message(Short(b"12345")) if message.data == "short" else Close(Odd(4001), "bye")
"""
    heard: list[Frame] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(SWITCH)
        messages = MessageReader(masked=True, limit=1000)
        while data := await reader.read(1000):
            messages.feed(data)
            heard.extend(messages.frames())

    await plugged.serve(await peers(serve), plugged.plugin(code))
    _, writer = await clients(HANDSHAKE)
    for word in (b"shifting", b"short", b"close"):
        writer.write(frame(TEXT, word, b"abcd"))
    await until(lambda: len(heard) == 3)
    assert heard == [(TEXT, b"once"), (BINARY, b"12345"), (CLOSE, b"\x0f\xa1bye")]
    writer.transport.abort()
    await settled()


async def test_what_no_plugin_looks_at_may_be_of_any_size(harness: Harness) -> None:
    """A plugin for one direction costs the other one nothing: neither its limit nor its wait for whole messages."""
    large = "y" * 100_000

    async def serve(request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse(max_msg_size=0)
        await socket.prepare(request)
        async for message in socket:
            await socket.ping(b"p")
            await socket.send_str(large)
            await socket.send_bytes(b"")
            await socket.send_str(message.data)
        return socket

    port = await harness.upstreams.start(serve)
    code = """
from nexus_sdk.plugin import Message, Plugin
class Demo(Plugin):
    def on_client_message(self, socket, message):
        return Message(message.data.upper())
"""
    hooks = ("on_client_message",)
    instance = make_instance(
        harness.tmp_path / "plugins", code, release={"hooks": hooks}, budgets=Budgets(body_bytes=50)
    )
    await harness.start(
        snapshot(route(rule("shop/orders", plugins=(instance.id,))), upstream(port), plugins=(instance,))
    )
    async with harness.client.ws_connect(harness.url("/ws"), max_msg_size=0) as socket:
        for _ in range(3):
            assert await said(socket, "hello") == large
            assert [(await socket.receive()).data for _ in range(2)] == [b"", "HELLO"]
        await socket.send_str("x" * 51)
        message = await socket.receive()
        assert (message.type, message.data) == (WSMsgType.CLOSE, 1009)
    assert harness.gateway is not None
    proxy = harness.gateway.proxy
    await until(lambda: not proxy.in_flight)


async def test_a_goodbye_waits_for_the_end_of_a_frame_that_passes(
    plugged: Plugged, peers: Peers, clients: Clients, settled: Settled
) -> None:
    whole = frame(TEXT, b"a long story")
    halves = [whole[:1], whole[1:5], whole[5:]]
    go_on = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(SWITCH + frame(TEXT, b"first") + halves[0])
        await writer.drain()
        await asyncio.sleep(0.01)
        writer.write(halves[1])
        await go_on.wait()
        writer.write(halves[2] + frame(TEXT, b"never heard"))
        await reader.read(-1)

    code = """
from nexus_sdk.plugin import Close
---
def on_client_message(self, socket, message):
    return Close(4001, "bye")
"""
    await plugged.serve(await peers(serve), plugged.plugin(code))
    reader, writer = await clients(HANDSHAKE)
    await reader.readuntil(b"\r\n\r\n")
    assert await reader.readexactly(7 + 5) == frame(TEXT, b"first") + whole[:5]
    writer.write(frame(TEXT, b"leave", b"abcd"))
    assert plugged.harness.gateway is not None
    (connection,) = plugged.harness.gateway.proxy.connections
    await until(lambda: connection.requestor.conversation.closing)  # type: ignore[union-attr]  # an exchange
    go_on.set()
    goodbye = frame(CLOSE, b"\x0f\xa1bye")
    assert await reader.readexactly(len(whole) - 5 + len(goodbye)) == whole[5:] + goodbye
    writer.transport.abort()
    await settled()


async def test_a_close_of_a_side_that_passes_is_the_last_that_is_heard_of_it(
    plugged: Plugged, peers: Peers, clients: Clients, settled: Settled
) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(SWITCH + frame(CLOSE, b"\x03\xe8") + frame(TEXT, b"never heard"))
        await reader.read(1000)

    code = """
from nexus_sdk.plugin import Close
---
def on_client_message(self, socket, message):
    return Close(4001)
"""
    await plugged.serve(await peers(serve), plugged.plugin(code))
    reader, writer = await clients(HANDSHAKE)
    await reader.readuntil(b"\r\n\r\n")
    assert await reader.readexactly(4) == frame(CLOSE, b"\x03\xe8")
    writer.write(frame(TEXT, b"hi", b"abcd") + frame(CLOSE, b"\x03\xe8", b"abcd"))
    assert await reader.read(100) == b"", "neither a second Close, nor what came behind the first one"
    await settled()
