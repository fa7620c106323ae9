"""The sections of a policy that say how a service is called: picked, probed, given up on, tried again, connected to.

Every field is optional: what is left out comes from the next wider policy, at last from the default.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from nexus_core.model.base import HOSTNAME_PATTERN, Model
from nexus_core.model.rules import Rule, at_least
from nexus_core.snapshot.policies import RETRY_ON, Algorithm

Seconds = Annotated[float, Field(ge=0, le=86400)]
"""Seconds, fractions allowed; a day at most."""

PositiveSeconds = Annotated[float, Field(gt=0, le=86400)]
Percent = Annotated[float, Field(ge=0, le=100)]
Count = Annotated[int, Field(ge=1, le=10000)]
Name = Annotated[str, Field(min_length=1, max_length=256, pattern=r"^[A-Za-z0-9!#$%&'*+.^_`|~-]+$")]
"""A header, cookie or claim: an RFC 9110 token."""
Switch = bool | None
SWITCH = "False turns it off where a wider policy turned it on. Writing the section turns it on."


class RequestKey(Model):
    """A part of the request that stands for its client."""

    header: Name | None = Field(default=None, description="The value of this header.")
    cookie: Name | None = Field(default=None, description="The value of this cookie.")
    query: Annotated[str, Field(min_length=1, max_length=256)] | None = Field(
        default=None, description="The value of this query parameter."
    )
    claim: Name | None = Field(
        default=None,
        description="This claim of the bearer token, which is read and not verified: verify it with a plugin.",
    )
    source: bool | None = Field(default=None, description="True: the client's address, as trusted proxies tell it.")

    cel_rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="[has(self.header), has(self.cookie), has(self.query), has(self.claim),"
            " has(self.source) && self.source].filter(x, x).size() == 1",
            what="A key is one part of the request.",
            fix="Set just one of header, cookie, query, claim, or source: true.",
            holds=lambda s: (
                sum(part is not None for part in (s.header, s.cookie, s.query, s.claim)) + (s.source is True) == 1
            ),
        ),
    )


class SessionPersistence(Model):
    """A client's later requests go to the endpoint that took its first one, as long as that one is healthy."""

    cookie: Name | None = Field(default=None, description="Name of the cookie the gateway sets. Default nexus-session.")
    header: Name | None = Field(
        default=None, description="Header of the response that the client sends back, in place of a cookie."
    )
    absolute_seconds: Seconds | None = Field(
        default=None, description="Age at which a session is dealt anew. Default 0: never."
    )

    cel_rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="!(has(self.cookie) && has(self.header))",
            what="A session is kept by cookie or by header.",
            fix="Remove one of the two.",
            holds=lambda s: s.cookie is None or s.header is None,
        ),
    )


class LoadBalancing(Model):
    """How the endpoint of the next attempt is picked."""

    algorithm: Algorithm | None = Field(
        default=None,
        description="least-request (the default) draws two endpoints and takes the less loaded one; round-robin takes "
        "them in turn, by weight; random by weight; peak-ewma prefers the endpoint that answers fastest; ring-hash and "
        "maglev keep a client (hashOn) on one endpoint while endpoints come and go.",
    )
    hash_on: tuple[RequestKey, ...] | None = Field(
        default=None,
        min_length=1,
        max_length=8,
        description="What ring-hash and maglev tell clients apart by: the first of these that the request has.",
    )
    subset: dict[Annotated[str, Field(max_length=128)], Annotated[str, Field(max_length=512)]] | None = Field(
        default=None, max_length=16, description="Only endpoints whose metadata hold all of these take requests."
    )
    zone_aware: bool | None = Field(
        default=None, description="Prefer endpoints in the gateway's own zone, as far as they can take the load."
    )
    slow_start_seconds: Seconds | None = Field(
        default=None, description="A new endpoint's share grows to its full size over this time. Default 0."
    )
    panic_percent: Percent | None = Field(
        default=None,
        description="With a smaller share of endpoints available than this, all of them take requests, so that wrong "
        "health data do not overload the rest. Default 50.",
    )
    session_persistence: SessionPersistence | None = Field(
        default=None, description="Keep a client on the endpoint that took its first request."
    )


class CircuitBreaker(Model):
    """When what fails is refused requests for a while."""

    failures: Annotated[int, Field(ge=0, le=10000)] | None = Field(
        default=None,
        description="Consecutive failures (refused connections, resets, timeouts, 502, 503, 504) that open the "
        "circuit; 0: only errorPercent opens it. Default 5.",
    )
    reset_seconds: PositiveSeconds | None = Field(
        default=None,
        description="Seconds a circuit stays open before requests are let through as probes. Default 10.",
    )
    error_percent: Percent | None = Field(
        default=None, description="Share of failures within windowSeconds that opens the circuit. Default 0: none does."
    )
    min_requests: Count | None = Field(
        default=None, description="Requests in the window below which errorPercent says nothing. Default 20."
    )
    window_seconds: Annotated[float, Field(gt=0, le=3600)] | None = Field(
        default=None, description="Length of the window. Default 10."
    )
    probes: Annotated[int, Field(ge=1, le=100)] | None = Field(
        default=None,
        description="Requests let through at once while half-open; as many successes close the circuit. Default 1.",
    )


class ServiceCircuitBreaker(CircuitBreaker):
    """When the service as a whole is refused requests for a while. Fields as in circuitBreaker."""

    enabled: Switch = Field(default=None, description=SWITCH)


class OutlierDetection(Model):
    """When an endpoint is taken out for a while because of how it answered. Unlike a circuit it counts every 5xx."""

    enabled: Switch = Field(default=None, description=SWITCH)
    failures: Count | None = Field(default=None, description="Consecutive 5xx answers or failed attempts. Default 5.")
    eject_seconds: PositiveSeconds | None = Field(
        default=None,
        description="Seconds of the first ejection; the n-th lasts n times as long, ten times at most. Default 30.",
    )
    max_ejected_percent: Percent | None = Field(
        default=None, description="At most this share of the endpoints is out at once, never the last one. Default 50."
    )


_STATUS_RANGE = r"^[1-5][0-9]{2}(-[1-5][0-9]{2})?$"
StatusRange = Annotated[
    str,
    Field(min_length=3, max_length=7, pattern=_STATUS_RANGE),
    Rule(
        cel="self.size() < 7 || int(self.substring(0, 3)) <= int(self.substring(4, 7))",
        what="The range of statuses ends before it begins.",
        fix="Write it like 200-299.",
        holds=lambda text: len(text) < 7 or int(text[:3]) <= int(text[4:7]),
    ),
]


class HttpCheck(Model):
    """A GET that has to be answered with one of the statuses."""

    path: Annotated[str, Field(min_length=1, max_length=1024, pattern=r"^/[!-~]*$")] | None = Field(
        default=None, description="Path of the request, a query may follow. Default /healthz."
    )
    host: Annotated[str, Field(min_length=1, max_length=253, pattern=HOSTNAME_PATTERN)] | None = Field(
        default=None, description="Host header. Default: the endpoint's address."
    )
    statuses: tuple[StatusRange, ...] | None = Field(
        default=None, min_length=1, max_length=16, description="Good answers, as 204 or 200-299. Default 200-299."
    )


class GrpcCheck(Model):
    """The standard health service, grpc.health.v1.Health/Check."""

    service: Annotated[str, Field(max_length=253)] | None = Field(
        default=None, description="Name that is asked for. Default: empty, the server as a whole."
    )


class HealthCheck(Model):
    """Probes of every endpoint, whether or not there is traffic."""

    enabled: Switch = Field(default=None, description=SWITCH)
    http: HttpCheck | None = Field(default=None, description="Ask by HTTP; the default.")
    tcp: bool | None = Field(default=None, description="True: a connection that opens is enough.")
    grpc: GrpcCheck | None = Field(default=None, description="Ask the gRPC health service.")
    port: Annotated[int, Field(ge=1, le=65535)] | None = Field(
        default=None, description="Port that is asked. Default: the one that takes requests."
    )
    interval_seconds: Annotated[float, Field(gt=0, le=3600), at_least(0.1)] | None = Field(
        default=None, description="Seconds between two probes of an endpoint, at least 0.1. Default 5."
    )
    timeout_seconds: Annotated[float, Field(gt=0, le=3600)] | None = Field(
        default=None, description="Seconds one probe may take. Default 1."
    )
    jitter_percent: Percent | None = Field(
        default=None,
        description="Each pause is longer or shorter by up to this share, so that gateways do not probe in step. "
        "Default 20.",
    )
    unhealthy: Annotated[int, Field(ge=1, le=100)] | None = Field(
        default=None, description="Failed probes in a row that take an endpoint out. Default 3."
    )
    healthy: Annotated[int, Field(ge=1, le=100)] | None = Field(
        default=None, description="Good probes in a row that bring it back. Default 2."
    )

    cel_rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="[has(self.http), has(self.tcp) && self.tcp, has(self.grpc)].filter(x, x).size() <= 1",
            what="An endpoint is probed in one way.",
            fix="Set just one of http, tcp: true, grpc.",
            holds=lambda s: (s.http is not None) + (s.tcp is True) + (s.grpc is not None) <= 1,
        ),
    )


class Retry(Model):
    """Which attempts are repeated. Requests that are not idempotent are repeated only if nothing of them was sent."""

    attempts: int | None = Field(
        default=None, ge=0, le=10, description="Attempts after the first one, at most. 0 turns retries off. Default 2."
    )
    # Not `on`: YAML 1.1, and so kubectl, reads a bare `on` as `true`.
    when: tuple[Annotated[str, Field(max_length=16, pattern=RETRY_ON)], ...] | None = Field(
        default=None,
        max_length=20,
        description="Outcomes that are repeated: connect-failure, reset, timeout, and statuses from 400 to 599 in quotes, as "
        '"503". Default: connect-failure, reset, "503".',
    )
    backoff_seconds: Seconds | None = Field(
        default=None,
        description="A retry begins no sooner than this after the failure, and a random, growing part of a second later, "
        "so that retries do not come in step. Default 0.",
    )
    budget_percent: int | None = Field(
        default=None,
        ge=0,
        le=100,
        description="Retries may be at most this share of a service's recent requests, so that retries never drown a "
        "service that fails. Each gateway worker counts its own, and may always make ten in ten seconds. Default 20.",
    )


class Hedge(Model):
    """A second attempt beside a slow first one; the first answer wins. Idempotent requests only."""

    enabled: Switch = Field(default=None, description=SWITCH)
    percentile: Annotated[float, Field(ge=50, le=99.9)] | None = Field(
        default=None,
        description="Of the service's live response times, as each gateway worker sees them: how long the first attempt "
        "has before the second one starts. Default 95.",
    )
    min_delay_seconds: Seconds | None = Field(default=None, description="Never sooner than this. Default 0.005.")
    budget_percent: Percent | None = Field(
        default=None, description="Hedges may be at most this share of recent requests. Default 5."
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


Limit = Annotated[int, Field(ge=0, le=1_000_000)]


class Concurrency(Model):
    """How many requests a service is sent at once. More wait, or are answered 503. 0 turns a limit off."""

    max_requests: Limit | None = Field(
        default=None,
        description="Requests in flight, at most, of one gateway replica: all its workers together. Default 0.",
    )
    max_pending: Limit | None = Field(
        default=None,
        description="Requests of one gateway replica that may wait for a place, in order of arrival at their worker. "
        "Default 0.",
    )
    max_connections: Limit | None = Field(
        default=None, description="Connections of one gateway worker to one endpoint, at most. Default 0."
    )
    adaptive: bool | None = Field(
        default=None,
        description="Find the limit from response times, between minLimit and maxLimit. Each gateway worker finds its own.",
    )
    min_limit: Annotated[int, Field(ge=1, le=1_000_000)] | None = Field(
        default=None, description="The adaptive limit of one gateway worker never falls below. Default 8."
    )
    max_limit: Annotated[int, Field(ge=1, le=1_000_000)] | None = Field(
        default=None, description="The adaptive limit of one gateway worker never grows above. Default 1024."
    )

    cel_rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="!has(self.minLimit) || !has(self.maxLimit) || self.minLimit <= self.maxLimit",
            what="minLimit is above maxLimit.",
            fix="Make it smaller, or maxLimit larger.",
            holds=lambda s: s.min_limit is None or s.max_limit is None or s.min_limit <= s.max_limit,
            field=".minLimit",
        ),
    )


class UpstreamTls(Model):
    """TLS to the service's endpoints. Writing the section turns it on."""

    server_name: Annotated[str, Field(min_length=1, max_length=253, pattern=HOSTNAME_PATTERN)] | None = Field(
        default=None,
        description="Name the certificate has to have, and that is asked for. Default: the request's host.",
    )
    ca_certificate: (
        Annotated[
            str,
            Field(min_length=1, max_length=65536),
            Rule(
                cel="self.contains('-----BEGIN CERTIFICATE-----') && self.contains('-----END CERTIFICATE-----')",
                what="caCertificate is no PEM certificate.",
                fix="Paste the certificate with its BEGIN and END lines.",
                holds=lambda text: "-----BEGIN CERTIFICATE-----" in text and "-----END CERTIFICATE-----" in text,
            ),
        ]
        | None
    ) = Field(default=None, description="PEM certificates of the authorities that are accepted. Default: the system's.")
    verify: bool | None = Field(
        default=None,
        description="False accepts any certificate, for experiments only. It does not undo a wider policy's true.",
    )
