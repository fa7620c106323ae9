"""From all manifests to one Snapshot: pure, total, deterministic, whatever the order."""

from nexus_core.translate.session import Session
from nexus_core.translate.translation import (
    ClassStatus,
    GatewayStatus,
    Infrastructure,
    ListenerSetStatus,
    ListenerStatus,
    Mirror,
    ParentStatus,
    PluginStatus,
    PolicyStatus,
    Remark,
    RouteStatus,
    ServiceStatus,
    Translation,
    Verdict,
)
from nexus_core.translate.whole import translate

__all__ = [
    "ClassStatus",
    "GatewayStatus",
    "Infrastructure",
    "ListenerSetStatus",
    "ListenerStatus",
    "Mirror",
    "ParentStatus",
    "PluginStatus",
    "PolicyStatus",
    "Remark",
    "RouteStatus",
    "ServiceStatus",
    "Session",
    "Translation",
    "Verdict",
    "translate",
]
