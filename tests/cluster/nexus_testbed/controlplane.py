"""The daemons of a cluster: their command lines, what they wait for, and how to tell that they are ready.

Pure description; `cluster.py` starts and stops them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from nexus_testbed import places
from nexus_testbed.places import NODE_IP, Places

CONSUL_URL = f"http://{NODE_IP}:8500"
JAEGER_OTLP_URL = f"http://{NODE_IP}:4318"
JAEGER_QUERY_URL = f"http://{NODE_IP}:16686"
NATS_URL = f"nats://{NODE_IP}:4222"

# Left out on purpose: node-lifecycle (no heartbeats to judge), cloud, CSR and quota controllers.
CONTROLLERS = (
    "clusterrole-aggregation-controller",
    "cronjob-controller",
    "daemonset-controller",
    "deployment-controller",
    "disruption-controller",
    "endpoints-controller",
    "endpointslice-controller",
    "endpointslice-mirroring-controller",
    "garbage-collector-controller",
    "horizontal-pod-autoscaler-controller",
    "job-controller",
    "namespace-controller",
    "pod-garbage-collector-controller",
    "replicaset-controller",
    "root-ca-certificate-publisher-controller",
    "serviceaccount-token-controller",
    "serviceaccount-controller",
    "statefulset-controller",
    "ttl-after-finished-controller",
    "validatingadmissionpolicy-status-controller",
)


@dataclass(frozen=True, slots=True)
class Daemon:
    """One daemon: how to start it and when it is ready.

    ready: URL that answers 2xx when it is ready; https URLs are asked with the admin certificate. None: ready at once.
    ready_text: text the answer must contain.
    needs: component of the cache that is its program, None if it comes with the machine or this package.
    """

    name: str
    argv: Callable[[Places, Mapping[str, Path]], list[str]]
    ready: str | None
    ready_text: str = ""
    needs: str | None = None
    ready_within_s: float = 60.0


def _etcd(at: Places, _: Mapping[str, Path]) -> list[str]:
    client, peer = "http://127.0.0.1:2379", "http://127.0.0.1:2380"
    return [
        "etcd", f"--data-dir={at.data / 'etcd'}", f"--listen-client-urls={client}", f"--advertise-client-urls={client}",
        f"--listen-peer-urls={peer}", f"--initial-advertise-peer-urls={peer}", f"--initial-cluster=default={peer}",
        # A killed process keeps what the kernel has; only a crash of the machine would lose it, and then the test is over.
        "--unsafe-no-fsync",
    ]  # fmt: skip


def _apiserver(at: Places, programs: Mapping[str, Path]) -> list[str]:
    pki = at.pki
    return [
        str(programs["kubehost"]), "apiserver", "--etcd-servers=http://127.0.0.1:2379",
        # On the ClusterIP itself and only there: pods reach it without kube-proxy, and :443 of other addresses stays free.
        f"--bind-address={places.API_IP}", f"--advertise-address={places.API_IP}", "--secure-port=443",
        f"--service-cluster-ip-range={places.SERVICE_CIDR}",
        f"--tls-cert-file={pki}/apiserver.crt", f"--tls-private-key-file={pki}/apiserver.key",
        f"--client-ca-file={pki}/ca.crt", "--authorization-mode=Node,RBAC",
        "--service-account-issuer=https://kubernetes.default.svc", f"--service-account-key-file={pki}/sa.pub",
        f"--service-account-signing-key-file={pki}/sa.key",
        f"--kubelet-client-certificate={pki}/kubelet-client.crt", f"--kubelet-client-key={pki}/kubelet-client.key",
        f"--kubelet-certificate-authority={pki}/ca.crt", "--kubelet-preferred-address-types=InternalIP",
        "--allow-privileged=true", "--profiling=false", "--shutdown-delay-duration=0s",
    ]  # fmt: skip


def _controller_manager(at: Places, programs: Mapping[str, Path]) -> list[str]:
    return [
        str(programs["kubehost"]), "controller-manager", f"--kubeconfig={at.root}/controller-manager.kubeconfig",
        "--leader-elect=false", "--bind-address=127.0.0.1", f"--root-ca-file={at.pki}/ca.crt",
        f"--service-account-private-key-file={at.pki}/sa.key", f"--controllers={','.join(CONTROLLERS)}",
        # The defaults batch EndpointSlice changes for a big cluster's sake; tests of reactions want them at once.
        "--endpointslice-updates-batch-period=0s", "--endpoint-updates-batch-period=0s",
        # No metrics are served: autoscalers keep to their bounds and do nothing else, and tests see it soon.
        "--horizontal-pod-autoscaler-sync-period=1s",
    ]  # fmt: skip


def _scheduler(at: Places, programs: Mapping[str, Path]) -> list[str]:
    return [
        str(programs["kubehost"]), "scheduler", f"--kubeconfig={at.root}/scheduler.kubeconfig", "--leader-elect=false",
        "--bind-address=127.0.0.1",
    ]  # fmt: skip


def _consul(at: Places, programs: Mapping[str, Path]) -> list[str]:
    return [
        str(programs["consul"]), "agent", "-server", "-bootstrap-expect=1", "-ui", f"-data-dir={at.data / 'consul'}",
        f"-bind={NODE_IP}", f"-client={NODE_IP} 127.0.0.1", f"-node={places.NODE}", "-datacenter=dc1", "-disable-host-node-id",
        # A single server elects itself; the production timings would add seconds to every restart.
        '-hcl=performance { raft_multiplier = 1 } disable_update_check = true leave_on_terminate = false',
    ]  # fmt: skip


def _jaeger(_: Places, programs: Mapping[str, Path]) -> list[str]:
    return [
        str(programs["jaeger"]), "--collector.otlp.enabled=true", f"--collector.otlp.http.host-port={NODE_IP}:4318",
        f"--collector.otlp.grpc.host-port={NODE_IP}:4317", f"--query.http-server.host-port={NODE_IP}:16686",
        f"--admin.http.host-port={NODE_IP}:14269", "--memory.max-traces=20000", "--log-level=warn",
    ]  # fmt: skip


def _nats(at: Places, programs: Mapping[str, Path]) -> list[str]:
    return [str(programs["nats"]), f"--addr={NODE_IP}", "--port=4222", "--http_port=8222", "--jetstream",
            f"--store_dir={at.data / 'nats'}"]  # fmt: skip


def _kubelet(at: Places, _: Mapping[str, Path]) -> list[str]:
    return [sys.executable, "-m", "nexus_testbed.kubelet", at.id]


def _lb(at: Places, _: Mapping[str, Path]) -> list[str]:
    return [sys.executable, "-m", "nexus_testbed.lb", at.id]


DAEMONS: dict[str, Daemon] = {
    daemon.name: daemon
    for daemon in (
        Daemon("etcd", _etcd, "http://127.0.0.1:2379/health", '"true"'),
        Daemon("kube-apiserver", _apiserver, f"{places.API_URL}/readyz", needs="kubehost"),
        Daemon("kube-controller-manager", _controller_manager, "https://127.0.0.1:10257/healthz", needs="kubehost"),
        Daemon("kube-scheduler", _scheduler, "https://127.0.0.1:10259/healthz", needs="kubehost"),
        Daemon("kubelet", _kubelet, f"https://{NODE_IP}:10250/healthz"),
        Daemon("lb", _lb, "http://127.0.0.1:10256/healthz"),
        # A consistent read of what the leader itself writes: answered only when the election is over *and* the log of
        # an earlier run has been replayed (/v1/status/leader answers before that).
        Daemon("consul", _consul, f"{CONSUL_URL}/v1/catalog/nodes?consistent", f'"{places.NODE}"', needs="consul"),
        Daemon("jaeger", _jaeger, f"http://{NODE_IP}:14269/", needs="jaeger"),
        Daemon("nats", _nats, f"http://{NODE_IP}:8222/healthz", needs="nats"),
    )
}
CORE = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "lb")
OPTIONAL = ("consul", "jaeger", "nats")
