"""NexusServices to upstreams, mirrors and the routes of `expose`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import msgspec

from nexus_core.discovery import service_name
from nexus_core.model import kubernetes
from nexus_core.model.resources import Resource
from nexus_core.model.services import Expose, NexusServiceSpec
from nexus_core.problems import ObjectRef, Problem
from nexus_core.snapshot import (
    Discovered,
    Match,
    Route,
    Rule,
    StaticAddresses,
    Upstream,
    UpstreamTls,
    UrlRewrite,
    WeightedBackend,
)
from nexus_core.translate import hostnames
from nexus_core.translate.backend_tls import Refused
from nexus_core.translate.conflicts import Claims
from nexus_core.translate.gateways import Gateways, OpenListener
from nexus_core.translate.paths import without_trailing_slash
from nexus_core.translate.quarantine import LastGood
from nexus_core.translate.translation import Mirror, ServiceStatus
from nexus_core.translate.upstreams import OF_CALLS, Protocol, Upstreams, find_port, mirror_of
from nexus_core.translate.worlds import World, precedence

PROTOCOLS: Mapping[str, Protocol] = {"grpc": "h2", "tcp": "tcp", "udp": "udp"}
"""What a NexusService of a type is called in; of those that are not listed, HTTP/1.1."""


@dataclass
class Services:
    """routes: by the service that owns them. statuses: by service."""

    routes: dict[ObjectRef, Route] = field(default_factory=dict)
    statuses: dict[ObjectRef, ServiceStatus] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)


def build_services(world: World, last: LastGood, gateways: Gateways, upstreams: Upstreams) -> Services:
    """Return the routes and statuses of all NexusServices; their upstreams and mirrors go into `upstreams`."""
    found = Services()
    whole = []
    for resource in world.all("NexusService"):
        found.problems.extend(resource.problems)
        if isinstance(resource.spec, NexusServiceSpec) and _build_upstream(
            world, resource, resource.spec, upstreams, found
        ):
            whole.append((resource, resource.spec))
        else:
            _keep_upstream(world, resource, last, upstreams, found)
    _build_routes(world, whole, last, gateways, found)
    return found


def _build_upstream(
    world: World, resource: Resource, spec: NexusServiceSpec, upstreams: Upstreams, found: Services
) -> bool:
    ref = resource.ref
    name = service_name(ref.name, ref.namespace)
    endpoints: Discovered | StaticAddresses = Discovered(name)
    meta = _meta(ref.namespace, spec.type, (spec.contract and spec.contract.openapi) or "")
    tls: UpstreamTls | None = None
    transport: Literal["TCP", "UDP"] = "UDP" if spec.type == "udp" else "TCP"
    backend = spec.backend
    if backend is not None and backend.addresses is not None:
        endpoints = StaticAddresses(tuple(_address(a) for a in backend.addresses))
    elif backend is not None and backend.consul is not None:
        endpoints = Discovered(backend.consul.service, backend.consul.tag)
    elif backend is not None and backend.kubernetes_service is not None:
        wanted = backend.kubernetes_service
        port = find_port(world, ref.namespace, wanted.name, wanted.port, transport)
        if isinstance(port, str):
            fix = "Create it, or name another under backend.kubernetesService."
            found.problems.append(Problem(ref, ".spec.backend.kubernetesService", "BackendNotFound", port, fix))
            return False
        said = upstreams.secured.find(ref.namespace, wanted.name, port.name) if transport == "TCP" else None
        if isinstance(said, Refused):
            # Not the last good version either: that may have been without TLS.
            path = ".spec.backend.kubernetesService"
            found.problems.append(Problem(ref, path, said.reason, said.what, said.fix))
            found.statuses[ref] = ServiceStatus(ref, resource.generation, "")
            return True
        tls = said
        endpoints = upstreams.endpoints(ref.namespace, wanted.name, port, meta)
        upstreams.services[f"{ref.namespace}/{ref.name}"] = (ref.namespace, wanted.name, wanted.port)
        if tls is not None:
            upstreams.pinned.add(f"{ref.namespace}/{ref.name}")
    elif spec.workload is not None:
        upstreams.mirrors[name] = Mirror(name, ref.namespace, ref.name, spec.workload.port, (), meta, transport)
    upstream_id = f"{ref.namespace}/{ref.name}"
    protocol = PROTOCOLS.get(spec.type, "http")
    upstream = Upstream(upstream_id, str(ref), endpoints, protocol, tls=tls)
    if protocol == "h2":
        upstream = msgspec.structs.replace(upstream, timeouts=OF_CALLS)
    upstreams.by_id[upstream_id] = upstream
    registry = endpoints.service if isinstance(endpoints, Discovered) else ""
    found.statuses[ref] = ServiceStatus(ref, resource.generation, upstream_id, registry)
    return True


def _keep_upstream(world: World, resource: Resource, last: LastGood, upstreams: Upstreams, found: Services) -> None:
    """Carry over what a broken service had. Its mirror is made anew: the Snapshot does not hold it."""
    ref = resource.ref
    kept = ""
    registry = ""
    for upstream in last.upstreams_of(ref):
        upstreams.by_id[upstream.id] = upstream
        upstreams.kept.add(upstream.id)
        kept = upstream.id
        if isinstance(upstream.endpoints, Discovered):
            registry = upstream.endpoints.service
            _keep_mirror(world, resource, registry, upstreams)
    found.statuses[ref] = ServiceStatus(ref, resource.generation, kept, registry, quarantined=bool(kept))


def _keep_mirror(world: World, resource: Resource, registry: str, upstreams: Upstreams) -> None:
    ref = resource.ref
    raw = resource.raw.get("spec")
    spec = raw if isinstance(raw, dict) else {}
    contract = spec.get("contract")
    openapi = contract.get("openapi") if isinstance(contract, dict) else ""
    kind = spec.get("type", "http")
    meta = _meta(ref.namespace, kind if isinstance(kind, str) else "http", openapi if isinstance(openapi, str) else "")
    if registry == service_name(ref.name, ref.namespace):
        service = world.find("Service", ref.namespace, ref.name)
        if service is not None and isinstance(service.spec, kubernetes.ServiceSpec) and service.spec.ports:
            port = service.spec.ports[0].port
            upstreams.mirrors.setdefault(registry, Mirror(registry, ref.namespace, ref.name, port, (), meta))
        return
    name, _, rest = registry.partition(".")
    namespace, _, port_text = rest.partition(".")
    if namespace == ref.namespace and port_text.isdigit():
        mirror = mirror_of(world, namespace, name, int(port_text), meta)
        if isinstance(mirror, Mirror):
            upstreams.mirrors.setdefault(registry, mirror)


def _build_routes(
    world: World,
    services: Iterable[tuple[Resource, NexusServiceSpec]],
    last: LastGood,
    gateways: Gateways,
    found: Services,
) -> None:
    """Older services claim first. One that is refused keeps its last good route, if nobody claims that."""
    claims = Claims()
    refused: list[Resource] = []
    for ref in sorted(r for r, status in found.statuses.items() if status.quarantined):
        for kept in last.routes_of(ref):
            # A quarantined service has no age to compare that its author still vouches for: what serves, stays.
            claims.take(kept, ref)
            found.routes[ref] = kept
    for resource, spec in sorted(services, key=lambda pair: precedence(pair[0])):
        if spec.expose is None:
            continue
        route = _route(world, resource, spec.expose, gateways, found)
        if route is None:
            refused.append(resource)
            continue
        winner = claims.first_conflict(route)
        if winner is None:
            claims.take(route, resource.ref)
            found.routes[resource.ref] = route
            continue
        what = f'"{spec.expose.path}" is already exposed by {winner}, which has precedence (it is older, or first by name).'
        fix = "Choose another path, or other hostnames or methods, or remove the other service's expose."
        found.problems.append(Problem(resource.ref, ".spec.expose.path", "PathConflict", what, fix))
        refused.append(resource)
    for resource in refused:
        for kept in last.routes_of(resource.ref):
            if claims.first_conflict(kept) is None:
                claims.take(kept, resource.ref)
                found.routes[resource.ref] = kept
                found.statuses[resource.ref] = replace(found.statuses[resource.ref], quarantined=True)


def _route(world: World, resource: Resource, expose: Expose, gateways: Gateways, found: Services) -> Route | None:
    ref = resource.ref
    route_id = f"NexusService/{ref.namespace}/{ref.name}"
    open_listeners = list(gateways.listeners())
    allowed = [o for o in open_listeners if o.allows(world, ref.namespace, route_id, "NexusService")]
    matching = [o for o in allowed if hostnames.intersect_all((o.listener.hostname,), expose.hostnames) is not None]
    if not matching:
        found.problems.append(_no_listener(ref, expose, open_listeners, allowed))
        return None
    names = hostnames.intersect_all((o.listener.hostname for o in matching), expose.hostnames)
    path = without_trailing_slash(expose.path)
    matches = tuple(Match(path, "prefix", method) for method in sorted(expose.methods or ("",)))
    filters: tuple[UrlRewrite, ...] = ()
    if expose.rewrite_prefix is not None:
        filters = (UrlRewrite(path_kind="prefix", path=without_trailing_slash(expose.rewrite_prefix)),)
    backend = WeightedBackend(f"{ref.namespace}/{ref.name}")
    return Route(
        id=route_id,
        source=str(ref),
        listeners=tuple(sorted(o.listener.id for o in matching)),
        hostnames=names or (),
        rules=(Rule(f"{route_id}/0", matches, filters, (backend,)),),
        created_at=resource.created_at,
    )


def _no_listener(ref: ObjectRef, expose: Expose, all_open: list[OpenListener], allowed: list[OpenListener]) -> Problem:
    if not all_open:
        what = "No Gateway of class nexus has a listener that works, so the service is not reachable from outside."
        fix = "Add an HTTP listener to a Gateway, or mend the ones there are."
        return Problem(ref, ".spec.expose", "NoMatchingListener", what, fix)
    if not allowed:
        what = f'No listener allows routes from namespace "{ref.namespace}".'
        fix = "Set allowedRoutes.namespaces.from: All (or a Selector) on a Gateway's listener."
        return Problem(ref, ".spec.expose", "NotAllowedByListeners", what, fix)
    names = ", ".join(sorted({o.listener.hostname for o in allowed}))
    what = f"None of the host names {', '.join(expose.hostnames)} is served by a listener; they serve {names}."
    fix = "Use a host name of a listener, or add a listener for this one."
    return Problem(ref, ".spec.expose.hostnames", "NoMatchingListenerHostname", what, fix)


def _meta(namespace: str, kind: str, openapi: str) -> dict[str, str]:
    meta = {"nexus-namespace": namespace, "nexus-type": kind}
    return meta | ({"nexus-openapi": openapi} if openapi else {})


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    return host.removeprefix("[").removesuffix("]"), int(port)
