"""What is kept of objects that hold more than the operator needs: of Secrets above all."""

from __future__ import annotations

from typing import Any

import pytest
from nexus_operator.world.inventory import Inventory
from nexus_operator.world.trims import LAST_APPLIED, trim

API = "gateway.networking.k8s.io/v1"
OURS = {"app.kubernetes.io/managed-by": "nexus"}


def secret(data: dict[str, str], labels: dict[str, str] | None = None, **more: Any) -> dict[str, Any]:
    return {
        "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls", "data": data,
        "metadata": {"name": "web", "namespace": "shop", "uid": "u", "resourceVersion": "7", "labels": labels or {},
                     "annotations": {LAST_APPLIED: "{...}", "note": "x"}, "managedFields": [{}], **more},
    }  # fmt: skip


def test_of_a_secret_its_certificate_stays_and_nothing_else() -> None:
    kept = trim("Secret", secret({"tls.crt": "Yw==", "tls.key": "aw==", "password": "cA=="}))
    assert kept == {
        "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls", "data": {"tls.crt": "Yw==", "tls.key": "aw=="},
        "metadata": {"name": "web", "namespace": "shop", "uid": "u", "resourceVersion": "7"},
    }  # fmt: skip


def test_of_a_secret_without_a_certificate_stays_that_it_is_there() -> None:
    kept = trim("Secret", secret({"password": "cA=="}))
    assert kept is not None
    assert "data" not in kept
    assert "cA==" not in repr(kept)


OWNED = [{"apiVersion": API, "kind": "Gateway", "name": "web", "uid": "g", "controller": True}]


@pytest.mark.parametrize(
    ("mark", "expected"),
    [
        (
            {"annotations": {LAST_APPLIED: "{...}", "nexus.dev/rendered": "d1"}},
            {"annotations": {"nexus.dev/rendered": "d1"}, "ownerReferences": None},
        ),
        ({"ownerReferences": OWNED}, {"annotations": {"note": "x"}, "ownerReferences": OWNED}),
    ],
)
def test_of_our_own_secrets_no_value_stays_and_all_that_tells_whose_they_are(
    mark: dict[str, Any], expected: dict[str, Any]
) -> None:
    kept = trim("Secret", secret({"seal-key": "aw==", "tls.key": "aw=="}, OURS, **mark))
    assert kept is not None
    assert "data" not in kept
    assert kept["metadata"]["labels"] == OURS
    shown = {key: kept["metadata"].get(key) for key in ("annotations", "ownerReferences")}
    assert shown == expected


@pytest.mark.parametrize(
    "mark",
    [
        {},
        {
            "ownerReferences": [
                {"apiVersion": "cert-manager.io/v1", "kind": "Certificate", "name": "web", "controller": True}
            ]
        },
        {"ownerReferences": [{"apiVersion": API, "kind": "Gateway", "name": "web", "uid": "g"}]},
    ],
)
def test_a_secret_with_our_label_that_we_did_not_make_keeps_its_certificate(mark: dict[str, Any]) -> None:
    """Nothing else of it is kept, so that nobody takes it for a child of ours."""
    kept = trim("Secret", secret({"tls.crt": "Yw==", "tls.key": "aw=="}, OURS, **mark))
    assert kept is not None
    assert kept["data"] == {"tls.crt": "Yw==", "tls.key": "aw=="}
    assert set(kept["metadata"]) == {"name", "namespace", "uid", "resourceVersion"}


def test_a_config_map_without_an_authority_is_dropped_also_when_it_had_one() -> None:
    inventory = Inventory(["ConfigMap"])
    meta = {"name": "ca", "namespace": "shop", "resourceVersion": "1"}
    assert inventory.observe("ConfigMap", {"metadata": meta, "data": {"ca.crt": "pem", "other": "x"}})
    assert inventory.get("ConfigMap", "shop", "ca") == {"metadata": meta, "data": {"ca.crt": "pem"}}
    assert inventory.observe("ConfigMap", {"metadata": {**meta, "resourceVersion": "2"}, "data": {"other": "x"}})
    assert inventory.count("ConfigMap") == 0
    assert not inventory.observe("ConfigMap", {"metadata": {**meta, "resourceVersion": "3"}, "data": {"other": "y"}})
    inventory.replace("ConfigMap", [{"metadata": meta, "data": {"other": "z"}}], 9)
    assert inventory.count("ConfigMap") == 0


def test_of_an_autoscaler_its_state_is_dropped_and_of_a_strangers_all_but_what_it_scales() -> None:
    ref = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web-nexus"}
    meta = {"name": "web", "namespace": "shop", "resourceVersion": "1", "annotations": {"note": "x"}}
    obj = {"metadata": meta, "spec": {"scaleTargetRef": ref, "maxReplicas": 3}, "status": {"currentReplicas": 2}}
    assert trim("HorizontalPodAutoscaler", obj) == {
        "metadata": {"name": "web", "namespace": "shop", "resourceVersion": "1"}, "spec": {"scaleTargetRef": ref},
    }  # fmt: skip
    ours = {**obj, "metadata": {**meta, "labels": OURS}}
    assert trim("HorizontalPodAutoscaler", ours) == {"metadata": ours["metadata"], "spec": obj["spec"]}


def test_of_a_pod_its_readiness_matters_and_little_else() -> None:
    inventory = Inventory(["Pod"])

    def pod(version: int, ready: str, **status: Any) -> dict[str, Any]:
        conditions = [{"type": "Ready", "status": ready}, {"type": "Initialized", "status": "True"}]
        return {
            "metadata": {"name": "a", "namespace": "shop", "resourceVersion": str(version), "labels": {"x": "y"}},
            "spec": {"containers": [{"name": "gateway", "image": "x"}]},
            "status": {"phase": "Running", "conditions": conditions, **status},
        }

    assert inventory.observe("Pod", pod(1, "False"))
    assert not inventory.observe("Pod", pod(2, "False", podIP="10.0.0.1"))
    assert inventory.observe("Pod", pod(3, "True", podIP="10.0.0.1"))
    kept = inventory.get("Pod", "shop", "a")
    assert kept is not None
    assert "spec" not in kept
    assert kept["status"] == {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}


def test_the_copy_that_kubectl_keeps_is_dropped_of_every_kind() -> None:
    inventory = Inventory(["HTTPRoute"])
    meta = {"name": "r", "namespace": "shop", "annotations": {LAST_APPLIED: "x" * 1000, "nexus.dev/preview": "true"}}
    inventory.observe("HTTPRoute", {"metadata": meta, "spec": {}})
    kept = inventory.get("HTTPRoute", "shop", "r")
    assert kept is not None
    assert kept["metadata"]["annotations"] == {"nexus.dev/preview": "true"}


def test_a_list_leaves_what_is_as_it_was_the_very_same() -> None:
    """Later steps know by identity what has not changed."""
    inventory = Inventory(["HTTPRoute"])
    route = {"metadata": {"name": "r", "namespace": "shop", "resourceVersion": "5"}, "spec": {"a": 1}}
    inventory.replace("HTTPRoute", [route], 6)
    before = inventory.get("HTTPRoute", "shop", "r")
    assert not inventory.replace("HTTPRoute", [{**route, "spec": {"a": 1}}], 8)
    assert inventory.get("HTTPRoute", "shop", "r") is before
