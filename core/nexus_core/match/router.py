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
from nexus_core.snapshot import Listener, Match, Route, Rule, Snapshot

__all__ = ["Entry", "HeaderMap", "Router", "parse_query", "path_covers", "value_test"]

T = TypeVar("T")

MAX_KEPT = 8192
"""Answers, and hosts, that are kept."""

_AT_ONCE = 64
"""Routes looked at between two pauses."""
MAX_KEPT_PATH_CHARS = 512
MAX_KEPT_HOST_CHARS = 255

_MISSING: Any = object()


def _always(_: object) -> bool:
    return True


class Router(Generic[T]):
    """Finds the rule of a request in one Snapshot, as if all its listeners were on one port; `through` makes those of single ports.

    A new Snapshot gets a new Router; only what it keeps changes."""

    _built: Built[T]
    _tables: dict[str, Table[T]]
    _attached: frozenset[tuple[str, ...]]

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
        attached: set[tuple[str, ...]] = set()
        for done, route in enumerate(snapshot.routes):
            attached.add(route.listeners)
            if done % _AT_ONCE == 0:
                yield
        self._attached = frozenset(attached)
        self._see(snapshot.listeners, None)

    def _see(self, listeners: Sequence[Listener], hostname: str | None) -> None:
        """Set out to find the routes of these listeners alone. hostname: see `through`."""
        self._names = frozenset(listener.hostname for listener in listeners)
        # Only listeners with host names need choosing; without any, every route of the port is open to every host.
        self._choose = any(self._names)
        # Where no listener has a name there is nothing to be misdirected to.
        self._hostname = hostname if self._choose else None
        self._ids: frozenset[str] | None = None
        self._by_gateway: dict[str, dict[str, list[str]]] = {}
        for listener in listeners if self._choose else ():
            # To a client of HTTPS a port is one server, whoever's its listeners are: SNI chose among all of them.
            gateway = listener.gateway if hostname is None else ""
            self._by_gateway.setdefault(gateway, {}).setdefault(listener.hostname, []).append(listener.id)
        self._begin()

    def _begin(self) -> None:
        self._allowed: dict[str, frozenset[str]] = {}
        self._places: dict[str, tuple[frozenset[str] | None, tuple[Table[T], ...]]] = {}
        self._kept: dict[tuple[str, str, str], Entry[T] | None] = {}

    def through(
        self, listeners: Sequence[Listener], hostname: str | None = None, beside: Router[T] | None = None
    ) -> Router[T]:
        """Return a router with the same entries that finds only what those listeners take: the ones of one port.

        hostname: of the listener that TLS chose for a connection; hosts that another listener of the port takes find nothing
        there (`is_misdirected`). None where there was no such choice. beside: one for another hostname of the same listeners, with
        which it shares what they have in common. Costs some objects, not another table.
        """
        view = Router.__new__(Router)
        view._built, view._tables, view._attached = self._built, self._tables, self._attached
        if beside is not None and beside._hostname is not None and hostname is not None:
            view._names, view._choose, view._by_gateway = beside._names, beside._choose, beside._by_gateway
            view._ids, view._hostname = beside._ids, hostname
            view._begin()
            return view
        view._see(listeners, hostname)
        ids = frozenset(listener.id for listener in listeners)
        if any(map(ids.isdisjoint, self._attached)):
            view._ids = ids  # else every route is on this port, and none needs a look
        return view

    def is_misdirected(self, host: str) -> bool:
        """Return whether another listener of the port takes the host than the one that the connection was made to."""
        return self._hostname is not None and next(hosts.chain(self._names, host), self._hostname) != self._hostname

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
            return self._ids
        pattern = next(hosts.chain(self._names, host), None)
        if pattern is None or (self._hostname is not None and pattern != self._hostname):
            return frozenset()
        found = self._allowed.get(pattern)
        if found is None:
            found = self._allowed[pattern] = self._open_to(pattern)
        return found

    def _open_to(self, pattern: str) -> frozenset[str]:
        """Return the listeners for hosts whose most specific listener hostname is `pattern`."""
        sample = pattern.replace("*", "\x00", 1) if pattern.startswith("*.") else pattern
        order = tuple(hosts.chain(self._names, sample)) if sample else (hosts.ANY,)
        found: set[str] = set()
        for named in self._by_gateway.values():
            best = next((hostname for hostname in order if hostname in named), None)
            if best is not None:
                found.update(named[best])
        return frozenset(found)


def freed(routers: list[Router[Any]]) -> Generator[None]:
    """Free what routers hold, in small steps, if nobody else holds it. routers: emptied; the caller must hold none of them longer
    than until the first step, and as long as somebody does it goes on answering."""
    kept: list[dict[Any, Any]] = []
    held: list[object] = []
    for each in routers:
        kept += (each._kept.copy(), each._places.copy())
    for each in routers[:1]:
        # Those of one Snapshot share them.
        held += (*each._built.entries.values(), *each._tables.values())
    if routers:
        del each
    routers.clear()
    yield
    for cache in kept:
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
