"""Why a request goes where it goes: the same answer as the router's, with the reason each other match lost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

from nexus_core.match import hosts
from nexus_core.match.router import Entry, HeaderMap, Router, path_covers

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Loser:
    """A match that did not take the request. why: one sentence."""

    route: str
    rule: str
    why: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """route, rule: ids, empty when nothing matched. why: what made it win. losers: near ones first, at most `limit`."""

    route: str
    rule: str
    why: str
    losers: tuple[Loser, ...]


def explain(
    router: Router[T], method: str, host: str, path: str, headers: HeaderMap, *, limit: int = 50
) -> Explanation:
    """Return what `router.find` decides for the request, and why. Walks every match: for people, not for the hot path."""
    chosen = router.find(method, host, path, headers)
    allowed = router.allowed_listeners(host)
    ranked: list[tuple[int, Loser]] = []
    for entry in router.entries:
        if entry is chosen:
            continue
        near, why = _why_not(entry, chosen, method, host, path, headers, allowed)
        ranked.append((near, Loser(entry.route.id, entry.rule.id, why)))
    ranked.sort(key=lambda item: (item[0], item[1].route, item[1].rule))
    losers = tuple(loser for _, loser in ranked[:limit])
    if chosen is None:
        return Explanation("", "", "No match of any route takes this request.", losers)
    return Explanation(chosen.route.id, chosen.rule.id, _why(chosen), losers)


def _why(entry: Entry[T]) -> str:
    match = entry.match
    parts = [f"{match.path_kind} path {match.path}"]
    if match.method:
        parts.append(f"method {match.method}")
    parts.extend(f"header {header.name}: {header.value}" for header in match.headers)
    hostnames = ", ".join(entry.route.hostnames) or "any host"
    return f"Most specific match: {hostnames}; {'; '.join(parts)}."


def _why_not(
    entry: Entry[T],
    chosen: Entry[T] | None,
    method: str,
    host: str,
    path: str,
    headers: HeaderMap,
    allowed: frozenset[str] | None,
) -> tuple[int, str]:
    """Return `(distance, reason)`: 0 for matches that hold but rank lower, more the earlier the mismatch."""
    match = entry.match
    names = entry.route.hostnames or (hosts.ANY,)
    if not any(hosts.covers(name, host) for name in names):
        return 4, f"Its hostnames ({', '.join(names)}) do not cover {host!r}."
    if allowed is not None and allowed.isdisjoint(entry.listeners):
        return 4, "A listener with a more specific hostname takes this host, and the route is not attached to it."
    if not path_covers(match, path):
        return 3, f"Its {match.path_kind} path {match.path} does not cover {path}."
    if match.method and match.method != method:
        return 2, f"It takes {match.method} only."
    for wanted in match.headers:
        found = headers.get(wanted.name)
        if found != wanted.value:
            seen = "is missing" if found is None else f"is {found!r}"
            return 1, f"Header {wanted.name} {seen}; it wants {wanted.value!r}."
    if chosen is None:  # pragma: no cover - a match that holds is always found
        raise AssertionError("the router found nothing although a match holds")
    return 0, f"It matches too, but {_what_wins(chosen, entry, host)}."


def _what_wins(winner: Entry[T], loser: Entry[T], host: str) -> str:
    def specificity(entry: Entry[T]) -> int:
        order = list(hosts.chain(frozenset(entry.route.hostnames or (hosts.ANY,)), host))
        return len(order[0]) + (1000 if order[0] == host else 0)

    if specificity(winner) > specificity(loser):
        return "the winner's hostname is more specific"
    if winner.match.path_kind != loser.match.path_kind:
        return "the winner's path is exact"
    if winner.match.path != loser.match.path:
        return "the winner's prefix is longer"
    if bool(winner.match.method) != bool(loser.match.method):
        return "the winner names the method"
    if len(winner.match.headers) != len(loser.match.headers):
        return "the winner names more headers"
    if winner.route.created_at != loser.route.created_at:
        return "the winner's route is older"
    if winner.route.id != loser.route.id:
        return "the winner's id comes first"
    return "the winner comes first in the route"
