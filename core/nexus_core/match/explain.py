"""Why a request goes where it goes: the same answer as the router's, with the reason each other match lost."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from nexus_core.match import hosts, patterns
from nexus_core.match.router import Entry, HeaderMap, Router, parse_query, path_covers, value_test
from nexus_core.snapshot import HeaderMatch, Match, QueryMatch

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


@dataclass(frozen=True, slots=True)
class _Request:
    method: str
    host: str
    path: str
    headers: HeaderMap
    parameters: Mapping[str, str]
    allowed: frozenset[str] | None
    secret: Callable[[str], bool]


def _never(name: str) -> bool:
    return False


def explain(
    router: Router[T],
    method: str,
    host: str,
    path: str,
    headers: HeaderMap,
    *,
    query: str = "",
    limit: int = 50,
    secret: Callable[[str], bool] = _never,
) -> Explanation:
    """Return what `router.find` decides for the request, and why. Walks every match: for people, not for the hot path.

    secret: whether the values of headers and query parameters of a name are kept out of the texts.
    """
    chosen = router.find(method, host, path, headers, query)
    request = _Request(method, host, path, headers, parse_query(query), router.allowed_listeners(host), secret)
    ranked: list[tuple[int, Loser]] = []
    for entry in router.entries:
        if entry is chosen:
            continue
        near, why = _why_not(entry, chosen, request)
        ranked.append((near, Loser(entry.route.id, entry.rule.id, why)))
    ranked.sort(key=lambda item: (item[0], item[1].route, item[1].rule))
    losers = tuple(loser for _, loser in ranked[:limit])
    if chosen is None:
        return Explanation("", "", "No match of any route takes this request.", losers)
    return Explanation(chosen.route.id, chosen.rule.id, _why(chosen, secret), losers)


def find_near(
    router: Router[T],
    chosen: Entry[T] | None,
    method: str,
    host: str,
    path: str,
    headers: HeaderMap,
    *,
    query: str = "",
    limit: int = 3,
    secret: Callable[[str], bool] = _never,
) -> tuple[Loser, ...]:
    """Return why the nearest other matches lost: those that cover host and path. Cheaper than `explain`: about 1 µs a match.

    chosen: what `router.find` returned for the request.
    """
    request = _Request(method, host, path, headers, parse_query(query), router.allowed_listeners(host), secret)
    ranked: list[tuple[int, Loser]] = []
    for entry in router.entries:
        if entry is not chosen and path_covers(entry.match, path):
            near, why = _why_not(entry, chosen, request)
            if near < 4:
                ranked.append((near, Loser(entry.route.id, entry.rule.id, why)))
    ranked.sort(key=lambda item: (item[0], item[1].route, item[1].rule))
    return tuple(loser for _, loser in ranked[:limit])


def _why(entry: Entry[T], secret: Callable[[str], bool]) -> str:
    match = entry.match
    parts = [f"{match.path_kind} path {match.path}"]
    if match.method:
        parts.append(f"method {match.method}")
    parts.extend(f"header {header.name}{_wish(header, secret)}" for header in match.headers)
    parts.extend(f"query parameter {parameter.name}{_wish(parameter, secret)}" for parameter in match.query)
    hostnames = ", ".join(entry.route.hostnames) or "any host"
    return f"Most specific match: {hostnames}; {'; '.join(parts)}."


def _wish(condition: HeaderMatch | QueryMatch, secret: Callable[[str], bool]) -> str:
    if secret(condition.name):
        return " with the value it wants"
    return f" matching {condition.value}" if condition.kind == "regex" else f": {condition.value}"


def _why_not(entry: Entry[T], chosen: Entry[T] | None, request: _Request) -> tuple[int, str]:
    """Return `(distance, reason)`: 0 for matches that hold but rank lower, more the earlier the mismatch."""
    match = entry.match
    names = entry.route.hostnames or (hosts.ANY,)
    if not any(hosts.covers(name, request.host) for name in names):
        return 4, f"Its hostnames ({', '.join(names)}) do not cover {request.host!r}."
    if request.allowed is not None and request.allowed.isdisjoint(entry.listeners):
        return (
            4,
            "It is not attached to the listener that takes this request: that has another port or a more specific hostname.",
        )
    if not path_covers(match, request.path):
        return 3, _why_not_path(match, request.path)
    if match.method and match.method != request.method:
        return 2, f"It takes {match.method} only."
    why = _why_not_value("Header", match.headers, request.headers, request.secret)
    why = why or _why_not_value("Query parameter", match.query, request.parameters, request.secret)
    if why is not None:
        return 1, why
    if chosen is None:  # pragma: no cover - a match that holds is always found
        raise AssertionError("the router found nothing although a match holds")
    return 0, f"It matches too, but {_what_wins(chosen, entry, request.host)}."


def _why_not_path(match: Match, path: str) -> str:
    if match.path_kind != "regex":
        return f"Its {match.path_kind} path {match.path} does not cover {path}."
    if patterns.find_compiled(match.path) is None:
        return f"Its path {match.path} is not a regular expression, so it matches nothing."
    if len(path) > patterns.MAX_TEXT_CHARS:
        return f"The path has {len(path)} characters; no expression is tried on more than {patterns.MAX_TEXT_CHARS}."
    return f"Its expression {match.path} does not match the whole of {path}."


def _why_not_value(
    kind: str,
    conditions: tuple[HeaderMatch, ...] | tuple[QueryMatch, ...],
    values: HeaderMap,
    secret: Callable[[str], bool],
) -> str | None:
    for wanted in conditions:
        found = values.get(wanted.name)
        if found is None or not value_test(wanted.kind, wanted.value)(found):
            if secret(wanted.name):
                return f"{kind} {wanted.name} {'is missing' if found is None else 'has another value than it wants'}."
            seen = "is missing" if found is None else f"is {found!r}"
            wish = f"a match of {wanted.value!r}" if wanted.kind == "regex" else f"{wanted.value!r}"
            return f"{kind} {wanted.name} {seen}; it wants {wish}."
    return None


def _what_wins(winner: Entry[T], loser: Entry[T], host: str) -> str:
    def specificity(entry: Entry[Any]) -> int:
        order = list(hosts.chain(frozenset(entry.route.hostnames or (hosts.ANY,)), host))
        return len(order[0]) + (1000 if order[0] == host else 0)

    one, two = winner.match, loser.match
    if specificity(winner) > specificity(loser):
        return "the winner's hostname is more specific"
    if one.path_kind != two.path_kind:
        return f"the winner's path is {_KINDS[one.path_kind]}, which comes before {_KINDS[two.path_kind]}"
    if len(one.path) != len(two.path):
        return f"the winner's {'expression' if one.path_kind == 'regex' else 'prefix'} is longer"
    if bool(one.method) != bool(two.method):
        return "the winner names the method"
    if len(one.headers) != len(two.headers):
        return "the winner names more headers"
    if len(one.query) != len(two.query):
        return "the winner names more query parameters"
    if winner.route.created_at != loser.route.created_at:
        return "the winner's route is older"
    if winner.route.id != loser.route.id:
        return "the winner's id comes first"
    return "the winner comes first in the route"


_KINDS = {"exact": "exact", "regex": "a regular expression", "prefix": "a prefix"}
