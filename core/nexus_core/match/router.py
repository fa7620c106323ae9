"""The compiled router: from host, path, method and headers to the rule that takes the request.

Precedence is the Gateway API's: the more specific hostname; then exact path, longest prefix, a method, more headers;
then the older route, the smaller id, the earlier rule. A host's less specific patterns are tried when none of the more
specific ones has a matching rule.

Lookup is one dict probe for the exact path and one for each prefix of it, longest first: bounded by the number of
segments, whatever the number of routes, and the fall-through to shorter prefixes costs nothing extra.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from nexus_core.snapshot import Match, Route, Rule, Snapshot

from nexus_core.match import hosts

T = TypeVar("T")

HeaderMap = Mapping[str, str]
"""Names lower-case; the values of repeated headers joined by `,`."""


@dataclass(frozen=True, slots=True)
class Entry(Generic[T]):
    """One match of one rule, with what its owner wants back when it is found.

    rank: place among entries of the same host and path, smaller first.
    """

    route: Route
    rule: Rule
    match: Match
    payload: T
    listeners: frozenset[str]
    rank: tuple[bool, int, str, str, int, int]

    def takes(self, method: str, headers: HeaderMap) -> bool:
        """Return whether method and headers match. The path is the table's business."""
        match = self.match
        if match.method and match.method != method:
            return False
        return all(headers.get(wanted.name) == wanted.value for wanted in match.headers)


class _Table(Generic[T]):
    """All entries of one hostname pattern."""

    __slots__ = ("depth", "exact", "prefix")

    def __init__(self, entries: Iterable[Entry[T]]) -> None:
        exact: dict[str, list[Entry[T]]] = {}
        prefix: dict[str, list[Entry[T]]] = {}
        for entry in sorted(entries, key=lambda each: each.rank):
            (exact if entry.match.path_kind == "exact" else prefix).setdefault(entry.match.path, []).append(entry)
        self.exact = {path: tuple(found) for path, found in exact.items()}
        self.prefix = {path: tuple(found) for path, found in prefix.items()}
        self.depth = max((path.count("/") for path in self.prefix if path != "/"), default=0)

    def find(self, method: str, path: str, headers: HeaderMap, allowed: frozenset[str] | None) -> Entry[T] | None:
        for entry in self.exact.get(path, ()):
            if (allowed is None or not allowed.isdisjoint(entry.listeners)) and entry.takes(method, headers):
                return entry
        for candidate in prefixes(path, self.depth):
            for entry in self.prefix.get(candidate, ()):
                if (allowed is None or not allowed.isdisjoint(entry.listeners)) and entry.takes(method, headers):
                    return entry
        return None


class Router(Generic[T]):
    """Finds the rule of a request in one Snapshot. Immutable; a new Snapshot gets a new Router."""

    def __init__(self, snapshot: Snapshot, payload: Callable[[Route, Rule], T]) -> None:
        """payload: called once for each rule; what it returns comes back as `Entry.payload`."""
        by_host: dict[str, list[Entry[T]]] = {}
        entries: list[Entry[T]] = []
        for route in snapshot.routes:
            listeners = frozenset(route.listeners)
            for index, rule in enumerate(route.rules):
                value = payload(route, rule)
                for number, match in enumerate(rule.matches):
                    rank = (not match.method, -len(match.headers), route.created_at, route.id, index, number)
                    entry = Entry(route, rule, match, value, listeners, rank)
                    entries.append(entry)
                    for hostname in route.hostnames or (hosts.ANY,):
                        by_host.setdefault(hostname, []).append(entry)
        self.entries = tuple(entries)
        self._tables = {hostname: _Table(found) for hostname, found in by_host.items()}
        self._listeners = {listener.id: listener for listener in snapshot.listeners}
        # Only listeners with host names need choosing; without any, every route is open to every host.
        self._choose = any(listener.hostname for listener in snapshot.listeners)
        self._hostnames = frozenset(self._tables)
        self._listener_names = frozenset(listener.hostname for listener in snapshot.listeners)
        self._allowed: dict[str, frozenset[str]] = {}
        if self._choose:
            for pattern in self._listener_names | {hosts.ANY}:
                self._allowed[pattern] = self._open_to(pattern)

    def find(self, method: str, host: str, path: str, headers: HeaderMap) -> Entry[T] | None:
        """Return the entry that takes the request, or None.

        method: upper-case. host: as `hosts.parse` returns it. path: as `paths.normalise` returns it.
        """
        allowed = self.allowed_listeners(host)
        for pattern in hosts.chain(self._hostnames, host):
            entry = self._tables[pattern].find(method, path, headers, allowed)
            if entry is not None:
                return entry
        return None

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


def prefixes(path: str, depth: int) -> Iterable[str]:
    """Yield the prefixes of the path by whole segments, longest first and ending with `/`; at most `depth` segments."""
    if depth:
        at = -1
        for _ in range(depth + 1):
            at = path.find("/", at + 1)
            if at < 0:
                break
        current = path if at < 0 else path[:at]
        if len(current) > 1 and current.endswith("/"):
            current = current[:-1]
        while len(current) > 1:
            yield current
            current = current[: current.rfind("/")]
    yield "/"


def path_covers(match: Match, path: str) -> bool:
    """Return whether the path part of the match holds."""
    if match.path_kind == "exact":
        return match.path == path
    return match.path == "/" or path == match.path or path.startswith(match.path + "/")
