"""From all manifests to one Snapshot: pure, total, deterministic, whatever the order."""

from nexus_core.translate.translation import (
    GatewayStatus,
    ListenerStatus,
    Mirror,
    ParentStatus,
    PluginStatus,
    PolicyStatus,
    RouteStatus,
    ServiceStatus,
    Translation,
    Verdict,
)
from nexus_core.translate.whole import translate

__all__ = [
    "GatewayStatus",
    "ListenerStatus",
    "Mirror",
    "ParentStatus",
    "PluginStatus",
    "PolicyStatus",
    "RouteStatus",
    "ServiceStatus",
    "Translation",
    "Verdict",
    "translate",
]
