"""The data plane of one Gateway: its account, Secret, Service, Deployment, disruption budget and autoscaler.

Ports open and close with the Snapshot, inside the running pods: only the Service names them. What every Gateway's pods are told
is in `Surroundings`; what one Gateway asks for, in its `Infrastructure`, the parameters of its class merged into it.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nexus_core.certificates.sealing import gateway_key
from nexus_core.model.base import Model
from nexus_core.model.gateway_parameters import DisruptionBudget, GatewayService, NexusGatewayParametersSpec
from nexus_core.problems import ObjectRef
from nexus_core.translate.features import ADMIN_PORT
from nexus_core.translate.translation import Infrastructure

from nexus_operator.children import autoscalers
from nexus_operator.world.inventory import Object
from nexus_operator.world.kinds import (
    AUTOSCALER,
    DEPLOYMENT,
    DISRUPTION_BUDGET,
    GATEWAY_CLASS_NAME,
    GATEWAY_NAME,
    MANAGED_BY,
    RENDERED,
    SECRET,
    SERVICE,
    SERVICE_ACCOUNT,
    Kind,
)

SUFFIX = "-nexus"
NAME_LIMIT = 63
"""Of a Service's name, and of a label's value."""
"""The pods' own port: probes and metrics. High, so that no listener is likely to ask for it."""
REPLICAS, WORKERS, PRE_STOP_S, DRAIN_S = 2, 1, 5, 20
RESOURCES: Mapping[str, Any] = {"requests": {"cpu": "100m", "memory": "128Mi"}}
USER = 65532
TOKEN_KEY, SEAL_KEY, SESSION_KEY = "consul-token", "seal-key", "session-secret"
_STATE = "/var/lib/nexus"


@dataclass(frozen=True, slots=True)
class Fabric:
    """What the pods of every Gateway are given by the operator.

    image, pull_policy, pull_secrets: what they run. consul_url, consul_token, consul_prefix: where they find configuration and
    endpoints. otlp_endpoint: where spans go; empty sends none. seal_key: the installation's, 32 bytes, of which each Gateway is
    given its own. log_level: of their logs.
    """

    image: str
    seal_key: bytes
    consul_url: str
    consul_token: str = ""
    consul_prefix: str = "nexus"
    otlp_endpoint: str = ""
    log_level: str = "info"
    pull_policy: str = "IfNotPresent"
    pull_secrets: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"Fabric(image={self.image!r}, [redacted])"


@dataclass(frozen=True, slots=True)
class DataPlane:
    """One Gateway's wishes. gateway: the Gateway as the Snapshot calls it. namespace: where its children live.

    owner: its ownerReference, None for the Gateway that stands in while there is none. class_name: empty for that one.
    """

    gateway: ObjectRef
    namespace: str
    infrastructure: Infrastructure
    owner: Mapping[str, Any] | None = None
    class_name: str = ""

    @property
    def label(self) -> str:
        """Value of the label by which its pods are found."""
        return label_of(self.gateway.name)


def name_of(gateway: str) -> str:
    """Return the name of everything that is made for a Gateway of this name."""
    return shortened(gateway, NAME_LIMIT - len(SUFFIX)) + SUFFIX


def label_of(name: str) -> str:
    """Return the name as a label's value: itself, or its beginning and a hash when it is too long for one."""
    if len(name) <= NAME_LIMIT:
        return name
    return f"{name[: NAME_LIMIT - 9].rstrip('-.')}-{_digest(name.encode(), 8)}"


def shortened(name: str, limit: int) -> str:
    """Return the name as one that a Service can have, of `limit` characters at most.

    Names of Services begin with a letter and hold no dot: one that does not fit gets a hash, so that two never become one.
    """
    plain = name.replace(".", "-")
    if plain == name and len(name) <= limit and not name[:1].isdigit():
        return name
    letter = "g" if plain[:1].isdigit() else ""
    return f"{letter}{plain[: limit - 9 - len(letter)].rstrip('-')}-{_digest(name.encode(), 8)}"


def _digest(data: bytes, digits: int = 16) -> str:
    return hashlib.sha256(data).hexdigest()[:digits]


def render_data_plane(plane: DataPlane, fabric: Fabric) -> tuple[Object, ...]:
    """Return the children, in the order in which they are to be made. Without a port there is no Service."""
    parameters = plane.infrastructure.parameters or NexusGatewayParametersSpec()
    children = [_account(plane, fabric), _secret(plane, fabric)]
    if plane.infrastructure.ports:
        children.append(_service(plane, parameters.service or GatewayService()))
    children.append(_deployment(plane, parameters, fabric))
    budget = parameters.pod_disruption_budget or DisruptionBudget()
    if budget.enabled if budget.enabled is not None else _replicas(parameters)[1] > 1:
        children.append(_budget(plane, budget))
    if parameters.autoscaling is not None and autoscalers.is_on(parameters):
        spec = autoscalers.spec_of(parameters.autoscaling, name_of(plane.gateway.name), REPLICAS)
        children.append(_object(plane, AUTOSCALER, spec=spec))
    return tuple(_stamped(child) for child in children)


def _replicas(parameters: NexusGatewayParametersSpec) -> tuple[int, int]:
    """How many there are at first, and how many there may be."""
    count = REPLICAS if parameters.replicas is None else parameters.replicas
    if parameters.autoscaling is None or not autoscalers.is_on(parameters):
        return count, count
    least, most = autoscalers.bounds_of(parameters.autoscaling, REPLICAS)
    return max(least, min(count, most)), most


def _selector(plane: DataPlane) -> dict[str, str]:
    return {
        "app.kubernetes.io/name": "nexus",
        "app.kubernetes.io/component": "gateway",
        GATEWAY_NAME: plane.label,
    }


def _labels(plane: DataPlane) -> dict[str, str]:
    """The Gateway's labels and ours; where both have one, ours wins: Deployment and Service find their pods by them."""
    own = {**_selector(plane), MANAGED_BY[0]: MANAGED_BY[1], "app.kubernetes.io/part-of": "nexus"}
    if plane.class_name:
        own[GATEWAY_CLASS_NAME] = label_of(plane.class_name)
    return {**plane.infrastructure.labels, **own}


def _object(plane: DataPlane, kind: Kind, annotations: Mapping[str, str] = {}, **content: Any) -> dict[str, Any]:
    meta: dict[str, Any] = {
        "name": name_of(plane.gateway.name),
        "namespace": plane.namespace,
        "labels": _labels(plane),
        "annotations": {**plane.infrastructure.annotations, **annotations},
    }
    if plane.owner is not None:
        meta["ownerReferences"] = [dict(plane.owner)]
    return {"apiVersion": kind.api_version, "kind": kind.kind, "metadata": meta, **content}


def _stamped(child: dict[str, Any]) -> Object:
    digest = _digest(json.dumps(child, sort_keys=True).encode())
    meta = child["metadata"]
    return {**child, "metadata": {**meta, "annotations": {**meta["annotations"], RENDERED: digest}}}


def _account(plane: DataPlane, fabric: Fabric) -> dict[str, Any]:
    account = _object(plane, SERVICE_ACCOUNT, automountServiceAccountToken=False)
    if fabric.pull_secrets:
        account["imagePullSecrets"] = [{"name": name} for name in fabric.pull_secrets]
    return account


def _secret_values(plane: DataPlane, fabric: Fabric) -> dict[str, bytes]:
    gateway = f"{plane.gateway.namespace}/{plane.gateway.name}"
    # One for all replicas of the Gateway, so that a client's session holds whichever of them it meets.
    session = hmac.digest(fabric.seal_key, f"session secret of {gateway}".encode(), hashlib.sha256).hex()
    # Its own alone: whoever reads this Secret opens what this Gateway shows, and nothing of the others.
    seal_key = gateway_key(fabric.seal_key, gateway)
    values = {SEAL_KEY: base64.b64encode(seal_key), SESSION_KEY: session.encode()}
    if fabric.consul_token:
        values[TOKEN_KEY] = fabric.consul_token.encode()
    return values


def _secret(plane: DataPlane, fabric: Fabric) -> dict[str, Any]:
    data = {key: base64.b64encode(value).decode() for key, value in sorted(_secret_values(plane, fabric).items())}
    return _object(plane, SECRET, type="Opaque", data=data)


def _service(plane: DataPlane, wishes: GatewayService) -> dict[str, Any]:
    kind = wishes.type or "LoadBalancer"
    spec: dict[str, Any] = {
        "type": kind,
        "selector": _selector(plane),
        "ports": [
            {"name": f"{protocol.lower()}-{port}", "port": port, "targetPort": port, "protocol": protocol}
            for port, protocol in plane.infrastructure.ports
        ],
    }
    addresses = [value for type_, value in plane.infrastructure.addresses if type_ == "IPAddress" and value]
    if addresses and kind == "LoadBalancer":
        # Deprecated and without a successor that every load balancer reads. It takes one: more are for annotations to ask for.
        spec["loadBalancerIP"] = addresses[0]
    elif addresses:
        spec["externalIPs"] = addresses
    if wishes.external_traffic_policy:
        spec["externalTrafficPolicy"] = wishes.external_traffic_policy
    if wishes.load_balancer_class:
        spec["loadBalancerClass"] = wishes.load_balancer_class
    return _object(plane, SERVICE, wishes.annotations, spec=spec)


def _budget(plane: DataPlane, budget: DisruptionBudget) -> dict[str, Any]:
    unavailable = 1 if budget.max_unavailable is None else budget.max_unavailable
    return _object(
        plane, DISRUPTION_BUDGET, spec={"maxUnavailable": unavailable, "selector": {"matchLabels": _selector(plane)}}
    )


def _deployment(plane: DataPlane, parameters: NexusGatewayParametersSpec, fabric: Fabric) -> dict[str, Any]:
    values = repr(sorted(_secret_values(plane, fabric).items())).encode()
    annotations = {
        **plane.infrastructure.annotations,
        **parameters.pod_annotations,
        # Variables are read at a pod's start alone: another secret means other pods.
        "nexus.dev/secrets": hmac.digest(fabric.seal_key, values, hashlib.sha256).hex()[:16],
    }
    return _object(
        plane,
        DEPLOYMENT,
        spec={
            "replicas": _replicas(parameters)[0],
            "selector": {"matchLabels": _selector(plane)},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
            "template": {
                "metadata": {"labels": _labels(plane), "annotations": annotations},
                "spec": _pod(plane, parameters, fabric),
            },
        },
    )


def _pod(plane: DataPlane, parameters: NexusGatewayParametersSpec, fabric: Fabric) -> dict[str, Any]:
    pre_stop_s = PRE_STOP_S if parameters.pre_stop_seconds is None else parameters.pre_stop_seconds
    drain_s = DRAIN_S if parameters.drain_seconds is None else parameters.drain_seconds
    container: dict[str, Any] = {
        "name": "gateway",
        "image": parameters.image or fabric.image,
        "imagePullPolicy": parameters.image_pull_policy or fabric.pull_policy,
        "args": ["gateway"],
        "env": _env(plane, parameters, fabric, drain_s),
        "ports": [{"name": "admin", "containerPort": ADMIN_PORT, "protocol": "TCP"}],
        "startupProbe": {**_probe("/healthz"), "periodSeconds": 1, "failureThreshold": 60},
        "livenessProbe": {**_probe("/healthz"), "periodSeconds": 10, "timeoutSeconds": 5},
        "readinessProbe": {**_probe("/readyz"), "periodSeconds": 1, "timeoutSeconds": 5},
        # Load balancers need a moment to notice that the endpoint goes; until then it keeps serving.
        "lifecycle": {"preStop": {"sleep": {"seconds": pre_stop_s}}},
        "resources": dict(RESOURCES) if parameters.resources is None else _dump(parameters.resources),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [{"name": "state", "mountPath": _STATE}, {"name": "tmp", "mountPath": "/tmp"}],
    }
    pod: dict[str, Any] = {
        "serviceAccountName": name_of(plane.gateway.name),
        # A gateway looks at Consul alone: it has no business with the Kubernetes API.
        "automountServiceAccountToken": False,
        # Other Services of the namespace as variables: some would be taken for settings.
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": pre_stop_s + drain_s + 10,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "seccompProfile": {"type": "RuntimeDefault"},
            # Listeners are bound where they are declared, port 80 as well, without a capability. One of the safe sysctls.
            "sysctls": [{"name": "net.ipv4.ip_unprivileged_port_start", "value": "0"}],
        },
        "containers": [container],
        # The last good configuration and plugin artefacts: kept over a restart of the container, also while Consul is away.
        "volumes": [{"name": "state", "emptyDir": {}}, {"name": "tmp", "emptyDir": {}}],
        "affinity": parameters.affinity or _apart(plane),
    }
    if parameters.node_selector:
        pod["nodeSelector"] = dict(parameters.node_selector)
    if parameters.tolerations:
        pod["tolerations"] = [dict(entry) for entry in parameters.tolerations]
    if parameters.topology_spread_constraints:
        pod["topologySpreadConstraints"] = [dict(entry) for entry in parameters.topology_spread_constraints]
    return pod


def _apart(plane: DataPlane) -> dict[str, Any]:
    term = {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": _selector(plane)}}
    return {
        "podAntiAffinity": {
            "preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 100, "podAffinityTerm": term}]
        }
    }


def _probe(path: str) -> dict[str, Any]:
    return {"httpGet": {"path": path, "port": "admin"}}


def _env(
    plane: DataPlane, parameters: NexusGatewayParametersSpec, fabric: Fabric, drain_s: int
) -> list[dict[str, Any]]:
    """Ours first, in a stable order, then the user's, who wins."""
    secret = name_of(plane.gateway.name)
    own: list[dict[str, Any]] = [
        {"name": "NEXUS_GATEWAY", "value": f"{plane.gateway.namespace}/{plane.gateway.name}"},
        {"name": "NEXUS_PORTS", "value": "declared"},
        {"name": "NEXUS_GATEWAY_ADMIN", "value": f"0.0.0.0:{ADMIN_PORT}"},
        _from_field("NEXUS_GATEWAY_REPLICA", "metadata.name"),
        {"name": "NEXUS_CONSUL_URL", "value": fabric.consul_url},
        {"name": "NEXUS_CONSUL_PREFIX", "value": fabric.consul_prefix},
        {"name": "NEXUS_GATEWAY_STATE_DIR", "value": _STATE},
        {"name": "NEXUS_PLUGIN_CACHE", "value": f"{_STATE}/plugins"},
        {"name": "NEXUS_DRAIN_SECONDS", "value": str(drain_s)},
        {"name": "NEXUS_WORKERS", "value": str(parameters.workers or WORKERS)},
        {"name": "NEXUS_LOG_LEVEL", "value": fabric.log_level},
        {"name": "NEXUS_ZONE", "value": parameters.zone}
        if parameters.zone
        else _from_field("NEXUS_ZONE", "metadata.labels['topology.kubernetes.io/zone']"),
        _from_secret("NEXUS_SEAL_KEY", secret, SEAL_KEY),
        _from_secret("NEXUS_SESSION_SECRET", secret, SESSION_KEY),
    ]
    if fabric.consul_token:
        own.append(_from_secret("NEXUS_CONSUL_TOKEN", secret, TOKEN_KEY))
    if fabric.otlp_endpoint:
        own.append({"name": "OTEL_EXPORTER_OTLP_ENDPOINT", "value": fabric.otlp_endpoint})
    theirs = [_dump(entry) for entry in parameters.env or ()]
    taken = {entry["name"] for entry in theirs}
    return [*(entry for entry in own if entry["name"] not in taken), *theirs]


def _from_field(name: str, path: str) -> dict[str, Any]:
    return {"name": name, "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": path}}}


def _from_secret(name: str, secret: str, key: str) -> dict[str, Any]:
    return {"name": name, "valueFrom": {"secretKeyRef": {"name": secret, "key": key}}}


def _dump(model: Model) -> dict[str, Any]:
    """Return a model as users write it, without what they did not write."""
    dumped: dict[str, Any] = model.model_dump(by_alias=True, exclude_none=True, exclude_unset=True, mode="json")
    return dumped
