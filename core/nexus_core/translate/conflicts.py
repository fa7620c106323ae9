"""Which NexusService a path belongs to. (Between HTTPRoutes the Gateway API's precedence decides, in the gateway.)"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

from nexus_core.problems import ObjectRef
from nexus_core.snapshot import Route

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


def _claims(route: Route) -> Iterator[Claim]:
    matches = [match for rule in route.rules for match in rule.matches]
    for listener, hostname, match in product(route.listeners, route.hostnames or ("",), matches):
        yield listener, hostname, match.path, match.path_kind, match.method
