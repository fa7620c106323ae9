"""HTTPRoutes and GRPCRoutes that want one host name of one listener: the older gets it, or the first by namespace and name.

Source: Gateway API, GRPCRouteSpec.hostnames. Rules of the two kinds are never merged: a gRPC client would get pages.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import msgspec

from nexus_core.problems import ObjectRef, Problem
from nexus_core.snapshot import Route
from nexus_core.translate import hostnames
from nexus_core.translate.gateways import OpenListener
from nexus_core.translate.route_builders import Routes
from nexus_core.translate.translation import RouteStatus, Verdict


class Holders:
    """Who has which host names of one listener, of one kind of route."""

    def __init__(self) -> None:
        self._by_name: dict[str, ObjectRef] = {}
        self._below: dict[str, ObjectRef] = {}  # by each name that has a held one below it: whose the first such is

    def add(self, ref: ObjectRef, names: tuple[str, ...]) -> None:
        """Give a route its host names, none standing for any; those that are taken stay with theirs."""
        for name in names or ("",):
            if name in self._by_name:
                continue
            self._by_name[name] = ref
            labels = name.removeprefix("*.").split(".")
            # A wildcard reaches what is below its own name already.
            for start in range(0 if name.startswith("*.") else 1, len(labels)):
                self._below.setdefault(".".join(labels[start:]), ref)

    def find(self, names: tuple[str, ...]) -> ObjectRef | None:
        """Return who has a host name that meets one of these."""
        for name in names or ("",):
            labels = name.removeprefix("*.").split(".")
            for wide in ("", name, *(f"*.{'.'.join(labels[n:])}" for n in range(1, len(labels)))):
                if wide in self._by_name:
                    return self._by_name[wide]
            if not name and self._by_name:
                return next(iter(self._by_name.values()))
            if name.startswith("*.") and name[2:] in self._below:
                return self._below[name[2:]]
        return None


def settle(found: Routes, listeners: Iterable[OpenListener]) -> None:
    """Take routes off listeners on which a route of the other kind has their host names. Changes `found`. listeners: all that serve."""
    lost: dict[ObjectRef, dict[str, ObjectRef]] = {}
    contested = _contested(found.routes)
    served = {o.listener.id: o.listener.hostname for o in listeners} if contested else {}
    for listener, here in contested.items():
        holders = {"HTTPRoute": Holders(), "GRPCRoute": Holders()}
        for ref, route in sorted(here, key=lambda pair: _precedence(*pair)):
            # A route has names of other listeners too.
            names = hostnames.intersect_all((served.get(listener, ""),), route.hostnames) or ()
            winner = holders["GRPCRoute" if ref.kind == "HTTPRoute" else "HTTPRoute"].find(names)
            if winner is None:
                holders[ref.kind].add(ref, names)
            else:
                lost.setdefault(ref, {})[listener] = winner
    if not lost:
        return
    for ref, winners in lost.items():
        left = tuple(i for i in found.routes[ref].listeners if i not in winners)
        if left:
            found.routes[ref] = msgspec.structs.replace(found.routes[ref], listeners=left)
        else:
            del found.routes[ref]
        found.problems.extend(_told(ref, winner) for winner in set(winners.values()))
    found.statuses[:] = [
        _without(status, lost[status.ref]) if status.ref in lost else status for status in found.statuses
    ]


def _contested(routes: dict[ObjectRef, Route]) -> dict[str, list[tuple[ObjectRef, Route]]]:
    """Return the routes by listener, of those listeners that have both kinds."""
    if not any(ref.kind == "GRPCRoute" for ref in routes):
        return {}
    by_listener: dict[str, list[tuple[ObjectRef, Route]]] = {}
    for ref, route in routes.items():
        for listener in route.listeners:
            by_listener.setdefault(listener, []).append((ref, route))
    return {name: here for name, here in sorted(by_listener.items()) if len({ref.kind for ref, _ in here}) > 1}


def _precedence(ref: ObjectRef, route: Route) -> tuple[bool, str, str, str, str]:
    """Older first; an object without a date (files) comes before dated ones."""
    return route.created_at != "", route.created_at, ref.namespace, ref.name, ref.kind


def _told(ref: ObjectRef, winner: ObjectRef) -> Problem:
    what = f"{winner} has the route's host names on a listener that both want, and precedence (it is older, or first by name)."
    fix = "Give the two different hostnames or listeners, or remove one."
    return Problem(ref, ".spec.hostnames", "HostnameConflict", what, fix)


def _without(status: RouteStatus, winners: dict[str, ObjectRef]) -> RouteStatus:
    parents = []
    for parent in status.parents:
        left = tuple(i for i in parent.listeners if i not in winners)
        if parent.listeners and not left:
            told = _told(status.ref, winners[parent.listeners[0]])
            parent = replace(parent, accepted=Verdict(False, told.reason, f"{told.what} {told.fix}"))
        parents.append(replace(parent, listeners=left))
    return replace(status, parents=tuple(parents))
