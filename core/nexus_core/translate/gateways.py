"""Gateways to listeners: which are open, and for whom."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from nexus_core.model import gateway_api
from nexus_core.model.resources import Resource
from nexus_core.problems import ObjectRef, Problem
from nexus_core.snapshot import Listener
from nexus_core.translate.quarantine import LastGood
from nexus_core.translate.translation import GatewayStatus, ListenerStatus, Verdict
from nexus_core.translate.worlds import World

DEFAULT_GATEWAY = ObjectRef("Gateway", "nexus", "default")
"""Stands in while there is no Gateway of ours, so that `expose` works without one."""

ACCEPTED = Verdict(True, "Accepted")
RESOLVED = Verdict(True, "ResolvedRefs")
NO_CONFLICTS = Verdict(True, "NoConflicts")


@dataclass(frozen=True)
class OpenListener:
    """A listener that takes routes. spec: None for the default and for a quarantined Gateway's.

    known_routes: ids of routes a quarantined listener had; they stay.
    """

    listener: Listener
    gateway: ObjectRef
    name: str
    spec: gateway_api.ListenerSpec | None = None
    is_default: bool = False
    known_routes: frozenset[str] = frozenset()

    def allows(self, world: World, namespace: str, route: str, kind: str) -> bool:
        """Whether routes of a namespace may attach. kind: HTTPRoute, or NexusService for its `expose`."""
        if self.is_default or route in self.known_routes:
            return True
        if self.spec is None:
            return namespace == self.gateway.namespace
        allowed = self.spec.allowed_routes
        if kind == "HTTPRoute" and allowed.kinds and not any(_is_http_route(k) for k in allowed.kinds):
            return False
        if allowed.namespaces.from_ == "All":
            return True
        if allowed.namespaces.from_ == "Selector":
            selector = allowed.namespaces.selector
            return selector is not None and selector.selects(world.labels_of_namespace(namespace))
        return namespace == self.gateway.namespace


@dataclass
class Gateways:
    """by_gateway: open listeners of each Gateway of ours, in its order. statuses: without attached routes yet."""

    by_gateway: dict[ObjectRef, tuple[OpenListener, ...]] = field(default_factory=dict)
    statuses: list[GatewayStatus] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    def listeners_of(self, parent: ObjectRef) -> tuple[OpenListener, ...] | None:
        """Return the listeners of a Gateway or ListenerSet that routes may attach to; None when it is not one of ours."""
        return self.by_gateway.get(parent)

    def listeners(self) -> Iterable[OpenListener]:
        """Yield all open listeners, sorted by Gateway."""
        for ref in sorted(self.by_gateway):
            yield from self.by_gateway[ref]


def build_gateways(world: World, last: LastGood) -> Gateways:
    """Return the listeners of all Gateways of ours, or the default one when there are none."""
    found = Gateways()
    for resource in world.all("Gateway"):
        if _class_of(resource) not in world.class_names:
            continue
        found.problems.extend(resource.problems)
        if isinstance(resource.spec, gateway_api.GatewaySpec):
            _build(found, resource, resource.spec)
        else:
            _keep(found, resource, last)
    if not found.by_gateway:
        listener = Listener("nexus/default/http", str(DEFAULT_GATEWAY), 80)
        found.by_gateway[DEFAULT_GATEWAY] = (OpenListener(listener, DEFAULT_GATEWAY, "http", is_default=True),)
    return found


def _class_of(resource: Resource) -> str:
    if isinstance(resource.spec, gateway_api.GatewaySpec):
        return resource.spec.gateway_class_name
    spec = resource.raw.get("spec")
    name = spec.get("gatewayClassName") if isinstance(spec, dict) else None
    return name if isinstance(name, str) else ""


def _keep(found: Gateways, resource: Resource, last: LastGood) -> None:
    ref = resource.ref
    open_listeners = []
    for listener in last.listeners_of(ref):
        known = frozenset(r.id for r in last.snapshot.routes if listener.id in r.listeners)
        name = listener.id.rsplit("/", 1)[-1]
        open_listeners.append(OpenListener(listener, ref, name, known_routes=known))
    found.by_gateway[ref] = tuple(open_listeners)
    first = resource.problems[0] if resource.problems else None
    message = f"{first.what} {first.fix}" if first else "The Gateway is broken."
    refused = Verdict(False, "Invalid", message)
    found.statuses.append(GatewayStatus(ref, resource.generation, refused, (), quarantined=bool(open_listeners)))


def _build(found: Gateways, resource: Resource, spec: gateway_api.GatewaySpec) -> None:
    ref = resource.ref
    opened: list[OpenListener] = []
    statuses: list[ListenerStatus] = []
    for index, item in enumerate(spec.listeners):
        listener_id = f"{ref.namespace}/{ref.name}/{item.name}"
        problem = _refusal(ref, index, item, opened)
        kinds, kinds_verdict = _kinds(ref, index, item, found.problems)
        if problem is None:
            hostname = (item.hostname or "").lower()
            opened.append(OpenListener(Listener(listener_id, str(ref), item.port, hostname), ref, item.name, item))
            accepted, conflicted = ACCEPTED, NO_CONFLICTS
        else:
            found.problems.append(problem)
            verdict = Verdict(False, problem.reason, f"{problem.what} {problem.fix}")
            is_conflict = problem.reason == "HostnameConflict"
            accepted = Verdict(False, "Invalid", verdict.message) if is_conflict else verdict
            conflicted = verdict if is_conflict else NO_CONFLICTS
        statuses.append(
            ListenerStatus(item.name, listener_id, accepted, kinds_verdict, conflicted, supported_kinds=kinds)
        )
    found.by_gateway[ref] = tuple(opened)
    all_well = all(s.accepted.ok and s.resolved.ok for s in statuses)
    refused = f"{sum(not s.accepted.ok for s in statuses)} of {len(statuses)} listeners are refused."
    accepted = ACCEPTED if all_well else Verdict(bool(opened), "ListenersNotValid", refused)
    found.statuses.append(GatewayStatus(ref, resource.generation, accepted, tuple(statuses)))


def _refusal(ref: ObjectRef, index: int, item: gateway_api.ListenerSpec, opened: list[OpenListener]) -> Problem | None:
    path = f".spec.listeners[{index}]"
    if item.protocol != "HTTP":
        what = f'Listener "{item.name}" asks for protocol {item.protocol}; Nexus serves HTTP.'
        fix = "Use protocol: HTTP, and end TLS in front of the gateway."
        return Problem(ref, f"{path}.protocol", "UnsupportedProtocol", what, fix)
    if not item.name or "/" in item.name:
        what, fix = f'"{item.name[:80]}" is no listener name.', "Use lower-case letters, digits and '-'."
        return Problem(ref, f"{path}.name", "InvalidSpec", what, fix)
    if item.allowed_routes.namespaces.from_ not in ("Same", "All", "Selector"):
        given = item.allowed_routes.namespaces.from_
        what = f'Listener "{item.name}" allows routes from "{given}", which Nexus does not know.'
        return Problem(
            ref, f"{path}.allowedRoutes.namespaces.from", "UnsupportedValue", what, "Write Same, All or Selector."
        )
    for other in opened:
        same_name = other.name == item.name
        if same_name or (other.listener.port == item.port and other.listener.hostname == (item.hostname or "").lower()):
            what = f'Listener "{item.name}" has the {"name" if same_name else "port and host name"} of "{other.name}".'
            return Problem(ref, path, "HostnameConflict", what, "Give it another, or remove one of the two.")
    return None


def _kinds(
    ref: ObjectRef, index: int, item: gateway_api.ListenerSpec, problems: list[Problem]
) -> tuple[tuple[str, ...], Verdict]:
    wanted = item.allowed_routes.kinds
    other = [k for k in wanted if not _is_http_route(k)]
    kinds = ("HTTPRoute",) if not wanted or len(other) < len(wanted) else ()
    if not other:
        return kinds, RESOLVED
    what = (
        f'Listener "{item.name}" allows routes of kind {", ".join(k.kind for k in other)}, which Nexus does not serve.'
    )
    fix = "Remove them; HTTPRoute is served."
    problems.append(Problem(ref, f".spec.listeners[{index}].allowedRoutes.kinds", "InvalidRouteKinds", what, fix))
    return kinds, Verdict(False, "InvalidRouteKinds", f"{what} {fix}")


def _is_http_route(kind: gateway_api.RouteGroupKind) -> bool:
    return kind.kind == "HTTPRoute" and kind.group == gateway_api.GROUP
