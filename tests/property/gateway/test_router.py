"""The compiled router gives the same answer as a reference that sorts and tries everything."""

from __future__ import annotations

import re
from collections.abc import Generator
from urllib.parse import parse_qsl

from hypothesis import given, settings
from hypothesis import strategies as st
from nexus_core.match import hosts, paths, patterns
from nexus_core.match.explain import explain
from nexus_core.match.router import Router, parse_query
from nexus_core.snapshot import HeaderMatch, Listener, Match, QueryMatch, Route, Rule, Snapshot

SEGMENT = st.sampled_from(["a", "b", "ab"])
PATH = st.lists(SEGMENT, max_size=4).map(lambda parts: "/" + "/".join(parts))
PATTERN = st.sampled_from(
    [
        "/.*",
        "/a/.*",
        "/a|/b",
        "/(a|b)/.*",
        "/a/(b|ab)",
        "(?i)/A/B",
        "/a/?b?",
        "/a/b/[ab]+",
        "^/a/b$",
        ".*/b",
        "/ab/x{0}.*",
        "[",
        "/a\\/b",
    ]
)
HOST = st.sampled_from(["shop.example", "a.shop.example", "example", "other"])
HOSTNAME = st.sampled_from(["shop.example", "*.example", "*.shop.example", "other"])
VALUES = st.dictionaries(st.sampled_from(["x-a", "x-b"]), st.sampled_from(["1", "2", "12", ""]))
CONDITIONS = st.dictionaries(
    st.sampled_from(["x-a", "x-b"]),
    st.one_of(
        st.tuples(st.sampled_from(["1", "2"]), st.just("exact")),
        st.tuples(st.sampled_from(["1", "[12]+", "("]), st.just("regex")),
    ),
    max_size=2,
)
METHOD = st.sampled_from(["GET", "POST"])
MATCH = st.builds(
    lambda where, method, headers, query: Match(
        *where,
        method,
        tuple(HeaderMatch(name, value, kind) for name, (value, kind) in sorted(headers.items())),
        tuple(QueryMatch(name, value, kind) for name, (value, kind) in sorted(query.items())),
    ),
    st.one_of(st.tuples(PATH, st.sampled_from(["exact", "prefix"])), st.tuples(PATTERN, st.just("regex"))),
    st.sampled_from(["", "", "GET", "POST"]),
    st.one_of(st.just({}), CONDITIONS),
    st.one_of(st.just({}), CONDITIONS),
)
LISTENERS = {"d/g/any": "", "d/g/star": "*.example", "d/g/shop": "shop.example", "e/g/any": ""}


@st.composite
def snapshots(draw: st.DrawFn) -> Snapshot:
    routes = []
    listeners = draw(st.sampled_from([["d/g/any"], ["d/g/any", "d/g/star"], sorted(LISTENERS)]))
    for number in range(draw(st.integers(0, 6))):
        route_id = f"HTTPRoute/d/{number}"
        rules = tuple(
            Rule(f"{route_id}/{index}", tuple(matches))
            for index, matches in enumerate(
                draw(st.lists(st.lists(MATCH, min_size=1, max_size=3), min_size=1, max_size=2))
            )
        )
        names = tuple(sorted(set(draw(st.lists(HOSTNAME, max_size=2)))))
        on = tuple(sorted(draw(st.sets(st.sampled_from(listeners), min_size=1))))
        routes.append(
            Route(route_id, route_id, on, names, rules, draw(st.sampled_from(["", "2026-01-01", "2026-02-01"])))
        )
    return Snapshot(
        listeners=tuple(Listener(each, "Gateway", 80, LISTENERS[each]) for each in listeners), routes=tuple(routes)
    )


def whole(pattern: str, text: str) -> bool:
    try:
        return re.fullmatch(pattern, text) is not None
    except re.error:
        return False


def covers(match: Match, path: str) -> bool:
    if match.path_kind == "exact":
        return path == match.path
    if match.path_kind == "regex":
        return whole(match.path, path)
    wanted = [part for part in match.path.split("/") if part]
    return [part for part in path.split("/") if part][: len(wanted)] == wanted


def meets(conditions: tuple[HeaderMatch, ...] | tuple[QueryMatch, ...], values: dict[str, str]) -> bool:
    for each in conditions:
        found = values.get(each.name)
        if found is None or not (whole(each.value, found) if each.kind == "regex" else found == each.value):
            return False
    return True


def specificity(name: str) -> tuple[int, int]:
    return (2 if name and not name.startswith("*") else 1 if name else 0, len(name))


def naive(
    snapshot: Snapshot, method: str, host: str, path: str, headers: dict[str, str], query: dict[str, str]
) -> str | None:
    """Every match of every rule, most specific first; the first that holds."""
    open_to = set()
    for gateway in ("d/g", "e/g"):
        own = [each for each in snapshot.listeners if each.id.startswith(gateway) and hosts.covers(each.hostname, host)]
        best = max((specificity(each.hostname) for each in own), default=None)
        open_to |= {each.id for each in own if specificity(each.hostname) == best}
    ranked = []
    for route in snapshot.routes:
        if not open_to & set(route.listeners):
            continue
        covering = [name for name in route.hostnames or ("",) if hosts.covers(name, host)]
        for index, rule in enumerate(route.rules):
            for number, match in enumerate(rule.matches):
                holds = (
                    covers(match, path)
                    and match.method in ("", method)
                    and meets(match.headers, headers)
                    and meets(match.query, query)
                )
                if not holds:
                    continue
                kind = ["exact", "regex", "prefix"].index(match.path_kind)
                for name in covering:
                    exact_host, length = specificity(name)
                    rank = (
                        -exact_host, -length, kind, -len(match.path), not match.method, -len(match.headers),
                        -len(match.query), route.created_at, route.id, index, number,
                    )  # fmt: skip
                    ranked.append((rank, rule.id))
    return min(ranked)[1] if ranked else None


@settings(max_examples=300)
@given(snapshots(), st.lists(st.tuples(METHOD, HOST, PATH, VALUES, VALUES), min_size=1, max_size=4))
def test_the_router_agrees_with_the_naive_reference(
    snapshot: Snapshot, requests: list[tuple[str, str, str, dict[str, str], dict[str, str]]]
) -> None:
    """Asked twice and in between other requests for the same paths: what is kept must not leak into them."""
    router = Router(snapshot, lambda route, rule: rule.id)
    for _ in range(2):
        for method, host, path, headers, values in requests:
            query = "&".join(f"{name}={value}" for name, value in values.items())
            for asked in (path, path.rstrip("/") + "/"):
                for sent in ({}, headers):
                    entry = router.find(method, host, asked, sent, query)
                    wanted = naive(snapshot, method, host, asked, sent, values)
                    assert (entry.payload if entry is not None else None) == wanted
                explained = explain(router, method, host, asked, headers, query=query)
                assert explained.rule == (wanted or "")


def built(slices: Generator[None, None, Router[str]]) -> tuple[Router[str], int]:
    """Run a build to its end; return the router and the number of pauses."""
    pauses = 0
    while True:
        try:
            next(slices)
        except StopIteration as done:
            return done.value, pauses
        pauses += 1


def answers(router: Router[str]) -> list[str | None]:
    """What a router answers to a few requests of every kind."""
    found = [
        router.find(method, host, path, headers, query)
        for method in ("GET", "POST")
        for host in ("shop.example", "a.shop.example", "other.example", "")
        for path in ("/", "/a", "/a/b", "/a/b/ab", "/ab")
        for headers, query in (({}, ""), ({"x-a": "1"}, "x-b=2"))
    ]
    return [entry.payload if entry is not None else None for entry in found]


@given(snapshots())
def test_a_router_built_in_slices_is_the_same(snapshot: Snapshot) -> None:
    router, pauses = built(Router.in_slices(snapshot, lambda route, rule: rule.id))
    other = Router(snapshot, lambda route, rule: rule.id)
    assert pauses >= sum(len(route.rules) for route in snapshot.routes)
    assert answers(router) == answers(other)
    assert [entry.rank for entry in router.entries] == [entry.rank for entry in other.entries]


@settings(max_examples=80)
@given(snapshots(), st.lists(snapshots(), min_size=1, max_size=3), st.data())
def test_a_router_that_follows_another_is_the_same(
    first: Snapshot, others: list[Snapshot], data: st.DataObject
) -> None:
    """Routes come, go, change and stay; whatever was there before, the answers are those of a router built from nothing."""
    router = Router(first, lambda route, rule: rule.id)
    before = first
    for other in others:
        staying = (
            data.draw(st.lists(st.sampled_from(before.routes), unique_by=lambda route: route.id))
            if before.routes
            else []
        )
        ids = {route.id for route in staying}
        routes = (*staying, *(route for route in other.routes if route.id not in ids))
        snapshot = Snapshot(
            listeners=before.listeners,
            routes=tuple(sorted(routes, key=lambda route: route.id)),
            upstreams=before.upstreams,
        )
        asked_before = answers(router)
        following, _ = built(
            Router.in_slices(snapshot, lambda route, rule: rule.id, router, lambda entries: len(entries) != 2)
        )
        anew = Router(snapshot, lambda route, rule: rule.id)
        assert answers(following) == answers(anew)
        assert [entry.rank for entry in following.entries] == [entry.rank for entry in anew.entries]
        kept = set(router.entries)
        for entry in following.entries:
            same = (
                entry.route in before.routes
                and len([each for each in following.entries if each.route is entry.route]) != 2
            )
            assert (entry in kept) == same
        router._kept.clear()
        assert answers(router) == asked_before
        router, before = following, snapshot


@given(
    st.lists(
        st.sampled_from(["/", "a", "b", "|", "(a|b)", "[ab]", "\\.", ".", "a?", "b*", "x+", "(?:ab)?", "^"]), max_size=6
    )
)
def test_what_an_expression_matches_begins_with_its_literal_prefix(parts: list[str]) -> None:
    pattern = "".join(parts)
    compiled = patterns.find_compiled(pattern)
    if compiled is None:
        return
    literal = patterns.literal_prefix(pattern)
    for text in ("", "/", "a", "b", "/a", "/b", "ab", "/ab", "a/b", "/a/b", ".", "x", "xx", "/xa", "aa", "ba", "/."):
        assert not compiled.fullmatch(text) or text.startswith(literal)


@given(st.text(alphabet="ab=&+%20é1", max_size=30))
def test_queries_are_read_as_the_standard_library_reads_them(query: str) -> None:
    first: dict[str, str] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        first.setdefault(name, value)
    assert parse_query(query) == first


@given(st.text(alphabet="/.;%2efFab\\", max_size=20))
def test_a_normalised_path_is_its_own_normal_form_and_has_no_dot_segments(text: str) -> None:
    try:
        plain = paths.normalise("/" + text)
    except paths.PathRefused:
        return
    assert paths.normalise(plain) == plain
    assert "//" not in plain
    assert not {".", ".."} & {part.partition(";")[0] for part in plain.split("/")}


@given(st.text(max_size=30))
def test_any_text_is_a_host_or_refused(text: str) -> None:
    try:
        host, port = hosts.parse(text)
    except hosts.HostRefused:
        return
    assert host == host.lower()
    assert port == "" or port.isdigit()
