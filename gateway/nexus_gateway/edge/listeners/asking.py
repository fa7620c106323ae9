"""Which listener takes what a URL names, and which route a connection to it gets: for who asks why, not for the hot path. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from nexus_core.match import hosts
from nexus_core.match.asking import Question
from nexus_core.match.router import Router
from nexus_core.snapshot import Listener, Snapshot, StreamRoute

from nexus_gateway.edge.listeners.plans import Door, Family, Front, Plan
from nexus_gateway.edge.streams.plans import build_stream_plans

_FAMILIES: Mapping[str, Family] = {
    "http": "http", "grpc": "http", "https": "tls", "grpcs": "tls", "tls": "tls", "tcp": "tcp", "udp": "udp",
}  # fmt: skip
_USUAL = {"http": 80, "grpc": 80, "https": 443, "grpcs": 443, "tls": 443}


@dataclass(frozen=True, slots=True)
class Doors:
    """plan: of a process. bound: the port of each of its doors, by key; of doors that are not there, the planned one counts."""

    plan: Plan
    bound: Mapping[str, int]

    def port(self, door: Door) -> int:
        """Return the port that a door has, or would have."""
        return self.bound.get(door.key, door.port)


@dataclass(frozen=True, slots=True)
class Seen:
    """Where a request comes. router: of what it finds there. listeners: of the port, None for all there are. note: what was taken for
    granted; empty for nothing."""

    router: Router[Any]
    listeners: Sequence[Listener] | None = None
    note: str = ""


def see(router: Router[Any], doors: Doors, question: Question) -> Seen | dict[str, Any]:
    """Return where a request comes; or, for one whose TLS client no HTTP awaits, that as an answer of `connect`'s form without route."""
    if not question.scheme:
        return Seen(router)
    door = _door(doors, question)
    if door is None:
        kind = "HTTPS" if _FAMILIES[question.scheme] == "tls" else "HTTP"
        where = f" at port {question.port}" if question.port else ""
        return Seen(router, note=f"No listener of {kind} is{where}; this is told as if all listeners were at one port.")
    if door.family == "http":
        return Seen(router.through(door.listeners), door.listeners)
    front = door.front(question.server_name)
    if front is None:
        return _answer(question, doors, door, None, _UNSERVED)
    if not front.http:
        return _answer(
            question, doors, door, front.listeners[0], "takes TLS for a TLSRoute and no requests; ask with tls://"
        )
    return Seen(router.through(door.listeners, front.hostname), door.listeners)


_UNSERVED = "refuses the handshake (unrecognized_name): no listener of the port has this name"


def connect(snapshot: Snapshot, doors: Doors, question: Question) -> dict[str, Any]:
    """Return what becomes of a connection, or a client's datagrams: `{connection, listener, does, route, source, why, upstreams, others}`.

    question: of the schemes tls, tcp, udp. listener and route are empty where there is none.
    """
    door = _door(doors, question)
    if door is None:
        where = f"port {question.port}" if question.port else "any port"
        known = ", ".join(sorted({str(each.declared) for each in _of(doors, question)})) or "none"
        return _answer(
            question, doors, None, None, f"finds no {question.scheme.upper()} listener at {where}; there are: {known}"
        )
    name = ""
    if door.family == "tls":
        name = question.server_name
        front = door.front(name)
        if front is None:
            return _answer(question, doors, door, None, _UNSERVED)
        return _routed(snapshot, doors, door, front.listeners[0], question, _does(front), name)
    does = "passes datagrams on" if door.family == "udp" else "passes bytes on"
    return _routed(snapshot, doors, door, door.listeners[0], question, does, name)


def _does(front: Front) -> str:
    if front.http:
        return "ends TLS and serves HTTP; ask with https://"
    return "ends TLS and passes bytes on" if front.ends else "passes TLS on as it comes"


def _of(doors: Doors, question: Question) -> list[Door]:
    family = _FAMILIES[question.scheme]
    return [each for each in doors.plan.doors.values() if each.family == family and each.listeners]


def _door(doors: Doors, question: Question) -> Door | None:
    """Return the door that a URL leads to: by the port that is open, else by the declared one."""
    fitting = _of(doors, question)
    if question.port:
        by_bound = (each for each in fitting if doors.port(each) == question.port)
        return next(by_bound, next((each for each in fitting if each.declared == question.port), None))
    usual = _USUAL.get(question.scheme, 0)
    only = fitting[0] if len(fitting) == 1 else None
    return next((each for each in fitting if each.declared == usual), only)


def _answer(
    question: Question, doors: Doors, door: Door | None, listener: Listener | None, does: str
) -> dict[str, Any]:
    shown = None
    if listener is not None and door is not None:
        shown = {
            "id": listener.id,
            "hostname": listener.hostname,
            "port": listener.port,
            "bound": doors.port(door),
            "protocol": listener.protocol,
            "from": listener.source,
        }
    return {
        "connection": {"scheme": question.scheme, "server_name": question.server_name, "port": question.port},
        "listener": shown,
        "does": does,
        "route": "",
        "source": "",
        "why": "",
        "upstreams": [],
        "others": [],
    }


def _routed(
    snapshot: Snapshot, doors: Doors, door: Door, listener: Listener, question: Question, does: str, name: str
) -> dict[str, Any]:
    answer = _answer(question, doors, door, listener, does)
    plans = build_stream_plans(snapshot.streams, {})
    found = plans.datagrams((listener.id,)) if door.family == "udp" else plans.connection((listener.id,), name)
    here = [each for each in snapshot.streams if listener.id in each.listeners]
    chosen = found.route if found is not None else None
    answer["others"] = [{"route": each.id, "why": _why_not(each, chosen, name)} for each in here if each is not chosen]
    if chosen is None:
        return answer
    upstreams = {each.id: each for each in snapshot.upstreams}
    weights = sum(each.weight for each in chosen.backends)
    answer.update(route=chosen.id, source=chosen.source, why=_why(chosen, name, here))
    answer["upstreams"] = [
        {
            "upstream": each.upstream,
            "weight": each.weight,
            "share": round(each.weight / weights, 4) if weights else 0.0,
            "found": each.upstream in upstreams,
            "source": msgspec.to_builtins(upstreams[each.upstream].endpoints) if each.upstream in upstreams else None,
        }
        for each in chosen.backends
    ]
    return answer


def _why(route: StreamRoute, name: str, here: Iterable[StreamRoute]) -> str:
    if route.hostnames:
        return f"Most specific host name for {name or 'no name'!r}: {next(hosts.chain(dict.fromkeys(route.hostnames), name), '')}."
    return (
        "The only route of the listener."
        if len(list(here)) == 1
        else "The oldest route of the listener, or the first by name."
    )


def _why_not(route: StreamRoute, chosen: StreamRoute | None, name: str) -> str:
    if route.hostnames and not any(hosts.covers(each, name) for each in route.hostnames):
        return f"Its host names ({', '.join(route.hostnames)}) do not cover {name!r}."
    if chosen is not None and chosen.hostnames != route.hostnames:
        return "The winner's host name is more specific, or as specific and the winner is older."
    return "The winner is older, or first by name."
