"""What survives what: kill -9 of each part, and change under load. Every run is bounded and counts its own failures."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from shop import Shop

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

STEADY = str(Path(__file__).parent.parent / "load" / "steady.py")


class Load:
    """A steady load in the background. `report()` ends it and returns what happened."""

    def __init__(self, shop: Shop, path: str, *options: str, rate: int = 100, seconds: int = 120) -> None:
        argv = [
            sys.executable,
            STEADY,
            f"{shop.gateway}{path}",
            "--rate",
            str(rate),
            "--seconds",
            str(seconds),
            *options,
        ]
        self._process = shop.cluster.spawn_in_net(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def report(self) -> dict[str, Any]:
        self._process.terminate()
        out, err = self._process.communicate(timeout=40)
        assert out, f"the load generator said nothing: {err}"
        found: dict[str, Any] = json.loads(out)
        return found

    def stop(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.communicate()


@contextlib.contextmanager
def loaded(shop: Shop, path: str, *options: str, rate: int = 100) -> Iterator[Load]:
    load = Load(shop, path, *options, rate=rate)
    try:
        time.sleep(1.0)  # let the load settle before anything happens to it
        yield load
        time.sleep(1.0)  # and see that it still runs well afterwards
    finally:
        if sys.exc_info()[0] is not None:
            load.stop()


def expect_no_failure(report: dict[str, Any]) -> None:
    assert report["sent"] > 100, report
    assert report["failed"] == 0, json.dumps(report, indent=1)
    assert report["ok"] == report["sent"], report


def replicas(shop: Shop, service: str, number: int) -> None:
    shop.kubectl(
        "patch", "nexusservice", service, "--type=merge", "-p", json.dumps({"spec": {"workload": {"replicas": number}}})
    )
    shop.wait_ready(service, endpoints=f"{number}/{number}", timeout_s=60)


def test_scaling_and_editing_under_load_fails_no_request(shop: Shop) -> None:
    """300 requests/s while catalog is scaled 1→3→1 and its route is edited ten times."""
    replicas(shop, "catalog", 1)
    rewrite = shop.get("nexusservice", "catalog")["spec"]["expose"]
    with loaded(shop, "/catalog/items", rate=300) as load:
        replicas(shop, "catalog", 3)
        for number in range(10):
            hostnames = [f"edit-{number}.shop.example"]
            document = {
                "apiVersion": "gateway.networking.k8s.io/v1",
                "kind": "HTTPRoute",
                "metadata": {"name": "catalog-edited"},
                "spec": {
                    "parentRefs": [{"name": "nexus", "namespace": shop.namespace_of_nexus}],
                    "hostnames": hostnames,
                    "rules": [{"backendRefs": [{"group": "nexus.dev", "kind": "NexusService", "name": "catalog"}]}],
                },
            }
            shop.apply(document)
            edited = {**rewrite, "methods": ["GET", "HEAD"] if number % 2 == 0 else ["GET", "HEAD", "OPTIONS"]}
            shop.kubectl(
                "patch", "nexusservice", "catalog", "--type=merge", "-p", json.dumps({"spec": {"expose": edited}})
            )
            shop.wait_condition("nexusservice", "catalog", "Ready", "True")
        replicas(shop, "catalog", 1)
    report = load.report()
    shop.kubectl("delete", "httproute", "catalog-edited")
    shop.kubectl(
        "patch", "nexusservice", "catalog", "--type=merge", "-p", json.dumps({"spec": {"expose": {"methods": None}}})
    )
    expect_no_failure(report)


def test_kill_9_of_a_service_replica(shop: Shop) -> None:
    replicas(shop, "catalog", 2)
    with loaded(shop, "/catalog/items") as load:
        pod = shop.running_pods("catalog")[0]
        shop.cluster.kill_pod_process(pod, shop.namespace)
        shop.eventually(lambda: restart_count(shop, shop.namespace, pod) >= 1, "the kubelet restarts it")
        shop.wait_ready("catalog", endpoints="2/2")
    expect_no_failure(load.report())


def test_kill_9_of_a_gateway_replica(shop: Shop) -> None:
    """Requests in flight on the killed replica may be repeated by the client; nothing else is lost."""
    with loaded(shop, "/catalog/items", "--retries", "3") as load:
        pod = shop.gateway_pods()[0]["metadata"]["name"]
        shop.cluster.kill_pod_process(pod, shop.namespace_of_nexus)
        shop.eventually(lambda: restart_count(shop, shop.namespace_of_nexus, pod) >= 1, "the kubelet restarts it")
        shop.eventually(lambda: all(is_ready(p) for p in shop.gateway_pods()), "both gateways are ready")
    expect_no_failure(load.report())
    shop.wait_ready("catalog")


def test_kill_9_of_the_operator(shop: Shop) -> None:
    """The other replica takes the lease; an edit made meanwhile takes effect; traffic does not notice."""
    with loaded(shop, "/catalog/items") as load:
        for pod in shop.operator_pods():
            shop.cluster.kill_pod_process(pod["metadata"]["name"], shop.namespace_of_nexus)
        shop.kubectl(
            "patch", "nexusservice", "orders", "--type=merge", "-p", '{"spec":{"expose":{"path":"/orders-moved"}}}'
        )
        shop.eventually(lambda: shop.status_of("/orders-moved") == 200, "the edit takes effect", 60)
    shop.kubectl("patch", "nexusservice", "orders", "--type=merge", "-p", '{"spec":{"expose":{"path":"/orders"}}}')
    shop.eventually(lambda: shop.status_of("/orders") == 200, "and back", 60)
    expect_no_failure(load.report())


def test_consul_away_for_30_s(shop: Shop) -> None:
    """kill -9 of Consul: traffic flows on, a fresh gateway serves from its disk, everything recovers by itself."""
    with loaded(shop, "/catalog/items") as load:
        shop.cluster.kill("consul")
        time.sleep(30)
        shop.cluster.start("consul")
        shop.kubectl(
            "patch", "nexusservice", "orders", "--type=merge", "-p", '{"spec":{"expose":{"path":"/orders-again"}}}'
        )
        shop.eventually(lambda: shop.status_of("/orders-again") == 200, "an edit reaches the gateways again", 60)
    shop.kubectl("patch", "nexusservice", "orders", "--type=merge", "-p", '{"spec":{"expose":{"path":"/orders"}}}')
    shop.eventually(lambda: shop.status_of("/orders") == 200, "and back", 60)
    for service in shop.services():
        shop.wait_ready(service, timeout_s=60)
    expect_no_failure(load.report())


def test_the_kubernetes_api_away_for_30_s(shop: Shop) -> None:
    with loaded(shop, "/catalog/items") as load:
        shop.cluster.kill("kube-apiserver")
        time.sleep(30)
        shop.cluster.start("kube-apiserver")
        replicas(shop, "catalog", 3)
        replicas(shop, "catalog", 2)
    expect_no_failure(load.report())


def test_nothing_acknowledged_is_lost_when_the_event_service_is_killed(shop: Shop) -> None:
    """Events posted through the gateway while the event service is killed twice: each 2xx is there afterwards."""
    acknowledged: list[str] = []
    for number in range(120):
        if number in (30, 80):
            pod = shop.running_pods("events")[0]
            shop.cluster.kill_pod_process(pod, shop.namespace)
        event = {
            "specversion": "1.0",
            "id": f"crash-{number}",
            "source": "/test/crash",
            "type": "test.crash",
            "data": {"n": number},
        }
        status = shop.status_of(
            "/events", "-X", "POST", "-H", "content-type: application/cloudevents+json", "-d", json.dumps(event)
        )
        if 200 <= status < 300:
            acknowledged.append(event["id"])
    assert len(acknowledged) >= 40, f"only {len(acknowledged)} of 120 were accepted"
    # Its circuit may be open still; it closes with the first probe that succeeds.
    shop.eventually(lambda: shop.status_of("/events?limit=1") == 200, "the event service answers again")

    def stored() -> set[str]:
        found: set[str] = set()
        after = 0
        while True:
            page = json.loads(shop.curl(f"/events?type=test.crash&after={after}&limit=500"))
            events = page["events"]
            if not events:
                return found
            found |= {entry.get("event", entry)["id"] for entry in events}
            after = page["next"]

    missing = set(acknowledged) - stored()
    assert not missing, f"acknowledged but lost: {sorted(missing)}"


def restart_count(shop: Shop, namespace: str, pod: str) -> int:
    found = shop.cluster.get("pod", pod, namespace)
    return sum(status["restartCount"] for status in found["status"].get("containerStatuses", []))


def is_ready(pod: dict[str, Any]) -> bool:
    return any(c["type"] == "Ready" and c["status"] == "True" for c in pod["status"].get("conditions", []))
