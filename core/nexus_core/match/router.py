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

from collections.abc import Callable, Generator, Sequence
from itertools import chain
from typing import Any, Generic, TypeVar

from nexus_core.match import hosts, patterns
from nexus_core.match.building import Built, build
from nexus_core.match.tables import Asked, Entry, HeaderMap, Table, first, parse_query, value_test
from nexus_core.snapshot import Match, Route, Rule, Snapshot

__all__ = ["Entry", "HeaderMap", "Router", "parse_query", "path_covers", "value_test"]

T = TypeVar("T")

MAX_KEPT = 8192
"""Answers, and hosts, that are kept."""

MAX_KEPT_PATH_CHARS = 512
MAX_KEPT_HOST_CHARS = 255

_MISSING: Any = object()


def _always(_: object) -> bool:
    return True


class Router(Generic[T]):
    """Finds the rule of a request in one Snapshot. A new Snapshot gets a new Router; only what it keeps changes."""

    _built: Built[T]

    def __init__(self, snapshot: Snapshot, payload: Callable[[Route, Rule], T]) -> None:
        """payload: called once for each rule; what it returns comes back as `Entry.payload`."""
        for _ in self._build(snapshot, payload, None, _always):
            pass

    @classmethod
    def in_slices(
        cls,
        snapshot: Snapshot,
        payload: Callable[[Route, Rule], T],
        former: Router[T] | None = None,
        keeps: Callable[[Sequence[Entry[T]]], bool] = _always,
    ) -> Generator[None, None, Router[T]]:
        """Build a router with pauses: a generator that yields at every few microseconds and returns the router.

        For an event loop that has requests to serve: 5,000 rules take some 30 ms in one go. former: the router that this one
        follows; the entries of routes that are the same in both are taken from it where `keeps` of them is true, and so are the
        tables of hostnames of which all is.
        """
        router = cls.__new__(cls)
        yield from router._build(snapshot, payload, former, keeps)
        return router

    def _build(
        self,
        snapshot: Snapshot,
        payload: Callable[[Route, Rule], T],
        former: Router[T] | None,
        keeps: Callable[[Sequence[Entry[T]]], bool],
    ) -> Generator[None]:
        self._built = built = yield from build(snapshot.routes, payload, former._built if former else None, keeps)
        self._tables = built.tables
        self._listeners = {listener.id: listener for listener in snapshot.listeners}
        # Only listeners with host names need choosing; without any, every route is open to every host.
        self._choose = any(listener.hostname for listener in snapshot.listeners)
        self._listener_names = frozenset(listener.hostname for listener in snapshot.listeners)
        self._allowed: dict[str, frozenset[str]] = {}
        if self._choose:
            for pattern in self._listener_names | {hosts.ANY}:
                self._allowed[pattern] = self._open_to(pattern)
        self._places: dict[str, tuple[frozenset[str] | None, tuple[Table[T], ...]]] = {}
        self._kept: dict[tuple[str, str, str], Entry[T] | None] = {}

    @property
    def entries(self) -> tuple[Entry[T], ...]:
        """All entries, in the order of routes, rules and matches. Put together at each call."""
        return tuple(chain.from_iterable(self._built.entries.values()))

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
                entry = first(group, asked)
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
                    entry = first(group, asked)
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

    def _place(self, host: str) -> tuple[frozenset[str] | None, tuple[Table[T], ...]]:
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


def freed(router: Router[Any]) -> Generator[None]:
    """Free what a router holds, in small steps, if nobody else holds it. The caller must hold the router no longer than until
    the first step, and as long as somebody does it goes on answering."""
    kept, places = router._kept.copy(), router._places.copy()
    held: list[object] = [*router._built.entries.values(), *router._tables.values()]
    del router
    yield
    for cache in (kept, places):
        while cache:
            cache.popitem()
            yield
    while held:
        held.pop()
        yield


def path_covers(match: Match, path: str) -> bool:
    """Return whether the path part of the match holds."""
    match match.path_kind:
        case "exact":
            return match.path == path
        case "regex":
            return patterns.holds(patterns.find_compiled(match.path), path)
        case "prefix":
            return match.path == "/" or path == match.path or path.startswith(match.path + "/")
