"""The operator on a real API server and a real Consul: what it makes of manifests, and what it survives.

It runs as processes beside a cluster of its own, not from the chart, so that it can be killed and doubled at will.
Gateways are stood in for by their acks; `test_journey.py` has real ones.
"""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from nexus_core.snapshot import Ack, PluginReport, samples, service_reports, wire
from nexus_testbed import Cluster, ClusterError

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(180)]

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
CRDS = REPOSITORY / "crds"
WEBPOD = str(HERE / "webpod.py")
CONSUL = "http://10.100.0.1:8500"
NS = "op"
LEASE_S = 4
PARAMETERS = {"apiVersion": "nexus.dev/v1alpha1", "kind": "NexusGatewayParameters"}


@pytest.fixture(scope="module")
def bed() -> Iterator[Cluster]:
    """A control plane with Consul and our CRDs. The Gateway API comes later: see the first test."""
    with Cluster(components=("consul",)) as running:
        for crd in sorted(CRDS.glob("*.yaml")):
            running.kubectl("apply", "--server-side", "-f", str(crd))
        running.kubectl("wait", "--for=condition=Established", "--timeout=60s", "crd", "--all")
        # The garbage collector looks for new kinds every half minute; after its start it knows them all.
        running.restart("kube-controller-manager")
        running.kubectl("create", "namespace", NS)
        running.apply(
            [
                # Without a Gateway and without any gateway of its own: the tests' one acknowledges.
                {**PARAMETERS, "metadata": {"name": "none", "namespace": NS}, "spec": {"replicas": 0}},
                {**PARAMETERS, "metadata": {"name": "one", "namespace": NS}, "spec": {"replicas": 1}},
            ]
        )
        yield running


class Operators:
    """Operator processes in the cluster's network."""

    def __init__(self, cluster: Cluster, logs: Path) -> None:
        self._cluster = cluster
        self._logs = logs
        self._running: list[subprocess.Popen[Any]] = []
        self._listening: dict[int, str] = {}  # pid → address
        self._started = 0

    def start(self, lease_s: int = LEASE_S) -> subprocess.Popen[Any]:
        self._started += 1
        listen = f"127.0.0.1:{18080 + self._started}"
        env = {
            "NEXUS_CONSUL_URL": CONSUL,
            "NEXUS_GATEWAY_URL": "http://gateway.example",
            "NEXUS_LEASE_SECONDS": str(lease_s),
            "NEXUS_RESYNC_SECONDS": "2",
            "NEXUS_OPERATOR_LISTEN": listen,
            "NEXUS_GATEWAY_PARAMETERS": f"{NS}/none",
        }
        with (self._logs / f"operator-{self._started}.log").open("wb") as log:
            process = self._cluster.spawn_in_net([sys.executable, "-m", "nexus_operator"], stdout=log, env=env)
        self._running.append(process)
        self._listening[process.pid] = listen
        return process

    def wait_ready(self, process: subprocess.Popen[Any]) -> None:
        """Wait until the replica has listed every kind: from then on it takes part in the election."""

        def is_ready() -> bool:
            try:
                return self._cluster.http_get(f"http://{self._listening[process.pid]}/readyz").status == 200
            except OSError:
                return False  # it does not listen yet

        self._cluster.wait(is_ready, f"the operator at {self._listening[process.pid]} is ready", 60)

    def kill(self, process: subprocess.Popen[Any]) -> None:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        self._running.remove(process)

    def terminate(self, process: subprocess.Popen[Any]) -> None:
        """SIGTERM, once: a second one may come when the handler is gone already."""
        process.terminate()
        self._running.remove(process)

    def stop(self, process: subprocess.Popen[Any]) -> int:
        self.terminate(process)
        return process.wait(15)

    def stop_all(self) -> None:
        for process in list(self._running):
            self.stop(process)

    def log(self, number: int) -> str:
        return (self._logs / f"operator-{number}.log").read_text()

    def dump(self) -> str:
        return "\n".join(path.read_text()[-4000:] for path in sorted(self._logs.glob("operator-*.log"))[-2:])


class AckingGateway:
    """Acks every published generation as a gateway replica does: under a lock of a session that dies with it."""

    def __init__(self, cluster: Cluster, replica: str) -> None:
        self._cluster = cluster
        self._replica = replica
        self._stop = threading.Event()
        self.failing: dict[str, Any] = {}
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def _put(self, path: str, body: bytes) -> Any:
        return self._cluster.http("PUT", f"{CONSUL}{path}", body=body).json()

    def _follow(self) -> None:
        session, acked = "", b""
        while not self._stop.wait(0.05):
            try:
                if not session:
                    settings = {"Name": self._replica, "TTL": "10s", "Behavior": "delete", "LockDelay": "0s"}
                    session = self._put("/v1/session/create", json.dumps(settings).encode())["ID"]
                raw = self._cluster.http_get(f"{CONSUL}/v1/kv/{wire.manifest_key()}?raw")
                if raw.status != 200:
                    continue
                manifest = wire.parse_manifest(raw.body)
                body = wire.encode_ack(Ack(self._replica, manifest.generation, manifest.digest, plugins=self.failing))
                if body != acked and self._put(f"/v1/kv/{wire.ack_key(self._replica)}?acquire={session}", body):
                    acked = body
                elif self._put(f"/v1/session/renew/{session}", b"") == []:
                    session, acked = "", b""
            except (OSError, ValueError, KeyError):
                session, acked = "", b""  # Consul is away, or has lost the session
        try:
            self._put(f"/v1/session/destroy/{session}", b"")
        except (OSError, ValueError):
            return

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()


@pytest.fixture(scope="module")
def operators(bed: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operators]:
    running = Operators(bed, tmp_path_factory.mktemp("operators"))
    yield running
    running.stop_all()


@pytest.fixture
def operator(operators: Operators) -> Iterator[subprocess.Popen[Any]]:
    yield operators.start()
    operators.stop_all()


@pytest.fixture
def gateway(bed: Cluster) -> Iterator[AckingGateway]:
    running = AckingGateway(bed, "gw-1")
    yield running
    running.stop()


@pytest.fixture(autouse=True)
def clean(bed: Cluster) -> Iterator[None]:
    yield
    for kind in ("nexusservices", "nexuspolicies", "nexusplugins"):
        bed.kubectl("delete", kind, "--all", "-n", NS)
    bed.kubectl("delete", "nexusmarketplaces", "--all")
    try:
        bed.wait(lambda: not left(bed), "the children are gone", 90)
    except ClusterError as err:
        remaining = left(bed)
        bed.kubectl("delete", "deployments,replicasets,pods", "--all", "-n", NS, "--force", "--grace-period=0")
        raise ClusterError(f"{err}\n{yaml.safe_dump(remaining)}") from err  # the next test does not suffer from it


def left(bed: Cluster) -> list[dict[str, Any]]:
    """Metadata of the children that are still there."""
    found = [*bed.find("deployments", NS), *bed.find("replicasets", NS), *bed.pods(namespace=NS)]
    return [{k: v for k, v in obj["metadata"].items() if k != "managedFields"} for obj in found]


def made_for(bed: Cluster, gateway: str, namespace: str) -> set[str]:
    """Plural kinds of what is there of a Gateway's data plane."""
    found: set[str] = set()
    for kind in (
        "deployments",
        "services",
        "secrets",
        "serviceaccounts",
        "poddisruptionbudgets",
        "horizontalpodautoscalers",
    ):
        if any(obj["metadata"]["name"] == f"{gateway}-nexus" for obj in bed.find(kind, namespace)):
            found.add(kind)
    return found


def web(name: str = "web", replicas: int = 1, **spec: Any) -> dict[str, Any]:
    """A NexusService that runs webpod.py."""
    env = [{"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]
    workload = {"image": "python:3.11", "args": [WEBPOD], "replicas": replicas, "env": env}
    return service(name, workload=workload, health={"path": "/healthz", "intervalSeconds": 1}, **spec)


def service(name: str, **spec: Any) -> dict[str, Any]:
    meta = {"name": name, "namespace": NS}
    return {"apiVersion": "nexus.dev/v1alpha1", "kind": "NexusService", "metadata": meta, "spec": spec}


def conditions(obj: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {c["type"]: c for c in obj.get("status", {}).get("conditions", ())}


def wait_condition(
    bed: Cluster,
    name: str,
    kind: str,
    status: str,
    reason: str = "",
    *,
    of: str = "nexusservice",
    timeout_s: float = 30,
) -> dict[str, Any]:
    """Return the condition once it is so for the newest generation."""
    found: dict[str, Any] = {}

    def look() -> dict[str, Any]:
        found.update(bed.get(of, name, NS))
        condition = conditions(found).get(kind, {})
        fresh = condition.get("observedGeneration") == found["metadata"]["generation"]
        return condition if fresh and condition["status"] == status and reason in ("", condition["reason"]) else {}

    try:
        return bed.wait(look, f"{name} {kind}={status} {reason}", timeout_s)
    except Exception as err:
        raise AssertionError(f"{err}\n{yaml.safe_dump(found.get('status'))}") from err


def catalog(bed: Cluster, name: str) -> dict[str, str]:
    """Address → status of the service's check in Consul."""
    entries = bed.http_get(f"{CONSUL}/v1/health/service/{name}").json()
    return {entry["Service"]["Address"]: entry["Checks"][0]["Status"] for entry in entries}


def manifest(bed: Cluster) -> wire.Manifest:
    return wire.parse_manifest(bed.http_get(f"{CONSUL}/v1/kv/{wire.manifest_key()}?raw").body)


def published(bed: Cluster) -> Any:
    found = manifest(bed)
    chunks = {c: bed.http_get(f"{CONSUL}/v1/kv/{wire.chunk_key(c)}?raw").body for c in found.chunks}
    return wire.decode(found, chunks)


def eventually(bed: Cluster, condition: Callable[[], Any], what: str, timeout_s: float = 30) -> Any:
    return bed.wait(condition, what, timeout_s)


# --- what it makes of manifests --------------------------------------------------------------------------------------------


def test_kinds_installed_later_are_found(bed: Cluster, operator: subprocess.Popen[Any], gateway: AckingGateway) -> None:
    """Without the Gateway API the operator works; once it is installed, its objects are served without a restart."""
    bed.apply(web(expose={"path": "/web"}))
    wait_condition(bed, "web", "Ready", "True")
    stand_in = ("deployments", "services", "secrets", "serviceaccounts")
    eventually(
        bed, lambda: made_for(bed, "default", "default") == set(stand_in), "a data plane stands in for a Gateway"
    )
    bed.install_gateway_api()
    bed.apply(
        [
            {"apiVersion": "gateway.networking.k8s.io/v1", "kind": "GatewayClass", "metadata": {"name": "nexus"},
             "spec": {"controllerName": "nexus.dev/gateway-controller"}},
            {"apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway", "metadata": {"name": "main", "namespace": NS},
             "spec": {"gatewayClassName": "nexus", "listeners": [{"name": "http", "port": 80, "protocol": "HTTP"}],
                      "infrastructure": {"parametersRef": {
                          "group": "nexus.dev", "kind": "NexusGatewayParameters", "name": "one"}}}},
            {"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": {"name": "r", "namespace": NS},
             "spec": {"parentRefs": [{"name": "main"}],
                      "rules": [{"backendRefs": [{"group": "nexus.dev", "kind": "NexusService", "name": "web"}]}]}},
        ]
    )  # fmt: skip

    def accepted() -> bool:
        found = bed.get("httproute", "r", NS).get("status", {}).get("parents", [])
        states = {c["type"]: c["status"] for parent in found for c in parent["conditions"]}
        return states.get("Accepted") == states.get("ResolvedRefs") == states.get("Ready") == "True"

    eventually(bed, accepted, "the HTTPRoute is live")

    def gateway_programmed() -> bool:
        found = bed.get("gateway", "main", NS)
        states = {c["type"]: c for c in found["status"].get("conditions", ())}
        fresh = all(c["observedGeneration"] == found["metadata"]["generation"] for c in states.values())
        return fresh and states["Accepted"]["status"] == states["Programmed"]["status"] == "True"

    eventually(bed, gateway_programmed, "the Gateway is programmed")
    found = bed.get("gateway", "main", NS)["status"]
    assert found["addresses"] == [{"type": "IPAddress", "value": bed.loadbalancer_ip("main-nexus", NS)}]
    assert found["listeners"][0]["attachedRoutes"] == 1
    eventually(bed, lambda: not made_for(bed, "default", "default"), "nothing stands in for a Gateway any more")
    bed.kubectl("delete", "gateway", "main", "-n", NS)


def test_a_workload_becomes_ready_and_shows_its_endpoints(
    bed: Cluster, operator: subprocess.Popen[Any], gateway: AckingGateway
) -> None:
    bed.apply(web(replicas=2, expose={"path": "/web"}))
    ready = wait_condition(bed, "web", "Ready", "True")
    assert ready["message"].startswith("live on 1/1 gateways, generation ")
    eventually(bed, lambda: bed.get("nexusservice", "web", NS)["status"].get("endpoints") == "2/2", "2/2 endpoints")
    found = bed.get("nexusservice", "web", NS)
    assert found["status"]["url"] == "http://gateway.example/web"
    assert found["status"]["observedGeneration"] == found["metadata"]["generation"]

    def mirrored() -> bool:
        pods = {pod["status"].get("podIP") for pod in bed.pods("app.kubernetes.io/name=web", NS)}
        return len(pods) == 2 and catalog(bed, f"web.{NS}") == dict.fromkeys(pods, "passing")

    eventually(bed, mirrored, "the catalog holds the two pods")

    bed.kubectl("patch", "nexusservice", "web", "-n", NS, "--type=merge", "-p", '{"spec":{"workload":{"replicas":1}}}')
    eventually(bed, lambda: bed.get("nexusservice", "web", NS)["status"].get("endpoints") == "1/1", "1/1 endpoints")
    eventually(bed, lambda: len(catalog(bed, f"web.{NS}")) == 1, "one registration is left")


def test_it_leaves_no_trace_on_what_users_own(
    bed: Cluster, operator: subprocess.Popen[Any], gateway: AckingGateway
) -> None:
    bed.apply(web())
    wait_condition(bed, "web", "Ready", "True")
    for kind in ("nexusservice", "service", "deployment"):
        found = bed.get(kind, "web", NS)
        assert "finalizers" not in found["metadata"]
        assert not [a for a in found["metadata"].get("annotations", {}) if "kopf" in a]
        assert "kopf" not in found.get("status", {})


def test_a_child_that_somebody_changes_or_deletes_is_put_back(
    bed: Cluster, operator: subprocess.Popen[Any], gateway: AckingGateway
) -> None:
    bed.apply(web())
    wait_condition(bed, "web", "Ready", "True")
    bed.kubectl("scale", "deployment", "web", "-n", NS, "--replicas=3")
    eventually(bed, lambda: bed.get("deployment", "web", NS)["spec"]["replicas"] == 1, "the edit is taken back")
    before = bed.get("service", "web", NS)["metadata"]["uid"]
    bed.kubectl("delete", "service", "web", "-n", NS)

    def again() -> bool:
        return any(s["metadata"]["name"] == "web" and s["metadata"]["uid"] != before for s in bed.find("services", NS))

    eventually(bed, again, "the Service is made again")


def test_a_removed_workload_takes_its_children_along(
    bed: Cluster, operator: subprocess.Popen[Any], gateway: AckingGateway
) -> None:
    bed.apply(web(expose={"path": "/web"}))
    wait_condition(bed, "web", "Ready", "True")
    bed.kubectl("delete", "nexusservice", "web", "-n", NS)
    bed.apply(service("web", backend={"addresses": ["10.9.9.9:80"]}, expose={"path": "/web"}))
    eventually(bed, lambda: not bed.find("deployments", NS) and not bed.find("services", NS), "no child is left")
    bed.apply(web("other"))
    wait_condition(bed, "other", "Ready", "True")
    patch = json.dumps([{"op": "remove", "path": "/spec/workload"},
                        {"op": "add", "path": "/spec/backend", "value": {"addresses": ["10.9.9.9:80"]}}])  # fmt: skip
    bed.kubectl("patch", "nexusservice", "other", "-n", NS, "--type=json", "-p", patch)
    eventually(bed, lambda: not bed.find("deployments", NS) and not bed.find("services", NS), "no child is left")
    assert wait_condition(bed, "other", "Ready", "True")
    eventually(bed, lambda: not catalog(bed, f"other.{NS}"), "its endpoints are deregistered")


def test_a_strangers_object_of_the_same_name_is_never_overwritten(
    bed: Cluster, operator: subprocess.Popen[Any], gateway: AckingGateway
) -> None:
    spec = {"selector": {"app": "mine"}, "ports": [{"port": 1234}]}
    bed.apply({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "taken", "namespace": NS}, "spec": spec})
    bed.apply(web("taken"))
    condition = wait_condition(bed, "taken", "WorkloadReady", "False", "ChildConflict")
    assert "Rename the NexusService" in condition["message"]
    assert "docs/errors/child-conflict.md" in condition["message"]
    assert bed.get("service", "taken", NS)["spec"]["ports"][0]["port"] == 1234
    bed.kubectl("delete", "service", "taken", "-n", NS)
    wait_condition(bed, "taken", "Ready", "True")


def test_two_claims_on_one_path_and_the_others_keep_working(
    bed: Cluster, operator: subprocess.Popen[Any], gateway: AckingGateway
) -> None:
    bed.apply(service("older", backend={"addresses": ["10.9.9.1:80"]}, expose={"path": "/same"}))
    wait_condition(bed, "older", "Ready", "True")
    time.sleep(1.1)  # creationTimestamp has whole seconds; the younger must be younger
    bed.apply(service("younger", backend={"addresses": ["10.9.9.2:80"]}, expose={"path": "/same"}))
    condition = wait_condition(bed, "younger", "Accepted", "False", "PathConflict")
    assert ".spec.expose" in condition["message"]
    assert "older" in condition["message"]
    assert "docs/errors/path-conflict.md" in condition["message"]
    wait_condition(bed, "older", "Ready", "True")
    bed.kubectl("delete", "nexusservice", "older", "-n", NS)
    wait_condition(bed, "younger", "Ready", "True")


def test_one_objects_change_leaves_the_others_status_alone(
    bed: Cluster, operator: subprocess.Popen[Any], gateway: AckingGateway
) -> None:
    for name in ("a", "b"):
        bed.apply(service(name, backend={"addresses": ["10.9.9.1:80"]}, expose={"path": f"/{name}"}))
        wait_condition(bed, name, "Ready", "True")
    before = bed.get("nexusservice", "a", NS)["metadata"]["resourceVersion"]
    bed.apply(service("b", backend={"addresses": ["10.9.9.2:80"]}, expose={"path": "/b"}))
    wait_condition(bed, "b", "Ready", "True")
    assert bed.get("nexusservice", "a", NS)["metadata"]["resourceVersion"] == before


def test_a_previewed_change_is_compared_and_applied_when_the_annotation_goes(
    bed: Cluster, operator: subprocess.Popen[Any], gateway: AckingGateway
) -> None:
    def paths() -> list[str]:
        return [m.path for route in published(bed).routes for rule in route.rules for m in rule.matches]

    def asked() -> bool:
        return bool(bed.http_get(f"{CONSUL}/v1/kv/{samples.wanted_key()}").status == 200)

    backend = {"addresses": ["10.9.9.9:80"]}
    # What other tests left takes requests, too, and would be what the previewed ones are compared with.
    bed.kubectl("delete", "nexusservices,httproutes", "--all", "-n", NS)
    bed.apply(service("calm", backend=backend, expose={"path": "/calm"}))
    wait_condition(bed, "calm", "Ready", "True")
    eventually(bed, lambda: paths() == ["/calm"], "nothing else takes requests")
    eventually(bed, lambda: not asked(), "nobody asks for samples")
    changed = service("calm", backend=backend, expose={"path": "/moved"})
    changed["metadata"]["annotations"] = {"nexus.dev/preview": "true"}
    fresh = service("fresh", backend=backend, expose={"path": "/fresh"})
    fresh["metadata"]["annotations"] = {"nexus.dev/preview": "true"}
    bed.apply([changed, fresh])
    wait_condition(bed, "calm", "Preview", "Unknown", "SamplePending")
    eventually(bed, asked, "the operator asks for samples")
    sample = [samples.Sample("GET", "", path) for path in ("/calm", "/calm/1", "/fresh")]
    put = bed.http("PUT", f"{CONSUL}/v1/kv/{samples.samples_key('gw-1')}", body=samples.encode_samples(sample)[0])
    assert put.status == 200
    told = wait_condition(bed, "calm", "Preview", "True", "ReplayCompared")["message"]
    assert "0 of 3 sampled requests change route; 2 would find no route; 1 would find a route" in told
    assert paths() == ["/calm"], "neither the change nor the new object serves"
    assert wait_condition(bed, "calm", "Programmed", "True")

    bed.kubectl("annotate", "nexusservice", "calm", "fresh", "-n", NS, "nexus.dev/preview-")
    eventually(bed, lambda: sorted(paths()) == ["/fresh", "/moved"], "both are applied")
    eventually(bed, lambda: "Preview" not in conditions(bed.get("nexusservice", "calm", NS)), "the condition is gone")
    eventually(bed, lambda: not asked(), "samples are no longer asked for")


def test_a_plugin_that_a_gateway_cannot_load_says_so(
    bed: Cluster, operator: subprocess.Popen[Any], gateway: AckingGateway
) -> None:
    key = "A" * 43 + "="
    bed.apply({"apiVersion": "nexus.dev/v1alpha1", "kind": "NexusMarketplace", "metadata": {"name": "official"},
               "spec": {"source": {"url": "http://10.100.0.1:9/"},
                        "publishers": [{"name": "nexus", "publicKey": key}]}})  # fmt: skip
    condition = eventually(
        bed,
        lambda: (
            (c := conditions(bed.get("nexusmarketplace", "official", NS)).get("Fetched", {})).get("status") == "False"
            and c
        ),
        "the marketplace that does not answer is reported",
    )
    assert condition["reason"] == "MarketplaceUnreachable"
    bed.apply(
        {
            "apiVersion": "nexus.dev/v1alpha1",
            "kind": "NexusPlugin",
            "metadata": {"name": "p", "namespace": NS},
            "spec": {},
        }
    )
    wait_condition(bed, "p", "Ready", "False", of="nexusplugin")


def test_what_a_service_says_of_its_plugins_is_shown(
    bed: Cluster, operator: subprocess.Popen[Any], gateway: AckingGateway
) -> None:
    """Two instances of an event hub, of which one has disabled its plugin, and then is gone."""
    publisher = (REPOSITORY / "plugins" / "index" / "nexus_plugins" / "publisher.pub").read_text().strip()
    marketplace = {
        "apiVersion": "nexus.dev/v1alpha1", "kind": "NexusMarketplace", "metadata": {"name": "official"},
        "spec": {"source": {"bundled": True}, "publishers": [{"name": "nexus", "publicKey": publisher}]},
    }  # fmt: skip
    asked = yaml.safe_load((REPOSITORY / "plugins" / "pii-mask" / "nexus_plugin_pii_mask" / "plugin.yaml").read_text())
    mask = {
        "apiVersion": "nexus.dev/v1alpha1", "kind": "NexusPlugin", "metadata": {"name": "pii-mask", "namespace": NS},
        "spec": {"marketplace": "official", "grants": {"headers": asked["permissions"]["headers"]},
                 "targetRefs": [{"group": "nexus.dev", "kind": "NexusService", "name": "hub"}]},
    }  # fmt: skip
    hub = service("hub", type="events", backend={"addresses": ["10.9.9.9:80"]}, expose={"path": "/hub"})
    bed.apply([marketplace, hub, mask])
    listed = eventually(
        bed,
        lambda: bed.http_get(f"{CONSUL}/v1/kv/nexus/services/{NS}/hub/plugins?raw").body,
        "the hub's list of plugins is written",
    )
    [wanted] = json.loads(listed)
    loaded = PluginReport("loaded", wanted["release"]["version"])
    gateway.failing = {f"{NS}/pii-mask": loaded}
    eventually(bed, lambda: _acks(bed) == [{f"{NS}/pii-mask": loaded}], "the gateway has loaded it")

    def say(instance: str, report: PluginReport) -> str:
        settings = {"TTL": "60s", "Behavior": "delete", "LockDelay": "0s"}
        session = bed.http("PUT", f"{CONSUL}/v1/session/create", body=json.dumps(settings).encode()).json()["ID"]
        path = f"/v1/kv/{service_reports.reports_key(f'{NS}/hub', instance)}?acquire={session}"
        body = service_reports.encode_reports({f"{NS}/pii-mask": report})
        assert bed.http("PUT", f"{CONSUL}{path}", body=body).json() is True
        return str(session)

    sessions = [say("hub-1", loaded)]
    wait_condition(bed, "pii-mask", "Ready", "True", of="nexusplugin")
    why = "20 of its 20 calls failed within 10 s (100 %); its budget is 50 %."
    sessions.append(say("hub-2", PluginReport("disabled", loaded.version, "PluginDisabled", why)))
    condition = wait_condition(bed, "pii-mask", "Programmed", "False", "PluginDisabled", of="nexusplugin")
    assert condition["message"].startswith(f"On 1 of 2 instances of NexusService {NS}/hub it is disabled: {why}")
    assert bed.get("nexusplugin", "pii-mask", NS)["status"]["state"] == "Disabled"
    bed.http("PUT", f"{CONSUL}/v1/session/destroy/{sessions.pop()}", body=b"")
    wait_condition(bed, "pii-mask", "Ready", "True", of="nexusplugin")
    bed.http("PUT", f"{CONSUL}/v1/session/destroy/{sessions.pop()}", body=b"")


def _acks(bed: Cluster) -> list[dict[str, PluginReport]]:
    """What the gateways say of plugins."""
    found = bed.http_get(f"{CONSUL}/v1/kv/{wire.ack_prefix()}?recurse")
    if found.status == 404:
        return []
    return [dict(wire.decode_ack(base64.b64decode(entry["Value"])).plugins) for entry in found.json()]


# --- what it survives ------------------------------------------------------------------------------------------------------


def test_kill_9_of_the_operator_loses_nothing(bed: Cluster, operators: Operators, gateway: AckingGateway) -> None:
    """Everything that changes while it is dead is made up for; generations go on."""
    first = operators.start()
    bed.apply(web(expose={"path": "/web"}))
    bed.apply(service("gone", backend={"addresses": ["10.9.9.9:80"]}, expose={"path": "/gone"}))
    wait_condition(bed, "web", "Ready", "True")
    wait_condition(bed, "gone", "Ready", "True")
    generation = manifest(bed).generation
    operators.kill(first)
    bed.kubectl("delete", "nexusservice", "gone", "-n", NS)
    [pod] = bed.pods("app.kubernetes.io/name=web", NS)
    bed.kubectl("delete", "pod", pod["metadata"]["name"], "-n", NS, "--wait=false")
    assert [r.id for r in published(bed).routes if r.id.startswith("NexusService/")] == [
        f"NexusService/{NS}/gone", f"NexusService/{NS}/web",
    ]  # fmt: skip
    operators.start()
    wanted = [f"NexusService/{NS}/web"]
    eventually(
        bed,
        lambda: [r.id for r in published(bed).routes if r.id.startswith("NexusService/")] == wanted,
        "the deleted service's route is gone",
    )
    assert manifest(bed).generation > generation
    new = eventually(
        bed,
        lambda: [
            p for p in bed.pods("app.kubernetes.io/name=web", NS) if p["metadata"]["uid"] != pod["metadata"]["uid"]
        ],
        "another pod",
    )
    eventually(
        bed,
        lambda: (
            catalog(bed, f"web.{NS}") == {new[0]["status"].get("podIP"): "passing"}
            or new.__setitem__(0, bed.pods("app.kubernetes.io/name=web", NS)[-1])
        ),
        "the catalog holds the new pod alone",
    )
    wait_condition(bed, "web", "Ready", "True")
    operators.stop_all()


def test_a_lost_consul_is_shown_and_made_up_for(
    bed: Cluster, operator: subprocess.Popen[Any], gateway: AckingGateway
) -> None:
    bed.apply(service("kept", backend={"addresses": ["10.9.9.1:80"]}, expose={"path": "/kept"}))
    wait_condition(bed, "kept", "Ready", "True")
    generation = manifest(bed).generation
    bed.kill("consul")
    bed.apply(service("late", backend={"addresses": ["10.9.9.2:80"]}, expose={"path": "/late"}))
    condition = wait_condition(bed, "late", "Programmed", "False", "ConsulUnreachable", timeout_s=60)
    assert "docs/errors/consul-unreachable.md" in condition["message"]
    assert conditions(bed.get("nexusservice", "kept", NS))["Ready"]["status"] == "True", "what is live stays so"
    bed.start("consul")
    wait_condition(bed, "late", "Ready", "True", timeout_s=60)
    assert manifest(bed).generation > generation


def test_a_lost_api_server_is_waited_for_and_no_deletion_is_missed(
    bed: Cluster, operator: subprocess.Popen[Any], gateway: AckingGateway
) -> None:
    bed.apply(service("stays", backend={"addresses": ["10.9.9.1:80"]}, expose={"path": "/stays"}))
    bed.apply(service("goes", backend={"addresses": ["10.9.9.2:80"]}, expose={"path": "/goes"}))
    wait_condition(bed, "stays", "Ready", "True")
    wait_condition(bed, "goes", "Ready", "True")
    bed.kill("kube-apiserver")
    time.sleep(2 * LEASE_S)  # longer than the Lease: the leadership is lost meanwhile
    assert operator.poll() is None
    bed.start("kube-apiserver")
    bed.kubectl("delete", "nexusservice", "goes", "-n", NS)
    wanted = [f"NexusService/{NS}/stays"]
    eventually(
        bed,
        lambda: [r.id for r in published(bed).routes if r.id.startswith("NexusService/")] == wanted,
        "the deletion is seen",
    )
    bed.apply(service("stays", backend={"addresses": ["10.9.9.3:80"]}, expose={"path": "/stays"}))
    wait_condition(bed, "stays", "Ready", "True", timeout_s=60)


def test_one_replica_writes_and_another_takes_over(bed: Cluster, operators: Operators, gateway: AckingGateway) -> None:
    def holder() -> str:
        leases = [found for found in bed.find("leases", "default") if found["metadata"]["name"] == "nexus-operator"]
        return str(leases[0]["spec"].get("holderIdentity") or "") if leases else ""

    long_s = 5 * LEASE_S
    before = holder()
    first = operators.start()
    led = eventually(bed, lambda: (h := holder()) != before and h, "the first replica leads")
    second = operators.start(long_s)
    operators.wait_ready(second)
    bed.apply(service("a", backend={"addresses": ["10.9.9.1:80"]}, expose={"path": "/a"}))
    wait_condition(bed, "a", "Ready", "True")
    assert holder() == led
    operators.kill(first)
    led = eventually(
        bed, lambda: (h := holder()) not in ("", led) and h, "the second leads once the lease has run out", 60
    )
    bed.apply(service("b", backend={"addresses": ["10.9.9.1:80"]}, expose={"path": "/b"}))
    wait_condition(bed, "b", "Ready", "True")

    third = operators.start()
    operators.wait_ready(third)
    assert holder() == led
    stopped_at = time.monotonic()
    operators.terminate(second)
    eventually(bed, lambda: holder() not in ("", led), "the third leads")
    took_s = time.monotonic() - stopped_at
    # It renewed the Lease every fifth of its time: left to run out, it would be trusted for four fifths more at least.
    assert took_s < long_s * 3 / 4, "a stopped leader releases the lease instead of letting it run out"
    assert second.wait(15) == 0
    assert third.poll() is None
    operators.stop_all()
