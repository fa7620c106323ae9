"""Statuses of NexusServices and NexusPolicies."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from nexus_core.model.services import NexusServiceSpec
from nexus_core.problems import ObjectRef, Problem
from nexus_core.snapshot import gateway_of
from nexus_core.translate.translation import ServiceStatus

from nexus_operator.children.plan import owner_uid
from nexus_operator.status.conditions import Condition, merge, summary
from nexus_operator.status.view import View
from nexus_operator.status.writes import StatusWrite
from nexus_operator.world.inventory import Object

TARGETS_LIMIT = 4096
"""Characters; the CRD's limit."""
LAST_GOOD = "Its last good version keeps serving."


def build(view: View, problems: dict[ObjectRef, list[Problem]]) -> Iterator[StatusWrite]:
    """Yield the statuses of all NexusServices, then of all NexusPolicies."""
    specs = {r.ref: r.spec for r in view.resources if r.ref.kind == "NexusService"}
    for status in view.translation.services:
        obj = view.inventory.get("NexusService", status.ref.namespace, status.ref.name)
        spec = specs.get(status.ref)
        if obj is not None:
            yield _service(
                view, status, spec if isinstance(spec, NexusServiceSpec) else None, obj, problems.get(status.ref, [])
            )
    for policy in view.translation.policies:
        obj = view.inventory.get("NexusPolicy", policy.ref.namespace, policy.ref.name)
        if obj is None:
            continue
        found = problems.get(policy.ref, [])
        accepted = view.verdict("Accepted", found, fallback=True)
        if not found and not policy.accepted.ok:
            message = view.linked(policy.accepted.reason, policy.accepted.message)
            accepted = Condition("Accepted", "False", policy.accepted.reason, message)
        shown = [accepted, view.verdict("ResolvedRefs", found)]
        targets = ", ".join(str(t) for t in policy.targets)
        conditions = [*shown, summary(shown, f"in force for {targets}" if targets else "in force for nothing")]
        yield _write(view, obj, conditions, {"targets": targets[:TARGETS_LIMIT] or None})


def _service(
    view: View, status: ServiceStatus, spec: NexusServiceSpec | None, obj: Object, problems: list[Problem]
) -> StatusWrite:
    accepted = view.verdict("Accepted", problems, fallback=True)
    if accepted.status == "False" and status.quarantined:
        accepted = Condition("Accepted", "False", accepted.reason, f"{accepted.message}\n{LAST_GOOD}")
    conditions = [accepted, view.verdict("ResolvedRefs", problems)]
    if spec is not None and spec.workload is not None:
        conditions.append(_workload_ready(view, spec.workload.replicas, obj, problems))
    elif spec is not None and spec.backend is None:
        what = f"{status.ref} has a process alone, which `nexus up` runs; nothing of it runs on Kubernetes."
        fix = "Set .spec.workload, or .spec.backend if it runs elsewhere."
        message = view.linked("NotOnKubernetes", f"{what} {fix}")
        conditions.append(Condition("WorkloadReady", "False", "NotOnKubernetes", message))
    gateways = frozenset(gateway_of(listener) for listener in status.listeners)
    programmed = view.programmed(str(status.ref), gateways or None)
    conditions.append(programmed)
    ready = summary(conditions, programmed.message)
    fields: dict[str, Any] = {
        "url": status.url(view.base_url(status.listeners)) or None,
        "endpoints": _endpoints(view, status, spec),
    }
    return _write(view, obj, [*conditions, ready], fields)


def _endpoints(view: View, status: ServiceStatus, spec: NexusServiceSpec | None) -> str | None:
    """`ready/wanted` where Kubernetes knows both; the number of fixed addresses; `consul` where Consul alone knows."""
    ready, total = view.counts.get(status.registry, (0, 0))
    if spec is None:
        return f"{ready}/{total}" if total else None
    if spec.workload is not None:
        return f"{ready}/{spec.workload.replicas}"
    if spec.backend is None:
        return None
    if spec.backend.addresses:
        return str(len(spec.backend.addresses))
    return "consul" if spec.backend.consul else f"{ready}/{total}"


def _workload_ready(view: View, replicas: int, obj: Object, problems: list[Problem]) -> Condition:
    refused = view.verdict("WorkloadReady", problems)
    if refused.status == "False":
        return refused
    meta = obj["metadata"]
    deployment = view.inventory.get("Deployment", meta["namespace"], meta["name"])
    if deployment is None or owner_uid(deployment) != meta["uid"]:
        return Condition("WorkloadReady", "Unknown", "Pending", "The Deployment is being created.")
    state = deployment.get("status") or {}
    fresh = int(state.get("observedGeneration") or 0) >= int(deployment["metadata"].get("generation") or 0)
    ready, updated = int(state.get("readyReplicas") or 0), int(state.get("updatedReplicas") or 0)
    if fresh and ready >= replicas and updated >= replicas and int(state.get("replicas") or 0) == replicas:
        return Condition("WorkloadReady", "True", "WorkloadReady", f"{ready}/{replicas} replicas are ready")
    counted = f"{ready}/{replicas} replicas are ready"
    fix = f"kubectl --namespace {meta['namespace']} describe pods --selector app.kubernetes.io/name={meta['name']} says why."
    for condition in state.get("conditions") or ():
        stalled = condition.get("type") == "Progressing" and condition.get("status") == "False"
        if stalled or (condition.get("type") == "ReplicaFailure" and condition.get("status") == "True"):
            what = f"{counted}. {condition.get('message') or condition.get('reason')}"
            return Condition("WorkloadReady", "False", "WorkloadFailed", view.linked("WorkloadFailed", f"{what} {fix}"))
    # An image that cannot be pulled looks like this, too, until the Deployment's deadline: say where to look at once.
    return Condition("WorkloadReady", "False", "WorkloadProgressing", f"{counted}. If that stays so: {fix}")


def _write(view: View, obj: Object, conditions: list[Condition], fields: dict[str, Any]) -> StatusWrite:
    generation = int(obj["metadata"].get("generation") or 0)
    held = (obj.get("status") or {}).get("conditions") or ()
    merged = merge(held, conditions, generation=generation, now_utc=view.now_utc)
    return StatusWrite(str(obj["kind"]), obj, {"observedGeneration": generation, **fields, "conditions": merged})
