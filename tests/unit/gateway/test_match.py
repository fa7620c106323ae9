"""Paths, hosts and the router's precedence, as tables."""

from __future__ import annotations

import pytest
from nexus_core.snapshot import HeaderMatch, Listener, Match, Route, Rule, Snapshot
from nexus_core.match import hosts, paths
from nexus_core.match.explain import explain
from nexus_core.match.router import Router


@pytest.mark.parametrize(
    ("path", "plain"),
    [
        ("/", "/"),
        ("/a/b", "/a/b"),
        ("/a/b/", "/a/b/"),
        ("//", "/"),
        ("/a//b", "/a/b"),
        ("/a/./b", "/a/b"),
        ("/a/../b", "/b"),
        ("/a/..", "/"),
        ("/a/b/.", "/a/b/"),
        ("/a%20b", "/a%20b"),
        ("/%41", "/%41"),
        ("/.hidden", "/.hidden"),
        ("/...", "/..."),
        ("/a;v=1", "/a;v=1"),
        ("/~u/@x:y", "/~u/@x:y"),
    ],
)
def test_paths_become_plain(path: str, plain: str) -> None:
    assert paths.normalise(path) == plain


@pytest.mark.parametrize(
    "path",
    [
        "",
        "a",
        "*",
        "/..",
        "/a/../..",
        "/%2e",
        "/%2E%2e",
        "/%2f",
        "/a%5Cb",
        "/%00",
        "/%",
        "/%g0",
        "/a b",
        "/a\\b",
        "/\u00e9",
        "/..;",
        "/.;a/b",
    ],
)
def test_ambiguous_paths_are_refused(path: str) -> None:
    with pytest.raises(paths.PathRefused):
        paths.normalise(path)


@pytest.mark.parametrize(
    ("header", "parsed"),
    [
        ("Shop.Example", ("shop.example", "")),
        ("a:80", ("a", "80")),
        ("a.b.", ("a.b", "")),
        ("[::1]:8080", ("[::1]", "8080")),
        ("[::1]", ("[::1]", "")),
    ],
)
def test_hosts_are_parsed(header: str, parsed: tuple[str, str]) -> None:
    assert hosts.parse(header) == parsed


@pytest.mark.parametrize(
    "header", ["", "a b", "a/b", "a@b", "-a", "a:x", "a:123456", "[::1", "[x]:1", "a..b", "a" * 254, "::1"]
)
def test_bad_hosts_are_refused(header: str) -> None:
    with pytest.raises(hosts.HostRefused):
        hosts.parse(header)


def route(
    name: str,
    *matches: Match,
    hostnames: tuple[str, ...] = (),
    created_at: str = "",
    listeners: tuple[str, ...] = ("d/g/h",),
) -> Route:
    route_id = f"HTTPRoute/d/{name}"
    return Route(route_id, route_id, listeners, hostnames, (Rule(f"{route_id}/0", matches),), created_at)


def router(*routes: Route, listeners: tuple[Listener, ...] = (Listener("d/g/h", "Gateway d/g", 80),)) -> Router[str]:
    return Router(Snapshot(listeners, tuple(routes)), lambda route, rule: rule.id)


def found(made: Router[str], path: str = "/", host: str = "shop", method: str = "GET", **headers: str) -> str:
    entry = made.find(method, host, path, {name.replace("_", "-"): value for name, value in headers.items()})
    explained = explain(made, method, host, path, {name.replace("_", "-"): value for name, value in headers.items()})
    assert explained.route == (entry.route.id if entry is not None else "")
    return entry.route.id.rpartition("/")[2] if entry is not None else ""


@pytest.mark.parametrize(
    ("path", "winner"),
    [
        ("/a", "prefix"),
        ("/a/", "prefix"),
        ("/a/x", "prefix"),
        ("/ab", "root"),
        ("/a/b", "exact"),
        ("/a/b/", "long"),
        ("/a/b/c/d", "long"),
        ("/", "root"),
    ],
)
def test_exact_paths_beat_longer_prefixes_beat_shorter_ones(path: str, winner: str) -> None:
    made = router(
        route("root", Match("/")),
        route("prefix", Match("/a")),
        route("long", Match("/a/b")),
        route("exact", Match("/a/b", "exact")),
    )
    assert found(made, path) == winner


def test_then_a_method_then_more_headers_then_age_then_the_id_decide() -> None:
    one, two = HeaderMatch("x-a", "1"), HeaderMatch("x-b", "2")
    made = router(
        route("a-plain", Match("/")),
        route("b-method", Match("/", method="GET")),
        route("c-one", Match("/", headers=(one,))),
        route("d-two", Match("/", headers=(one, two))),
        route("e-old", Match("/o"), created_at="2026-01-01T00:00:00Z"),
        route("f-new", Match("/o"), created_at="2026-02-01T00:00:00Z"),
        route("h", Match("/i")),
        route("g", Match("/i")),
    )
    assert found(made, method="POST") == "a-plain"
    assert found(made, x_a="1", x_b="2") == "b-method"
    assert found(made, method="POST", x_a="1") == "c-one"
    assert found(made, method="POST", x_a="1", x_b="2") == "d-two"
    assert found(made, "/o") == "e-old"
    assert found(made, "/i") == "g"


def test_a_rule_that_does_not_match_falls_through_to_a_shorter_prefix_and_a_wider_host() -> None:
    made = router(
        route("wide", Match("/")),
        route("narrow", Match("/a", method="POST"), hostnames=("shop.example",)),
        route("star", Match("/a/b", method="PUT"), hostnames=("*.example",)),
    )
    assert found(made, "/a", "shop.example", "POST") == "narrow"
    assert found(made, "/a", "shop.example") == "wide"
    assert found(made, "/a/b", "shop.example", "PUT") == "star"
    assert found(made, "/a/b", "deep.shop.example", "PUT") == "star"
    assert found(made, "/a/b", "example", "PUT") == "wide"


def test_a_host_belongs_to_the_most_specific_listener_of_each_gateway() -> None:
    listeners = (
        Listener("d/g/any", "Gateway d/g", 80),
        Listener("d/g/exact", "Gateway d/g", 80, "shop.example"),
        Listener("d/g/star", "Gateway d/g", 80, "*.example"),
        Listener("d/other/any", "Gateway d/other", 80),
    )
    made = router(
        route("any", Match("/any"), listeners=("d/g/any",)),
        route("star", Match("/star"), hostnames=("*.example",), listeners=("d/g/star",)),
        route("exact", Match("/exact"), hostnames=("shop.example",), listeners=("d/g/exact",)),
        route("other", Match("/other"), listeners=("d/other/any",)),
        listeners=listeners,
    )
    for host, own in (("shop.example", "exact"), ("x.example", "star"), ("elsewhere", "any")):
        assert {path: found(made, f"/{path}", host) for path in ("any", "star", "exact", "other")} == {
            **dict.fromkeys(("any", "star", "exact"), ""),
            own: own,
            "other": "other",
        }


def test_nothing_matches_says_so() -> None:
    answer = explain(router(route("a", Match("/a", method="POST"))), "GET", "x", "/a", {})
    assert (answer.route, answer.losers[0].why) == ("", "It takes POST only.")
