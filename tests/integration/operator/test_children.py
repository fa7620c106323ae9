"""What the operator does when the API server refuses one child: the others are written all the same."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web
from nexus_core.model.load import parse
from nexus_operator.children.render import Surroundings, render
from nexus_operator.edge.childwriter import ChildWriter, Kept
from nexus_operator.edge.kube import KubeApi, KubeAway
from nexus_operator.metrics import Metrics
from nexus_operator.world.inventory import Inventory, Object
from nexus_operator.world.kinds import WATCHED


class ApiServer:
    """Answers as an API server. objects: those it has, by name alone. answers: HTTP status of an apply by object name; 200 for others.

    applied: names in the order of the applies. bodies: the last one of each name. conflicts: so many applies of a name are told
    first that somebody was faster.
    """

    def __init__(self) -> None:
        self.answers: dict[str, int] = {}
        self.applied: list[str] = []
        self.bodies: dict[str, dict[str, Any]] = {}
        self.conflicts: dict[str, int] = {}
        self.objects: dict[str, dict[str, Any]] = {}

    async def get(self, request: web.Request) -> web.Response:
        held = self.objects.get(request.match_info["name"])
        if held is not None:
            return web.json_response(held)
        return web.json_response({"kind": "Status", "message": "not found"}, status=404)

    async def apply(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        status = self.answers.get(name, 200)
        if self.conflicts.get(name):
            self.conflicts[name] -= 1
            status = 409
        if status != 200:
            return web.json_response({"kind": "Status", "message": "duplicate entries for key"}, status=status)
        self.applied.append(name)
        body: dict[str, Any] = json.loads(await request.read())
        self.bodies[name] = json.loads(json.dumps(body))
        body["metadata"] |= {"uid": f"uid-{name}", "generation": 1, "resourceVersion": str(len(self.applied))}
        return web.json_response(body)


@pytest.fixture
async def server() -> AsyncIterator[tuple[ApiServer, KubeApi]]:
    found = ApiServer()
    app = web.Application()
    for plural in (
        "apis/apps/v1/namespaces/{namespace}/deployments",
        "api/v1/namespaces/{namespace}/services",
        "apis/autoscaling/v2/namespaces/{namespace}/horizontalpodautoscalers",
    ):
        app.router.add_get(f"/{plural}/{{name}}", found.get)
        app.router.add_patch(f"/{plural}/{{name}}", found.apply)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    kube = KubeApi.to(f"http://127.0.0.1:{runner.addresses[0][1]}")
    yield found, kube
    await kube.close()
    await runner.cleanup()


def children(*names: str) -> list[Object]:
    services = [
        parse(
            {
                "apiVersion": "nexus.dev/v1alpha1",
                "kind": "NexusService",
                "metadata": {"name": name, "namespace": "shop", "uid": f"owner-{name}"},
                "spec": {"workload": {"image": "x"}},
            }
        )
        for name in names
    ]
    return [child for service in services for child in render(service, Surroundings())]


def writer(kube: KubeApi) -> ChildWriter:
    return ChildWriter(kube, Inventory(kind.kind for kind in WATCHED), Metrics())


async def test_a_child_that_the_api_server_chokes_on_is_told_and_holds_up_no_other(
    server: tuple[ApiServer, KubeApi],
) -> None:
    api, kube = server
    api.answers["bad"] = 500
    problems = await writer(kube).sync(children("bad", "good"), Kept())
    assert api.applied == ["good", "good"]
    assert {(str(p.where), p.reason) for p in problems} == {("NexusService shop/bad", "ChildRefused")}
    assert "duplicate entries" in problems[0].what


@pytest.mark.parametrize("status", [409, 429, 503])
async def test_a_child_that_has_to_wait_holds_up_no_other(server: tuple[ApiServer, KubeApi], status: int) -> None:
    api, kube = server
    api.answers["late"] = status
    writing = writer(kube)
    with pytest.raises(KubeAway, match="2 children are written later"):
        await writing.sync(children("late", "good"), Kept())
    assert api.applied == ["good", "good"]
    api.answers.clear()
    assert await writing.sync(children("late"), Kept()) == ()
    assert api.applied[-2:] == ["late", "late"]


STAND_IN: dict[str, Any] = {
    "kind": "Service",
    "apiVersion": "v1",
    "metadata": {"name": "web-nexus", "namespace": "shop", "uid": "s1"},
}
REFERENCE = {"apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway", "name": "web", "controller": True}


@pytest.mark.parametrize("owned", [True, False])
@pytest.mark.parametrize(
    ("held", "is_ours"),
    [
        ({}, False),
        ({"labels": {"app.kubernetes.io/managed-by": "nexus"}}, False),
        ({"ownerReferences": [{**REFERENCE, "kind": "Deployment", "apiVersion": "apps/v1", "uid": "d"}]}, False),
        ({"annotations": {"nexus.dev/rendered": "1"}}, True),
    ],
)
async def test_what_somebody_else_made_is_never_taken_over(
    server: tuple[ApiServer, KubeApi], owned: bool, held: dict[str, Any], is_ours: bool
) -> None:
    """owned: by a Gateway; the data plane that stands in while there is none may have no owner."""
    api, kube = server
    api.objects["web-nexus"] = {**STAND_IN, "metadata": {**STAND_IN["metadata"], **held}}
    references = {"ownerReferences": [{**REFERENCE, "uid": "u1"}]} if owned else {}
    wanted = {
        **STAND_IN,
        "metadata": {
            "name": "web-nexus",
            "namespace": "shop",
            "annotations": {"nexus.dev/rendered": "2"},
            **references,
        },
    }
    problems = await writer(kube).sync([wanted], Kept())
    assert [p.reason for p in problems] == ([] if is_ours else ["ChildConflict"])
    assert api.applied == (["web-nexus"] if is_ours else [])


def scaled_deployment(replicas: int = 2, *, ready_s: int = 0) -> list[Object]:
    """A data plane's Deployment that has an autoscaler."""
    spec = {"replicas": replicas, "minReadySeconds": ready_s}
    meta = {"namespace": "shop", "name": "web-nexus", "ownerReferences": [{**REFERENCE, "uid": "u1"}]}
    labels = {"gateway.networking.k8s.io/gateway-name": "web", "app.kubernetes.io/managed-by": "nexus"}
    ref = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web-nexus"}
    return [
        {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {**meta, "labels": labels}, "spec": spec},
        {"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {**meta, "name": "scales", "labels": labels},
         "spec": {"scaleTargetRef": ref, "minReplicas": 2, "maxReplicas": 6}},
    ]  # fmt: skip


async def test_an_apply_carries_the_replicas_that_an_autoscaler_gave_and_fails_if_it_gives_others_meanwhile(
    server: tuple[ApiServer, KubeApi],
) -> None:
    """A field that its only owner applies no more is reset, and a number that was read a moment ago may be old."""
    api, kube = server
    inventory = Inventory(kind.kind for kind in WATCHED)
    inventory.observe("Gateway", {"metadata": {"name": "web", "namespace": "shop", "uid": "u1"}})
    writing = ChildWriter(kube, inventory, Metrics())
    await writing.sync(scaled_deployment(), Kept())
    assert api.bodies["web-nexus"]["spec"]["replicas"] == 2
    assert "resourceVersion" not in api.bodies["web-nexus"]["metadata"]
    held = {**api.bodies["web-nexus"], "spec": {"replicas": 5, "minReadySeconds": 0}}
    held["metadata"] |= {"uid": "uid-web-nexus", "resourceVersion": "41"}
    api.objects["web-nexus"] = held
    await writing.sync(scaled_deployment(ready_s=1), Kept())
    assert api.bodies["web-nexus"]["spec"] == {"replicas": 5, "minReadySeconds": 1}
    assert api.bodies["web-nexus"]["metadata"]["resourceVersion"] == "41"
    deployment, _ = scaled_deployment(3, ready_s=1)
    await writing.sync([deployment], Kept())
    assert api.bodies["web-nexus"]["spec"]["replicas"] == 3
    assert "resourceVersion" not in api.bodies["web-nexus"]["metadata"]


@pytest.mark.parametrize(("conflicts", "applied"), [(1, True), (5, True), (6, False)])
async def test_a_deployment_that_is_scaled_at_this_moment_is_looked_at_again(
    server: tuple[ApiServer, KubeApi], conflicts: int, applied: bool
) -> None:
    api, kube = server
    api.conflicts["web-nexus"] = conflicts
    writing = writer(kube)
    if applied:
        await writing.sync(scaled_deployment(), Kept())
    else:
        with pytest.raises(KubeAway, match="1 children are written later"):
            await writing.sync(scaled_deployment(), Kept())
    assert ("web-nexus" in api.applied) is applied


async def test_a_scaled_deployment_is_no_reason_to_apply_anything(server: tuple[ApiServer, KubeApi]) -> None:
    api, kube = server
    inventory = Inventory(kind.kind for kind in WATCHED)
    writing = ChildWriter(kube, inventory, Metrics())
    await writing.sync(scaled_deployment(), Kept())
    applied = len(api.applied)
    live = inventory.get("Deployment", "shop", "web-nexus")
    assert live is not None
    for number in (6, 2, 9):
        meta = {**live["metadata"], "generation": number, "resourceVersion": str(100 + number)}
        inventory.observe("Deployment", {**live, "metadata": meta, "spec": {**live["spec"], "replicas": number}})
        await writing.sync(scaled_deployment(), Kept())
    assert len(api.applied) == applied
