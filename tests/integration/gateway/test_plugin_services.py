"""Plugins that call NexusServices to which no route of their Gateway leads."""

from __future__ import annotations

from typing import Any

from aiohttp import web
from nexus_core.snapshot import Permissions
from nexus_gateway.testing import route, rule, snapshot, upstream

from tests.integration.gateway.plugged import Plugged

ASKS = """
async def on_request(self, request):
    answer = await self.context.call("GET", "nexus://billing/tax/rate?of=1")
    return request.with_header("x-rate", answer.body.decode())
"""


async def test_a_service_without_a_route_is_called_by_its_name(plugged: Plugged) -> None:
    async def orders(request: web.Request) -> web.Response:
        return web.Response(text=request.headers["x-rate"])

    async def tax(request: web.Request) -> web.Response:
        return web.Response(text=f"19 for {request.path_qs}")

    harness = plugged.harness
    ports = [await harness.upstreams.start(each) for each in (orders, tax)]
    await harness.start(gateway="default/nexus")
    plugin = plugged.plugin(ASKS, granted=Permissions(services=("billing/tax",)))
    idle = plugged.plugin("def on_request(self, request):\n    return request", "idle",
                          granted=Permissions(services=("billing/ledger",)))  # fmt: skip
    upstreams: list[Any] = [
        upstream(ports[0]),
        upstream(ports[1], upstream_id="billing/tax"),
        upstream(ports[1], upstream_id="billing/ledger"),
    ]
    await harness.publish(
        snapshot(route(rule("shop/orders", plugins=(plugin.id,))), *upstreams, plugins=(plugin, idle))
    )
    assert harness.client is not None
    async with harness.client.get(harness.url("/")) as response:
        assert (response.status, await response.text()) == (200, "19 for /rate?of=1")
    assert harness.gateway is not None
    pools = harness.gateway.runtime.pools
    assert "billing/ledger" not in pools, "the plugin that may call it is on no route of this Gateway"
