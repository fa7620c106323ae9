"""Which upstream connections are kept: none so long that its server may be about to close it, none of an endpoint that left."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest
from aiohttp import web
from nexus_core.discovery import Endpoint
from nexus_core.snapshot import CircuitBreaker, Discovered, Upstream, UpstreamTls
from nexus_gateway.edge.connectors import IDLE_CONNECTION_S, RETRY_OPEN, Connector
from nexus_gateway.resilience.endpoints import EndpointRegistry
from nexus_gateway.testing import Harness, route, rule, simple, snapshot, until
from nexus_sdk.discovery.memory import MemoryDiscovery
from nexus_wire.client import ClientConnection
from nexus_wire.clock import TICK_S
from nexus_wire.http1 import ResponseParser

SWEEP_TICKS = round(1.0 / TICK_S)


class Taker:
    """An attempt that takes a connection, and says which."""

    def __init__(self) -> None:
        self.taken: asyncio.Future[ClientConnection] = asyncio.get_running_loop().create_future()

    def on_connection(self, connection: ClientConnection) -> None:
        self.taken.set_result(connection)

    def on_no_connection(self, timed_out: bool, detail: str) -> None:
        self.taken.set_exception(ConnectionError(detail))


class Bed:
    """A connector on a clock that stands still, with one endpoint that says nothing."""

    def __init__(self, port: int) -> None:
        self.clock = cast("Any", SimpleNamespace(tick=1000, every_second=[]))
        registry = EndpointRegistry()
        (self.endpoint,) = registry.update("shop/orders", (Endpoint("127.0.0.1", port),), CircuitBreaker(), 0.0)
        self.connector = Connector(
            asyncio.get_running_loop(), self.clock, ResponseParser(), lambda *_: pytest.fail("no TLS here")
        )

    def ask(self, limit: int = 0) -> Taker:
        taker = Taker()
        self.connector.open(taker, self.endpoint, None, "orders", 5.0, limit)
        return taker


@pytest.fixture
async def bed(peers: Callable[..., Awaitable[int]]) -> AsyncIterator[Bed]:
    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    made = Bed(await peers(listen))
    yield made
    await made.connector.close()


@pytest.mark.parametrize("phase", range(SWEEP_TICKS))
async def test_no_connection_is_kept_longer_than_it_may_be_idle(bed: Bed, phase: int) -> None:
    """Whenever between two sweeps it became idle: servers close at 5 s, and a POST sent at that moment is lost.

    Nobody tells the connector which endpoints there are: a Snapshot may name this one no longer.
    """
    bed.clock.tick += phase
    connection = await bed.ask().taken
    bed.connector.keep(connection)
    for tick in range(1000 + SWEEP_TICKS, 2000, SWEEP_TICKS):
        bed.clock.tick = tick
        bed.connector.sweep()
        if not bed.endpoint.idle:
            break
    idle_s = (bed.clock.tick - connection.idle_since) * TICK_S
    assert IDLE_CONNECTION_S - 1.0 <= idle_s <= IDLE_CONNECTION_S + TICK_S
    await until(lambda: connection.closed)


async def test_no_connection_of_an_endpoint_that_left_is_kept(bed: Bed) -> None:
    """Idle, in use or being opened; what is opened afterwards, for a request of the former Snapshot, is like any other."""
    idle, used = await bed.ask().taken, await bed.ask().taken
    bed.connector.keep(idle)
    coming = bed.ask()
    bed.connector.retire(bed.endpoint)
    await until(lambda: idle.closed)
    assert not used.closed
    bed.connector.keep(used)
    bed.connector.keep(await coming.taken)
    assert not bed.endpoint.idle
    await until(lambda: bed.connector.open_connections == 0)
    assert bed.endpoint.connections == 0
    later = await bed.ask().taken
    bed.connector.keep(later)
    assert bed.endpoint.idle == [later]


async def test_who_waits_for_a_place_gets_a_connection_of_its_own_after_a_change(bed: Bed) -> None:
    used = await bed.ask(limit=1).taken
    waiting = bed.ask(limit=1)
    bed.connector.retire(bed.endpoint)
    bed.connector.keep(used)
    with pytest.raises(ConnectionError, match=RETRY_OPEN):
        await waiting.taken
    assert (await bed.ask(limit=1).taken) is not used


async def test_a_connection_in_use_when_its_endpoint_leaves_is_closed_after_use(harness: Harness) -> None:
    """Kept, it would be nobody's, and stale when the endpoint comes back."""
    release = asyncio.Event()

    async def held(request: web.Request) -> web.Response:
        await release.wait()
        return web.Response(text="done")

    here = Endpoint("127.0.0.1", await harness.upstreams.start(held))
    harness.discovery = discovery = MemoryDiscovery({"orders.shop": (here,)})
    orders = Upstream("shop/orders", "NexusService shop/orders", Discovered("orders.shop"))
    gateway = await harness.start(snapshot(route(rule("shop/orders")), orders))
    assert harness.client is not None
    asked = asyncio.create_task(harness.client.post(harness.url("/")).__aenter__())
    await until(lambda: gateway.proxy.connector.open_connections == 1)
    discovery.set("orders.shop", ())
    await until(lambda: not gateway.pools.all()["shop/orders"].endpoints)
    release.set()
    answer = await asked
    assert (answer.status, await answer.text()) == (200, "done")
    await until(lambda: gateway.proxy.connector.open_connections == 0)


@pytest.mark.parametrize("change", ["removed", "tls"])
async def test_a_connection_in_use_when_its_upstream_changes_is_closed_after_use(harness: Harness, change: str) -> None:
    """A Snapshot without the upstream, or with other TLS to it: at once, and not when idle connections are swept."""
    release = asyncio.Event()

    async def held(request: web.Request) -> web.Response:
        await release.wait()
        return web.Response(text="done")

    port = await harness.upstreams.start(held)
    gateway = await harness.start(simple(port))
    assert harness.client is not None
    asked = asyncio.create_task(harness.client.get(harness.url("/")).__aenter__())
    await until(lambda: gateway.proxy.connector.open_connections == 1)
    await harness.publish(snapshot() if change == "removed" else simple(port, tls=UpstreamTls(verify=False)))
    release.set()
    answer = await asked
    assert (answer.status, await answer.text()) == (200, "done")
    await until(lambda: gateway.proxy.connector.open_connections == 0, timeout_s=IDLE_CONNECTION_S / 2)
