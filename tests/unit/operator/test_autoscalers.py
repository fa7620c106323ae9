"""HorizontalPodAutoscalers: what they say, and whose the replicas of a Deployment are."""

from __future__ import annotations

from typing import Any

import pytest
from nexus_core.model.autoscaling import Autoscaling
from nexus_operator.children.autoscalers import Scaling, bounds_of, left_open, scalings, spec_of
from nexus_operator.world.kinds import RENDERED

KEY = ("Deployment", "shop", "web-nexus")
OWNER = {
    "apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway", "name": "web", "uid": "u1", "controller": True,
}  # fmt: skip
LABELS = {"gateway.networking.k8s.io/gateway-name": "web"}
CPU = {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}}}


def asked(**fields: Any) -> Autoscaling:
    return Autoscaling.model_validate({"maxReplicas": 10, **fields})


def deployment(replicas: int = 2, labels: dict[str, str] = LABELS) -> dict[str, Any]:
    meta = {"name": "web-nexus", "namespace": "shop", "labels": labels, "ownerReferences": [OWNER]}
    return {"kind": "Deployment", "metadata": meta, "spec": {"replicas": replicas, "paused": False}}


def autoscaler(target: str = "web-nexus", *, ours: bool = False, api: str = "apps/v1", **meta: Any) -> dict[str, Any]:
    ref = {"apiVersion": api, "kind": "Deployment", "name": target}
    owned = {"ownerReferences": [OWNER], "annotations": {RENDERED: "1"}} if ours else {}
    return {
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "web-nexus", "namespace": "shop", **owned, **meta},
        "spec": {"scaleTargetRef": ref, "minReplicas": 2, "maxReplicas": 6},
    }


def scaled_to(count: int, *managers: str) -> dict[str, Any]:
    """A live Deployment whose replicas these managers have set."""
    fields = [{"manager": name, "fieldsV1": {"f:spec": {"f:replicas": {}}}} for name in managers]
    others = [{"manager": "kubelet", "fieldsV1": {"f:status": {}}}, {"manager": "odd"}]
    return {"metadata": {"managedFields": [*others, *fields]}, "spec": {"replicas": count}}


@pytest.mark.parametrize(
    ("fields", "bounds"),
    [
        ({}, (2, 10)),
        ({"maxReplicas": 1}, (1, 1)),
        ({"minReplicas": 1}, (1, 10)),
        ({"minReplicas": 5, "maxReplicas": 5}, (5, 5)),
    ],
)
def test_bounds_that_are_not_said_are_the_usual_ones(fields: dict[str, int], bounds: tuple[int, int]) -> None:
    assert bounds_of(asked(**fields), 2) == bounds


def test_cpu_counts_where_nothing_else_is_said_to() -> None:
    pods = {"type": "Pods", "pods": {"metric": {"name": "x"}, "target": {"type": "AverageValue", "averageValue": "5"}}}
    half = {**CPU, "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}}
    assert spec_of(asked(), "w", 2)["metrics"] == [CPU]
    assert spec_of(asked(metrics=()), "w", 2)["metrics"] == [CPU]
    assert spec_of(asked(metrics=(pods,)), "w", 2)["metrics"] == [pods]
    assert spec_of(asked(metrics=(pods,), targetCPUUtilizationPercentage=50), "w", 2)["metrics"] == [half, pods]


def test_the_replicas_of_a_deployment_with_an_autoscaler_are_not_ours() -> None:
    wanted = [deployment(), autoscaler(ours=True)]
    found = scalings(wanted, [])
    assert found == {KEY: Scaling(2, 2, 6)}
    assert left_open(wanted[0], found)["spec"] == {"paused": False}
    assert left_open(wanted[1], found) is wanted[1]
    assert "replicas" in wanted[0]["spec"], "what was rendered stays as it is"


@pytest.mark.parametrize(
    ("autoscalers", "respected"),
    [
        ([], False),
        ([autoscaler(name="by-hand")], True),
        ([autoscaler(labels={"app.kubernetes.io/managed-by": "nexus"})], True),
        ([autoscaler(ours=True)], False),
        ([autoscaler("another")], False),
        ([autoscaler(namespace="elsewhere")], False),
        ([autoscaler(api="example.com/v1")], False),
        ([{"kind": "HorizontalPodAutoscaler", "metadata": {"name": "odd", "namespace": "shop"}, "spec": {}}], False),
    ],
)
def test_an_autoscaler_of_somebody_else_is_respected_and_one_of_ours_only_while_it_is_wanted(
    autoscalers: list[dict[str, Any]], respected: bool
) -> None:
    assert scalings([deployment(3)], autoscalers) == ({KEY: Scaling(3)} if respected else {})


def test_other_deployments_have_the_replicas_that_they_say() -> None:
    """The conditions of a NexusService count the replicas that it asks for."""
    assert scalings([deployment(labels={})], [autoscaler()]) == {}


@pytest.mark.parametrize(
    ("scaling", "live", "applied"),
    [
        (Scaling(3, 2, 6), None, 3),
        (Scaling(3, 2, 6), scaled_to(5, "kube-controller-manager"), 5),
        (Scaling(3, 2, 6), scaled_to(1, "nexus-operator"), 2),
        (Scaling(3, 2, 6), scaled_to(9, "nexus-operator"), 6),
        (Scaling(3), scaled_to(9, "nexus-operator"), 9),
        (Scaling(3, 2, 6), scaled_to(0, "nexus-operator"), 3),
        (Scaling(3), scaled_to(0, "nexus-operator"), 3),
        (Scaling(3), scaled_to(0, "nexus-operator", "kubectl"), 0),
        (Scaling(3, 2, 6), scaled_to(0, "nexus-operator", "kubectl"), 0),
        (Scaling(3, 2, 6), {"metadata": {}, "spec": {}}, 2),
    ],
)
def test_what_is_applied_is_what_there_is(scaling: Scaling, live: dict[str, Any] | None, applied: int) -> None:
    assert scaling.replicas_for(live, "nexus-operator") == applied
