"""The checker against real servers: endpoints go out and come back, checks change, workers take over, everything ends."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from random import Random

import pytest
from aiohttp import web
from nexus_core.discovery import Endpoint
from nexus_core.snapshot import CircuitBreaker, HealthCheck, StaticAddresses, Upstream, UpstreamTls
from nexus_gateway.edge.health import checker as checkers
from nexus_gateway.edge.health.checker import Checked, Checker
from nexus_gateway.edge.tls.origination import Originations
from nexus_gateway.resilience.endpoints import EndpointRegistry, EndpointState
from nexus_gateway.testing import until

CHECK = HealthCheck(path="/healthz", interval_s=0.1, timeout_s=0.5, unhealthy=2, healthy=2)
ID = "shop/orders"


def orders(check: HealthCheck | None = CHECK, tls: UpstreamTls | None = None) -> Upstream:
    return Upstream(ID, "NexusService shop/orders", StaticAddresses(()), health=check, tls=tls)


class Pool:
    """The endpoints of an upstream, as the gateway's pool has them."""

    def __init__(self) -> None:
        self.endpoints: tuple[EndpointState, ...] = ()


class Pools:
    """Pools with real endpoint states. changes: upstreams that were told of."""

    def __init__(self) -> None:
        self.registry = EndpointRegistry()
        self.pools: dict[str, Pool] = {}
        self.changes: list[str] = []

    def set(self, *endpoints: Endpoint, upstream: str = ID) -> tuple[EndpointState, ...]:
        pool = self.pools.setdefault(upstream, Pool())
        pool.endpoints = self.registry.update(upstream, endpoints, CircuitBreaker(), 0.0)
        return pool.endpoints

    def all(self) -> Mapping[str, Pool]:
        return self.pools

    def changed(self, upstream: str) -> None:
        self.changes.append(upstream)


class Service:
    """A service whose health can be set. asked: how often, by path."""

    def __init__(self) -> None:
        self.port = 0
        self.status = 200
        self.asked: dict[str, int] = {}
        self.running = 0
        self.most = 0
        self.hanging = False

    async def handle(self, request: web.Request) -> web.Response:
        self.asked[request.path] = self.asked.get(request.path, 0) + 1
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            if self.hanging or request.path == "/hang":
                await asyncio.sleep(60)
            return web.Response(status=200 if request.path == "/good" else self.status)
        finally:
            self.running -= 1


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    made = Service()
    runner = web.ServerRunner(web.Server(made.handle, handler_cancellation=True), shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    made.port = runner.addresses[0][1]
    yield made
    await runner.cleanup()


@pytest.fixture
def pools() -> Pools:
    return Pools()


Make = Callable[..., Checker]


@pytest.fixture
async def make(pools: Pools) -> AsyncIterator[Make]:
    """Makes checkers, and shows at the end that they leave no task behind."""
    made: list[Checker] = []

    def build(*, active: bool = True, publish: checkers.Publish | None = None) -> Checker:
        made.append(Checker(pools, active=active, tls=Originations().context, publish=publish, rng=Random(1)))
        return made[-1]

    yield build
    for each in made:
        await each.close()
    assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("probe ")]


async def test_an_endpoint_goes_out_and_comes_back(pools: Pools, make: Make, service: Service) -> None:
    told: list[tuple[str, str, bool]] = []
    (state,) = pools.set(Endpoint("127.0.0.1", service.port))
    checker = make(publish=lambda upstream, each, healthy: told.append((upstream, each.authority, healthy)))
    checker.follow([orders()])
    await until(lambda: service.asked.get("/healthz"))
    assert state.healthy
    assert pools.changes == [], "a verdict that changes nothing is not told"
    service.status = 503
    await until(lambda: not state.healthy)
    assert next(checker.verdicts())[2].detail == "status 503"
    service.status = 200
    await until(lambda: state.healthy)
    assert pools.changes == [ID, ID]
    assert told == [(ID, state.authority, False), (ID, state.authority, True)]


async def test_probes_may_have_a_port_of_their_own(pools: Pools, make: Make, service: Service) -> None:
    (state,) = pools.set(Endpoint("127.0.0.1", 1))
    checker = make()
    checker.follow([orders(HealthCheck(port=service.port, interval_s=0.1))])
    await until(lambda: [known for _, _, known in checker.verdicts() if known.known])
    assert state.healthy


async def test_an_unchanged_check_keeps_its_counts_through_a_reload(pools: Pools, make: Make, service: Service) -> None:
    service.status = 500
    patient = HealthCheck(interval_s=0.1, unhealthy=1000)
    (state,) = pools.set(Endpoint("127.0.0.1", service.port))
    checker = make()
    checker.follow([orders(patient)])
    ((_, _, known),) = await seen(checker)
    await until(lambda: known.failed >= 3)
    pools.set(Endpoint("127.0.0.1", service.port))  # the same endpoint in a new tuple
    checker.follow([orders(HealthCheck(interval_s=0.1, unhealthy=1000))])
    failed = known.failed
    assert failed >= 3
    await until(lambda: known.failed > failed)
    assert next(checker.verdicts())[2] is known
    assert state.healthy


async def seen(checker: Checker) -> list[tuple[str, str, checkers.ProbeState]]:
    await until(lambda: list(checker.verdicts()))
    return list(checker.verdicts())


async def test_a_changed_check_keeps_verdicts_until_it_has_its_own(pools: Pools, make: Make, service: Service) -> None:
    service.status = 500
    (state,) = pools.set(Endpoint("127.0.0.1", service.port))
    checker = make()
    checker.follow([orders()])
    await until(lambda: not state.healthy)
    checker.follow([orders(HealthCheck(path="/hang", interval_s=0.1, timeout_s=30.0))])
    assert next(checker.verdicts())[2].failed == 0
    await until(lambda: service.asked.get("/hang"))
    assert not state.healthy
    checker.follow([orders(HealthCheck(path="/good", interval_s=0.1, healthy=1000))])
    await until(lambda: state.healthy)
    await until(lambda: not service.running)


async def test_without_a_check_endpoints_are_taken_for_healthy(pools: Pools, make: Make, service: Service) -> None:
    service.status = 500
    (state,) = pools.set(Endpoint("127.0.0.1", service.port))
    checker = make()
    checker.follow([orders()])
    await until(lambda: not state.healthy)
    checker.follow([orders(None)])
    assert state.healthy
    assert pools.changes == [ID, ID]
    assert list(checker.verdicts()) == []
    await until(lambda: not [task for task in asyncio.all_tasks() if task.get_name().startswith("probe ")])


async def test_endpoints_come_and_go(pools: Pools, make: Make, service: Service) -> None:
    service.status = 500
    first, second = Endpoint("127.0.0.1", service.port), Endpoint("127.0.0.2", service.port)
    pools.set(first)
    checker = make()
    checker.follow([orders()])
    await seen(checker)
    states = pools.set(first, second)
    await until(lambda: not states[0].healthy)
    # 127.0.0.2 is refused: the service listens on one address.
    await until(lambda: not states[1].healthy)
    service.status = 200
    pools.set(second)
    await until(lambda: [authority for _, authority, _ in checker.verdicts()] == [states[1].authority])
    assert not states[0].healthy, "nobody asked it since it left"
    pools.set(first)
    await until(lambda: states[0].healthy)


async def test_an_upstream_that_goes_takes_its_probes_along(pools: Pools, make: Make, service: Service) -> None:
    pools.set(Endpoint("127.0.0.1", service.port))
    checker = make()
    checker.follow([orders(HealthCheck(path="/hang", timeout_s=30.0, interval_s=0.1))])
    await until(lambda: service.running)
    del pools.pools[ID]
    checker.follow([])
    await until(lambda: not service.running)
    assert list(checker.verdicts()) == []


async def test_one_worker_probes_and_another_takes_over(pools: Pools, make: Make, service: Service) -> None:
    (state,) = pools.set(Endpoint("127.0.0.1", service.port))
    checker = make(active=False)
    checker.follow([orders()])
    state.healthy = False  # as another worker found it
    assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("probe ")]
    checker.lead()
    assert not state.healthy
    await until(lambda: state.healthy)
    checker.lead(False)
    await until(lambda: not [task for task in asyncio.all_tasks() if task.get_name().startswith("probe ")])
    service.status = 500
    checker.follow([orders()])
    assert state.healthy
    assert list(checker.verdicts()) == []


async def test_many_endpoints_are_not_asked_at_once(pools: Pools, make: Make) -> None:
    """Endpoints that hang fill the bound, and never more; each gets its turn."""
    running = most = 0
    asked: set[str] = set()

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        asked.add(writer.get_extra_info("sockname")[0])
        with contextlib.suppress(ConnectionError):
            while await reader.read(1024):
                pass
        running -= 1
        writer.close()

    addresses = [f"127.0.0.{last}" for last in range(1, 101)]
    first = await asyncio.start_server(hang, addresses[0], 0)
    port = first.sockets[0].getsockname()[1]
    others = await asyncio.start_server(hang, addresses[1:], port)
    try:
        pools.set(*(Endpoint(address, port) for address in addresses))
        checker = make()
        checker.follow([orders(HealthCheck(interval_s=0.2, timeout_s=0.2, unhealthy=1))])
        await until(lambda: len(asked) == len(addresses))
        await until(lambda: not any(state.healthy for state in pools.pools[ID].endpoints))
        await checker.close()
        await until(lambda: not running)
    finally:
        first.close()
        others.close()
    assert most > checkers.MAX_RUNNING // 2
    # The server learns of a closed connection a moment after its successor came.
    assert most <= 2 * checkers.MAX_RUNNING


async def test_a_fault_of_ours_ends_no_probing(
    pools: Pools, make: Make, service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    (state,) = pools.set(Endpoint("127.0.0.1", service.port))
    told: list[bool] = []

    def broken(upstream: str, each: Checked, healthy: bool) -> None:
        told.append(healthy)
        raise RuntimeError("a bug")

    service.status = 500
    checker = make(publish=broken)
    with caplog.at_level(logging.ERROR, "nexus.gateway.health"):
        checker.follow([orders()])
        await until(lambda: not state.healthy)
        service.status = 200
        await until(lambda: told == [False, True])
    assert state.healthy
    assert "a bug" in caplog.text


async def test_authorities_that_cannot_be_used_are_said(pools: Pools, make: Make, service: Service) -> None:
    (state,) = pools.set(Endpoint("127.0.0.1", service.port))
    checker = make()
    checker.follow([orders(tls=UpstreamTls(ca="no certificate"))])
    await until(lambda: not state.healthy)
    assert "authorities" in next(checker.verdicts())[2].detail
