"""NexusPolicy: how services are balanced and protected, attached by `targetRefs`. A NexusService has the same fields.

The sections are in `upstream_policies` (how a service is called) and `rule_policies` (what happens on the way).
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from nexus_core.model.base import NAME_PATTERN, Model
from nexus_core.model.rule_policies import BodyLimits, Cors, Fallback, Fault, Mirror, RateLimit, Reply
from nexus_core.model.rules import Rule
from nexus_core.model.upstream_policies import (
    CircuitBreaker,
    Concurrency,
    HealthCheck,
    Hedge,
    LoadBalancing,
    OutlierDetection,
    Retry,
    ServiceCircuitBreaker,
    Timeouts,
    UpstreamTls,
)


class PolicyFields(Model):
    """What a policy may say. A field that is left out is taken from the next wider policy, at last from the default."""

    load_balancing: LoadBalancing | None = Field(default=None, description="How endpoints are picked.")
    circuit_breaker: CircuitBreaker | None = Field(
        default=None, description="When a failing endpoint is refused requests for a while."
    )
    service_circuit_breaker: ServiceCircuitBreaker | None = Field(
        default=None, description="When the service as a whole is refused requests for a while. Default: never."
    )
    outlier_detection: OutlierDetection | None = Field(
        default=None, description="When an endpoint is taken out because of its answers. Default: never."
    )
    health_check: HealthCheck | None = Field(
        default=None, description="Probes of every endpoint by the gateway. Default: none."
    )
    retry: Retry | None = Field(default=None, description="Which attempts are repeated.")
    hedge: Hedge | None = Field(default=None, description="A second attempt beside a slow first one. Default: none.")
    timeouts: Timeouts | None = Field(default=None, description="Deadlines of one request.")
    concurrency: Concurrency | None = Field(default=None, description="How many requests are sent at once.")
    tls: UpstreamTls | None = Field(default=None, description="TLS to the endpoints. Default: plain text.")
    rate_limit: tuple[RateLimit, ...] | None = Field(
        default=None,
        max_length=16,
        description="Limits on requests. All limits of all policies hold together; the counts of one are shared by all its targets.",
    )
    cors: Cors | None = Field(default=None, description="Which pages of other origins may call.")
    body_limits: BodyLimits | None = Field(default=None, description="How large bodies may be.")
    mirror: Mirror | None = Field(default=None, description="A copy of requests for another service.")
    fault: Fault | None = Field(default=None, description="Trouble on purpose.")
    fallback: Fallback | None = Field(
        default=None, description="What a client gets in place of the gateway's own 502, 503 or 504."
    )
    reply: Reply | None = Field(
        default=None, description="What every request is answered with, in place of calling a service."
    )


class TargetRef(Model):
    """An object of the same namespace that a policy or plugin applies to."""

    group: Literal["nexus.dev", "gateway.networking.k8s.io"] | None = Field(
        default=None, description="Group of the target's kind. May be left out: the kind says it."
    )
    kind: Literal["NexusService", "HTTPRoute", "GRPCRoute", "Gateway"] = Field(description="Kind of the target.")
    name: str = Field(min_length=1, max_length=253, pattern=NAME_PATTERN, description="Name of the target.")


_SECTIONS = tuple(field.alias or name for name, field in PolicyFields.model_fields.items())


class NexusPolicySpec(PolicyFields):
    """Balancing, protection and limits for the targets."""

    target_refs: tuple[TargetRef, ...] = Field(
        min_length=1,
        max_length=16,
        description="Objects of the same namespace this applies to. A policy on a NexusService wins over the service's "
        "own spec.policy, that over one on a Gateway; one on an HTTPRoute or GRPCRoute wins over all of them. On a route retry, "
        "hedge, timeouts and what happens on the way (rateLimit to reply) apply.",
    )

    cel_rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel=" || ".join(f"has(self.{section})" for section in _SECTIONS),
            what="The policy says nothing.",
            fix=f"Set one or more of {', '.join(_SECTIONS)}.",
            holds=lambda s: any(getattr(s, name) is not None for name in PolicyFields.model_fields),
        ),
    )
