"""What translation returns: the Snapshot, the problems, and what a status writer and an endpoint mirror need."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from nexus_core.marketplace.locks import Lock
from nexus_core.model.gateway_parameters import NexusGatewayParametersSpec
from nexus_core.problems import ObjectRef, Problem
from nexus_core.snapshot import Snapshot


@dataclass(frozen=True, slots=True)
class Mirror:
    """A port of a Kubernetes Service whose endpoints belong in the registry.

    consul_service: the name there. namespace, service, port: the Kubernetes Service and its port (not its targetPort).
    meta: `nexus-type`, `nexus-openapi`, `nexus-namespace`; see `discovery.ServiceEntry`. protocol: of the port.
    """

    consul_service: str
    namespace: str
    service: str
    port: int
    tags: tuple[str, ...] = ()
    meta: Mapping[str, str] = field(default_factory=dict)
    protocol: Literal["TCP", "UDP"] = "TCP"


@dataclass(frozen=True, slots=True)
class Verdict:
    """The state of one condition. reason: CamelCase. message: for people; empty when all is well."""

    ok: bool
    reason: str
    message: str = ""


@dataclass(frozen=True, slots=True)
class Remark:
    """A condition that is there, and True, only while it holds. type: of the condition. message: for people."""

    type: str
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class ParentStatus:
    """A route at one of its parents. parent: the parentRef as written. gateway: the Gateway that the parent is, or belongs to.
    listeners: ids it attached to and is served at, sorted. accepted: where ok, its message names the listeners it attached to that are
    closed. index: in the route's parentRefs. remarks: further conditions of this parent. starved: at every one of the listeners other
    routes take all that it asks for.
    """

    parent: Mapping[str, Any]
    gateway: ObjectRef
    listeners: tuple[str, ...]
    accepted: Verdict
    resolved: Verdict
    index: int = 0
    remarks: tuple[Remark, ...] = ()
    starved: bool = False


@dataclass(frozen=True, slots=True)
class RouteStatus:
    """A route of any kind of the Gateway API. route: `Route.id` or `StreamRoute.id`. parents: only those that are Gateways or
    ListenerSets of ours, in the route's order.

    quarantined: its last good version is served instead of what it says now. remarks: further conditions of every parent.
    """

    ref: ObjectRef
    generation: int
    route: str
    parents: tuple[ParentStatus, ...]
    quarantined: bool = False
    remarks: tuple[Remark, ...] = ()


@dataclass(frozen=True, slots=True)
class ListenerStatus:
    """One listener of a Gateway or ListenerSet.

    conflicted: ok means no conflict; its condition is the one that is bad when True. attached_routes: routes of all kinds, as the
    Gateway API counts them (not `expose`). supported_kinds: sorted. serves: it is in the Snapshot; routes attach to it all the same.
    """

    name: str
    id: str
    accepted: Verdict
    resolved: Verdict
    conflicted: Verdict
    attached_routes: int = 0
    supported_kinds: tuple[str, ...] = ("HTTPRoute",)
    remarks: tuple[Remark, ...] = ()
    serves: bool = False


@dataclass(frozen=True, slots=True)
class Infrastructure:
    """What a Gateway says of the data plane that is made for it.

    labels, annotations: of everything that is made. parameters: the class's and the Gateway's own, merged; None when there are none.
    addresses: those it asks for, (type, value), type being `IPAddress` or `Hostname`; an empty value means any of that type.
    ports: what the Service has to open, (port, `TCP` or `UDP`), sorted: those of listeners that serve, ListenerSets' too.
    usable: False while parameters or addresses are wrong; what is there then stays as it is, and nothing new is made.
    """

    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    parameters: NexusGatewayParametersSpec | None = None
    addresses: tuple[tuple[str, str], ...] = ()
    ports: tuple[tuple[int, Literal["TCP", "UDP"]], ...] = ()
    usable: bool = True


@dataclass(frozen=True, slots=True)
class GatewayStatus:
    """A Gateway of ours. resolved: what it refers to beyond its listeners, and those in sum."""

    ref: ObjectRef
    generation: int
    accepted: Verdict
    listeners: tuple[ListenerStatus, ...]
    quarantined: bool = False
    resolved: Verdict = Verdict(True, "ResolvedRefs")
    infrastructure: Infrastructure = Infrastructure()
    attached_listener_sets: int = 0
    remarks: tuple[Remark, ...] = ()


@dataclass(frozen=True, slots=True)
class ListenerSetStatus:
    """A ListenerSet that names a Gateway of ours. gateway: that one. quarantined: its last good listeners serve."""

    ref: ObjectRef
    generation: int
    gateway: ObjectRef
    accepted: Verdict
    listeners: tuple[ListenerStatus, ...]
    quarantined: bool = False
    remarks: tuple[Remark, ...] = ()


@dataclass(frozen=True, slots=True)
class ClassStatus:
    """A GatewayClass of ours. features: what its status lists, sorted."""

    ref: ObjectRef
    generation: int
    accepted: Verdict
    features: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ServiceStatus:
    """A NexusService. upstream: `Upstream.id`, empty when it is not in the Snapshot. registry: its name in discovery,
    empty for fixed addresses. listeners: ids its `expose` attached to. hostnames, path: where clients reach it; an
    empty path means it is not exposed. secure: all of the listeners are of HTTPS.
    """

    ref: ObjectRef
    generation: int
    upstream: str
    registry: str = ""
    listeners: tuple[str, ...] = ()
    hostnames: tuple[str, ...] = ()
    path: str = ""
    quarantined: bool = False
    secure: bool = False

    def url(self, base: str = "") -> str:
        """Return where clients reach it: the first host name's URL, or the path below `base`; empty when not exposed."""
        host = next((h for h in self.hostnames if not h.startswith("*.")), "")
        if not self.path:
            return ""
        scheme = "https" if self.secure else "http"
        return f"{scheme}://{host}{self.path}" if host else f"{base.rstrip('/')}{self.path}"


@dataclass(frozen=True, slots=True)
class PassedOver:
    """A release that a NexusPlugin allows, newer than the one that it gets. reason: from the problems catalogue. message: why."""

    version: str
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class PluginStatus:
    """A NexusPlugin. plugin, version: the release that runs, empty when there is none. routes: ids of the routes it is on; gateways:
    `<namespace>/<name>` of those that serve them; both sorted.

    quarantined: it is not what it should be, and its last good release runs. lock: what is to be remembered of it, before what gateways
    say is counted in; None for a plugin that was never installed. candidate: version that is tried beside `version`. available: the
    newest version that the update policy holds back. dependencies: `name version` of its libraries and wheels. passed_over: the newest
    first, and those alone that were never tried on traffic.
    """

    ref: ObjectRef
    generation: int
    enabled: bool
    plugin: str = ""
    version: str = ""
    routes: tuple[str, ...] = ()
    quarantined: bool = False
    lock: Lock | None = None
    candidate: str = ""
    available: str = ""
    dependencies: tuple[str, ...] = ()
    gateways: tuple[str, ...] = ()
    passed_over: tuple[PassedOver, ...] = ()


@dataclass(frozen=True, slots=True)
class PolicyStatus:
    """A NexusPolicy. targets: those that exist, sorted."""

    ref: ObjectRef
    generation: int
    targets: tuple[ObjectRef, ...]
    accepted: Verdict


@dataclass(frozen=True, slots=True)
class AncestorStatus:
    """A policy of the Gateway API at one Gateway whose routes use its target."""

    gateway: ObjectRef
    accepted: Verdict
    resolved: Verdict


@dataclass(frozen=True, slots=True)
class BackendTlsStatus:
    """A BackendTLSPolicy. ancestors: the Gateways whose routes use what it targets, sorted, 16 at most. remarks: further conditions
    of each of them.
    """

    ref: ObjectRef
    generation: int
    ancestors: tuple[AncestorStatus, ...]
    remarks: tuple[Remark, ...] = ()


@dataclass(frozen=True, slots=True)
class Translation:
    """Everything that follows from the manifests. All tuples are sorted by `ref` (mirrors by name, problems by object).

    changes_at_utc: when time alone may change it (an update window opens); None for never.
    """

    snapshot: Snapshot
    problems: tuple[Problem, ...] = ()
    mirrors: tuple[Mirror, ...] = ()
    routes: tuple[RouteStatus, ...] = ()
    gateways: tuple[GatewayStatus, ...] = ()
    listener_sets: tuple[ListenerSetStatus, ...] = ()
    classes: tuple[ClassStatus, ...] = ()
    services: tuple[ServiceStatus, ...] = ()
    plugins: tuple[PluginStatus, ...] = ()
    policies: tuple[PolicyStatus, ...] = ()
    policies_tls: tuple[BackendTlsStatus, ...] = ()
    changes_at_utc: datetime | None = None
