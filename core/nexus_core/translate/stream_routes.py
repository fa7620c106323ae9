"""TLSRoutes, TCPRoutes and UDPRoutes: connections, and datagrams, to backends by weight.

Of several routes on one TCP or UDP listener all are accepted, and the older one serves (Gateway API: GEP-2645); of several
TLSRoutes the one with the closer host name does, then the older one. Both are decided where connections come in.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

from nexus_core.model import gateway_api
from nexus_core.model.base import Model
from nexus_core.model.resources import Resource
from nexus_core.problems import ObjectRef
from nexus_core.snapshot import StreamRoute, WeightedBackend
from nexus_core.translate.route_builders import RouteBuilder, Surroundings

Backends = tuple[WeightedBackend, ...]


class StreamBuilder(RouteBuilder[StreamRoute, Backends]):
    """Builds one route below HTTP."""

    def __init__(self, around: Surroundings, resource: Resource) -> None:
        super().__init__(around, resource)
        self.spec, self.protocol = KINDS[self.ref.kind]

    def rules(self, spec: Any) -> Backends:
        """Return the backends of the only rule there may be."""
        rules: tuple[gateway_api.StreamRule, ...] = spec.rules
        if len(rules) != 1:
            what = f"The route has {len(rules)} rules."
            self.refuse(".spec.rules", "InvalidSpec", what, "Write one: nothing in it could tell connections apart.")
        return tuple(
            WeightedBackend(self.backends.find(backend, f".spec.rules[{index}].backendRefs[{number}]"), backend.weight)
            for index, rule in enumerate(rules[:1])
            for number, backend in enumerate(rule.backend_refs)
        )

    def item(self, listeners: tuple[str, ...], names: tuple[str, ...], rules: Backends) -> StreamRoute:
        """Return the route."""
        return StreamRoute(
            self.route_id, str(self.ref), self.protocol, listeners, names, rules, self.resource.created_at
        )

    def last(self) -> tuple[StreamRoute, ...]:
        """Return the last good version."""
        return self.around.last.streams_of(self.ref)

    def place(self) -> dict[ObjectRef, StreamRoute]:
        """Return where routes below HTTP are gathered."""
        return self.around.found.streams

    def upstreams_of(self, item: StreamRoute) -> Iterable[str]:
        """Return the upstreams of the backends."""
        return (backend.upstream for backend in item.backends)


KINDS: Mapping[str, tuple[type[Model], Literal["TLS", "TCP", "UDP"]]] = {
    "TLSRoute": (gateway_api.TLSRouteSpec, "TLS"),
    "TCPRoute": (gateway_api.TCPRouteSpec, "TCP"),
    "UDPRoute": (gateway_api.UDPRouteSpec, "UDP"),
}
