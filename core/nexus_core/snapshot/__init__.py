"""The Snapshot: everything a gateway runs, resolved, frozen and comparable.

The operator (or a file source) translates manifests into it; gateways swap to it whole. Only `wire` knows how it is
serialised. Every tuple is sorted by `id` unless its field says otherwise, so equal worlds give equal snapshots.
"""

from nexus_core.snapshot.acks import Ack, CandidateReport, PluginReport, PluginStats
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
from nexus_core.snapshot.plugins import (
    Budgets,
    Candidate,
    Library,
    Permissions,
    PluginInstance,
    PluginNeed,
    Release,
    SealedValue,
    Wheel,
    WheelNeed,
)
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
    "Budgets",
    "Candidate",
    "CandidateReport",
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
    "Library",
    "Listener",
    "ListenerTls",
    "Match",
    "Mirror",
    "Outlier",
    "Permissions",
    "Persistence",
    "PluginInstance",
    "PluginNeed",
    "PluginReport",
    "PluginStats",
    "Published",
    "QueryMatch",
    "RateLimit",
    "Redirect",
    "Release",
    "Retry",
    "Route",
    "Rule",
    "SealedValue",
    "SizeLimit",
    "Snapshot",
    "StaticAddresses",
    "StreamRoute",
    "Timeouts",
    "Upstream",
    "UpstreamTls",
    "UrlRewrite",
    "WeightedBackend",
    "Wheel",
    "WheelNeed",
    "gateway_of",
]
