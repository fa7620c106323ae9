"""A NexusService's workload as a Deployment and a Service.

The rendered objects hold the fields the operator owns and no others: server-side apply leaves the rest to whoever set it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from nexus_core.model.base import Model
from nexus_core.model.resources import Resource
from nexus_core.model.services import Health, NexusServiceSpec
from nexus_core.model.workloads import Probe, Volume, Workload

from nexus_operator.settings import WorkloadSecurity
from nexus_operator.world.inventory import Object
from nexus_operator.world.kinds import DEPLOYMENT, MANAGED_BY, NEXUS_SERVICE, SERVICE

CONTAINER = "service"
PORT_NAME = "http"
DEFAULT_PREFIX = "nexus"
"""What the SDK takes NEXUS_CONSUL_PREFIX to be when it is not told. Telling anyhow would start every workload anew on an upgrade."""
DATA_VOLUME = "data"
"""A volume of this name is where the SDK and the platform services keep their state."""
PRE_STOP_S = 3
"""A stopping pod keeps serving for so long, while its endpoint leaves Consul and the gateways."""
GRACE_S = 45
"""preStop, the SDK's drain (10 s by default) and room for programs that drain longer."""


PROGRESS_DEADLINE_S = 120
"""After so long without progress the status says WorkloadFailed. Kubernetes' 600 leaves people with a wrong image waiting.
It changes what is said and nothing else: a rollout that is slower goes on and becomes ready."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What every rendered workload is told. Empty strings are left out."""

    consul_url: str = ""
    consul_prefix: str = ""
    otlp_endpoint: str = ""
    security: WorkloadSecurity = "compatible"


def render(resource: Resource, surroundings: Surroundings) -> tuple[Object, ...]:
    """Return the Deployment and the Service of a NexusService, or nothing when it has no workload."""
    spec = resource.spec
    if not isinstance(spec, NexusServiceSpec) or spec.workload is None:
        return ()
    workload = spec.workload
    transport = "UDP" if spec.type == "udp" else "TCP"
    name, namespace = resource.ref.name, resource.ref.namespace
    identity = {"app.kubernetes.io/name": name, "app.kubernetes.io/instance": f"{name}.{namespace}"[:63].rstrip("-._")}
    labels = {**identity, MANAGED_BY[0]: MANAGED_BY[1], "app.kubernetes.io/part-of": "nexus"}
    meta = {"name": name, "namespace": namespace, "labels": labels, "ownerReferences": [_owner(resource)]}
    service = {
        "apiVersion": SERVICE.api_version,
        "kind": SERVICE.kind,
        "metadata": meta,
        "spec": {
            "selector": identity,
            "ports": [
                {
                    "name": PORT_NAME,
                    "port": workload.port,
                    "targetPort": PORT_NAME,
                    "protocol": transport,
                    **({"appProtocol": "kubernetes.io/h2c"} if spec.type == "grpc" else {}),
                }
            ],
        },
    }
    deployment = {
        "apiVersion": DEPLOYMENT.api_version,
        "kind": DEPLOYMENT.kind,
        "metadata": meta,
        "spec": {
            "replicas": workload.replicas,
            "selector": {"matchLabels": identity},
            "strategy": _strategy(workload),
            "progressDeadlineSeconds": PROGRESS_DEADLINE_S,
            "template": {
                "metadata": {"labels": labels},
                "spec": _pod(resource, spec, workload, transport, surroundings),
            },
        },
    }
    return deployment, service


def _owner(resource: Resource) -> dict[str, Any]:
    return {
        "apiVersion": NEXUS_SERVICE.api_version,
        "kind": NEXUS_SERVICE.kind,
        "name": resource.ref.name,
        "uid": resource.raw["metadata"]["uid"],
        "controller": True,
        "blockOwnerDeletion": True,
    }


def _strategy(workload: Workload) -> dict[str, Any]:
    if any(_volume_source(v)[0] == "persistentVolumeClaim" for v in workload.volumes):
        # Two pods must not write one disk at once (and most disks mount on one node only). An emptyDir needs no such care:
        # each pod has its own, and what was in the old pod's goes with it.
        return {"type": "Recreate"}
    return {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}}


def _pod(
    resource: Resource, spec: NexusServiceSpec, workload: Workload, transport: str, surroundings: Surroundings
) -> dict[str, Any]:
    container: dict[str, Any] = {
        "name": CONTAINER,
        "image": workload.image,
        "ports": [{"name": PORT_NAME, "containerPort": workload.port, "protocol": transport}],
        "env": _env(resource, workload, surroundings),
        "lifecycle": {"preStop": {"sleep": {"seconds": PRE_STOP_S}}},
    }
    if workload.command:
        container["command"] = list(workload.command)
    if workload.args:
        container["args"] = list(workload.args)
    if workload.image_pull_policy:
        container["imagePullPolicy"] = workload.image_pull_policy
    if workload.resources is not None:
        container["resources"] = {kind: amounts for kind, amounts in _dump(workload.resources).items() if amounts}
    container.update(_probes(spec.type, workload, spec.health or Health()))
    pod: dict[str, Any] = {
        "containers": [container],
        "terminationGracePeriodSeconds": GRACE_S,
        # Workloads have no business with the Kubernetes API unless they ask for an account of their own.
        "automountServiceAccountToken": bool(workload.service_account_name),
    }
    if workload.service_account_name:
        pod["serviceAccountName"] = workload.service_account_name
    if workload.volumes:
        pod["volumes"] = [{"name": v.name, _volume_source(v)[0]: _volume_source(v)[1]} for v in workload.volumes]
        container["volumeMounts"] = [{"name": v.name, "mountPath": v.mount_path} for v in workload.volumes]
    if surroundings.security != "none":
        container["securityContext"] = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
        pod["securityContext"] = {"seccompProfile": {"type": "RuntimeDefault"}}
    if surroundings.security == "restricted":
        pod["securityContext"]["runAsNonRoot"] = True
    return pod


def _env(resource: Resource, workload: Workload, surroundings: Surroundings) -> list[dict[str, Any]]:
    """The contract's variables and the user's, the user's winning, in a stable order: ours first, then as written."""
    own: list[dict[str, Any]] = [
        {"name": "NEXUS_SERVICE_NAME", "value": resource.ref.name},
        {"name": "NEXUS_NAMESPACE", "value": resource.ref.namespace},
        {"name": "PORT", "value": str(workload.port)},
        # The operator mirrors the pods into Consul by their readiness; a second registration would outlive it.
        {"name": "NEXUS_CONSUL_REGISTER", "value": "false"},
        {
            "name": "NEXUS_ADVERTISE_ADDRESS",
            "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "status.podIP"}},
        },
    ]
    if surroundings.consul_url:
        own.append({"name": "NEXUS_CONSUL_URL", "value": surroundings.consul_url})
    if surroundings.consul_prefix not in ("", DEFAULT_PREFIX):
        own.append({"name": "NEXUS_CONSUL_PREFIX", "value": surroundings.consul_prefix})
    if surroundings.otlp_endpoint:
        own.append({"name": "OTEL_EXPORTER_OTLP_ENDPOINT", "value": surroundings.otlp_endpoint})
    data = next((v.mount_path for v in workload.volumes if v.name == DATA_VOLUME), "")
    if data:
        own.append({"name": "NEXUS_DATA_DIR", "value": data})
    theirs = [_dump(entry) for entry in workload.env]
    taken = {entry["name"] for entry in theirs}
    return [*(entry for entry in own if entry["name"] not in taken), *theirs]


def _probes(kind: str, workload: Workload, health: Health) -> dict[str, Any]:
    """The probes that are asked for. Readiness is asked for anyhow: by HTTP, or by a connection where HTTP/1.1 is not spoken. Of UDP
    nothing can be asked.
    """
    given = workload.probes
    probes = {
        "readinessProbe": given.readiness if given else None,
        "livenessProbe": given.liveness if given else None,
        "startupProbe": given.startup if given else None,
    }
    rendered = {name: _probe(probe) for name, probe in probes.items() if probe is not None}
    if kind == "udp":
        return rendered
    asked: dict[str, Any] = (
        {"tcpSocket": {"port": PORT_NAME}}
        if kind in ("grpc", "tcp")
        else {"httpGet": {"path": health.path, "port": PORT_NAME}}
    )
    return {"readinessProbe": {**asked, "periodSeconds": max(1, round(health.interval_seconds))}, **rendered}


def _probe(probe: Probe) -> dict[str, Any]:
    fields = _dump(probe)
    path, port = fields.pop("path"), fields.pop("port", PORT_NAME)
    return {"httpGet": {"path": path, "port": port}, **fields}


def _volume_source(volume: Volume) -> tuple[str, dict[str, Any]]:
    [(kind, source)] = [(k, v) for k, v in _dump(volume).items() if k not in ("name", "mountPath")]
    return kind, source


def _dump(model: Model) -> dict[str, Any]:
    """Return a model as users write it, without what they did not write."""
    return model.model_dump(by_alias=True, exclude_none=True, mode="json")
