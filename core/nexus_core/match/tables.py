"""What a router looks things up in: one `Entry` for each match of each rule, filed by hostname in a `Table`."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, Generic, Protocol, TypeVar
from urllib.parse import unquote_plus

from nexus_core.match import patterns
from nexus_core.snapshot import Match, Route, Rule

T = TypeVar("T")


class HeaderMap(Protocol):
    """A request's headers: a dict, or what makes one when it is asked. Only touched when a match has header conditions."""

    def get(self, name: str, /) -> str | None:
        """Return the value, repeats joined by `,`; None when it is not there. name: lower-case."""
        ...


MAX_QUERY_PARAMETERS = 256
"""Parameters of a query after these are not looked at."""


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


class Table(Generic[T]):
    """All entries of one hostname pattern. The prefix `/` is filed as the empty one.

    depth: segments of the longest prefix. shorter: by number of segments, the next smaller number that any prefix has; -1
    for none. So a search does not stop at lengths that no prefix has.
    """

    __slots__ = ("_crowded", "_depths", "_own", "depth", "exact", "prefix", "regex", "regex_depth", "shorter")

    def __init__(self) -> None:
        self.exact: dict[str, list[Entry[T]]] = {}
        self.prefix: dict[str, list[Entry[T]]] = {}
        self.regex: dict[str, list[tuple[Callable[[str], Any], Entry[T]]]] = {}
        self.regex_depth = 0
        self.depth = 0
        self.shorter: list[int] = [-1]
        # How many prefixes there are of each depth.
        self._depths: dict[int, int] = {}
        # By id: groups made since the last `seal`, that no other table has, and those of them that need an order.
        self._own: set[int] = set()
        self._crowded: dict[int, list[Any]] = {}

    def copy(self) -> Table[T]:
        """Return a table with the same entries, to be changed and sealed; this one stays as it is."""
        other: Table[T] = Table()
        other.exact = self.exact.copy()
        other.prefix = self.prefix.copy()
        other.regex = self.regex.copy()
        other._depths = self._depths.copy()
        return other

    @property
    def empty(self) -> bool:
        """Whether it has no entry."""
        return not (self.exact or self.prefix or self.regex)

    def add(self, entry: Entry[T]) -> None:
        """File an entry. Expressions that cannot be compiled match nothing and are not filed."""
        kind, place = _place_of(entry.match)
        if kind == "regex":
            compiled = patterns.find_compiled(entry.match.path)
            if compiled is not None:
                self._append(self.regex, place, (compiled.fullmatch, entry))
        elif kind == "exact":
            self._append(self.exact, place, entry)
        else:
            if place not in self.prefix:
                depth = place.count("/")
                self._depths[depth] = self._depths.get(depth, 0) + 1
            self._append(self.prefix, place, entry)

    def _append(self, groups: dict[str, list[Any]], place: str, item: Any) -> None:
        group = groups.get(place)
        if group is None:
            groups[place] = group = []
            self._own.add(id(group))
        elif id(group) not in self._own:
            groups[place] = group = group.copy()
            self._own.add(id(group))
        group.append(item)
        if len(group) > 1:
            self._crowded[id(group)] = group

    def remove(self, gone: Collection[Entry[T]]) -> None:
        """Take entries out, of a copy to which nothing was added yet. gone: a set, of all that are to go."""
        for kind, place in {_place_of(entry.match) for entry in gone}:
            if kind == "regex":
                pairs = [pair for pair in self.regex.get(place, ()) if pair[1] not in gone]
                _put(self.regex, place, pairs)
            elif kind == "exact":
                _put(self.exact, place, [entry for entry in self.exact[place] if entry not in gone])
            else:
                _put(self.prefix, place, [entry for entry in self.prefix[place] if entry not in gone])
                if place not in self.prefix:
                    depth = place.count("/")
                    self._depths[depth] -= 1
                    if not self._depths[depth]:
                        del self._depths[depth]

    def seal(self) -> None:
        """Put entries of one path in order; call once all are there."""
        for group in self._crowded.values():
            group.sort(key=_rank_of_pair if isinstance(group[0], tuple) else _rank)
        self._crowded = {}
        self._own = set()
        self.regex_depth = max((place.count("/") for place in self.regex), default=0)
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
            if fullmatch(path) and first((entry,), asked) is not None:
                return entry
        return None


def first(group: Iterable[Entry[T]], asked: Asked) -> Entry[T] | None:
    """Return the first entry of the group that takes the request. The path is right."""
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


def _place_of(match: Match) -> tuple[str, str]:
    """Return the kind of a match's path, and what it is filed under."""
    path = match.path
    if match.path_kind == "regex":
        literal = patterns.literal_prefix(path) if patterns.find_compiled(path) is not None else ""
        return "regex", literal[: literal.rfind("/")] if literal.startswith("/") else ""
    if match.path_kind == "prefix" and path == "/":
        return "prefix", ""
    return match.path_kind, path


def _put(groups: dict[str, list[Any]], place: str, group: list[Any]) -> None:
    if group:
        groups[place] = group
    else:
        groups.pop(place, None)


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
