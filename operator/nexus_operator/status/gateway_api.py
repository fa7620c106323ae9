"""Statuses of GatewayClasses, Gateways and ListenerSets, as the Gateway API defines them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from nexus_core.model import gateway_api as model
from nexus_core.model.kinds import CONTROLLER_NAME
from nexus_core.problems import ObjectRef, Problem
from nexus_core.translate.translation import ClassStatus, GatewayStatus, ListenerSetStatus, ListenerStatus, Verdict

from nexus_operator.status.conditions import Condition
from nexus_operator.status.standard import condition, merged, remarked
from nexus_operator.status.view import Front, View
from nexus_operator.status.writes import StatusWrite
from nexus_operator.world.inventory import Object, key_of
from nexus_operator.world.words import is_our_word

LAST_GOOD = "Its last good version keeps serving."
NOWHERE = Front(exists=False)


def build(view: View, problems: dict[ObjectRef, list[Problem]]) -> Iterator[StatusWrite]:
    """Yield the statuses of our GatewayClasses, of their Gateways, and of the ListenerSets at those."""
    yield from _classes(view)
    programmed: dict[str, Condition] = {}
    sets: dict[ObjectRef, list[ListenerSetStatus]] = {}
    for listeners in view.translation.listener_sets:
        sets.setdefault(listeners.gateway, []).append(listeners)
    for gateway in view.translation.gateways:
        obj = view.inventory.get("Gateway", gateway.ref.namespace, gateway.ref.name)
        if obj is not None:
            state = _gateway_programmed(view, gateway, sets.get(gateway.ref, ()), problems.get(gateway.ref, []))
            programmed[_id(gateway.ref)] = state
            yield _gateway(view, gateway, obj, state)
    for listeners in view.translation.listener_sets:
        obj = view.inventory.get("ListenerSet", listeners.ref.namespace, listeners.ref.name)
        if obj is not None:
            yield _listener_set(view, listeners, obj, programmed.get(_id(listeners.gateway)))
    yield from _moved(view)
    yield from _orphans(view)


def _moved(view: View) -> Iterator[StatusWrite]:
    """Yield what takes our word back of Gateways that were moved to a class that is not there: what was made for them is deleted.

    What another controller said last is left alone, and so is all that is of a class: whose that is writes over ours.
    """
    known = {status.ref for status in view.translation.gateways}
    for obj in view.inventory.all("Gateway"):
        ref = ObjectRef("Gateway", *key_of(obj))
        if ref in known or _has_class(view, ref) or not _is_ours(obj):
            continue
        what = f'There is no GatewayClass "{_class_name(view, ref)}", so nothing serves it.'
        taken = {"addresses": None, "listeners": None, "attachedListenerSets": None}
        yield StatusWrite("Gateway", obj, {**taken, "conditions": _waiting(view, obj, what)})


def _is_ours(obj: Object) -> bool:
    return any(is_our_word(obj, kind) for kind in ("Accepted", "Programmed"))


def _has_class(view: View, gateway: ObjectRef) -> bool:
    return view.inventory.get("GatewayClass", "", _class_name(view, gateway)) is not None


def _waiting(view: View, obj: Object, what: str) -> list[dict[str, Any]]:
    """Return the conditions of an object that no controller has claimed, as its CRD gives them to a new one."""
    conditions = [Condition(kind, "Unknown", "Pending", what) for kind in ("Accepted", "Programmed")]
    return merged(view, obj, obj.get("status") or {}, conditions)


def _orphans(view: View) -> Iterator[StatusWrite]:
    """Yield what takes back what ListenerSets say of a Gateway that they are at no more: it was deleted, or moved to another class, or
    they name another one. Where there is no such Gateway a claim to be served is not true of any controller, whosever word it was;
    else what another one said last is left alone.
    """
    known = {status.ref for status in view.translation.listener_sets}
    for obj in view.inventory.all("ListenerSet"):
        ref = ObjectRef("ListenerSet", *key_of(obj))
        held = obj.get("status") or {}
        claims = any(
            c.get("status") == "True" and c.get("type") in ("Accepted", "Programmed")
            for c in held.get("conditions") or ()
        )
        parent = (obj.get("spec") or {}).get("parentRef")
        ours = _is_ours(obj)
        if ref in known or not (claims or ours) or not isinstance(parent, Mapping):
            continue
        namespace, name = str(parent.get("namespace") or ref.namespace), str(parent.get("name"))
        if parent.get("kind", "Gateway") != "Gateway":
            continue
        if view.inventory.get("Gateway", namespace, name) is not None:
            if ours:
                gateway = ObjectRef("Gateway", namespace, name)
                what = f'{gateway} is of GatewayClass "{_class_name(view, gateway)}", which is not served by Nexus.'
                yield StatusWrite("ListenerSet", obj, {"conditions": _waiting(view, obj, what), "listeners": None})
            continue
        what = f'There is no Gateway "{name}" in namespace "{namespace}".'
        conditions = [
            Condition("Accepted", "False", "ParentNotAccepted", what),
            Condition("Programmed", "False", "Pending", what),
        ]
        yield StatusWrite("ListenerSet", obj, {"conditions": merged(view, obj, held, conditions), "listeners": None})


def _classes(view: View) -> Iterator[StatusWrite]:
    known = {cls.ref.name: cls for cls in view.translation.classes}
    for obj in view.inventory.all("GatewayClass"):
        if (obj.get("spec") or {}).get("controllerName") == CONTROLLER_NAME:
            name = str(obj["metadata"]["name"])
            missing = ClassStatus(ObjectRef("GatewayClass", "", name), 0, Verdict(True, "Accepted"), ())
            yield _class(view, known.get(name, missing), obj)


def _id(ref: ObjectRef) -> str:
    return f"{ref.namespace}/{ref.name}"


def _class(view: View, status: ClassStatus, obj: Object) -> StatusWrite:
    accepted = condition(view, "Accepted", status.accepted)
    if status.accepted.ok and not status.accepted.message:
        accepted = Condition("Accepted", "True", "Accepted", "Nexus serves Gateways of this class.")
    features = sorted(set(status.features) - view.inventory.lacking)
    return StatusWrite(
        "GatewayClass",
        obj,
        {
            "conditions": merged(view, obj, obj.get("status") or {}, [accepted]),
            **({"supportedFeatures": [{"name": name} for name in features]} if features else {}),
        },
    )


def _gateway(view: View, status: GatewayStatus, obj: Object, programmed: Condition) -> StatusWrite:
    held = obj.get("status") or {}
    accepted = condition(view, "Accepted", status.accepted)
    if status.quarantined and accepted.status == "False":
        accepted = Condition("Accepted", "False", accepted.reason, f"{accepted.message}\n{LAST_GOOD}")
    conditions = [accepted, programmed, condition(view, "ResolvedRefs", status.resolved)]
    conditions += remarked(view, status.remarks)
    addresses = view.fronts.get(_id(status.ref), NOWHERE).addresses
    return StatusWrite(
        "Gateway",
        obj,
        {
            "addresses": [{"type": a.type, "value": a.value} for a in addresses] or None,
            "conditions": merged(view, obj, held, conditions),
            "listeners": _listeners(view, obj, status.listeners, _id(status.ref), programmed),
            "attachedListenerSets": status.attached_listener_sets,
        },
    )


def _listener_set(view: View, status: ListenerSetStatus, obj: Object, gateway: Condition | None) -> StatusWrite:
    held = obj.get("status") or {}
    name = _id(status.gateway)
    if not status.accepted.ok or gateway is None:
        reason = status.accepted.reason if not status.accepted.ok else "Pending"
        programmed = Condition("Programmed", "False", reason, status.accepted.message or "Its Gateway is not served.")
    else:
        serves = any(listener.id in view.listeners for listener in status.listeners)
        programmed = _of_listeners(
            view.programmed(str(status.ref), frozenset({name})) if serves else _nothing(), gateway
        )
    conditions = [condition(view, "Accepted", status.accepted), programmed]
    if status.quarantined and conditions[0].status == "False":
        first = conditions[0]
        conditions[0] = Condition("Accepted", "False", first.reason, f"{first.message}\n{LAST_GOOD}")
    return StatusWrite(
        "ListenerSet",
        obj,
        {
            "conditions": merged(view, obj, held, conditions),
            "listeners": _listeners(view, obj, status.listeners, name, programmed),
        },
    )


def _of_listeners(own: Condition, gateway: Condition) -> Condition:
    """Return what holds for listeners: their own part has to be live, and their Gateway to be reached."""
    return _standard(own) if gateway.status == "True" or own.reason == "ListenersNotValid" else gateway


def _nothing() -> Condition:
    return Condition("Programmed", "False", "ListenersNotValid", "No listener of it can be served.")


def _gateway_programmed(
    view: View, status: GatewayStatus, sets: Iterable[ListenerSetStatus], problems: list[Problem]
) -> Condition:
    name = _id(status.ref)
    front = view.fronts.get(name, NOWHERE)
    if not status.accepted.ok and not status.infrastructure.usable:
        return Condition("Programmed", "False", "Invalid", status.accepted.message or "It is not accepted.")
    refused = [p for p in problems if p.reason in ("ChildConflict", "ChildRefused")]
    if refused:
        what = view.linked(refused[0].reason, f"{refused[0].what} {refused[0].fix}")
        return Condition("Programmed", "False", "NoResources", what)
    asked = {value for _, value in status.infrastructure.addresses if value}
    missing = sorted(asked - {address.value for address in front.addresses})
    if missing and status.infrastructure.ports:
        what = (
            f"The load balancer has not given {', '.join(missing)}. Ask for an address that it can give, or for none."
        )
        return Condition("Programmed", "False", "AddressNotUsable", view.linked("AddressNotUsable", what))
    every = [*status.listeners, *(listener for s in sets for listener in s.listeners)]
    serving = [listener for listener in every if listener.id in view.listeners]
    if not serving:
        return Condition("Programmed", "False", "Invalid", "No listener of it can be served.")
    if not front.exists and not _has_class(view, status.ref):
        what = f'There is no GatewayClass "{_class_name(view, status.ref)}", so nothing is made for it.'
        return Condition("Programmed", "False", "Pending", what)
    if not front.addresses:
        what = "Its Service has no address yet. In a cluster without load balancers, set service.type in its NexusGatewayParameters."
        return Condition("Programmed", "False", "AddressNotAssigned", view.linked("AddressNotAssigned", what))
    closed = sorted({view.listeners[listener.id].port for listener in serving} - front.ports)
    if closed:
        what = f"Its Service does not open port {closed[0]} yet."
        if not _has_class(view, status.ref):
            what = f'There is no GatewayClass "{_class_name(view, status.ref)}", so its Service does not open port {closed[0]}.'
        return Condition("Programmed", "False", "Pending", what)
    own = view.programmed(_source(view, status, serving), frozenset({name}))
    if own.status == "True" and not front.ready:
        return Condition("Programmed", "False", "Pending", "No replica of it takes traffic yet.")
    unopened = view.fleet.unopened(name)
    if own.status == "True" and all(listener.id in unopened for listener in serving):
        return Condition("Programmed", "False", "Invalid", unopened[serving[0].id])
    return _standard(own)


def _class_name(view: View, ref: ObjectRef) -> str:
    obj = view.inventory.get("Gateway", ref.namespace, ref.name) or {}
    return str((obj.get("spec") or {}).get("gatewayClassName") or "")


def _source(view: View, status: GatewayStatus, serving: list[ListenerStatus]) -> str:
    """Return the object whose part of the Snapshot has to be live: the Gateway, else the first set that gives it listeners."""
    if any(listener.id in view.listeners for listener in status.listeners):
        return str(status.ref)
    namespace, name = serving[0].id.split("/")[2:4]
    return str(ObjectRef("ListenerSet", namespace, name))


def _listeners(
    view: View, obj: Object, listeners: tuple[ListenerStatus, ...], gateway: str, programmed: Condition
) -> list[dict[str, Any]]:
    held = {entry.get("name"): entry for entry in (obj.get("status") or {}).get("listeners") or ()}
    unopened = view.fleet.unopened(gateway)
    return [_listener(view, obj, each, held.get(each.name) or {}, programmed, unopened) for each in listeners]


def _listener(
    view: View,
    obj: Object,
    status: ListenerStatus,
    before: Mapping[str, Any],
    gateway: Condition,
    unopened: Mapping[str, str],
) -> dict[str, Any]:
    if not status.accepted.ok:
        reason = "Invalid" if status.conflicted.ok else status.conflicted.reason
        programmed = Condition("Programmed", "False", reason, "The listener is not accepted.")
    elif status.id not in view.listeners:
        what = status.resolved.message if not status.resolved.ok else "The listener is not served."
        programmed = Condition("Programmed", "False", "Invalid", what)
    elif status.id in unopened:
        programmed = Condition("Programmed", "False", "Invalid", unopened[status.id])
    elif gateway.status == "True":
        programmed = gateway
    else:
        programmed = Condition("Programmed", gateway.status, "Pending", gateway.message)
    conflicted = status.conflicted
    conditions = [
        condition(view, "Accepted", status.accepted),
        programmed,
        condition(view, "ResolvedRefs", status.resolved),
        # The one condition that is bad when True.
        Condition("Conflicted", "False" if conflicted.ok else "True", conflicted.reason, conflicted.message),
        *remarked(view, status.remarks),
    ]
    return {
        "name": status.name,
        "supportedKinds": [{"group": model.GROUP, "kind": kind} for kind in status.supported_kinds],
        "attachedRoutes": status.attached_routes,
        "conditions": merged(view, obj, before, conditions),
    }


def _standard(told: Condition) -> Condition:
    """Replace reasons of ours by the Gateway API's, which its conformance suite knows."""
    reason = {"NotProgrammed": "Invalid", "NoGateways": "NoResources"}.get(told.reason, told.reason)
    return Condition(told.type, told.status, reason, told.message)
