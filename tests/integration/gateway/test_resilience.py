"""Retries, breakers, budgets, discovery and swaps on real sockets."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import pytest
from aiohttp import web
from nexus_core.discovery import Endpoint
from nexus_core.snapshot import CircuitBreaker, Discovered, Retry, Snapshot, Timeouts, Upstream
from nexus_gateway.telemetry import names
from nexus_gateway.testing import Harness, route, rule, simple, snapshot, until, upstream
from nexus_sdk.discovery.memory import MemoryDiscovery


class Counting:
    """Answers with the statuses given, then 200; keeps the bodies."""

    def __init__(self, *statuses: int) -> None:
        self.statuses = list(statuses)
        self.bodies: list[bytes] = []

    async def handle(self, request: web.Request) -> web.Response:
        self.bodies.append(await request.read())
        return web.Response(status=self.statuses.pop(0) if self.statuses else 200)


async def resetting(request: web.Request) -> web.Response:
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


async def test_a_dead_endpoint_costs_no_request_whatever_the_method(harness: Harness, unused_tcp_port: int) -> None:
    """A failed connect sent nothing: even POST, even with a streamed body, goes to the other endpoint."""
    live = Counting()
    await harness.start(simple(unused_tcp_port, await harness.upstreams.start(live.handle)))

    async def pieces() -> Any:
        yield b"streamed"

    for method, data in (("GET", None), ("POST", b"x"), ("POST", pieces()), ("DELETE", None)) * 3:
        body = pieces() if data is not None and not isinstance(data, bytes) else data
        async with harness.client.request(method, harness.url("/"), data=body) as response:
            assert response.status == 200
    assert live.bodies.count(b"streamed") == 3


@pytest.mark.parametrize(
    ("method", "size", "attempts"),
    [("GET", 0, 3), ("PUT", 100, 3), ("PUT", 1_000_000, 1), ("POST", 100, 1)],
    ids=["no body", "held body", "body too large to hold", "not idempotent"],
)
async def test_503_is_repeated_only_when_the_request_may_be(
    harness: Harness, method: str, size: int, attempts: int
) -> None:
    live = Counting(503, 503)
    await harness.start(simple(await harness.upstreams.start(live.handle)))
    async with harness.client.request(method, harness.url("/"), data=b"x" * size or None) as response:
        assert response.status == (200 if attempts == 3 else 503)
    assert live.bodies == [b"x" * size] * attempts


async def test_a_reset_is_repeated_for_idempotent_requests_alone(harness: Harness) -> None:
    calls = 0

    async def once(request: web.Request) -> web.Response:
        nonlocal calls
        calls += 1
        return await resetting(request) if calls == 1 else web.Response()

    await harness.start(simple(await harness.upstreams.start(once)))
    async with harness.client.get(harness.url("/")) as response:
        assert (response.status, calls) == (200, 2)
    calls = 0
    async with harness.client.post(harness.url("/"), data=b"pay") as response:
        assert (response.status, (await response.json())["reason"], calls) == (502, "UpstreamReset", 1)


async def test_a_try_that_takes_too_long_is_given_up_for_another(harness: Harness) -> None:
    calls = 0

    async def slow_once(request: web.Request) -> web.Response:
        nonlocal calls
        calls += 1
        if calls == 1:
            await asyncio.sleep(30)
        return web.Response()

    policies = {"timeouts": Timeouts(try_s=0.2), "retry": Retry(on=("timeout",))}
    await harness.start(simple(await harness.upstreams.start(slow_once), **policies))
    async with asyncio.timeout(5), harness.client.get(harness.url("/")) as response:
        assert response.status == 200
        assert calls >= 2


async def test_an_open_circuit_refuses_at_once_and_one_probe_closes_it(harness: Harness) -> None:
    live = Counting(*[500, 503, 503, 503])
    policies = {"breaker": CircuitBreaker(failures=3, reset_s=1.0), "retry": Retry(attempts=0)}
    await harness.start(simple(await harness.upstreams.start(live.handle), **policies))
    statuses = [await _status(harness) for _ in range(4)]
    assert statuses == [500, 503, 503, 503]  # 500 is an answer, not a failure
    async with harness.client.get(harness.url("/")) as response:
        assert (response.status, (await response.json())["reason"]) == (503, "CircuitOpen")
    assert len(live.bodies) == 4
    (row,) = (await harness.ask("/breakers"))["breakers"]
    assert row["state"] == "open"
    async with harness.client.get(harness.admin("/metrics")) as response:
        assert 'nexus_gateway_endpoint_circuit_open{endpoint="127.0.0.1:' in await response.text()
    await asyncio.sleep(1.05)  # the breaker's own open time, on its own clock
    assert await _status(harness) == 200
    (row,) = (await harness.ask("/breakers"))["breakers"]
    assert row["state"] == "closed"


async def _status(harness: Harness, path: str = "/") -> int:
    async with harness.client.get(harness.url(path)) as response:
        await response.read()
        return response.status


async def test_endpoint_state_survives_a_swap(harness: Harness) -> None:
    port = await harness.upstreams.start(Counting(*[503] * 3).handle)
    policies = {"breaker": CircuitBreaker(failures=3, reset_s=60), "retry": Retry(attempts=0)}
    await harness.start(simple(port, **policies))
    for _ in range(3):
        await _status(harness)
    changed = snapshot(
        route(rule("shop/orders", path="/new")), upstream(port, **{**policies, "timeouts": Timeouts(request_s=3)})
    )
    await harness.publish(changed)
    async with harness.client.get(harness.url("/new")) as response:
        assert (await response.json())["reason"] == "CircuitOpen"


async def test_retries_stop_when_the_budget_is_spent(harness: Harness) -> None:
    live = Counting(*[503] * 200)
    policies = {"breaker": CircuitBreaker(failures=1000), "retry": Retry(attempts=1, budget_ratio=0.0)}
    await harness.start(simple(await harness.upstreams.start(live.handle), **policies))
    for _ in range(30):
        await _status(harness)
    assert len(live.bodies) == 30 + 10  # the floor of the window, see resilience/budgets.py
    async with harness.client.get(harness.admin("/metrics")) as response:
        assert 'nexus_gateway_retry_budget_exhausted_total{upstream="shop/orders"} 20.0' in await response.text()


def discovered(**policies: Any) -> Snapshot:
    return snapshot(
        route(rule("shop/orders")),
        Upstream("shop/orders", "NexusService shop/orders", Discovered("orders.shop"), **policies),
    )


async def test_endpoints_follow_discovery(harness: Harness) -> None:
    discovery = harness.discovery = MemoryDiscovery()
    one, two = Counting(), Counting()
    ports = [await harness.upstreams.start(each.handle) for each in (one, two)]
    discovery.set("orders.shop", [Endpoint("127.0.0.1", ports[0])])
    await harness.start(discovered())
    assert await _status(harness) == 200
    discovery.set("orders.shop", [Endpoint("127.0.0.1", ports[1])])
    async with asyncio.timeout(5):
        while not two.bodies:
            assert await _status(harness) == 200
    seen = len(one.bodies)
    assert await _status(harness) == 200
    assert len(one.bodies) == seen


async def test_a_request_waits_for_the_first_endpoint_and_not_for_ever(harness: Harness) -> None:
    discovery = harness.discovery = MemoryDiscovery()
    port = await harness.upstreams.start(Counting().handle)
    await harness.start(discovered(), endpoints_wait_s=0.3)
    async with harness.client.get(harness.url("/")) as response:
        assert (response.status, (await response.json())["reason"]) == (503, "NoEndpoints")
        assert response.headers["Retry-After"] == "1"
    waiting = asyncio.create_task(_status(harness))
    await asyncio.sleep(0.05)
    discovery.set("orders.shop", [Endpoint("127.0.0.1", port)])
    assert await waiting == 200


async def test_no_request_fails_while_routes_and_endpoints_change(harness: Harness) -> None:
    discovery = harness.discovery = MemoryDiscovery()
    ports = [await harness.upstreams.start(Counting().handle) for _ in range(3)]
    discovery.set("orders.shop", [Endpoint("127.0.0.1", ports[0])])
    await harness.start(discovered())
    stop = asyncio.Event()

    async def load() -> int:
        done = 0
        while not stop.is_set():
            assert await _status(harness) == 200
            done += 1
        return done

    workers = [asyncio.create_task(load()) for _ in range(8)]
    for number in range(20):
        discovery.set("orders.shop", [Endpoint("127.0.0.1", port) for port in ports[: number % 3 + 1]])
        rules = [rule("shop/orders")] + [rule("shop/orders", path=f"/x{number}", rule_id="r/1")] * (number % 2)
        await harness.publish(snapshot(route(*rules), discovered().upstreams[0]))
        for _ in range(3):
            assert await _status(harness) == 200
    stop.set()
    assert all(count > 3 for count in await asyncio.gather(*workers))


async def test_a_snapshot_that_cannot_run_leaves_the_live_one(harness: Harness) -> None:
    good = simple(await harness.upstreams.start(Counting().handle))
    gateway = await harness.start(good)
    await harness.source.publish(snapshot(route(rule("shop/orders", plugins=("no/such",))), upstream(1)))
    await until(lambda: gateway.measurements.swap_failures.value == 1.0)
    assert await _status(harness) == 200
    await harness.publish(good)
    assert await _status(harness) == 200


@pytest.mark.parametrize("status", [404, 429, 500, 507])
@pytest.mark.parametrize("named", [True, False])
async def test_answers_with_a_status_that_the_policy_names_are_repeated(
    harness: Harness, status: int, named: bool
) -> None:
    live = Counting(status, status)
    retry = Retry(on=(str(status),)) if named else Retry()
    gateway = await harness.start(simple(await harness.upstreams.start(live.handle), retry=retry))
    async with harness.client.get(harness.url("/")) as response:
        assert response.status == (200 if named else status)
    assert len(live.bodies) == (3 if named else 1)
    live.statuses = [status]
    async with harness.client.post(harness.url("/")) as response:
        assert response.status == status, "a POST is not repeated"
    assert all(state.breaker.state == "closed" for state in gateway.pools.all()["shop/orders"].endpoints)


async def test_answers_that_are_not_passed_on_are_counted_as_attempts(harness: Harness) -> None:
    live = Counting(503, 429)
    gateway = await harness.start(simple(await harness.upstreams.start(live.handle), retry=Retry(on=("429", "503"))))
    async with harness.client.get(harness.url("/")) as response:
        assert response.status == 200
    counted = {
        outcome: gateway.measurements.tally(names.ATTEMPTS, "shop/orders", outcome).value
        for outcome in ("answered", "503")
    }
    assert counted == {"answered": 2.0, "503": 1.0}


async def test_no_retry_begins_before_the_policys_backoff(harness: Harness) -> None:
    seen: list[float] = []

    async def busy(request: web.Request) -> web.Response:
        seen.append(asyncio.get_running_loop().time())
        return web.Response(status=503 if len(seen) < 3 else 200)

    await harness.start(simple(await harness.upstreams.start(busy), retry=Retry(backoff_s=0.2)))
    async with harness.client.get(harness.url("/")) as response:
        assert response.status == 200
    assert min(after - before for before, after in itertools.pairwise(seen)) >= 0.2
