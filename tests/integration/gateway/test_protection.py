"""What stands between an upstream and its clients: circuits, ejections, health checks, hedges, fallbacks, faults, limits."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from time import monotonic

import pytest
from nexus_core.snapshot import (
    CircuitBreaker,
    Cors,
    DirectReply,
    Fallback,
    Fault,
    HealthCheck,
    Hedge,
    Match,
    Mirror,
    Outlier,
    QueryMatch,
    RateLimit,
    Retry,
    Rule,
    SizeLimit,
    Timeouts,
    Upstream,
    WeightedBackend,
)
from nexus_core.snapshot.policies import HashKey
from nexus_gateway.telemetry import names
from nexus_gateway.testing import Harness, route, rule, simple, snapshot, until, upstream

Peers = Callable[..., Awaitable[int]]
Clients = Callable[..., Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]
Settled = Callable[..., Awaitable[None]]

HOST = b" HTTP/1.1\r\nhost: x\r\n"
GET = b"GET /a" + HOST + b"\r\n"
LAST = b"GET /last" + HOST + b"connection: close\r\n\r\n"
ONCE = Retry(attempts=0)
NO_CIRCUIT = CircuitBreaker(failures=0)


class Service:
    """An upstream whose answers can be changed. status: of its answers; wait_s: before each; got: requests, with bodies."""

    def __init__(self, name: str = "ok") -> None:
        self.name = name.encode()
        self.status = 200
        self.wait_s = 0.0
        self.got: list[bytes] = []
        self.left = 0
        self.body = self.name
        self.lines = b""

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"content-length: (\d+)", head.lower())
            body = await reader.readexactly(int(length[1])) if length else b""
            if b"transfer-encoding: chunked" in head.lower():
                body = await reader.readuntil(b"0\r\n\r\n")
            self.got.append(head + body)
            if self.wait_s:
                leaving = asyncio.ensure_future(reader.read(1))
                done, _ = await asyncio.wait({leaving}, timeout=self.wait_s)
                if done:
                    self.left += 1
                    return
                leaving.cancel()
                await asyncio.gather(leaving, return_exceptions=True)
            writer.write(
                b"HTTP/1.1 %d X\r\n%bcontent-length: %d\r\n\r\n%b"
                % (self.status, self.lines, len(self.body), self.body)
            )


def status_of(answer: bytes) -> int:
    return int(answer.split(b" ")[1])


def reason_of(answer: bytes) -> str:
    found = re.search(rb'"reason": "(\w+)"', answer)
    return found[1].decode() if found else ""


# ---- circuits, ejections, health


async def test_a_service_that_fails_as_a_whole_is_left_alone_and_tried_again(
    harness: Harness, peers: Peers, settled: Settled
) -> None:
    service = Service()
    service.status = 503
    ports = [await peers(service) for _ in range(2)]
    whole = CircuitBreaker(failures=3, reset_s=1.0)
    await harness.start(simple(*ports, service_breaker=whole, breaker=NO_CIRCUIT, retry=ONCE))
    assert [reason_of(await harness.raw(LAST)) for _ in range(5)] == ["", "", "", "CircuitOpen", "CircuitOpen"]
    assert len(service.got) == 3
    service.status = 200
    await asyncio.sleep(1.05)
    assert [status_of(await harness.raw(LAST)) for _ in range(5)] == [200] * 5
    await settled()


async def test_a_probe_whose_client_leaves_gives_its_place_to_another(
    harness: Harness, peers: Peers, clients: Clients, settled: Settled
) -> None:
    """Half-open lets one request through; should nothing come of it, the next one is the probe."""
    service = Service()
    service.status = 503
    whole = CircuitBreaker(failures=1, reset_s=1.0)
    await harness.start(simple(await peers(service), service_breaker=whole, breaker=NO_CIRCUIT, retry=ONCE))
    await harness.raw(LAST)
    service.status, service.wait_s = 200, 30.0
    await asyncio.sleep(1.05)
    _, writer = await clients(GET)
    await until(lambda: len(service.got) == 2)
    assert reason_of(await harness.raw(LAST)) == "CircuitOpen"
    writer.transport.abort()
    await until(lambda: service.left)
    service.wait_s = 0.0
    assert status_of(await harness.raw(LAST)) == 200
    await settled()


async def test_an_endpoint_that_answers_with_errors_is_taken_out_and_comes_back(harness: Harness, peers: Peers) -> None:
    good, bad = Service(), Service()
    bad.status = 500
    policies = {"outlier": Outlier(failures=3, eject_s=2.0), "breaker": NO_CIRCUIT, "retry": ONCE}
    await harness.start(simple(await peers(good), await peers(bad), **policies))
    answers = [status_of(await harness.raw(LAST)) for _ in range(30)]
    assert answers.count(500) == 3
    bad.status = 200
    before = len(bad.got)

    async def back() -> bool:
        await harness.raw(LAST)
        return len(bad.got) > before

    await until(back)


async def test_the_last_endpoint_is_never_ejected(harness: Harness, peers: Peers) -> None:
    bad = Service()
    bad.status = 500
    await harness.start(simple(await peers(bad), outlier=Outlier(failures=1), breaker=NO_CIRCUIT, retry=ONCE))
    assert [status_of(await harness.raw(LAST)) for _ in range(4)] == [500] * 4


async def test_health_checks_over_http_take_endpoints_out_and_back(harness: Harness, peers: Peers) -> None:
    good, sick = Service("good"), Service("sick")
    sick.status = 503
    check = HealthCheck(path="/up", interval_s=0.05, timeout_s=0.5, unhealthy=2, healthy=1)
    await harness.start(simple(await peers(good), await peers(sick), health=check, breaker=NO_CIRCUIT, retry=ONCE))
    assert harness.gateway is not None
    states = harness.gateway.pools.all()["shop/orders"].endpoints
    await until(lambda: [state.healthy for state in states] == [True, False])
    assert [status_of(await harness.raw(LAST)) for _ in range(12)] == [200] * 12
    assert all(b"GET /up " in each for each in sick.got)
    sick.status = 200
    await until(lambda: all(state.healthy for state in states))
    answers = [await harness.raw(LAST) for _ in range(40)]
    assert {answer[-4:] for answer in answers} == {b"good", b"sick"}


async def test_health_checks_over_tcp_want_a_connection(harness: Harness, peers: Peers, unused_tcp_port: int) -> None:
    check = HealthCheck(kind="tcp", interval_s=0.05, timeout_s=0.5, unhealthy=1)
    await harness.start(simple(await peers(Service()), unused_tcp_port, health=check, retry=ONCE))
    assert harness.gateway is not None
    states = harness.gateway.pools.all()["shop/orders"].endpoints
    await until(lambda: [state.healthy for state in states] == [True, False])
    assert [status_of(await harness.raw(LAST)) for _ in range(12)] == [200] * 12


# ---- hedging


async def learn(harness: Harness, count: int = 150) -> None:
    await harness.raw(GET * (count - 1) + LAST, timeout_s=20)


async def test_a_slow_answer_is_overtaken_by_a_second_request_and_the_first_called_off(
    harness: Harness, peers: Peers, settled: Settled
) -> None:
    first, second = Service("one"), Service("two")
    policies = {"hedge": Hedge(percentile=0.9, budget_ratio=1.0), "breaker": NO_CIRCUIT}
    await harness.start(simple(await peers(first), await peers(second), **policies))
    await learn(harness)
    await asyncio.sleep(1.1)  # the percentile is worked out once a second
    first.wait_s = 20.0
    begun = monotonic()
    answers = [await harness.raw(LAST) for _ in range(8)]
    assert monotonic() - begun < 10.0
    assert all(answer.endswith(b"two") for answer in answers)
    await until(lambda: first.left)
    await settled()


@pytest.mark.parametrize("answers", [True, False], ids=["one answers", "none does"])
async def test_the_trace_of_a_hedged_request_has_both_attempts(
    harness: Harness, peers: Peers, settled: Settled, answers: bool
) -> None:
    services = [Service("one"), Service("two")]
    policies = {
        "hedge": Hedge(percentile=0.9, budget_ratio=1.0),
        "timeouts": Timeouts(request_s=0.6),
        "breaker": NO_CIRCUIT,
        "retry": ONCE,
    }
    await harness.start(simple(*[await peers(each) for each in services], **policies), trace_ratio=1.0)
    await learn(harness)
    await asyncio.sleep(1.1)  # the percentile is worked out once a second
    for each in services if not answers else services[:1]:
        each.wait_s = 20.0
    hedged = 0
    for _ in range(6 if answers else 1):
        assert (await harness.raw(LAST)).startswith(b"HTTP/1.1 200" if answers else b"HTTP/1.1 504")
        (trace,) = (await harness.ask("/traces?limit=1"))["traces"]
        (request,) = trace["spans"]
        shown = request["attributes"]
        assert shown.get("nexus.retries", 0) == 0
        if shown.get("nexus.hedges", 0):
            hedged += 1
            assert [each["kind"] for each in request["children"]] == ["client", "client"]
    assert hedged, "at least one began where no answer comes from"
    await settled()


async def test_hedges_keep_to_their_budget(harness: Harness, peers: Peers, clients: Clients, settled: Settled) -> None:
    services = [Service(), Service()]
    policies = {"hedge": Hedge(percentile=0.9, budget_ratio=0.02), "breaker": NO_CIRCUIT, "retry": ONCE}
    await harness.start(simple(*[await peers(each) for each in services], **policies))
    await learn(harness)
    await asyncio.sleep(1.1)
    asked = sum(len(each.got) for each in services)
    for each in services:
        each.wait_s = 0.3
    held = [await clients(GET) for _ in range(20)]
    async with asyncio.timeout(10):
        for reader, writer in held:
            await reader.readuntil(b"ok")
            writer.close()
    more = sum(len(each.got) for each in services) - asked
    assert 20 < more <= 20 + 0.02 * (asked + 20) + 1
    await settled()


async def test_what_is_not_idempotent_is_not_hedged(harness: Harness, peers: Peers, clients: Clients) -> None:
    services = [Service(), Service()]
    policies = {"hedge": Hedge(percentile=0.9, budget_ratio=1.0), "breaker": NO_CIRCUIT, "retry": ONCE}
    await harness.start(simple(*[await peers(each) for each in services], **policies))
    await learn(harness)
    await asyncio.sleep(1.1)
    for each in services:
        each.wait_s = 0.3
    asked = sum(len(each.got) for each in services)
    await harness.raw(b"POST /a" + HOST + b"connection: close\r\ncontent-length: 2\r\n\r\nhi")
    assert sum(len(each.got) for each in services) == asked + 1


# ---- fallbacks, faults, direct replies, matches


async def test_a_fallback_upstream_answers_for_one_that_is_away(
    harness: Harness, peers: Peers, settled: Settled, unused_tcp_port: int
) -> None:
    other = Service("instead")
    fallback = Fallback("shop/other", DirectReply(200, "sorry"))
    await harness.start(
        snapshot(
            route(rule("shop/orders", filters=(fallback,))),
            upstream(unused_tcp_port, breaker=NO_CIRCUIT),
            upstream(await peers(other), upstream_id="shop/other"),
        )
    )
    assert (await harness.raw(LAST)).endswith(b"instead")
    body = b"POST /a" + HOST + b"connection: close\r\ncontent-length: 2\r\n\r\nhi"
    assert (await harness.raw(body)).endswith(b"instead"), "nothing of it was sent before"
    assert other.got[-1].endswith(b"\r\n\r\nhi")
    await settled()


async def test_a_fallback_is_not_sent_what_the_first_may_have_carried_out(harness: Harness, peers: Peers) -> None:
    other = Service("instead")

    async def breaks(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")

    fallback = Fallback("shop/other", DirectReply(202, "sorry"))
    await harness.start(
        snapshot(
            route(rule("shop/orders", filters=(fallback,))),
            upstream(await peers(breaks)),
            upstream(await peers(other), upstream_id="shop/other"),
        )
    )
    answer = await harness.raw(b"POST /a" + HOST + b"connection: close\r\ncontent-length: 2\r\n\r\nhi")
    assert (status_of(answer), answer.endswith(b"sorry"), other.got) == (202, True, [])


async def test_a_fallback_reply_stands_in_when_its_upstream_fails_too(harness: Harness, unused_tcp_port: int) -> None:
    fallback = Fallback("shop/other", DirectReply(200, '{"items": []}', "application/json"))
    away = [upstream(unused_tcp_port), upstream(unused_tcp_port, upstream_id="shop/other")]
    await harness.start(snapshot(route(rule("shop/orders", filters=(fallback,))), *away))
    answer = await harness.raw(LAST)
    assert status_of(answer) == 200
    assert b"content-type: application/json" in answer
    assert answer.endswith(b'{"items": []}')


async def test_an_answer_of_the_upstream_is_its_own_business(harness: Harness, peers: Peers) -> None:
    service = Service("its own")
    service.status = 503
    fallback = Fallback(reply=DirectReply(200, "sorry"))
    await harness.start(
        snapshot(route(rule("shop/orders", filters=(fallback,))), upstream(await peers(service), retry=ONCE))
    )
    assert (await harness.raw(LAST)).endswith(b"its own")


async def test_faults_delay_and_answer_on_purpose(harness: Harness, peers: Peers, settled: Settled) -> None:
    service = Service()
    rules = [
        rule("shop/orders", rule_id="r/0", path="/slow", filters=(Fault(delay_s=0.2, delay_ratio=1.0),)),
        rule("shop/orders", rule_id="r/1", path="/fails", filters=(Fault(abort_status=418, abort_ratio=1.0),)),
        rule("shop/orders", rule_id="r/2", path="/never", filters=(Fault(delay_s=9, abort_status=418),)),
    ]
    await harness.start(snapshot(route(*rules), upstream(await peers(service))))
    begun = monotonic()
    assert status_of(await harness.raw(LAST.replace(b"/last", b"/slow"))) == 200
    assert 0.2 <= monotonic() - begun < 3.0
    assert status_of(await harness.raw(LAST.replace(b"/last", b"/fails"))) == 418
    assert status_of(await harness.raw(LAST.replace(b"/last", b"/never"))) == 200
    assert len(service.got) == 2
    await settled()


async def test_a_client_that_leaves_during_a_fault_leaves_nothing(
    harness: Harness, clients: Clients, settled: Settled
) -> None:
    await harness.start(
        snapshot(route(rule("shop/orders", filters=(Fault(delay_s=20, delay_ratio=1.0),))), upstream(1))
    )
    _, writer = await clients(GET)
    assert harness.gateway is not None
    proxy = harness.gateway.proxy
    await until(lambda: proxy.in_flight == 1)
    writer.transport.abort()
    await settled()


async def test_a_direct_reply_needs_no_upstream(harness: Harness) -> None:
    reply = DirectReply(200, "väl", "text/plain; charset=utf-8")
    await harness.start(snapshot(route(rule(path="/hello", filters=(reply,)))))
    answer = await harness.raw(
        (b"GET /hello" + HOST + b"\r\n") + (b"HEAD /hello" + HOST + b"connection: close\r\n\r\n")
    )
    first, second = answer.split(b"HTTP/1.1 200 OK\r\n")[1:]
    assert b"content-length: 4" in first
    assert first.endswith("väl".encode())
    assert b"content-length: 4" in second
    assert second.endswith(b"\r\n\r\n")


async def test_queries_and_expressions_choose_rules(harness: Harness, peers: Peers) -> None:
    names = ("beta", "item", "other")
    backends = [upstream(await peers(Service(name)), upstream_id=f"shop/{name}") for name in names]
    rules = [
        rule("shop/beta", rule_id="r/0", matches=(Match("/", query=(QueryMatch("v", "beta"),)),)),
        rule("shop/item", rule_id="r/1", matches=(Match(r"/items/[0-9]+", "regex"),)),
        rule("shop/other", rule_id="r/2"),
    ]
    await harness.start(snapshot(route(*rules), *backends))
    asked = {
        b"/x?a=1&v=beta": b"beta", b"/x?v=be%74a": b"beta", b"/x?v=betas": b"other", b"/items/12": b"item",
        b"/items/a": b"other", b"/items/12/x": b"other", b"/": b"other",
    }  # fmt: skip
    for target, name in asked.items():
        assert (await harness.raw(LAST.replace(b"/last", target))).endswith(name), target


# ---- limits


async def test_requests_beyond_a_rate_are_told_when_to_come_again(harness: Harness, peers: Peers) -> None:
    service = Service()
    await harness.start(
        snapshot(route(rule("shop/orders", filters=(RateLimit("few", 3, per_s=60.0),))), upstream(await peers(service)))
    )
    answers = [await harness.raw(LAST) for _ in range(5)]
    assert [status_of(answer) for answer in answers] == [200, 200, 200, 429, 429]
    found = re.search(rb"\r\nretry-after: (\d+)\r\n", answers[-1])
    assert found is not None
    assert 15 <= int(found[1]) <= 60
    assert len(service.got) == 3


async def test_a_keyed_rate_is_each_keys_own_and_outlives_a_swap(harness: Harness, peers: Peers) -> None:
    port = await peers(Service())
    limit = RateLimit("each", 2, per_s=60.0, key=(HashKey("header", "x-user"),))
    await harness.start(snapshot(route(rule("shop/orders", filters=(limit,))), upstream(port)))

    async def ask(user: bytes) -> int:
        return status_of(await harness.raw(GET[:-2] + b"connection: close\r\nx-user: " + user + b"\r\n\r\n"))

    assert [await ask(b"a") for _ in range(3)] == [200, 200, 429]
    assert [await ask(b"b") for _ in range(3)] == [200, 200, 429]
    both = route(rule("shop/orders", filters=(limit,)), rule("shop/orders", rule_id="r/1", path="/more"))
    await harness.publish(snapshot(both, upstream(port)))
    assert await ask(b"a") == 429
    assert await ask(b"c") == 200


async def test_bodies_beyond_a_size_are_refused_announced_or_not(
    harness: Harness, peers: Peers, clients: Clients, settled: Settled
) -> None:
    service = Service()
    await harness.start(
        snapshot(route(rule("shop/orders", filters=(SizeLimit(request_bytes=100),))), upstream(await peers(service)))
    )
    assert (
        status_of(
            await harness.raw(b"POST /a" + HOST + b"connection: close\r\ncontent-length: 100\r\n\r\n" + b"x" * 100)
        )
        == 200
    )
    assert status_of(await harness.raw(b"POST /a" + HOST + b"content-length: 101\r\n\r\n")) == 413
    reader, writer = await clients(
        b"POST /a" + HOST + b"transfer-encoding: chunked\r\n\r\n32\r\n" + b"x" * 50 + b"\r\n"
    )
    await asyncio.sleep(0.05)
    writer.write(b"64\r\n" + b"x" * 100 + b"\r\n")
    async with asyncio.timeout(5):
        assert status_of(await reader.read()) == 413
    writer.close()
    await settled()


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n" + b"x" * 100, 200),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 101\r\n\r\n" + b"x" * 101, 502),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nc8\r\n" + b"x" * 200 + b"\r\n0\r\n\r\n", 502),
    ],
    ids=["fits", "announced", "chunked"],
)
async def test_answers_beyond_a_size_are_refused(
    harness: Harness, peers: Peers, settled: Settled, answer: bytes, status: int
) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await reader.read(-1)

    await harness.start(
        snapshot(route(rule("shop/orders", filters=(SizeLimit(response_bytes=100),))), upstream(await peers(serve)))
    )
    assert status_of(await harness.raw(LAST)) == status
    await settled()


async def test_an_answer_that_grows_beyond_its_size_is_broken_off(
    harness: Harness, peers: Peers, settled: Settled
) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n32\r\n" + b"x" * 50 + b"\r\n")
        await asyncio.sleep(0.05)
        writer.write(b"64\r\n" + b"x" * 100 + b"\r\n0\r\n\r\n")
        await reader.read(-1)

    await harness.start(
        snapshot(route(rule("shop/orders", filters=(SizeLimit(response_bytes=100),))), upstream(await peers(serve)))
    )
    answer = await harness.raw(LAST)
    assert not answer.endswith(b"0\r\n\r\n")
    assert answer.count(b"x") <= 51
    await settled()


# ---- mirrors


def mirrored(main: int, copy: int, ratio: float = 1.0, **policies: object) -> tuple[Rule, Upstream, Upstream]:
    return (
        rule("shop/orders", filters=(Mirror("shop/copy", ratio),)),
        upstream(main),
        upstream(copy, upstream_id="shop/copy", **policies),
    )


async def test_a_mirror_gets_what_the_upstream_gets_and_the_client_the_upstreams_answer(
    harness: Harness, peers: Peers, settled: Settled
) -> None:
    main, copy = Service("main"), Service("copy")
    copy.status = 500
    made, *both = mirrored(await peers(main), await peers(copy))
    await harness.start(snapshot(route(made), *both))
    answer = await harness.raw(
        b"POST /a?b=c" + HOST + b"x-own: 1\r\ncontent-length: 5\r\nconnection: close\r\n\r\nhello"
    )
    assert answer.endswith(b"main")
    await until(lambda: copy.got)
    assert copy.got[0].startswith(b"POST /a?b=c HTTP/1.1\r\n")
    assert b"x-own: 1" in copy.got[0]
    assert copy.got[0].endswith(b"\r\n\r\nhello")
    await settled()


async def test_a_copy_of_a_request_without_a_host_has_one(harness: Harness, peers: Peers, settled: Settled) -> None:
    main, copy = Service("main"), Service("copy")
    made, *both = mirrored(await peers(main), await peers(copy))
    await harness.start(snapshot(route(made), *both))
    assert (await harness.raw(b"GET /a HTTP/1.0\r\n\r\n")).endswith(b"main")
    await until(lambda: copy.got)
    assert re.search(rb"\r\nhost: 127\.0\.0\.1:\d+\r\n", copy.got[0].lower())
    await settled()


async def test_a_share_of_requests_is_mirrored(harness: Harness, peers: Peers, settled: Settled) -> None:
    main, copy = Service("main"), Service("copy")
    made, *both = mirrored(await peers(main), await peers(copy), 0.25)
    await harness.start(snapshot(route(made), *both))
    await harness.raw(GET * 99 + LAST)
    await settled()
    assert len(copy.got) == 25


@pytest.mark.parametrize("how", ["away", "silent", "resetting"])
async def test_a_dead_mirror_costs_nothing(
    harness: Harness, peers: Peers, settled: Settled, unused_tcp_port: int, how: str
) -> None:
    async def dead(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if how == "resetting":
            writer.transport.abort()
        await reader.read(-1)

    main = Service("main")
    port = unused_tcp_port if how == "away" else await peers(dead)
    made, *both = mirrored(await peers(main), port, timeouts=Timeouts(request_s=0.5))
    await harness.start(snapshot(route(made), *both))
    begun = monotonic()
    answer = await harness.raw(GET * 49 + LAST)
    assert monotonic() - begun < 3.0
    assert answer.count(b"HTTP/1.1 200") == 50
    await settled()


@pytest.mark.parametrize("apart", [False, True], ids=["in one piece", "behind its head"])
async def test_a_small_body_is_copied_however_it_comes(
    harness: Harness, peers: Peers, clients: Clients, apart: bool
) -> None:
    got: list[bytes] = []

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        got.append(await reader.readexactly(5))
        writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")

    await harness.start(
        snapshot(
            route(rule("shop/orders", filters=(Mirror("shop/copy"),))),
            upstream(await peers(Service())),
            upstream(await peers(copy), upstream_id="shop/copy"),
        )
    )
    reader, writer = await clients(b"POST /a" + HOST + b"content-length: 5\r\n\r\n" + (b"" if apart else b"hello"))
    if apart:
        await asyncio.sleep(0.05)
        writer.write(b"hello")
    async with asyncio.timeout(5):
        await reader.readuntil(b"ok")
    await until(lambda: got, 3)
    assert got == [b"hello"]


async def test_a_body_of_unknown_length_is_copied_when_it_is_over_and_waits_for_nobody(
    harness: Harness, peers: Peers, clients: Clients, settled: Settled
) -> None:
    pieces = [b"5\r\nhello\r\n", b"6\r\n world\r\n", b"0\r\n\r\n"]
    got: list[bytes] = []
    taken = bytearray()

    async def main(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        while not taken.endswith(b"0\r\n\r\n"):
            taken.extend(await reader.read(1000))
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        got.append(await reader.readuntil(b"0\r\n\r\n"))
        writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")

    made, *both = mirrored(await peers(main), await peers(copy))
    await harness.start(snapshot(route(made), *both))
    reader, writer = await clients(b"POST /a" + HOST + b"transfer-encoding: chunked\r\n\r\n")
    for count, piece in enumerate(pieces, 1):
        writer.write(piece)
        await until(lambda count=count: bytes(taken) == b"".join(pieces[:count]))  # type: ignore[misc]
    async with asyncio.timeout(5):
        await reader.readuntil(b"ok")
    await until(lambda: got, 3)
    assert got == [b"".join(pieces)]
    await settled(clients=False)


async def test_a_body_that_breaks_off_is_not_copied_and_counts_as_failed(
    harness: Harness, peers: Peers, clients: Clients, settled: Settled
) -> None:
    main, copy = Service("main"), Service("copy")
    made, *both = mirrored(await peers(main), await peers(copy))
    gateway = await harness.start(snapshot(route(made), *both))
    _, writer = await clients(b"POST /a" + HOST + b"transfer-encoding: chunked\r\n\r\n5\r\nhel")
    await until(lambda: gateway.proxy.in_flight == 1)
    writer.transport.abort()
    await settled()
    failed = gateway.measurements.tally(names.MIRRORED, "shop/copy", "failed")
    assert (failed.value, copy.got) == (1.0, [])


async def test_a_fallback_is_not_mirrored_again(harness: Harness, peers: Peers) -> None:
    copies = 0

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal copies
        while await reader.readuntil(b"\r\n\r\n"):
            copies += 1
            writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")

    async def broken(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")

    await harness.start(
        snapshot(
            route(rule("shop/orders", filters=(Mirror("shop/copy"), Fallback("shop/other")))),
            upstream(await peers(broken), retry=Retry(attempts=0)),
            upstream(await peers(Service()), upstream_id="shop/other"),
            upstream(await peers(copy), upstream_id="shop/copy"),
        )
    )
    assert (await harness.raw(LAST)).endswith(b"ok")
    await asyncio.sleep(0.1)
    assert copies == 1


# ---- cross-origin requests

SHARED = Cors(("https://*.shop.example",), ("GET", "PUT"), ("x-token",), ("x-total",), credentials=True, max_age_s=60)


async def test_a_preflight_is_answered_here(harness: Harness, peers: Peers) -> None:
    service = Service()
    await harness.start(snapshot(route(rule("shop/orders", filters=(SHARED,))), upstream(await peers(service))))
    asked = (
        b"OPTIONS /a" + HOST + b"access-control-request-method: PUT\r\naccess-control-request-headers: x-token\r\n"
        b"connection: close\r\norigin: "
    )
    answer = await harness.raw(asked + b"https://web.shop.example\r\n\r\n")
    assert status_of(answer) == 200
    for line in (
        b"access-control-allow-origin: https://web.shop.example", b"access-control-allow-credentials: true",
        b"access-control-allow-methods: GET, PUT", b"access-control-allow-headers: x-token", b"access-control-max-age: 60",
    ):  # fmt: skip
        assert line + b"\r\n" in answer
    answer = await harness.raw(asked + b"https://evil.example\r\n\r\n")
    assert status_of(answer) == 403
    assert b"access-control-allow-origin" not in answer
    assert service.got == []


async def test_answers_say_who_may_read_them_also_the_gateways_own(harness: Harness, peers: Peers) -> None:
    service = Service()
    service.lines = b"access-control-allow-origin: *\r\nx-total: 1\r\n"
    filters = (SHARED, RateLimit("once", 1, per_s=60.0))
    await harness.start(snapshot(route(rule("shop/orders", filters=filters)), upstream(await peers(service))))
    asked = GET[:-2] + b"connection: close\r\norigin: https://web.shop.example\r\n\r\n"
    for status in (200, 429):
        answer = await harness.raw(asked)
        assert status_of(answer) == status
        assert answer.count(b"access-control-allow-origin") == 1
        assert b"access-control-allow-origin: https://web.shop.example\r\n" in answer
        assert b"access-control-expose-headers: x-total\r\n" in answer
        assert b"vary: origin\r\n" in answer


async def test_a_weighted_backend_that_is_gone_costs_its_share_alone(harness: Harness, peers: Peers) -> None:
    made = rule(WeightedBackend("shop/orders", 1), WeightedBackend("", 1))
    await harness.start(snapshot(route(made), upstream(await peers(Service()))))
    answer = await harness.raw(GET * 9 + LAST)
    assert (answer.count(b"HTTP/1.1 200"), answer.count(b"HTTP/1.1 500")) == (5, 5)
