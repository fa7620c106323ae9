"""Where policies meet each other and half-sent messages: what the client gets then, and that nothing stays behind."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from nexus_core.snapshot import (
    CircuitBreaker,
    Concurrency,
    DirectReply,
    Fallback,
    Retry,
    SizeLimit,
    Timeouts,
)
from nexus_gateway.testing import Harness, route, rule, simple, snapshot, until, upstream

Peers = Callable[..., Awaitable[int]]
Clients = Callable[..., Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]
Settled = Callable[..., Awaitable[None]]
HOST = b" HTTP/1.1\r\nhost: x\r\n"
GET = b"GET /a" + HOST + b"\r\n"
LAST = b"GET /last" + HOST + b"connection: close\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


async def ok(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        if b"content-length: " in head:
            await reader.readexactly(int(head.split(b"content-length: ")[1].split(b"\r\n")[0]))
        elif b"chunked" in head:
            await reader.readuntil(b"0\r\n\r\n")
        writer.write(OK)


async def test_too_large_a_body_after_the_answer_began_breaks_off_instead_of_a_second_answer(
    harness: Harness, peers: Peers, clients: Clients, settled: Settled
) -> None:
    async def early(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhe")
        await reader.read(-1)

    port = await peers(early)
    await harness.start(snapshot(route(rule("shop/orders", filters=(SizeLimit(request_bytes=8),))), upstream(port)))
    reader, writer = await clients(b"POST /a" + HOST + b"transfer-encoding: chunked\r\n\r\n")
    async with asyncio.timeout(5):
        await reader.readuntil(b"he")
        writer.write(b"20\r\n" + b"x" * 32 + b"\r\n")
        rest = await reader.read()
    assert b"HTTP/1.1" not in rest
    await settled()


async def test_the_chunks_of_a_body_do_not_count_against_its_size(harness: Harness, peers: Peers) -> None:
    """A body of exactly the limit passes however it is framed."""
    port = await peers(ok)
    await harness.start(snapshot(route(rule("shop/orders", filters=(SizeLimit(request_bytes=8),))), upstream(port)))
    answer = await harness.raw(
        b"POST /a" + HOST + b"transfer-encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 8 + b"0\r\n\r\n" + LAST
    )
    assert answer.startswith(b"HTTP/1.1 200")


async def test_the_chunks_of_an_answer_do_not_count_against_its_size(harness: Harness, peers: Peers) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 8 + b"0\r\n\r\n")
        await reader.read(-1)

    await harness.start(
        snapshot(route(rule("shop/orders", filters=(SizeLimit(response_bytes=8),))), upstream(await peers(serve)))
    )
    assert (await harness.raw(LAST)).startswith(b"HTTP/1.1 200")


FALLBACK = Fallback(reply=DirectReply(200, "instead"))


async def test_an_overloaded_upstream_has_its_fallback(harness: Harness, peers: Peers, clients: Clients) -> None:
    async def never(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(-1)

    port = await peers(never)
    await harness.start(
        snapshot(
            route(rule("shop/orders", filters=(FALLBACK,))), upstream(port, concurrency=Concurrency(max_requests=1))
        )
    )
    await clients(GET)
    await until(lambda: harness.gateway.proxy.in_flight == 1)
    assert (await harness.raw(LAST)).endswith(b"instead")


async def test_a_service_with_an_open_circuit_has_its_fallback(harness: Harness, peers: Peers) -> None:
    async def fail(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n")

    port = await peers(fail)
    await harness.start(
        snapshot(
            route(rule("shop/orders", filters=(FALLBACK,))),
            upstream(
                port,
                service_breaker=CircuitBreaker(failures=1, reset_s=60),
                retry=Retry(attempts=0),
                breaker=CircuitBreaker(failures=0),
            ),
        )
    )
    assert (await harness.raw(LAST)).startswith(b"HTTP/1.1 503 No")
    assert (await harness.raw(LAST)).endswith(b"instead")


async def test_a_client_that_left_keeps_no_place_in_the_queue(
    harness: Harness, peers: Peers, clients: Clients, settled: Settled
) -> None:
    async def never(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(-1)

    port = await peers(never)
    await harness.start(simple(port, concurrency=Concurrency(max_requests=1, max_pending=1)))
    proxy = harness.gateway.proxy
    _, first = await clients(GET)
    await until(lambda: proxy.in_flight == 1)
    _, second = await clients(GET)
    await until(lambda: proxy.in_flight == 2)
    second.transport.abort()
    await until(lambda: proxy.in_flight == 1)
    _, third = await clients(GET)
    await until(lambda: proxy.in_flight == 2)
    await asyncio.sleep(0.1)
    assert proxy.in_flight == 2, "it waits, instead of being refused"
    for each in (first, third):
        each.transport.abort()
    await settled()


async def test_a_try_deadline_does_not_run_on_into_the_pause_before_the_next_try(
    harness: Harness, peers: Peers, settled: Settled
) -> None:
    """The first try fails within its own deadline, which falls into the pause: the next one has a deadline of its own."""
    tries = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal tries
        await reader.readuntil(b"\r\n\r\n")
        tries += 1
        if tries == 1:
            await asyncio.sleep(0.05)
            writer.write(b"HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n")
        else:
            writer.write(OK)

    port = await peers(serve)
    await harness.start(
        simple(
            port,
            timeouts=Timeouts(request_s=10, try_s=0.5),
            retry=Retry(attempts=1),
            breaker=CircuitBreaker(failures=0),
        )
    )
    harness.gateway.proxy.rng.uniform = lambda low, high: 0.75  # a long pause, as a later one's may be
    assert (await harness.raw(LAST)).startswith(b"HTTP/1.1 200")
    await settled()


async def test_a_wait_in_the_queue_that_is_over_has_its_fallback(
    harness: Harness, peers: Peers, clients: Clients
) -> None:
    fallback = Fallback(reply=DirectReply(200, "instead"))

    async def never(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(-1)

    port = await peers(never)
    await harness.start(
        snapshot(
            route(rule("shop/orders", filters=(fallback,))),
            upstream(port, concurrency=Concurrency(max_requests=1, max_pending=5), timeouts=Timeouts(request_s=30)),
        )
    )
    await clients(GET)
    assert harness.gateway is not None
    proxy = harness.gateway.proxy
    await until(lambda: proxy.in_flight == 1)
    assert (await harness.raw(LAST[:-2] + b"x-request-timeout: 0.3\r\n\r\n")).endswith(b"instead")
