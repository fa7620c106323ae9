"""More than there is room for: what is refused, what is told, and what is served all the same."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable

from nexus_core.snapshot import Concurrency, Retry, Timeouts
from nexus_gateway.testing import Harness, simple, until

Peers = Callable[..., Awaitable[int]]
Clients = Callable[..., Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]
Settled = Callable[..., Awaitable[None]]

HOST = b" HTTP/1.1\r\nhost: x\r\n"
GET = b"GET /a" + HOST + b"\r\n"
LAST = b"GET /last" + HOST + b"connection: close\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


class Gate:
    """An upstream that answers when it is told to, except for its health."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.running = self.most = 0

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            if b"/healthz" not in head:
                self.running += 1
                self.most = max(self.most, self.running)
                try:
                    await self.open.wait()
                finally:
                    self.running -= 1
            writer.write(OK)


async def test_requests_beyond_the_limit_are_refused_at_once_and_told_when_to_come_again(
    harness: Harness, peers: Peers, clients: Clients, settled: Settled
) -> None:
    gate = Gate()
    await harness.start(simple(await peers(gate)), max_in_flight=3)
    held = [await clients(GET) for _ in range(3)]
    await until(lambda: gate.running == 3)
    answer = await harness.raw(LAST)
    assert answer.startswith(b"HTTP/1.1 503")
    assert b"\r\nretry-after: " in answer
    assert b'"Overloaded"' in answer
    gate.open.set()
    async with asyncio.timeout(5):
        for reader, writer in held:
            assert (await reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200")
            writer.close()
    await settled()


async def test_health_is_answered_while_others_are_shed(harness: Harness, peers: Peers, clients: Clients) -> None:
    gate = Gate()
    await harness.start(simple(await peers(gate)), max_in_flight=2)
    for _ in range(2):
        await clients(GET)
    await until(lambda: gate.running == 2)
    assert (await harness.raw(b"GET /healthz" + HOST + b"connection: close\r\n\r\n")).endswith(b"ok")
    assert (await harness.raw(LAST)).startswith(b"HTTP/1.1 503")


async def test_health_is_no_way_around_the_limit(harness: Harness, peers: Peers, clients: Clients) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(-1)

    await harness.start(simple(await peers(serve)), max_in_flight=2, priority_paths=("/a",))
    for _ in range(60):
        await clients(GET)
    assert harness.gateway is not None
    proxy = harness.gateway.proxy
    await until(lambda: proxy.in_flight >= 18)
    await asyncio.sleep(0.1)
    assert proxy.in_flight <= 2 * 1.1 + 16


async def test_connections_beyond_the_limit_are_told_and_closed(
    harness: Harness, peers: Peers, clients: Clients, settled: Settled
) -> None:
    gate = Gate()
    gate.open.set()
    await harness.start(simple(await peers(gate)), max_connections=2)
    held = [await clients(GET) for _ in range(2)]
    async with asyncio.timeout(5):
        for reader, _ in held:
            await reader.readuntil(b"ok")
        reader, _ = await clients()
        answer = await reader.read()
    assert answer.startswith(b"HTTP/1.1 503")
    assert b"\r\nretry-after: " in answer
    held[0][1].close()
    assert harness.gateway is not None
    proxy = harness.gateway.proxy
    await until(lambda: len(proxy.connections) == 1)
    assert (await harness.raw(LAST)).endswith(b"ok"), "a place got free"


async def test_a_bulkhead_has_some_wait_and_refuses_the_rest(
    harness: Harness, peers: Peers, clients: Clients, settled: Settled
) -> None:
    gate = Gate()
    await harness.start(simple(await peers(gate), concurrency=Concurrency(max_requests=2, max_pending=2)))
    assert harness.gateway is not None
    proxy = harness.gateway.proxy
    waiting = [await clients(GET) for _ in range(4)]
    await until(lambda: proxy.in_flight == 4)
    answer = await harness.raw(LAST)
    assert answer.startswith(b"HTTP/1.1 503")
    assert b'"UpstreamOverloaded"' in answer
    assert b"\r\nretry-after: " in answer
    gate.open.set()
    async with asyncio.timeout(5):
        for reader, writer in waiting:
            assert (await reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200")
            writer.close()
    assert gate.most == 2
    await settled()


async def test_a_place_is_given_back_where_it_was_taken(
    harness: Harness, peers: Peers, clients: Clients, settled: Settled
) -> None:
    """A limit that is taken away and set again is another one: the end of an older request frees none of its places."""
    gate = Gate()
    port = await peers(gate)
    limited = simple(port, concurrency=Concurrency(max_requests=1))
    gateway = await harness.start(limited)
    _, first = await clients(GET)
    await until(lambda: gate.running == 1)
    await harness.publish(simple(port))
    await harness.publish(limited)
    second, writer = await clients(GET)
    await until(lambda: gate.running == 2)
    first.close()
    await until(lambda: gateway.proxy.in_flight == 1)
    assert (await harness.raw(LAST)).startswith(b"HTTP/1.1 503")
    gate.open.set()
    async with asyncio.timeout(5):
        assert (await second.readuntil(b"ok")).startswith(b"HTTP/1.1 200")
    writer.close()
    await settled()
    assert (await harness.raw(LAST)).startswith(b"HTTP/1.1 200")


async def test_who_waits_too_long_for_a_bulkhead_is_answered_in_time(
    harness: Harness, peers: Peers, clients: Clients, settled: Settled
) -> None:
    gate = Gate()
    policies = {"concurrency": Concurrency(max_requests=1, max_pending=5), "timeouts": Timeouts(request_s=0.3)}
    await harness.start(simple(await peers(gate), **policies))
    _, writer = await clients(GET)
    await until(lambda: gate.running)
    assert (await harness.raw(LAST)).startswith(b"HTTP/1.1 504")
    writer.close()
    await settled()


async def test_requests_wait_for_a_connection_when_there_may_be_no_more(
    harness: Harness, peers: Peers, clients: Clients, settled: Settled
) -> None:
    gate = Gate()
    await harness.start(simple(await peers(gate), concurrency=Concurrency(max_connections=2)))
    waiting = [await clients(GET) for _ in range(6)]
    await until(lambda: gate.running == 2)
    gate.open.set()
    async with asyncio.timeout(5):
        for reader, writer in waiting:
            await reader.readuntil(b"ok")
            writer.close()
    assert gate.most == 2
    assert harness.gateway is not None
    assert harness.gateway.proxy.connector.opened == 2
    await settled()


async def test_waiters_for_a_connection_do_not_wait_for_one_that_could_not_be_opened(
    harness: Harness, clients: Clients, settled: Settled
) -> None:
    """max_connections 1: while one is being opened others wait; when that fails, they try themselves."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # nobody listens
        port = taken.getsockname()[1]
        await harness.start(simple(port, concurrency=Concurrency(max_connections=1), retry=Retry(attempts=0)))
        async with asyncio.timeout(3):
            answers = await asyncio.gather(*(harness.raw(LAST, timeout_s=4) for _ in range(5)))
        assert all(b"UpstreamConnectFailure" in answer for answer in answers)
    await settled()


async def test_an_adaptive_limit_sheds_what_an_upstream_cannot_take(
    harness: Harness, peers: Peers, clients: Clients, settled: Settled
) -> None:
    """It begins at four times its least, and never lets more through than it has found."""
    gate = Gate()
    limits = Concurrency(adaptive=True, min_limit=2, max_limit=50)
    await harness.start(simple(await peers(gate), concurrency=limits))
    held = [await clients(GET) for _ in range(30)]
    await until(lambda: gate.running == 8)
    refused = 0
    gate.open.set()
    async with asyncio.timeout(5):
        for reader, writer in held:
            status = await reader.readuntil(b"\r\n")
            refused += b" 503 " in status
            writer.close()
    assert refused == 30 - 8
    assert gate.most == 8
    await settled()
