"""Plugins that change bodies while they pass: piece by piece, without a length, with back-pressure and bounded memory."""

from __future__ import annotations

import asyncio
import json
import zlib
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web
from nexus_core.snapshot import Mirror, Retry
from nexus_gateway.testing import Harness, route, rule, snapshot, until, upstream
from nexus_wire.testing import Answer

from tests.integration.gateway.echoes import PROTOCOLS, Connect, Echo, Listen, ask, combinations
from tests.integration.gateway.plugged import Plugged

pytestmark = pytest.mark.usefixtures("loop_errors")
Peers = Callable[..., Awaitable[int]]
Clients = Callable[..., Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]
Settled = Callable[..., Awaitable[None]]
both = pytest.mark.parametrize("client", PROTOCOLS)
policies = pytest.mark.parametrize("policy", ["open", "closed"])

UPPER = """
class Upper:
    def __init__(self, tail):
        self.tail, self.fed = tail, []
    def feed(self, data):
        self.fed.append(len(data))
        return data.upper()
    def finish(self):
        return self.tail
"""
REQUESTS = (
    UPPER
    + """
---
streams = None
def on_request_stream(self, request):
    made = Upper(b"!")
    self.streams = [*(self.streams or ()), made]
    return made
"""
)
RESPONSES = (
    UPPER
    + """
---
streams = None
seen = None
def on_response(self, request, response):
    return response.with_header("x-streamed", "yes")
def on_response_stream(self, request, response):
    made = Upper(b"?")
    self.streams = [*(self.streams or ()), made]
    self.seen = response.header("x-streamed")
    return made
"""
)


@combinations
async def test_a_request_passes_through_a_stream_without_a_length(
    plugged: Plugged, connect: Connect, listen: Listen, echo: Echo, client: str, server: str
) -> None:
    await plugged.serve(await listen(server), plugged.plugin(REQUESTS), server=server)
    connection = await connect(client)
    large = [b"x" * 70_000] * 20
    for _ in range(2):
        got = await ask(connection, b"POST /sized", [b"sized"], sized=5)
        assert (got.status, got.body) == (200, b"SIZED!")
        got = await ask(connection, b"POST /sized", [b"in ", b"pieces"], sized=9)
        assert got.body == b"IN PIECES!"
        got = await ask(connection, b"POST /framed", [b"one ", b"two"], sized=None, trailers=b"x-sent: yes\r\n")
        assert (got.body, got.trailers) == (b"ONE TWO!", b"x-length: 8\r\nx-got: yes\r\n")
        got = await ask(connection, b"POST /framed", [b"at once"], sized=None, trailers=b"x-sent: yes\r\n")
        assert (got.body, got.trailers) == (b"AT ONCE!", b"x-length: 8\r\nx-got: yes\r\n")
        got = await ask(connection, b"POST /sized", large, sized=1_400_000)
        assert got.body == b"X" * 1_400_000 + b"!"
        assert (await ask(connection, b"GET /framed")).body == b"", "there is nothing to pass"
    assert not any("content-length" in head for head in echo.heads)
    assert len(plugged.live().streams) == 10
    assert plugged.harness.gateway is not None
    assert plugged.harness.gateway.proxy.connector.open_connections == 1


@combinations
async def test_a_response_passes_through_a_stream_without_a_length(
    plugged: Plugged, connect: Connect, listen: Listen, client: str, server: str
) -> None:
    await plugged.serve(await listen(server), plugged.plugin(RESPONSES), server=server)
    connection = await connect(client)
    large = [b"x" * 70_000] * 20
    for _ in range(2):
        got = await ask(connection, b"POST /sized", [b"sized"], sized=5)
        assert (got.status, got.body) == (200, b"SIZED?")
        assert ("content-length" in got.headers, got.headers["x-streamed"]) == (False, "yes")
        got = await ask(connection, b"POST /framed", [b"one ", b"two"], sized=None, trailers=b"x-sent: yes\r\n")
        assert (got.body, got.trailers) == (b"ONE TWO?", b"x-length: 7\r\nx-got: yes\r\n")
        got = await ask(connection, b"POST /sized", large, sized=1_400_000)
        assert got.body == b"X" * 1_400_000 + b"?"
        assert (await ask(connection, b"POST /framed", large, sized=None)).body == b"X" * 1_400_000 + b"?"
        got = await ask(connection, b"HEAD /sized")
        assert (got.status, got.body, got.headers["content-length"]) == (200, b"", "7")
        for status in (204, 304):
            assert ((await ask(connection, b"GET /%d" % status)).body) == b""
    assert len(plugged.live().streams) == 8
    assert plugged.live().seen is None, "the head is as it came to this plugin"
    assert plugged.harness.gateway is not None
    assert plugged.harness.gateway.proxy.connector.open_connections == 1


COMPRESS = """
import zlib
class Deflating:
    def __init__(self):
        self.made = zlib.compressobj()
    def feed(self, data):
        return self.made.compress(data)
    def finish(self):
        return self.made.flush()
---
def on_response(self, request, response):
    return response.with_header("content-encoding", "deflate")
def on_response_stream(self, request, response):
    return Deflating()
"""


@combinations
async def test_a_stream_may_hold_much_back(
    plugged: Plugged, connect: Connect, listen: Listen, client: str, server: str
) -> None:
    """It gives nothing for most pieces, and the body's end brings the rest."""
    await plugged.serve(await listen(server), plugged.plugin(COMPRESS), server=server)
    connection = await connect(client)
    for path in (b"/sized", b"/framed"):
        got = await ask(connection, b"POST " + path, [b"x" * 60_000] * 5, sized=300_000)
        assert zlib.decompress(got.body) == b"x" * 300_000
        assert len(got.body) < 1000


async def test_streams_come_one_after_the_other(plugged: Plugged, connect: Connect, listen: Listen) -> None:
    """On the way in in the plugins' order, on the way out in reverse; each one's rest passes through those behind it."""
    code = """
class Mark:
    def __init__(self, mark):
        self.mark = mark
    def feed(self, data):
        return data + self.mark
    def finish(self):
        return b"(" + self.mark + b")"
---
def on_request_stream(self, request):
    return Mark(b"%s")
def on_response_stream(self, request, response):
    return Mark(b"%s")
"""
    one, two = plugged.plugin(code % ("1", "a"), "one"), plugged.plugin(code % ("2", "b"), "two")
    await plugged.serve(await listen("h1"), one, two)
    got = await ask(await connect("h1"), b"POST /sized", [b"-"], sized=1)
    asked = b"-12" + b"(1)2(2)"
    assert got.body == asked + b"b(b)" + b"a(a)"


async def test_a_stream_gets_what_was_made_of_a_collected_body(
    plugged: Plugged, connect: Connect, listen: Listen
) -> None:
    collecting = """
def on_request_body(self, request, body):
    return body + b" and more"
def on_response_body(self, request, response, body):
    return body + b" and back"
"""
    outer = plugged.plugin(RESPONSES, "outer")
    inner = plugged.plugin(collecting, "inner")
    upper = plugged.plugin(REQUESTS, "upper")
    await plugged.serve(await listen("h1"), outer, upper, inner)
    connection = await connect("h1")
    for _ in range(2):
        got = await ask(connection, b"POST /framed", [b"so ", b"much"], sized=None, trailers=b"x-sent: t\r\n")
        assert got.body == b"SO MUCH AND MORE! AND BACK?"
        assert got.trailers == b"x-length: 17\r\nx-got: t\r\n"


async def test_a_body_is_collected_from_what_a_stream_made_of_it(
    plugged: Plugged, connect: Connect, listen: Listen
) -> None:
    outer = plugged.plugin(
        "def on_response_body(self, request, response, body):\n    return b'<' + body + b'>'", "outer"
    )
    inner = plugged.plugin(RESPONSES, "inner")
    await plugged.serve(await listen("h1"), outer, inner)
    got = await ask(await connect("h1"), b"POST /sized", [b"x" * 60_000] * 5, sized=300_000)
    assert got.body == b"<" + b"X" * 300_000 + b"?>"


async def test_a_body_that_a_plugin_made_of_none_passes_through_streams(
    plugged: Plugged, connect: Connect, listen: Listen
) -> None:
    """As one of the service's own would: who hides what is secret, say, hides it there, too."""
    inner = plugged.plugin("def on_response_body(self, request, response, body):\n    return body + b'made'", "inner")
    await plugged.serve(await listen("h1"), plugged.plugin(RESPONSES, "outer"), inner)
    connection = await connect("h1")
    assert (await ask(connection, b"GET /sized")).body == b"MADE?"
    assert (await ask(connection, b"POST /sized", [b"abc"], sized=3)).body == b"ABCMADE?"


@both
async def test_a_plugin_may_pass_a_body_by(plugged: Plugged, connect: Connect, listen: Listen, client: str) -> None:
    code = "def on_request_stream(self, request):\n    return None\ndef on_response_stream(self, request, response):\n    return None"
    await plugged.serve(await listen("h1"), plugged.plugin(code))
    got = await ask(await connect(client), b"POST /sized", [b"abc"], sized=3)
    assert (got.body, got.headers["content-length"]) == (b"abc", "3")


# ---- failures

NO_STREAM = {
    "raises": "1 / 0",
    "no stream": "return object()",
    "a stream without an end": "return Headless()",
    "bytes": "return b'x'",
}


@policies
@pytest.mark.parametrize("failure", NO_STREAM)
@pytest.mark.parametrize(
    ("hook", "given"), [("on_request_stream", "self, request"), ("on_response_stream", "self, request, response")]
)
async def test_no_stream_at_all_is_judged_by_the_policy(
    plugged: Plugged, connect: Connect, listen: Listen, hook: str, given: str, failure: str, policy: Any
) -> None:
    headless = "class Headless:\n    def feed(self, data):\n        return data\n---\n"
    code = f"{headless}def {hook}({given}):\n    {NO_STREAM[failure]}"
    await plugged.serve(await listen("h1"), plugged.plugin(code, failure_policy=policy))
    connection = await connect("h1")
    for _ in range(2):
        got = await ask(connection, b"POST /sized", [b"as ", b"it came"], sized=10)
        if policy == "open":
            assert (got.status, got.body) == (200, b"as it came")
        else:
            assert (got.status, json.loads(got.body)["reason"]) == (503, "PluginUnavailable")
    assert plugged.slot().meter.errors == 2


FEEDS = {
    "raises": "raise ValueError('x')",
    "text": "return 'text'",
    "None": "return None",
}


@combinations
@policies
@pytest.mark.parametrize("failure", FEEDS)
async def test_a_request_breaks_off_where_its_stream_fails(
    plugged: Plugged,
    connect: Connect,
    listen: Listen,
    echo: Echo,
    settled: Settled,
    client: str,
    server: str,
    policy: Any,
    failure: str,
) -> None:
    """The upstream never takes it for a whole one."""
    code = f"""
class Failing:
    fed = 0
    def feed(self, data):
        self.fed += 1
        if self.fed > 1:
            {FEEDS[failure]}
        return data
    def finish(self):
        return b""
---
def on_request_stream(self, request):
    return Failing()
"""
    await plugged.serve(await listen(server), plugged.plugin(code, failure_policy=policy), server=server)
    connection = await connect(client)
    answer = Answer()
    connection.begin(answer, b"POST /sized HTTP/1.1\r\nhost: x\r\n\r\nfirst", raw=True)
    await until(lambda: len(echo.heads) == 1)
    connection.write(b"second")
    await asyncio.wait_for(answer.done.wait(), 5)
    assert (answer.status, json.loads(bytes(answer.body))["reason"]) == (503, "PluginUnavailable")
    if server == "h1":  # a connection that others may share stays, of HTTP/2
        await settled(clients=False)
    assert plugged.slot().meter.errors == 1


@both
@policies
async def test_a_response_breaks_off_where_its_stream_fails(
    plugged: Plugged, connect: Connect, peers: Peers, settled: Settled, client: str, policy: Any
) -> None:
    """The client never takes it for a whole one."""
    code = """
class Failing:
    def feed(self, data):
        if b"second" in data:
            raise ValueError
        return data
    def finish(self):
        return b""
---
def on_response_stream(self, request, response):
    return Failing()
"""
    go_on = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 11\r\n\r\nfirst")
        await go_on.wait()
        writer.write(b"second")
        await reader.read()

    await plugged.serve(await peers(serve), plugged.plugin(code, failure_policy=policy))
    answer = Answer()
    connection = await connect(client)
    connection.begin(answer, b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
    await asyncio.wait_for(answer.begun.wait(), 5)
    go_on.set()
    await asyncio.wait_for(answer.done.wait(), 5)
    assert answer.broken is not None
    await settled(clients=False)


@policies
@pytest.mark.parametrize("method", ["feed", "finish"])
async def test_a_stream_that_fails_before_anything_went_out(
    plugged: Plugged, connect: Connect, listen: Listen, policy: Any, method: str
) -> None:
    """The body goes on as it came, and its head too; or the client is told."""
    code = f"""
class Failing:
    def feed(self, data):
        return data
    def finish(self):
        return b""
def fail(self, *_):
    raise ValueError
Failing.{method} = fail
---
def on_response(self, request, response):
    return response.with_header("content-encoding", "secret")
def on_response_stream(self, request, response):
    return Failing()
"""
    await plugged.serve(await listen("h1"), plugged.plugin(code, failure_policy=policy))
    connection = await connect("h1")
    for _ in range(2):
        got = await ask(connection, b"POST /sized", [b"as it came"], sized=10)
        if policy == "open":
            assert (got.status, got.body, "content-encoding" in got.headers) == (200, b"as it came", False)
        else:
            assert (got.status, json.loads(got.body)["reason"]) == (503, "PluginUnavailable")


# ---- back-pressure, memory, departures


async def test_a_response_nobody_reads_holds_its_sender_up(
    plugged: Plugged, peers: Peers, clients: Clients, settled: Settled
) -> None:
    """What the gateway holds stays small while gigabytes would come."""
    sent = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000000\r\n\r\n")
        while sent < 10**9:
            writer.write(b"x" * 65536)
            await writer.drain()
            sent += 65536

    await plugged.serve(await peers(serve), plugged.plugin(RESPONSES))
    reader, writer = await clients(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n", limit=65536)
    async with asyncio.timeout(5):
        await reader.readuntil(b"\r\n\r\n")
    before = -1
    while sent != before:
        before = sent
        await asyncio.sleep(0.3)
    assert sent < 30_000_000, "sockets' buffers on both sides, and a little of the gateway's"
    async with asyncio.timeout(5):
        for _ in range(100):
            await reader.readexactly(65536)
    await until(lambda: sent > before)
    writer.transport.abort()
    await settled()


async def test_a_request_nobody_reads_holds_its_sender_up(
    plugged: Plugged, peers: Peers, clients: Clients, settled: Settled
) -> None:
    go_on = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await go_on.wait()

    await plugged.serve(await peers(serve, limit=1024), plugged.plugin(REQUESTS))
    _, writer = await clients(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000000\r\n\r\n")
    sent = 0

    async def send() -> None:
        nonlocal sent
        while True:
            writer.write(b"x" * 65536)
            await writer.drain()
            sent += 65536

    sending = asyncio.create_task(send())
    before = -1
    while sent != before:
        before = sent
        await asyncio.sleep(0.3)
    assert 0 < sent < 30_000_000
    sending.cancel()
    await asyncio.gather(sending, return_exceptions=True)
    go_on.set()
    writer.transport.abort()
    await settled()


@both
async def test_a_client_that_leaves_within_a_stream_leaves_nothing_behind(
    plugged: Plugged, connect: Connect, listen: Listen, echo: Echo, settled: Settled, client: str
) -> None:
    await plugged.serve(await listen("h1"), plugged.plugin(REQUESTS))
    connection = await connect(client)
    connection.begin(Answer(), b"POST / HTTP/1.1\r\nhost: x\r\n\r\nabc", raw=True)
    await until(lambda: echo.heads)
    connection.abort()
    await settled(clients=False)
    (stream,) = plugged.live().streams
    assert stream.fed == [3]


async def test_an_upstream_that_breaks_off_breaks_the_response_off(
    plugged: Plugged, connect: Connect, peers: Peers, settled: Settled
) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\npart")
        await asyncio.sleep(0.1)

    await plugged.serve(await peers(serve), plugged.plugin(RESPONSES))
    for client in PROTOCOLS:
        answer = Answer()
        connection = await connect(client)
        connection.begin(answer, b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        await asyncio.wait_for(answer.done.wait(), 5)
        assert (answer.status, answer.broken is not None) == (200, True)
    await settled(clients=False)


# ---- with the rest of the gateway


async def test_a_streamed_body_that_is_here_can_be_sent_again(plugged: Plugged, connect: Connect, peers: Peers) -> None:
    seen: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            assert b"content-length" not in head.lower()
            seen.append(await reader.readuntil(b"0\r\n\r\n"))
            status = b"503 Later" if len(seen) == 1 else b"200 OK"
            writer.write(b"HTTP/1.1 %b\r\ncontent-length: 2\r\n\r\nok" % status)

    await plugged.serve(await peers(serve), plugged.plugin(REQUESTS), retry=Retry(attempts=2))
    assert (await ask(await connect("h1"), b"PUT /", [b"abc"], sized=3)).status == 200
    assert seen == [b"4\r\nABC!\r\n0\r\n\r\n"] * 2


async def test_a_copy_has_the_body_that_went_on(plugged: Plugged, connect: Connect, listen: Listen) -> None:
    copies: list[bytes] = []

    async def copied(request: Any) -> Any:
        copies.append(await request.read())
        return web.Response()

    port, mirror = await listen("h1"), await plugged.harness.upstreams.start(copied)
    instance = plugged.plugin(REQUESTS)
    await plugged.harness.start()
    rules = rule("shop/orders", plugins=(instance.id,), filters=(Mirror("shop/copies"),))
    await plugged.harness.publish(
        snapshot(route(rules), upstream(port), upstream(mirror, upstream_id="shop/copies"), plugins=(instance,))
    )
    connection = await connect("h1")
    for body in ([b"abc"], [b"abc", b"def"]):
        got = await ask(connection, b"POST /framed", body, sized=None)
        assert got.body == b"".join(body).upper() + b"!"
    await until(lambda: len(copies) == 2)
    assert copies == [b"ABC!", b"ABCDEF!"]


async def test_an_http_1_0_client_gets_a_body_that_ends_with_the_connection(
    plugged: Plugged, harness: Harness, listen: Listen
) -> None:
    await plugged.serve(await listen("h1"), plugged.plugin(RESPONSES))
    said = await harness.raw(b"POST /sized HTTP/1.0\r\nhost: x\r\ncontent-length: 3\r\n\r\nabc")
    head, _, body = said.partition(b"\r\n\r\n")
    assert (b"transfer-encoding" in head.lower(), b"content-length" in head.lower(), body) == (False, False, b"ABC?")
