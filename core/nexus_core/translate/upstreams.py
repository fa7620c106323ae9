"""Upstreams under construction: those of NexusServices, and of Kubernetes Services as routes ask for them.

One Service port may become several upstreams: one for each protocol that routes speak to it, and one for each way in which
routes keep clients at their endpoint.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

import msgspec

from nexus_core.model import kubernetes
from nexus_core.problems import ObjectRef
from nexus_core.snapshot import (
    CircuitBreaker,
    Discovered,
    Persistence,
    Route,
    StaticAddresses,
    Timeouts,
    Upstream,
    UpstreamTls,
)
from nexus_core.translate.backend_tls import BackendTls, Refused
from nexus_core.translate.endpoint_slices import EndpointSlices
from nexus_core.translate.memory import Memory
from nexus_core.translate.translation import Mirror
from nexus_core.translate.worlds import World

Protocol = Literal["http", "h2", "tcp", "udp"]
Caller = Literal["http", "grpc", "tcp", "udp"]
"""What a route speaks: requests, gRPC calls, connections, datagrams."""

_STICKY = "sticky-"

APP_PROTOCOLS: Mapping[str, tuple[Protocol, bool]] = {
    "": ("http", False),
    "http": ("http", False),
    "ws": ("http", False),
    "kubernetes.io/ws": ("http", False),
    "tcp": ("http", False),  # true of HTTP as well, and often written for a mesh
    "https": ("http", True),
    "wss": ("http", True),
    "kubernetes.io/wss": ("http", True),
    "h2c": ("h2", False),
    "http2": ("h2", False),
    "kubernetes.io/h2c": ("h2", False),
    "grpc": ("h2", False),
    "grpcs": ("h2", True),
    "h2": ("h2", True),
}
"""A Service port's `appProtocol` in lower case → protocol, and whether TLS is spoken. Sources: KEP-3726; IANA service names."""
NO_BREAKER = CircuitBreaker(failures=0)
"""Of a Kubernetes Service: the Gateway API wants its answers passed on, those that would open a circuit too. A NexusPolicy on the
Gateway turns circuits on."""
OF_CALLS = Timeouts(request_s=0.0)
"""Of what is called by HTTP/2: a gRPC stream may be silent for long before its first message, and calls bring their own deadlines."""
_WEB_SOCKETS = frozenset({"ws", "wss", "kubernetes.io/ws", "kubernetes.io/wss"})


@dataclass
class Upstreams:
    """by_id: upstreams found so far. mirrors: by name in the registry. kept: ids of last good versions.

    secured: BackendTLSPolicies. persistence: what makes an upstream another one than its Service's, by id. services: the Kubernetes
    Service and port that is behind a NexusService's upstream, by id. pinned: ids of those whose TLS a BackendTLSPolicy says.
    """

    world: World
    secured: BackendTls
    last: Mapping[str, Upstream] = field(default_factory=dict)
    by_id: dict[str, Upstream] = field(default_factory=dict)
    mirrors: dict[str, Mirror] = field(default_factory=dict)
    kept: set[str] = field(default_factory=set)
    persistence: dict[str, Persistence] = field(default_factory=dict)
    memory: Memory = field(default_factory=Memory)
    _answers: dict[tuple[str, str, int, Caller], Upstream | Refused] = field(default_factory=dict)
    services: dict[str, tuple[str, str, int]] = field(default_factory=dict)
    pinned: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.slices = EndpointSlices(self.world)

    def kubernetes_service(self, namespace: str, name: str, port: int, caller: Caller = "http") -> Upstream | Refused:
        """Return the upstream of a Kubernetes Service's port, made when first asked for; or why there is none."""
        key = (namespace, name, port, caller)
        answer = self._answers.get(key)
        if answer is None:
            answer = self._answers[key] = self._kubernetes_service(namespace, name, port, caller)
        return answer

    def _kubernetes_service(self, namespace: str, name: str, port: int, caller: Caller) -> Upstream | Refused:
        found = find_port(self.world, namespace, name, port, "UDP" if caller == "udp" else "TCP")
        if isinstance(found, str):
            return Refused("BackendNotFound", found, "Create it, or name another Service or port.")
        if caller in ("tcp", "udp"):
            return self._make(namespace, name, found, caller)
        said = found.app_protocol.lower()
        known = APP_PROTOCOLS.get(said)
        if known is None or (caller == "grpc" and said in _WEB_SOCKETS):
            spoken = "gRPC" if caller == "grpc" else "HTTP"
            what = f'Port {port} of Service "{name}" says appProtocol "{found.app_protocol[:80]}", over which Nexus speaks no {spoken}.'
            fix = "Set appProtocol to kubernetes.io/h2c, kubernetes.io/ws, http or https, or leave it out."
            return Refused("UnsupportedProtocol", what, fix)
        return self._make(namespace, name, found, "h2" if caller == "grpc" else known[0])

    def _make(self, namespace: str, name: str, port: kubernetes.ServicePort, protocol: Protocol) -> Upstream | Refused:
        upstream_id = f"Service/{namespace}/{name}/{port.port}" + ("" if protocol == "http" else f"/{protocol}")
        if upstream_id in self.by_id:
            return self.by_id[upstream_id]
        tls: UpstreamTls | Refused | None = None
        if protocol != "udp":
            tls = self.secured.find(namespace, name, port.name)
        if isinstance(tls, Refused):
            return tls
        if tls is not None:
            self.pinned.add(upstream_id)
        elif protocol in ("http", "h2") and APP_PROTOCOLS.get(port.app_protocol.lower(), ("", False))[1]:
            # Encrypted, it says, and by whom it is vouched for nobody says: so by the system's authorities, never in clear.
            tls = UpstreamTls()
        source = str(ObjectRef("Service", namespace, name))
        endpoints = self.endpoints(namespace, name, port)
        upstream = Upstream(upstream_id, source, endpoints, protocol, breaker=NO_BREAKER, tls=tls)
        if protocol == "h2":
            upstream = msgspec.structs.replace(upstream, timeouts=OF_CALLS)
        upstream = self.memory.upstream(upstream)
        self.by_id[upstream_id] = upstream
        return upstream

    def endpoints(
        self, namespace: str, name: str, port: kubernetes.ServicePort, meta: Mapping[str, str] | None = None
    ) -> Discovered | StaticAddresses:
        """Return where the endpoints of a Kubernetes Service's port are: where EndpointSlices among the manifests say, else under a
        name in the registry, to which they are mirrored then. meta: of the mirror."""
        static = self.slices.find(namespace, name, port)
        if static is not None:
            return static
        mirror = mirror_of_port(namespace, name, port, meta)
        self.mirrors.setdefault(mirror.consul_service, mirror)
        return Discovered(mirror.consul_service)

    def find(self, upstream_id: str) -> Upstream | None:
        """Return an upstream that is there."""
        return self.by_id.get(upstream_id)

    def speaking(self, upstream: Upstream, caller: Caller) -> str:
        """Return the id of a NexusService's upstream in the protocol that a route speaks; not for datagrams."""
        wanted: Protocol = "tcp" if caller == "tcp" else "h2" if caller == "grpc" else upstream.protocol
        if wanted == upstream.protocol:
            return upstream.id
        found = f"{upstream.id}/{wanted}"
        if found not in self.by_id:
            timeouts = OF_CALLS if wanted == "h2" and upstream.timeouts == Timeouts() else upstream.timeouts
            self.by_id[found] = msgspec.structs.replace(upstream, id=found, protocol=wanted, timeouts=timeouts)
            self._alike(upstream.id, found)
        return found

    def sticky(self, upstream_id: str, persistence: Persistence) -> str:
        """Return the id of the same upstream with its clients kept at their endpoints.

        It is another upstream, because others of its Service's routes may not ask for that; equal wishes share it.
        """
        said = hashlib.sha256(msgspec.json.encode(persistence)).hexdigest()[:8]
        found = f"{upstream_id}/{_STICKY}{said}"
        if found not in self.by_id:
            self.by_id[found] = msgspec.structs.replace(self.by_id[upstream_id], id=found)
            self.persistence[found] = persistence
            self._alike(upstream_id, found)
        return found

    def _alike(self, upstream_id: str, variant: str) -> None:
        if upstream_id in self.kept:
            self.kept.add(variant)
        if upstream_id in self.pinned:
            self.pinned.add(variant)
        if upstream_id in self.services:
            self.services[variant] = self.services[upstream_id]

    def settled(self, upstream: Upstream) -> Upstream:
        """Return an upstream that policies were merged into, with what makes it the upstream it is, whatever they say: how its
        clients are kept, the TLS of its Service's BackendTLSPolicy, and that its `appProtocol` asks for TLS.
        """
        wished = self.persistence.get(upstream.id)
        if wished is not None:
            balancing = msgspec.structs.replace(upstream.balancing, persistence=wished)
            upstream = msgspec.structs.replace(upstream, balancing=balancing)
        tls = self.by_id[upstream.id].tls
        if upstream.id in self.pinned or (upstream.tls is None and tls is not None and upstream.id not in self.kept):
            upstream = msgspec.structs.replace(upstream, tls=tls)
        return upstream

    def uses(self, routes: Iterable[Route]) -> Iterator[tuple[tuple[str, str, int], str]]:
        """Yield the Kubernetes Services behind NexusServices that routes lead to, each with a listener of such a route."""
        if not self.services:
            return
        for route in routes:
            for name in {b.upstream for rule in route.rules for b in rule.backends} & self.services.keys():
                for listener in route.listeners:
                    yield self.services[name], listener

    def keep(self, upstream_id: str) -> bool:
        """Whether the upstream of a kept route is there; a Kubernetes Service's is made again, if the Service still is."""
        if upstream_id in self.by_id:
            return True
        base, _, variant = upstream_id.rpartition("/")
        if variant.startswith(_STICKY):
            before = self.last.get(upstream_id)
            wished = before.balancing.persistence if before is not None else None
            return wished is not None and self.keep(base) and self.sticky(base, wished) == upstream_id
        service = service_of(upstream_id)
        if service is None:
            if variant not in ("h2", "tcp") or base not in self.by_id or base.count("/") != 1:
                return False
            return self.speaking(self.by_id[base], "tcp" if variant == "tcp" else "grpc") == upstream_id
        namespace, name, number, protocol = service
        port = find_port(self.world, namespace, name, number, "UDP" if protocol == "udp" else "TCP")
        return not isinstance(port, str) and isinstance(self._make(namespace, name, port, protocol), Upstream)


def service_of(upstream_id: str) -> tuple[str, str, int, Protocol] | None:
    """Return namespace, name, port and protocol of the Kubernetes Service an upstream's id names; None for a NexusService's."""
    parts = upstream_id.split("/")
    if parts[-1].startswith(_STICKY):
        parts.pop()
    if len(parts) not in (4, 5) or parts[0] != "Service" or not parts[3].isdecimal():
        return None
    protocol = _PROTOCOLS.get(parts[4] if len(parts) == 5 else "http")
    return (parts[1], parts[2], int(parts[3]), protocol) if protocol else None


_PROTOCOLS: Mapping[str, Protocol] = {"http": "http", "h2": "h2", "tcp": "tcp", "udp": "udp"}


def find_port(
    world: World, namespace: str, name: str, port: int, transport: Literal["TCP", "UDP"] = "TCP"
) -> kubernetes.ServicePort | str:
    """Return the port of a Kubernetes Service, or what is wrong, as a sentence."""
    resource = world.find("Service", namespace, name)
    if resource is None:
        return f'There is no Service "{name}" in namespace "{namespace}".'
    spec = resource.spec
    if not isinstance(spec, kubernetes.ServiceSpec):
        return f'Service "{name}" in namespace "{namespace}" is broken.'
    if spec.type == "ExternalName":
        # Gateway API, BackendObjectReference: such Services should not be supported (CVE-2021-25740).
        return f'Service "{name}" is of type ExternalName, whose endpoints Kubernetes does not know.'
    fitting = [p for p in spec.ports if p.protocol == transport]
    for found in fitting:
        if found.port == port:
            return found
    known = ", ".join(str(p.port) for p in sorted(fitting, key=lambda p: p.port))
    return f'Service "{name}" has no {transport} port {port}; it has {known or "none"}.'


def mirror_of_port(
    namespace: str, name: str, port: kubernetes.ServicePort, meta: Mapping[str, str] | None = None
) -> Mirror:
    """Return the mirror of a Kubernetes Service's port. A UDP port has a name of its own: a TCP port may have its number."""
    transport: Literal["TCP", "UDP"] = "UDP" if port.protocol == "UDP" else "TCP"
    registered = f"{name}.{namespace}.{port.port}" + (".udp" if transport == "UDP" else "")
    about = dict(meta) if meta else {"nexus-namespace": namespace}
    return Mirror(registered, namespace, name, port.port, (), about, transport)


def mirror_of(
    world: World, namespace: str, name: str, port: int, meta: Mapping[str, str] | None = None
) -> Mirror | str:
    """Return the mirror of a Kubernetes Service's TCP port, or what is wrong, as a sentence."""
    found = find_port(world, namespace, name, port)
    return found if isinstance(found, str) else mirror_of_port(namespace, name, found, meta)
