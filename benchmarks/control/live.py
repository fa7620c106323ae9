"""The control plane on the test cluster: how soon an edit is served, and what the operator holds in memory.

Everything is real: kube-apiserver, Consul, the operator and a gateway, installed by the chart. Time begins when `kubectl apply` has
returned and ends with the first answer that shows the edit, asked for on a kept connection.
"""

from __future__ import annotations

import http.client
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from nexus_testbed.cluster import Cluster

from control import worlds

REPOSITORY = Path(__file__).parent.parent.parent
NODE = "10.100.0.1"
SYSTEM, NAMESPACE = "nexus-system", "bench"
PORT = 9100
PAUSE_S = 0.004
LONGEST_S = 30.0
_AT_ONCE = 250
"""Manifests in one `kubectl apply`."""


@contextmanager
def cluster() -> Iterator[Cluster]:
    """A cluster with Nexus installed: one operator, one data plane a Gateway that asks for one."""
    with Cluster(components=("consul",)) as running:
        running.install_gateway_api()
        running.helm(
            "install", "nexus", str(REPOSITORY / "charts" / "nexus"),
            "--namespace", SYSTEM, "--create-namespace",
            "--set", f"consul.url=http://{NODE}:8500", "--set", "operator.replicas=1", "--set", "gateway.replicas=1",
            "--wait", "--timeout", "120s",
        )  # fmt: skip
        running.kubectl("create", "namespace", NAMESPACE)
        yield running


def apply(running: Cluster, manifests: list[worlds.Manifest]) -> None:
    """Apply many manifests, some hundred at once."""
    for at in range(0, len(manifests), _AT_ONCE):
        text = yaml.dump_all(manifests[at : at + _AT_ONCE], Dumper=getattr(yaml, "CSafeDumper", yaml.SafeDumper))
        running.kubectl("apply", "--server-side", "-f", "-", input=text, timeout_s=300.0)


def backend() -> list[worlds.Manifest]:
    """Return a Service whose only endpoint is a process on the node."""
    labels = {"kubernetes.io/service-name": "backend"}
    return [
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "backend", "namespace": NAMESPACE},
         "spec": {"ports": [{"name": "http", "port": 80, "targetPort": PORT}]}},
        {"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
         "metadata": {"name": "backend-1", "namespace": NAMESPACE, "labels": labels},
         "addressType": "IPv4", "ports": [{"name": "http", "port": PORT, "protocol": "TCP"}],
         "endpoints": [{"addresses": [NODE], "conditions": {"ready": True}}]},
    ]  # fmt: skip


def route(number: int, edition: int) -> worlds.Manifest:
    """Return a route whose answers say which edition of it was live."""
    return {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": {"name": f"route-{number}", "namespace": NAMESPACE},
        "spec": {
            "parentRefs": [{"name": "nexus", "namespace": SYSTEM}],
            "hostnames": [f"r{number}.bench.example"],
            "rules": [
                {
                    "filters": [
                        {
                            "type": "ResponseHeaderModifier",
                            "responseHeaderModifier": {"set": [{"name": "x-edition", "value": str(edition)}]},
                        }
                    ],
                    "backendRefs": [{"name": "backend", "port": 80}],
                }
            ],
        },
    }


class Asker:
    """One kept connection to the gateway."""

    def __init__(self, running: Cluster, address: str) -> None:
        self._running, self._address = running, address
        self._connection: http.client.HTTPConnection | None = None

    def edition(self, number: int) -> str | None:
        """Return the edition that a route's answer shows; None when it was no answer of the backend."""
        if self._connection is None:
            self._connection = http.client.HTTPConnection(self._address, 80, timeout=5)
            self._connection.sock = self._running.connect(self._address, 80)
        try:
            self._connection.request("GET", "/", headers={"Host": f"r{number}.bench.example"})
            answer = self._connection.getresponse()
            answer.read()
        except (OSError, http.client.HTTPException):
            self._connection.close()
            self._connection = None
            return None
        return answer.getheader("x-edition") if answer.status == 200 else None


def edits(running: Cluster, routes: int, count: int) -> dict[str, float]:
    """Return how long after `kubectl apply` an edit of one of `routes` routes is served."""
    server = running.spawn_in_net([sys.executable, "-m", "http.server", str(PORT), "--bind", NODE, "--directory", "/var/empty"
                                   if Path("/var/empty").is_dir() else str(REPOSITORY / "benchmarks")],
                                  stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
    try:
        apply(running, backend())
        started = time.monotonic()
        apply(running, [route(number, 0) for number in range(routes)])
        address = gateway_address(running)
        asker = Asker(running, address)
        _until(lambda: asker.edition(routes - 1) == "0")
        _until(lambda: ready(running) == routes, 300.0)
        all_ready_s = time.monotonic() - started
        took: list[float] = []
        for edition in range(1, count + 1):
            number = edition * 37 % routes
            running.kubectl("apply", "--server-side", "-f", "-", input=yaml.safe_dump(route(number, edition)))
            begun = time.monotonic()
            _until(lambda number=number, edition=edition: asker.edition(number) == str(edition))  # type: ignore[misc]
            took.append(time.monotonic() - begun)
        took.sort()
        return {
            "routes": routes,
            "edits": count,
            "all_ready_s": round(all_ready_s, 2),
            "live_p50_s": round(statistics.median(took), 3),
            "live_p99_s": round(took[min(len(took) - 1, int(len(took) * 0.99))], 3),
            "live_max_s": round(took[-1], 3),
        }
    finally:
        server.kill()
        server.wait()


def crowd(running: Cluster, gateways: int, routes: int) -> dict[str, float]:
    """Return what the operator holds with many Gateways (without pods of their own) and routes, all statuses written."""
    parameters = {
        "apiVersion": "nexus.dev/v1alpha1",
        "kind": "NexusGatewayParameters",
        "metadata": {"name": "none", "namespace": "edge"},
        "spec": {"replicas": 0},
    }
    manifests = [_bare(manifest) for manifest in worlds.world(gateways, routes) if manifest["kind"] != "GatewayClass"]
    for manifest in manifests:
        if manifest["kind"] == "Gateway":
            reference = {"group": "nexus.dev", "kind": "NexusGatewayParameters", "name": "none"}
            manifest["spec"]["infrastructure"] = {"parametersRef": reference}
    for name in ["edge", *(f"team-{number}" for number in range(20))]:
        running.kubectl("create", "namespace", name)
    apply(running, [parameters, *manifests])
    started = time.monotonic()
    _until(lambda: accepted(running) >= routes, 600.0, pause_s=3.0)  # each look costs the API server a second
    pod = running.pods("app.kubernetes.io/component=operator", SYSTEM)[0]["metadata"]["name"]
    pid = running.pod_pid(pod, SYSTEM)
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return {
        "gateways": gateways,
        "routes": routes,
        "statuses_s": round(time.monotonic() - started, 1),
        "operator_rss_mb": round(int(fields["VmRSS"].split()[0]) / 1024, 1),
        "operator_peak_mb": round(int(fields["VmHWM"].split()[0]) / 1024, 1),
    }


def gateway_address(running: Cluster) -> str:
    """Return the address of the chart's Gateway, once it has one."""
    found: list[str] = []

    def there() -> bool:
        status = running.get("gateway", "nexus", SYSTEM).get("status", {})
        found[:] = [each["value"] for each in status.get("addresses") or ()]
        return bool(found)

    _until(there, 120.0)
    return found[0]


def ready(running: Cluster) -> int:
    """Return how many routes of the bench are Ready."""
    return _count(running, "Ready", "-n", NAMESPACE)


def accepted(running: Cluster) -> int:
    """Return how many routes of the crowd have been judged."""
    return _count(running, "Accepted", "-A")


def _count(running: Cluster, condition: str, *where: str) -> int:
    items: list[dict[str, Any]] = json.loads(
        running.kubectl("get", "httproutes", *where, "-o", "json", timeout_s=300.0)
    )["items"]
    return sum(
        any(
            each["type"] == condition and each["status"] == "True"
            for parent in item.get("status", {}).get("parents", ())
            for each in parent["conditions"]
        )
        for item in items
        if item["metadata"]["namespace"] != SYSTEM
    )


def _bare(manifest: worlds.Manifest) -> worlds.Manifest:
    kept = {key: manifest["metadata"][key] for key in ("name", "namespace") if key in manifest["metadata"]}
    return {**manifest, "metadata": kept}


def _until(condition: Any, longest_s: float = LONGEST_S, pause_s: float = PAUSE_S) -> None:
    end = time.monotonic() + longest_s
    while not condition():
        if time.monotonic() > end:
            raise SystemExit(
                f"It did not come about within {longest_s:g} s; see the operator's and the gateway's logs."
            )
        time.sleep(pause_s)
