"""Where the test cluster keeps things: names, directories and the file that describes a running cluster.

A cluster has an id of 1-8 characters `[a-z0-9]`. Everything it leaves outside its own state directory is named after it
(`nxc-<id>` for the network namespace and the cgroup, `nxc-<id>-p<n>` for the namespaces of its pods), so that it can be
found and removed from the name alone. Knows nothing of processes.
"""

from __future__ import annotations

import os
import re
import secrets
import tempfile
from dataclasses import dataclass
from pathlib import Path

PREFIX = "nxc-"
NODE = "node1"
NODE_IP = "10.100.0.1"
"""Address of the only node: Consul, Jaeger, NATS and the kubelet listen on it."""
API_IP = "10.96.0.1"
"""Address of the `kubernetes` Service. kube-apiserver itself listens on it, so that pods need no kube-proxy to reach it."""
DNS_IP = "10.96.0.10"
SERVICE_CIDR = "10.96.0.0/16"
POD_CIDR = "10.244.0.0/16"
POD_GATEWAY_IP = "10.244.0.1"
LOADBALANCER_CIDR = "10.200.0.0/24"
API_URL = f"https://{API_IP}:443"

REPOSITORY = Path(__file__).resolve().parents[3]
PACKAGE_PARENT = Path(__file__).resolve().parents[1]
"""Directory to put on PYTHONPATH to import this package in a child process."""
COMPONENT_SOURCES = PACKAGE_PARENT / "components"

_ID = re.compile(r"[a-z0-9]{1,8}")


def new_id() -> str:
    """Return a fresh random cluster id of 6 characters."""
    return secrets.token_hex(3)


def parse_id(text: str) -> str:
    """Return `text` if it is a valid cluster id. Raises ValueError, because the id becomes part of names and paths."""
    if not _ID.fullmatch(text):
        raise ValueError(f"cluster id {text!r} is not usable: use 1 to 8 characters of a-z and 0-9")
    return text


def cache_dir() -> Path:
    """Return the directory of the built components; `NEXUS_TESTBED_CACHE` moves it."""
    return Path(os.environ.get("NEXUS_TESTBED_CACHE") or Path.home() / ".cache" / "nexus-testbed")


def states_dir() -> Path:
    """Return the directory that holds one state directory per cluster; `NEXUS_TESTBED_STATE` moves it."""
    return Path(os.environ.get("NEXUS_TESTBED_STATE") or Path(tempfile.gettempdir()) / "nexus-testbed")


def lock_path(cluster_id: str) -> Path:
    """Return the lock file that serialises start-up and removal of one cluster; it outlives the state directory."""
    return states_dir() / f".{parse_id(cluster_id)}.lock"


@dataclass(frozen=True, slots=True)
class Places:
    """The paths and names of one cluster."""

    id: str

    @property
    def root(self) -> Path:
        return states_dir() / parse_id(self.id)

    @property
    def netns(self) -> str:
        return f"{PREFIX}{self.id}"

    @property
    def netns_path(self) -> Path:
        return Path("/run/netns") / self.netns

    def pod_netns(self, number: int) -> str:
        return f"{self.netns}-p{number}"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def pki(self) -> Path:
        return self.root / "pki"

    @property
    def data(self) -> Path:
        """Data directories of etcd, Consul and NATS."""
        return self.root / "data"

    @property
    def pods(self) -> Path:
        """Volumes, pid files and root directories of running pods, one directory per pod uid."""
        return self.root / "pods"

    @property
    def pod_logs(self) -> Path:
        return self.root / "pod-logs"

    @property
    def images(self) -> Path:
        return self.root / "images.json"

    @property
    def kubeconfig(self) -> Path:
        return self.root / "admin.kubeconfig"

    @property
    def state_file(self) -> Path:
        return self.root / "cluster.json"
