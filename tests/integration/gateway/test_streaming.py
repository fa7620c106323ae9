"""Bodies on their way through the gateway: framing, order, invitations, early answers, back-pressure, memory."""

from __future__ import annotations

import asyncio
import os
import random
import re
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession, HttpVersion10, HttpVersion11
from nexus_core.snapshot import CircuitBreaker, Mirror, UrlRewrite
from nexus_gateway.testing import Harness, route, rule, simple, snapshot, until, upstream
from nexus_wire.pieces import LARGE

Peers = Callable[..., Awaitable[int]]
Clients = Callable[..., Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]
Settled = Callable[..., Awaitable[None]]

HOST = b" HTTP/1.1\r\nhost: x\r\n"
LAST = b"GET /last HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"


def head_of(message: bytes) -> bytes:
    return message.partition(b"\r\n\r\n")[0].lower()


class Script:
    """An upstream that answers by the request's path, and keeps what it got. paths: `(answer, whether it closes then)`."""

    def __init__(self, **paths: tuple[bytes, bool]) -> None:
        self.paths = paths
        self.heads: list[bytes] = []
        self.bodies: list[bytes] = []
        self.connections = 0

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            self.heads.append(head)
            length = re.search(rb"content-length: (\d+)", head.lower())
            if length:
                self.bodies.append(await reader.readexactly(int(length[1])))
            elif b"chunked" in head.lower():
                body = b""
                while not body.endswith(b"\r\n\r\n") or b"0\r\n" not in body:
                    body += await reader.read(65536)
                self.bodies.append(body)
            answer, closes = self.paths.get(head.split(b" ")[1].decode().strip("/"), (b"", False))
            writer.write(answer or b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
            if closes:
                return


async def start(harness: Harness, peers: Peers, **paths: tuple[bytes, bool]) -> Script:
    script = Script(**paths)
    await harness.start(simple(await peers(script)))
    return script


# ---- framing


@pytest.mark.parametrize("size", [LARGE - 1, LARGE, LARGE + 1, 60_000, 300_000])
async def test_bodies_of_any_size_pass_as_they_are(harness: Harness, peers: Peers, size: int) -> None:
    """In one piece with their head or not, copied or not: by length, in chunks, until the end, and with too much behind it."""
    body = random.Random(size).randbytes(size)
    head = b"HTTP/1.1 200 OK\r\n"
    sized = head + b"content-length: %d\r\n\r\n" % size + body
    await start(
        harness,
        peers,
        sized=(sized, False),
        more=(sized + b"more than announced", True),
        pieces=(head + b"transfer-encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (size, body), False),
        until=(head + b"\r\n" + body, True),
    )
    for path in ("sized", "more", "pieces", "until"):
        for version in (HttpVersion11, HttpVersion10):
            async with ClientSession(version=version) as client:
                answer = await client.get(harness.url(f"/{path}"))
                assert await answer.read() == body, (path, version)


async def test_bodies_that_end_with_the_connection_are_chunked_for_http_1_1(harness: Harness, peers: Peers) -> None:
    await start(harness, peers, a=(b"HTTP/1.1 200 OK\r\n\r\nhello world", True))
    answer = await harness.raw(b"GET /a" + HOST + b"\r\n" + LAST)
    head, _, rest = answer.partition(b"\r\n\r\n")
    assert b"transfer-encoding: chunked" in head
    assert b"connection: close" not in head
    body, _, last = rest.partition(b"0\r\n\r\n")
    assert b"".join(re.split(rb"(?:^|\r\n)[0-9a-f]+\r\n", body)).strip() == b"hello world"
    assert last.startswith(b"HTTP/1.1 200"), "the connection serves on"


async def test_bodies_that_end_with_the_connection_end_so_for_http_1_0(harness: Harness, peers: Peers) -> None:
    await start(harness, peers, a=(b"HTTP/1.1 200 OK\r\n\r\nhello world", True))
    answer = await harness.raw(b"GET /a HTTP/1.0\r\nhost: x\r\nconnection: keep-alive\r\n\r\n")
    assert b"chunked" not in head_of(answer)
    assert b"connection: close" in head_of(answer)
    assert answer.endswith(b"\r\n\r\nhello world")


@pytest.mark.parametrize("kept", [b"", b"connection: keep-alive\r\n"], ids=["closing", "kept"])
async def test_answers_to_head_of_http_1_0_clients_tell_nothing_of_chunks(
    harness: Harness, peers: Peers, kept: bytes
) -> None:
    await start(harness, peers, a=(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nx-a: b\r\n\r\n", False))
    last = b"HEAD /a HTTP/1.0\r\nhost: x\r\n\r\n"
    answers = (await harness.raw(b"HEAD /a HTTP/1.0\r\nhost: x\r\n%b\r\n" % kept + last)).lower()
    assert answers.count(b"x-a: b\r\n") == (2 if kept else 1)
    assert b"transfer-encoding" not in answers


async def test_a_body_cut_short_upstream_is_no_whole_body_to_the_client(harness: Harness, peers: Peers) -> None:
    """Reset within a body that goes on until the close: chunked, its last chunk never comes."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n\r\nhello")
        await asyncio.sleep(0.05)
        writer.get_extra_info("socket").setsockopt(1, 13, b"\1\0\0\0\0\0\0\0")  # SO_LINGER 0: a reset
        writer.transport.abort()

    await harness.start(simple(await peers(serve)))
    answer = await harness.raw(b"GET /a" + HOST + b"\r\n")
    assert b"0\r\n\r\n" not in answer


async def test_http_1_0_clients_keep_their_connection_when_they_ask(harness: Harness, peers: Peers) -> None:
    await start(harness, peers)
    once = b"GET /a HTTP/1.0\r\nhost: x\r\nconnection: keep-alive\r\n\r\n"
    answer = await harness.raw(once * 2 + b"GET /a HTTP/1.0\r\nhost: x\r\n\r\n")
    assert answer.count(b"HTTP/1.1 200 OK") == 3
    assert answer.count(b"connection: keep-alive") == 2


async def test_an_http_1_0_request_without_a_host_gets_one_for_upstream(harness: Harness, peers: Peers) -> None:
    script = await start(harness, peers)
    assert (await harness.raw(b"GET /a HTTP/1.0\r\n\r\n")).startswith(b"HTTP/1.1 200")
    assert script.heads[0].startswith(b"GET /a HTTP/1.1\r\n")
    assert re.search(rb"\r\nhost: 127\.0\.0\.1:\d+\r\n", script.heads[0].lower())


async def test_a_host_that_a_filter_gives_an_http_1_0_request_is_its_only_one(harness: Harness, peers: Peers) -> None:
    """Nor has a copy of it another."""
    script = Script()
    filters = (UrlRewrite(hostname="inner.example"), Mirror("shop/orders", 1.0))
    await harness.start(snapshot(route(rule("shop/orders", filters=filters)), upstream(await peers(script))))
    assert (await harness.raw(b"GET /a HTTP/1.0\r\n\r\n")).startswith(b"HTTP/1.1 200")
    await until(lambda: len(script.heads) == 2)
    for head in script.heads:
        assert re.findall(rb"\r\nhost: ([^\r]*)", head.lower()) == [b"inner.example"]


TRAILERS = b"5\r\nhello\r\n0\r\nX-Checksum: abc\r\nX-Other: d\r\n\r\n"


async def test_trailers_pass_to_the_upstream(harness: Harness, peers: Peers) -> None:
    script = await start(harness, peers)
    answer = await harness.raw(b"POST /a" + HOST + b"transfer-encoding: chunked\r\n\r\n" + TRAILERS + LAST)
    assert answer.count(b"HTTP/1.1 200") == 2
    assert script.bodies == [TRAILERS]


async def test_trailers_pass_to_the_client(harness: Harness, peers: Peers) -> None:
    await start(harness, peers, a=(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + TRAILERS, False))
    answer = await harness.raw(b"GET /a" + HOST + b"te: trailers\r\n\r\n" + LAST)
    assert TRAILERS + b"HTTP/1.1 200 OK" in answer


async def test_trailers_that_would_change_a_message_are_refused(harness: Harness, peers: Peers) -> None:
    await start(harness, peers)
    body = b"0\r\nContent-Length: 5\r\n\r\n"
    answer = await harness.raw(b"POST /a" + HOST + b"transfer-encoding: chunked\r\n\r\n" + body)
    assert answer.startswith(b"HTTP/1.1 400")


BODILESS = {
    "head": (b"HEAD", b"HTTP/1.1 200 OK\r\ncontent-length: 1234\r\n\r\n"),
    "head of chunks": (b"HEAD", b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"),
    "204": (b"GET", b"HTTP/1.1 204 No Content\r\n\r\n"),
    "304": (b"GET", b"HTTP/1.1 304 Not Modified\r\netag: x\r\ncontent-length: 1234\r\n\r\n"),
    "empty": (b"GET", b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"),
}


@pytest.mark.parametrize("name", BODILESS)
async def test_what_has_no_body_takes_none_from_what_is_pipelined_behind(
    harness: Harness, peers: Peers, name: str
) -> None:
    method, answer = BODILESS[name]
    script = await start(harness, peers, a=(answer, False))
    found = await harness.raw((method + b" /a" + HOST + b"\r\n") * 3 + LAST)
    parts = found.split(b"HTTP/1.1 ")[1:]
    assert len(parts) == 4
    assert all(part.endswith(b"\r\n\r\n") for part in parts[:3])
    assert parts[3].endswith(b"\r\n\r\nok")
    assert len(script.heads) == 4


@pytest.mark.parametrize("framing", [b"transfer-encoding: chunked", b"content-length: 5"])
async def test_a_204_says_nothing_of_a_body_whatever_the_upstream_says(
    harness: Harness, peers: Peers, framing: bytes
) -> None:
    """RFC 9112 section 6.1: a client that believed it would wait for what never comes."""
    await start(harness, peers, a=(b"HTTP/1.1 204 No Content\r\nx-a: 1\r\n" + framing + b"\r\n\r\n", False))
    answer = await harness.raw(b"GET /a" + HOST + b"\r\n" + LAST)
    assert framing not in head_of(answer)
    assert b"x-a: 1" in head_of(answer)


async def test_pipelined_requests_are_answered_in_order_whatever_their_bodies(harness: Harness, peers: Peers) -> None:
    script = await start(
        harness, peers, slow=(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nslow\r\n0\r\n\r\n", False)
    )
    data = (
        b"POST /one" + HOST + b"content-length: 3\r\n\r\none"
        b"GET /slow" + HOST + b"\r\n"
        b"POST /two" + HOST + b"transfer-encoding: chunked\r\n\r\n3\r\ntwo\r\n0\r\n\r\n" + LAST
    )  # fmt: skip
    answer = await harness.raw(data)
    assert [head.split(b" ")[1] for head in script.heads] == [b"/one", b"/slow", b"/two", b"/last"]
    assert script.bodies == [b"one", b"3\r\ntwo\r\n0\r\n\r\n"]
    assert answer.count(b"HTTP/1.1 200") == 4
    assert answer.index(b"4\r\nslow\r\n0\r\n\r\n") > answer.index(b"\r\n\r\nok")


# ---- 100-continue


async def test_a_body_is_invited_once_the_gateway_wants_it(harness: Harness, peers: Peers, clients: Clients) -> None:
    script = await start(harness, peers)
    reader, writer = await clients(b"POST /a" + HOST + b"content-length: 5\r\nexpect: 100-continue\r\n\r\n")
    async with asyncio.timeout(5):
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"hello")
        assert (await reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200")
    assert script.bodies == [b"hello"]
    assert b"expect" not in script.heads[0].lower(), "the gateway has met the expectation"


async def test_a_body_that_is_not_wanted_is_refused_before_it_is_sent(harness: Harness, clients: Clients) -> None:
    from nexus_core.snapshot import SizeLimit
    from nexus_gateway.testing import route, rule, snapshot, upstream

    await harness.start(snapshot(route(rule("shop/orders", filters=(SizeLimit(request_bytes=4),))), upstream(1)))
    reader, _ = await clients(b"POST /a" + HOST + b"content-length: 5\r\nexpect: 100-continue\r\n\r\n")
    async with asyncio.timeout(5):
        answer = await reader.read()
    assert answer.startswith(b"HTTP/1.1 413")
    assert b"connection: close" in head_of(answer), "nobody knows whether the body still comes"


async def test_http_1_0_clients_are_not_invited(harness: Harness, peers: Peers, clients: Clients) -> None:
    await start(harness, peers)
    reader, writer = await clients(b"POST /a HTTP/1.0\r\nhost: x\r\ncontent-length: 5\r\nexpect: 100-continue\r\n\r\n")
    await asyncio.sleep(0.05)
    writer.write(b"hello")
    async with asyncio.timeout(5):
        assert (await reader.read()).startswith(b"HTTP/1.1 200")


async def test_interim_answers_pass_to_clients_that_know_them(harness: Harness, peers: Peers) -> None:
    hints = b"HTTP/1.1 103 Early Hints\r\nlink: </s.css>; rel=preload\r\n\r\n"
    await start(harness, peers, a=(hints + b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", False))
    assert (await harness.raw(b"GET /a" + HOST + b"\r\n" + LAST)).startswith(hints + b"HTTP/1.1 200")
    assert (await harness.raw(b"GET /a HTTP/1.0\r\nhost: x\r\n\r\n")).startswith(b"HTTP/1.1 200")


# ---- answers while the request still comes


@pytest.mark.parametrize("status", [401, 413])
async def test_an_early_answer_is_read_although_the_body_still_comes(
    harness: Harness, peers: Peers, clients: Clients, settled: Settled, status: int
) -> None:
    """The connection lingers: closed at once, the reset over what still comes would destroy the answer."""

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 %d No\r\ncontent-length: 2\r\n\r\nno" % status)
        await reader.read(-1)

    await harness.start(simple(await peers(refuse)))
    reader, writer = await clients(b"POST /a" + HOST + b"content-length: 20000000\r\n\r\n")
    async with asyncio.timeout(10):
        for _ in range(100):
            writer.write(b"x" * 100_000)
            await writer.drain()
        answer = await reader.read()
    assert answer.startswith(b"HTTP/1.1 %d No" % status)
    assert b"connection: close" in head_of(answer)
    assert answer.endswith(b"\r\n\r\nno")
    writer.close()
    await settled()


async def test_both_directions_stream_at_once(harness: Harness, peers: Peers, clients: Clients) -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        while piece := await reader.read(65536):
            writer.write(piece)
            if piece.endswith(b"0\r\n\r\n"):
                return

    await harness.start(simple(await peers(echo)))
    reader, writer = await clients(b"POST /a" + HOST + b"transfer-encoding: chunked\r\n\r\n")
    async with asyncio.timeout(5):
        await reader.readuntil(b"\r\n\r\n")
        for piece in (b"1\r\na\r\n", b"2\r\nbc\r\n", b"0\r\n\r\n"):
            writer.write(piece)
            assert await reader.readexactly(len(piece)) == piece


# ---- back-pressure and memory


async def test_an_upstream_that_stops_reading_keeps_no_connection_after_its_early_answer(
    harness: Harness, peers: Peers, clients: Clients, settled: Settled
) -> None:
    release = asyncio.Event()

    async def deaf(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await asyncio.sleep(0.2)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
        await release.wait()

    await harness.start(simple(await peers(deaf)))
    reader, writer = await clients(b"POST /a" + HOST + b"content-length: 50000000\r\n\r\n")

    async def send() -> None:
        try:
            for _ in range(500):
                writer.write(b"x" * 100_000)
                await writer.drain()
        except ConnectionError:
            pass  # the gateway is done with it

    sending = asyncio.create_task(send())
    async with asyncio.timeout(5):
        assert (await reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200")
    writer.transport.abort()
    await sending
    try:
        await settled()
    finally:
        release.set()


async def test_bodies_arrive_whole_however_they_come(harness: Harness, peers: Peers, clients: Clients) -> None:
    """Both framings, random sizes in random pieces, many on one connection, one after the other and at once."""
    draw = random.Random(3)
    got: dict[str, bytes] = {}

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"content-length: (\d+)", head.lower())
            body = b""
            if length:
                body = await reader.readexactly(int(length[1]))
            else:
                while size := int(await reader.readuntil(b"\r\n"), 16):
                    body += await reader.readexactly(size)
                    await reader.readexactly(2)
                await reader.readexactly(2)
            got[head.split(b" ")[1].decode()] = body
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")

    await harness.start(simple(await peers(take), await peers(take)))
    sent: dict[str, bytes] = {}

    async def many(name: int) -> None:
        reader, writer = await clients()
        for number in range(8):
            target = f"/{name}-{number}"
            sent[target] = body = draw.randbytes(draw.choice((0, 1, 50, 3000, 70_000, 300_000)))
            if draw.random() < 0.5:
                data = b"content-length: %d\r\n\r\n" % len(body) + body
            else:
                data, at = b"transfer-encoding: chunked\r\n\r\n", 0
                while at < len(body):
                    piece = body[at : at + draw.choice((1, 100, 5000, 100_000))]
                    at += len(piece)
                    data += b"%x\r\n%b\r\n" % (len(piece), piece)
                data += b"0\r\n\r\n"
            data = f"{draw.choice(('POST', 'PUT'))} {target}".encode() + HOST + data
            at = 0
            while at < len(data):
                step = draw.choice((7, 900, 40_000, 400_000))
                writer.write(data[at : at + step])
                await writer.drain()
                at += step
                await asyncio.sleep(0)
            async with asyncio.timeout(10):
                await reader.readuntil(b"ok")

    await asyncio.gather(*(many(name) for name in range(6)))
    assert got == sent


async def test_a_streamed_body_survives_an_endpoint_that_is_away(
    harness: Harness, peers: Peers, clients: Clients, settled: Settled, unused_tcp_port: int
) -> None:
    """Nothing of it was sent: what came meanwhile goes to the next endpoint, whatever the method."""
    script = Script()
    await harness.start(simple(unused_tcp_port, await peers(script), breaker=CircuitBreaker(failures=0)))
    body = b"x" * 300_000
    for _ in range(6):
        reader, writer = await clients(b"POST /a" + HOST + b"content-length: %d\r\n\r\n" % len(body))
        writer.write(body)
        async with asyncio.timeout(5):
            assert (await reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200")
        writer.close()
    assert script.bodies == [body] * 6
    await settled()


async def test_a_slow_upstream_slows_the_client_down(
    harness: Harness, peers: Peers, clients: Clients, settled: Settled
) -> None:
    """With the upstream not reading, the client gets stuck instead of the gateway's memory growing."""
    go = asyncio.Event()
    got = 0

    async def stubborn(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal got
        await reader.readuntil(b"\r\n\r\n")
        await go.wait()
        while got < 2**26:
            got += len(await reader.read(2**18))
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")

    await harness.start(simple(await peers(stubborn)))
    reader, writer = await clients(b"POST /a" + HOST + b"content-length: %d\r\n\r\n" % 2**26)
    sent = 0

    async def send() -> None:
        nonlocal sent
        while sent < 2**26:
            writer.write(b"x" * 2**16)
            await writer.drain()
            sent += 2**16

    sending = asyncio.create_task(send())
    before = -1
    while sent != before or not sent:
        before = sent
        await asyncio.sleep(0.2)
    assert sent < 2**25, "the kernel's buffers of two connections, and little more"
    go.set()
    async with asyncio.timeout(20):
        await sending
        assert (await reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200")
    writer.close()
    await settled()


async def test_events_pass_one_by_one(harness: Harness, peers: Peers, clients: Clients) -> None:
    """Each is sent once the client has the one before."""
    turn = asyncio.Queue[int]()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n")
        while number := await turn.get():
            writer.write(b"data: %d\n\n" % number)

    await harness.start(simple(await peers(serve)))
    reader, _ = await clients(b"GET /a" + HOST + b"accept: text/event-stream\r\n\r\n")
    async with asyncio.timeout(5):
        await reader.readuntil(b"\r\n\r\n")
        for number in (1, 2, 3):
            turn.put_nowait(number)
            await reader.readuntil(b"data: %d\n\n" % number)


MANIFEST = """
apiVersion: nexus.dev/v1alpha1
kind: NexusService
metadata: {name: orders, namespace: shop}
spec: {type: http, backend: {addresses: ["127.0.0.1:PORT"]}, expose: {path: /}}
"""
PROGRAM = """
import os, pathlib, sys
from nexus_gateway.app import run
from nexus_gateway.settings import GatewaySettings
run(GatewaySettings.from_env(os.environ), pathlib.Path(sys.argv[1]))
"""
SIZE = int(os.environ.get("NEXUS_TEST_BODY_MB", "1024")) * 2**20
"""Some two seconds each way. Machines with slower loopbacks may take less: memory that is not given back shows at 256 as well."""
MAX_GROWTH_KB = 64 * 1024


def rss_kb(pid: int) -> int:
    found = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1])


@pytest.mark.timeout(120)
@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
async def test_large_bodies_take_no_memory_in_either_direction(
    tmp_path: Path, peers: Peers, unused_tcp_port_factory: Any
) -> None:
    """Readers slower than writers, so that whatever is not held back piles up."""
    piece = b"x" * 2**18

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if head.startswith(b"POST"):
            got = 0
            while got < SIZE:
                got += len(await reader.read(2**18))
                if not got % 16:
                    await asyncio.sleep(0)
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
            return
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % SIZE)
        for _ in range(SIZE // len(piece)):
            writer.write(piece)
            await writer.drain()

    (tmp_path / "manifests").mkdir()
    (tmp_path / "manifests" / "orders.yaml").write_text(MANIFEST.replace("PORT", str(await peers(serve, limit=2**20))))
    port, admin = unused_tcp_port_factory(), unused_tcp_port_factory()
    environ = {
        **os.environ, "NEXUS_GATEWAY_LISTEN": f"127.0.0.1:{port}", "NEXUS_GATEWAY_ADMIN": f"127.0.0.1:{admin}",
        "NEXUS_PLUGIN_CACHE": str(tmp_path / "plugins"), "NEXUS_ACCESS_LOG": "false",
    }  # fmt: skip
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PROGRAM, str(tmp_path / "manifests"), env=environ, stderr=asyncio.subprocess.DEVNULL
    )
    try:

        async def ask(data: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, bytes]:
            reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**20)
            writer.write(data)
            return reader, writer, b""

        async def serves() -> bool:
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", admin)
            except ConnectionRefusedError:
                return False
            writer.write(b"GET /readyz" + HOST + b"connection: close\r\n\r\n")
            answer = await reader.read()
            writer.close()
            return answer.startswith(b"HTTP/1.1 200")

        await until(serves)
        before = rss_kb(process.pid)
        reader, writer, _ = await ask(b"GET /a" + HOST + b"connection: close\r\n\r\n")
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
        await asyncio.sleep(0.2)
        got = 0
        while data := await reader.read(2**18):
            got += len(data)
        writer.close()
        assert got == SIZE
        reader, writer, _ = await ask(b"POST /a" + HOST + b"connection: close\r\ncontent-length: %d\r\n\r\n" % SIZE)
        for _ in range(SIZE // len(piece)):
            writer.write(piece)
            await writer.drain()
        assert (await reader.read()).endswith(b"ok")
        writer.close()
        grown = rss_kb(process.pid) - before
        assert grown < MAX_GROWTH_KB, f"{grown} KB more than {before} KB"
    finally:
        process.terminate()
        await process.wait()
