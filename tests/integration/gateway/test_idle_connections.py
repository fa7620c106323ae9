"""Which upstream connections are kept: none so long that its server may be about to close it, none of an endpoint that left."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import web
from nexus_core.discovery import Endpoint
from nexus_core.snapshot import CircuitBreaker, Discovered, Upstream
from nexus_gateway.edge.connectors import IDLE_CONNECTION_S, Connector
from nexus_gateway.resilience.endpoints import EndpointRegistry
from nexus_gateway.testing import Harness, route, rule, snapshot, until
from nexus_sdk.discovery.memory import MemoryDiscovery
from nexus_wire.client import ClientConnection
from nexus_wire.clock import TICK_S
from nexus_wire.http1 import ResponseParser

SWEEP_TICKS = round(1.0 / TICK_S)


class Transport:
    """Takes note of its end."""

    closed = False

    def close(self) -> None:
        self.closed = True

    def get_write_buffer_size(self) -> int:
        return 0


@pytest.mark.parametrize("phase", range(SWEEP_TICKS))
async def test_no_connection_is_kept_longer_than_it_may_be_idle(phase: int) -> None:
    """Whenever between two sweeps it became idle: servers close at 5 s, and a POST sent at that moment is lost."""
    clock: Any = SimpleNamespace(tick=1000 + phase)
    (endpoint,) = EndpointRegistry().update("shop/orders", (Endpoint("127.0.0.1", 1),), CircuitBreaker(), 0.0)
    connector = Connector(
        asyncio.get_running_loop(), clock, ResponseParser(), lambda policy: pytest.fail("no TLS here")
    )
    connection = ClientConnection(ResponseParser(), lambda lost: None, endpoint)
    transport = connection.transport = Transport()
    connector.keep(connection)
    for tick in range(1000 + SWEEP_TICKS, 2000, SWEEP_TICKS):
        clock.tick = tick
        connector.sweep((endpoint,))
        if transport.closed:
            break
    idle_s = (clock.tick - connection.idle_since) * TICK_S
    assert IDLE_CONNECTION_S - 1.0 <= idle_s <= IDLE_CONNECTION_S + TICK_S


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
