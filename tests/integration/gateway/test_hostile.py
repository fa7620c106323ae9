"""Hostile bytes on raw sockets. What reaches the upstream is recorded: nothing may that the gateway did not understand."""

from __future__ import annotations

import asyncio

import pytest
from aiohttp import web
from nexus_core.snapshot import CircuitBreaker, HeaderModifier, Timeouts
from nexus_gateway.testing import Harness, route, rule, simple, snapshot, upstream

SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"


class Seen:
    """An upstream that notes the requests it got."""

    def __init__(self) -> None:
        self.paths: list[str] = []
        self.broken = 0

    async def handle(self, request: web.Request) -> web.Response:
        self.paths.append(request.raw_path)
        await request.read()
        return web.Response(text="ok")


@pytest.fixture
async def seen(harness: Harness) -> Seen:
    upstream = Seen()
    await harness.start(simple(await harness.upstreams.start(upstream.handle)), head_timeout_s=0.3, keepalive_s=0.5)
    return upstream


REFUSED = {
    "length and coding": b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "two content-lengths": b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\nabcde",
    "list of content-lengths": b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4, 4\r\n\r\nabcd",
    "signed content-length": b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: +4\r\n\r\nabcd",
    "unknown transfer-encoding": b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "two transfer-encodings": b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
    "gzip, chunked": b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "chunked in HTTP/1.0": b"POST / HTTP/1.0\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "space before the colon": b"GET / HTTP/1.1\r\nHost : x\r\n\r\n",
    "folded header": b"GET / HTTP/1.1\r\nHost: x\r\nX-A: 1\r\n 2\r\n\r\n",
    "bare line feed in a value": b"GET / HTTP/1.1\r\nHost: x\r\nX-A: 1\nX-B: 2\r\n\r\n",
    "NUL in a value": b"GET / HTTP/1.1\r\nHost: x\r\nX-A: a\x00b\r\n\r\n",
    "no host": b"GET / HTTP/1.1\r\n\r\n",
    "two hosts": b"GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
    "bad host": b"GET / HTTP/1.1\r\nHost: x/../y\r\n\r\n",
    "host with user": b"GET / HTTP/1.1\r\nHost: a@b\r\n\r\n",
    "connection names host": b"GET / HTTP/1.1\r\nHost: x\r\nConnection: host\r\n\r\n",
    "connection names x-forwarded-for": b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close, X-Forwarded-For\r\n\r\n",
    "CONNECT": b"CONNECT x:80 HTTP/1.1\r\nHost: x\r\n\r\n",
    "TRACE": b"TRACE / HTTP/1.1\r\nHost: x\r\n\r\n",
    "fragment in the target": b"GET /a#b HTTP/1.1\r\nHost: x\r\n\r\n",
    "encoded slash": b"GET /a%2Fb HTTP/1.1\r\nHost: x\r\n\r\n",
    "encoded dots": b"GET /a/%2e%2e/b HTTP/1.1\r\nHost: x\r\n\r\n",
    "encoded NUL": b"GET /a%00 HTTP/1.1\r\nHost: x\r\n\r\n",
    "broken escape": b"GET /a%zz HTTP/1.1\r\nHost: x\r\n\r\n",
    "backslash": b"GET /a\\..\\b HTTP/1.1\r\nHost: x\r\n\r\n",
    "above the root": b"GET /../etc HTTP/1.1\r\nHost: x\r\n\r\n",
    "dot segment with parameters": b"GET /a/..;x/b HTTP/1.1\r\nHost: x\r\n\r\n",
    "file URL": b"GET file:///etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n",
    "HTTP/0.9": b"GET /x\r\n\r\n",
    "HTTP/2.0 label": b"GET / HTTP/2.0\r\nHost: x\r\n\r\n",
    "binary": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    "huge line": b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    "huge header": b"GET / HTTP/1.1\r\nHost: x\r\nX-A: " + b"a" * 70_000 + b"\r\n\r\n",
    "many headers": b"GET / HTTP/1.1\r\nHost: x\r\n" + b"".join(b"X-%d: 1\r\n" % i for i in range(500)) + b"\r\n",
    "huge head": b"GET / HTTP/1.1\r\nHost: x\r\n" + b"".join(b"X-%d: %s\r\n" % (i, b"a" * 999) for i in range(60)) + b"\r\n",
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
async def test_ambiguous_requests_are_refused_and_their_connection_closed(
    harness: Harness, seen: Seen, name: str
) -> None:
    answer = await harness.raw(REFUSED[name] + SMUGGLED)
    assert seen.paths == []
    status = answer.split(b" ")[1] if answer else b""
    assert status in (b"400", b"405", b"408", b"431", b"505", b""), answer
    assert b"\nHTTP/1.1 " not in answer, "one answer at most"


@pytest.mark.parametrize(
    "body",
    [
        b"5\r\nabc\r\n0\r\n\r\n",
        b"zz\r\nabc\r\n0\r\n\r\n",
        b"-1\r\n\r\n",
        b"3\nabc\n0\n\n",
        b"3\r\nabcX\r\n0\r\n\r\n",
        b"fffffffffffffffff\r\n",
    ],
)
async def test_a_broken_chunk_is_a_400_and_never_a_whole_request_upstream(
    harness: Harness, seen: Seen, body: bytes
) -> None:
    head = b"POST /chunks HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    answer = await harness.raw(head + body + SMUGGLED, half_close=True)
    assert b" 200 " not in answer
    assert "/smuggled" not in seen.paths
    breakers = await harness.ask("/breakers")
    assert breakers["breakers"][0]["failures"] == 0, "the client's fault, not the endpoint's"


@pytest.mark.parametrize(
    ("sent", "arrives"),
    [
        ("//a///b", "/a/b"),
        ("/a/./b/../c", "/a/c"),
        ("/a/b/..", "/a/"),
        ("/a%20b;v=1/", "/a%20b;v=1/"),
        ("/.well-known/x", "/.well-known/x"),
    ],
)
async def test_paths_are_made_plain_before_anyone_looks(harness: Harness, seen: Seen, sent: str, arrives: str) -> None:
    answer = await harness.raw(f"GET {sent} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    assert answer.startswith(b"HTTP/1.1 200")
    assert seen.paths == [arrives]


async def test_a_head_that_drips_is_cut_off_with_408(harness: Harness, seen: Seen) -> None:
    assert harness.gateway is not None
    reader, writer = await asyncio.open_connection("127.0.0.1", harness.gateway.port)

    async def drip() -> None:
        for byte in b"GET / HTTP/1.1\r\nX-Slow: " + b"1" * 100:
            writer.write(bytes([byte]))
            await asyncio.sleep(0.05)

    dripping = asyncio.create_task(drip())
    async with asyncio.timeout(5):
        answer = await reader.readuntil(b"}")
    dripping.cancel()
    writer.close()
    assert answer.startswith(b"HTTP/1.1 408")
    assert b'"reason": "HeadTimeout"' in answer
    assert seen.paths == []


async def test_the_head_deadline_holds_for_later_requests_of_a_connection_too(harness: Harness, seen: Seen) -> None:
    assert harness.gateway is not None
    reader, writer = await asyncio.open_connection("127.0.0.1", harness.gateway.port)
    writer.write(b"GET /one HTTP/1.1\r\nHost: x\r\n\r\n")
    assert (await reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200")
    writer.write(b"GET /two HTT")
    async with asyncio.timeout(5):
        assert (await reader.read()).startswith(b"HTTP/1.1 408")
    writer.close()


async def test_connections_that_say_nothing_are_closed(harness: Harness, seen: Seen) -> None:
    assert harness.gateway is not None
    reader, writer = await asyncio.open_connection("127.0.0.1", harness.gateway.port)
    async with asyncio.timeout(5):
        assert await reader.read() == b""
    writer.close()


async def test_pipelined_requests_are_answered_in_order(harness: Harness, seen: Seen) -> None:
    requests = b"".join(b"GET /%d HTTP/1.1\r\nHost: x\r\n\r\n" % number for number in range(5))
    answer = await harness.raw(requests + b"GET /last HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert answer.count(b"HTTP/1.1 200") == 6
    assert seen.paths == ["/0", "/1", "/2", "/3", "/4", "/last"]


async def test_an_http_1_0_client_gets_an_answer_it_can_read(harness: Harness) -> None:
    async def stream(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"body")
        return response

    await harness.start(simple(await harness.upstreams.start(stream)))
    answer = await harness.raw(b"GET / HTTP/1.0\r\n\r\n")
    head, _, body = answer.partition(b"\r\n\r\n")
    assert (body, b"chunked" in head.lower()) == (b"body", False)


@pytest.mark.parametrize(
    "answer",
    [b"garbage\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello", b"HTTP/1.1 200 OK\r\nX: a\x00b\r\n\r\n",
     b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", b"",
     b"HTTP/1.1 200 OK\r\nX: " + b"a" * 100_000 + b"\r\n\r\n"],
    ids=["garbage", "two lengths", "NUL", "unasked 101", "nothing", "huge header"],
)  # fmt: skip
async def test_a_hostile_upstream_gets_a_502_for_its_client(harness: Harness, answer: bytes) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    await harness.start(simple(port))
    async with harness.client.get(harness.url("/")) as response:
        assert response.status == 502
        assert (await response.json())["reason"] in ("UpstreamReset", "UpstreamProtocolError")
    server.close()


@pytest.mark.parametrize("size", [b"10", b"1000000"], ids=["held", "streamed"])
async def test_slow_uploads_are_the_clients_fault_and_open_no_circuit(harness: Harness, size: bytes) -> None:
    upstream = Seen()
    timeouts = Timeouts(request_s=0.2)
    await harness.start(
        simple(await harness.upstreams.start(upstream.handle), timeouts=timeouts, breaker=CircuitBreaker(failures=1))
    )
    for _ in range(2):
        answer = await harness.raw(b"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: " + size + b"\r\n\r\nabc")
        assert answer.startswith(b"HTTP/1.1 408")
        assert b'"reason": "BodyTimeout"' in answer
    (row,) = (await harness.ask("/breakers"))["breakers"]
    assert (row["state"], row["failures"]) == ("closed", 0)


async def test_header_text_beyond_ascii_passes_byte_for_byte(harness: Harness) -> None:
    """UTF-8, and what HTTP once meant by text, ISO-8859-1."""
    got: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        got.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 200 OK\r\nX-Old: caf\xe9\r\nX-New: caf\xc3\xa9\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    await harness.start(simple(server.sockets[0].getsockname()[1]))
    answer = await harness.raw(
        b"GET / HTTP/1.1\r\nHost: x\r\nX-Old: caf\xe9\r\nX-New: caf\xc3\xa9\r\nConnection: close\r\n\r\n"
    )
    server.close()
    for message in (got[0], answer):
        assert (message.count(b"caf\xc3\xa9\r\n"), message.count(b"caf\xe9\r\n")) == (1, 1)


@pytest.mark.parametrize("upgrade", [b"h2c", b"websocket, h2c", b"TLS/1.3"])
async def test_only_websocket_upgrades_pass(harness: Harness, upgrade: bytes) -> None:
    """An upstream that would switch to another protocol is never asked: nothing that follows reaches it."""
    heads: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    await harness.start(simple(server.sockets[0].getsockname()[1]))
    asked = (
        b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AA\r\nUpgrade: " + upgrade
    )
    answer = await harness.raw(asked + b"\r\n\r\n" + SMUGGLED)
    server.close()
    assert answer.startswith(b"HTTP/1.1 200")
    assert b"connection: close" in answer
    assert (len(heads), b"upgrade" in heads[0].lower(), b"http2-settings" in heads[0].lower()) == (1, False, False)


@pytest.mark.parametrize("name", ["Content-Length", "Transfer-Encoding", "Connection", "Upgrade"])
async def test_a_routes_filters_have_no_say_in_where_messages_end(harness: Harness, name: str) -> None:
    """Upstream connections are shared by all routes: one route's header must not make its body another's request."""
    upstream_seen = Seen()
    lengths: list[tuple[str | None, str | None]] = []

    async def handle(request: web.Request) -> web.Response:
        lengths.append((request.headers.get("Content-Length"), request.headers.get("Upgrade")))
        return await upstream_seen.handle(request)

    value = {"Content-Length": "0", "Transfer-Encoding": "chunked", "Connection": "close", "Upgrade": "h2c"}[name]
    filters = (HeaderModifier("request", set=((name.lower(), value),)),)
    port = await harness.upstreams.start(handle)
    await harness.start(snapshot(route(rule("shop/orders", filters=filters)), upstream(port)))
    for _ in range(3):
        async with harness.client.post(harness.url("/a"), data=SMUGGLED) as response:
            assert (response.status, await response.text()) == (200, "ok")
    assert upstream_seen.paths == ["/a"] * 3
    assert lengths == [(str(len(SMUGGLED)), None)] * 3
