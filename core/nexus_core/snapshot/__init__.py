"""The Snapshot: everything a gateway runs, resolved, frozen and comparable.

The operator (or a file source) translates manifests into it; gateways swap to it whole. Only `wire` knows how it is
serialised. Every tuple is sorted by `id` unless its field says otherwise, so equal worlds give equal snapshots.
"""

from nexus_core.snapshot.acks import Ack, PluginReport
from nexus_core.snapshot.filters import (
    Cors,
    DirectReply,
    Fallback,
    Fault,
    Filter,
    HeaderModifier,
    Mirror,
    RateLimit,
    Redirect,
    SizeLimit,
    UrlRewrite,
)
from nexus_core.snapshot.listeners import Certificate, GatewayPart, Holder, Listener, ListenerTls, gateway_of
from nexus_core.snapshot.plugins import PluginInstance, Release
from nexus_core.snapshot.policies import (
    Balancing,
    CircuitBreaker,
    Concurrency,
    HashKey,
    HealthCheck,
    Hedge,
    Outlier,
    Persistence,
    Retry,
    Timeouts,
    UpstreamTls,
)
from nexus_core.snapshot.routes import HeaderMatch, Match, QueryMatch, Route, Rule, WeightedBackend
from nexus_core.snapshot.snapshots import EMPTY, Published, Snapshot
from nexus_core.snapshot.streams import StreamRoute
from nexus_core.snapshot.upstreams import Discovered, StaticAddresses, Upstream

__all__ = [
    "EMPTY",
    "Ack",
    "Balancing",
    "Certificate",
    "CircuitBreaker",
    "Concurrency",
    "Cors",
    "DirectReply",
    "Discovered",
    "Fallback",
    "Fault",
    "Filter",
    "GatewayPart",
    "HashKey",
    "HeaderMatch",
    "HeaderModifier",
    "HealthCheck",
    "Hedge",
    "Holder",
    "Listener",
    "ListenerTls",
    "Match",
    "Mirror",
    "Outlier",
    "Persistence",
    "PluginInstance",
    "PluginReport",
    "Published",
    "QueryMatch",
    "RateLimit",
    "Redirect",
    "Release",
    "Retry",
    "Route",
    "Rule",
    "SizeLimit",
    "Snapshot",
    "StaticAddresses",
    "StreamRoute",
    "Timeouts",
    "Upstream",
    "UpstreamTls",
    "UrlRewrite",
    "WeightedBackend",
    "gateway_of",
]
