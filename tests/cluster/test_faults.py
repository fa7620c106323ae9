"""What survives what: kill -9 of each part, and change under load. Every run is bounded and counts its own failures."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from shop import GATEWAY_PORT, Shop

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


@pytest.fixture(autouse=True)
def everything_runs(shop: Shop) -> Iterator[None]:
    """Start again what a test that failed has left dead, so that the tests after it say something of their own."""
    yield
    for daemon in ("consul", "kube-apiserver"):
        if not shop.cluster.is_running(daemon):
            shop.cluster.start(daemon)


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
    """kill -9 of Consul: traffic flows on, a gateway killed meanwhile serves from its disk, everything recovers by itself."""
    with loaded(shop, "/catalog/items", "--retries", "3") as load:
        pod = shop.gateway_pods()[0]["metadata"]["name"]
        restarts = restart_count(shop, shop.namespace_of_nexus, pod)
        shop.cluster.kill("consul")
        away_until = time.monotonic() + 30
        shop.cluster.kill_pod_process(pod, shop.namespace_of_nexus)
        shop.eventually(lambda: restart_count(shop, shop.namespace_of_nexus, pod) > restarts, "the kubelet restarts it")
        found = shop.eventually(
            lambda: next((p for p in shop.gateway_pods() if p["metadata"]["name"] == pod and is_ready(p)), None),
            "the killed gateway is ready without Consul",
            20,
        )
        direct = f"http://{found['status']['podIP']}:{GATEWAY_PORT}/catalog/items"
        assert shop.cluster.http_get(direct).status == 200, "it is ready and does not serve"
        time.sleep(max(0.0, away_until - time.monotonic()))
        assert not shop.cluster.is_running("consul"), "all of this has to happen without Consul"
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


def test_consul_loses_all_its_data(shop: Shop) -> None:
    """Consul comes back empty: the operator writes configuration and endpoints again, and no request fails meanwhile."""
    before = generation(shop)
    with loaded(shop, "/catalog/items") as load:
        shop.cluster.kill("consul")
        shutil.rmtree(shop.cluster.where.data / "consul")
        shop.cluster.start("consul")
        shop.eventually(
            lambda: generation(shop) > before, "the configuration is published again, above what it was", 60
        )
        shop.eventually(lambda: passing(shop, "catalog.shop"), "the endpoints are mirrored again", 60)
        move(shop, "orders", "/orders-wiped")
        shop.eventually(lambda: shop.status_of("/orders-wiped") == 200, "an edit reaches the gateways", 60)
    move(shop, "orders", "/orders")
    shop.eventually(lambda: shop.status_of("/orders") == 200, "and back", 60)
    for service in shop.services():
        shop.wait_ready(service, timeout_s=60)
    expect_no_failure(load.report())


def test_kill_9_of_the_leader_while_it_publishes(shop: Shop) -> None:
    """Edits pour in, the leader dies three times in the middle of writing: the gateways end with the last edit."""
    restarts = {pod["metadata"]["name"]: 0 for pod in shop.operator_pods()}
    with loaded(shop, "/catalog/items") as load:
        for number in range(3):
            at = generation(shop)
            for edit in range(6):
                move(shop, "orders", f"/orders-{number}-{edit}")
            shop.eventually(lambda at=at: generation(shop) > at, "a publication begins", 60)
            for name in restarts:  # whichever leads: the other only waits
                with contextlib.suppress(Exception):  # it may be starting again just now
                    shop.cluster.kill_pod_process(name, shop.namespace_of_nexus)
        move(shop, "orders", "/orders")
        shop.eventually(lambda: shop.status_of("/orders") == 200, "the last edit is served", 90)
    shop.wait_ready("orders", timeout_s=60)
    expect_no_failure(load.report())


def test_a_rollout_under_load_fails_no_request(shop: Shop) -> None:
    """The environment changes three times: new pods come, old ones drain, 100 requests/s do not notice."""
    replicas(shop, "catalog", 2)
    before = set(shop.running_pods("catalog"))
    with loaded(shop, "/catalog/items", rate=100) as load:
        for number in range(3):
            edit = {"spec": {"workload": {"env": [{"name": "ROUND", "value": str(number)}]}}}
            shop.kubectl("patch", "nexusservice", "catalog", "--type=merge", "-p", json.dumps(edit))
            shop.kubectl("rollout", "status", "deployment/catalog", "--timeout=90s")
            shop.wait_ready("catalog", endpoints="2/2", timeout_s=60)
    after = set(shop.running_pods("catalog"))
    assert not before & after, "no pod was replaced"
    shop.kubectl("patch", "nexusservice", "catalog", "--type=merge", "-p", '{"spec":{"workload":{"env":null}}}')
    expect_no_failure(load.report())


def test_an_image_that_does_not_exist_leaves_the_running_version_alone(shop: Shop) -> None:
    replicas(shop, "catalog", 1)
    image = shop.get("nexusservice", "catalog")["spec"]["workload"]["image"]
    with loaded(shop, "/catalog/items") as load:
        shop.kubectl(
            "patch", "nexusservice", "catalog", "--type=merge", "-p", '{"spec":{"workload":{"image":"no/such:1"}}}'
        )
        told = shop.wait_condition("nexusservice", "catalog", "WorkloadReady", "False")
        assert "describe pods --selector app.kubernetes.io/name=catalog" in told["message"], told
        shop.kubectl(
            "patch",
            "nexusservice",
            "catalog",
            "--type=merge",
            "-p",
            json.dumps({"spec": {"workload": {"image": image}}}),
        )
        shop.wait_ready("catalog", endpoints="1/1")
    expect_no_failure(load.report())


def test_a_service_scaled_to_zero_says_so_and_comes_back(shop: Shop) -> None:
    replicas(shop, "catalog", 0)
    shop.eventually(lambda: shop.status_of("/catalog/items") == 503, "there is nobody to answer")
    assert shop.status_of("/orders") == 200
    replicas(shop, "catalog", 1)
    shop.eventually(lambda: shop.status_of("/catalog/items") == 200, "it serves again")


def test_a_namespace_deleted_and_made_again_at_once(shop: Shop) -> None:
    """Twice, as fast as Kubernetes allows: what is declared last is what is served."""
    for number in range(2):
        manifest: list[dict[str, Any]] = [
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "again"}},
            {
                "apiVersion": "nexus.dev/v1alpha1",
                "kind": "NexusService",
                "metadata": {"name": "catalog", "namespace": "again"},
                "spec": {
                    "workload": {"image": "shop/catalog:0.1.0", "port": 8000},
                    "expose": {"path": f"/again-{number}", "rewritePrefix": "/"},
                },
            },
        ]
        shop.cluster.apply(manifest)
        shop.eventually(lambda n=number: shop.status_of(f"/again-{n}/items") == 200, "it is served", 60)
        shop.cluster.kubectl("delete", "namespace", "again", "--timeout=60s")
    shop.eventually(lambda: shop.status_of("/again-1/items") == 404, "its route is gone", 30)
    shop.eventually(lambda: not passing(shop, "catalog.again"), "its endpoints are gone from Consul", 90)


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
    acknowledged: set[str] = set()
    [pod] = shop.running_pods("events")
    restarts = restart_count(shop, shop.namespace, pod)
    for number in range(120):
        if number in (30, 80):
            shop.cluster.kill_pod_process(pod, shop.namespace)
        event = {
            "specversion": "1.0",
            "id": f"crash-{number}",
            "source": "/test/crash",
            "type": "test.crash",
            "data": {"n": number},
        }
        # A publisher repeats what was not acknowledged; the event's id makes that harmless.
        deadline = time.monotonic() + 60
        while event["id"] not in acknowledged:
            options = ("-X", "POST", "-H", "content-type: application/cloudevents+json", "-d", json.dumps(event))
            if 200 <= shop.status_of("/events", *options) < 300:
                acknowledged.add(event["id"])
                continue
            assert time.monotonic() < deadline, f"{event['id']} is not accepted within a minute"
            time.sleep(0.1)
    # That nothing was refused says nothing: the gateway asks again while nobody listens, and a restart may be faster.
    shop.eventually(lambda: restart_count(shop, shop.namespace, pod) >= restarts + 2, "it was killed twice")
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

    missing = acknowledged - stored()
    assert not missing, f"acknowledged but lost: {sorted(missing)}"


def restart_count(shop: Shop, namespace: str, pod: str) -> int:
    found = shop.cluster.get("pod", pod, namespace)
    return sum(status["restartCount"] for status in found["status"].get("containerStatuses", []))


def is_ready(pod: dict[str, Any]) -> bool:
    return any(c["type"] == "Ready" and c["status"] == "True" for c in pod["status"].get("conditions", []))


def move(shop: Shop, service: str, path: str) -> None:
    shop.kubectl(
        "patch", "nexusservice", service, "--type=merge", "-p", json.dumps({"spec": {"expose": {"path": path}}})
    )


def generation(shop: Shop) -> int:
    """Return the generation Consul holds; 0 for none."""
    reply = shop.cluster.http_get(f"{shop.consul}/v1/kv/nexus/snapshot/manifest?raw")
    return int(reply.json()["generation"]) if reply.status == 200 else 0


def passing(shop: Shop, service: str) -> int:
    """Return how many instances Consul calls healthy."""
    reply = shop.cluster.http_get(f"{shop.consul}/v1/health/service/{service}?passing")
    return len(reply.json()) if reply.status == 200 else 0
