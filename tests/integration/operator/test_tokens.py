"""A Consul that refuses whatever is not allowed: the policies that the documentation gives suffice, and no data plane can write the
configuration.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import NamedTuple

import aiohttp
import pytest
from aiohttp import web
from nexus_core.snapshot import Discovered, PluginReport, Snapshot, Upstream, wire
from nexus_core.snapshot.samples import samples_key, samples_prefix, wanted_key
from nexus_core.snapshot.service_reports import reports_key
from nexus_gateway.app import Gateway
from nexus_gateway.building import build_discovery, build_source
from nexus_gateway.settings import GatewaySettings
from nexus_gateway.testing import Upstreams, route, rule, snapshot, until
from nexus_operator.edge.ackwatch import AckWatch
from nexus_operator.edge.catalog import Catalog
from nexus_operator.edge.consul import ConsulApi, ConsulAway
from nexus_operator.edge.publisher import Publisher
from nexus_operator.edge.reportwatch import ReportWatch
from nexus_operator.edge.samples import SampleFeed
from nexus_operator.mirror.registrations import Registration
from nexus_sdk.consul.connection import Connection, ConsulRefused
from nexus_sdk.consul.reporting import Reporting
from nexus_sdk.discovery.consul import ConsulDiscovery

from tests.integration.operator.conftest import REPOSITORY, ConsulProcess

pytestmark = [pytest.mark.connected, pytest.mark.timeout(120)]

PREFIX, NODE = "nexus", "nexus-k8s"
PAGE = REPOSITORY / "docs" / "how-to" / "install-on-kubernetes.md"


class Policies(NamedTuple):
    """Of the operator, of data planes, and what the event hub shop/events needs for its plugins."""

    operator: str
    planes: str
    hub: str


def policies() -> Policies:
    """As the page has them."""
    operator, planes, hub = re.findall(r"```hcl\n(.*?)```", PAGE.read_text(), re.DOTALL)
    return Policies(operator, planes, hub)


class Guarded:
    """An agent with ACLs, and tokens of it."""

    def __init__(self, process: ConsulProcess) -> None:
        self.process, self.url = process, process.url

    def token(self, name: str, rules: str) -> str:
        """Return a token that has this policy alone."""
        self.process.ask("/v1/acl/policy", {"Name": name, "Rules": rules})
        return str(self.process.ask("/v1/acl/token", {"Policies": [{"Name": name}]})["SecretID"])


@pytest.fixture
def guarded(consul_program: Path, tmp_path: Path) -> Iterator[Guarded]:
    process = ConsulProcess(consul_program, tmp_path / "data", str(uuid.uuid4()))
    process.start()
    yield Guarded(process)
    process.stop()


@pytest.fixture
async def operator(guarded: Guarded) -> AsyncIterator[ConsulApi]:
    api = ConsulApi(guarded.url, guarded.token("operator", policies().operator))
    yield api
    await api.close()


@pytest.fixture
def planes(guarded: Guarded) -> str:
    return guarded.token("planes", policies().planes)


def entry(port: int) -> Registration:
    return Registration(
        id="orders.shop/a",
        service="orders.shop",
        address="127.0.0.1",
        port=port,
        passing=True,
        tags=(),
        meta=(),
        weight=1,
    )


def world(path: str) -> Snapshot:
    orders = Upstream("shop/orders", "NexusService shop/orders", Discovered("orders.shop"))
    return snapshot(route(rule("shop/orders", path=path)), orders)


@contextlib.asynccontextmanager
async def running(url: str, token: str, folder: Path) -> AsyncIterator[Gateway]:
    """A gateway as the operator starts one."""
    settings = GatewaySettings(
        listen="127.0.0.1:0", admin="127.0.0.1:0", replica="one", access_log=False, consul_url=url, consul_token=token,
        consul_prefix=PREFIX, state_dir=folder / "state", plugin_cache=folder / "plugins",
    )  # fmt: skip
    discovery = build_discovery(settings)
    gateway = Gateway(settings, build_source(settings, None), discovery)
    await gateway.start()
    try:
        yield gateway
    finally:
        await gateway.stop(0.1)
        await discovery.close()


async def test_the_documented_policies_suffice(
    guarded: Guarded, operator: ConsulApi, planes: str, tmp_path: Path
) -> None:
    """Publish, mirror, serve, acknowledge, sample, edit, withdraw: what operator and gateways do with a Consul."""
    upstreams = Upstreams()

    async def answer(_: web.Request) -> web.Response:
        return web.Response(text="here")

    port = await upstreams.start(answer)
    publisher, catalog, feed = Publisher(operator, PREFIX), Catalog(operator, NODE), SampleFeed(operator, PREFIX)
    assert await publisher.load() is None
    await publisher.publish(world("/a"))
    await catalog.sync({"orders.shop/a": entry(port)})
    acks = AckWatch(operator, PREFIX, changed=lambda: None, returned=lambda: None)
    watching = asyncio.create_task(acks.run())
    try:
        async with running(guarded.url, planes, tmp_path) as gateway, aiohttp.ClientSession() as client:

            async def serves(path: str) -> bool:
                async with client.get(f"http://127.0.0.1:{gateway.port}{path}") as response:
                    return (response.status, await response.text()) == (200, "here")

            await until(lambda: serves("/a"))
            await until(lambda: [ack.generation for ack in acks.acks] == [1])

            async def sampled() -> bool:
                return any(sample.path == "/a" for sample in await feed.read())

            await until(sampled, 40)
            await feed.stop()
            await until(lambda: _gone(operator, samples_prefix(PREFIX)))
            for number, path in enumerate(("/b", "/c", "/d", "/e", "/f", "/g", "/h"), 2):
                await publisher.publish(world(path))  # chunks of the first ones are deleted meanwhile
                await until(lambda number=number: [ack.generation for ack in acks.acks] == [number])  # type: ignore[misc]
            await until(lambda: serves("/h"))
            await catalog.sync({})
            await until(lambda: _unreachable(client, gateway))
        await until(lambda: not acks.acks)
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        await upstreams.close()
    assert not acks.fault
    assert len(await operator.keys(wire.chunk_key("", PREFIX))) < 8


async def _gone(consul: ConsulApi, prefix: str) -> bool:
    return not await consul.keys(prefix)


async def _unreachable(client: aiohttp.ClientSession, gateway: Gateway) -> bool:
    async with client.get(f"http://127.0.0.1:{gateway.port}/h") as response:
        return response.status == 503


async def test_a_data_plane_cannot_write_the_configuration(guarded: Guarded, operator: ConsulApi, planes: str) -> None:
    await Publisher(operator, PREFIX).publish(world("/a"))
    await Catalog(operator, NODE).sync({"orders.shop/a": entry(1)})
    held = await operator.get(wire.manifest_key(PREFIX))
    assert held is not None
    chunk = wire.chunk_key(wire.parse_manifest(held.value).chunks[0], PREFIX)
    stolen = ConsulApi(guarded.url, planes)
    try:
        assert await stolen.get(wire.manifest_key(PREFIX)) == held
        with pytest.raises(ConsulAway):
            await Publisher(stolen, PREFIX).publish(world("/evil"))
        for key in (
            wire.manifest_key(PREFIX),
            chunk,
            wire.chunk_key("0" * 64, PREFIX),
            wanted_key(PREFIX),
            "nexus/x",
            "x",
        ):
            with pytest.raises(ConsulAway):
                await stolen.put(key, b"evil")
            with pytest.raises(ConsulAway):
                await stolen.delete(key)
        for node in (NODE, "test", "another"):
            with pytest.raises(ConsulAway):
                await stolen.register(node, entry(2))
        with pytest.raises(ConsulAway):
            await stolen.deregister(NODE, "orders.shop/a")
        # What it may write, beside what it may not: the refusals above are no fault of the token.
        for key in (wire.ack_key("one", PREFIX), samples_key("one", PREFIX)):
            await stolen.put(key, b"mine")
    finally:
        await stolen.close()
    assert await operator.get(wire.manifest_key(PREFIX)) == held
    assert await operator.registrations(NODE) == {"orders.shop/a": entry(1)}


async def test_without_a_token_nothing_is_told(guarded: Guarded, operator: ConsulApi) -> None:
    """Otherwise the tests above would show nothing."""
    await Publisher(operator, PREFIX).publish(world("/a"))
    await Catalog(operator, NODE).sync({"orders.shop/a": entry(1)})
    nobody = ConsulApi(guarded.url)
    discovery = ConsulDiscovery(guarded.url, installation=PREFIX)
    try:
        with contextlib.suppress(ConsulAway):
            assert await nobody.get(wire.manifest_key(PREFIX)) is None
        with pytest.raises(ConsulAway):
            await nobody.put(wire.ack_key("one", PREFIX), b"x")
        assert await discovery.resolve("orders.shop") == ()
    finally:
        await nobody.close()
        await discovery.close()


async def test_a_hub_reads_its_list_and_says_what_its_plugins_do(guarded: Guarded, operator: ConsulApi) -> None:
    token = guarded.token("hub", policies().hub)
    said = {"shop/mask": PluginReport("loaded", "1.0.0")}
    heard = asyncio.Event()
    watch = ReportWatch(operator, PREFIX, changed=heard.set)
    reporting = Reporting(
        Connection(guarded.url, token), reports_key("shop/events", "e-1", PREFIX), lambda: said, asyncio.Event()
    )
    tasks = [asyncio.create_task(watch.run()), asyncio.create_task(reporting.run())]
    async with asyncio.timeout(30):
        await heard.wait()
    assert watch.current == {"shop/events": {"e-1": said}}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await reporting.close()

    key = f"{PREFIX}/services/shop/events/plugins"
    await operator.put(key, b"[]")
    connection = Connection(guarded.url, token)
    kv = connection.client.kv
    _, entry = await connection.call(kv.get(key))
    assert entry["Value"] == b"[]"
    for other in (key, reports_key("shop/other", "e-1", PREFIX)):
        with pytest.raises(ConsulRefused):
            await connection.call(kv.put(other, b"{}"))
    await connection.close()
