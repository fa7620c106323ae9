"""A data plane for each Gateway, on a real API server, with the operator as the chart installs it."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import os
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from nexus_testbed import Cluster, places
from nexus_testbed.cluster import ClusterError
from shop import GATEWAY_NAME, Shop

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(240)]

NS = "planes"
GATEWAY_API = "gateway.networking.k8s.io/v1"
CHILDREN = ("serviceaccounts", "secrets", "services", "deployments", "poddisruptionbudgets")
AUTOSCALERS = "horizontalpodautoscalers"
CHART = str(Path(__file__).resolve().parents[2] / "charts" / "nexus")
WEBPOD = str(Path(__file__).resolve().parent / "webpod.py")
ROUTES_IN_A_ROW = int(os.environ.get("NEXUS_ROUTES_IN_A_ROW", "100"))
"""`make test-all` asks for 3000."""


def gateway(name: str, *ports: int, cls: str = "nexus", **spec: Any) -> dict[str, Any]:
    listeners = [{"name": f"http-{port}", "port": port, "protocol": "HTTP"} for port in ports]
    own = {"group": "nexus.dev", "kind": "NexusGatewayParameters", "name": "small"}
    infrastructure = {"parametersRef": own, **spec.pop("infrastructure", {})}
    return {
        "apiVersion": GATEWAY_API, "kind": "Gateway", "metadata": {"name": name, "namespace": NS},
        "spec": {"gatewayClassName": cls, "listeners": listeners, "infrastructure": infrastructure, **spec},
    }  # fmt: skip


def route(name: str, *parents: str, path: str = "/", backend: str = "web") -> dict[str, Any]:
    rule = {
        "matches": [{"path": {"type": "PathPrefix", "value": path}}],
        "backendRefs": [{"name": backend, "port": 80}],
    }
    return {
        "apiVersion": GATEWAY_API, "kind": "HTTPRoute", "metadata": {"name": name, "namespace": NS},
        "spec": {"parentRefs": [{"name": parent} for parent in parents], "rules": [rule]},
    }  # fmt: skip


def listener_set(name: str, parent: str, port: int = 81) -> dict[str, Any]:
    return {
        "apiVersion": GATEWAY_API, "kind": "ListenerSet", "metadata": {"name": name, "namespace": NS},
        "spec": {"parentRef": {"name": parent}, "listeners": [{"name": "more", "port": port, "protocol": "HTTP"}]},
    }  # fmt: skip


@pytest.fixture(scope="module")
def bed(shop: Shop) -> Iterator[Cluster]:
    """The cluster of the shop, with a namespace that has one web pod behind a Service."""
    cluster = shop.cluster
    cluster.kubectl("create", "namespace", NS)
    labels = {"app": "web"}
    cluster.apply(
        [
            {"apiVersion": "nexus.dev/v1alpha1", "kind": "NexusGatewayParameters", "metadata": {"name": "small", "namespace": NS},
             "spec": {"replicas": 1, "preStopSeconds": 1, "drainSeconds": 2, "podDisruptionBudget": {"enabled": True}}},
            {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "namespace": NS},
             "spec": {"replicas": 1, "selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": {
                 "containers": [{"name": "web", "image": "python:3.11", "args": [WEBPOD],
                                 "env": [{"name": "PORT", "value": "8000"}, {"name": "POD_NAME", "value": "web"}]}]}}}},
            {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": NS},
             "spec": {"selector": labels, "ports": [{"port": 80, "targetPort": 8000}]}},
        ]
    )  # fmt: skip
    cluster.kubectl("rollout", "status", "deployment/web", "-n", NS, "--timeout=60s")
    yield cluster
    cluster.kubectl("delete", "namespace", NS, "--wait=false")


@pytest.fixture(autouse=True)
def clean(bed: Cluster) -> Iterator[None]:
    yield
    bed.kubectl("delete", "gateways,httproutes,listenersets", "--all", "-n", NS)
    bed.wait(lambda: not children(bed), "no data plane is left", 60)


def children(bed: Cluster, name: str = "") -> dict[str, list[str]]:
    """Names of what was made for a Gateway, or for all of the namespace, by plural kind; kinds with none are left out."""
    found: dict[str, list[str]] = {}
    for kind in (*CHILDREN, AUTOSCALERS):
        for obj in bed.find(kind, NS):
            labels = obj["metadata"].get("labels", {})
            if labels.get(GATEWAY_NAME) and name in ("", labels[GATEWAY_NAME]):
                found.setdefault(kind, []).append(obj["metadata"]["name"])
    return found


def conditions(obj: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {c["type"]: c for c in obj.get("status", {}).get("conditions", ())}


def wait_gateway(
    bed: Cluster, name: str, kind: str = "Programmed", status: str = "True", reason: str = ""
) -> dict[str, Any]:
    """Return the Gateway once the condition is so for its newest generation, with all others at it, too."""
    last: dict[str, Any] = {}

    def look() -> bool:
        last.update(bed.get("gateway", name, NS))
        found = conditions(last)
        fresh = all(c.get("observedGeneration") == last["metadata"]["generation"] for c in found.values())
        return fresh and found[kind]["status"] == status and reason in ("", found[kind]["reason"])

    try:
        bed.wait(look, f"Gateway {name} is {kind}={status} {reason}", 60)
    except ClusterError as err:
        raise AssertionError(f"{err}\n{json.dumps(last.get('status'), indent=1)}") from err
    return last


def wait_set(bed: Cluster, name: str, kind: str, status: str) -> dict[str, Any]:
    """Return the ListenerSet once the condition is so for its newest generation."""
    last: dict[str, Any] = {}

    def look() -> bool:
        last.clear()
        last.update(bed.get("listenerset", name, NS))
        found = conditions(last).get(kind, {})
        return found.get("observedGeneration") == last["metadata"]["generation"] and found["status"] == status

    try:
        bed.wait(look, f"ListenerSet {name} is {kind}={status}", 60)
    except ClusterError as err:
        raise AssertionError(f"{err}\n{json.dumps(last.get('status'), indent=1)}") from err
    return last


def address_of(bed: Cluster, name: str) -> str:
    return str(wait_gateway(bed, name)["status"]["addresses"][0]["value"])


def wait_route(bed: Cluster, name: str, parent: int = 0, timeout_s: float = 30) -> None:
    """Wait until the route is Ready at a parent; the error shows all it says."""
    last: dict[str, Any] = {}

    def ready() -> bool:
        last.update(bed.get("httproute", name, NS))
        parents = last.get("status", {}).get("parents", [])
        found = {c["type"]: c for c in parents[parent]["conditions"]} if len(parents) > parent else {}
        mine = found.get("Ready", {})
        return mine.get("status") == "True" and mine.get("observedGeneration") == last["metadata"]["generation"]

    try:
        bed.wait(ready, f"HTTPRoute {name} is Ready", timeout_s)
    except ClusterError as err:
        raise AssertionError(f"{err}\n{json.dumps(last.get('status'), indent=1)}") from err


def status_of(bed: Cluster, url: str) -> int:
    """Return the status of one request, 0 for no answer."""
    try:
        return bed.http_get(url).status
    except OSError:
        return 0


def test_a_gateway_gets_all_it_needs_and_serves(bed: Cluster) -> None:
    asked = {"labels": {"team": "shop"}, "annotations": {"note": "ours"}}
    bed.apply([gateway("web", 80, infrastructure=asked), route("web", "web")])
    address = address_of(bed, "web")
    assert children(bed, "web") == {kind: ["web-nexus"] for kind in CHILDREN}
    for kind in CHILDREN:
        meta = bed.get(kind, "web-nexus", NS)["metadata"]
        assert meta["labels"]["team"] == "shop"
        assert meta["labels"]["gateway.networking.k8s.io/gateway-class-name"] == "nexus"
        assert meta["annotations"]["note"] == "ours"
        [owner] = meta["ownerReferences"]
        assert (owner["kind"], owner["name"]) == ("Gateway", "web")
    [pod] = bed.pods(f"{GATEWAY_NAME}=web", NS)
    assert pod["metadata"]["labels"]["team"] == "shop"
    assert pod["metadata"]["annotations"]["note"] == "ours"
    wait_route(bed, "web")
    assert bed.http_get(f"http://{address}/").status == 200
    found = bed.get("gateway", "web", NS)
    assert "finalizers" not in found["metadata"]
    assert not [name for name in found["metadata"].get("annotations", {}) if "kopf" in name]


def test_a_deleted_gateway_leaves_nothing(bed: Cluster) -> None:
    bed.apply([gateway("gone", 80)])
    address_of(bed, "gone")
    bed.kubectl("delete", "gateway", "gone", "-n", NS)
    bed.wait(lambda: not children(bed, "gone"), "everything made for it is gone", 60)
    bed.wait(lambda: not bed.pods(f"{GATEWAY_NAME}=gone", NS), "its pods are gone", 60)


def test_a_gateway_that_changes_its_class_loses_its_data_plane(bed: Cluster) -> None:
    open_to = {"allowedListeners": {"namespaces": {"from": "Same"}}}
    bed.apply([gateway("moved", 80, **open_to)])
    address_of(bed, "moved")
    bed.apply([listener_set("more", "moved")])
    wait_set(bed, "more", "Programmed", "True")
    bed.apply([gateway("moved", 80, cls="another", **open_to)])
    bed.wait(lambda: not children(bed, "moved"), "everything made for it is gone", 60)
    told = wait_gateway(bed, "moved", "Programmed", "Unknown", "Pending")
    assert 'no GatewayClass "another"' in conditions(told)["Programmed"]["message"]
    assert set(told["status"]) == {"conditions"}
    assert set(wait_set(bed, "more", "Accepted", "Unknown")["status"]) == {"conditions"}
    bed.apply([gateway("moved", 80, **open_to)])
    address_of(bed, "moved")
    wait_set(bed, "more", "Programmed", "True")


def test_a_listener_set_says_nothing_of_a_gateway_that_it_has_left(bed: Cluster) -> None:
    bed.apply([gateway("strict", 80, allowedListeners={"namespaces": {"from": "None"}})])
    bed.apply([gateway("typo", 80, cls="another"), listener_set("more", "strict")])
    refused = wait_set(bed, "more", "Accepted", "False")
    assert conditions(refused)["Accepted"]["reason"] == "NotAllowed"
    bed.apply([listener_set("more", "nosuch")])
    told = wait_set(bed, "more", "Accepted", "False")
    assert 'no Gateway "nosuch"' in conditions(told)["Accepted"]["message"]
    bed.apply([listener_set("more", "typo")])
    told = wait_set(bed, "more", "Accepted", "Unknown")
    assert "Gateway planes/typo" in conditions(told)["Accepted"]["message"]


def test_what_another_controller_says_of_a_gateway_is_left_alone(bed: Cluster) -> None:
    """Also where Nexus served that Gateway before, and its class is not there."""
    bed.apply([gateway("theirs", 80)])
    address_of(bed, "theirs")
    bed.apply([gateway("theirs", 80, cls="another")])
    wait_gateway(bed, "theirs", "Programmed", "Unknown", "Pending")
    held = bed.get("gateway", "theirs", NS)
    said = [{**c, "status": "True", "message": "theirs"} for c in held["status"]["conditions"]]
    status = {"conditions": said, "addresses": [{"type": "IPAddress", "value": "192.0.2.9"}]}
    bed.kubectl(
        "patch", "gateway", "theirs", "-n", NS, "--subresource=status", "--type=merge", "--field-manager=other",
        "-p", json.dumps({"status": status}),
    )  # fmt: skip
    bed.apply([gateway("ours", 80)])  # a status written after it tells that it was seen
    address_of(bed, "ours")
    assert bed.get("gateway", "theirs", NS)["status"] == status


def test_ports_open_and_close_without_a_restart(bed: Cluster) -> None:
    bed.apply([gateway("web", 80), route("web", "web")])
    address = address_of(bed, "web")
    wait_route(bed, "web")
    [pod] = bed.pods(f"{GATEWAY_NAME}=web", NS)
    bed.apply([gateway("web", 80, 8080)])
    assert address_of(bed, "web") == address
    ports = bed.get("service", "web-nexus", NS)["spec"]["ports"]
    assert sorted(port["port"] for port in ports) == [80, 8080]
    bed.wait(lambda: status_of(bed, f"http://{address}:8080/") == 200, "the new port answers", 20)
    assert status_of(bed, f"http://{address}/") == 200
    bed.apply([gateway("web", 8080)])
    assert address_of(bed, "web") == address
    bed.wait(lambda: status_of(bed, f"http://{address}/") == 0, "the old port is closed", 20)
    assert status_of(bed, f"http://{address}:8080/") == 200
    [after] = bed.pods(f"{GATEWAY_NAME}=web", NS)
    assert after["metadata"]["uid"] == pod["metadata"]["uid"]
    assert sum(c["restartCount"] for c in after["status"]["containerStatuses"]) == 0


def test_two_gateways_have_their_own_addresses_and_routes(bed: Cluster) -> None:
    bed.apply(
        [
            gateway("one", 80),
            gateway("two", 80),
            route("one", "one", path="/one"),
            route("both", "one", "two", path="/both"),
        ]
    )
    one, two = address_of(bed, "one"), address_of(bed, "two")
    assert one != two
    wait_route(bed, "one")
    wait_route(bed, "both", 0)
    wait_route(bed, "both", 1)
    assert [status_of(bed, f"http://{address}/both") for address in (one, two)] == [200, 200]
    assert [status_of(bed, f"http://{address}/one") for address in (one, two)] == [200, 404]


def test_a_static_address_is_asked_for_and_an_unusable_one_is_told(bed: Cluster) -> None:
    bad, good = "192.0.2.1", "10.200.0.77"
    bed.apply([gateway("fixed", 80, addresses=[{"type": "IPAddress", "value": bad}])])
    told = wait_gateway(bed, "fixed", "Programmed", "False", "AddressNotUsable")
    assert bad in conditions(told)["Programmed"]["message"]
    assert conditions(told)["Accepted"]["status"] == "True"
    bed.apply([gateway("fixed", 80, addresses=[{"type": "IPAddress", "value": good}])])
    found = wait_gateway(bed, "fixed")
    assert found["status"]["addresses"] == [{"type": "IPAddress", "value": good}]
    bed.apply([gateway("fixed", 80, addresses=[{"type": "IPAddress"}])])
    assert wait_gateway(bed, "fixed")["status"]["addresses"]


def test_parameters_that_do_not_exist_are_told_and_nothing_is_made(bed: Cluster) -> None:
    missing = {"parametersRef": {"group": "nexus.dev", "kind": "NexusGatewayParameters", "name": "nowhere"}}
    bed.apply([gateway("lost", 80, infrastructure=missing)])
    wait_gateway(bed, "lost", "Accepted", "False", "InvalidParameters")
    assert not children(bed, "lost")


def test_a_second_release_in_one_cluster_is_refused(bed: Cluster) -> None:
    """Two operators would undo each other's work."""
    with pytest.raises(ClusterError, match="One release of Nexus serves a whole cluster"):
        bed.helm("install", "second", CHART, "-n", NS, "--set", "consul.url=http://consul:8500")


def test_what_somebody_else_made_under_its_name_is_left_alone_and_told(bed: Cluster) -> None:
    theirs = {
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "mine-nexus", "namespace": NS},
        "spec": {"type": "LoadBalancer", "selector": {"app": "web"}, "ports": [{"port": 9, "targetPort": 8000}]},
    }  # fmt: skip
    bed.apply([theirs])
    bed.loadbalancer_ip("mine-nexus", NS)
    bed.apply([gateway("mine", 80)])
    told = wait_gateway(bed, "mine", "Programmed", "False", "NoResources")
    assert "Service planes/mine-nexus" in conditions(told)["Programmed"]["message"]
    assert "addresses" not in told["status"]
    found = bed.get("service", "mine-nexus", NS)
    assert "ownerReferences" not in found["metadata"]
    assert [port["port"] for port in found["spec"]["ports"]] == [9]
    bed.kubectl("delete", "service", "mine-nexus", "-n", NS)
    address_of(bed, "mine")
    assert [port["port"] for port in bed.get("service", "mine-nexus", NS)["spec"]["ports"]] == [80]


def test_a_child_that_admission_refuses_is_told_and_made_when_it_is_allowed(bed: Cluster) -> None:
    """As a quota would, or a webhook."""
    api = "admissionregistration.k8s.io/v1"
    rules = [
        {"apiGroups": ["apps"], "apiVersions": ["v1"], "operations": ["CREATE", "UPDATE"], "resources": ["deployments"]}
    ]
    policy = {
        "matchConstraints": {"resourceRules": rules},
        "validations": [{"expression": "!object.metadata.name.startsWith('full')", "message": "There is no room."}],
    }
    names = ["-n", NS, "--dry-run=server", "--image=x"]
    bed.apply(
        [
            {"apiVersion": api, "kind": "ValidatingAdmissionPolicy", "metadata": {"name": "full"}, "spec": policy},
            {"apiVersion": api, "kind": "ValidatingAdmissionPolicyBinding", "metadata": {"name": "full"},
             "spec": {"policyName": "full", "validationActions": ["Deny"]}},
        ]
    )  # fmt: skip
    try:

        def is_refused() -> bool:
            try:
                bed.kubectl("create", "deployment", "full", *names)
            except ClusterError:
                return True
            return False

        bed.wait(is_refused, "the policy holds")
        bed.apply([gateway("full", 80)])
        told = wait_gateway(bed, "full", "Programmed", "False", "NoResources")
        assert "There is no room." in conditions(told)["Programmed"]["message"]
        assert bed.get("service", "full-nexus", NS), "its other children are made"
    finally:
        bed.kubectl("delete", "validatingadmissionpolicybinding,validatingadmissionpolicy", "full")
    address_of(bed, "full")


def test_parameters_change_what_runs_and_the_address_follows_the_kind_of_service(bed: Cluster) -> None:
    def parameters(replicas: int, kind: str) -> dict[str, Any]:
        return {
            "apiVersion": "nexus.dev/v1alpha1", "kind": "NexusGatewayParameters", "metadata": {"name": "changing", "namespace": NS},
            "spec": {"replicas": replicas, "preStopSeconds": 1, "drainSeconds": 2, "service": {"type": kind}},
        }  # fmt: skip

    own = {"parametersRef": {"group": "nexus.dev", "kind": "NexusGatewayParameters", "name": "changing"}}
    bed.apply([parameters(1, "LoadBalancer"), gateway("turns", 80, infrastructure=own), route("turns", "turns")])
    first = address_of(bed, "turns")
    wait_route(bed, "turns")
    bed.apply([parameters(2, "ClusterIP")])
    inside = bed.get("service", "turns-nexus", NS)["spec"]["clusterIP"]
    bed.wait(
        lambda: address_of(bed, "turns") == inside and len(bed.pods(f"{GATEWAY_NAME}=turns", NS)) == 2,
        "two replicas at the cluster's address",
        60,
    )
    wait_route(bed, "turns")
    assert status_of(bed, f"http://{inside}/") == 200
    bed.apply([parameters(1, "LoadBalancer")])
    bed.wait(lambda: address_of(bed, "turns") not in (inside, ""), "the load balancer gives an address again", 60)
    address = address_of(bed, "turns")
    assert first.rpartition(".")[0] == address.rpartition(".")[0]
    wait_route(bed, "turns")
    assert status_of(bed, f"http://{address}/") == 200


def scaled(autoscaling: dict[str, Any] | None, **more: Any) -> dict[str, Any]:
    """Parameters of Gateway `scaled`. Its pods request CPU, a share of which counts; None: it has the replicas that are written."""
    spec = {"replicas": 2, "preStopSeconds": 1, "drainSeconds": 2, **more}
    if autoscaling is not None:
        spec["autoscaling"] = autoscaling
    return {
        "apiVersion": "nexus.dev/v1alpha1", "kind": "NexusGatewayParameters", "metadata": {"name": "scaled", "namespace": NS},
        "spec": spec,
    }  # fmt: skip


SCALED = {"parametersRef": {"group": "nexus.dev", "kind": "NexusGatewayParameters", "name": "scaled"}}


def wait_replicas(bed: Cluster, count: int) -> None:
    """Wait until Gateway `scaled` has so many replicas that take traffic, and none that leaves."""

    def look() -> bool:
        state = bed.get("deployment", "scaled-nexus", NS)
        status = state["status"]
        counts = [status.get(key) for key in ("replicas", "readyReplicas", "updatedReplicas")]
        seen = status.get("observedGeneration") == state["metadata"]["generation"]
        return seen and [state["spec"]["replicas"], *counts] == [count] * 4

    bed.wait(look, f"Deployment scaled-nexus has {count} replicas", 90)


def history(bed: Cluster, kind: str, name: str, since: str) -> list[dict[str, Any]]:
    """Return every version of an object since another one, oldest first; no version at all is missed."""
    group = "apps/v1" if kind == "deployments" else GATEWAY_API
    query = f"watch=1&resourceVersion={since}&timeoutSeconds=2&fieldSelector=metadata.name%3D{name}"
    told = bed.kubectl("get", "--raw", f"/apis/{group}/namespaces/{NS}/{kind}?{query}")
    return [json.loads(line)["object"] for line in told.splitlines() if line]


def test_an_autoscaler_has_the_replicas_of_a_data_plane(bed: Cluster) -> None:
    """From two replicas to an autoscaler, which is never undone, and back."""
    bed.apply([scaled(None), gateway("scaled", 80, infrastructure=SCALED), route("scaled", "scaled")])
    address = address_of(bed, "scaled")
    wait_replicas(bed, 2)
    wait_gateway(bed, "scaled")
    since = bed.get("deployment", "scaled-nexus", NS)["metadata"]["resourceVersion"]
    gateway_since = bed.get("gateway", "scaled", NS)["metadata"]["resourceVersion"]

    bed.apply([scaled({"maxReplicas": 5})])
    bed.wait(lambda: bed.find(AUTOSCALERS, NS), "the autoscaler is there", 30)
    autoscaler = bed.get(AUTOSCALERS, "scaled-nexus", NS)
    [owner] = autoscaler["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["name"]) == ("Gateway", "scaled")
    assert (autoscaler["spec"]["minReplicas"], autoscaler["spec"]["maxReplicas"]) == (2, 5)
    assert autoscaler["spec"]["scaleTargetRef"]["name"] == "scaled-nexus"

    # As the controller scales: through the subresource. Then what others want changes, of the pods and of the Service.
    bed.kubectl("scale", "deployment/scaled-nexus", "-n", NS, "--replicas=4")
    wait_replicas(bed, 4)
    bed.apply([gateway("scaled", 80, 8080, infrastructure={**SCALED, "labels": {"team": "shop"}})])
    wait_gateway(bed, "scaled")
    bed.wait(
        lambda: bed.get("deployment", "scaled-nexus", NS)["metadata"]["labels"].get("team") == "shop", "applied", 30
    )
    wait_replicas(bed, 4)
    wait_gateway(bed, "scaled")
    budget = bed.get("poddisruptionbudget", "scaled-nexus", NS)
    assert budget["status"]["expectedPods"] == 4

    # And the controller itself, which keeps to the bounds without any metrics.
    bed.apply([scaled({"minReplicas": 5, "maxReplicas": 6})])
    wait_replicas(bed, 5)
    wait_gateway(bed, "scaled")
    wait_route(bed, "scaled")
    assert status_of(bed, f"http://{address}/") == 200
    counts = [obj["spec"]["replicas"] for obj in history(bed, "deployments", "scaled-nexus", since)]
    assert counts == sorted(counts), "no moment with fewer replicas than before"
    assert set(counts) == {4, 5}, "and of the two that there were, none before the scaling"
    bed.apply([scaled(None, replicas=1)])
    wait_replicas(bed, 1)
    bed.wait(lambda: not bed.find(AUTOSCALERS, NS), "the autoscaler is gone", 30)
    wait_gateway(bed, "scaled")
    told = [conditions(obj)["Programmed"] for obj in history(bed, "gateways", "scaled", gateway_since)]
    assert {each["status"] for each in told} == {"True"}, f"it is served while replicas come and go: {told}"


def test_no_scaling_is_lost_to_an_apply_at_the_same_time(bed: Cluster) -> None:
    """The Deployment is scaled many times a second while what is applied to it changes as well; no number comes back."""
    unplaced = scaled({"maxReplicas": 30}, nodeSelector={"nowhere": "at-all"})  # pods that wait cost nothing
    bed.apply([unplaced, gateway("scaled", 80, infrastructure=SCALED)])
    bed.wait(lambda: bed.find(AUTOSCALERS, NS), "the autoscaler is there", 30)
    before = bed.get("deployment", "scaled-nexus", NS)
    stop, given = threading.Event(), []
    path = f"/apis/apps/v1/namespaces/{NS}/deployments/scaled-nexus/scale"
    scale = {
        "apiVersion": "autoscaling/v1",
        "kind": "Scale",
        "metadata": {"name": "scaled-nexus", "namespace": NS},
    }

    def rescale() -> None:
        with contextlib.closing(Direct(bed)) as api:
            while not stop.wait(0.05):
                count = 3 + len(given) % 20
                api.ask("PUT", path, {**scale, "spec": {"replicas": count}})
                given.append(count)

    def notes() -> list[str]:
        found = history(bed, "deployments", "scaled-nexus", before["metadata"]["resourceVersion"])
        return [obj["metadata"]["annotations"].get("note", "") for obj in found]

    thread = threading.Thread(target=rescale, daemon=True)
    thread.start()
    try:
        for number in range(10):
            bed.apply([gateway("scaled", 80, infrastructure={**SCALED, "annotations": {"note": str(number)}})])
        bed.wait(lambda: notes()[-1] == "9", "the last change is applied under way", 60)
    finally:
        stop.set()
        thread.join(30)
    versions = history(bed, "deployments", "scaled-nexus", before["metadata"]["resourceVersion"])
    counts = [before["spec"]["replicas"], *(obj["spec"]["replicas"] for obj in versions)]
    changes = [count for last, count in itertools.pairwise(counts) if count != last]
    assert changes == given
    print(f"{len(given)} scalings beside {len(set(notes()))} editions")


def test_somebody_elses_autoscaler_is_not_undone(bed: Cluster) -> None:
    target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "scaled-nexus"}
    theirs = {
        "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "by-hand", "namespace": NS},
        "spec": {"scaleTargetRef": target, "minReplicas": 3, "maxReplicas": 3},
    }  # fmt: skip
    bed.apply([scaled(None, replicas=1), gateway("scaled", 80, infrastructure=SCALED)])
    address_of(bed, "scaled")
    wait_replicas(bed, 1)
    bed.apply([theirs])
    try:
        wait_replicas(bed, 3)
        since = bed.get("deployment", "scaled-nexus", NS)["metadata"]["resourceVersion"]
        bed.apply([gateway("scaled", 80, 8080, infrastructure={**SCALED, "annotations": {"note": "new"}})])
        wait_gateway(bed, "scaled")
        bed.wait(
            lambda: bed.get("deployment", "scaled-nexus", NS)["metadata"]["annotations"].get("note") == "new", "applied"
        )
        wait_replicas(bed, 3)
        assert {obj["spec"]["replicas"] for obj in history(bed, "deployments", "scaled-nexus", since)} == {3}
    finally:
        bed.kubectl("delete", AUTOSCALERS, "by-hand", "-n", NS)
    wait_replicas(bed, 1)


def test_another_load_balancer_is_told_and_taken_once_the_service_is_deleted(bed: Cluster) -> None:
    """Kubernetes lets nobody change it. Ports go on following the listeners meanwhile."""

    def parameters(**service: Any) -> dict[str, Any]:
        return {
            "apiVersion": "nexus.dev/v1alpha1", "kind": "NexusGatewayParameters", "metadata": {"name": "classed", "namespace": NS},
            "spec": {"replicas": 1, "preStopSeconds": 1, "drainSeconds": 2, "service": service},
        }  # fmt: skip

    def told(words: str) -> None:
        found = wait_gateway(bed, "classed", "Programmed", "False", "NoResources")
        assert words in conditions(found)["Programmed"]["message"]

    own = {"parametersRef": {"group": "nexus.dev", "kind": "NexusGatewayParameters", "name": "classed"}}
    bed.apply([parameters(externalTrafficPolicy="Cluster"), gateway("classed", 80, infrastructure=own)])
    address = address_of(bed, "classed")

    bed.apply([parameters(loadBalancerClass="example.com/other")])
    bed.wait(lambda: conditions(bed.get("gateway", "classed", NS))["Programmed"]["status"] == "False", "it is told", 30)
    told('Service planes/classed-nexus from none to "example.com/other"')
    bed.apply([gateway("classed", 80, 8080, infrastructure=own)])
    bed.wait(lambda: len(bed.get("service", "classed-nexus", NS)["spec"]["ports"]) == 2, "the port is opened", 30)
    held = bed.get("service", "classed-nexus", NS)
    assert "loadBalancerClass" not in held["spec"]
    assert held["status"]["loadBalancer"]["ingress"] == [{"ip": address, "ipMode": "VIP"}]
    told("loadBalancerClass")
    bed.kubectl("delete", "service", "classed-nexus", "-n", NS)
    wait_gateway(bed, "classed", "Programmed", "False", "AddressNotAssigned")
    assert bed.get("service", "classed-nexus", NS)["spec"]["loadBalancerClass"] == "example.com/other"

    bed.apply([parameters(externalTrafficPolicy="Cluster")])
    bed.wait(
        lambda: conditions(bed.get("gateway", "classed", NS))["Programmed"]["reason"] == "NoResources", "it is told", 30
    )
    told('from "example.com/other" to none')
    bed.kubectl("delete", "service", "classed-nexus", "-n", NS)
    assert address_of(bed, "classed")


def test_a_deleted_class_leaves_running_what_runs(bed: Cluster) -> None:
    bed.apply([gateway("kept", 80), route("kept", "kept")])
    address = address_of(bed, "kept")
    wait_route(bed, "kept")
    cls = bed.get("gatewayclass", "nexus")
    before = bed.get("deployment", "kept-nexus", NS)["metadata"]["generation"]
    bed.kubectl("delete", "gatewayclass", "nexus")
    try:
        bed.apply([gateway("late", 80)])
        told = wait_gateway(bed, "late", "Programmed", "False", "Pending")
        assert 'no GatewayClass "nexus"' in conditions(told)["Programmed"]["message"]
        assert not children(bed, "late")
        assert bed.get("deployment", "kept-nexus", NS)["metadata"]["generation"] == before
        assert status_of(bed, f"http://{address}/") == 200
    finally:
        meta = {key: cls["metadata"][key] for key in ("name", "labels", "annotations") if key in cls["metadata"]}
        bed.apply([{**{key: cls[key] for key in ("apiVersion", "kind", "spec")}, "metadata": meta}])
    address_of(bed, "late")
    assert bed.get("deployment", "kept-nexus", NS)["metadata"]["generation"] == before


def test_a_deleted_class_of_any_name_leaves_running_what_runs(bed: Cluster) -> None:
    """`kubectl replace --force`, or a chart that makes its class anew, is no outage."""
    second = {
        "apiVersion": GATEWAY_API, "kind": "GatewayClass", "metadata": {"name": "second"},
        "spec": {"controllerName": "nexus.dev/gateway-controller"},
    }  # fmt: skip
    bed.apply([second, gateway("kept", 80, cls="second"), route("kept", "kept")])
    try:
        address = address_of(bed, "kept")
        wait_route(bed, "kept")
        made = children(bed, "kept")
        uid = bed.get("service", "kept-nexus", NS)["metadata"]["uid"]
        bed.kubectl("delete", "gatewayclass", "second")
        # A change after the deletion that is served tells that the deletion was seen.
        bed.apply([route("kept", "kept", path="/later")])
        wait_route(bed, "kept")
        assert status_of(bed, f"http://{address}/later") == 200
        assert children(bed, "kept") == made
        assert address_of(bed, "kept") == address
        bed.apply([second])
        assert address_of(bed, "kept") == address
        assert bed.get("service", "kept-nexus", NS)["metadata"]["uid"] == uid
        bed.kubectl("delete", "gatewayclass", "second")
        bed.kubectl("delete", "gateway", "kept", "-n", NS)
        bed.wait(lambda: not children(bed, "kept"), "everything made for it is gone", 60)
    finally:
        bed.kubectl("delete", "gatewayclass", "second", "--ignore-not-found")


def test_a_kind_that_goes_and_comes_back_is_served_and_claimed_again(bed: Cluster) -> None:
    name = "udproutes.gateway.networking.k8s.io"

    def claims() -> set[str]:
        status = bed.get("gatewayclass", "nexus")["status"]
        return {feature["name"] for feature in status["supportedFeatures"]}

    crds = bed.get("crd", "httproutes.gateway.networking.k8s.io")
    rules = crds["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["rules"]
    assert ("HTTPRouteRetry" in claims()) == ("retry" in rules["items"]["properties"])
    assert "UDPRoute" in claims()
    bed.kubectl("delete", "crd", name)
    bed.wait(lambda: "UDPRoute" not in claims(), "what cannot be said is not claimed", 30)
    bed.install_gateway_api()
    bed.wait(lambda: "UDPRoute" in claims(), "what can be said again is claimed again", 30)
    datagrams = {"name": "dns", "port": 53, "protocol": "UDP"}
    bed.apply([gateway("names", listeners=[datagrams])])
    bed.apply(
        [
            {
                "apiVersion": GATEWAY_API, "kind": "UDPRoute", "metadata": {"name": "names", "namespace": NS},
                "spec": {"parentRefs": [{"name": "names"}], "rules": [{"backendRefs": [{"name": "web", "port": 80}]}]},
            }
        ]
    )  # fmt: skip
    bed.wait(
        lambda: bed.get("udproute", "names", NS).get("status", {}).get("parents"), "the route of that kind is seen", 30
    )


def test_another_controllers_words_stay_whatever_is_written_at_once(bed: Cluster) -> None:
    """A second controller rewrites its own entry of a route as fast as it can, while ours changes with each edit."""
    bed.apply([gateway("web", 80), route("shared", "web")])
    wait_route(bed, "shared")
    stop, written = threading.Event(), []

    def other() -> None:
        while not stop.is_set():
            found = bed.get("httproute", "shared", NS)
            number = len(written)
            theirs = {
                "parentRef": {"name": "elsewhere"}, "controllerName": "example.com/other",
                "conditions": [{"type": "Accepted", "status": "True", "reason": "Accepted", "message": str(number),
                                "lastTransitionTime": "2026-01-01T00:00:00Z"}],
            }  # fmt: skip
            ours = [p for p in found["status"].get("parents", []) if p["controllerName"] != theirs["controllerName"]]
            meta = {"resourceVersion": found["metadata"]["resourceVersion"]}
            body = json.dumps({"metadata": meta, "status": {"parents": [*ours, theirs]}})
            try:
                bed.kubectl(
                    "patch", "httproute", "shared", "-n", NS, "--subresource=status", "--type=merge", "-p", body
                )
            except ClusterError:
                continue  # ours was faster: look again
            written.append(number)

    thread = threading.Thread(target=other, daemon=True)
    thread.start()
    try:
        for number in range(5):
            bed.apply([route("shared", "web", path=f"/{number}")])
            wait_route(bed, "shared")
        bed.wait(lambda: len(written) >= 3, "the other controller got through", 30)
    finally:
        stop.set()
        thread.join(30)
    wait_route(bed, "shared")
    entries = {p["controllerName"]: p for p in bed.get("httproute", "shared", NS)["status"]["parents"]}
    assert set(entries) == {"example.com/other", "nexus.dev/gateway-controller"}
    assert entries["example.com/other"]["conditions"][0]["message"] == str(written[-1])


class Direct:
    """The API server asked without a kubectl in between, on one connection: what is measured is Nexus."""

    def __init__(self, cluster: Cluster) -> None:
        context = ssl.create_default_context(cafile=str(cluster.where.pki / "ca.crt"))
        context.load_cert_chain(cluster.where.pki / "admin.crt", cluster.where.pki / "admin.key")
        self._connection = http.client.HTTPConnection(places.API_IP, 443, timeout=10)
        self._connection.sock = context.wrap_socket(cluster.connect(places.API_IP, 443), server_hostname=places.API_IP)

    def close(self) -> None:
        self._connection.close()

    def ask(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        """Return what is answered; fails for anything but 2xx."""
        headers = {"Content-Type": "application/json"}
        self._connection.request(method, path, json.dumps(body) if body is not None else None, headers)
        answer = self._connection.getresponse()
        text = answer.read().decode()
        assert 200 <= answer.status <= 299, text
        found: dict[str, Any] = json.loads(text)
        return found


@pytest.mark.timeout(60 + ROUTES_IN_A_ROW * 2)
def test_a_route_that_is_ready_is_found_by_the_next_request(bed: Cluster) -> None:
    """Many routes one after the other, each asked for once, the moment its status says Ready."""
    bed.apply([gateway("row", 80), route("first", "row", path="/first")])
    address = address_of(bed, "row")
    wait_route(bed, "first")
    collection = f"/apis/{GATEWAY_API}/namespaces/{NS}/httproutes"

    missed: list[tuple[int, int]] = []
    took_s: list[float] = []
    with contextlib.closing(Direct(bed)) as api:

        def is_ready(name: str) -> bool:
            parents = api.ask("GET", f"{collection}/{name}").get("status", {}).get("parents", [])
            return any(
                c["type"] == "Ready" and c["status"] == "True" for parent in parents for c in parent["conditions"]
            )

        for number in range(ROUTES_IN_A_ROW):
            name, started = f"row-{number}", time.monotonic()
            api.ask("POST", collection, route(name, "row", path=f"/{name}"))
            while not is_ready(name):
                assert time.monotonic() - started < 30, api.ask("GET", f"{collection}/{name}").get("status")
                time.sleep(0.01)
            took_s.append(time.monotonic() - started)
            status = status_of(bed, f"http://{address}/{name}")
            if status != 200:
                missed.append((number, status))
        api.ask("DELETE", collection)  # kubectl would delete them one by one, for minutes
    took_s.sort()
    print(f"Ready after {took_s[len(took_s) // 2]:.2f} s in the middle, {took_s[-1]:.2f} s at worst")
    assert not missed
