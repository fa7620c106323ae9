"""How an upstream is balanced and protected. Values only; the gateway's `balance/` and `resilience/` give them life.

Seconds are floats, ratios 0..1. A zero turns a limit off, unless its field says otherwise.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

RETRY_ON = "^(connect-failure|reset|timeout|[45][0-9]{2})$"
RetryOn = Annotated[str, msgspec.Meta(pattern=RETRY_ON)]
"""How an attempt may end: without a connection, without an answer, without one in time, or with this status, 400 to 599."""
Algorithm = Literal["least-request", "round-robin", "random", "peak-ewma", "ring-hash", "maglev"]


class HashKey(msgspec.Struct, frozen=True, omit_defaults=True):
    """A part of a request that stands for its client.

    kind: `header`, `cookie`, `query` and `claim` (of an unverified bearer JWT) are found by `name`; `source` is the
    client's address, as trusted proxies tell it.
    """

    kind: Literal["header", "cookie", "query", "claim", "source"]
    name: str = ""


class Persistence(msgspec.Struct, frozen=True, omit_defaults=True):
    """A client's later requests go to the endpoint that took its first one, as long as that one is healthy.

    kind: `cookie` is set by the gateway; `header` is given in the response and sent back by the client.
    absolute_s: age at which a session is dealt anew; 0 for never. A session names its endpoint sealed, not in clear.
    """

    kind: Literal["cookie", "header"] = "cookie"
    name: str = "nexus-session"
    absolute_s: float = 0.0


class Balancing(msgspec.Struct, frozen=True, omit_defaults=True):
    """How the endpoint of the next attempt is picked."""

    algorithm: Algorithm = "least-request"
    """`least-request` draws two endpoints and takes the less loaded; `round-robin` is smooth and weighted.
    Default least-request: it keeps slow endpoints from collecting requests and needs no tuning."""
    hash_on: tuple[HashKey, ...] = ()
    """For `ring-hash` and `maglev`: the first one that the request has. A request with none is dealt at random."""
    subset: tuple[tuple[str, str], ...] = ()
    """Only endpoints whose metadata hold all of these pairs, sorted. Empty takes all."""
    zone_aware: bool = False
    """Endpoints in the gateway's own zone first, as far as their share of the load allows."""
    slow_start_s: float = 0.0
    """A new endpoint's weight grows to its own over this time."""
    panic_ratio: float = 0.5
    """With a smaller share of available endpoints than this, all take requests: wrong health data must not overload the rest."""
    persistence: Persistence | None = None


class CircuitBreaker(msgspec.Struct, frozen=True, omit_defaults=True):
    """When an endpoint, or a whole service, is refused requests. Circuit open = requests refused."""

    failures: int = 5
    """Consecutive failures (connect errors, resets, timeouts, 502/503/504) that open the circuit; 0 = only the error ratio does."""
    reset_s: float = 10.0
    """Seconds the circuit stays open before probe requests are let through."""
    error_ratio: float = 0.0
    """Share of failures within the window that opens the circuit."""
    min_requests: int = 20
    """Requests in the window below which the ratio says nothing."""
    window_s: float = 10.0
    probes: int = 1
    """Requests let through at once while half-open; as many successes close the circuit."""

    @property
    def is_off(self) -> bool:
        """Whether nothing opens the circuit."""
        return not self.failures and not self.error_ratio


class Outlier(msgspec.Struct, frozen=True, omit_defaults=True):
    """When an endpoint is taken out for a while because of how it answered. Unlike a circuit it counts every 5xx."""

    failures: int = 5
    """Consecutive 5xx answers or failed attempts."""
    eject_s: float = 30.0
    """Seconds of the first ejection; the n-th lasts n times as long, ten times at most."""
    max_ejected_ratio: float = 0.5
    """At most this share of the upstream's endpoints is out at once; never the last one."""


class HealthCheck(msgspec.Struct, frozen=True, omit_defaults=True):
    """Probes of every endpoint, whether or not there is traffic.

    path, statuses: of `http`; service: of `grpc` (grpc.health.v1). port: 0 = the endpoint's own.
    """

    kind: Literal["http", "tcp", "grpc"] = "http"
    path: str = "/healthz"
    host: str = ""
    service: str = ""
    port: int = 0
    statuses: tuple[tuple[int, int], ...] = ((200, 299),)
    """Ranges, both ends included."""
    interval_s: float = 5.0
    timeout_s: float = 1.0
    jitter_ratio: float = 0.2
    """Each pause is longer or shorter by up to this share, so that gateways do not probe in step."""
    unhealthy: int = 3
    """Failed probes in a row that take an endpoint out."""
    healthy: int = 2
    """Good probes in a row that bring it back; the first one does while nothing is known of it."""


class Retry(msgspec.Struct, frozen=True, omit_defaults=True):
    """Which attempts are repeated. Only idempotent requests are, unless nothing of the request was sent."""

    attempts: int = 2
    """Attempts after the first one, at most. 0 turns retries off."""
    on: tuple[RetryOn, ...] = ("connect-failure", "reset", "503")
    """Outcomes that are repeated, sorted."""
    backoff_s: float = 0.0
    """No retry begins sooner after the failure; up to half as much, or a growing part of a second, is added by chance."""
    budget_ratio: float = 0.2
    """Retries may be at most this share of the recent requests of the upstream (plus a floor of a few), so that a
    failing upstream is not flooded."""


class Hedge(msgspec.Struct, frozen=True, omit_defaults=True):
    """A second attempt beside a slow first one; the first answer wins and the other is cancelled. Idempotent requests only."""

    percentile: float = 0.95
    """Of the upstream's live response times: the wait before the second attempt."""
    min_delay_s: float = 0.005
    """Never sooner than this."""
    budget_ratio: float = 0.05
    """Hedges may be at most this share of recent requests."""


class Timeouts(msgspec.Struct, frozen=True, omit_defaults=True):
    """Deadlines of one request. Zero turns one off."""

    request_s: float = 15.0
    """From the request's head read to the response's head, over all attempts."""
    try_s: float = 0.0
    """For one attempt; 0 = only `request_s` holds."""
    connect_s: float = 2.0
    """To open a connection to an endpoint."""
    idle_s: float = 300.0
    """Without a byte in either direction once a response or tunnel streams."""


class Concurrency(msgspec.Struct, frozen=True, omit_defaults=True):
    """How many requests an upstream is sent at once. More wait or are refused with 503."""

    max_requests: int = 0
    """The bulkhead: requests in flight on the upstream, at most."""
    max_pending: int = 0
    """Requests that may wait for a place, in order of arrival, until their own deadline. 0: none waits."""
    max_connections: int = 0
    """Connections to one endpoint, at most."""
    adaptive: bool = False
    """Find the limit from response times (gradient), between `min_limit` and `max_limit`."""
    min_limit: int = 8
    max_limit: int = 1024


class UpstreamTls(msgspec.Struct, frozen=True, omit_defaults=True):
    """TLS to the endpoints.

    server_name: for SNI and verification; empty takes the request's host. ca: PEM of the accepted authorities; empty takes
    the system's. verify: False accepts any certificate: for experiments only.
    subject_alt_names: when there are any, the certificate must have one of these and server_name is for SNI alone; dns names may
    begin with `*.`, which stands for one label.
    """

    server_name: str = ""
    ca: str = ""
    verify: bool = True
    subject_alt_names: tuple[tuple[Literal["dns", "uri"], str], ...] = ()
