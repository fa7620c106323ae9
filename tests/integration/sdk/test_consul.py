"""A ServiceApp, its client and a real Consul that is killed, loses its data and comes back."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from nexus_core.discovery import Endpoint
from nexus_sdk import ServiceApp
from nexus_sdk.discovery.consul import ConsulDiscovery
from nexus_sdk.testing.consul import LocalConsul
from nexus_testbed import components

pytestmark = [pytest.mark.connected, pytest.mark.timeout(120)]
WITHIN_S = 20.0
TTL_S = 3.0
"""A beat is a third of it: a stall of the machine that is shorter than the other two makes no check critical."""


@pytest.fixture
def stopped_consul(tmp_path: Path) -> LocalConsul:
    return LocalConsul(components.ensure(["consul"])["consul"], tmp_path)


@pytest.fixture
async def consul(stopped_consul: LocalConsul) -> AsyncIterator[LocalConsul]:
    async with stopped_consul:
        yield stopped_consul


def build(consul: LocalConsul, name: str = "orders", **environ: str) -> ServiceApp:
    app = ServiceApp(
        name, version="1.2.3", openapi={"openapi": "3.1.0"}, tags=["v1"],
        environ={"NEXUS_CONSUL_URL": consul.url, "NEXUS_NAMESPACE": "shop", "NEXUS_CONSUL_TTL_SECONDS": str(TTL_S), **environ},
    )  # fmt: skip

    @app.get("/hello")
    async def hello(request: web.Request) -> web.Response:
        return web.Response(text="hello")

    return app


async def see(consul: LocalConsul, service: str, wanted: Callable[[Any], bool], *, passing: bool = True) -> Any:
    """Wait until the catalog's entry of `service` is as wanted."""
    seen: Any = None
    async with asyncio.timeout(WITHIN_S):
        while True:
            seen = await consul.request("GET", f"/v1/health/service/{service}{'?passing=1' if passing else ''}")
            if wanted(seen):
                return seen
            await asyncio.sleep(0.05)


async def test_a_service_registers_itself_and_leaves_on_stop(consul: LocalConsul) -> None:
    async with build(consul).test_server() as server:
        [instance] = await see(consul, "orders.shop", lambda seen: len(seen) == 1)
        service = instance["Service"]
        assert (service["Address"], service["Port"], service["Tags"]) == ("127.0.0.1", server.port, ["v1"])
        assert service["Meta"] == {
            "nexus-type": "http", "nexus-version": "1.2.3", "nexus-openapi": "/openapi.json", "nexus-namespace": "shop",
        }  # fmt: skip
    assert await consul.request("GET", "/v1/health/service/orders.shop") == []


async def test_the_check_stays_passing_beyond_its_ttl_and_follows_readiness(consul: LocalConsul) -> None:
    app = build(consul)
    broken = False

    async def check() -> None:
        if broken:
            raise OSError("disk full")

    app.readiness("store", check)
    async with app.test_server():
        await see(consul, "orders.shop", lambda seen: len(seen) == 1)
        loop = asyncio.get_running_loop()
        until = loop.time() + 1.5 * TTL_S  # the polls below are the assertion
        while loop.time() < until:
            assert len(await consul.request("GET", "/v1/health/service/orders.shop?passing=1")) == 1
            await asyncio.sleep(0.1)
        broken = True
        await see(consul, "orders.shop", lambda seen: seen == [])
        [instance] = await consul.request("GET", "/v1/health/service/orders.shop")
        assert "store: disk full" in {check["Output"] for check in instance["Checks"]}
        broken = False
        await see(consul, "orders.shop", lambda seen: len(seen) == 1)


async def test_a_forgotten_instance_registers_again(consul: LocalConsul) -> None:
    async with build(consul).test_server():
        [instance] = await see(consul, "orders.shop", lambda seen: len(seen) == 1)
        await consul.deregister(instance["Service"]["ID"])
        await see(consul, "orders.shop", lambda seen: len(seen) == 1)


async def test_the_operator_may_keep_a_service_from_registering_itself(consul: LocalConsul) -> None:
    async with build(consul, NEXUS_CONSUL_REGISTER="false").test_server(), build(consul, "catalog").test_server():
        await see(consul, "catalog.shop", lambda seen: len(seen) == 1)
        assert await consul.request("GET", "/v1/health/service/orders.shop") == []


async def test_a_service_starts_serves_and_stops_without_consul_and_registers_when_it_comes(
    stopped_consul: LocalConsul,
) -> None:
    app = build(stopped_consul)
    async with app.test_server() as server:
        async with aiohttp.ClientSession() as http, http.get(server.url + "/hello") as answer:
            assert answer.status == 200
        async with stopped_consul:
            await see(stopped_consul, "orders.shop", lambda seen: len(seen) == 1)
        # The end of this block stops the app while Consul is dead.


async def test_calls_go_on_while_consul_is_dead_and_after_it_came_back_without_its_data(consul: LocalConsul) -> None:
    caller = build(consul, "caller")
    async with build(consul).test_server(), caller.test_server():
        await see(consul, "orders.shop", lambda seen: len(seen) == 1)
        statuses, stop = [], asyncio.Event()

        async def call() -> None:
            while not stop.is_set():
                statuses.append((await caller.client.get("orders", "/hello")).status)
                await asyncio.sleep(0.01)

        statuses.append((await caller.client.get("orders", "/hello")).status)
        calls = asyncio.create_task(call())
        await consul.kill()
        dead = len(statuses)
        await asyncio.sleep(1.0)  # a fault that lasts: the time is what is tested
        assert len(statuses) > dead
        await consul.start()
        await see(consul, "orders.shop", lambda seen: len(seen) == 1)
        stop.set()
        await calls
    assert set(statuses) == {200}


@contextlib.asynccontextmanager
async def _closing(discovery: ConsulDiscovery) -> AsyncIterator[None]:
    try:
        yield
    finally:
        await discovery.close()


async def _next(changes: AsyncIterator[Any]) -> Any:
    async with asyncio.timeout(WITHIN_S):
        return await anext(changes)


async def test_nobody_is_believed_only_after_the_hold(consul: LocalConsul, caplog: pytest.LogCaptureFixture) -> None:
    """A Consul that lost its data says that nobody is there; the last endpoints hold for `hold_s`.

    A restart that falls between two queries is seen when the next one has waited in full (30 s), by its index.
    """
    loop = asyncio.get_running_loop()
    await consul.register("orders.shop", "a", 7001)
    discovery = ConsulDiscovery(consul.url, hold_s=3.0, rng=random.Random(1))
    async with _closing(discovery), contextlib.aclosing(discovery.watch("orders.shop")) as changes:
        assert await _next(changes) == (Endpoint("127.0.0.1", 7001, "a"),)
        await consul.kill()
        async with asyncio.timeout(WITHIN_S):
            while "discovery waits for Consul" not in caplog.text:  # noqa: ASYNC110 -- a log line sets no event
                await asyncio.sleep(0.01)
        await consul.start()
        back = loop.time()
        assert await _next(changes) == ()
        assert 1.0 < loop.time() - back < 12  # the hold begins with the first answer, which may precede `start`'s end


async def test_draining_and_maintenance_instances_are_there_as_draining(consul: LocalConsul) -> None:
    await consul.register("orders.shop", "a", 7001)
    await consul.register("orders.shop", "b", 7002, Meta={"nexus-draining": "true"})
    await consul.register("orders.shop", "c", 7003)
    await consul.request("PUT", "/v1/agent/service/maintenance/c?enable=true&reason=test")
    discovery = ConsulDiscovery(consul.url)
    async with _closing(discovery):
        assert await discovery.resolve("orders.shop") == (
            Endpoint("127.0.0.1", 7001, "a"),
            Endpoint("127.0.0.1", 7002, "b", draining=True),
            Endpoint("127.0.0.1", 7003, "c", draining=True),
        )
        await consul.request("PUT", "/v1/agent/maintenance?enable=true&reason=test")
        assert all(endpoint.draining for endpoint in await discovery.resolve("orders.shop"))


async def test_a_service_says_its_zone_and_what_tells_it_from_others(consul: LocalConsul) -> None:
    discovery = ConsulDiscovery(consul.url)
    async with _closing(discovery), build(consul, NEXUS_ZONE="eu-1", NEXUS_META="version=v2").test_server():
        await see(consul, "orders.shop", lambda seen: len(seen) == 1)
        [endpoint] = await discovery.resolve("orders.shop")
        assert (endpoint.zone, endpoint.meta) == ("eu-1", (("nexus-version", "1.2.3"), ("version", "v2")))


async def test_all_watchers_of_a_service_share_one_query(consul: LocalConsul) -> None:
    discovery = ConsulDiscovery(consul.url)
    async with _closing(discovery):
        watches = [discovery.watch("orders.shop") for _ in range(20)]
        assert [await _next(w) for w in watches] == [()] * 20
        tasks = [t for t in asyncio.all_tasks() if t.get_name().startswith("nexus-consul-watch")]
        assert len(tasks) == 1
        for watch in watches:
            await watch.aclose()
        await asyncio.wait(tasks, timeout=5)
        assert tasks[0].done()
