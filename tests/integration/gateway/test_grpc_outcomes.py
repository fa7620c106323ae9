"""What a gRPC status does to circuits, outlier detection and bulkheads, in the head and in trailers."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import grpc.aio
import pytest
from nexus_core.snapshot import Balancing, CircuitBreaker, Concurrency, Outlier, Retry, Timeouts
from nexus_gateway.testing import Harness, simple, until

from tests.integration.gateway.grpc_peers import Client, Echo, Service

Start = Callable[..., Awaitable[Client]]
LONG = CircuitBreaker(failures=3, reset_s=60.0)


@pytest.fixture
async def echo() -> Echo:
    return Echo()


@pytest.fixture
async def start(harness: Harness, echo: Echo) -> AsyncIterator[Start]:
    """Starts the service, and the gateway before it; returns a client of the gateway. policies: of the upstream."""
    service = Service(echo)
    await service.start()
    clients: list[Client] = []

    async def begin(**policies: Any) -> Client:
        gateway = await harness.start(simple(service.port, protocol="h2", **policies))
        clients.append(Client(gateway.port))
        return clients[0]

    yield begin
    for client in clients:
        await client.close()
    await service.stop()


async def fails(calling: Any) -> str:
    """Return the status that a call fails with, and what is said of it."""
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await calling
    return f"{raised.value.code().name}: {raised.value.details()}"


async def streams(calling: Any) -> tuple[int, str]:
    """Return how many messages came, and the status in the end."""
    count = 0
    with contextlib.suppress(grpc.aio.AioRpcError):
        while await calling.read() is not grpc.aio.EOF:
            count += 1
    return count, (await calling.code()).name


async def circuit(harness: Harness) -> str:
    (row,) = (await harness.ask("/breakers"))["breakers"]
    return str(row["state"])


def failing(status: str, *more: str) -> tuple[tuple[str, str], ...]:
    return (("x-fail", status), *((name, value) for name, _, value in (each.partition("=") for each in more)))


IN_TRAILERS = ("x-head=1", "x-sleep=0.02", "x-count=1")
"""Head, a message and trailers come one by one."""


# ---- circuits


@pytest.mark.parametrize("status", ["UNAVAILABLE", "DEADLINE_EXCEEDED"])
async def test_a_service_that_fails_calls_opens_its_circuit(
    start: Start, harness: Harness, echo: Echo, status: str
) -> None:
    client = await start(breaker=LONG)
    for _ in range(3):
        assert await fails(client.unary(b"", metadata=failing(status))) == f"{status}: as asked for: 100 % ü"
    assert await circuit(harness) == "open"
    assert await fails(client.unary(b"")) == "UNAVAILABLE: The upstream is failing and is not called for a moment"
    assert len(echo.seen) == 3


@pytest.mark.parametrize(
    "status",
    ["NOT_FOUND", "RESOURCE_EXHAUSTED", "INTERNAL", "UNIMPLEMENTED", "CANCELLED", "INVALID_ARGUMENT"],
)
async def test_statuses_that_open_no_circuit_of_http_open_none_of_grpc(
    start: Start, harness: Harness, echo: Echo, status: str
) -> None:
    client = await start(breaker=LONG)
    for _ in range(2):
        await fails(client.unary(b"", metadata=failing("UNAVAILABLE")))
    await fails(client.unary(b"", metadata=failing(status)))
    for _ in range(2):
        await fails(client.unary(b"", metadata=failing("UNAVAILABLE")))
    assert await streams(client.spread(b"", metadata=failing(status, *IN_TRAILERS))) == (1, status)
    for _ in range(2):
        await fails(client.unary(b"", metadata=failing("UNAVAILABLE")))
    assert await circuit(harness) == "closed", "the others were answers, and failures count in a row"
    assert len(echo.seen) == 8


async def test_streams_that_fail_in_their_trailers_open_the_circuit(start: Start, harness: Harness, echo: Echo) -> None:
    client = await start(breaker=LONG)
    for _ in range(3):
        assert await streams(client.spread(b"", metadata=failing("UNAVAILABLE", *IN_TRAILERS))) == (1, "UNAVAILABLE")
    assert await circuit(harness) == "open"
    assert await streams(client.spread(b"")) == (0, "UNAVAILABLE")
    assert len(echo.seen) == 3


@pytest.mark.parametrize("good", [(), IN_TRAILERS], ids=["at once", "as a stream"])
async def test_a_call_that_ends_well_sets_the_count_back(start: Start, harness: Harness, good: tuple[str, ...]) -> None:
    client = await start(breaker=LONG)
    for _ in range(3):
        for _ in range(2):
            await streams(client.spread(b"", metadata=failing("UNAVAILABLE", *IN_TRAILERS)))
        calling = client.spread(b"", metadata=failing("OK", *good)[1:])
        assert await streams(calling) == (1 if good else 3, "OK")
    assert await circuit(harness) == "closed"


async def test_calls_that_begin_while_all_is_well_and_end_later_set_the_count_back(
    start: Start, harness: Harness
) -> None:
    client = await start(breaker=LONG)
    slow = client.spread(b"", metadata=(("x-head", "1"), ("x-sleep", "0.3"), ("x-count", "2")))
    assert await slow.read() == b"\0"
    for _ in range(2):
        await fails(client.unary(b"", metadata=failing("UNAVAILABLE")))
    assert await streams(slow) == (1, "OK")
    await fails(client.unary(b"", metadata=failing("UNAVAILABLE")))
    assert await circuit(harness) == "closed"


async def test_the_error_ratio_counts_calls_by_their_status(start: Start, harness: Harness) -> None:
    client = await start(breaker=CircuitBreaker(failures=0, error_ratio=0.5, min_requests=6, reset_s=60.0))
    for number in range(6):
        assert await circuit(harness) == "closed"
        metadata = failing("UNAVAILABLE", *IN_TRAILERS) if number % 2 else ()
        await streams(client.spread(b"", metadata=metadata))
    assert await circuit(harness) == "open"


async def test_the_services_circuit_opens_and_closes_by_calls(start: Start, harness: Harness, echo: Echo) -> None:
    client = await start(
        breaker=CircuitBreaker(failures=0),
        service_breaker=CircuitBreaker(failures=2, reset_s=1.0),
        retry=Retry(attempts=0),
    )
    await fails(client.unary(b"", metadata=failing("UNAVAILABLE")))
    await streams(client.spread(b"", metadata=failing("UNAVAILABLE", *IN_TRAILERS)))
    assert await streams(client.spread(b"")) == (0, "UNAVAILABLE")
    assert len(echo.seen) == 2
    await asyncio.sleep(1.05)  # the breaker's own open time, on its own clock
    assert await streams(client.spread(b"", metadata=failing("UNAVAILABLE", *IN_TRAILERS))) == (1, "UNAVAILABLE")
    assert await streams(client.spread(b"")) == (0, "UNAVAILABLE"), "the probe failed in the end"
    await asyncio.sleep(1.05)
    assert await streams(client.spread(b"", metadata=(("x-head", "1"), ("x-sleep", "0.02")))) == (3, "OK")
    assert await client.unary(b"ab") == b"ba"


# ---- probes


@pytest.mark.parametrize("metadata", [failing("UNAVAILABLE", "x-count=0"), failing("UNAVAILABLE", *IN_TRAILERS)])
async def test_a_probe_that_fails_opens_the_circuit_again(
    start: Start, harness: Harness, echo: Echo, metadata: tuple[tuple[str, str], ...]
) -> None:
    client = await start(breaker=CircuitBreaker(failures=3, reset_s=1.0))
    for _ in range(3):
        await fails(client.unary(b"", metadata=failing("UNAVAILABLE")))
    await asyncio.sleep(1.05)
    assert (await streams(client.spread(b"", metadata=metadata)))[1] == "UNAVAILABLE"
    assert await circuit(harness) == "open", "one failure is enough"
    await asyncio.sleep(1.05)
    assert await client.unary(b"ab") == b"ba"
    assert await circuit(harness) == "closed"


async def test_a_stream_that_goes_on_as_a_probe_holds_nobody_up(start: Start, harness: Harness, echo: Echo) -> None:
    client = await start(breaker=CircuitBreaker(failures=1, reset_s=0.4))
    await fails(client.unary(b"", metadata=failing("UNAVAILABLE")))
    await asyncio.sleep(0.45)
    probe = client.spread(b"", metadata=failing("UNAVAILABLE", "x-head=1", "x-sleep=0.6", "x-count=1"))
    assert await probe.read() == b"\0"
    assert [await client.unary(b"ab") for _ in range(5)] == [b"ba"] * 5
    assert await circuit(harness) == "closed"
    assert await streams(probe) == (0, "UNAVAILABLE")
    assert await circuit(harness) == "open", "a failure like any other, of which one is enough here"


# ---- whose doing it is


@pytest.mark.parametrize("more", [(), IN_TRAILERS], ids=["at once", "in trailers"])
async def test_a_client_in_a_hurry_opens_no_circuit(
    start: Start, harness: Harness, more: tuple[str, ...], echo: Echo
) -> None:
    client = await start(breaker=LONG, timeouts=Timeouts(request_s=15.0))
    for _ in range(4):
        calling = client.spread(b"", timeout=5.0, metadata=failing("DEADLINE_EXCEEDED", *(more or ("x-count=0",))))
        assert (await streams(calling))[1] == "DEADLINE_EXCEEDED"
    assert (await circuit(harness), len(echo.seen)) == ("closed", 4)
    for _ in range(3):  # more time than the route gives is no hurry
        calling = client.spread(b"", timeout=50.0, metadata=failing("DEADLINE_EXCEEDED", *(more or ("x-count=0",))))
        await streams(calling)
    assert await circuit(harness) == "open"


async def test_a_client_that_leaves_a_stream_is_no_failure_of_it(start: Start, harness: Harness, echo: Echo) -> None:
    client = await start(breaker=CircuitBreaker(failures=2, reset_s=60.0))
    await fails(client.unary(b"", metadata=failing("UNAVAILABLE")))
    watching = client.spread(b"", metadata=(("x-head", "1"), ("x-sleep", "0.01"), ("x-count", "1000")))
    await watching.read()
    watching.cancel()
    await until(lambda: echo.cancelled == 1)
    await fails(client.unary(b"", metadata=failing("UNAVAILABLE")))
    assert await circuit(harness) == "closed", "it was answered well as far as anybody knows"


# ---- outliers and bulkheads


@pytest.mark.parametrize("more", [("x-count=0",), IN_TRAILERS], ids=["at once", "in trailers"])
async def test_an_endpoint_that_fails_calls_is_ejected(harness: Harness, more: tuple[str, ...]) -> None:
    """INTERNAL is what a plain 500 is: no matter of the circuit, but of the outlier detection."""
    echoes = [Echo(), Echo()]
    services = [Service(echo) for echo in echoes]
    ports = [await service.start() for service in services]
    gateway = await harness.start(
        simple(
            *ports,
            protocol="h2",
            outlier=Outlier(failures=3, eject_s=60.0),
            balancing=Balancing(algorithm="round-robin"),
        )
    )
    client = Client(gateway.port)
    for _ in range(5):
        assert (await streams(client.spread(b"", metadata=failing("INTERNAL", *more))))[1] == "INTERNAL"
    before = [len(echo.seen) for echo in echoes]
    assert sorted(before) == [2, 3]
    for _ in range(6):
        assert await client.unary(b"ab") == b"ba"
    assert sorted(len(echo.seen) - was for echo, was in zip(echoes, before, strict=True)) == [0, 6]
    await client.close()
    for service in services:
        await service.stop()


@pytest.mark.parametrize("more", [("x-count=0",), IN_TRAILERS], ids=["at once", "in trailers"])
async def test_a_place_in_a_bulkhead_is_given_back_by_a_failed_call(
    start: Start, settled: Callable[..., Awaitable[None]], more: tuple[str, ...]
) -> None:
    client = await start(concurrency=Concurrency(max_requests=1, max_pending=0), breaker=CircuitBreaker(failures=0))
    for _ in range(3):
        assert (await streams(client.spread(b"", metadata=failing("UNAVAILABLE", *more))))[1] == "UNAVAILABLE"
    assert await client.unary(b"ab") == b"ba"
    await settled(clients=False)


@pytest.mark.parametrize("more", [("x-count=0",), IN_TRAILERS], ids=["at once", "in trailers"])
async def test_the_adaptive_limit_learns_nothing_from_calls_that_fail_fast(
    start: Start, harness: Harness, more: tuple[str, ...]
) -> None:
    client = await start(concurrency=Concurrency(adaptive=True), breaker=CircuitBreaker(failures=0))
    (pool,) = harness.gateway.pools.all().values()  # type: ignore[union-attr]
    gradient = pool.limiter._gradient  # type: ignore[union-attr]
    assert gradient is not None
    for _ in range(4):
        assert (await streams(client.spread(b"", metadata=failing("UNAVAILABLE", *more))))[1] == "UNAVAILABLE"
    assert not gradient._samples
    for _ in range(2):
        assert (await streams(client.spread(b"", metadata=failing("NOT_FOUND", *more))))[1] == "NOT_FOUND"
    assert len(gradient._samples) == 2
