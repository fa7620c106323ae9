"""Plugins that call NexusServices to which no route of their Gateway leads."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from nexus_core.snapshot import Permissions, UpstreamTls
from nexus_gateway.testing import route, rule, snapshot, upstream

from tests.integration.gateway.plugged import Plugged
from tests.integration.tls.conftest import Authority

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


SAYS = """
async def on_request(self, request):
    try:
        answer = await self.context.call("GET", "nexus://billing/tax/rate", headers=(("host", "tax.example:8443"),))
        said = answer.body.decode()
    except Exception as error:
        said = str(error)
    return request.with_header("x-said", said)
"""


class Secure:
    """A service that speaks TLS, with a certificate for `tax.example`."""

    def __init__(self, authority: Authority, folder: Path) -> None:
        certificate, key = authority.issue("tax.example")
        (folder / "tax.pem").write_bytes(certificate + key)
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(folder / "tax.pem")
        self.asked: list[str] = []

    async def answer(self, request: web.Request) -> web.Response:
        self.asked.append(request.host)
        return web.Response(text=f"over {request.scheme}")

    @contextlib.asynccontextmanager
    async def served(self) -> AsyncIterator[int]:
        app = web.Application()
        app.router.add_get("/rate", self.answer)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=self.context).start()
        try:
            yield runner.addresses[0][1]
        finally:
            await runner.cleanup()


async def said_by(plugged: Plugged, port: int, **fields: Any) -> str:
    """Return what a plugin heard of the service at a port, or why it did not. fields: of its upstream."""

    async def orders(request: web.Request) -> web.Response:
        return web.Response(text=request.headers["x-said"])

    harness = plugged.harness
    own = await harness.upstreams.start(orders)
    plugin = plugged.plugin(SAYS, granted=Permissions(services=("billing/tax",)))
    upstreams = [upstream(own), upstream(port, upstream_id="billing/tax", **fields)]
    world = snapshot(route(rule("shop/orders", plugins=(plugin.id,))), *upstreams, plugins=(plugin,))
    if harness.gateway is None:
        await harness.start(gateway="default/nexus")
    await harness.publish(world)
    assert harness.client is not None
    async with harness.client.get(harness.url("/")) as response:
        return await response.text()


async def test_a_service_behind_tls_is_called_with_the_trust_of_the_gateways_own_connections(
    plugged: Plugged, tmp_path: Path
) -> None:
    authority = Authority()
    service = Secure(authority, tmp_path)
    async with service.served() as port:
        trusting = UpstreamTls(ca=authority.pem, server_name="tax.example")
        assert await said_by(plugged, port, tls=trusting) == "over https"
        # Without a name of the policy it is the one that the plugin asks for.
        assert await said_by(plugged, port, tls=UpstreamTls(ca=authority.pem)) == "over https"
        names = (("dns", "tax.example"),)
        assert await said_by(plugged, port, tls=UpstreamTls(ca=authority.pem, subject_alt_names=names)) == "over https"
        assert service.asked == ["tax.example:8443"] * 3


@pytest.mark.parametrize(
    ("trust", "text"),
    [
        ({"server_name": "tax.example"}, "CERTIFICATE_VERIFY_FAILED"),
        ({"ca": "own", "server_name": "other.example"}, "Hostname mismatch"),
        ({"ca": "own", "subject_alt_names": (("dns", "other.example"),)}, "none of the names dns:other.example"),
        ({"ca": "none"}, "cannot be called over TLS: The authorities"),
    ],
)
async def test_a_service_that_does_not_prove_itself_is_not_called(
    plugged: Plugged, tmp_path: Path, trust: dict[str, Any], text: str
) -> None:
    authority = Authority()
    service = Secure(authority, tmp_path)
    if trust.get("ca") == "own":
        trust = {**trust, "ca": authority.pem}
    async with service.served() as port:
        said = await said_by(plugged, port, tls=UpstreamTls(**trust))
    assert text in said, said
    assert service.asked == []


async def test_a_service_that_speaks_http2_alone_is_refused_with_the_reason(plugged: Plugged) -> None:
    said = await said_by(plugged, 9, protocol="h2")
    assert said == "The NexusService billing/tax speaks HTTP/2 alone; plugins call services that speak HTTP/1.1."
