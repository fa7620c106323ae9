"""The plugin `rate-limit`: the algorithm, what is counted by, what clients are told, and Redis, there or not."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nexus_core.hooks import PluginConfigError, Reply, RequestHead, ResponseHead
from nexus_plugin_rate_limit import RateLimit
from nexus_plugin_rate_limit.gcra import Limit, ask
from nexus_plugin_rate_limit.keys import Keys
from nexus_plugin_rate_limit.shared import SCRIPT
from nexus_plugin_rate_limit.tables import Asked, Table
from nexus_sdk.testing import FakeContext


class Clock:
    """A clock that moves when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def head(client_ip: str = "192.0.2.1", route: str = "r", **headers: str) -> RequestHead:
    pairs = tuple((name.replace("_", "-"), value) for name, value in headers.items())
    return RequestHead("GET", "/", host="h", headers=pairs, client_ip=client_ip, route=route)


def kit_of(make: Any, *limits: dict[str, Any], workers: int = 1, **config: Any) -> tuple[Any, Clock]:
    kit = make(RateLimit, {"limits": list(limits), **config}, FakeContext(plugin="shop/limits", workers=workers))
    kit.plugin.clock = clock = Clock()
    return kit, clock


async def passed(kit: Any, request: RequestHead, times: int) -> int:
    """Return how many of so many requests pass."""
    return sum([isinstance(await kit.request(request), RequestHead) for _ in range(times)])


# ---- the algorithm


async def test_a_burst_passes_then_one_each_interval(make: Any) -> None:
    kit, clock = kit_of(make, {"requests": 60, "perSeconds": 60, "burst": 5})
    assert await passed(kit, head(), 10) == 5
    clock.now += 0.999
    assert await passed(kit, head(), 1) == 0
    clock.now += 0.002
    assert await passed(kit, head(), 2) == 1
    clock.now += 3
    assert await passed(kit, head(), 10) == 3
    clock.now += 3600
    assert await passed(kit, head(), 10) == 5, "idle time saves up the burst and no more"


async def test_without_a_burst_all_of_them_may_come_at_once(make: Any) -> None:
    kit, _ = kit_of(make, {"requests": 7, "perSeconds": 3600})
    assert await passed(kit, head(), 20) == 7


@given(
    st.integers(1, 50),
    st.integers(1, 20),
    st.lists(st.tuples(st.floats(0, 5, allow_nan=False), st.integers(0, 3)), max_size=80),
)
def test_no_more_than_burst_and_rate_pass_in_any_stretch_of_time(
    requests: int, burst: int, asks: list[tuple[float, int]]
) -> None:
    limit = Limit("x", requests, 10.0, burst)
    table, now = Table(10), 0.0
    taken: list[tuple[float, int]] = []
    for wait, cost in asks:
        now += wait
        cost = min(cost, burst)
        if not table.take([Asked(limit, ("k",), cost)], now)[0].wait_s:
            taken.append((now, cost))
    for index, (start, _) in enumerate(taken):
        total = 0
        for at, cost in taken[index:]:
            total += cost
            assert total <= burst + (at - start) / limit.interval_s + 1e-3


@given(st.integers(1, 1000), st.floats(0.001, 1e6), st.integers(1, 1000), st.floats(0, 1e9))
def test_who_waits_as_long_as_told_passes(requests: int, window_s: float, burst: int, now: float) -> None:
    limit = Limit("x", requests, window_s, burst)
    full = now + limit.interval_s * burst
    standing = ask(limit, full, now, 1)
    assert standing.wait_s > 0 or limit.interval_s < 1e-6
    assert ask(limit, full, now + standing.wait_s * (1 + 1e-9) + 1e-6, 1).wait_s == 0


async def test_costs_come_from_the_configuration_or_a_header_and_never_exceed_the_burst(make: Any) -> None:
    kit, clock = kit_of(make, {"requests": 10, "perSeconds": 10, "cost": 5, "costHeader": "X-Cost"})
    assert await passed(kit, head(), 5) == 2
    clock.now += 100
    assert await passed(kit, head(x_cost="2"), 10) == 5
    clock.now += 100
    assert await passed(kit, head(x_cost="0"), 30) == 30
    for text in ("-1", "1e9", "x", "", "²"):
        clock.now += 100
        assert await passed(kit, head(x_cost=text), 5) == 2, text
    clock.now += 100
    assert await passed(kit, head(x_cost="9" * 5000), 2) == 1, "it could never pass otherwise"


async def test_all_limits_have_to_agree_and_a_refused_request_is_charged_to_none(make: Any) -> None:
    kit, _ = kit_of(
        make,
        {"requests": 5, "perSeconds": 60, "by": ["static"]},
        {"requests": 2, "perSeconds": 60, "by": ["client-ip"]},
    )
    assert await passed(kit, head("192.0.2.1"), 50) == 2
    assert await passed(kit, head("192.0.2.2"), 50) == 2
    assert await passed(kit, head("192.0.2.3"), 50) == 1


async def test_each_worker_lets_its_share_pass(make: Any) -> None:
    kit, clock = kit_of(make, {"requests": 40, "perSeconds": 40, "burst": 8}, workers=4)
    assert await passed(kit, head(), 10) == 2
    clock.now += 4.001
    assert await passed(kit, head(), 10) == 1
    few, _ = kit_of(make, {"requests": 1, "perSeconds": 60}, workers=4)
    assert await passed(few, head(), 3) == 1


# ---- keys


@pytest.mark.parametrize(
    ("by", "one", "other", "same"),
    [
        (["client-ip"], head("192.0.2.1"), head("192.0.2.2"), False),
        (["client-ip"], head("2001:db8::1"), head("2001:db8::ffff:1"), True),
        (["client-ip"], head("2001:db8::1"), head("2001:db8:0:1::1"), False),
        (["client-ip"], head("::ffff:192.0.2.1"), head("192.0.2.1"), True), (["client-ip"], head("x:y"), head("x:z"), False),
        (["route"], head("192.0.2.1"), head("192.0.2.2"), True), (["route"], head(route="a"), head(route="b"), False),
        (["static"], head("192.0.2.1", "a"), head("192.0.2.2", "b"), True),
        (["consumer"], head("192.0.2.1", x_consumer_name="a"), head("192.0.2.2", x_consumer_name="a"), True),
        (["consumer"], head(x_consumer_name="a"), head(x_consumer_name="b"), False),
        (["consumer"], head("192.0.2.1"), head("192.0.2.2"), False),
        (["consumer"], head("192.0.2.1"), head(x_consumer_name="192.0.2.1"), False),
        (["header:x-key"], head(x_key="a" * 200), head(x_key="a" * 201), False), (["header:x-key"], head(x_key=""), head(), True),
        (["host", "header:x-key"], head(x_key="a"), head(x_key="a"), True),
        (["header:x-a", "header:x-b"], head(x_a="1", x_b="23"), head(x_a="12", x_b="3"), False),
    ],
)  # fmt: skip
def test_keys_tell_apart_what_is_counted_by(by: list[str], one: RequestHead, other: RequestHead, same: bool) -> None:
    keys = Keys("n", by, 64, "config")
    assert (keys.of(one) == keys.of(other)) is same


def test_keys_are_bounded_whatever_is_sent() -> None:
    key = Keys("n", ["header:x-key"], 64, "config").of(head(x_key="\udcff" * 100_000))
    assert sum(map(len, key)) < 200


def test_a_misspelt_key_is_refused_with_its_place() -> None:
    with pytest.raises(PluginConfigError, match=r"config\.limits\[0\]\.by\[1\]: 'ip'"):
        Keys("n", ["route", "ip"], 64, "config.limits[0].by")


async def test_what_is_remembered_is_bounded_and_the_oldest_go(make: Any) -> None:
    kit, _ = kit_of(make, {"requests": 1, "perSeconds": 3600}, maxKeys=100)
    for number in range(150):
        assert await passed(kit, head(f"10.0.0.{number}"), 1) == 1
    assert len(kit.plugin._own) == 100
    assert await passed(kit, head("10.0.0.149"), 1) == 0
    assert await passed(kit, head("10.0.0.0"), 1) == 1


# ---- what clients are told


async def test_responses_say_where_the_client_stands(make: Any) -> None:
    kit, clock = kit_of(
        make, {"name": "client", "requests": 60, "perSeconds": 60, "burst": 5}, {"requests": 100, "perSeconds": 0.5}
    )
    for _ in range(3):
        response = await kit.exchange(head())
    assert response.headers == (
        ("ratelimit-policy", '"client";q=60;w=60, "limit-2";q=100;w=1'),
        ("ratelimit", '"client";r=2;t=3, "limit-2";r=97;t=1'),
    )
    clock.now += 10
    response = await kit.response(head(), ResponseHead(200, (("a", "b"),)))
    assert response.headers[0] == ("a", "b")
    assert response.header("ratelimit") == '"client";r=5;t=0, "limit-2";r=100;t=0'


async def test_the_refusal_says_when_to_come_back(make: Any) -> None:
    kit, _ = kit_of(make, {"requests": 1, "perSeconds": 10})
    await kit.request(head())
    refusal = await kit.request(head(x_request_id="r1"))
    assert isinstance(refusal, Reply)
    headers = dict(refusal.headers)
    assert (refusal.status, headers["retry-after"], headers["ratelimit"]) == (429, "10", '"limit-1";r=0;t=10')
    body = json.loads(refusal.body)
    assert (body["reason"], body["request_id"]) == ("RateLimited", "r1")


async def test_headers_and_status_are_as_configured(make: Any) -> None:
    kit, _ = kit_of(make, {"requests": 1, "perSeconds": 10}, headers=False, status=503)
    assert (await kit.exchange(head())).headers == ()
    refusal = await kit.request(head())
    assert (refusal.status, "ratelimit" in dict(refusal.headers)) == (503, False)


def test_the_schema_refuses_limits_that_make_no_sense(refused: Any) -> None:
    assert refused(RateLimit, {"limits": []})
    assert refused(RateLimit, {"limits": [{"requests": 0, "perSeconds": 1}]})
    assert refused(RateLimit, {"limits": [{"requests": 1, "perSeconds": 0}]})
    assert refused(RateLimit, {"limits": [{"requests": 1, "perSeconds": 1, "by": ["ip"]}]})
    assert refused(RateLimit, {"limits": [{"requests": 1, "perSeconds": 1}], "redis": {"url": "http://x"}})
    assert refused(RateLimit, {"limits": [{"requests": 1, "perSeconds": 1}]}) == ""


# ---- Redis


@pytest.mark.connected
async def test_gateways_share_their_limits_in_redis(make: Any, redis_url: str) -> None:
    limit = {"name": "all", "requests": 10, "perSeconds": 3600}
    redis = {"url": redis_url, "timeoutSeconds": 5, "prefix": "shared"}
    first, _ = kit_of(make, limit, redis=redis, workers=4)
    second, _ = kit_of(make, limit, redis=redis)
    async with first, second:
        counts = await asyncio.gather(*[passed(kit, head(), 4) for kit in (first, second, first, second, first)])
        assert sum(counts) == 10
        refusal = await first.request(head())
        assert isinstance(refusal, Reply)
        assert 350 <= int(dict(refusal.headers)["retry-after"]) <= 360
        assert await passed(second, head("192.0.2.9"), 1) == 1
        response = await second.response(head("192.0.2.9"), ResponseHead(200))
        assert response.header("ratelimit") == '"all";r=9;t=360'


@pytest.mark.connected
async def test_redis_keeps_no_key_that_says_nothing_and_knows_no_clients_text(make: Any, redis_url: str) -> None:
    limits = ({"requests": 100, "perSeconds": 100}, {"requests": 5, "perSeconds": 3600, "by": ["header:x-key"]})
    kit, _ = kit_of(make, *limits, redis={"url": redis_url, "timeoutSeconds": 5, "prefix": "clean"})
    async with kit:
        await kit.request(head(x_key="a}:{b FLUSHALL"))
        client = await kit.context.redis(redis_url)
        names = [name.decode() async for name in client.scan_iter("*clean*")]
        assert len(names) == 2
        assert all(name.startswith("{clean}:") and "FLUSH" not in name for name in names)
        lives = sorted([await client.pttl(name) for name in names])
        assert 0 < lives[0] <= 1002
        assert 3600_00 < lives[1] <= 720_002
        assert await passed(kit, head(x_key="b"), 20) == 5
        assert await passed(kit, head(x_key="b"), 200) == 0
        assert await passed(kit, head(x_key="c"), 1) == 1, "what was refused was charged to none"


@pytest.mark.connected
async def test_the_script_decides_as_the_algorithm_does(make: Any, redis_url: str) -> None:
    kit, _ = kit_of(
        make,
        {"requests": 3600, "perSeconds": 3600, "burst": 10, "costHeader": "x-cost"},
        redis={"url": redis_url, "timeoutSeconds": 5, "prefix": "same"},
    )
    async with kit:
        for cost, left in ((4, 6), (0, 6), (5, 1), (2, 1), (1, 0), (1, 0)):
            await kit.request(head(x_cost=str(cost)))
            response = await kit.response(head(), ResponseHead(200))
            assert f";r={left};" in (response.header("ratelimit") or ""), cost


async def test_without_redis_each_worker_goes_on_with_its_share(make: Any, no_redis_url: str, caplog: Any) -> None:
    kit, clock = kit_of(make, {"requests": 8, "perSeconds": 3600}, redis={"url": no_redis_url}, workers=2)
    async with kit:
        assert await passed(kit, head(), 10) == 4
        assert (await kit.response(head(), ResponseHead(200))).header("ratelimit").startswith('"limit-1";r=0;')
        clock.now += 2
        assert await passed(kit, head(), 1) == 0
    assert [record.levelname for record in caplog.records] == ["WARNING"], "it is said once"
    assert "each worker goes on with its share" in caplog.text


@pytest.mark.connected
async def test_redis_is_taken_up_again_when_it_is_back(
    make: Any, redis_url: str, no_redis_url: str, caplog: Any
) -> None:
    kit, clock = kit_of(
        make, {"requests": 2, "perSeconds": 3600}, redis={"url": redis_url, "timeoutSeconds": 5, "prefix": "back"}
    )
    caplog.set_level("INFO")
    async with kit:
        shared = kit.plugin._shared
        good, shared._script = shared._script, (await kit.context.redis(no_redis_url)).register_script(SCRIPT)
        assert await passed(kit, head(), 3) == 2
        shared._script = good
        assert await passed(kit, head(), 1) == 0, "it is left alone for a second"
        clock.now += 1
        assert await passed(kit, head(), 3) == 2
    assert "available again" in caplog.text


async def test_a_redis_that_never_answers_is_given_up(make: Any, silent_redis_url: str) -> None:
    kit, _ = kit_of(make, {"requests": 1, "perSeconds": 60}, redis={"url": silent_redis_url, "timeoutSeconds": 0.01})
    async with kit:
        assert await passed(kit, head(), 3) == 1
