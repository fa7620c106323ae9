"""A cluster with Nexus in it, as the suite finds it: the Gateway API's CRDs of one channel, Consul, the chart, the base objects."""

from __future__ import annotations

import compileall
import datetime
import json
import os
import shutil
import time
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml
from nexus_testbed import components, controlplane, images, places
from nexus_testbed.cluster import Cluster, ClusterError, CommandError

CLASS = "nexus"
NEXUS = next(pattern for pattern in images.defaults() if "nexus/nexus" in pattern)
"""Pattern of the product's image in the cluster's table."""
NAMESPACE = "nexus-system"
USABLE_ADDRESS = "10.200.0.250"
"""An address of the load balancer's pool, for the test of static addresses; so high that nobody is given it by turn."""
UNUSABLE_ADDRESS = "10.201.0.1"
"""An address outside of the pool: a Service that asks for it stays without one."""
SETTLED_S = 1.0
PROGRAMS = ("conformance", "echo-basic", "helm")
_PRODUCT = ("core", "wire", "marketplace", "hosting", "sdk", "operator", "gateway", "plugins", "cli", "crds", "charts")


def newest_change(repository: Path = places.REPOSITORY) -> float:
    """Return when the newest file of the product was changed (seconds since 1970)."""
    files = (path for name in _PRODUCT for path in (repository / name).rglob("*.*") if "__pycache__" not in path.parts)
    return max(path.stat().st_mtime for path in files if path.is_file())


def freeze(target: Path, repository: Path = places.REPOSITORY) -> images.Image:
    """Copy the product's packages to `target` and return an image that runs them.

    A run is of one state of the checkout: somebody may edit it while pods are still to be started. Byte code comes along and
    is completed, since a container's own is gone when it ends.
    """
    project = tomllib.loads((repository / "pyproject.toml").read_text())
    packages = [Path(p) for p in project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]]
    for package in packages:
        shutil.copytree(repository / package, target / package)
    compileall.compile_dir(target, quiet=1, maxlevels=20)
    path = os.pathsep.join(str(target / package.parent) for package in packages)
    nexus = images.defaults(repository)[NEXUS]
    return images.Image(nexus.argv, {**nexus.env, "PYTHONPATH": path}, nexus.working_dir, (str(target),))


class Installation:
    """Nexus on a cluster. What it does is idempotent: a cluster that was kept is brought up to date."""

    def __init__(self, cluster: Cluster, channel: str) -> None:
        self.cluster, self.channel = cluster, channel

    @property
    def _stamp(self) -> Path:
        """Remembers the channel and when the product was installed."""
        return self.cluster.where.root / "conformance.json"

    def bring_up(self, base: str, logs: Path) -> bool:
        """Install Nexus, or bring a kept cluster up to date; return whether anything had changed.

        Raises ClusterError, with the logs of everything in `logs`.
        """
        try:
            return self.refresh(base)
        except ClusterError as err:
            self.save_state(logs)
            raise ClusterError(f"{err}\nNexus did not come up; the objects and logs of all its parts: {logs}") from err

    def install(self, base: str) -> None:
        """Install everything and wait until the operator has accepted the GatewayClass and the base pods are made.

        base: the suite's base manifests. Raises ClusterError.
        """
        began = time.time()
        self.cluster.install_gateway_api(self.channel)
        self._install_chart()
        self.wait_accepted()
        self._stamp.write_text(json.dumps({"channel": self.channel, "installed": began}))
        self.apply_base(base)
        self.wait_settled()

    def refresh(self, base: str) -> bool:
        """Bring a kept cluster up to date with the checkout; return whether anything had changed.

        Pods run the checkout's own code, so new code is a matter of starting them anew.
        """
        if not self._stamp.exists():  # its installation failed
            self.install(base)
            return True
        seen = json.loads(self._stamp.read_text())
        if seen["channel"] != self.channel:
            raise ClusterError(
                f"the cluster {self.cluster.id!r} that was kept is of channel {seen['channel']}, and a cluster keeps its"
                f" channel for life; remove it first: tests/conformance/gateway_api/run.py --down"
            )
        if newest_change() <= seen["installed"]:
            self.wait_settled()
            return False
        began = time.time()
        self._install_chart()
        stale = [pod for pod in self.pods() if began > _created(pod)]
        for pod in stale:
            meta = pod["metadata"]
            self.cluster.kubectl(
                "delete", "pod", meta["name"], "-n", meta["namespace"], "--grace-period=1", "--wait=false"
            )
        self.cluster.wait(lambda: self._all_new(began), "the pods of Nexus to be started anew", 60)
        self.wait_accepted()
        self._stamp.write_text(json.dumps({**seen, "installed": began}))
        self.wait_settled()
        return True

    def _install_chart(self) -> None:
        frozen = self.cluster.where.root / f"product-{time.time_ns()}"
        self.cluster.add_image(NEXUS, freeze(frozen))
        crds = places.REPOSITORY / "charts" / "nexus" / "crds"
        self.cluster.kubectl("apply", "--server-side", "--force-conflicts", "-f", str(crds))  # Helm never updates CRDs
        self.cluster.helm(
            "upgrade", "--install", "nexus", str(places.REPOSITORY / "charts" / "nexus"),
            "--namespace", NAMESPACE, "--create-namespace", "--skip-crds",
            "--set", f"consul.url={controlplane.CONSUL_URL}", "--set", f"gatewayClass.name={CLASS}",
            # The suite brings its own Gateways. One replica of each part: the machine may have two cores.
            "--set", "defaultGateway.create=never", "--set", "operator.replicas=1", "--set", "gateway.replicas=1",
            "--wait", "--timeout", "120s",
        )  # fmt: skip

    def wait_accepted(self) -> None:
        """Wait until the operator has accepted the GatewayClass as it is now."""

        def is_accepted() -> bool:
            found = self.cluster.get("gatewayclass", CLASS)
            return any(
                c["type"] == "Accepted" and c["status"] == "True"
                and c.get("observedGeneration") == found["metadata"]["generation"]
                for c in (found.get("status") or {}).get("conditions") or ()
            )  # fmt: skip

        self.cluster.wait(is_accepted, f"GatewayClass {CLASS} to be accepted", 60)

    def claimed(self) -> frozenset[str]:
        """Return the features that the operator claims in the GatewayClass's status."""
        found = self.cluster.get("gatewayclass", CLASS)
        return frozenset(f["name"] for f in (found.get("status") or {}).get("supportedFeatures") or ())

    def apply_base(self, base: str) -> None:
        """Apply the suite's base manifests, the Gateways excepted, ahead of it, and wait until every pod of them exists.

        The suite does the same, and then waits for the pods that it sees: on a slow machine there may be none yet.
        """
        objects = [found for found in yaml.safe_load_all(base) if found and found["kind"] != "Gateway"]
        # Client-side, as the suite's own later update: a server-side owner would only be in its way.
        self.cluster.kubectl("apply", "-f", "-", input=yaml.safe_dump_all(objects))
        wanted: dict[str, int] = {}
        for found in objects:
            if found["kind"] == "Deployment":
                namespace = found["metadata"]["namespace"]
                wanted[namespace] = wanted.get(namespace, 0) + found["spec"].get("replicas", 1)
        self.cluster.wait(
            lambda: all(len(self.cluster.pods("", namespace)) >= number for namespace, number in wanted.items()),
            f"the base pods to be made: {wanted}",
            60,
        )

    def wait_settled(self) -> None:
        """Wait until nobody has changed what the suite is about to update for a second.

        It reads each base object and writes it back, and ends at once if a controller wrote a status in between.
        """
        seen: tuple[float, dict[str, str]] = (0.0, {})

        def is_settled() -> bool:
            nonlocal seen
            found = json.loads(self.cluster.kubectl("get", "deployments,services,gateways", "-A", "-o", "json"))[
                "items"
            ]
            now = {item["metadata"]["uid"]: item["metadata"]["resourceVersion"] for item in found}
            if now != seen[1]:
                seen = (time.monotonic(), now)
            return time.monotonic() - seen[0] >= SETTLED_S

        self.cluster.wait(is_settled, "the base objects to settle", 120)

    def pods(self) -> list[dict[str, Any]]:
        """Return the pods of Nexus, of all namespaces: operators and data planes."""
        found = json.loads(self.cluster.kubectl("get", "pods", "-A", "-o", "json"))["items"]
        return [pod for pod in found if any("nexus/nexus" in c["image"] for c in pod["spec"]["containers"])]

    def _all_new(self, since: float) -> bool:
        pods = self.pods()
        ready = [
            any(c["type"] == "Ready" and c["status"] == "True" for c in p["status"].get("conditions") or ())
            for p in pods
        ]
        return bool(pods) and all(ready) and all(_created(pod) >= int(since) for pod in pods)

    def save_state(self, directory: Path) -> None:
        """Write what the cluster holds and what it logged to a directory, for whoever looks for the cause of a failure."""
        directory.mkdir(parents=True, exist_ok=True)
        kinds = ("gatewayclasses", "gateways", "listenersets", "httproutes", "grpcroutes", "tlsroutes", "tcproutes", "udproutes",
                 "backendtlspolicies", "services", "deployments", "pods", "events")  # fmt: skip
        for kind in kinds:
            try:
                text = self.cluster.kubectl("get", kind, "-A", "-o", "yaml")
            except CommandError as err:
                text = f"# {err}"
            (directory / f"{kind}.yaml").write_text(text)
        for daemon in self.cluster.daemons:
            (directory / f"daemon-{daemon}.log").write_text(self.cluster.log(daemon, 2000))
        # Of pods that have ended too: a test takes its Gateway with it.
        shutil.copytree(self.cluster.where.pod_logs, directory / "pod-logs", dirs_exist_ok=True)


def _created(pod: dict[str, Any]) -> float:
    text = pod["metadata"]["creationTimestamp"]
    return datetime.datetime.fromisoformat(text).timestamp()


def ensure_programs(names: Iterable[str] = PROGRAMS) -> dict[str, Path]:
    """Build what is missing of the programs a run needs. Raises components.BuildError."""
    return components.ensure(list(names))
