"""TLSRoutes, TCPRoutes and UDPRoutes that want the same connections or datagrams: who gets them, and what the others are told.

Of several on one listener (of TLSRoutes: with one host name there) the oldest serves, then the first by namespace and name. All are
accepted (Gateway API, GEP-2645); here a loser is told, as nothing of the kind is left for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from nexus_core.problems import ObjectRef, Problem
from nexus_core.snapshot import StreamRoute
from nexus_core.translate import hostnames
from nexus_core.translate.translation import Remark, RouteStatus

CONDITION = "nexus.dev/Shadowed"
SHOWN = 5
"""Of what a route does not get at one parent, in its condition; `Translation.problems` has all of it."""
_COMES: Mapping[str, str] = {"TLS": "Connections", "TCP": "Connections", "UDP": "Datagrams"}


@dataclass(frozen=True, slots=True)
class Shadow:
    """What a route does not get at one listener. listener: `Listener.id`. whole: nothing is left for it there."""

    listener: str
    problem: Problem
    whole: bool


def find_shadows(streams: Iterable[StreamRoute], names: Mapping[str, str]) -> dict[str, tuple[Shadow, ...]]:
    """Return what routes do not get because others precede them, by `StreamRoute.id`; those that get all they ask for are left out.

    names: host name of each listener that serves, by `Listener.id`. One of a pair of routes at one listener, at its first such host name.
    """
    found: dict[str, tuple[Shadow, ...]] = {}
    winners: dict[tuple[str, str, str], StreamRoute] = {}
    for route in sorted(streams, key=lambda each: (each.created_at, each.id)):  # the gateway's order
        shadows: list[Shadow] = []
        for listener in route.listeners:
            asked = _names(route, names[listener])
            lost: dict[str, list[str]] = {}  # by who precedes it: host names
            for name in asked:
                winner = winners.setdefault((listener, route.kind, name), route)
                if winner is not route:
                    lost.setdefault(winner.source, []).append(name)
            whole = sum(map(len, lost.values())) == len(asked)
            shadows += [Shadow(listener, _told(route, listener, *pair), whole) for pair in lost.items()]
        if shadows:
            found[route.id] = tuple(shadows)
    return found


def mark(status: RouteStatus, shadows: Iterable[Shadow]) -> RouteStatus:
    """Return the route's status with what it does not get at each of its parents."""
    parents = []
    for parent in status.parents:
        here = [each for each in shadows if each.listener in parent.listeners]
        message = "\n".join(f"{each.problem.what} {each.problem.fix}" for each in here[:SHOWN])
        remarks = (Remark(CONDITION, here[0].problem.reason, message),) if here else ()
        starved = bool(here) and {each.listener for each in here if each.whole} == set(parent.listeners)
        parents.append(replace(parent, remarks=remarks, starved=starved))
    return replace(status, parents=tuple(parents))


def _names(route: StreamRoute, listener: str) -> tuple[str, ...]:
    """Return the route's host names on one listener of its, the empty one for any: it has names of other listeners, too."""
    if route.kind != "TLS":
        return ("",)
    return hostnames.intersect_all((listener,), route.hostnames) or ("",)


def _told(loser: StreamRoute, listener: str, winner: str, names: list[str]) -> Problem:
    asked = f' for "{names[0]}"' if names[0] else ""
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    what = (
        f"{_COMES[loser.kind]}{asked}{more} at {_listener(listener)} go to {winner}, which has precedence"
        " (it is older, or first by namespace and name)."
    )
    if loser.kind == "TLS":
        fix = "Give the two different hostnames or listeners, or remove one of them."
        return Problem(ObjectRef.parse(loser.source), ".spec.hostnames", "RouteShadowed", what, fix)
    fix = "Attach the two to different listeners, with sectionName or port, or remove one of them."
    return Problem(ObjectRef.parse(loser.source), ".spec.parentRefs", "RouteShadowed", what, fix)


def _listener(listener: str) -> str:
    """Return a listener's id in words: `<namespace>/<gateway>/<name>`, or with a ListenerSet's namespace and name before the last."""
    *parent, name = listener.split("/")
    kind = "Gateway" if len(parent) == 2 else "ListenerSet"
    return f'listener "{name}" of {kind} {"/".join(parent[-2:])}'
