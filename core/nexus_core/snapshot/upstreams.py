"""What requests are sent to."""

from __future__ import annotations

from typing import Literal

import msgspec

from nexus_core.snapshot.policies import (
    Balancing,
    CircuitBreaker,
    Concurrency,
    HealthCheck,
    Hedge,
    Outlier,
    Retry,
    Timeouts,
    UpstreamTls,
)


class Discovered(msgspec.Struct, frozen=True, omit_defaults=True, tag="discovered"):
    """Endpoints come from the discovery port under this name (in Consul: healthy instances of the service with the tag)."""

    service: str
    tag: str = ""


class StaticAddresses(msgspec.Struct, frozen=True, omit_defaults=True, tag="static"):
    """Endpoints are these `(host, port)` pairs, in the user's order. A host name is resolved when a connection opens."""

    addresses: tuple[tuple[str, int], ...]


class Upstream(msgspec.Struct, frozen=True, omit_defaults=True):
    """One service as the gateway calls it.

    id: `<namespace>/<name>` of a NexusService, `Service/<namespace>/<name>/<port>` of a Kubernetes Service, with `/<protocol>` at its
    end where that is not `http`, and `/sticky-<digest>` where rules of routes keep clients at their endpoints.
    source: the object whose change changes this, as `str(ObjectRef)`.
    protocol: `http` is HTTP/1.1; `h2` is HTTP/2 alone (prior knowledge in clear, ALPN over TLS), which gRPC needs.
    breaker: of each endpoint; service_breaker: of all together. None: that feature is off.
    tls: of connections that the gateway opens; where TLS passes through, the client speaks it itself and nothing is added.
    """

    id: str
    source: str
    endpoints: Discovered | StaticAddresses
    protocol: Literal["http", "h2", "tcp", "udp"] = "http"
    balancing: Balancing = Balancing()
    breaker: CircuitBreaker = CircuitBreaker()
    service_breaker: CircuitBreaker | None = None
    outlier: Outlier | None = None
    health: HealthCheck | None = None
    retry: Retry = Retry()
    hedge: Hedge | None = None
    timeouts: Timeouts = Timeouts()
    concurrency: Concurrency = Concurrency()
    tls: UpstreamTls | None = None
