"""The way from all manifests to one Snapshot.

1. Index the resources. 2. Open the listeners. 3. NexusServices give upstreams and routes. 4. HTTPRoutes give routes, and
ask for the upstreams of Kubernetes Services. 5. Plugins are put on the routes. 6. Policies are merged into upstreams and
rules. 7. What points nowhere is cut off, and everything is sorted.

Total: whatever the manifests say, the answer is a Snapshot and problems; nothing raises.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace

import msgspec

from nexus_core.marketplace import Index
from nexus_core.model.resources import Resource
from nexus_core.problems import sort_problems
from nexus_core.snapshot import EMPTY, Route, Rule, Snapshot
from nexus_core.translate import gateways, http_routes, services, upstreams, worlds
from nexus_core.translate.quarantine import LastGood
from nexus_core.translate.translation import Translation


def translate(
    resources: Iterable[Resource],
    *,
    previous: Snapshot | None = None,
    indexes: Mapping[str, Index] | None = None,
    class_name: str = "nexus",
) -> Translation:
    """Return the Snapshot of all resources, what is wrong with them, and what their statuses should say.

    resources: the whole world, in any order. previous: the published Snapshot; broken objects keep what it holds of
    them. indexes: marketplace indexes that could be read, by the NexusMarketplace's name. class_name: the GatewayClass
    that counts as ours without its object. Never raises; equal worlds give equal translations.
    """
    world = worlds.build_world(resources, class_name)
    last = LastGood(previous or EMPTY)
    opened = gateways.build_gateways(world, last)
    ups = upstreams.Upstreams(world)
    served = services.build_services(world, last, opened, ups)
    routed = http_routes.build_http_routes(world, last, opened, ups)
    listeners = tuple(sorted((o.listener for o in opened.listeners()), key=lambda x: x.id))
    names = {listener.id for listener in listeners}
    routes = [_settle(route, names, ups) for route in (*served.routes.values(), *routed.routes.values())]
    attached = Counter(i for s in routed.statuses for i in {x for p in s.parents for x in p.listeners})
    snapshot = Snapshot(
        listeners=listeners,
        routes=tuple(sorted((r for r in routes if r.listeners), key=lambda x: x.id)),
        upstreams=tuple(sorted(ups.by_id.values(), key=lambda x: x.id)),
    )
    return Translation(
        snapshot=snapshot,
        problems=sort_problems((*world.repeated, *opened.problems, *served.problems, *routed.problems)),
        mirrors=tuple(ups.mirrors[name] for name in sorted(ups.mirrors)),
        routes=tuple(routed.statuses),
        gateways=tuple(
            replace(s, listeners=tuple(replace(x, attached_routes=attached[x.id]) for x in s.listeners))
            for s in opened.statuses
        ),
        services=tuple(served.statuses[ref] for ref in sorted(served.statuses)),
    )


def _settle(route: Route, listeners: set[str], ups: upstreams.Upstreams) -> Route:
    """Cut off what a kept route names and is no more: its listeners; its upstreams, whose share then gets 500."""
    rules = tuple(_settle_rule(rule, ups) for rule in route.rules)
    return msgspec.structs.replace(
        route, listeners=tuple(i for i in route.listeners if i in listeners), rules=rules
    )


def _settle_rule(rule: Rule, ups: upstreams.Upstreams) -> Rule:
    if all(not b.upstream or ups.keep(b.upstream) for b in rule.backends):
        return rule
    backends = tuple(
        b if not b.upstream or ups.keep(b.upstream) else msgspec.structs.replace(b, upstream="") for b in rule.backends
    )
    return msgspec.structs.replace(rule, backends=backends)
