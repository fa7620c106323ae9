"""The compiled router gives the same answer as a reference that sorts and tries everything."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from nexus_core.snapshot import HeaderMatch, Listener, Match, Route, Rule, Snapshot
from nexus_core.match import hosts, paths
from nexus_core.match.explain import explain
from nexus_core.match.router import Router, path_covers

SEGMENT = st.sampled_from(["a", "b", "ab"])
PATH = st.lists(SEGMENT, max_size=4).map(lambda parts: "/" + "/".join(parts))
HOST = st.sampled_from(["shop.example", "a.shop.example", "example", "other"])
PATTERN = st.sampled_from(["shop.example", "*.example", "*.shop.example", "other"])
HEADERS = st.dictionaries(st.sampled_from(["x-a", "x-b"]), st.sampled_from(["1", "2"]))
METHOD = st.sampled_from(["GET", "POST"])
MATCH = st.builds(
    Match, PATH, st.sampled_from(["exact", "prefix"]), st.sampled_from(["", "GET", "POST"]),
    HEADERS.map(lambda found: tuple(HeaderMatch(name, value) for name, value in sorted(found.items()))),
)  # fmt: skip


@st.composite
def snapshots(draw: st.DrawFn) -> Snapshot:
    routes = []
    for number in range(draw(st.integers(0, 6))):
        route_id = f"HTTPRoute/d/{number}"
        rules = tuple(
            Rule(f"{route_id}/{index}", tuple(matches))
            for index, matches in enumerate(
                draw(st.lists(st.lists(MATCH, min_size=1, max_size=3), min_size=1, max_size=2))
            )
        )
        names = tuple(sorted(set(draw(st.lists(PATTERN, max_size=2)))))
        routes.append(
            Route(route_id, route_id, ("d/g/h",), names, rules, draw(st.sampled_from(["", "2026-01-01", "2026-02-01"])))
        )
    return Snapshot((Listener("d/g/h", "Gateway d/g", 80),), tuple(routes))


def naive(snapshot: Snapshot, method: str, host: str, path: str, headers: dict[str, str]) -> str | None:
    """Every match of every rule, most specific first; the first that holds."""
    ranked = []
    for route in snapshot.routes:
        covering = [name for name in route.hostnames or ("",) if hosts.covers(name, host)]
        for index, rule in enumerate(route.rules):
            for number, match in enumerate(rule.matches):
                holds = (
                    path_covers(match, path)
                    and match.method in ("", method)
                    and all(headers.get(each.name) == each.value for each in match.headers)
                )
                if not holds:
                    continue
                for name in covering:
                    exact_host = not name.startswith("*") and name != ""
                    rank = (
                        not exact_host, -len(name), match.path_kind != "exact", -len(match.path), not match.method,
                        -len(match.headers), route.created_at, route.id, index, number,
                    )  # fmt: skip
                    ranked.append((rank, rule.id))
    return min(ranked)[1] if ranked else None


@given(snapshots(), METHOD, HOST, PATH, HEADERS)
def test_the_router_agrees_with_the_naive_reference(
    snapshot: Snapshot, method: str, host: str, path: str, headers: dict[str, str]
) -> None:
    router = Router(snapshot, lambda route, rule: rule.id)
    for asked in (path, path.rstrip("/") + "/"):
        entry = router.find(method, host, asked, headers)
        wanted = naive(snapshot, method, host, asked, headers)
        assert (entry.payload if entry is not None else None) == wanted
        explained = explain(router, method, host, asked, headers)
        assert explained.rule == (wanted or "")


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
