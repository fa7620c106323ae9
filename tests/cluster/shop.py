"""The shop on the test cluster, as the cluster tests use it: short words for what a user does by hand."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import yaml
from nexus_testbed import images
from nexus_testbed.cluster import Cluster, ClusterError, CommandError

T = TypeVar("T")
REPOSITORY = Path(__file__).parent.parent.parent
NODE = "10.100.0.1"
GATEWAY_PORT = 80
"""Where a gateway pod listens: at its listener's own port."""
GATEWAY_NAME = "gateway.networking.k8s.io/gateway-name"
NO_ANSWER = (7, 28, 52, 56)
"""What curl ends with: refused, too late, an empty reply, broken off."""


class Shop:
    """Nexus installed by its chart, and `examples/shop` applied.

    gateway: base URL of the gateway's load balancer. consul, jaeger: base URLs of the real ones.
    """

    namespace = "shop"
    namespace_of_nexus = "nexus-system"
    consul = f"http://{NODE}:8500"
    jaeger = f"http://{NODE}:16686"

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.gateway = ""

    def install(self) -> None:
        """helm install, kubectl apply, wait until every service is Ready."""
        bare = images.defaults()[r"^(docker\.io/library/)?python(:|@|$)"]
        for name in ("catalog", "orders", "web"):  # what the images' entrypoints would be
            argv = (*bare.argv, "-m", f"shop_{name}")
            self.cluster.add_image(rf"^shop/{name}(:|@|$)", images.Image(argv, bare.env))
        self.cluster.install_gateway_api()
        self.cluster.helm(
            "install", "nexus", str(REPOSITORY / "charts" / "nexus"),
            "--namespace", self.namespace_of_nexus, "--create-namespace",
            "--set", f"consul.url={self.consul}", "--set", f"otlp.endpoint=http://{NODE}:4318",
            "--wait", "--timeout", "120s",
        )  # fmt: skip
        self.cluster.kubectl("apply", "-f", str(REPOSITORY / "examples" / "shop"))
        self.gateway = f"http://{self.address_of('nexus')}"
        for service in self.services():
            self.wait_ready(service)

    def address_of(self, gateway: str) -> str:
        """Return the first address of a Gateway of the release once it is programmed."""

        def find() -> str:
            status = self.cluster.get("gateway", gateway, self.namespace_of_nexus).get("status", {})
            programmed = {c["type"]: c["status"] for c in status.get("conditions", ())}.get("Programmed")
            return str(status["addresses"][0]["value"]) if programmed == "True" else ""

        return self.eventually(find, f"Gateway {gateway} is programmed", 90)

    def services(self) -> list[str]:
        return [item["metadata"]["name"] for item in self.cluster.find("nexusservices", self.namespace)]

    # --- what a person types -------------------------------------------------------------------------------------------

    def kubectl(self, *args: str, input: str | None = None) -> str:  # noqa: A002 - subprocess's word
        return self.cluster.kubectl("--namespace", self.namespace, *args, input=input)

    def curl(self, path: str, *options: str) -> str:
        """Return the body; raises CommandError for a failed transfer or a status of 400 and above."""
        return self.cluster.run_in_net(
            ["curl", "-sS", "--fail-with-body", "--max-time", "10", *options, f"{self.gateway}{path}"]
        )

    def status_of(self, path: str, *options: str) -> int:
        """Return the status, 0 if there was no answer within ten seconds or the connection broke."""
        argv = [
            "curl",
            "-sS",
            "-o",
            "/dev/null",
            "-w",
            "%{http_code}",
            "--max-time",
            "10",
            *options,
            f"{self.gateway}{path}",
        ]
        try:
            return int(self.cluster.run_in_net(argv))
        except CommandError as err:
            if err.code not in NO_ANSWER:
                raise
            return 0

    def apply(self, document: dict[str, Any], *, namespaced: bool = True) -> None:
        if namespaced:
            document = {**document, "metadata": {"namespace": self.namespace, **document["metadata"]}}
        self.cluster.kubectl("apply", "-f", "-", input=yaml.safe_dump(document))

    def refused(self, document: dict[str, Any]) -> str:
        """Return what kubectl prints when the API server refuses the object; fails when it does not."""
        try:
            self.apply(document)
        except CommandError as err:
            return str(err)
        self.kubectl("delete", document["kind"].lower(), document["metadata"]["name"])
        raise AssertionError(f"the API server accepted {document}")

    # --- what they look at ---------------------------------------------------------------------------------------------

    def get(self, kind: str, name: str) -> dict[str, Any]:
        return self.cluster.get(kind, name, self.namespace)

    def running_pods(self, service: str) -> list[str]:
        """Names of a service's pods that are not on their way out."""
        found = self.cluster.pods(f"app.kubernetes.io/name={service}", self.namespace)
        return [pod["metadata"]["name"] for pod in found if "deletionTimestamp" not in pod["metadata"]]

    def gateway_pods(self) -> list[dict[str, Any]]:
        """The pods of the default Gateway's data plane."""
        return self.cluster.pods(f"{GATEWAY_NAME}=nexus", self.namespace_of_nexus)

    def operator_pods(self) -> list[dict[str, Any]]:
        return self.cluster.pods("app.kubernetes.io/component=operator", self.namespace_of_nexus)

    def publishers(self) -> list[dict[str, str]]:
        found: list[dict[str, str]] = json.loads(self.kubectl("get", "nexusmarketplace", "official", "-o", "json"))[
            "spec"
        ]["publishers"]
        return found

    def port_of(self, service: str) -> int:
        return int(self.get("service", service)["spec"]["ports"][0]["port"])

    # --- waiting -------------------------------------------------------------------------------------------------------

    def eventually(self, condition: Callable[[], T], what: str, timeout_s: float = 30.0) -> T:
        return self.cluster.wait(condition, what, timeout_s)

    def wait_condition(
        self, kind: str, name: str, condition_type: str, status: str, *, reason: str = "", timeout_s: float = 40.0
    ) -> dict[str, Any]:
        """Return the condition once it is there for the object's newest generation; the error shows all conditions."""
        deadline = time.monotonic() + timeout_s
        while True:
            found = self.get(kind, name)
            conditions = found.get("status", {}).get("conditions", [])
            for condition in conditions:
                if (
                    condition["type"] == condition_type
                    and condition["status"] == status
                    and condition.get("observedGeneration") == found["metadata"]["generation"]
                    and reason in ("", condition["reason"])
                ):
                    return dict(condition)
            if time.monotonic() > deadline:
                raise AssertionError(
                    f"{kind} {name} is not {condition_type}={status} {reason}: {json.dumps(conditions, indent=1)}"
                )
            time.sleep(0.1)

    def wait_each_gateway(self, path: str, status: int, what: str, timeout_s: float = 30.0) -> None:
        """Wait until every gateway pod, asked by itself, answers the path with that status.

        What the load balancer answers is one gateway's word: the next request may reach another, which learns of a change
        in its own time.
        """

        def answered(pod: dict[str, Any]) -> int:
            address = pod["status"].get("podIP")
            if not address:
                return 0
            try:
                return self.cluster.http_get(f"http://{address}:{GATEWAY_PORT}{path}").status
            except (OSError, http.client.HTTPException):
                return 0

        seen: dict[str, int] = {}

        def all_answer() -> bool:
            seen.clear()
            seen.update({pod["metadata"]["name"]: answered(pod) for pod in self.gateway_pods()})
            return bool(seen) and set(seen.values()) == {status}

        try:
            self.cluster.wait(all_answer, f"{what}: {path} answers {status} at each gateway", timeout_s)
        except ClusterError as err:
            raise AssertionError(f"{err}\nanswered at last: {seen}") from err

    def wait_ready(self, service: str, *, endpoints: str = "", timeout_s: float = 60.0) -> None:
        self.wait_condition("nexusservice", service, "Ready", "True", timeout_s=timeout_s)
        if endpoints:
            self.cluster.wait(
                lambda: str(self.get("nexusservice", service).get("status", {}).get("endpoints")) == endpoints,
                f"{service} has {endpoints} endpoints",
                timeout_s,
            )
