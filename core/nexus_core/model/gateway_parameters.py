"""NexusGatewayParameters: how the data plane of a Gateway is run.

Every field may be left out, and none has a default in the schema: what a Gateway's parameters leave out is taken from those of its
GatewayClass, and what both leave out is Nexus's own choice, which the descriptions name.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, StrictInt, StrictStr

from nexus_core.model.autoscaling import Autoscaling
from nexus_core.model.base import Model
from nexus_core.model.rules import Rule
from nexus_core.model.workloads import EnvVar, Resources

Text = Annotated[str, Field(max_length=4096)]
Key = Annotated[str, Field(min_length=1, max_length=317)]

WORKERS = Rule(
    cel="type(self) == int ? self >= 1 && self <= 64 : self == 'auto'",
    what="workers is no number of processes.",
    fix="Write a number from 1 to 64, or auto for one process per CPU of the limit.",
    holds=lambda value: 1 <= value <= 64 if isinstance(value, int) else value == "auto",
)
SHARE = Rule(
    cel="type(self) == int ? self >= 0 : self.matches('^[0-9]{1,3}%$')",
    what="maxUnavailable is neither a number nor a percentage.",
    fix="Write it like 1 or 25%.",
    holds=lambda value: value >= 0 if isinstance(value, int) else re.fullmatch("[0-9]{1,3}%", value) is not None,
)


class GatewayService(Model):
    """The Service in front of the replicas."""

    type: Literal["LoadBalancer", "NodePort", "ClusterIP"] | None = Field(
        default=None, description="How it is reached. Default: LoadBalancer."
    )
    annotations: dict[Key, Text] = Field(
        default={}, max_length=64, description="Annotations of the Service alone, for load balancers that read them."
    )
    external_traffic_policy: Literal["Cluster", "Local"] | None = Field(
        default=None, description="Local keeps the clients' addresses and sends traffic to nodes with replicas alone."
    )
    load_balancer_class: str | None = Field(
        default=None,
        min_length=1,
        max_length=317,
        description="Which load balancer takes it. Default: the cluster's. Another one asks for another Service: delete it.",
    )

    cel_rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="!has(self.type) || self.type != 'ClusterIP' || !has(self.externalTrafficPolicy)",
            what="A ClusterIP Service has no externalTrafficPolicy.",
            fix="Remove it, or choose another type.",
            holds=lambda s: s.type != "ClusterIP" or s.external_traffic_policy is None,
            field=".externalTrafficPolicy",
        ),
        Rule(
            cel="!has(self.loadBalancerClass) || !has(self.type) || self.type == 'LoadBalancer'",
            what="loadBalancerClass belongs to a Service of type LoadBalancer.",
            fix="Remove it, or set type to LoadBalancer.",
            holds=lambda s: s.load_balancer_class is None or s.type in (None, "LoadBalancer"),
            field=".loadBalancerClass",
        ),
    )


class DisruptionBudget(Model):
    """How many replicas may be taken away at once, when nodes are drained."""

    enabled: bool | None = Field(
        default=None, description="False: none is made. Default: true for two replicas or more."
    )
    max_unavailable: Annotated[StrictInt | Annotated[StrictStr, Field(max_length=4)], SHARE] | None = Field(
        default=None, description="A number or a percentage, such as 1 or 25%. Default: 1."
    )


class NexusGatewayParametersSpec(Model):
    """How the data plane of a Gateway is run: named by infrastructure.parametersRef of a Gateway, or by parametersRef of a GatewayClass.

    A Gateway's own parameters win field by field over those of its class; maps are joined, lists replaced.
    """

    replicas: int | None = Field(
        default=None,
        ge=0,
        le=1000,
        description="How many replicas run; with autoscaling, how many it starts with. Default: 2.",
    )
    autoscaling: Autoscaling | None = Field(
        default=None, description="Lets a HorizontalPodAutoscaler say how many replicas run. Default: none is made."
    )
    workers: Annotated[StrictInt | Annotated[StrictStr, Field(max_length=4)], WORKERS] | None = Field(
        default=None,
        description="Worker processes of each replica, or auto: one for each CPU of its limit. Replicas are the better way to scale. "
        "Default: 1.",
    )
    resources: Resources | None = Field(
        default=None, description="CPU and memory of a replica. Default: requests of 100m and 128Mi."
    )
    service: GatewayService | None = Field(default=None, description="The Service in front of the replicas.")
    image: str | None = Field(
        default=None, min_length=1, max_length=1024, description="Container image. Default: the operator's own."
    )
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] | None = Field(
        default=None, description="When the image is pulled. Default: as the operator's own."
    )
    pod_annotations: dict[Key, Text] = Field(default={}, max_length=64, description="Annotations of the pods alone.")
    node_selector: dict[Key, Annotated[str, Field(max_length=63)]] = Field(
        default={}, max_length=32, description="Labels that a node must have."
    )
    tolerations: tuple[dict[str, Any], ...] | None = Field(
        default=None, max_length=32, description="Taints of nodes that do not matter, as in a pod."
    )
    affinity: dict[str, Any] | None = Field(default=None, description="Which nodes and neighbours, as in a pod.")
    topology_spread_constraints: tuple[dict[str, Any], ...] | None = Field(
        default=None,
        max_length=16,
        description="How replicas are spread, as in a pod. Default: over nodes, if possible.",
    )
    env: tuple[EnvVar, ...] | None = Field(
        default=None,
        max_length=128,
        description="Environment variables of the gateway; docs/reference/settings.md lists its settings. They win over those that "
        "Nexus sets.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
    )
    zone: str | None = Field(
        default=None,
        max_length=63,
        description="Name of the zone, for upstreams that prefer their own. Default: the node's, where Kubernetes labels pods with it.",
    )
    pre_stop_seconds: int | None = Field(
        default=None,
        ge=0,
        le=600,
        description="Seconds that a stopping replica waits for its endpoint to leave every load balancer. Default: 5.",
    )
    drain_seconds: int | None = Field(
        default=None, ge=0, le=3600, description="Seconds it then waits for open requests. Default: 20."
    )
    pod_disruption_budget: DisruptionBudget | None = Field(
        default=None, description="How many replicas may be taken away at once."
    )
