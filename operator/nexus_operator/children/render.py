"""A NexusService's workload as a Deployment and a Service.

The rendered objects hold the fields the operator owns and no others: server-side apply leaves the rest to whoever set it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nexus_core.model.load import Resource

from nexus_operator.settings import WorkloadSecurity
from nexus_operator.world.inventory import Object
from nexus_operator.world.kinds import DEPLOYMENT, MANAGED_BY, NEXUS_SERVICE, SERVICE

CONTAINER = "service"
PORT_NAME = "http"
DATA_VOLUME = "data"
"""A volume of this name is where the SDK and the platform services keep their state."""
PRE_STOP_S = 3
"""A stopping pod keeps serving for so long, while its endpoint leaves Consul and the gateways."""
GRACE_S = 45
"""preStop, the SDK's drain (10 s by default) and room for programs that drain longer."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What every rendered workload is told. Empty strings are left out."""

    consul_url: str = ""
    otlp_endpoint: str = ""
    security: WorkloadSecurity = "compatible"


def render(resource: Resource, surroundings: Surroundings) -> tuple[Object, ...]:
    """Return the Deployment and the Service of a NexusService, or nothing when it has no workload."""
    spec = resource.spec
    workload = getattr(spec, "workload", None)
    if workload is None:
        return ()
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
            "ports": [{"name": PORT_NAME, "port": workload.port, "targetPort": PORT_NAME, "protocol": "TCP"}],
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
            "template": {"metadata": {"labels": labels}, "spec": _pod(resource, workload, surroundings)},
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


def _strategy(workload: Any) -> dict[str, Any]:
    if any(_volume_source(v)[0] == "persistentVolumeClaim" for v in workload.volumes):
        # Two pods must not write one disk at once (and most disks mount on one node only).
        return {"type": "Recreate"}
    return {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}}


def _pod(resource: Resource, workload: Any, surroundings: Surroundings) -> dict[str, Any]:
    container: dict[str, Any] = {
        "name": CONTAINER,
        "image": workload.image,
        "ports": [{"name": PORT_NAME, "containerPort": workload.port, "protocol": "TCP"}],
        "env": _env(resource, workload, surroundings),
        "lifecycle": {"preStop": {"sleep": {"seconds": PRE_STOP_S}}},
    }
    if workload.command:
        container["command"] = list(workload.command)
    if workload.args:
        container["args"] = list(workload.args)
    if workload.image_pull_policy:
        container["imagePullPolicy"] = workload.image_pull_policy
    resources = _dump(workload.resources)
    if resources:
        container["resources"] = resources
    container.update(_probes(resource, workload))
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


def _env(resource: Resource, workload: Any, surroundings: Surroundings) -> list[dict[str, Any]]:
    """The contract's variables and the user's, the user's winning, in a stable order: ours first, then as written."""
    own: list[dict[str, Any]] = [
        {"name": "NEXUS_SERVICE_NAME", "value": resource.ref.name},
        {"name": "NEXUS_NAMESPACE", "value": resource.ref.namespace},
        {"name": "PORT", "value": str(workload.port)},
        # The operator mirrors the pods into Consul by their readiness; a second registration would outlive it.
        {"name": "NEXUS_CONSUL_REGISTER", "value": "false"},
        {"name": "NEXUS_ADVERTISE_ADDRESS", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "status.podIP"}}},
    ]
    if surroundings.consul_url:
        own.append({"name": "NEXUS_CONSUL_URL", "value": surroundings.consul_url})
    if surroundings.otlp_endpoint:
        own.append({"name": "OTEL_EXPORTER_OTLP_ENDPOINT", "value": surroundings.otlp_endpoint})
    data = next((v.mount_path for v in workload.volumes if v.name == DATA_VOLUME), "")
    if data:
        own.append({"name": "NEXUS_DATA_DIR", "value": data})
    theirs = [_dump(entry) for entry in workload.env]
    taken = {entry["name"] for entry in theirs}
    return [*(entry for entry in own if entry["name"] not in taken), *theirs]


def _probes(resource: Resource, workload: Any) -> dict[str, Any]:
    probes: dict[str, Any] = {}
    given = workload.probes
    for kind in ("readiness", "liveness", "startup"):
        probe = getattr(given, kind, None) if given is not None else None
        if probe is not None:
            probes[f"{kind}Probe"] = _probe(probe)
    health = getattr(resource.spec, "health", None)
    if "readinessProbe" not in probes and health is not None:
        probes["readinessProbe"] = {
            "httpGet": {"path": health.path, "port": PORT_NAME},
            "periodSeconds": max(1, round(health.interval_seconds)),
        }
    return probes


def _probe(probe: Any) -> dict[str, Any]:
    fields = _dump(probe)
    path, port = fields.pop("path"), fields.pop("port", None)
    return {"httpGet": {"path": path, "port": port or PORT_NAME}, **fields}


def _volume_source(volume: Any) -> tuple[str, dict[str, Any]]:
    fields = {k: v for k, v in _dump(volume).items() if k not in ("name", "mountPath")}
    kind, source = next(iter(fields.items()))
    if kind == "secret" and "name" in source:  # written like the others; Kubernetes calls it secretName
        source = {("secretName" if k == "name" else k): v for k, v in source.items()}
    return kind, source


def _dump(value: Any) -> dict[str, Any]:
    """Return a model as users write it, without what they did not write."""
    if value is None:
        return {}
    dumped: Mapping[str, Any] = value.model_dump(by_alias=True, exclude_none=True, mode="json")
    return {k: v for k, v in dumped.items() if v not in ({}, [])} if "env" in dumped else dict(dumped)
