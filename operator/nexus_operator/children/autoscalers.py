"""HorizontalPodAutoscalers of data planes, and what becomes of the replicas of a Deployment that has one.

The replicas of such a Deployment are its autoscaler's. They are still in what is applied, as they are at that moment: the API server
takes a field that its only owner applies no more to be unset, which is one replica. An autoscaler that somebody else made for a data
plane's Deployment is respected as one of ours is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from nexus_core.model.autoscaling import Autoscaling
from nexus_core.model.gateway_parameters import NexusGatewayParametersSpec

from nexus_operator.children.plan import ChildKey, child_key, is_unowned, owner_uid
from nexus_operator.world.inventory import Object, key_of
from nexus_operator.world.kinds import AUTOSCALER, DEPLOYMENT, GATEWAY_NAME
from nexus_operator.world.words import owners_of

CPU_PERCENT = 80
"""Of what the replicas request. Kubernetes' own default of an autoscaler without metrics."""


@dataclass(frozen=True, slots=True)
class Scaling:
    """How many replicas a Deployment may have. start: when it is made. least, most: of its autoscaler; most is None where the
    autoscaler is somebody else's, which knows its own bounds.
    """

    start: int
    least: int = 0
    most: int | None = None

    def replicas_for(self, live: Object | None, manager: str) -> int:
        """Return what to apply. live: the Deployment with its managedFields, None for none. manager: our name in those."""
        if live is None:
            return self.start
        count = int((live.get("spec") or {}).get("replicas", 1))
        if count == 0:
            # To Kubernetes, an autoscaler that is switched off: for a while, if somebody else did; by our parameters before, if not.
            return 0 if owners_of(live, "replicas") - {manager} else self.start
        return max(self.least, count if self.most is None else min(count, self.most))


def is_on(parameters: NexusGatewayParametersSpec) -> bool:
    """Return whether a HorizontalPodAutoscaler is to be made."""
    wanted = parameters.autoscaling
    return wanted is not None and wanted.enabled is not False and wanted.max_replicas is not None


def bounds_of(wanted: Autoscaling, usual: int) -> tuple[int, int]:
    """Return the fewest and the most replicas. usual: of data planes that do not say."""
    most = usual if wanted.max_replicas is None else wanted.max_replicas
    return (min(usual, most) if wanted.min_replicas is None else wanted.min_replicas), most


def spec_of(wanted: Autoscaling, target: str, usual: int) -> dict[str, Any]:
    """Return the spec of a HorizontalPodAutoscaler (autoscaling/v2). target: name of the Deployment."""
    least, most = bounds_of(wanted, usual)
    metrics = [dict(metric) for metric in wanted.metrics or ()]
    percent = wanted.target_cpu_utilization_percentage or (None if metrics else CPU_PERCENT)
    if percent is not None:
        aim = {"type": "Utilization", "averageUtilization": percent}
        metrics.insert(0, {"type": "Resource", "resource": {"name": "cpu", "target": aim}})
    spec: dict[str, Any] = {
        "scaleTargetRef": {"apiVersion": DEPLOYMENT.api_version, "kind": DEPLOYMENT.kind, "name": target},
        "minReplicas": least,
        "maxReplicas": most,
        "metrics": metrics,
    }
    if wanted.behavior:
        spec["behavior"] = dict(wanted.behavior)
    return spec


def scalings(wanted: Iterable[Object], autoscalers: Iterable[Object]) -> Mapping[ChildKey, Scaling]:
    """Return the Deployments of data planes whose replicas are an autoscaler's.

    wanted: rendered children. autoscalers: those of the cluster. One that we made and want no more does not count.
    """
    deployments: dict[ChildKey, int] = {}
    ours: dict[ChildKey, Object] = {}
    for obj in wanted:
        if obj["kind"] == DEPLOYMENT.kind and GATEWAY_NAME in (obj["metadata"].get("labels") or {}):
            deployments[child_key(obj)] = int(obj["spec"]["replicas"])
        elif obj["kind"] == AUTOSCALER.kind:
            ours[_target(obj)] = obj
    theirs = {_target(obj) for obj in autoscalers if not owner_uid(obj) and not is_unowned(obj)}
    found: dict[ChildKey, Scaling] = {}
    for key, start in deployments.items():
        if key in ours:
            spec = ours[key]["spec"]
            found[key] = Scaling(start, int(spec["minReplicas"]), int(spec["maxReplicas"]))
        elif key in theirs:
            found[key] = Scaling(start)
    return found


def left_open(obj: Object, scaled: Mapping[ChildKey, Scaling]) -> Object:
    """Return a rendered child without the replicas that are an autoscaler's: none of them is a reason to apply it."""
    if child_key(obj) not in scaled:
        return obj
    return {**obj, "spec": {key: value for key, value in obj["spec"].items() if key != "replicas"}}


def _target(autoscaler: Object) -> ChildKey:
    """Return what it scales, by its key among children; a kind that is no Deployment of ours is none of them."""
    ref = (autoscaler.get("spec") or {}).get("scaleTargetRef") or {}
    group = str(ref.get("apiVersion") or "").partition("/")[0]
    kind = str(ref.get("kind")) if group == DEPLOYMENT.group else ""
    return kind, key_of(autoscaler)[0], str(ref.get("name"))
