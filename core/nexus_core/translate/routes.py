"""All routes of the Gateway API, by kind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nexus_core.problems import ObjectRef
from nexus_core.translate import route_conflicts
from nexus_core.translate.gateways import Gateways
from nexus_core.translate.grpc_routes import GrpcBuilder
from nexus_core.translate.http_routes import HttpBuilder
from nexus_core.translate.memory import Kept, Log, Memory, holds
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


def build_routes(
    world: World, last: LastGood, gateways: Gateways, upstreams: Upstreams, memory: Memory | None = None
) -> Routes:
    """Return the routes of all kinds that name a Gateway or ListenerSet of ours. memory: of what was built before, and afterwards of
    this.
    """
    memory = memory or Memory()
    around = Surroundings(world, last, gateways, upstreams)
    subjects = around.asking.subjects
    found = Routes()
    kept: dict[ObjectRef, Kept] = {}
    for kind, builder in BUILDERS.items():
        for resource in world.all(kind):
            before = memory.routes.get(resource.ref)
            if before is not None and holds(before, resource, subjects):
                kept[resource.ref] = before
                found.absorb(before.result)
                continue
            around.found = one = Routes()
            around.asking.log = log = Log()
            builder(around, resource).build()
            found.absorb(one)
            if log.sound:
                kept[resource.ref] = Kept(resource, log.asked(), one)
    memory.routes = kept
    route_conflicts.settle(found, gateways.listeners())
    found.statuses.sort(key=lambda status: status.ref)
    return found
