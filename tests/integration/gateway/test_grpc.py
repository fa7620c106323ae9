"""gRPC through the gateway, with grpcio's client and server: all four kinds of calls, metadata, deadlines, cancellation, errors."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import grpc.aio
import pytest
from nexus_core.snapshot import Fault, Mirror, Timeouts
from nexus_gateway.testing import Harness, route, rule, simple, snapshot, until, upstream

from tests.integration.gateway.grpc_peers import Client, Echo, Service

Start = Callable[..., Awaitable[Client]]


@pytest.fixture
async def echo() -> Echo:
    return Echo()


@pytest.fixture
async def service(echo: Echo) -> AsyncIterator[Service]:
    made = Service(echo)
    await made.start()
    yield made
    await made.stop()


@pytest.fixture
async def call(harness: Harness, service: Service) -> AsyncIterator[Client]:
    """A client of the gateway, which passes everything on to the service."""
    gateway = await harness.start(simple(service.port, protocol="h2"))
    client = Client(gateway.port)
    yield client
    await client.close()


async def failure(calling: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await calling
    return raised.value


async def test_a_unary_call_brings_message_and_metadata_both_ways(call: Client, echo: Echo) -> None:
    calling = call.unary(b"hello", metadata=(("x-say", "a b"), ("x-bin-bin", b"\x00\xff\x10")))
    assert await calling == b"olleh"
    first, last = await calling.initial_metadata(), await calling.trailing_metadata()
    assert (first["x-first"], first["x-first-bin"]) == ("1", b"\x01\x02")
    assert (last["x-last"], last["x-last-bin"]) == ("2", b"\xfe\x00")
    assert await calling.code() is grpc.StatusCode.OK
    (seen,) = echo.seen
    assert (seen["x-say"], seen["x-bin-bin"]) == ("a b", b"\x00\xff\x10")
    assert len(seen["x-request-id"]) == 32
    assert seen["x-forwarded-for"] == "127.0.0.1"


async def test_all_kinds_of_streams(call: Client) -> None:
    async def messages() -> AsyncIterator[bytes]:
        for number in range(5):
            yield b"%d" % number
            await asyncio.sleep(0)

    assert await call.collect(messages()) == b"0,1,2,3,4"
    assert [message async for message in call.spread(b"m", metadata=(("x-count", "4"),))] == [
        b"m\0", b"m\1", b"m\2", b"m\3",
    ]  # fmt: skip
    talking = call.talk()
    for number in range(5):
        await talking.write(b"turn %d" % number)
        assert await talking.read() == b"TURN %d" % number, "an answer waits for no further message"
    await talking.done_writing()
    assert await talking.read() is grpc.aio.EOF
    assert await talking.code() is grpc.StatusCode.OK


async def test_large_messages_pass_both_ways(call: Client) -> None:
    message = os.urandom(5_000_000)
    assert await call.unary(message) == message[::-1]
    got = [each async for each in call.spread(b"", metadata=(("x-count", "20"), ("x-size", "300000")))]
    assert [len(each) for each in got] == [300_000] * 20


async def test_many_calls_share_few_connections(call: Client, harness: Harness) -> None:
    answers = await asyncio.gather(*(call.unary(b"%d" % number) for number in range(300)))
    assert answers == [(b"%d" % number)[::-1] for number in range(300)]
    assert harness.gateway is not None
    assert harness.gateway.proxy.connector.open_connections <= 3
    assert harness.gateway.proxy.connector.opened <= 4


async def test_a_slow_reader_holds_up_the_stream_and_nobody_else(call: Client, echo: Echo, harness: Harness) -> None:
    """20 MB are on their way to somebody who reads nothing: the service is stopped long before they are all sent."""
    slow = call.spread(b"", metadata=(("x-count", "400"), ("x-size", "50000")))
    first = await slow.read()
    assert len(first) == 50_000
    other = Client(harness.gateway.port)  # type: ignore[union-attr]
    for _ in range(20):
        assert await other.unary(b"ab") == b"ba"
    assert echo.running == 1
    count = 1
    while (message := await slow.read()) is not grpc.aio.EOF:
        count += len(message) == 50_000
    assert count == 400
    await other.close()


# ---- errors


async def test_the_services_errors_arrive_as_they_are(call: Client) -> None:
    error = await failure(call.unary(b"", metadata=(("x-fail", "NOT_FOUND"),)))
    assert (error.code(), error.details()) == (grpc.StatusCode.NOT_FOUND, "as asked for: 100 % ü")
    assert error.trailing_metadata()["x-why-bin"] == b"\x00\xff"
    assert (await failure(call.nothing(b""))).code() is grpc.StatusCode.UNIMPLEMENTED


async def test_the_gateways_own_errors_are_grpc_statuses(harness: Harness, unused_tcp_port: int) -> None:
    gateway = await harness.start(
        snapshot(
            route(rule("shop/orders", path="/shop.Echo"), hostnames=("x",)), upstream(unused_tcp_port, protocol="h2")
        )
    )
    client = Client(gateway.port)
    error = await failure(client.unary(b""))
    assert (error.code(), error.details()) == (grpc.StatusCode.UNAVAILABLE, "The upstream could not be reached")
    stranger = Client(gateway.port, authority="elsewhere")
    error = await failure(stranger.unary(b""))
    assert (error.code(), error.details()) == (grpc.StatusCode.UNIMPLEMENTED, "No route matches the request")
    await client.close()
    await stranger.close()


async def test_a_rule_without_a_backend_makes_a_call_unavailable(harness: Harness) -> None:
    gateway = await harness.start(snapshot(route(rule())))
    client = Client(gateway.port)
    assert (await failure(client.unary(b""))).code() is grpc.StatusCode.UNAVAILABLE
    await client.close()


async def test_an_upstream_of_http_1_is_no_grpc_service(harness: Harness) -> None:
    """It closes the connection, or answers in another protocol: known before the call is sent, and told as what it is."""
    from aiohttp import web

    async def page(request: web.Request) -> web.Response:
        return web.Response(text="a page")

    gateway = await harness.start(simple(await harness.upstreams.start(page), protocol="h2"))
    client = Client(gateway.port)
    assert (await failure(client.unary(b""))).code() is grpc.StatusCode.UNAVAILABLE
    await client.close()


# ---- time, and ends


async def test_the_clients_deadline_is_passed_on_with_what_is_left_of_it(
    harness: Harness, service: Service, echo: Echo
) -> None:
    late = rule("shop/orders", filters=(Fault(delay_s=2.0, delay_ratio=1.0),))
    gateway = await harness.start(snapshot(route(late), upstream(service.port, protocol="h2")))
    client = Client(gateway.port)
    assert await client.unary(b"", timeout=60.0) == b""
    (remaining_s,) = echo.remaining_s
    assert remaining_s is not None
    # gRPC's own clients say up to 1 % more than they mean: they round to three digits.
    assert 0.0 < remaining_s < 60.6 - 2.0
    assert await client.unary(b"") == b""
    assert echo.remaining_s[1] is None
    await client.close()


async def test_a_deadline_ends_the_call_on_both_sides(call: Client, echo: Echo) -> None:
    error = await failure(call.unary(b"", timeout=0.3, metadata=(("x-sleep", "20"),)))
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await until(lambda: not echo.running)


async def test_the_routes_time_is_a_deadline_too(harness: Harness, service: Service, echo: Echo) -> None:
    gateway = await harness.start(simple(service.port, protocol="h2", timeouts=Timeouts(request_s=0.3)))
    client = Client(gateway.port)
    error = await failure(client.unary(b"", metadata=(("x-sleep", "20"),)))
    assert (error.code(), error.details()) == (
        grpc.StatusCode.DEADLINE_EXCEEDED, "The upstream did not answer in time",
    )  # fmt: skip
    await until(lambda: echo.cancelled == 1)
    await client.close()


async def test_a_stream_is_idle_only_when_both_sides_are_silent(harness: Harness, service: Service) -> None:
    gateway = await harness.start(simple(service.port, protocol="h2", timeouts=Timeouts(idle_s=0.8)))
    client = Client(gateway.port)
    talking = client.talk(metadata=(("x-quiet", "1"),))
    await talking.write(b"0")
    await talking.initial_metadata()
    for number in range(1, 9):
        await asyncio.sleep(0.25)
        await talking.write(b"%d" % number)
    await talking.done_writing()
    assert await talking.read() == b"0,1,2,3,4,5,6,7,8"
    silent = client.talk(metadata=(("x-quiet", "1"),))
    await silent.write(b"0")
    assert (await failure(silent.read())).code() is not grpc.StatusCode.OK
    await client.close()


async def test_a_client_that_cancels_cancels_the_service(call: Client, echo: Echo, harness: Harness) -> None:
    unary = call.unary(b"", metadata=(("x-sleep", "20"),))
    spread = call.spread(b"", metadata=(("x-count", "1000"), ("x-sleep", "0.01")))
    await spread.read()
    await until(lambda: echo.running == 2)
    unary.cancel()
    spread.cancel()
    await until(lambda: echo.cancelled == 2)
    assert await call.unary(b"ab") == b"ba"
    assert harness.gateway is not None
    await until(lambda: harness.gateway.proxy.in_flight == 0)  # type: ignore[union-attr]
    assert harness.gateway.proxy.connector.open_connections == 1, "only the streams were reset"


async def test_a_client_that_vanishes_cancels_its_calls(call: Client, echo: Echo) -> None:
    calling = asyncio.ensure_future(call.unary(b"", metadata=(("x-sleep", "20"),)))
    await until(lambda: echo.running == 1)
    await call.close()
    await asyncio.gather(calling, return_exceptions=True)
    await until(lambda: echo.cancelled == 1)


async def test_a_service_that_stops_ends_its_calls_and_is_sent_no_more(harness: Harness, echo: Echo) -> None:
    services = [Service(echo) for _ in range(2)]
    ports = [await service.start() for service in services]
    gateway = await harness.start(simple(*ports, protocol="h2"))
    client = Client(gateway.port)
    running = asyncio.gather(*(client.unary(b"ab", metadata=(("x-sleep", "0.3"),)) for _ in range(20)))
    await until(lambda: echo.running == 20)
    await services[0].server.stop(5)
    assert await running == [b"ba"] * 20
    assert [await client.unary(b"ab") for _ in range(10)] == [b"ba"] * 10
    await services[1].stop()
    await client.close()


# ---- copies


async def test_calls_are_mirrored_when_they_are_over_and_not_held_up(
    harness: Harness, service: Service, echo: Echo
) -> None:
    shadow = Echo()
    other = Service(shadow)
    world = snapshot(
        route(rule("shop/orders", filters=(Mirror("shop/copies"),))),
        upstream(service.port, protocol="h2"),
        upstream(await other.start(), upstream_id="shop/copies", protocol="h2"),
    )
    gateway = await harness.start(world)
    client = Client(gateway.port)
    collecting = client.collect(metadata=(("x-join", "-"),))
    for each in (b"a", b"b", b"c"):
        await collecting.write(each)
        await asyncio.sleep(0.05)
    assert not shadow.seen
    await collecting.done_writing()
    assert await collecting == b"a-b-c"
    await until(lambda: shadow.collected == [b"a-b-c"])
    talking = client.talk()
    for number in range(3):
        await talking.write(b"turn %d" % number)
        assert await talking.read() == b"TURN %d" % number, "no copy keeps a conversation waiting"
    assert len(shadow.seen) == 1
    await talking.done_writing()
    assert await talking.read() is grpc.aio.EOF
    await until(lambda: len(shadow.seen) == 2)
    await client.close()
    await other.stop()


# ---- what is told of it


async def test_traces_show_the_status(call: Client, harness: Harness) -> None:
    await call.unary(b"")
    await failure(call.unary(b"", metadata=(("x-fail", "NOT_FOUND"),)))
    await failure(call.nothing(b""))
    found = []
    for trace in (await harness.ask("/traces"))["traces"]:
        (root,) = [
            span for span in (await harness.ask(f"/traces/{trace['trace_id']}"))["spans"] if span["kind"] == "server"
        ]
        found.append((root["attributes"]["rpc.grpc.status_code"], root["status"]))
    assert sorted(found) == [(0, ""), (5, ""), (12, "error")]
