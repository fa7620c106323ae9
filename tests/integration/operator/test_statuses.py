"""Statuses written to API servers that do not keep all of it, or that have moved on."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web
from nexus_operator.edge.kube import KubeApi, KubeAway
from nexus_operator.edge.statuswriter import StatusWriter
from nexus_operator.metrics import Metrics
from nexus_operator.status.writes import StatusWrite
from nexus_operator.world.inventory import Inventory
from nexus_operator.world.kinds import WATCHED


class Gateways:
    """One Gateway. known: fields of a status that its CRD has; the others are dropped, as pruning does. refuses: with 422."""

    def __init__(self) -> None:
        self.known = {"conditions", "attachedListenerSets"}
        self.refuses = False
        self.writes = 0
        self.object: dict[str, Any] = {
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway",
            "metadata": {"name": "web", "namespace": "shop", "uid": "u", "resourceVersion": "5", "generation": 1}, "spec": {},
        }  # fmt: skip

    async def patch(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.writes += 1
        if self.refuses:
            return web.json_response({"message": "status.conditions: Too many"}, status=422)
        if body["metadata"]["resourceVersion"] != self.object["metadata"]["resourceVersion"]:
            return web.json_response({"message": "the object has been modified"}, status=409)
        version = str(int(self.object["metadata"]["resourceVersion"]) + 1)
        kept = {key: value for key, value in body["status"].items() if key in self.known}
        meta = {**self.object["metadata"], "resourceVersion": version}
        self.object = {**self.object, "metadata": meta, "status": kept}
        return web.json_response(self.object)


@pytest.fixture
async def server() -> AsyncIterator[tuple[Gateways, Inventory, StatusWriter]]:
    found = Gateways()
    app = web.Application()
    app.router.add_patch("/apis/gateway.networking.k8s.io/v1/namespaces/shop/gateways/web/status", found.patch)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    kube = KubeApi.to(f"http://127.0.0.1:{runner.addresses[0][1]}")
    inventory = Inventory(kind.kind for kind in WATCHED)
    inventory.observe("Gateway", found.object)
    yield found, inventory, StatusWriter(kube, inventory, Metrics())
    await kube.close()
    await runner.cleanup()


def write(inventory: Inventory, **status: Any) -> StatusWrite:
    obj = inventory.get("Gateway", "shop", "web")
    assert obj is not None
    return StatusWrite("Gateway", obj, status)


async def test_a_field_that_an_older_crd_drops_is_not_written_for_ever(
    server: tuple[Gateways, Inventory, StatusWriter],
) -> None:
    gateways, inventory, writer = server
    gateways.known = {"conditions"}
    for _ in range(3):
        await writer.write([write(inventory, conditions=[], attachedListenerSets=0)])
    assert gateways.writes == 1
    await writer.write([write(inventory, conditions=[], attachedListenerSets=1)])
    assert gateways.writes == 2, "another status is another matter"


async def test_a_status_that_is_refused_is_not_tried_again_until_something_changes(
    server: tuple[Gateways, Inventory, StatusWriter],
) -> None:
    gateways, inventory, writer = server
    gateways.refuses = True
    for _ in range(3):
        await writer.write([write(inventory, conditions=[])])
    assert gateways.writes == 1
    changed = {**gateways.object, "metadata": {**gateways.object["metadata"], "resourceVersion": "6", "generation": 2}}
    gateways.refuses, gateways.object = False, changed
    inventory.observe("Gateway", changed)
    await writer.write([write(inventory, conditions=[])])
    assert gateways.object["status"] == {"conditions": []}


def conditions(at: str, status: str = "True") -> list[dict[str, str]]:
    return [{"type": "Accepted", "status": status, "reason": "x", "lastTransitionTime": at}]


@pytest.mark.parametrize("refuses", [True, False], ids=["refused", "pruned"])
async def test_that_time_has_passed_is_no_reason_to_write_again(
    server: tuple[Gateways, Inventory, StatusWriter], refuses: bool
) -> None:
    """What did not get into the object cannot lend its time to what is built next."""
    gateways, inventory, writer = server
    gateways.known, gateways.refuses = set(), refuses
    for second in range(3):
        listeners = [{"name": "a", "conditions": conditions(f"2026-01-01T00:00:1{second}Z")}]
        now = conditions(f"2026-01-01T00:00:0{second}Z")
        await writer.write([write(inventory, conditions=now, listeners=listeners)])
    assert gateways.writes == 1
    await writer.write([write(inventory, conditions=conditions("2026-01-01T00:00:09Z", "False"))])
    assert gateways.writes == 2


async def test_what_somebody_else_has_changed_meanwhile_is_written_to_what_it_is_now(
    server: tuple[Gateways, Inventory, StatusWriter],
) -> None:
    gateways, inventory, writer = server
    late = write(inventory, conditions=[])
    newer = {**gateways.object, "metadata": {**gateways.object["metadata"], "resourceVersion": "9"}}
    gateways.object = newer
    with pytest.raises(KubeAway, match="written later"):
        await writer.write([late])
    inventory.observe("Gateway", newer)
    await writer.write([write(inventory, conditions=[])])
    assert gateways.object["status"] == {"conditions": []}
    assert gateways.object["metadata"]["resourceVersion"] == "10"
