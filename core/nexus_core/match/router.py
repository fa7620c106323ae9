"""The compiled router: from host, path, method, headers and query to the rule that takes the request.

Precedence is the Gateway API's (HTTPRouteRule.matches): the more specific hostname; then exact path, longest prefix, a method,
more headers, more query parameters; then the older route, the smaller id, the earlier rule. A host's less specific
patterns are tried when none of the more specific ones has a matching rule.
The Gateway API leaves the place of regular expressions to implementations: here they come after exact paths and before
prefixes, the longest expression first, as in Envoy Gateway. A prefix is what catches the rest; ranked above expressions,
a route for `/` would switch all of them off.

Lookup is one dict probe for the exact path and one for each prefix of it, longest first: bounded by the number of
segments, whatever the number of routes, and the fall-through to shorter prefixes costs nothing extra. (A tree of segments
was as fast for short prefixes, with three times the memory and building time.)
Expressions are filed under the whole segments that they begin with in any case, so they cost only requests below these.
Answers that depend on method, host and path alone are kept.
"""

from __future__ import annotations

import heapq
import sys
from collections.abc import Callable, Generator, Iterable, Mapping
from typing import Any, Generic, Protocol, TypeVar
from urllib.parse import unquote_plus

from nexus_core.match import hosts, patterns
from nexus_core.snapshot import Match, Route, Rule, Snapshot

T = TypeVar("T")


class HeaderMap(Protocol):
    """A request's headers: a dict, or what makes one when it is asked. Only touched when a match has header conditions."""

    def get(self, name: str, /) -> str | None:
        """Return the value, repeats joined by `,`; None when it is not there. name: lower-case."""
        ...


MAX_KEPT = 8192
"""Answers, and hosts, that are kept."""

MAX_KEPT_PATH_CHARS = 512
MAX_KEPT_HOST_CHARS = 255

MAX_QUERY_PARAMETERS = 256
"""Parameters of a query after these are not looked at."""

_MISSING: Any = object()


class Asked:
    """A request while its entry is searched. varies: whether a condition beyond method, host and path was looked at."""

    __slots__ = ("_parameters", "allowed", "headers", "method", "query", "varies")

    def __init__(self, method: str, headers: HeaderMap, query: str, allowed: frozenset[str] | None) -> None:
        self.method = method
        self.headers = headers
        self.query = query
        self.allowed = allowed
        self.varies = False
        self._parameters: Mapping[str, str] | None = None

    @property
    def parameters(self) -> Mapping[str, str]:
        """The first value of each query parameter, decoded."""
        if self._parameters is None:
            self._parameters = parse_query(self.query)
        return self._parameters


class Entry(Generic[T]):
    """One match of one rule, with what its owner wants back when it is found.

    rank: place among the entries of a host with the same kind of path, smaller first.
    varies: whether it has conditions on headers or query.
    plain: whether it has no condition but host and path.
    """

    __slots__ = (
        "_headers",
        "_query",
        "listeners",
        "match",
        "method",
        "payload",
        "plain",
        "rank",
        "route",
        "rule",
        "varies",
    )

    def __init__(
        self, route: Route, rule: Rule, match: Match, payload: T, listeners: frozenset[str], index: int, number: int
    ) -> None:
        self.route = route
        self.rule = rule
        self.match = match
        self.payload = payload
        self.listeners = listeners
        self.method = match.method
        self.varies = bool(match.headers or match.query)
        self.plain = not (self.method or self.varies)
        self.rank = (
            -len(match.path), not match.method, -len(match.headers), -len(match.query),
            route.created_at, route.id, index, number,
        )  # fmt: skip
        self._headers: tuple[tuple[str, Callable[[str], bool]], ...] = ()
        self._query: tuple[tuple[str, Callable[[str], bool]], ...] = ()
        if self.varies:
            self._headers = tuple((each.name, value_test(each.kind, each.value)) for each in match.headers)
            self._query = tuple((each.name, value_test(each.kind, each.value)) for each in match.query)

    def takes(self, asked: Asked) -> bool:
        """Return whether method, headers and query match. The path is the table's business."""
        if self.method and self.method != asked.method:
            return False
        for name, test in self._headers:
            found = asked.headers.get(name)
            if found is None or not test(found):
                return False
        for name, test in self._query:
            found = asked.parameters.get(name)
            if found is None or not test(found):
                return False
        return True


class _Table(Generic[T]):
    """All entries of one hostname pattern. The prefix `/` is filed as the empty one.

    depth: segments of the longest prefix. shorter: by number of segments, the next smaller number that any prefix has; -1
    for none. So a search does not stop at lengths that no prefix has.
    """

    __slots__ = ("_crowded", "_depths", "depth", "exact", "prefix", "regex", "regex_depth", "shorter")

    def __init__(self) -> None:
        self.exact: dict[str, list[Entry[T]]] = {}
        self.prefix: dict[str, list[Entry[T]]] = {}
        self.regex: dict[str, list[tuple[Callable[[str], Any], Entry[T]]]] = {}
        self.regex_depth = 0
        self.depth = 0
        self.shorter: list[int] = [-1]
        self._depths: set[int] = set()
        self._crowded: list[list[Entry[T]]] = []

    def add(self, entry: Entry[T]) -> None:
        match entry.match.path_kind:
            case "exact":
                group = self.exact.setdefault(entry.match.path, [])
            case "prefix":
                path = entry.match.path if entry.match.path != "/" else ""
                group = self.prefix.setdefault(path, [])
                self._depths.add(path.count("/"))
            case "regex":
                self._add_regex(entry)
                return
        group.append(entry)
        if len(group) == 2:
            self._crowded.append(group)

    def _add_regex(self, entry: Entry[T]) -> None:
        compiled = patterns.find_compiled(entry.match.path)
        if compiled is None:
            return
        literal = patterns.literal_prefix(entry.match.path)
        place = literal[: literal.rfind("/")] if literal.startswith("/") else ""
        self.regex_depth = max(self.regex_depth, place.count("/"))
        self.regex.setdefault(place, []).append((compiled.fullmatch, entry))

    def seal(self) -> None:
        """Put entries of one path in order; call once all are there."""
        for group in self._crowded:
            group.sort(key=_rank)
        self._crowded.clear()
        for found in self.regex.values():
            found.sort(key=_rank_of_pair)
        self.depth = max(self._depths, default=0)
        self.shorter = [max((each for each in self._depths if each < at), default=-1) for at in range(self.depth + 1)]

    def find_regex(self, path: str, asked: Asked) -> Entry[T] | None:
        """Return the first expression's entry that takes the request."""
        if len(path) > patterns.MAX_TEXT_CHARS:
            return None
        found = []
        current = _cut(path, self.regex_depth)
        while True:
            group = self.regex.get(current)
            if group is not None:
                found.append(group)
            if not current:
                break
            current = current[: current.rfind("/")]
        if not found:
            return None
        for fullmatch, entry in found[0] if len(found) == 1 else heapq.merge(*found, key=_rank_of_pair):
            if fullmatch(path) and _first((entry,), asked) is not None:
                return entry
        return None


def _first(group: Iterable[Entry[T]], asked: Asked) -> Entry[T] | None:
    allowed = asked.allowed
    for entry in group:
        if allowed is not None and allowed.isdisjoint(entry.listeners):
            continue
        if entry.varies:
            asked.varies = True
            if entry.takes(asked):
                return entry
        elif not entry.method or entry.method == asked.method:
            return entry
    return None


class Router(Generic[T]):
    """Finds the rule of a request in one Snapshot. A new Snapshot gets a new Router; only what it keeps changes."""

    def __init__(self, snapshot: Snapshot, payload: Callable[[Route, Rule], T]) -> None:
        """payload: called once for each rule; what it returns comes back as `Entry.payload`."""
        for _ in self._build(snapshot, payload, sys.maxsize):
            pass

    @classmethod
    def in_slices(
        cls, snapshot: Snapshot, payload: Callable[[Route, Rule], T], at_once: int = 32
    ) -> Generator[None, None, Router[T]]:
        """Build a router with pauses: a generator that yields after every `at_once` routes and returns the router.

        For an event loop that has requests to serve: 5,000 routes take some 30 ms in one go.
        """
        router = cls.__new__(cls)
        yield from router._build(snapshot, payload, at_once)
        return router

    def _build(self, snapshot: Snapshot, payload: Callable[[Route, Rule], T], at_once: int) -> Generator[None]:
        tables: dict[str, _Table[T]] = {}
        entries: list[Entry[T]] = []
        for done, route in enumerate(snapshot.routes, 1):
            listeners = frozenset(route.listeners)
            own = []
            for hostname in route.hostnames or (hosts.ANY,):
                table = tables.get(hostname)
                if table is None:
                    table = tables[hostname] = _Table()
                own.append(table)
            for index, rule in enumerate(route.rules):
                value = payload(route, rule)
                for number, match in enumerate(rule.matches):
                    entry = Entry(route, rule, match, value, listeners, index, number)
                    entries.append(entry)
                    for table in own:
                        table.add(entry)
            if done % at_once == 0:
                yield
        for done, table in enumerate(tables.values(), 1):
            table.seal()
            if done % at_once == 0:
                yield
        self.entries = tuple(entries)
        self._tables = tables
        self._listeners = {listener.id: listener for listener in snapshot.listeners}
        # Only listeners with host names need choosing; without any, every route is open to every host.
        self._choose = any(listener.hostname for listener in snapshot.listeners)
        self._listener_names = frozenset(listener.hostname for listener in snapshot.listeners)
        self._allowed: dict[str, frozenset[str]] = {}
        if self._choose:
            for pattern in self._listener_names | {hosts.ANY}:
                self._allowed[pattern] = self._open_to(pattern)
        self._places: dict[str, tuple[frozenset[str] | None, tuple[_Table[T], ...]]] = {}
        self._kept: dict[tuple[str, str, str], Entry[T] | None] = {}

    def find(self, method: str, host: str, path: str, headers: HeaderMap, query: str = "") -> Entry[T] | None:
        """Return the entry that takes the request, or None.

        method: upper-case. host: as `hosts.parse` returns it. path: as `paths.normalise` returns it. query: raw, without `?`;
        parsed only when a match asks for it, as headers are.
        """
        key = (method, host, path)
        found: Entry[T] | None = self._kept.get(key, _MISSING)
        if found is not _MISSING:
            return found
        found, varies = self._search(method, host, path, headers, query)
        if (
            not varies
            and len(self._kept) < MAX_KEPT
            and len(path) <= MAX_KEPT_PATH_CHARS
            and len(host) <= MAX_KEPT_HOST_CHARS
        ):
            self._kept[key] = found
        return found

    def _search(
        self, method: str, host: str, path: str, headers: HeaderMap, query: str
    ) -> tuple[Entry[T] | None, bool]:
        """Return the entry, and whether a condition beyond method, host and path was looked at on the way."""
        allowed, tables = self._places.get(host) or self._place(host)
        # Made for the first entry that has conditions: most lookups meet none, and it costs a fifth of them.
        asked: Asked | None = None
        for table in tables:
            group = table.exact.get(path)
            if group is not None:
                if allowed is None and group[0].plain:
                    return group[0], asked is not None and asked.varies
                asked = asked or Asked(method, headers, query, allowed)
                entry = _first(group, asked)
                if entry is not None:
                    return entry, asked.varies
            if table.regex:
                asked = asked or Asked(method, headers, query, allowed)
                entry = table.find_regex(path, asked)
                if entry is not None:
                    return entry, asked.varies
            prefix = table.prefix
            depth = table.depth
            current = path
            if depth:
                at = 0
                for _ in range(depth):
                    at = path.find("/", at + 1)
                    if at < 0:
                        current = path.removesuffix("/")
                        depth = current.count("/")
                        break
                else:
                    current = path[:at]
            else:
                current = ""
            while True:
                group = prefix.get(current)
                if group is not None:
                    if allowed is None and group[0].plain:
                        return group[0], asked is not None and asked.varies
                    asked = asked or Asked(method, headers, query, allowed)
                    entry = _first(group, asked)
                    if entry is not None:
                        return entry, asked.varies
                shorter = table.shorter[depth]
                if shorter <= 0:
                    if shorter < 0:
                        break
                    current = ""
                    depth = 0
                while depth > shorter:
                    current = current[: current.rfind("/")]
                    depth -= 1
        return None, asked is not None and asked.varies

    def age(self) -> None:
        """Let go of kept answers when there is no room for more. Call now and then, between requests: what is kept only
        grows, because making room one by one on the way of a request costs more than looking up."""
        if len(self._kept) >= MAX_KEPT:
            self._kept = {}
        if len(self._places) >= MAX_KEPT:
            self._places = {}

    def _place(self, host: str) -> tuple[frozenset[str] | None, tuple[_Table[T], ...]]:
        """Return the listeners and tables of a host, the most specific first."""
        tables = self._tables
        place = (self.allowed_listeners(host), tuple(tables[pattern] for pattern in hosts.chain(tables, host)))
        # Hosts that routes name always find room; others, which anyone can make up, while there is some.
        if host in tables or (len(self._places) < MAX_KEPT and len(host) <= MAX_KEPT_HOST_CHARS):
            self._places[host] = place
        return place

    def allowed_listeners(self, host: str) -> frozenset[str] | None:
        """Return the ids of the listeners that take the host, None for all: of each Gateway its most specific ones."""
        if not self._choose:
            return None
        for pattern in hosts.chain(self._listener_names, host):
            return self._allowed[pattern]
        return frozenset()

    def _open_to(self, pattern: str) -> frozenset[str]:
        """Return the listeners for hosts whose most specific listener hostname is `pattern`."""
        sample = pattern.replace("*", "\x00", 1) if pattern.startswith("*.") else pattern
        order = list(hosts.chain(self._listener_names, sample)) if sample else [hosts.ANY]
        chosen: dict[str, str] = {}
        for listener in self._listeners.values():
            gateway = listener.id.rpartition("/")[0]
            best = chosen.get(gateway)
            if listener.hostname in order and (best is None or order.index(listener.hostname) < order.index(best)):
                chosen[gateway] = listener.hostname
        return frozenset(
            listener.id
            for listener in self._listeners.values()
            if chosen.get(listener.id.rpartition("/")[0]) == listener.hostname
        )


def _rank(entry: Entry[Any]) -> Any:
    return entry.rank


def _rank_of_pair(pair: tuple[Any, Entry[Any]]) -> Any:
    return pair[1].rank


def _cut(path: str, depth: int) -> str:
    """Return the first `depth` segments of the path, all when it has fewer, without a slash at the end; empty for `/`."""
    if not depth:
        return ""
    at = 0
    for _ in range(depth):
        at = path.find("/", at + 1)
        if at < 0:
            return path.removesuffix("/")
    return path[:at]


def parse_query(query: str) -> dict[str, str]:
    """Return the first value of each parameter of a raw query, decoded as forms are (`+` is a space)."""
    found: dict[str, str] = {}
    if query:
        for pair in query.split("&", MAX_QUERY_PARAMETERS)[:MAX_QUERY_PARAMETERS]:
            name, _, value = pair.partition("=")
            if "%" in pair or "+" in pair:
                name, value = unquote_plus(name), unquote_plus(value)
            if pair:
                found.setdefault(name, value)
    return found


def value_test(kind: str, value: str) -> Callable[[str], bool]:
    """Return what tells whether the value of a header or parameter is the one that was asked for."""
    if kind == "regex":
        compiled = patterns.find_compiled(value)
        return lambda found: patterns.holds(compiled, found)
    return value.__eq__


def path_covers(match: Match, path: str) -> bool:
    """Return whether the path part of the match holds."""
    match match.path_kind:
        case "exact":
            return match.path == path
        case "regex":
            return patterns.holds(patterns.find_compiled(match.path), path)
        case "prefix":
            return match.path == "/" or path == match.path or path.startswith(match.path + "/")
