"""Time that is over: of heads, bodies, tries, requests, silences; and what upstreams are told is left of it."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Awaitable, Callable
from time import monotonic, sleep

import pytest
from nexus_core.snapshot import CircuitBreaker, Fault, Retry, Timeouts
from nexus_core.snapshot.policies import Concurrency
from nexus_gateway.testing import Harness, route, rule, simple, snapshot, until, upstream

Peers = Callable[..., Awaitable[int]]
Clients = Callable[..., Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]
Settled = Callable[..., Awaitable[None]]

HOST = b" HTTP/1.1\r\nhost: x\r\n"
GET = b"GET /a" + HOST + b"\r\n"
LAST = b"GET /last" + HOST + b"connection: close\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(-1)


async def test_a_request_that_takes_too_long_is_answered_504_and_its_upstream_let_go(
    harness: Harness, peers: Peers, settled: Settled
) -> None:
    await harness.start(simple(await peers(silent), timeouts=Timeouts(request_s=0.2), retry=Retry(attempts=0)))
    begun = monotonic()
    answer = await harness.raw(LAST)
    assert answer.startswith(b"HTTP/1.1 504")
    assert b'"RequestTimeout"' in answer
    assert 0.2 <= monotonic() - begun < 2.0
    await settled()


async def test_each_try_has_its_time_within_the_requests(harness: Harness, peers: Peers, settled: Settled) -> None:
    tries: list[float] = []

    async def count(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        tries.append(monotonic())
        await reader.read(-1)

    policies = {
        "timeouts": Timeouts(request_s=2, try_s=0.2),
        "retry": Retry(attempts=20, on=("timeout",)),
        "breaker": CircuitBreaker(failures=0),
    }
    await harness.start(simple(await peers(count), **policies))
    begun = monotonic()
    assert (await harness.raw(LAST)).startswith(b"HTTP/1.1 504")
    assert monotonic() - begun < 4.0, "the request's time is over whatever tries are left"
    assert 2 <= len(tries) <= 10
    await settled()


async def test_a_try_that_hangs_is_made_up_for_by_another(harness: Harness, peers: Peers, settled: Settled) -> None:
    tries = 0

    async def second(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal tries
        await reader.readuntil(b"\r\n\r\n")
        tries += 1
        if tries >= 2:  # a busy machine may not answer the second within its time
            writer.write(OK)
        await reader.read(-1)

    timeouts = Timeouts(request_s=5, try_s=0.2)
    await harness.start(simple(await peers(second), timeouts=timeouts, retry=Retry(on=("timeout",))))
    assert (await harness.raw(LAST)).endswith(b"ok")
    await settled()


@pytest.mark.parametrize(
    "timeouts", [Timeouts(request_s=0.4), Timeouts(request_s=5, try_s=0.4)], ids=["request", "try"]
)
async def test_a_gateway_that_was_held_up_blames_no_endpoint_for_it(
    harness: Harness, peers: Peers, timeouts: Timeouts, clients: Clients, settled: Settled
) -> None:
    """What arrives while the loop stands still is read before the gateway's clock is put right."""

    async def after_a_moment(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.readuntil(b"\r\n\r\n"):
            await asyncio.sleep(0.05)
            writer.write(OK)

    await harness.start(
        simple(
            await peers(after_a_moment), timeouts=timeouts, retry=Retry(attempts=0), breaker=CircuitBreaker(failures=1)
        )
    )
    reader, writer = await clients()
    for _ in range(3):  # the first has a connection made for it, the others take a shorter way
        writer.write(GET)  # it is sent at once
        sleep(0.8)  # noqa: ASYNC251 - the loop stands still, and the gateway with it
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200"), head
        assert await reader.readexactly(2) == b"ok"
    writer.close()
    await settled()


@pytest.mark.parametrize(
    ("header", "pattern", "unit_s"),
    [
        (b"x-request-timeout: 2.5", rb"\r\nx-request-timeout: ([0-9.]+)\r\n", 1.0),
        (b"grpc-timeout: 2500m", rb"\r\ngrpc-timeout: ([0-9]+)u\r\n", 1e-6),
    ],
    ids=["seconds", "grpc"],
)
async def test_upstreams_are_told_the_time_that_is_left(
    harness: Harness, peers: Peers, header: bytes, pattern: bytes, unit_s: float
) -> None:
    """What the gateway itself has used, here on purpose, is not the upstream's."""
    heads: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        if len(heads) == 1:
            await asyncio.sleep(0.3)
            writer.write(b"HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n")
        else:
            writer.write(OK)

    await harness.start(simple(await peers(serve)))
    answer = await harness.raw(GET[:-2] + header + b"\r\nconnection: close\r\n\r\n")
    assert answer.endswith(b"ok")
    first, second = (re.search(pattern, head) for head in heads)
    assert first is not None
    assert second is not None
    assert 2.0 < float(first[1]) * unit_s <= 2.5
    assert float(second[1]) * unit_s <= float(first[1]) * unit_s - 0.29


@pytest.mark.parametrize("header", [b"x-request-timeout: 0.2", b"grpc-timeout: 200m", b"grpc-timeout: 200000u"])
async def test_a_clients_deadline_holds_when_it_is_the_shorter_one(
    harness: Harness, peers: Peers, settled: Settled, header: bytes
) -> None:
    await harness.start(simple(await peers(silent), timeouts=Timeouts(request_s=30)))
    begun = monotonic()
    answer = await harness.raw(GET[:-2] + header + b"\r\nconnection: close\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 504")
    assert monotonic() - begun < 3.0
    await settled()


async def test_a_clients_deadline_lengthens_nothing(harness: Harness, peers: Peers) -> None:
    await harness.start(simple(await peers(silent), timeouts=Timeouts(request_s=0.2)))
    assert (await harness.raw(GET[:-2] + b"x-request-timeout: 60\r\nconnection: close\r\n\r\n")).startswith(
        b"HTTP/1.1 504"
    )


async def test_a_stream_may_take_longer_than_a_request_but_not_fall_silent(
    harness: Harness, peers: Peers, clients: Clients, settled: Settled
) -> None:
    async def tick(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        for number in range(8):
            writer.write(b"data: %d\n\n" % number)
            await asyncio.sleep(0.1)
        await reader.read(-1)

    await harness.start(simple(await peers(tick), timeouts=Timeouts(request_s=0.5, idle_s=1.5)))
    reader, _ = await clients(GET)
    async with asyncio.timeout(5):
        await reader.readuntil(b"data: 7")
        rest = await reader.read()
    assert b"0\r\n\r\n" not in rest, "cut off, not ended"
    await settled()


async def test_a_client_that_does_not_read_its_answer_is_cut_off(
    harness: Harness, peers: Peers, settled: Settled
) -> None:
    async def large(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % 2**28)
        while True:
            writer.write(b"x" * 2**18)
            await writer.drain()

    await harness.start(simple(await peers(large), timeouts=Timeouts(idle_s=0.3)))
    assert harness.gateway is not None
    with socket.create_connection(("127.0.0.1", harness.gateway.port)) as client:
        client.send(GET)
        await until(lambda: harness.gateway is not None and harness.gateway.proxy.in_flight)
        await settled()


async def test_a_body_that_drips_is_cut_off_by_its_pace(
    harness: Harness, peers: Peers, clients: Clients, settled: Settled
) -> None:
    """Each byte is in time for the request's deadline; the pace is the listener's."""
    await harness.start(
        simple(await peers(silent), timeouts=Timeouts(request_s=60)), head_timeout_s=0.3, min_body_bytes_per_s=1000
    )
    reader, writer = await clients(b"POST /a" + HOST + b"content-length: 1000000\r\n\r\n")

    async def drip() -> None:
        while True:
            writer.write(b"x")
            await asyncio.sleep(0.02)

    dripping = asyncio.create_task(drip())
    try:
        async with asyncio.timeout(6):
            answer = await reader.readuntil(b"}")
    finally:
        dripping.cancel()
    assert answer.startswith(b"HTTP/1.1 408")
    assert b'"BodyTimeout"' in answer
    writer.transport.abort()
    await settled()


async def test_a_body_at_any_pace_is_taken_when_the_listener_says_so(
    harness: Harness, peers: Peers, clients: Clients
) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(16)
        writer.write(OK)

    await harness.start(simple(await peers(serve)), head_timeout_s=0.1, min_body_bytes_per_s=0)
    reader, writer = await clients(b"POST /a" + HOST + b"content-length: 16\r\n\r\n")
    for _ in range(16):
        writer.write(b"x")
        await asyncio.sleep(0.1)
    async with asyncio.timeout(5):
        assert (await reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200")


async def test_time_before_a_request_is_not_the_requests(harness: Harness, peers: Peers, clients: Clients) -> None:
    """A client that took its time to connect and ask is not answered sooner than its request's own deadline."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(OK)
        await reader.read(-1)

    late = Fault(delay_s=1.3, delay_ratio=1.0)
    await harness.start(
        snapshot(route(rule("shop/orders", filters=(late,))), upstream(await peers(serve))), head_timeout_s=1.0
    )
    reader, writer = await clients()
    await asyncio.sleep(0.2)
    writer.write(LAST)
    async with asyncio.timeout(5):
        assert (await reader.read()).startswith(b"HTTP/1.1 200")


# ---- whose doing it is


async def circuit(harness: Harness) -> tuple[str, int]:
    (row,) = (await harness.ask("/breakers"))["breakers"]
    return row["state"], row["failures"]


@pytest.mark.parametrize("method", [b"PUT", b"POST"])
async def test_slow_uploads_open_no_circuit_when_each_try_has_its_time(
    harness: Harness, peers: Peers, settled: Settled, method: bytes
) -> None:
    timeouts = Timeouts(request_s=5, try_s=0.2)
    await harness.start(simple(await peers(silent), timeouts=timeouts, breaker=CircuitBreaker(failures=1)))
    answer = await harness.raw(method + b" /a" + HOST + b"content-length: 1000000\r\n\r\nabc")
    assert answer.startswith(b"HTTP/1.1 408")
    assert await circuit(harness) == ("closed", 0)
    await settled()


async def test_an_endpoint_that_takes_no_body_is_to_blame_and_not_the_client(
    harness: Harness, peers: Peers, clients: Clients, settled: Settled
) -> None:
    async def deaf(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        await asyncio.sleep(10)

    timeouts = Timeouts(request_s=0.4)
    await harness.start(simple(await peers(deaf), timeouts=timeouts, breaker=CircuitBreaker(failures=1)))
    size = 20_000_000
    reader, writer = await clients(b"POST /a" + HOST + b"content-length: %d\r\n\r\n" % (2 * size) + b"x" * size)
    async with asyncio.timeout(5):
        answer = await reader.readuntil(b"\r\n\r\n")
    writer.transport.abort()
    assert answer.startswith(b"HTTP/1.1 504")
    assert (await circuit(harness))[0] == "open"
    await settled()


async def test_a_clients_deadline_holds_while_its_body_comes(
    harness: Harness, peers: Peers, clients: Clients, settled: Settled
) -> None:
    arrived = asyncio.Event()

    async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        arrived.set()
        await reader.read(-1)

    await harness.start(simple(await peers(mute), timeouts=Timeouts(request_s=20)))
    begun = monotonic()
    reader, writer = await clients(
        b"POST /a" + HOST + b"x-request-timeout: 1.5\r\ncontent-length: 200000\r\n\r\n" + b"x" * 100_000
    )
    async with asyncio.timeout(5):
        await arrived.wait()
        writer.write(b"x" * 100_000)
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 504")
    assert monotonic() - begun < 4.0
    writer.transport.abort()
    await settled()


async def test_a_client_in_a_hurry_opens_no_circuit(harness: Harness, peers: Peers) -> None:
    """Its deadline is nobody's failure; the route's own time for a try is the endpoint's, whatever the client says."""
    policies = {"retry": Retry(attempts=0), "breaker": CircuitBreaker(failures=1)}
    port = await peers(silent)
    await harness.start(simple(port, timeouts=Timeouts(request_s=20), **policies))
    hurried = GET[:-2] + b"x-request-timeout: 0.2\r\nconnection: close\r\n\r\n"
    assert (await harness.raw(hurried)).startswith(b"HTTP/1.1 504")
    assert await circuit(harness) == ("closed", 0)
    await harness.publish(simple(port, timeouts=Timeouts(request_s=20, try_s=0.2), **policies))
    patient = GET[:-2] + b"x-request-timeout: 5\r\nconnection: close\r\n\r\n"
    assert (await harness.raw(patient)).startswith(b"HTTP/1.1 504")
    assert (await circuit(harness))[0] == "open"


async def test_who_waits_for_a_connection_in_vain_blames_no_endpoint(
    harness: Harness, peers: Peers, clients: Clients
) -> None:
    """Clients that read slowly may have all that there may be."""

    async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\nx")
        await reader.read(-1)

    policies = {"concurrency": Concurrency(max_connections=1), "breaker": CircuitBreaker(failures=1)}
    await harness.start(simple(await peers(endless), timeouts=Timeouts(request_s=0.3), **policies))
    reader, _ = await clients(GET)
    async with asyncio.timeout(5):
        assert (await reader.readuntil(b"\r\n\r\nx")).startswith(b"HTTP/1.1 200")
    answer = await harness.raw(LAST)
    assert answer.startswith(b"HTTP/1.1 504")
    assert await circuit(harness) == ("closed", 0)
