"""Routes at their parents: which listeners of which Gateways and ListenerSets take a route of any kind, and why others do not."""

from __future__ import annotations

import functools
import heapq
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pydantic

from nexus_core.model import gateway_api
from nexus_core.model.resources import Resource
from nexus_core.problems import ObjectRef, Problem
from nexus_core.snapshot import gateway_of
from nexus_core.translate import hostnames
from nexus_core.translate.asking import Asking
from nexus_core.translate.gateways import Gateways, OpenListener
from nexus_core.translate.translation import Verdict
from nexus_core.translate.worlds import NAMES_SHOWN, World

ACCEPTED = Verdict(True, "Accepted")
KINDS = frozenset({"Gateway", "ListenerSet"})
"""Kinds of parents that are ours to answer for; a mesh's Services are not."""


CLOSED_SHOWN = 4
"""Closed listeners that a route's condition tells of."""


@dataclass(frozen=True, slots=True)
class Named:
    """A parent of ours that a route names. index: in its list. raw: the parentRef as written. ref: the object meant."""

    index: int
    raw: Mapping[str, Any]
    parent: gateway_api.ParentRef
    ref: ObjectRef


@dataclass(frozen=True, slots=True)
class Attachment:
    """What one parent makes of a route. listeners: those that take it, closed ones too, in the parent's order; none when it is not
    accepted. accepted: where it is, its message names the closed ones.
    """

    named: Named
    listeners: tuple[OpenListener, ...]
    accepted: Verdict


class Parents:
    """The parents of all routes. An answer depends on the route's parentRefs, host names and namespace, and on the Gateways alone."""

    def __init__(self, world: World, gateways: Gateways, asking: Asking) -> None:
        self._world, self._gateways, self._asking = world, gateways, asking

    def ours(self, route: ObjectRef, refs: Iterable[gateway_api.ParentRef]) -> list[Named]:
        """Return the parentRefs that name a Gateway or ListenerSet of ours, in their order."""
        found = []
        self._asking.namespace(route.namespace)  # whose labels `attach` may look at
        for index, parent in enumerate(refs):
            if parent.group != gateway_api.GROUP or parent.kind not in KINDS:
                continue
            ref = ObjectRef(parent.kind, parent.namespace or route.namespace, parent.name)
            if self._asking.listeners_of(ref) is not None:
                raw = parent.model_dump(by_alias=True, exclude_unset=True)
                found.append(Named(index, raw, parent, ref))
        return found

    def attach(
        self, route: ObjectRef, route_id: str, named: Named, names: tuple[str, ...], problems: list[Problem]
    ) -> Attachment:
        """Return what a parent makes of the route. names: its host names, lower-case; none for any.

        Reasons: Gateway API, RouteConditionReason. A refusal goes into `problems` too.
        """
        parent, ref = named.parent, named.ref
        there = self._gateways.listeners_of(ref) or ()
        path = f".spec.parentRefs[{named.index}]"

        def refuse(path: str, reason: str, what: str, fix: str) -> Attachment:
            problems.append(Problem(route, path, reason, what, fix))
            return Attachment(named, (), Verdict(False, reason, f"{what} {fix}"))

        if not there and (refusal := self._asking.refusal_of(ref)):
            what = f"{ref} has no listeners: {refusal}"
            return refuse(path, "NoMatchingParent", what, "Or name another parent.")
        found = [o for o in there if parent.section_name in (None, o.name) and parent.port in (None, o.listener.port)]
        if not found:
            known = ", ".join(f"{o.name} (port {o.listener.port})" for o in there) or "none"
            what = f"{ref} has no listener with that sectionName or port; it has {known}."
            return refuse(path, "NoMatchingParent", what, "Name one of them, or leave sectionName and port out.")
        allowed = [o for o in found if o.allows(self._world, route.namespace, route_id, route.kind)]
        if not allowed:
            what = f'No listener of {ref} allows {route.kind}s from namespace "{route.namespace}".'
            fix = "Set allowedRoutes.namespaces.from: All (or a Selector) on the listener."
            if not any(o.listener.protocol in PROTOCOLS[route.kind] for o in found):
                protocols = ", ".join(sorted({o.listener.protocol for o in found}))
                what = f"No listener of {ref} takes {route.kind}s; their protocol is {protocols}."
                fix = f"Name one with protocol {' or '.join(PROTOCOLS[route.kind])}, or add it."
            if closed := _closed(found):
                what, fix = f"{what} {closed}", "Mend it, or name another listener."
            return refuse(path, "NotAllowedByListeners", what, fix)
        matching = tuple(o for o in allowed if hostnames.intersect_all((o.listener.hostname,), names) is not None)
        if not matching:
            served = ", ".join(sorted({o.listener.hostname for o in allowed}))
            what = f"None of the host names {', '.join(names)} is served by {ref}; it serves {served}."
            fix = "Use a host name of a listener, or add a listener for this one."
            return refuse(".spec.hostnames", "NoMatchingListenerHostname", what, fix)
        closed = _closed(matching)
        return Attachment(named, matching, Verdict(True, ACCEPTED.reason, closed) if closed else ACCEPTED)

    def strays(self, route: ObjectRef, refs: Sequence[gateway_api.ParentRef]) -> Iterator[Problem]:
        """Yield what is wrong with a route without a parent of ours: one without any that exists is a mistake; one at others'
        Gateways is theirs.
        """
        if not refs:
            what, fix = "The route names no Gateway.", "Name one under parentRefs."
            yield Problem(route, ".spec.parentRefs", "NoMatchingParent", what, fix)
        for index, parent in enumerate(refs):
            namespace = parent.namespace or route.namespace
            if (
                parent.group == gateway_api.GROUP
                and parent.kind in KINDS
                and self._world.find(parent.kind, namespace, parent.name) is None
            ):
                what = f'There is no {parent.kind} "{parent.name}" in namespace "{namespace}".'
                fix = f"Create it, or name one of: {self._known}."
                yield Problem(route, f".spec.parentRefs[{index}].name", "NoMatchingParent", what, fix)

    @functools.cached_property
    def _known(self) -> str:
        found = heapq.nsmallest(NAMES_SHOWN, self._gateways.by_gateway)
        return ", ".join(f"{g.namespace}/{g.name}" for g in found)

    def gateway(self, named: Named) -> ObjectRef:
        """Return the Gateway that a parent is, or belongs to."""
        return self._gateways.gateway_of(named.ref)


PROTOCOLS: Mapping[str, tuple[str, ...]] = {
    "HTTPRoute": ("HTTP", "HTTPS"),
    "GRPCRoute": ("HTTP", "HTTPS"),
    "TLSRoute": ("TLS",),
    "TCPRoute": ("TCP",),
    "UDPRoute": ("UDP",),
}
"""Protocols of listeners by kind of route."""


def _closed(listeners: Iterable[OpenListener]) -> str:
    """Return which of some listeners take no requests or connections, and why; empty when all do."""
    closed = [o for o in listeners if o.closed]
    lines = [f'Listener "{o.name}" of {o.owner} is closed: {o.closed}' for o in closed[:CLOSED_SHOWN]]
    if len(closed) > CLOSED_SHOWN:
        lines.append(f"And {len(closed) - CLOSED_SHOWN} more listeners are.")
    return "\n".join(lines)


def readable_parents(resource: Resource) -> Iterator[gateway_api.ParentRef]:
    """Yield the parents of a route whose spec is broken, as far as they can be read."""
    spec = resource.raw.get("spec")
    parents = spec.get("parentRefs") if isinstance(spec, dict) else None
    for parent in parents if isinstance(parents, list) else []:
        try:
            yield gateway_api.ParentRef.model_validate(parent)
        except pydantic.ValidationError:
            continue


def is_of(listener_id: str, parent: ObjectRef) -> bool:
    """Whether a listener belongs to a Gateway or ListenerSet itself: a Gateway's own are those that no ListenerSet brought."""
    parts = listener_id.split("/")
    if parent.kind == "ListenerSet":
        return len(parts) == 5 and parts[2:4] == [parent.namespace, parent.name]
    return len(parts) == 3 and gateway_of(listener_id) == f"{parent.namespace}/{parent.name}"
