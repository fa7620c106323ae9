"""How many replicas a data plane has when a HorizontalPodAutoscaler decides it.

What stands here becomes an autoscaling/v2 HorizontalPodAutoscaler; `metrics` and `behavior` are passed on as they are written, and
the API server has the last word on them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from pydantic import Field

from nexus_core.model.base import Model
from nexus_core.model.rules import Rule
from nexus_core.model.workloads import Resources


class Autoscaling(Model):
    """Replicas that come and go with the load, by a HorizontalPodAutoscaler."""

    enabled: bool | None = Field(
        default=None,
        description="False: none is made, though the GatewayClass's parameters ask for one. Default: true.",
    )
    min_replicas: int | None = Field(
        default=None, ge=1, le=1000, description="Never fewer replicas. Default: 2, or maxReplicas where that is 1."
    )
    max_replicas: int | None = Field(
        default=None,
        ge=1,
        le=1000,
        description="Never more replicas. Needed, here or in the GatewayClass's parameters.",
    )
    target_cpu_utilization_percentage: int | None = Field(
        default=None,
        alias="targetCPUUtilizationPercentage",
        ge=1,
        le=1000,
        description="CPU that all replicas together are to use, in percent of what they request. Default: 80 where there are no metrics, "
        "else none.",
    )
    metrics: tuple[dict[str, Any], ...] | None = Field(
        default=None,
        max_length=16,
        description="More that counts, as in a HorizontalPodAutoscaler of autoscaling/v2: what asks for most replicas wins.",
    )
    behavior: dict[str, Any] | None = Field(
        default=None,
        description="How fast replicas come and go, as in a HorizontalPodAutoscaler of autoscaling/v2. Default: Kubernetes' own.",
    )

    cel_rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="!has(self.minReplicas) || !has(self.maxReplicas) || self.minReplicas <= self.maxReplicas",
            what="minReplicas is larger than maxReplicas.",
            fix="Lower minReplicas, or raise maxReplicas.",
            holds=lambda a: a.min_replicas is None or a.max_replicas is None or a.min_replicas <= a.max_replicas,
            field=".minReplicas",
        ),
    )


def fault_of(autoscaling: Autoscaling | None, resources: Resources | None) -> tuple[str, str] | None:
    """Return what keeps these from being used, and a remedy, each a sentence; None for nothing.

    Asked of the parameters of a Gateway when those of its class are joined to them: each alone may be a part.
    resources: None for Nexus's own, which request CPU and memory.
    """
    if autoscaling is None or autoscaling.enabled is False:
        return None
    if autoscaling.max_replicas is None:
        return "autoscaling has no maxReplicas.", "Set autoscaling.maxReplicas, or autoscaling.enabled to false."
    if resources is None:
        return None
    for name in _counted(autoscaling):
        # Kubernetes takes a limit for the request where there is none.
        if name not in resources.requests and name not in resources.limits:
            what = f"autoscaling is by utilization of {name}, which is a share of what a replica requests, and it requests none."
            return what, f"Set resources.requests.{name}, or choose other metrics."
    return None


def _counted(autoscaling: Autoscaling) -> Iterator[str]:
    """Yield the resources whose utilization counts."""
    if autoscaling.target_cpu_utilization_percentage is not None or not autoscaling.metrics:
        yield "cpu"
    for metric in autoscaling.metrics or ():
        for part in ("resource", "containerResource"):
            source = metric.get(part)
            target = source.get("target") if isinstance(source, Mapping) else None
            if isinstance(source, Mapping) and isinstance(target, Mapping) and target.get("type") == "Utilization":
                yield str(source.get("name"))
