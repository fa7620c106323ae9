"""Which route takes a connection."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from nexus_core.snapshot import StaticAddresses, StreamRoute, Upstream, WeightedBackend
from nexus_core.translate.stream_conflicts import find_shadows
from nexus_gateway.edge.measurements import Tally
from nexus_gateway.edge.pools import Pool
from nexus_gateway.edge.streams.plans import StreamPlans, build_stream_plans
from nexus_gateway.resilience.bulkheads import Bulkheads
from nexus_gateway.resilience.endpoints import EndpointRegistry

REGISTRY = EndpointRegistry()


def pool(name: str) -> Pool:
    upstream = Upstream(f"Service/default/{name}/1/tcp", "", StaticAddresses(()), "tcp")
    bulkheads = Bulkheads(REGISTRY.cells, 0.0)
    return Pool(upstream, REGISTRY, random.Random(1), "", lambda state: None, Tally(), bulkheads)


def route(name: str, kind: Any = "TCP", *, listeners: tuple[str, ...] = ("a",), **fields: Any) -> StreamRoute:
    return StreamRoute(f"{kind}Route/default/{name}", "", kind, listeners, **fields)


def taken(plans: StreamPlans, server_name: str = "", listeners: tuple[str, ...] = ("a",)) -> str:
    plan = plans.connection(listeners, server_name)
    return plan.route.id.rpartition("/")[2] if plan is not None else ""


def test_the_oldest_route_serves_then_the_smaller_id() -> None:
    assert taken(build_stream_plans([route("b", created_at="2"), route("c", created_at="1")], {})) == "c"
    assert taken(build_stream_plans([route("c"), route("b")], {})) == "b"


def test_routes_serve_their_listeners_and_kinds_alone() -> None:
    plans = build_stream_plans([route("t", listeners=("a", "b")), route("u", "UDP")], {})
    assert taken(plans) == taken(plans, listeners=("b",)) == "t"
    assert taken(plans, listeners=("c",)) == ""
    found = plans.datagrams(("a",))
    assert found is not None
    assert found.route.kind == "UDP"
    assert plans.datagrams(("b",)) is None


def test_listeners_that_share_a_port_are_one() -> None:
    plans = build_stream_plans(
        [
            route("wide", "TLS", hostnames=("*.example",), created_at="1"),
            route("exact", "TLS", listeners=("b",), hostnames=("shop.example",), created_at="2"),
            route("old", "TLS", listeners=("c",), hostnames=("shop.example",), created_at="0"),
        ],
        {},
    )
    assert taken(plans, "shop.example", ("a", "b")) == "exact"
    assert taken(plans, "shop.example", ("a", "b", "c")) == "old"
    assert taken(plans, "other.example", ("a", "b")) == "wide"


def test_a_tcp_route_takes_what_tls_routes_leave() -> None:
    plans = build_stream_plans([route("named", "TLS", hostnames=("a.example",)), route("rest")], {})
    assert taken(plans, "a.example") == "named"
    assert taken(plans, "b.example") == taken(plans) == "rest"


def test_the_most_specific_name_decides() -> None:
    plans = build_stream_plans(
        [
            route("any", "TLS", created_at="0"),
            route("wide", "TLS", hostnames=("*.example",), created_at="1"),
            route("wider", "TLS", hostnames=("*.shop.example",), created_at="2"),
            route("exact", "TLS", hostnames=("a.shop.example", "b.shop.example"), created_at="3"),
        ],
        {},
    )
    found = [taken(plans, name) for name in ("b.shop.example", "c.shop.example", "x.y.example", "example", "")]
    assert found == ["exact", "wider", "wide", "any", "any"]


LABELS = st.sampled_from(["a", "b", "example"])
NAMES = st.lists(LABELS, min_size=1, max_size=4).map(".".join)
PATTERNS = NAMES | NAMES.map("*.{}".format) | st.just("")


def covers(pattern: str, name: str) -> bool:
    if pattern == "":
        return True
    if not pattern.startswith("*."):
        return pattern == name
    suffix, labels = pattern[2:].split("."), name.split(".")
    return len(labels) > len(suffix) and labels[-len(suffix) :] == suffix


def specificity(pattern: str) -> tuple[bool, int]:
    return bool(pattern) and not pattern.startswith("*."), len(pattern)


@given(
    st.lists(st.tuples(st.sets(PATTERNS, min_size=1, max_size=3), st.sampled_from("123")), max_size=8),
    NAMES | st.just(""),
    st.randoms(),
)
def test_the_choice_is_the_naive_one_in_whatever_order_routes_come(
    wanted: list[tuple[set[str], str]], name: str, shuffled: random.Random
) -> None:
    routes = [
        route(f"{number:02}", "TLS", hostnames=tuple(sorted(names - {""})) if "" not in names else (), created_at=age)
        for number, (names, age) in enumerate(wanted)
    ]
    claims = [
        (specificity(pattern), each) for each in routes for pattern in each.hostnames or ("",) if covers(pattern, name)
    ]
    best = max((how for how, _ in claims), default=None)
    expected = min(
        (each for how, each in claims if how == best), key=lambda each: (each.created_at, each.id), default=None
    )
    shuffled.shuffle(routes)
    assert taken(build_stream_plans(routes, {}), name) == (expected.id.rpartition("/")[2] if expected else "")


def test_plans_go_on_where_they_are_in_turn_as_long_as_nothing_changed() -> None:
    one, two = pool("one"), pool("two")
    pools = {each.upstream.id: each for each in (one, two)}
    backends = (WeightedBackend(one.upstream.id, 3), WeightedBackend(two.upstream.id, 1))
    routes = [route("r", backends=backends), route("other", listeners=("b",))]
    plans = build_stream_plans(routes, pools)
    plan = plans.connection(("a",))
    assert plan is not None
    first = plan.next()
    after = build_stream_plans(routes[:1], pools, plans)
    assert after.connection(("a",)) is plan
    dealt = Counter(turn[0] for turn in (first, *(plan.next() for _ in range(3))) if turn is not None)
    assert dealt == {one.upstream.id: 3, two.upstream.id: 1}
    replaced = build_stream_plans(routes, {**pools, one.upstream.id: pool("one")}, after)
    assert replaced.connection(("a",)) is not plan
    changed = build_stream_plans([route("r", backends=backends[:1])], pools, after)
    assert changed.connection(("a",)) is not plan


def test_what_could_not_be_resolved_has_its_turn_and_no_pool() -> None:
    one = pool("one")
    backends = (WeightedBackend("", 1), WeightedBackend(one.upstream.id, 1), WeightedBackend(one.upstream.id, 0))
    plan = build_stream_plans([route("r", backends=backends)], {one.upstream.id: one}).connection(("a",))
    assert plan is not None
    assert sorted([plan.next(), plan.next()], key=str) == [("", None), (one.upstream.id, one)]
    assert plan.leads_to(one)
    assert not plan.leads_to(pool("one"))


def test_a_route_of_no_weight_leads_nowhere() -> None:
    one = pool("one")
    pools = {one.upstream.id: one}
    plan = build_stream_plans([route("r", backends=(WeightedBackend(one.upstream.id, 0),))], pools).connection(("a",))
    assert plan is not None
    assert plan.next() is None
    assert not plan.leads_to(one)


NAMES = st.lists(st.sampled_from(["a.x", "b.x", "*.x", "*.a.x"]), unique=True).map(sorted).map(tuple)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["TCP", "TLS"]),
            st.lists(st.sampled_from("ab"), min_size=1, unique=True).map(sorted).map(tuple),
            NAMES,
            st.sampled_from(["", "1", "2"]),
        ),
        max_size=6,
    )
)
def test_what_routes_are_told_they_do_not_get_is_what_others_get(drawn: list[Any]) -> None:
    routes = [
        route(str(n), kind, listeners=(f"{kind}-{at}",), hostnames=names if kind == "TLS" else (), created_at=age)
        for n, (kind, (at, *_), names, age) in enumerate(drawn)
    ]
    routes = [msgspec.structs.replace(each, source=f"{each.kind}Route default/{n}") for n, each in enumerate(routes)]
    plans = build_stream_plans(routes, {})
    shadows = find_shadows(routes, {listener: "" for each in routes for listener in each.listeners})
    for each in routes:
        [listener] = each.listeners
        # A client that asks for a wildcard's own text asks for no closer name.
        served = [plans.connection((listener,), name) for name in each.hostnames or ("",)]
        lost = [plan for plan in served if plan is not None and plan.route is not each]
        told = shadows.get(each.id, ())
        assert bool(told) == bool(lost)
        assert [shadow.whole for shadow in told] == [len(lost) == len(served)] * len(told)
