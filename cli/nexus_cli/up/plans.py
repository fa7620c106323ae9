"""Decides what runs: from manifests to processes, and from one plan to the next. Pure: starts nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from nexus_core.discovery import service_name
from nexus_core.model.resources import Resource
from nexus_core.model.services import NexusServiceSpec

DEFAULT_HEALTH_PATH = "/readyz"
DEFAULT_INTERVAL_S = 5.0
SCHEMES = {"grpc": "grpc", "tcp": "tcp", "udp": "udp"}
"""What the address of a service of a type begins with, where that is not `http`."""
_PROBES: Mapping[str, Literal["tcp", "udp"]] = {"grpc": "tcp", "tcp": "tcp", "udp": "udp"}


@dataclass(frozen=True, slots=True)
class ServicePlan:
    """One NexusService on this machine.

    key: `<namespace>/<name>`. registered: its name in discovery. command: empty when nothing is run here (`note` says why).
    port: 0 for any free one. probe: how its readiness is asked for. directory: absolute. meta: what discovery tells of it.
    exposed: path through the gateway, empty when it is not exposed. addresses: fixed `(host, port)` of a service that runs elsewhere.
    """

    key: str
    namespace: str
    name: str
    registered: str
    command: tuple[str, ...] = ()
    replicas: int = 0
    port: int = 0
    env: Mapping[str, str] = field(default_factory=dict)
    directory: Path = Path()
    health_path: str = DEFAULT_HEALTH_PATH
    interval_s: float = DEFAULT_INTERVAL_S
    meta: Mapping[str, str] = field(default_factory=dict)
    kind: str = "http"
    probe: Literal["http", "tcp", "udp"] = "http"
    exposed: str = ""
    addresses: tuple[tuple[str, int], ...] = ()
    note: str = ""


def build_plans(
    resources: Iterable[tuple[Resource, Path]], previous: Mapping[str, ServicePlan]
) -> dict[str, ServicePlan]:
    """Return what shall run, by key.

    resources: with the file each came from. previous: a service whose manifest is broken now keeps its last good plan.
    """
    plans: dict[str, ServicePlan] = {}
    for resource, origin in resources:
        if resource.ref.kind != "NexusService":
            continue
        key = f"{resource.ref.namespace}/{resource.ref.name}"
        if isinstance(resource.spec, NexusServiceSpec):
            plans.setdefault(key, _plan(key, resource, resource.spec, origin))
        elif key in previous:
            plans.setdefault(key, previous[key])
    return dict(sorted(plans.items()))


def _plan(key: str, resource: Resource, spec: NexusServiceSpec, origin: Path) -> ServicePlan:
    namespace, name = resource.ref.namespace, resource.ref.name
    meta = {"nexus-type": spec.type, "nexus-namespace": namespace}
    if spec.contract is not None and spec.contract.openapi:
        meta["nexus-openapi"] = spec.contract.openapi
    shared = ServicePlan(
        key=key,
        namespace=namespace,
        name=name,
        registered=service_name(name, namespace),
        meta=meta,
        kind=spec.type,
        probe=_PROBES.get(spec.type, "http"),
        exposed=spec.expose.path if spec.expose else "",
        health_path=spec.health.path if spec.health else DEFAULT_HEALTH_PATH,
        interval_s=spec.health.interval_seconds if spec.health else DEFAULT_INTERVAL_S,
    )
    if spec.process is not None:
        process = spec.process
        return replace(
            shared,
            command=tuple(process.command),
            replicas=process.replicas,
            port=process.port,
            env=dict(process.env),
            directory=(origin.parent / (process.directory or ".")).resolve(),
        )
    if spec.backend is not None:
        return _backend(shared, spec)
    return replace(shared, note="it has a workload for Kubernetes and no process: add spec.process to run it here")


def _backend(shared: ServicePlan, spec: NexusServiceSpec) -> ServicePlan:
    assert spec.backend is not None
    backend = spec.backend
    if backend.addresses is not None:
        pairs = (address.rpartition(":") for address in backend.addresses)
        found = tuple((host.strip("[]"), int(port)) for host, _, port in pairs)
        return replace(shared, addresses=found, note="runs elsewhere: " + ", ".join(backend.addresses))
    if backend.consul is not None:
        return replace(shared, note=f"runs elsewhere: {backend.consul.service} in Consul")
    return replace(shared, note="it is a Kubernetes Service: only a cluster has it")


Action = Literal["start", "stop", "restart", "scale", "update"]


def changes(old: Mapping[str, ServicePlan], new: Mapping[str, ServicePlan]) -> dict[str, Action]:
    """Return what has to be done to each service whose plan differs, by key.

    restart: what the process was started with has changed. scale: only the number of replicas. update: only what
    discovery, health checks or the display know; no process is touched.
    """
    actions: dict[str, Action] = {}
    for key in sorted({*old, *new}):
        before, after = old.get(key), new.get(key)
        if before is None:
            actions[key] = "start"
        elif after is None:
            actions[key] = "stop"
        elif _started_with(before) != _started_with(after):
            actions[key] = "restart"
        elif before.replicas != after.replicas:
            actions[key] = "scale"
        elif before != after:
            actions[key] = "update"
    return actions


def _started_with(plan: ServicePlan) -> tuple[object, ...]:
    return (plan.command, plan.port, plan.probe, dict(plan.env), plan.directory)
