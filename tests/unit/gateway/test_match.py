"""Paths, hosts and the router's precedence, as tables."""

from __future__ import annotations

import pytest
from nexus_core.match import hosts, paths, patterns
from nexus_core.match import router as routers
from nexus_core.match.explain import explain
from nexus_core.match.router import Router
from nexus_core.snapshot import HeaderMatch, Listener, Match, QueryMatch, Route, Rule, Snapshot


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
        ("/%41", "/A"),
        ("/%61d%6Din/%7e%2D%5f", "/admin/~-_"),
        ("/caf%c3%a9%2b%40", "/caf%C3%A9%2B%40"),
        ("/%2561", "/%2561"),
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
    return Router(Snapshot(listeners=listeners, routes=tuple(routes)), lambda route, rule: rule.id)


def found(
    made: Router[str], path: str = "/", host: str = "shop", method: str = "GET", query: str = "", **headers: str
) -> str:
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    entry = made.find(method, host, path, sent, query)
    explained = explain(made, method, host, path, sent, query=query)
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


def test_expressions_come_after_exact_paths_and_before_prefixes_the_longest_first() -> None:
    made = router(
        route("exact", Match("/a/1", "exact")),
        route("long", Match(r"/a/\d{1,3}", "regex")),
        route("short", Match(r"/a/\d+", "regex")),
        route("everything", Match(".*", "regex", method="PUT")),
        route("prefix", Match("/a/1/2")),
        route("root", Match("/")),
    )
    assert found(made, "/a/1") == "exact"
    assert found(made, "/a/12") == "long"
    assert found(made, "/a/1234") == "short"
    assert found(made, "/a/1/2") == "prefix"
    assert found(made, "/a/1/2", method="PUT") == "everything"
    assert found(made, "/a/x") == "root"


@pytest.mark.parametrize(
    ("pattern", "path"),
    [
        ("(?i)/A/B", "/a/b"),
        ("/a|/b", "/b"),
        ("/ab|/ac/d", "/ac/d"),
        ("/a/?", "/a"),
        ("/a/b?", "/a/"),
        ("/a/b{0}c", "/a/c"),
        ("^/a/b$", "/a/b"),
        (r"/a\.b/c", "/a.b/c"),
        ("(?x) /a /b", "/a/b"),
        ("[/]a/b", "/a/b"),
        (".*/b", "/a/b"),
    ],
)
def test_an_expression_is_found_wherever_it_is_filed(pattern: str, path: str) -> None:
    assert found(router(route("r", Match(pattern, "regex")), route("root", Match("/"))), path) == "r"


def test_prefixes_of_many_lengths_fall_through_over_lengths_that_none_has() -> None:
    taken = (Match("/a/b/c/d/e", method="PUT"), Match("/a/b/c", method="POST"), Match("/a", method="DELETE"))
    made = router(*(route(str(number), match) for number, match in enumerate(taken)))
    for path in ("/a/b/c/d/e/f/g", "/a/b/c/d/e", "/a/b/c/d/e/"):
        assert [found(made, path, method=method) for method in ("PUT", "POST", "DELETE", "GET")] == ["0", "1", "2", ""]
    assert [found(made, "/a/b/c/d", method=method) for method in ("PUT", "POST", "DELETE")] == ["", "1", "2"]
    assert [found(made, "/a/b/", method=method) for method in ("PUT", "POST", "DELETE")] == ["", "", "2"]
    assert found(made, "/", method="DELETE") == ""


def test_an_expression_matches_the_whole_path_and_no_endless_one() -> None:
    made = router(route("r", Match("/a.*", "regex")), route("root", Match("/")))
    assert found(made, "/xa") == "root"
    assert found(made, "/" + "a" * (patterns.MAX_TEXT_CHARS - 1)) == "r"
    assert found(made, "/" + "a" * patterns.MAX_TEXT_CHARS) == "root"


def test_a_text_that_is_no_expression_costs_its_own_match_only() -> None:
    made = router(
        route("bad", Match("/a(", "regex")),
        route("bad-header", Match("/a", headers=(HeaderMatch("x-a", "(", "regex"),))),
        route("good", Match("/a")),
    )
    assert found(made, "/a", x_a="(") == "good"
    whys = {loser.route: loser.why for loser in explain(made, "GET", "x", "/a", {"x-a": "("}).losers}
    assert whys["HTTPRoute/d/bad"] == "Its path /a( is not a regular expression, so it matches nothing."


def test_headers_and_query_parameters_match_exactly_or_by_expression() -> None:
    made = router(
        route("number", Match("/", headers=(HeaderMatch("x-a", r"\d+", "regex"),))),
        route("word", Match("/", query=(QueryMatch("q", "a b"),))),
        route("both", Match("/", headers=(HeaderMatch("x-a", "v"),), query=(QueryMatch("n", "[0-9]", "regex"),))),
        route("rest", Match("/")),
    )
    assert found(made, x_a="12") == "number"
    assert found(made, x_a="12x") == "rest"
    assert found(made, query="q=a+b&q=c") == "word"
    assert found(made, query="q=a%20b") == "word"
    assert found(made, query="q=c&q=a+b") == "rest"
    assert found(made, query="Q=a+b") == "rest"
    assert found(made, x_a="v", query="n=7") == "both"
    assert found(made, x_a="v", query="n=77") == "rest"


def test_more_headers_come_before_more_query_parameters() -> None:
    one, two = QueryMatch("a", "1"), QueryMatch("b", "1")
    made = router(
        route("a-two-parameters", Match("/", query=(one, two))),
        route("b-one-parameter", Match("/", query=(one,))),
        route("c-header", Match("/", headers=(HeaderMatch("x-a", "1"),))),
    )
    assert found(made, query="a=1&b=1", x_a="1") == "c-header"
    assert found(made, query="a=1&b=1") == "a-two-parameters"
    assert found(made, query="a=1") == "b-one-parameter"


@pytest.mark.parametrize(
    ("winner", "loser", "why"),
    [
        (Match("/a", "exact"), Match("/a", "regex"), "path is exact, which comes before a regular expression"),
        (Match("/.*", "regex"), Match("/"), "path is a regular expression, which comes before a prefix"),
        (Match("/a.?", "regex"), Match("/a?", "regex"), "expression is longer"),
        (Match("/a"), Match("/"), "prefix is longer"),
        (Match("/a", method="GET"), Match("/a"), "names the method"),
        (Match("/a", headers=(HeaderMatch("x-a", "1"),)), Match("/a"), "names more headers"),
        (Match("/a", query=(QueryMatch("q", "1"),)), Match("/a"), "names more query parameters"),
    ],
)
def test_it_says_what_made_the_winner_win(winner: Match, loser: Match, why: str) -> None:
    answer = explain(router(route("b", winner), route("a", loser)), "GET", "x", "/a", {"x-a": "1"}, query="q=1")
    assert answer.route == "HTTPRoute/d/b"
    assert why in answer.losers[0].why


@pytest.mark.parametrize(
    ("loser", "why"),
    [
        (Match("/b.*", "regex"), "Its expression /b.* does not match the whole of /a."),
        (Match("/a", headers=(HeaderMatch("x-a", "2.*", "regex"),)), "Header x-a is '1'; it wants a match of '2.*'."),
        (Match("/a", query=(QueryMatch("p", "1"),)), "Query parameter p is missing; it wants '1'."),
        (Match("/a", query=(QueryMatch("q", "2"),)), "Query parameter q is '1'; it wants '2'."),
    ],
)
def test_it_says_why_a_match_does_not_hold(loser: Match, why: str) -> None:
    answer = explain(router(route("a", loser)), "GET", "x", "/a", {"x-a": "1"}, query="q=1")
    assert (answer.route, answer.losers[0].why) == ("", why)


class Untouchable(dict[str, str]):
    """Headers that must not be looked at."""

    def get(self, *args: object) -> str:  # type: ignore[override]
        raise AssertionError("headers were looked at")


def test_headers_are_looked_at_only_where_a_match_asks_for_them() -> None:
    made = router(
        route("h", Match("/h", headers=(HeaderMatch("x-a", "1"),))), route("p", Match("/p")), route("root", Match("/"))
    )
    for path in ("/p/x", "/", "/other"):
        assert made.find("GET", "shop", path, Untouchable()) is not None
    with pytest.raises(AssertionError, match="looked at"):
        made.find("GET", "shop", "/h", Untouchable())


def test_answers_that_depend_on_headers_or_query_are_not_kept() -> None:
    made = router(
        route("h", Match("/h", headers=(HeaderMatch("x-a", "1"),))),
        route("q", Match("/h", query=(QueryMatch("q", "1"),))),
        route("root", Match("/")),
    )
    for _ in range(2):
        assert found(made, "/h") == "root"
        assert found(made, "/h", x_a="1") == "h"
        assert found(made, "/h", query="q=1") == "q"
    assert not made._kept


def test_what_is_kept_is_bounded_and_let_go_when_full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routers, "MAX_KEPT", 4)
    made = router(route("a", Match("/a")), route("named", Match("/"), hostnames=("shop",)))
    for number in range(20):
        assert found(made, f"/a/{number}") == "named"
        assert found(made, f"/a/{number}", host=f"host-{number}") == "a"
    assert (len(made._kept), len(made._places)) == (4, 4)
    made.age()
    assert (len(made._kept), len(made._places)) == (0, 0)
    made.age()
    long = "/a/" + "x" * routers.MAX_KEPT_PATH_CHARS
    assert found(made, long) == "named"
    assert found(made, "/a", host="h" * 300) == "a"
    assert len(made._kept) == 0
