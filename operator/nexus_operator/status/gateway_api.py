"""Statuses of GatewayClasses, Gateways and HTTPRoutes, as the Gateway API defines them."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping
from typing import Any

from nexus_core.model import gateway_api as model
from nexus_core.model.kinds import CONTROLLER_NAME
from nexus_core.problems import ObjectRef, Problem
from nexus_core.translate.translation import GatewayStatus, ListenerStatus, RouteStatus, Verdict

from nexus_operator.status.conditions import Condition, from_problems, merge
from nexus_operator.status.view import PAGES, View
from nexus_operator.status.writes import StatusWrite
from nexus_operator.world.inventory import Object

MAX_PARENTS = 32
"""The CRD's limit of `status.parents`."""
SHADOWED = "nexus.dev/Shadowed"
"""Condition of an HTTPRoute, there only when it is true: requests for some of its matches go to a NexusService."""
LAST_GOOD = "Its last good version keeps serving."


def build(view: View, problems: dict[ObjectRef, list[Problem]]) -> Iterator[StatusWrite]:
    """Yield the statuses of our GatewayClasses, of their Gateways, and of all HTTPRoutes we serve or once served."""
    for cls in view.inventory.all("GatewayClass"):
        if (cls.get("spec") or {}).get("controllerName") == CONTROLLER_NAME:
            accepted = Condition("Accepted", "True", "Accepted", "Nexus serves Gateways of this class.")
            yield StatusWrite(
                "GatewayClass", cls, {"conditions": _merged(view, cls, cls.get("status") or {}, [accepted])}
            )
    for gateway in view.translation.gateways:
        obj = view.inventory.get("Gateway", gateway.ref.namespace, gateway.ref.name)
        if obj is not None:
            yield _gateway(view, gateway, obj)
    statuses = {status.ref: status for status in view.translation.routes}
    for route in view.inventory.all("HTTPRoute"):
        ref = ObjectRef("HTTPRoute", route["metadata"]["namespace"], route["metadata"]["name"])
        yield _route(view, statuses.get(ref), route, problems.get(ref, []))


def _gateway(view: View, status: GatewayStatus, obj: Object) -> StatusWrite:
    held = obj.get("status") or {}
    programmed = _gateway_programmed(view, status)
    conditions = [_condition(view, "Accepted", status.accepted), programmed]
    listeners = [_listener(view, obj, listener, programmed) for listener in status.listeners]
    return StatusWrite(
        "Gateway",
        obj,
        {
            "addresses": [{"type": _address_type(a), "value": a} for a in view.addresses] or None,
            "conditions": _merged(view, obj, held, conditions),
            "listeners": listeners,
        },
    )


def _gateway_programmed(view: View, status: GatewayStatus) -> Condition:
    if not any(listener.accepted.ok for listener in status.listeners):
        return Condition("Programmed", "False", "Invalid", "No listener of it can be served.")
    if not view.addresses:
        what = "The gateway's Service has no address yet. In a cluster without load balancers, set gateway.service.type or gateway.url."
        return Condition("Programmed", "False", "AddressNotAssigned", view.linked("AddressNotAssigned", what))
    return _standard(view.programmed(str(status.ref)))


def _listener(view: View, obj: Object, status: ListenerStatus, gateway: Condition) -> dict[str, Any]:
    before: Mapping[str, Any] = next(
        (entry for entry in (obj.get("status") or {}).get("listeners") or () if entry.get("name") == status.name), {}
    )
    programmed = (
        gateway if status.accepted.ok else Condition("Programmed", "False", "Invalid", "The listener is not accepted.")
    )
    conflicted = status.conflicted
    conditions = [
        _condition(view, "Accepted", status.accepted),
        programmed,
        _condition(view, "ResolvedRefs", status.resolved),
        # The one condition that is bad when True.
        Condition("Conflicted", "False" if conflicted.ok else "True", conflicted.reason, conflicted.message),
    ]
    return {
        "name": status.name,
        "supportedKinds": [{"group": model.GROUP, "kind": kind} for kind in status.supported_kinds],
        "attachedRoutes": status.attached_routes,
        "conditions": _merged(view, obj, before, conditions),
    }


def _route(view: View, status: RouteStatus | None, obj: Object, problems: list[Problem]) -> StatusWrite:
    held = list((obj.get("status") or {}).get("parents") or ())
    others = [entry for entry in held if entry.get("controllerName") != CONTROLLER_NAME]
    mine: list[dict[str, Any]] = []
    for parent in status.parents if status is not None else ():
        ref = {key: value for key, value in parent.parent.items() if value is not None}
        before: Mapping[str, Any] = next(
            (e for e in held if e.get("controllerName") == CONTROLLER_NAME and e.get("parentRef") == ref), {}
        )
        conditions = [
            _judged(view, "Accepted", parent.accepted, problems),
            _judged(view, "ResolvedRefs", parent.resolved, problems),
        ]
        if status is not None and status.quarantined and conditions[0].status == "False":
            first = conditions[0]
            conditions[0] = Condition(first.type, first.status, first.reason, f"{first.message}\n{LAST_GOOD}")
        if parent.accepted.ok and status is not None:
            conditions.append(view.programmed(str(status.ref)))
            conditions += _shadowed(view, problems)
        merged = _merged(view, obj, before, conditions)
        mine.append({"parentRef": ref, "controllerName": CONTROLLER_NAME, "conditions": merged})
    if not mine and len(others) == len(held):
        return StatusWrite("HTTPRoute", obj, {})  # nothing of ours in it, nothing to add
    return StatusWrite("HTTPRoute", obj, {"parents": [*others, *mine][:MAX_PARENTS]})


def _shadowed(view: View, problems: list[Problem]) -> list[Condition]:
    """A route whose requests go to a NexusService is Accepted all the same: the Gateway API leaves that to precedence."""
    matching = [problem for problem in problems if problem.reason == "PathConflict"]
    if not matching:
        return []
    told = from_problems(SHADOWED, matching, docs_base=view.docs_base, pages=PAGES)
    return [Condition(SHADOWED, "True", told.reason, told.message)]


def _judged(view: View, kind: str, verdict: Verdict, problems: list[Problem]) -> Condition:
    """A verdict on a route, with every problem that gave it rather than the first alone."""
    matching = [problem for problem in problems if problem.reason == verdict.reason]
    if verdict.ok or not matching:
        return _condition(view, kind, verdict)
    return from_problems(kind, matching, docs_base=view.docs_base, pages=PAGES)


def _condition(view: View, kind: str, verdict: Verdict) -> Condition:
    message = verdict.message if verdict.ok else view.linked(verdict.reason, verdict.message)
    return Condition(kind, "True" if verdict.ok else "False", verdict.reason, message)


def _standard(condition: Condition) -> Condition:
    """Replace reasons of ours by the Gateway API's, which its conformance suite knows."""
    reason = {"NotProgrammed": "Invalid", "NoGateways": "NoResources"}.get(condition.reason, condition.reason)
    return Condition(condition.type, condition.status, reason, condition.message)


def _merged(view: View, obj: Object, held: Mapping[str, Any], conditions: list[Condition]) -> list[dict[str, Any]]:
    generation = int(obj["metadata"].get("generation") or 0)
    return merge(held.get("conditions") or (), conditions, generation=generation, now_utc=view.now_utc)


def _address_type(address: str) -> str:
    try:
        ipaddress.ip_address(address)
    except ValueError:
        return "Hostname"
    return "IPAddress"
