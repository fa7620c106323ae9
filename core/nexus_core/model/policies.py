"""NexusPolicy: how services are balanced and protected, attached by `targetRefs`."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from nexus_core.model.base import NAME_PATTERN, Model
from nexus_core.model.rules import Rule
from nexus_core.snapshot.policies import RetryOn

Seconds = Annotated[float, Field(ge=0, le=86400)]
"""Seconds, fractions allowed; a day at most."""

PositiveSeconds = Annotated[float, Field(gt=0, le=86400)]


class LoadBalancing(Model):
    """How the endpoint of the next attempt is picked."""

    algorithm: Literal["least-request", "round-robin"] | None = Field(
        default=None,
        description="least-request (the default) draws two endpoints and takes the less loaded one; "
        "round-robin takes them in turn, by weight.",
    )


class CircuitBreaker(Model):
    """When an endpoint that fails is refused requests for a while."""

    failures: int | None = Field(
        default=None,
        ge=1,
        le=10000,
        description="Consecutive failures (refused connections, resets, timeouts, 502, 503, 504) of one endpoint that "
        "open its circuit. Default 5.",
    )
    reset_seconds: PositiveSeconds | None = Field(
        default=None,
        description="Seconds a circuit stays open before one request is let through as a probe. Default 10.",
    )


class Retry(Model):
    """Which attempts are repeated. Requests that are not idempotent are repeated only if nothing of them was sent."""

    attempts: int | None = Field(
        default=None, ge=0, le=10, description="Attempts after the first one, at most. 0 turns retries off. Default 2."
    )
    # Not `on`: YAML 1.1, and so kubectl, reads a bare `on` as `true`.
    when: tuple[RetryOn, ...] | None = Field(
        default=None,
        max_length=6,
        description="Outcomes that are repeated. Default: connect-failure, reset, 503.",
    )
    budget_percent: int | None = Field(
        default=None,
        ge=0,
        le=100,
        description="Retries may be at most this share of a service's recent requests, so that retries never drown a "
        "service that fails. Default 20.",
    )


class Timeouts(Model):
    """Deadlines of one request. 0 turns one off."""

    request_seconds: Seconds | None = Field(
        default=None, description="From the request's head to the response's head, over all attempts. Default 15."
    )
    try_timeout_seconds: Seconds | None = Field(
        default=None, description="For one attempt. Default 0: only requestSeconds holds."
    )
    connect_seconds: Seconds | None = Field(default=None, description="To open a connection to an endpoint. Default 2.")
    idle_seconds: Seconds | None = Field(
        default=None,
        description="Without a byte in either direction once a response or a WebSocket streams. Default 300.",
    )


class PolicyFields(Model):
    """What a policy may say. A field that is left out is taken from the next wider policy, at last from the default."""

    load_balancing: LoadBalancing | None = Field(default=None, description="How endpoints are picked.")
    circuit_breaker: CircuitBreaker | None = Field(
        default=None, description="When a failing endpoint is refused requests for a while."
    )
    retry: Retry | None = Field(default=None, description="Which attempts are repeated.")
    timeouts: Timeouts | None = Field(default=None, description="Deadlines of one request.")


class TargetRef(Model):
    """An object of the same namespace that a policy or plugin applies to."""

    group: Literal["nexus.dev", "gateway.networking.k8s.io"] | None = Field(
        default=None, description="Group of the target's kind. May be left out: the kind says it."
    )
    kind: Literal["NexusService", "HTTPRoute", "Gateway"] = Field(description="Kind of the target.")
    name: str = Field(min_length=1, max_length=253, pattern=NAME_PATTERN, description="Name of the target.")


class NexusPolicySpec(PolicyFields):
    """Balancing, circuit breaking, retries and timeouts for the targets."""

    target_refs: tuple[TargetRef, ...] = Field(
        min_length=1,
        max_length=16,
        description="Objects of the same namespace this applies to. A policy on a NexusService wins over the service's "
        "own spec.policy, that over one on a Gateway. For an HTTPRoute, retry and timeouts apply.",
    )

    cel_rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="has(self.loadBalancing) || has(self.circuitBreaker) || has(self.retry) || has(self.timeouts)",
            what="The policy says nothing.",
            fix="Set loadBalancing, circuitBreaker, retry or timeouts.",
            holds=lambda s: any((s.load_balancing, s.circuit_breaker, s.retry, s.timeouts)),
        ),
    )
