"""The catalog mirror and the ack watch against a real Consul, also one that is killed or loses its data."""

from __future__ import annotations

import asyncio
import json
import urllib.request
from dataclasses import replace
from typing import Any

import pytest
from nexus_core.snapshot import Ack, wire
from nexus_operator.edge.ackwatch import AckWatch
from nexus_operator.edge.catalog import Catalog
from nexus_operator.edge.consul import ConsulApi, ConsulAway
from nexus_operator.mirror.registrations import Registration
from nexus_sdk.discovery.consul import ConsulDiscovery

pytestmark = pytest.mark.connected


def entry(name: str, service: str = "orders.shop", *, passing: bool = True) -> Registration:
    return Registration(
        id=f"{service}/{name}:8000", service=service, address="10.0.0.1", port=8000, passing=passing,
        tags=("v1",), meta=(("nexus-namespace", "shop"), ("nexus-type", "http")), weight=3,
    )  # fmt: skip


def by_id(*entries: Registration) -> dict[str, Registration]:
    return {e.id: e for e in entries}


async def ask(process: Any, path: str) -> Any:
    return await asyncio.to_thread(process.ask, path)


async def test_what_is_registered_is_read_back_the_same(consul: ConsulApi) -> None:
    """Otherwise every round would write everything again."""
    wanted = by_id(entry("a"), entry("b", passing=False))
    await Catalog(consul, "node-same").sync(wanted)
    assert await consul.registrations("node-same") == wanted
    assert not await Catalog(consul, "node-same").sync(wanted), "a restarted operator finds nothing to do"


async def test_gateways_see_ready_endpoints_alone(consul: ConsulApi, shared_consul: Any) -> None:
    catalog = Catalog(consul, "node-health")
    await catalog.sync(by_id(entry("a", "health.shop"), entry("b", "health.shop", passing=False)))
    path = "/v1/health/service/health.shop?passing"
    assert [e["Service"]["ID"] for e in await ask(shared_consul, path)] == ["health.shop/a:8000"]
    [found] = await ask(shared_consul, path)
    assert found["Service"]["Address"] == "10.0.0.1"
    assert found["Service"]["Meta"]["nexus-type"] == "http"
    await catalog.sync(by_id(entry("b", "health.shop")))
    assert [e["Service"]["ID"] for e in await ask(shared_consul, path)] == ["health.shop/b:8000"]
    await catalog.sync({})
    assert await ask(shared_consul, "/v1/health/service/health.shop") == []


async def test_two_clusters_have_services_of_one_name(consul: ConsulApi, shared_consul: Any) -> None:
    for cluster in ("east", "west"):
        marked = replace(entry(cluster, "both.shop"), meta=(("nexus-installation", cluster),))
        await Catalog(consul, f"{cluster}-k8s").sync(by_id(marked))
    for cluster in ("east", "west"):
        discovery = ConsulDiscovery(shared_consul.url, installation=cluster)
        try:
            assert [each.id for each in await discovery.resolve("both.shop")] == [f"both.shop/{cluster}:8000"]
            async for found in discovery.watch("both.shop"):
                assert [each.id for each in found] == [f"both.shop/{cluster}:8000"]
                break
        finally:
            await discovery.close()


async def test_what_a_dead_operator_left_is_removed(consul: ConsulApi) -> None:
    await Catalog(consul, "node-left").sync(by_id(entry("old"), entry("kept")))
    difference = await Catalog(consul, "node-left").sync(by_id(entry("kept")))
    assert difference.deregister == (entry("old").id,)
    assert await consul.registrations("node-left") == by_id(entry("kept"))


async def test_another_node_of_the_catalog_is_left_alone(consul: ConsulApi) -> None:
    await Catalog(consul, "node-other").sync(by_id(entry("theirs")))
    await Catalog(consul, "node-mine").sync(by_id(entry("mine")))
    await Catalog(consul, "node-mine").sync({})
    assert await consul.registrations("node-other") == by_id(entry("theirs"))


async def test_many_endpoints_are_written(consul: ConsulApi) -> None:
    wanted = by_id(*(entry(f"pod-{n}") for n in range(100)))
    await Catalog(consul, "node-many").sync(wanted)
    assert await consul.registrations("node-many") == wanted


async def test_a_wiped_consul_is_filled_again(own_consul: Any, fragile_consul: ConsulApi) -> None:
    catalog = Catalog(fragile_consul, "nexus-k8s")
    wanted = by_id(entry("a"), entry("b"))
    await catalog.sync(wanted)
    own_consul.kill()
    with pytest.raises(ConsulAway):
        await catalog.sync(by_id(entry("a")))
    own_consul.wipe()
    await asyncio.to_thread(own_consul.start)
    difference = await catalog.sync(wanted)
    assert len(difference.register) == 2
    assert await fragile_consul.registrations("nexus-k8s") == wanted


class Watched:
    """An AckWatch that runs, and says when something happened."""

    def __init__(self, consul: ConsulApi, prefix: str) -> None:
        self.changed = asyncio.Event()
        self.returned = asyncio.Event()
        self.watch = AckWatch(consul, prefix, changed=self.changed.set, returned=self.returned.set)
        self.task = asyncio.create_task(self.watch.run())

    async def until(self, replicas: list[str]) -> None:
        async with asyncio.timeout(30):
            while [a.replica for a in self.watch.acks] != replicas or self.watch.fault:
                self.changed.clear()
                await self.changed.wait()

    async def stop(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


def put(process: Any, path: str, body: bytes) -> Any:
    request = urllib.request.Request(f"{process.url}{path}", data=body, method="PUT")
    with urllib.request.urlopen(request, timeout=5) as reply:
        return json.load(reply)


async def acknowledge(process: Any, prefix: str, replica: str) -> str:
    """Write an ack under a session's lock, as a gateway does; return the session."""
    settings = json.dumps({"TTL": "10s", "Behavior": "delete", "LockDelay": "0s"}).encode()
    session = (await asyncio.to_thread(put, process, "/v1/session/create", settings))["ID"]
    path = f"/v1/kv/{wire.ack_key(replica, prefix)}?acquire={session}"
    assert await asyncio.to_thread(put, process, path, wire.encode_ack(Ack(replica, 1, "d")))
    return str(session)


async def test_acks_come_and_go_with_their_replicas(consul: ConsulApi, shared_consul: Any) -> None:
    watched = Watched(consul, "w-acks")
    await watched.until([])
    session = await acknowledge(shared_consul, "w-acks", "gw-2")
    await watched.until(["gw-2"])
    await acknowledge(shared_consul, "w-acks", "gw-1")
    await watched.until(["gw-1", "gw-2"])
    await asyncio.to_thread(put, shared_consul, f"/v1/session/destroy/{session}", b"")
    await watched.until(["gw-1"])
    await watched.stop()


async def test_acks_stay_known_while_consul_is_away_and_are_read_again(
    own_consul: Any, fragile_consul: ConsulApi
) -> None:
    watched = Watched(fragile_consul, "nexus")
    await acknowledge(own_consul, "nexus", "gw-1")
    await watched.until(["gw-1"])
    watched.changed.clear()
    own_consul.kill()
    await asyncio.wait_for(watched.changed.wait(), 10)
    assert "did not watch nexus/acks/" in watched.watch.fault
    assert [a.replica for a in watched.watch.acks] == ["gw-1"], "what was live is not taken for dead"
    own_consul.wipe()
    await asyncio.to_thread(own_consul.start)
    await asyncio.wait_for(watched.returned.wait(), 20)
    await watched.until([])
    await acknowledge(own_consul, "nexus", "gw-1")
    await watched.until(["gw-1"])
    await watched.stop()
