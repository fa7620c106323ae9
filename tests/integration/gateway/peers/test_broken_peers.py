"""Clients and upstreams that break at every possible moment. Whatever they do, nothing of their requests stays behind."""

from __future__ import annotations

import asyncio
import gc
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from nexus_core.snapshot import (
    CircuitBreaker,
    Concurrency,
    Cors,
    Fallback,
    HeaderModifier,
    Hedge,
    Mirror,
    Outlier,
    Persistence,
    RateLimit,
    Retry,
    SizeLimit,
    Snapshot,
    Timeouts,
)
from nexus_core.snapshot.policies import Balancing
from nexus_gateway.testing import Harness, route, rule, snapshot, upstream

Peers = Callable[..., Awaitable[int]]
Clients = Callable[..., Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]
Settled = Callable[..., Awaitable[None]]

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n"
SIZED = b"HTTP/1.1 200 OK\r\ncontent-length: 300000\r\n\r\n" + b"x" * 300_000
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"
HOST = b" HTTP/1.1\r\nhost: x\r\n"
REQUESTS = {
    "get": [b"GET /a" + HOST + b"\r\n"],
    "head": [b"HEAD /a" + HOST + b"\r\n"],
    "pipelined": [(b"GET /a" + HOST + b"\r\n") * 3],
    "http/1.0": [b"GET /a HTTP/1.0\r\nhost: x\r\n\r\n"],
    "post": [b"POST /a" + HOST + b"content-length: 5\r\n\r\nhello"],
    "put in pieces": [b"PUT /a" + HOST + b"content-length: 10\r\n\r\n", b"hello", b"world"],
    "large": [b"POST /a" + HOST + b"content-length: 400000\r\n\r\n", *[b"x" * 100_000] * 4],
    "chunks": [b"POST /a" + HOST + b"transfer-encoding: chunked\r\n\r\n", b"5\r\nhe", b"llo\r\n", b"3\r\nabc\r\n0\r\n\r\n"],
    "upgrade": [b"GET /a" + HOST + b"connection: upgrade\r\nupgrade: websocket\r\n\r\n", b"frames"],
    "expecting": [b"POST /a" + HOST + b"content-length: 5\r\nexpect: 100-continue\r\n\r\n", b"hello"],
}  # fmt: skip
TIMES = Timeouts(request_s=0.4, try_s=0.2, connect_s=0.5, idle_s=0.3)


def plain(*services: tuple[int, int]) -> Snapshot:
    """Nothing but the defaults, so that requests take the shortest way."""
    rules, upstreams = [], []
    for number, ports in enumerate(services):
        rules.append(rule(f"shop/{number}", rule_id=f"r/{number}", path=f"/{number}"))
        upstreams.append(
            upstream(*ports, upstream_id=f"shop/{number}", timeouts=TIMES, breaker=CircuitBreaker(failures=0))
        )
    return snapshot(route(*rules), *upstreams)


def everything(*services: tuple[int, int]) -> Snapshot:
    """Each policy that gives a request more to carry and to give back."""
    rules, upstreams = [], []
    retried = Retry(attempts=2, on=("502", "503", "504", "connect-failure", "reset", "timeout"))
    for number, ports in enumerate(services):
        filters = (
            Cors(origins=("*",)), Mirror(f"copy/{number}"), RateLimit("most", 100_000), SizeLimit(10**6, 10**6),
            HeaderModifier("response", set=(("x-seen", "1"),)), Fallback(f"copy/{number}"),
        )  # fmt: skip
        rules.append(rule(f"shop/{number}", rule_id=f"r/{number}", path=f"/{number}", filters=filters))
        upstreams.append(
            upstream(
                *ports, upstream_id=f"shop/{number}", timeouts=TIMES, retry=retried, hedge=Hedge(min_delay_s=0.001),
                breaker=CircuitBreaker(failures=3, reset_s=0.1), service_breaker=CircuitBreaker(failures=8, reset_s=0.1),
                outlier=Outlier(failures=4, eject_s=0.1),
                concurrency=Concurrency(max_requests=4, max_pending=20, max_connections=3),
                balancing=Balancing(persistence=Persistence()),
            )
        )  # fmt: skip
        upstreams.append(upstream(*ports, upstream_id=f"copy/{number}", timeouts=TIMES))
    return snapshot(route(*rules), *upstreams)


KINDS = {"plain": plain, "everything": everything}


def answering(data: bytes, *, then: str = "wait", pieces: int = 1, first: bool = False, more: bytes = b"") -> Any:
    """An upstream that answers each request with these bytes. first: before the request's body is read, or its head."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            if not first:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                if b"content-length: " in head:
                    await reader.readexactly(int(head.split(b"content-length: ")[1].split(b"\r\n")[0]))
                elif b"chunked" in head:
                    await reader.readuntil(b"0\r\n\r\n")
            size = max(1, -(-len(data) // pieces))
            for at in range(0, len(data), size):
                writer.write(data[at : at + size])
                if pieces > 1:
                    await asyncio.sleep(0.001)
            if more:
                await asyncio.sleep(0.005)
                writer.write(more)
            if then == "close":
                return
            if then == "reset":
                await asyncio.sleep(0.005)
                writer.transport.abort()
                return
            if first:
                await reader.read(-1)
                return

    return serve


async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(-1)


async def deaf(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Takes the head and never reads again."""
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhel")
    await asyncio.sleep(30)


async def gone(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()


UPSTREAMS = {
    "answers": answering(OK),
    "answers in bytes": answering(CHUNKED, pieces=1000),
    "answers and closes": answering(OK, then="close"),
    "answers and resets": answering(OK, then="reset"),
    "answers large": answering(SIZED),
    "answers until it closes": answering(b"HTTP/1.1 200 OK\r\n\r\nhello", then="close"),
    "resets within what goes on until it closes": answering(b"HTTP/1.1 200 OK\r\n\r\nhello", then="reset"),
    "answers 503": answering(b"HTTP/1.1 503 No\r\ncontent-length: 2\r\n\r\nno"),
    "answers 500 in pieces": answering(b"HTTP/1.1 500 No\r\ntransfer-encoding: chunked\r\n\r\n2\r\nno\r\n0\r\n\r\n", pieces=40),
    "answers first": answering(OK, first=True),
    "answers first and closes": answering(OK, first=True, then="close"),
    "answers first and resets": answering(OK, first=True, then="reset"),
    "answers twice": answering(OK + OK),
    "answers twice, the second later": answering(OK, more=OK),
    "sends more than announced": answering(OK + b"!" * 1000),
    "sends more after the last chunk": answering(CHUNKED + b"0\r\n\r\n"),
    "never answers": silent,
    "never reads": deaf,
    "resets at once": gone,
    "closes after the head": answering(b"", then="close"),
    "resets after the head": answering(b"", then="reset"),
    "closes within a head": answering(b"HTTP/1.1 200 OK\r\ncontent-le", then="close"),
    "resets within a head": answering(b"HTTP/1.1 200 OK\r\ncontent-le", then="reset"),
    "stops within a head": answering(b"HTTP/1.1 200 OK\r\ncontent-le"),
    "closes within a body": answering(SIZED[:200_000], then="close"),
    "resets within a body": answering(SIZED[:200_000], then="reset"),
    "stops within a body": answering(SIZED[:200_000]),
    "closes within a chunk": answering(CHUNKED[:70], then="close"),
    "closes between chunks": answering(CHUNKED[:60], then="close"),
    "resets within a chunk": answering(CHUNKED[:70], then="reset"),
    "sends a bad chunk": answering(CHUNKED[:60] + b"zz\r\n"),
    "sends a bad chunk later": answering(CHUNKED[:60], more=b"zz\r\n"),
    "sends interim answers without end": answering(b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" * 100),
    "sends interim answers and closes": answering(b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" * 3, then="close"),
    "sends 100 without end": answering(b"HTTP/1.1 100 Continue\r\n\r\n" * 100, first=True),
    "switches": answering(SWITCH + b"frames"),
    "switches and resets": answering(SWITCH, then="reset"),
    "switches to something else": answering(SWITCH.replace(b"websocket", b"h2c")),
    "sends garbage": answering(b"\x00\xff garbage\r\n\r\n" * 10),
    "sends a huge head": answering(b"HTTP/1.1 200 OK\r\nx: " + b"a" * 200_000),
}  # fmt: skip


GROUPS = 5


def at(number: int, pieces: list[bytes]) -> list[bytes]:
    """Return the request for another path."""
    return [piece.replace(b" /a", b" /%d" % number) for piece in pieces]


async def drive(clients: Clients, pieces: list[bytes], wait_s: float) -> bytes:
    """Send a request, read what comes for a while or until it is all, leave."""
    reader, writer = await clients()
    answer = b""
    try:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.002)
        async with asyncio.timeout(wait_s):
            while piece := await reader.read(2**18):
                answer += piece
                if answer.endswith((b"ok", b"0\r\n\r\n", b"}")):
                    break
    except (ConnectionError, TimeoutError):
        pass  # that the gateway may break off is what is tried here
    finally:
        writer.close()
    return answer


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("group", range(GROUPS))
async def test_whatever_an_upstream_does_nothing_stays_behind(
    harness: Harness, peers: Peers, clients: Clients, settled: Settled, group: int, kind: str
) -> None:
    """Several at once, each on a path of its own: most of the time is spent waiting for deadlines."""
    ports = [(await peers(serve), await peers(serve)) for serve in list(UPSTREAMS.values())[group::GROUPS]]
    await harness.start(KINDS[kind](*ports), head_timeout_s=0.5, keepalive_s=0.5)
    # The first time longer than any deadline; the second time with what that left: kept connections, open circuits.
    for wait_s in (0.7, 0.1):
        answers = await asyncio.gather(
            *(
                drive(clients, at(number, pieces), wait_s)
                for number in range(len(ports))
                for pieces in REQUESTS.values()
            )
        )
        for answer in answers:
            assert not answer or answer.startswith(b"HTTP/1.1 "), answer
            assert answer.count(b"\nHTTP/1.1 ") <= 102, "at most the pipelined ones and interim answers"
    await settled()


CLIENTS = {
    "before the head": (0, 0),
    "within the head": (0, 20),
    "after the head": (1, 0),
    "within the body": (2, 0),
    "after the body": (99, 0),
}
SLOW = {
    "answers": UPSTREAMS["answers"],
    "answers in bytes": UPSTREAMS["answers in bytes"],
    "answers large": UPSTREAMS["answers large"],
    "answers first": UPSTREAMS["answers first"],
    "never answers": silent,
    "never reads": deaf,
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", ["closes", "resets"])
async def test_whenever_a_client_leaves_nothing_stays_behind(
    harness: Harness, peers: Peers, clients: Clients, settled: Settled, kind: str, how: str
) -> None:
    ports = [(await peers(serve), await peers(serve)) for serve in SLOW.values()]
    await harness.start(KINDS[kind](*ports), head_timeout_s=0.5, keepalive_s=0.5)

    async def leave(pieces: list[bytes], whole: int, part: int, wait_s: float) -> None:
        _, writer = await clients(b"".join(pieces[:whole]))
        if part:
            writer.write(b"".join(pieces)[:part])
        await asyncio.sleep(wait_s)
        if how == "resets":
            writer.transport.abort()
        else:
            writer.close()

    for wait_s in (0.0, 0.003, 0.02):
        await asyncio.gather(
            *(
                leave(at(number, pieces), *moment, wait_s)
                for number in range(len(ports))
                for pieces in REQUESTS.values()
                for moment in CLIENTS.values()
            )
        )
    await settled()


async def test_random_bytes_from_both_sides_leave_nothing_behind(
    harness: Harness, peers: Peers, clients: Clients, settled: Settled
) -> None:
    """Valid messages with bytes changed, lost and put in, in random pieces, either side leaving at a random moment."""
    draw = random.Random(5)

    def damaged(data: bytes) -> bytes:
        found = bytearray(data)
        for _ in range(draw.randint(0, 3)):
            at = draw.randrange(len(found))
            match draw.randrange(3):
                case 0:
                    found[at] = draw.randrange(256)
                case 1:
                    del found[at : at + draw.randint(1, 6)]
                case _:
                    found[at:at] = draw.randbytes(draw.randint(1, 6))
        return bytes(found[: draw.randint(1, len(found))] if draw.random() < 0.3 else found)

    async def send(writer: asyncio.StreamWriter, data: bytes) -> None:
        at = 0
        while at < len(data):
            size = draw.choice((1, 9, 80, 5000))
            writer.write(data[at : at + size])
            await writer.drain()
            at += size
            await asyncio.sleep(0)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await reader.readuntil(b"\r\n\r\n")
            await send(writer, damaged(draw.choice((OK, CHUNKED, SIZED[:3000], b"HTTP/1.1 103 Hm\r\n\r\n" + OK))))
            if draw.random() < 0.3:
                writer.transport.abort()
                return
            if draw.random() < 0.3:
                return

    await harness.start(everything((await peers(serve), await peers(serve))), head_timeout_s=0.5, keepalive_s=0.5)

    async def one(pieces: list[bytes]) -> None:
        reader, writer = await clients()
        try:
            await send(writer, damaged(b"".join(at(0, pieces))))
            async with asyncio.timeout(draw.choice((0.01, 0.1))):
                await reader.read()
        except (ConnectionError, TimeoutError):
            pass  # as above
        if draw.random() < 0.5:
            writer.transport.abort()
        else:
            writer.close()

    for _ in range(15):
        await asyncio.gather(*(one(pieces) for name, pieces in REQUESTS.items() if name != "large"))
    await settled()


@pytest.mark.parametrize("kind", KINDS)
async def test_requests_leave_no_garbage(
    harness: Harness, peers: Peers, clients: Clients, settled: Settled, kind: str
) -> None:
    """Freed as they end, without the collector: it stops the loop for as long as it looks at everything."""
    serve = UPSTREAMS["answers"]
    await harness.start(KINDS[kind]((await peers(serve), await peers(serve))), keepalive_s=0.3)

    def alive() -> dict[str, int]:
        found = Counter(type(each).__name__ for each in gc.get_objects())
        return {name: found[name] for name in ("Exchange", "Attempt", "Extras", "Hooked", "Copy") if found[name]}

    gc.collect()
    gc.disable()
    try:
        for _ in range(20):
            for name in ("get", "head", "post", "put in pieces", "chunks"):
                await drive(clients, at(0, REQUESTS[name]), 0.01 if name == "head" else 1.0)
        await settled()
        await asyncio.sleep(1.2)  # the clock looks at copies once a second
        # A few are held by what ran last, the loop's own handles for one.
        assert sum(alive().values()) <= 10, alive()
    finally:
        gc.enable()


async def test_closed_connections_are_forgotten(
    harness: Harness, peers: Peers, clients: Clients, settled: Settled
) -> None:
    serve = UPSTREAMS["answers"]
    await harness.start(plain((await peers(serve), await peers(serve))))
    for _ in range(100):
        _, writer = await clients(at(0, REQUESTS["get"])[0])
        writer.transport.abort()
    await settled()
    await asyncio.sleep(1.2)  # each connection is looked at once a second
    gc.collect()
    assert sum(type(each).__name__ == "ServerConnection" for each in gc.get_objects()) <= 2
