"""What full lists learn of a cluster besides its objects: which fields its definitions of the Gateway API have."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web
from nexus_operator.edge.kube import KubeApi
from nexus_operator.edge.lister import Lister
from nexus_operator.world.inventory import Inventory
from nexus_operator.world.kinds import WATCHED

RETRIES = {"HTTPRouteRetry", "HTTPRouteRetryBackendTimeout", "HTTPRouteRetryConnectionError"}


class Cluster:
    """An API server with every kind but those that are missing, and no objects. fields: of a rule of HTTPRoutes. status: of answers
    about definitions.
    """

    def __init__(self) -> None:
        self.fields = ["name", "retry"]
        self.status = 200
        self.asked: list[str] = []
        self.missing: set[str] = set()

    async def get(self, request: web.Request) -> web.Response:
        plural = request.path.rpartition("/")[2]
        if plural in self.missing:
            return web.json_response({"message": "not found"}, status=404)
        if plural.startswith("v1"):
            group = request.path.split("/")[2]
            there = [{"name": k.plural} for k in WATCHED if (k.group, k.version) == (group, plural)]
            return web.json_response({"resources": [each for each in there if each["name"] not in self.missing]})
        if not request.path.endswith("/customresourcedefinitions"):
            return web.json_response({"metadata": {"resourceVersion": "7"}, "items": []})
        self.asked.append(request.query["fieldSelector"])
        if self.status != 200:
            return web.json_response({"message": "no leave"}, status=self.status)
        rule = {"items": {"properties": {field: {} for field in self.fields}}}
        schema: dict[str, Any] = {"properties": {"spec": {"properties": {"rules": rule}}}}
        versions = [{"name": "v1beta1", "schema": {}}, {"name": "v1", "schema": {"openAPIV3Schema": schema}}]
        name = {"metadata": {"name": "httproutes.gateway.networking.k8s.io"}}
        return web.json_response({"metadata": {}, "items": [{**name, "spec": {"versions": versions}}]})


@pytest.fixture
async def cluster() -> AsyncIterator[tuple[Cluster, KubeApi]]:
    found = Cluster()
    app = web.Application()
    app.router.add_get("/{path:.*}", found.get)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    kube = KubeApi.to(f"http://127.0.0.1:{runner.addresses[0][1]}")
    yield found, kube
    await kube.close()
    await runner.cleanup()


async def listed(kube: KubeApi, inventory: Inventory) -> list[str]:
    """Make one full list; return the kinds that it told something new of."""
    changed: list[str] = []
    lister = Lister(kube, inventory, every_s=3600, changed=changed.append)
    task = asyncio.create_task(lister.run())
    await asyncio.wait_for(lister.complete.wait(), 20)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    return changed


async def test_a_field_that_comes_and_goes_with_a_release_changes_what_is_claimed(
    cluster: tuple[Cluster, KubeApi],
) -> None:
    api, kube = cluster
    inventory = Inventory(kind.kind for kind in WATCHED)
    await listed(kube, inventory)
    assert inventory.lacking == frozenset()
    assert api.asked == ["metadata.name=httproutes.gateway.networking.k8s.io"]
    assert await listed(kube, inventory) == [], "nothing new"
    api.fields = ["name"]
    assert await listed(kube, inventory) == ["GatewayClass"]
    assert inventory.lacking == RETRIES


@pytest.mark.parametrize("status", [403, 404])
async def test_without_leave_to_look_nothing_is_claimed_and_all_else_works(
    cluster: tuple[Cluster, KubeApi], status: int
) -> None:
    api, kube = cluster
    api.status = status
    inventory = Inventory(kind.kind for kind in WATCHED)
    await listed(kube, inventory)
    assert inventory.lacking == RETRIES
    assert inventory.unlisted == ()


async def test_a_kind_that_goes_or_comes_is_noticed_between_lists(cluster: tuple[Cluster, KubeApi]) -> None:
    """Nothing tells of a kind that is gone: its watch ends, and that is all."""
    api, kube = cluster
    inventory = Inventory(kind.kind for kind in WATCHED)
    told = asyncio.Event()
    lister = Lister(kube, inventory, every_s=3600, changed=lambda _: told.set(), look_s=0.01)
    task = asyncio.create_task(lister.run())
    try:
        await asyncio.wait_for(lister.complete.wait(), 20)
        for missing in ({"udproutes"}, set()):
            api.missing = missing
            while ("UDPRoute" in inventory.lacking) != bool(missing):
                told.clear()
                await asyncio.wait_for(told.wait(), 20)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
