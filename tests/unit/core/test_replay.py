"""What a change of configuration would do to requests that came before."""

from __future__ import annotations

import zlib
from typing import Any

import msgspec
import pytest
from nexus_core.match.replay import KINDS, Report, compare
from nexus_core.snapshot import (
    HeaderMatch,
    Listener,
    Match,
    PluginInstance,
    QueryMatch,
    RateLimit,
    Release,
    Route,
    Rule,
    SizeLimit,
    Snapshot,
    StaticAddresses,
    Upstream,
    WeightedBackend,
)
from nexus_core.snapshot.differences import Difference, align, find_differences
from nexus_core.snapshot.samples import Sample, decode_samples, encode_samples
from nexus_core.snapshot.wire import WireError

LISTENER = Listener("shop/nexus/http", "Gateway shop/nexus", 80)
LIMIT = RateLimit("NexusPolicy shop/calm/0", 10)


def plugin(name: str, policy: Any = "open", instance: str = "") -> PluginInstance:
    release = Release(
        name=name, version="1.0.0", api=">=1,<2", package=name, entry_point=f"{name}:P", sha256="0", url="x"
    )
    return PluginInstance(
        id=f"shop/{instance or name}", source=f"NexusPlugin shop/{name}", release=release, public_key="k",
        failure_policy=policy,
    )  # fmt: skip


PLUGINS = (plugin("key", "closed"), plugin("key", "closed", "other-key"), plugin("tag"))


def rule(route: str, index: int = 0, path: str = "/", backends: dict[str, int] | None = None, **fields: Any) -> Rule:
    match = Match(path, **{name: fields.pop(name) for name in ("headers", "query", "method") if name in fields})
    given = {"shop/a": 1} if backends is None else backends
    return Rule(f"{route}/{index}", (match,), backends=tuple(WeightedBackend(k, v) for k, v in given.items()), **fields)


def route(*rules: Rule, name: str = "HTTPRoute/shop/a", hostnames: tuple[str, ...] = ()) -> Route:
    return Route(name, f"HTTPRoute {name}", (LISTENER.id,), hostnames, rules)


def world(*routes: Route, plugins: tuple[PluginInstance, ...] = PLUGINS, listener: Listener = LISTENER) -> Snapshot:
    upstreams = tuple(Upstream(f"shop/{n}", "x", StaticAddresses((("10.0.0.1", 1),))) for n in "ab")
    return Snapshot(
        listeners=(listener,),
        routes=tuple(sorted(routes, key=lambda each: each.id)),
        upstreams=upstreams,
        plugins=plugins,
    )


def one(name: str = "HTTPRoute/shop/a", hostnames: tuple[str, ...] = (), **fields: Any) -> Snapshot:
    return world(route(rule(name, **fields), name=name, hostnames=hostnames))


SAMPLE = Sample("GET", "shop.example", "/orders", headers=(("accept", "*/*"),))
GUARDED = one(plugins=("shop/key", "shop/tag"), filters=(LIMIT, SizeLimit(request_bytes=9)))


def replayed(old: Snapshot, new: Snapshot, *samples: Sample) -> Report:
    return compare(samples or (SAMPLE,), old, new)


@pytest.mark.parametrize(
    ("old", "new", "kinds"),
    [
        (one(), one(), set()),
        (one(), one("HTTPRoute/shop/b"), {"change-route"}),
        (one(), world(route(rule("HTTPRoute/shop/a", 0, "/x"), rule("HTTPRoute/shop/a", 1))), {"change-rule"}),
        (one(), one(backends={"shop/b": 1}), {"change-upstreams"}),
        (one(backends={"shop/a": 1, "shop/b": 1}), one(backends={"shop/a": 1, "shop/b": 3}), {"change-upstreams"}),
        (one(backends={"shop/a": 1, "shop/b": 1}), one(backends={"shop/a": 5, "shop/b": 5}), set()),
        (one(backends={"shop/a": 1}), one(backends={"shop/a": 1, "shop/b": 0}), set()),
        (GUARDED, one(plugins=("shop/tag", "shop/key"), filters=(LIMIT, SizeLimit(request_bytes=5))), set()),
        (GUARDED, one(plugins=("shop/tag",), filters=(LIMIT, SizeLimit(request_bytes=9))), {"lose-plugins", "lose-auth"}),
        (GUARDED, one(plugins=("shop/key",), filters=(LIMIT, SizeLimit(request_bytes=9))), {"lose-plugins"}),
        (GUARDED, one(plugins=("shop/other-key", "shop/tag"), filters=(LIMIT, SizeLimit(request_bytes=9))), set()),
        (GUARDED, one(plugins=("shop/key", "shop/tag"), filters=(LIMIT,)), {"lose-limits"}),
        (
            GUARDED,
            one(plugins=("shop/key", "shop/tag"), filters=(RateLimit("renamed/0", 10), SizeLimit(request_bytes=9))),
            set(),
        ),
        (one(), world(), {"no-route", "lose-host"}),
        (one(), one(path="/other"), {"no-route"}),
        (one(), one(hostnames=("other.example",)), {"no-route", "lose-host"}),
        (one(path="/x"), one(), {"new-route"}),
        (world(), world(), set()),
    ],
)  # fmt: skip
def test_each_change_has_its_name(old: Snapshot, new: Snapshot, kinds: set[str]) -> None:
    report = replayed(old, new)
    assert {kind for kind, count in report.counts.items() if count} == kinds
    assert set(report.examples) == kinds
    assert report.changed == (1 if kinds else 0)


def test_a_listener_that_closes_takes_its_host_with_it() -> None:
    narrow = Listener("shop/nexus/http", "Gateway shop/nexus", 80, "else.example")
    report = compare(
        [SAMPLE], one(), world(route(rule("HTTPRoute/shop/a"), hostnames=("else.example",)), listener=narrow)
    )
    assert report.counts["lose-host"] == 1


def test_the_presence_of_a_replaced_header_counts_and_its_value_is_unsure() -> None:
    secret = Sample("GET", "", "/", headers=(("authorization", "[redacted]:1f"),))
    public = Sample("GET", "", "/", headers=(("x-beta", "yes"),))
    anyone = one(headers=(HeaderMatch("authorization", ".+", "regex"),))
    exact = one(headers=(HeaderMatch("authorization", "Bearer a"),))
    beta = one(headers=(HeaderMatch("x-beta", "yes"),))
    report = replayed(one(), anyone, secret, public)
    assert (report.counts["no-route"], report.counts["unsure"]) == (1, 1)
    report = replayed(one(), exact, secret, public)
    assert (report.counts["no-route"], report.counts["unsure"]) == (2, 1)
    report = replayed(one(), beta, secret, public)
    assert (report.counts["no-route"], report.counts["unsure"]) == (1, 0)


def test_a_replaced_parameter_is_unsure_only_where_a_route_asks_for_it() -> None:
    sample = Sample("GET", "", "/", "token=[redacted]&page=1")
    assert replayed(one(), one(query=(QueryMatch("token", "x"),)), sample).counts["unsure"] == 1
    assert replayed(one(), one(query=(QueryMatch("page", "1"),)), sample).counts["unsure"] == 0


def test_examples_are_few_and_differ() -> None:
    samples = [Sample("GET", "", f"/{n}") for n in range(50)]
    new = world(*(route(rule(f"HTTPRoute/shop/r{n}", 0, f"/{n}"), name=f"HTTPRoute/shop/r{n}") for n in range(50)))
    report = compare(samples, one(), new, examples=3)
    assert report.counts["change-route"] == 50
    assert len(report.examples["change-route"]) == 3
    same = compare(samples, one(), one("HTTPRoute/shop/b"), examples=3)
    assert [each.path for each in same.examples["change-route"]] == ["/0"], "the same change once"


def test_the_summary_is_a_sentence() -> None:
    samples = [SAMPLE] * 1500
    assert compare(samples, one(), one()).summary() == "0 of 1,500 requests change route"
    assert compare(samples, GUARDED, world()).summary("sampled requests") == (
        "0 of 1,500 sampled requests change route; 1,500 would find no route; "
        "1,500 would find no listener or route for their host"
    )
    assert compare([], one(), world()).summary() == "There are no sampled requests to replay."
    assert set(compare([], one(), one()).counts) == set(KINDS)


def test_samples_come_back_as_they_went_and_fit() -> None:
    samples = tuple(
        Sample("GET", "a", f"/{n * 7919 % 104729}", "q=1", (("x", str(n)),), "10.0.0.0/24", "r", "r/0", ("p",), 200)
        for n in range(2000)
    )
    data, count = encode_samples(samples)
    assert (decode_samples(data), count) == (samples, 2000)
    data, count = encode_samples(samples, 4096)
    assert len(data) <= 4096
    assert decode_samples(data) == samples[:count]
    assert count > 100
    assert decode_samples(encode_samples((), 1024)[0]) == ()


@pytest.mark.parametrize(
    "data", [b"", b"x", zlib.compress(b"{}"), zlib.compress(b"[]")[:-1], zlib.compress(b" " * 40_000_000)]
)
def test_a_sample_that_cannot_be_read_says_so(data: bytes) -> None:
    with pytest.raises(WireError, match="sample of requests"):
        decode_samples(data)


def test_differences_name_the_objects_and_their_fields() -> None:
    old, new = one(), world(route(rule("HTTPRoute/shop/a", backends={"shop/b": 2})), route(name="HTTPRoute/shop/z"))
    new = msgspec.structs.replace(new, upstreams=new.upstreams[1:])
    assert find_differences(old, new) == (
        Difference(
            "routes", "HTTPRoute/shop/a", "changed", ("rules[0].backends[0].upstream", "rules[0].backends[0].weight")
        ),
        Difference("routes", "HTTPRoute/shop/z", "added"),
        Difference("upstreams", "shop/a", "removed"),
    )
    assert find_differences(old, old) == ()


def test_routes_from_files_take_the_age_of_those_that_run() -> None:
    def aged(*routes: tuple[str, str]) -> Snapshot:
        return world(*(msgspec.structs.replace(route(name=name), created_at=at) for name, at in routes))

    running = aged(("a", "2026-01-01T00:00:00Z"), ("b", "2026-02-01T00:00:00Z"))
    found = align(aged(("b", ""), ("c", "")), running)
    assert [each.created_at for each in found.routes] == ["2026-02-01T00:00:00Z", "9999-12-31T23:59:59Z"]
    assert align(aged(("c", "")), aged(("a", ""))) == aged(("c", ""))
