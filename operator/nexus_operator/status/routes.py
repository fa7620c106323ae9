"""Statuses of routes of all kinds, and of BackendTLSPolicies: what each parent and ancestor says, beside what other controllers say.

`Ready` of a route at a parent means that a request will find it: every live replica of that Gateway serves its present form, at ports
that are open and that the Gateway's Service leads to, no other route takes all that it asks for, and each backend has an endpoint that
the gateways know.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from nexus_core.model import gateway_api as model
from nexus_core.model.kinds import CONTROLLER_NAME
from nexus_core.problems import ObjectRef, Problem
from nexus_core.snapshot import Discovered, Route, StreamRoute, Upstream
from nexus_core.translate.backends import UNRESOLVED
from nexus_core.translate.translation import BackendTlsStatus, ParentStatus, RouteStatus

from nexus_operator.status.conditions import Condition, from_problems
from nexus_operator.status.standard import condition, judged, merged, remarked
from nexus_operator.status.view import PAGES, View
from nexus_operator.status.writes import StatusWrite, needed
from nexus_operator.world.inventory import Key, Object, key_of
from nexus_operator.world.kinds import BACKEND_TLS_POLICY, ROUTES

MAX_PARENTS = 32
"""The CRD's limit of `status.parents`."""
MAX_ANCESTORS = 16
"""The CRD's limit of `status.ancestors`."""
SHADOWED = "nexus.dev/Shadowed"
"""Condition of a route, there only when it is true: requests for some of its matches go to a NexusService; connections or datagrams,
to another route.
"""
LAST_GOOD = "Its last good version keeps serving."


@dataclass(slots=True)
class _Told:
    """What a status followed from, and the write it takes. None: the object shows it already."""

    obj: Object
    status: RouteStatus | None
    problems: list[Problem]
    ready: tuple[Condition, ...]
    write: StatusWrite | None


class Routes:
    """Builds the statuses of routes; what follows from the very same things as before is not built again."""

    def __init__(self) -> None:
        self._told: dict[tuple[str, Key], _Told] = {}

    def build(self, view: View, problems: Mapping[ObjectRef, list[Problem]]) -> Iterator[StatusWrite]:
        """Yield the statuses of all routes that we serve or once served, as far as they are not what the objects show."""
        statuses = {status.ref: status for status in view.translation.routes}
        upstreams = {upstream.id: upstream for upstream in view.translation.snapshot.upstreams}
        serving: dict[str, Route | StreamRoute] = {route.id: route for route in view.translation.snapshot.routes}
        serving |= {route.id: route for route in view.translation.snapshot.streams}
        told: dict[tuple[str, Key], _Told] = {}
        for kind in ROUTES:
            for key, obj in view.inventory.items(kind.kind):
                ref = ObjectRef(kind.kind, *key)
                status, found = statuses.get(ref), problems.get(ref, [])
                ready = _ready(view, status, serving, upstreams) if status is not None else ()
                known = self._told.get((kind.kind, key))
                if (
                    known is None
                    or known.obj is not obj
                    or (known.status is not status and known.status != status)
                    or known.ready != ready
                    or known.problems != found
                    or (known.write is None and view.preview is not None)  # a preview adds to what is there
                ):
                    write = _route(view, kind.kind, status, obj, found, ready)
                    known = _Told(obj, status, found, ready, next(iter(needed([write])), None))
                    if known.write is None and view.preview is not None:
                        yield write
                told[kind.kind, key] = known
                if known.write is not None:
                    yield known.write
        self._told = told


def build_policies(view: View) -> Iterator[StatusWrite]:
    """Yield the statuses of all BackendTLSPolicies that we use or once used."""
    statuses = {status.ref: status for status in view.translation.policies_tls}
    for obj in view.inventory.all(BACKEND_TLS_POLICY.kind):
        yield _policy(view, statuses.get(ObjectRef(BACKEND_TLS_POLICY.kind, *key_of(obj))), obj)


def _ready(
    view: View, status: RouteStatus, serving: Mapping[str, Route | StreamRoute], upstreams: Mapping[str, Upstream]
) -> tuple[Condition, ...]:
    """Return `Ready` at each parent."""
    route = serving.get(status.route)
    return tuple(_ready_at(view, status, parent, route, upstreams) for parent in status.parents)


def _ready_at(
    view: View,
    status: RouteStatus,
    parent: ParentStatus,
    route: Route | StreamRoute | None,
    upstreams: Mapping[str, Upstream],
) -> Condition:
    if not parent.accepted.ok:
        return Condition("Ready", "False", parent.accepted.reason, "It is not accepted here.")
    if not parent.listeners and parent.accepted.message:  # every listener that takes it is closed
        return Condition("Ready", "False", "NotProgrammed", view.linked("NotProgrammed", parent.accepted.message))
    gateway = f"{parent.gateway.namespace}/{parent.gateway.name}"
    told = view.programmed(str(status.ref), frozenset({gateway}))
    if told.status == "True" and not parent.resolved.ok:
        return Condition("Ready", "False", parent.resolved.reason, "Some of what it refers to is not there.")
    if told.status == "True" and parent.starved:
        what = f"Other routes take all that it asks for here: {SHADOWED} says which."
        return Condition("Ready", "False", "RouteShadowed", view.linked("RouteShadowed", what))
    if told.status == "True" and route is not None:
        # The gateways learn of endpoints before they learn of the route: whoever acknowledges it knows them.
        silent = sorted({u.id for u in _called(route, upstreams) if _has_none(view, u)})
        if silent:
            what = f"No endpoint of {', '.join(silent[:5])} is ready."
            named = [name for name in silent if tuple(name.split("/")[1:3]) in view.named]
            if named:
                what += f" EndpointSlices of {', '.join(named[:5])} hold host names, which are not looked up: write addresses."
            return Condition("Ready", "False", "NoEndpoints", view.linked("NoEndpoints", what))
    if told.status == "True":
        reason, what = view.obstacle(gateway, parent.listeners)
        if reason:
            return Condition("Ready", "False", reason, what)
    return Condition("Ready", told.status, "Ready" if told.status == "True" else told.reason, told.message)


def _called(route: Route | StreamRoute, upstreams: Mapping[str, Upstream]) -> Iterable[Upstream]:
    parts = (route,) if isinstance(route, StreamRoute) else route.rules
    for part in parts:
        for backend in part.backends:
            if backend.weight and backend.upstream in upstreams:
                yield upstreams[backend.upstream]


def _has_none(view: View, upstream: Upstream) -> bool:
    """Whether the mirrored endpoints of an upstream are known, and none of them is ready. Of others Consul alone knows."""
    if not isinstance(upstream.endpoints, Discovered):
        return False
    found = view.counts.get(upstream.endpoints.service)
    if found is None:
        return upstream.endpoints.service in view.mirrored
    return found[0] == 0


def _route(
    view: View,
    kind: str,
    status: RouteStatus | None,
    obj: Object,
    problems: list[Problem],
    ready: tuple[Condition, ...],
) -> StatusWrite:
    held = list((obj.get("status") or {}).get("parents") or ())
    others = [entry for entry in held if entry.get("controllerName") != CONTROLLER_NAME]
    mine: list[dict[str, Any]] = []
    for parent, told in zip(status.parents if status is not None else (), ready, strict=True):
        ref = {key: value for key, value in parent.parent.items() if value is not None}
        before: Mapping[str, Any] = next(
            (e for e in held if e.get("controllerName") == CONTROLLER_NAME and e.get("parentRef") == ref), {}
        )
        accepted = judged(view, "Accepted", parent.accepted, _of_parent(parent, problems))
        if status is not None and status.quarantined and accepted.status == "False":
            accepted = Condition("Accepted", "False", accepted.reason, f"{accepted.message}\n{LAST_GOOD}")
        conditions = [accepted, judged(view, "ResolvedRefs", parent.resolved, problems, UNRESOLVED), told]
        if status is not None:
            conditions += remarked(view, status.remarks)
        if parent.accepted.ok:
            conditions += [*_shadowed(view, problems), *remarked(view, parent.remarks)]
        mine.append(
            {"parentRef": ref, "controllerName": CONTROLLER_NAME, "conditions": merged(view, obj, before, conditions)}
        )
    if not mine and len(others) == len(held):
        return StatusWrite(kind, obj, {})  # nothing of ours in it, nothing to add
    return StatusWrite(kind, obj, {"parents": [*others, *mine][:MAX_PARENTS]})


def _of_parent(parent: ParentStatus, problems: Iterable[Problem]) -> list[Problem]:
    """Return the problems of a route but for those that it has with its other parents."""
    own = f".spec.parentRefs[{parent.index}]"
    verdict = parent.accepted
    return [
        p
        for p in problems
        if not (p.path.startswith(".spec.parentRefs[") and p.path != own and not p.path.startswith(f"{own}."))
        # Of the host names each parent says something else, at one place.
        and (p.reason != "NoMatchingListenerHostname" or f"{p.what} {p.fix}" == verdict.message)
    ]


def _policy(view: View, status: BackendTlsStatus | None, obj: Object) -> StatusWrite:
    held = list((obj.get("status") or {}).get("ancestors") or ())
    others = [entry for entry in held if entry.get("controllerName") != CONTROLLER_NAME]
    mine: list[dict[str, Any]] = []
    for ancestor in status.ancestors if status is not None else ():
        ref = {
            "group": model.GROUP, "kind": "Gateway", "namespace": ancestor.gateway.namespace, "name": ancestor.gateway.name,
        }  # fmt: skip
        before: Mapping[str, Any] = next(
            (e for e in held if e.get("controllerName") == CONTROLLER_NAME and e.get("ancestorRef") == ref), {}
        )
        conditions = [
            condition(view, "Accepted", ancestor.accepted),
            condition(view, "ResolvedRefs", ancestor.resolved),
            *remarked(view, status.remarks if status is not None else ()),
        ]
        mine.append(
            {"ancestorRef": ref, "controllerName": CONTROLLER_NAME, "conditions": merged(view, obj, before, conditions)}
        )
    if not mine and len(others) == len(held):
        return StatusWrite(BACKEND_TLS_POLICY.kind, obj, {})
    # More than the limit would be refused as a whole. The policy's authors ask not to push others' entries out.
    return StatusWrite(BACKEND_TLS_POLICY.kind, obj, {"ancestors": [*others, *mine][:MAX_ANCESTORS]})


def _shadowed(view: View, problems: list[Problem]) -> list[Condition]:
    """A route whose requests go to a NexusService is Accepted all the same: the Gateway API leaves that to precedence."""
    matching = [problem for problem in problems if problem.reason == "PathConflict"]
    if not matching:
        return []
    told = from_problems(SHADOWED, matching, docs_base=view.docs_base, pages=PAGES)
    return [Condition(SHADOWED, "True", told.reason, told.message)]
