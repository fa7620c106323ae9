"""Whatever clients and servers of HTTP/2 do, and whenever they do it: each request ends once, and nothing of it stays behind.

Both sides draw frames by chance, most of them allowed, while Snapshots come and go. What is drawn is the same for a seed; when it
comes is not, so that a failure may need some runs to be seen again.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from nexus_core.snapshot import CircuitBreaker, Concurrency, Hedge, Mirror, Retry, Snapshot, Timeouts, Upstream
from nexus_gateway.testing import Harness, route, rule, snapshot, upstream
from nexus_wire.http2 import frames, hpack

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
PATHS = (b"/limited", b"/h2", b"/mirrored", b"/mixed", b"/hedged", b"/plain")
TIMEOUTS = Timeouts(request_s=1.0, connect_s=0.5, idle_s=1.0)
OK = hpack.field(b":status", b"200")


def block(*fields: tuple[bytes, bytes]) -> bytes:
    return b"".join(hpack.field(*each) for each in fields)


WEBSOCKET = block(
    (b":method", b"CONNECT"), (b":protocol", b"websocket"), (b":scheme", b"http"), (b":path", b"/plain"),
    (b":authority", b"a.example"), (b"sec-websocket-version", b"13"),
)  # fmt: skip
EXTRAS: tuple[tuple[tuple[bytes, bytes], ...], ...] = (
    (), (), (), ((b"content-length", b"10"),), ((b"content-length", b"1000"),), ((b"expect", b"100-continue"),),
    ((b"content-type", b"application/grpc"), (b"grpc-timeout", b"1m")),
    ((b"content-type", b"application/grpc"), (b"grpc-timeout", b"5S")),
)  # fmt: skip


class WildClient:
    """A client of one connection."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._next = 1
        self._open: list[int] = []

    def say(self) -> bytes:
        """Return what it says next."""
        rng, drawn = self._rng, self._rng.random()
        if drawn < 0.4:
            return self._ask()
        if drawn < 0.6 and self._open:
            stream, end = rng.choice(self._open), rng.random() < 0.4
            if end:
                self._open.remove(stream)
            return frames.data(stream, bytes(rng.choice((0, 1, 10, 1000, 16000))), end=end)
        if drawn < 0.65 and self._open:
            return frames.headers(self._forget(), block((b"x-trailer", b"1")), 16384, end=True)
        if drawn < 0.8 and self._next > 1:
            stream = rng.randrange(1, self._next, 2)
            if stream in self._open:
                self._open.remove(stream)
            return frames.reset(stream, rng.choice((0, 7, 8)))
        if drawn < 0.9:
            return frames.window_update(rng.choice((0, *self._open)), rng.choice((1, 1000, 100_000)))
        if drawn < 0.98:
            return frames.settings({frames.INITIAL_WINDOW_SIZE: rng.choice((0, 10, 65535))})
        return rng.choice((frames.goaway(0, 0), rng.randbytes(20)))

    def _forget(self) -> int:
        return self._open.pop(self._rng.randrange(len(self._open)))

    def _ask(self) -> bytes:
        rng, stream = self._rng, self._next
        self._next += 2
        if rng.random() < 0.1:
            self._open.append(stream)
            return frames.headers(stream, WEBSOCKET, 16384, end=False)
        end = rng.random() < 0.5
        if not end:
            self._open.append(stream)
        head = block(
            (b":method", rng.choice((b"GET", b"POST", b"HEAD", b"OPTIONS"))), (b":scheme", b"http"),
            (b":path", rng.choice(PATHS)), (b":authority", b"a.example"), *rng.choice(EXTRAS),
        )  # fmt: skip
        return frames.headers(stream, head, 16384, end=end)

    async def run(self, port: int) -> None:
        rng = self._rng
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        reads = asyncio.create_task(reader.read(-1)) if rng.random() < 0.8 else None
        try:
            first = {frames.INITIAL_WINDOW_SIZE: rng.choice((0, 1, 100, 1_000_000))} if rng.random() < 0.5 else {}
            writer.write(frames.PREFACE + frames.settings(first))
            for _ in range(rng.randrange(5, 60)):
                if writer.transport.is_closing():
                    break
                writer.write(self.say())
                if rng.random() < 0.5:
                    await asyncio.sleep(rng.random() * 0.01)
            await asyncio.sleep(rng.random() * 0.05)
        finally:
            writer.transport.abort()
            if reads is not None:
                await asyncio.gather(reads, return_exceptions=True)


def wild_http2(rng: random.Random) -> Serve:
    """Return a server that answers by HTTP/2, one way or another, later or never."""

    def answer(stream: int) -> bytes:
        status = block((b":status", rng.choice((b"200", b"503", b"304", b"100"))))
        begun = frames.headers(stream, OK, 16384, end=False)
        grpc = frames.headers(stream, block((b"grpc-status", b"0")), 16384, end=True)
        return rng.choice(
            (
                begun + frames.data(stream, bytes(rng.choice((0, 10, 16000))), end=False) + grpc,
                begun + frames.data(stream, b"whole", end=True),
                frames.headers(stream, status, 16384, end=True),
                frames.headers(stream, status, 16384, end=False) + frames.data(stream, bytes(16000), end=False) * 20,
                frames.reset(stream, rng.choice((0, 2, 7, 8))),
                begun + frames.data(stream, b"x", end=False) + frames.reset(stream, rng.choice((0, 7, 8))),
                frames.goaway(rng.choice((0, stream, 2**31 - 1)), 0) if rng.random() < 0.3 else b"",
                rng.randbytes(30) if rng.random() < 0.2 else b"",
            )
        )

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        def say(data: bytes) -> None:
            if not writer.transport.is_closing():
                writer.write(data)

        few = {
            frames.MAX_CONCURRENT_STREAMS: rng.choice((1, 5)),
            frames.INITIAL_WINDOW_SIZE: rng.choice((0, 10, 65535)),
        }
        say(frames.settings(few if rng.random() < 0.5 else {}))
        await reader.readexactly(len(frames.PREFACE))
        seen: set[int] = set()
        while True:
            word, _, stream = frames.HEAD.unpack(await reader.readexactly(frames.HEAD_BYTES))
            size = len(await reader.readexactly(word >> 8))
            kind = word & 0xFF
            if kind == frames.HEADERS and stream not in seen:
                seen.add(stream)
                asyncio.get_running_loop().call_later(rng.random() * 0.03, lambda at: say(answer(at)), stream)
            elif kind == frames.DATA and size and rng.random() < 0.7:
                say(frames.window_update(0, size) + frames.window_update(stream, size))

    return serve


def wild_http1(rng: random.Random) -> Serve:
    """Return a server that answers by HTTP/1.1, or breaks off."""
    kept = (
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nx-trailer: 1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 300000\r\n\r\n" + bytes(300_000),
        b"HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n",
    )
    last = (
        b"HTTP/1.1 413 Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\nuntil the end",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\nhello",
        b"",
    )

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            await asyncio.sleep(rng.random() * 0.02)
            if b"upgrade: websocket" in head and rng.random() < 0.7:
                writer.write(b"HTTP/1.1 101 X\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\nhello")
                await asyncio.sleep(rng.random() * 0.03)
                return
            if rng.random() < 0.25:
                writer.write(rng.choice(last))
                return
            writer.write(rng.choice(kept))

    return serve


def world(one: int, two: int, *, shift: int) -> Snapshot:
    """Return a Snapshot over a server of HTTP/1.1 and one of HTTP/2. shift: makes it another one."""
    # A bulkhead with a queue, and few connections: who leaves makes room for others of the same client.
    tight = Concurrency(max_requests=5, max_pending=5, max_connections=3)
    ups: tuple[Upstream, ...] = (
        upstream(one, upstream_id="limited", timeouts=TIMEOUTS, concurrency=tight, retry=Retry(attempts=2)),
        upstream(two, upstream_id="h2", protocol="h2", timeouts=TIMEOUTS, concurrency=Concurrency(max_connections=2),
                 breaker=CircuitBreaker(failures=5, reset_s=0.05)),
        upstream(one, upstream_id="hedged", timeouts=TIMEOUTS, hedge=Hedge(min_delay_s=0.005, budget_ratio=1.0)),
        upstream(two, upstream_id="copies", protocol="h2", timeouts=TIMEOUTS),
        upstream(two, one, upstream_id="mixed", protocol="h2", timeouts=TIMEOUTS),
        upstream(one, upstream_id="plain", timeouts=TIMEOUTS),
    )  # fmt: skip
    rules = (
        rule("limited", rule_id="r/0", path="/limited"),
        rule("h2", rule_id="r/1", path="/h2"),
        rule("limited", rule_id="r/2", path="/mirrored", filters=(Mirror("copies"),)),
        rule("mixed", rule_id="r/3", path="/mixed"),
        rule("hedged", rule_id="r/4", path="/hedged"),
        rule("plain", rule_id="r/5", path="/plain"),
        rule("plain", rule_id="r/6", path=f"/{shift}"),
    )
    return snapshot(route(*rules), *ups)


@pytest.mark.parametrize("seed", [1, 2])
async def test_nothing_of_any_request_stays_behind(
    harness: Harness, peers: Any, settled: Any, loop_errors: Any, caplog: pytest.LogCaptureFixture, seed: int
) -> None:
    rng = random.Random(seed)
    one, two = await peers(wild_http1(rng)), await peers(wild_http2(rng))
    gateway = await harness.start(world(one, two, shift=0), keepalive_s=2.0)
    over = asyncio.Event()

    async def client() -> None:
        for _ in range(4):
            await WildClient(rng).run(gateway.port)

    async def swap() -> None:
        shift = 0
        while not over.is_set():
            shift += 1
            await harness.publish(world(one, two, shift=shift))
            await asyncio.sleep(0.02)

    swapping = asyncio.create_task(swap())
    await asyncio.gather(*(client() for _ in range(12)))
    over.set()
    await swapping
    await settled()
    assert harness.client is not None
    async with harness.client.get(harness.url("/plain")):
        pass  # whatever it says: it says something
    assert not [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
