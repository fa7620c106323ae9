"""A runtime that follows another: what did not change is the same object, what did is not."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from types import SimpleNamespace
from typing import Any, TypeVar

import msgspec
import pytest
from nexus_core.snapshot import (
    Fallback,
    Listener,
    Match,
    Mirror,
    Published,
    Route,
    Rule,
    Snapshot,
    StaticAddresses,
    Timeouts,
    Upstream,
    WeightedBackend,
)
from nexus_gateway.edge.runtimes import Parts, Plan, Runtime, dismantle

T = TypeVar("T")

LISTENER = Listener("a/b/http", "Gateway a/b", 80)
PARTS = Parts(
    limit=lambda policy: pytest.fail("no limit"),
    fault=lambda policy: pytest.fail("no fault"),
    mirror=lambda policy: SimpleNamespace(next=lambda: False),  # type: ignore[arg-type,return-value]
    sessions=lambda upstream: None,
)


def upstream(name: str, timeouts: Timeouts | None = None) -> Upstream:
    return Upstream(name, f"NexusService {name}", StaticAddresses((("127.0.0.1", 1),)), timeouts=timeouts or Timeouts())


def route(name: str, *backends: str, filters: tuple[Any, ...] = (), plugins: tuple[str, ...] = ()) -> Route:
    to = tuple(WeightedBackend(each, 1) for each in backends)
    rules = (Rule(f"{name}/0", (Match(f"/{name}"),), filters=filters, backends=to, plugins=plugins),)
    return Route(name, f"HTTPRoute {name}", (LISTENER.id,), (f"{name}.example",), rules)


ROUTES = (
    route("both", "one", "two"),
    route("copied", "one", filters=(Mirror("two"),)),
    route("fallen", "one", filters=(Fallback(upstream="two"),)),
    route("hooked", "one", plugins=("p",)),
    route("one", "one"),
    route("two", "two"),
)


def pool() -> Any:
    return SimpleNamespace(watch_latency=lambda: None)


def finished(work: Generator[None, None, T]) -> tuple[T, int]:
    steps = 0
    while True:
        try:
            next(work)
        except StopIteration as done:
            return done.value, steps
        steps += 1


def plans(runtime: Runtime) -> Mapping[str, Plan]:
    return {entry.route.id: entry.payload for entry in runtime.router.entries}


def snapshot(routes: tuple[Route, ...], *upstreams: Upstream) -> Published:
    return Published(1, "d", Snapshot(listeners=(LISTENER,), routes=routes, upstreams=upstreams))


POOLS = {"one": pool(), "two": pool()}
SLOTS: dict[str, Any] = {"p": SimpleNamespace(running=None, quick=False, chains=set())}
FIRST = snapshot(ROUTES, upstream("one"), upstream("two"))


def follow(published: Published, pools: Mapping[str, Any] = POOLS, slots: Mapping[str, Any] = SLOTS) -> set[str]:
    """Return the routes whose plans were taken over. Their answers are those of a runtime built from nothing."""
    former = Runtime(FIRST, POOLS, SLOTS, PARTS)
    before = plans(former)
    runtime, _ = finished(Runtime.in_slices(published, pools, slots, PARTS, former))
    anew = plans(Runtime(published, pools, slots, PARTS))
    found = plans(runtime)
    assert found.keys() == anew.keys()
    for name, plan in found.items():
        for mine, other in zip(plan.backends, anew[name].backends, strict=True):
            assert mine.pool is other.pool
            assert mine.timeouts == other.timeouts
        assert plan.plugins == anew[name].plugins
    return {name for name, plan in found.items() if plan is before.get(name)}


ALL = {each.id for each in ROUTES}


def test_nothing_changed() -> None:
    again = msgspec.json.decode(msgspec.json.encode(FIRST.snapshot), type=Snapshot)
    assert again.routes[0] is not ROUTES[0]
    assert follow(Published(2, "d", again)) == ALL


def test_an_edited_route_is_compiled_anew_alone() -> None:
    edited = route("one", "one", "two")
    routes = tuple(edited if each.id == "one" else each for each in ROUTES)
    assert follow(snapshot(routes, upstream("one"), upstream("two"))) == ALL - {"one"}


def test_an_upstream_with_other_policies_changes_all_that_leads_to_it() -> None:
    changed = upstream("two", Timeouts(request_s=3.0))
    assert follow(snapshot(ROUTES, upstream("one"), changed)) == {"hooked", "one"}


def test_another_pool_changes_all_that_leads_to_it() -> None:
    assert follow(FIRST, {**POOLS, "two": pool()}) == {"hooked", "one"}


def test_an_upstream_that_goes_changes_all_that_led_to_it() -> None:
    assert follow(snapshot(ROUTES, upstream("one")), {"one": POOLS["one"]}) == {"hooked", "one"}


def test_another_plugin_changes_its_rules() -> None:
    assert follow(FIRST, POOLS, {"p": SimpleNamespace(running=None, quick=False, chains=set())}) == ALL - {"hooked"}


def test_a_runtime_that_is_taken_apart_leaves_the_next_one_whole() -> None:
    former = Runtime(FIRST, POOLS, SLOTS, PARTS)
    runtime, steps = finished(
        Runtime.in_slices(snapshot(ROUTES[1:], upstream("one"), upstream("two")), POOLS, SLOTS, PARTS, former)
    )
    assert steps
    _, steps = finished(dismantle(former))
    assert steps >= len(ROUTES)
    assert former.router.entries == ()
    for each in ROUTES[1:]:
        entry = runtime.router.find("GET", f"{each.id}.example", f"/{each.id}", {})
        assert entry is not None
        assert entry.route.id == each.id
    assert runtime.router.find("GET", "both.example", "/both", {}) is None
