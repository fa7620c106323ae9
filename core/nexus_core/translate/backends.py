"""References to backends, of routes of any kind, to upstreams."""

from __future__ import annotations

from typing import Protocol

from nexus_core.model.kinds import GROUP
from nexus_core.problems import ObjectRef, Problem
from nexus_core.snapshot import Upstream
from nexus_core.translate.asking import Asking
from nexus_core.translate.backend_tls import Refused
from nexus_core.translate.upstreams import Caller
from nexus_core.translate.worlds import World

UNRESOLVED = frozenset(
    {"BackendNotFound", "RefNotPermitted", "InvalidKind", "UnsupportedProtocol", "InvalidBackendTLS"}
)
"""Reasons that cost a backend its share and nothing more (Gateway API: 500 for that share, or a refused connection)."""
CALLERS: dict[str, Caller] = {
    "HTTPRoute": "http",
    "GRPCRoute": "grpc",
    "TLSRoute": "tcp",
    "TCPRoute": "tcp",
    "UDPRoute": "udp",
}

_TAKEN: dict[str, tuple[Caller, ...]] = {"tcp": ("tcp",), "udp": ("udp",)}
"""Who may call a NexusService that speaks less than HTTP, by its upstream's protocol."""


class Reference(Protocol):
    """A backendRef of any kind of route, or a mirror's."""

    @property
    def group(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def namespace(self) -> str | None: ...
    @property
    def port(self) -> int | None: ...


class Backends:
    """Resolves the references of one route. An answer depends on the reference, the route's kind and namespace, ReferenceGrants,
    the Service and the BackendTLSPolicies on it.

    services: (namespace, name, port) of the Kubernetes Services that were named with leave, whether or not they work.
    """

    def __init__(self, world: World, asking: Asking, route: ObjectRef, problems: list[Problem]) -> None:
        self._world, self._asking = world, asking
        self._route, self._problems = route, problems
        self._caller = CALLERS[route.kind]
        self.services: set[tuple[str, str, int]] = set()

    def find(self, backend: Reference, path: str) -> str:
        """Return the upstream's id of a reference at a path, or empty (and a problem) for one that leads nowhere."""
        route = self._route
        namespace = backend.namespace or route.namespace
        if (backend.group, backend.kind) not in (("", "Service"), (GROUP, "NexusService")):
            what = f'A backend of kind "{backend.kind}" (group "{backend.group}") is not known.'
            fix = "Use a Service, or a NexusService with group: nexus.dev."
            return self._refuse(f"{path}.kind", "InvalidKind", what, fix)
        if not self._asking.permit(route.kind, route.namespace, backend.group, backend.kind, namespace, backend.name):
            what = (
                f'Namespace "{namespace}" does not permit {route.kind}s of "{route.namespace}" to use'
                f' {backend.kind} "{backend.name}".'
            )
            fix = f'Create a ReferenceGrant in "{namespace}", or use a backend of "{route.namespace}".'
            return self._refuse(f"{path}.namespace", "RefNotPermitted", what, fix)
        if backend.kind == "NexusService":
            return self._nexus_service(namespace, backend.name, path)
        if backend.port is None:
            what = f'The reference to Service "{backend.name}" has no port.'
            return self._refuse(f"{path}.port", "InvalidSpec", what, "Set port to one of the Service's ports.")
        self.services.add((namespace, backend.name, backend.port))
        found = self._asking.kubernetes_service(namespace, backend.name, backend.port, self._caller)
        if isinstance(found, Refused):
            return self._refuse(f"{path}.name", found.reason, found.what, found.fix)
        return found.id

    def _nexus_service(self, namespace: str, name: str, path: str) -> str:
        upstream_id = f"{namespace}/{name}"
        upstream = self._asking.upstream(upstream_id)
        if upstream is not None:
            return self._speaking(upstream, name, path)
        self._asking.trouble()
        if self._world.find("NexusService", namespace, name) is not None:
            what = f'NexusService "{name}" in namespace "{namespace}" is broken and never worked.'
            return self._refuse(f"{path}.name", "BackendNotFound", what, "Mend it; its own conditions say how.")
        known = self._world.names("NexusService", namespace)
        what = f'"{name}" is not a NexusService in namespace "{namespace}".'
        fix = f"Create it, or name one of: {', '.join(known)}." if known else "Create it."
        return self._refuse(f"{path}.name", "BackendNotFound", what, fix)

    def _speaking(self, upstream: Upstream, name: str, path: str) -> str:
        """Return the NexusService's upstream in the protocol that the route speaks."""
        taken = _TAKEN.get(upstream.protocol)
        if self._caller == "udp" and upstream.protocol != "udp":
            what = f'NexusService "{name}" takes no datagrams.'
            fix = "Write type: udp there, or name a Service with a UDP port."
            return self._refuse(f"{path}.kind", "UnsupportedProtocol", what, fix)
        if taken is not None and self._caller not in taken:
            what = f'NexusService "{name}" is of type {upstream.protocol}, which a {self._route.kind} does not speak.'
            fix = f"Name another backend, or write the type there that the service speaks: grpc or http in place of {upstream.protocol}."
            return self._refuse(f"{path}.kind", "UnsupportedProtocol", what, fix)
        return self._asking.speaking(upstream, self._caller)

    def _refuse(self, path: str, reason: str, what: str, fix: str) -> str:
        self._problems.append(Problem(self._route, path, reason, what, fix))
        return ""
