"""The way from all manifests to one Snapshot.

1. Index the resources. 2. Open the listeners. 3. NexusServices give upstreams and routes. 4. The Gateway API's routes give routes
and streams, and ask for the upstreams of Kubernetes Services. 5. Plugins are put on the routes. 6. Policies are merged into upstreams and
rules. 7. What points nowhere is cut off, and everything is sorted.

Total: whatever the manifests say, the answer is a Snapshot and problems; nothing raises.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING

import msgspec

from nexus_core.discovery import TLS_META
from nexus_core.marketplace import Index
from nexus_core.marketplace.locks import Lock
from nexus_core.model.resources import Resource
from nexus_core.problems import ObjectRef, sort_problems
from nexus_core.snapshot import (
    EMPTY,
    Discovered,
    Fallback,
    Mirror,
    Route,
    Rule,
    Snapshot,
    StreamRoute,
    Upstream,
    WeightedBackend,
)
from nexus_core.translate import (
    applying,
    backend_tls,
    conflicts,
    gateways,
    hooked,
    plugin_services,
    plugins,
    policies,
    rule_filters,
    services,
    stream_conflicts,
    targets,
    upstreams,
    worlds,
)
from nexus_core.translate import (
    routes as gateway_routes,
)
from nexus_core.translate.hooked import ManifestHook
from nexus_core.translate.leave import Leave
from nexus_core.translate.memory import Memory
from nexus_core.translate.plugin_secrets import Secrets
from nexus_core.translate.quarantine import LastGood
from nexus_core.translate.route_builders import Routes
from nexus_core.translate.translation import ListenerStatus, RouteStatus, ServiceStatus, Translation
from nexus_core.translate.translation import Mirror as MirrorOfService

if TYPE_CHECKING:
    from nexus_core.certificates.sealing import Sealer

READ_ALONG = ("GatewayClass", "ReferenceGrant", "NexusGatewayParameters", "Secret", "ConfigMap", "EndpointSlice")
"""Kinds that give nothing by themselves: what is wrong with one is told once, whoever names it."""


def translate(
    resources: Iterable[Resource],
    *,
    previous: Snapshot | None = None,
    indexes: Mapping[str, Index] | None = None,
    class_name: str = "nexus",
    standing: Iterable[ObjectRef] = (),
    sealer: Sealer | None = None,
    locks: Mapping[str, Lock] | None = None,
    now_utc: datetime | None = None,
    manifest_hooks: Sequence[ManifestHook] = (),
) -> Translation:
    """Return the Snapshot of all resources, what is wrong with them, and what their statuses should say.

    resources: the whole world, in any order. previous: the published Snapshot; broken objects keep what it holds of
    them. indexes: marketplace indexes that could be read, by the NexusMarketplace's name. class_name: the GatewayClass
    that counts as ours without its object. standing: Gateways that are ours although the object of their class was deleted.
    sealer: of private keys and secrets in the Snapshot; None takes one that this process alone has.
    locks: what is remembered of plugins, by `<namespace>/<name>`: those of the last translation's statuses, after
    `nexus_core.marketplace.rollouts.settle`. now_utc: for update windows; None counts as outside of each. manifest_hooks: run on
    objects of their namespaces, in this order, before they are read.
    Never raises; equal worlds give equal translations. A `Session` does the same for one world after another in less time.
    """
    return translate_with(
        Memory(),
        resources,
        previous=previous,
        indexes=indexes,
        class_name=class_name,
        standing=standing,
        sealer=sealer,
        locks=locks,
        now_utc=now_utc,
        manifest_hooks=manifest_hooks,
    )


def translate_with(
    memory: Memory,
    resources: Iterable[Resource],
    *,
    previous: Snapshot | None,
    indexes: Mapping[str, Index] | None,
    class_name: str,
    standing: Iterable[ObjectRef],
    sealer: Sealer | None,
    locks: Mapping[str, Lock] | None,
    now_utc: datetime | None,
    manifest_hooks: Sequence[ManifestHook],
) -> Translation:
    """Do what `translate` does. memory: of the translation before, and afterwards of this; it changes nothing of what comes out."""
    world = worlds.build_world(hooked.apply_hooks(resources, manifest_hooks, memory), class_name, standing)
    last = LastGood(previous or EMPTY)
    opened = gateways.build_gateways(world, last, sealer)
    secured = backend_tls.BackendTls(world)
    memory.intern_listeners((opened.by_gateway, opened.by_set))
    ups = upstreams.Upstreams(world, secured, last.upstreams, memory=memory)
    served = services.build_services(world, last, opened, ups)
    routed = gateway_routes.build_routes(world, last, opened, ups, memory)
    by_id = {o.listener.id: o for o in opened.listeners()}
    leave = Leave(world)
    settled = [_settle(route, by_id, world, ups, leave) for route in served.routes.values()]
    settled += [
        # What was built just now names only what is there; at most, a listener of it does not serve.
        route
        if route.id not in routed.kept and all(i in by_id for i in route.listeners)
        else _settle(route, by_id, world, ups, leave)
        for route in routed.routes.values()
    ]
    streams = sorted(
        (s for s in (_settle_stream(s, by_id, world, ups, leave) for s in routed.streams.values()) if s.listeners),
        key=lambda x: x.id,
    )
    for route in settled:
        _ask_again(last.routes.get(route.id), ups)
    aims = targets.Targets(world, opened)
    installed = plugins.build_plugins(world, last, aims, indexes or {}, memory, locks or {}, now_utc)
    installed.problems.extend(plugin_services.permit(world, installed.instances))
    routes = installed.attach(sorted((r for r in settled if r.listeners), key=lambda x: x.id), memory)
    installed.seal(routes, Secrets(world, last, sealer))
    # Copies and fallbacks are requests: what takes connections or datagrams alone is no place for them.
    callable_ids = frozenset(u.id for u in ups.by_id.values() if u.protocol in ("http", "h2"))
    merging = policies.Policies(world, last, aims, callable_ids)
    kept = routed.kept | {f"NexusService/{r.namespace}/{r.name}" for r, s in served.statuses.items() if s.quarantined}
    applied = applying.apply_policies(merging, routes, streams, ups, routed.wishes, kept, memory)
    routes = applied.routes
    memory.end(ups.by_id)
    attached = _attached(routed.statuses)
    for service, listener in ups.uses(routes):
        routed.uses.setdefault(service, set()).add(plugins.gateway_of(listener))
    shadows = stream_conflicts.find_shadows(streams, {name: o.listener.hostname for name, o in by_id.items()})
    route_statuses = _route_statuses(routed, [*routes, *streams], shadows)
    snapshot = Snapshot(
        gateways=tuple(sorted(opened.parts, key=lambda x: x.id)),
        certificates=tuple(opened.certificates),
        listeners=tuple(by_id[name].listener for name in sorted(by_id)),
        routes=tuple(routes),
        streams=tuple(streams),
        upstreams=tuple(sorted(_called(ups, applied.called), key=lambda x: x.id)),
        plugins=tuple(installed.instances[name] for name in sorted(installed.instances)),
    )
    found = (
        *world.problems,
        *opened.problems,
        *served.problems,
        *secured.problems,
        *routed.problems,
        *installed.problems,
        *merging.problems,
        *conflicts.find_shadowed(routes),
        *(shadow.problem for each in shadows.values() for shadow in each),
        *(p for kind in READ_ALONG for r in world.all(kind) for p in r.problems),
    )
    return Translation(
        snapshot=snapshot,
        problems=sort_problems(found),
        mirrors=_mirrors(ups, snapshot.upstreams),
        routes=route_statuses,
        gateways=tuple(replace(s, listeners=_counted(s.listeners, attached)) for s in opened.statuses),
        listener_sets=tuple(replace(s, listeners=_counted(s.listeners, attached)) for s in opened.sets),
        classes=tuple(opened.classes),
        services=_service_statuses(served, routes, by_id),
        plugins=tuple(sorted(installed.statuses.values(), key=lambda status: status.ref)),
        policies=tuple(merging.statuses),
        policies_tls=tuple(secured.statuses(routed.uses)),
        changes_at_utc=installed.changes_at_utc,
    )


def _called(ups: upstreams.Upstreams, called: set[str]) -> Iterable[Upstream]:
    """The NexusServices, and of Kubernetes Services those that a route leads to: one that was refused asked in vain."""
    return (
        u for u in ups.by_id.values() if u.id in called or (u.id.count("/") == 1 and not u.id.startswith("Service/"))
    )


def _mirrors(ups: upstreams.Upstreams, final: Iterable[Upstream]) -> tuple[MirrorOfService, ...]:
    """The mirrors by name. Those that are to be spoken to over TLS say so to whoever finds them: policies are told to gateways alone."""
    secure = {u.endpoints.service for u in final if u.tls is not None and isinstance(u.endpoints, Discovered)}
    return tuple(
        mirror if name not in secure else replace(mirror, meta={**mirror.meta, TLS_META: "true"})
        for name, mirror in sorted(ups.mirrors.items())
    )


def _ask_again(before: Route | None, ups: upstreams.Upstreams) -> None:
    """Ask for the upstreams of calls that policies named: a policy that is broken now keeps its last good filters."""
    if before is not None and before.id.startswith("GRPCRoute/"):
        for rule in before.rules:
            for item in rule.filters:
                if isinstance(item, Mirror | Fallback) and item.upstream:
                    ups.keep(item.upstream)


def _route_statuses(
    routed: Routes,
    routes: Iterable[Route | StreamRoute],
    shadows: Mapping[str, Sequence[stream_conflicts.Shadow]],
) -> tuple[RouteStatus, ...]:
    """The statuses, with the listeners that were left to kept routes, and what others take from each."""
    by_id = {route.id: route.listeners for route in routes}
    found = []
    for status in routed.statuses:
        left = by_id.get(status.route, ())
        # Mostly they are the same, and there are thousands.
        if any(parent.listeners != left and not set(left).issuperset(parent.listeners) for parent in status.parents):
            parents = tuple(
                replace(parent, listeners=tuple(i for i in parent.listeners if i in left)) for parent in status.parents
            )
            status = replace(status, parents=parents)
        if status.quarantined and not left:
            status = replace(status, quarantined=False)
        if status.route in shadows:
            status = stream_conflicts.mark(status, shadows[status.route])
        found.append(status)
    return tuple(found)


def _attached(statuses: Iterable[RouteStatus]) -> Counter[str]:
    """Return how many routes are accepted at each listener, whether it serves or not (Gateway API, ListenerStatus.attachedRoutes)."""
    found: Counter[str] = Counter()
    for status in statuses:
        if len(status.parents) == 1:
            if status.parents[0].accepted.ok:
                found.update(status.parents[0].listeners)
        else:
            found.update({i for parent in status.parents if parent.accepted.ok for i in parent.listeners})
    return found


def _counted(listeners: Iterable[ListenerStatus], attached: Counter[str]) -> tuple[ListenerStatus, ...]:
    return tuple(replace(listener, attached_routes=attached[listener.id]) for listener in listeners)


def _service_statuses(
    served: services.Services, routes: list[Route], opened: Mapping[str, gateways.OpenListener]
) -> tuple[ServiceStatus, ...]:
    by_source = {route.source: route for route in routes}
    found = []
    for ref, status in sorted(served.statuses.items()):
        route = by_source.get(str(ref))
        if route is not None:
            path = route.rules[0].matches[0].path
            secure = all(opened[i].listener.protocol == "HTTPS" for i in route.listeners)
            status = replace(status, listeners=route.listeners, hostnames=route.hostnames, path=path, secure=secure)
        found.append(status)
    return tuple(found)


def _settle(
    route: Route,
    opened: Mapping[str, gateways.OpenListener],
    world: worlds.World,
    ups: upstreams.Upstreams,
    leave: Leave,
) -> Route:
    """Cut off what a kept route names and may no more: listeners that are gone or no longer allow it; upstreams that
    are gone or of a namespace that no longer permits them, whose share then gets 500.
    """
    source = ObjectRef.parse(route.source)
    listeners = tuple(
        i for i in route.listeners if i in opened and opened[i].allows(world, source.namespace, route.id, source.kind)
    )
    rules = tuple(_settle_rule(source, rule, ups, leave) for rule in route.rules)
    return msgspec.structs.replace(route, listeners=listeners, rules=rules)


def _settle_stream(
    stream: StreamRoute,
    opened: Mapping[str, gateways.OpenListener],
    world: worlds.World,
    ups: upstreams.Upstreams,
    leave: Leave,
) -> StreamRoute:
    """As `_settle`; the share of an upstream that is gone is refused."""
    source = ObjectRef.parse(stream.source)
    listeners = tuple(
        i for i in stream.listeners if i in opened and opened[i].allows(world, source.namespace, stream.id, source.kind)
    )
    backends = _settle_backends(source, stream.backends, ups, leave)
    return msgspec.structs.replace(stream, listeners=listeners, backends=backends)


def _settle_rule(source: ObjectRef, rule: Rule, ups: upstreams.Upstreams, leave: Leave) -> Rule:
    written = tuple(f for f in rule.filters if not isinstance(f, Mirror) or leave.permits_copies(source, f.upstream))
    for item in written:
        if isinstance(item, Mirror | Fallback) and item.upstream:
            ups.keep(item.upstream)
    filters = rule_filters.whole(written, ups.by_id)
    if filters != rule.filters:
        rule = msgspec.structs.replace(rule, filters=filters)
    backends = _settle_backends(source, rule.backends, ups, leave)
    return rule if backends is rule.backends else msgspec.structs.replace(rule, backends=backends)


def _settle_backends(
    source: ObjectRef, backends: tuple[WeightedBackend, ...], ups: upstreams.Upstreams, leave: Leave
) -> tuple[WeightedBackend, ...]:
    """Return the backends with empty upstreams in place of those that must not be used; the very same ones when none is."""
    bad = {
        b.upstream for b in backends if b.upstream and not (leave.permits(source, b.upstream) and ups.keep(b.upstream))
    }
    if not bad:
        return backends
    return tuple(msgspec.structs.replace(b, upstream="") if b.upstream in bad else b for b in backends)
