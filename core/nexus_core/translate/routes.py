"""All routes of the Gateway API, by kind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nexus_core.translate import route_conflicts
from nexus_core.translate.gateways import Gateways
from nexus_core.translate.grpc_routes import GrpcBuilder
from nexus_core.translate.http_routes import HttpBuilder
from nexus_core.translate.quarantine import LastGood
from nexus_core.translate.route_builders import RouteBuilder, Routes, Surroundings
from nexus_core.translate.stream_routes import StreamBuilder
from nexus_core.translate.upstreams import Upstreams
from nexus_core.translate.worlds import World

BUILDERS: Mapping[str, type[RouteBuilder[Any, Any]]] = {
    "HTTPRoute": HttpBuilder,
    "GRPCRoute": GrpcBuilder,
    "TLSRoute": StreamBuilder,
    "TCPRoute": StreamBuilder,
    "UDPRoute": StreamBuilder,
}


def build_routes(world: World, last: LastGood, gateways: Gateways, upstreams: Upstreams) -> Routes:
    """Return the routes of all kinds that name a Gateway or ListenerSet of ours."""
    around = Surroundings(world, last, gateways, upstreams)
    for kind, builder in BUILDERS.items():
        for resource in world.all(kind):
            builder(around, resource).build()
    route_conflicts.settle(around.found, gateways.listeners())
    around.found.statuses.sort(key=lambda status: status.ref)
    return around.found
