"""Which object a path belongs to.

Between NexusServices the one that has precedence gets the path. Between HTTPRoutes, and between GRPCRoutes, the Gateway API's
precedence decides, in the gateway, and in silence, as that API wants it. Between those and NexusServices the gateway decides
likewise; here the loser is told. HTTPRoutes and GRPCRoutes never meet (`route_conflicts`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import product

from nexus_core.problems import ObjectRef, Problem
from nexus_core.snapshot import Match, Route

Claim = tuple[str, str, str, str, str]
"""(listener, host name, path, path kind, method)"""


class Claims:
    """Claims that are taken. Two are the same only when every part is: a longer path or a method is no conflict."""

    def __init__(self) -> None:
        self._owners: dict[Claim, ObjectRef] = {}

    def first_conflict(self, route: Route) -> ObjectRef | None:
        """Return who has the first of the route's claims that is taken, or None."""
        return next((self._owners[claim] for claim in _claims(route) if claim in self._owners), None)

    def take(self, route: Route, owner: ObjectRef) -> None:
        """Give the route's claims to the owner; those that are taken stay with theirs."""
        for claim in _claims(route):
            self._owners.setdefault(claim, owner)


def find_shadowed(routes: Iterable[Route]) -> Iterator[Problem]:
    """Yield a problem for each NexusService, HTTPRoute or GRPCRoute whose requests go to one of the other kind instead.

    One problem for each pair, at the loser's first such match. A match with headers or query parameters is no rival: it is the closer one.
    """
    routes = sorted(routes, key=lambda route: (route.created_at, route.id))  # the gateway's order between equal matches
    kinds = {route.source.partition(" ")[0] for route in routes}
    if len(kinds) < 2:
        return
    winners: dict[Claim, Route] = {}
    for route in routes:
        told: set[str] = set()
        for path, match in _plain_matches(route):
            for claim in _claims_of(route, (match,)):
                winner = winners.setdefault(claim, route)
                if _kind(winner) != _kind(route) and winner.source not in told:
                    told.add(winner.source)
                    yield _shadowed(route, winner, match, path)


def _plain_matches(route: Route) -> Iterator[tuple[str, Match]]:
    """The matches without headers and query parameters, with the field that says them."""
    for number, rule in enumerate(route.rules):
        for index, match in enumerate(rule.matches):
            if not match.headers and not match.query:
                kind = _kind(route)
                part = "method" if kind == "GRPCRoute" else "path"
                yield (
                    ".spec.expose.path" if kind == "NexusService" else f".spec.rules[{number}].matches[{index}].{part}",
                    match,
                )


def _shadowed(loser: Route, winner: Route, match: Match, path: str) -> Problem:
    method = f"{match.method} " if match.method else ""
    what = (
        f'Requests for {method}"{match.path}" go to {winner.source}, which has the same match and precedence'
        " (it is older, or first by kind and name)."
    )
    fix = "Choose another path, or other hostnames or methods, or remove one of the two."
    return Problem(ObjectRef.parse(loser.source), path, "PathConflict", what, fix)


def _kind(route: Route) -> str:
    return route.source.partition(" ")[0]


def _claims(route: Route) -> Iterator[Claim]:
    return _claims_of(route, [match for rule in route.rules for match in rule.matches])


def _claims_of(route: Route, matches: Iterable[Match]) -> Iterator[Claim]:
    for listener, hostname, match in product(route.listeners, route.hostnames or ("",), matches):
        yield listener, hostname, match.path, match.path_kind, match.method
