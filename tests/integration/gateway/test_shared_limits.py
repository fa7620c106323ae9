"""`concurrency.maxRequests` of a gateway with several workers: two workers in this process, on the same cells."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import ClientSession, DummyCookieJar, TCPConnector, web
from nexus_core.snapshot import Concurrency, Snapshot
from nexus_gateway.app import Gateway
from nexus_gateway.edge.sources.port import StaticSource
from nexus_gateway.edge.workers.places import CELLS_BYTES, Place
from nexus_gateway.settings import GatewaySettings
from nexus_gateway.testing import Upstreams, simple, until
from nexus_sdk.discovery.memory import MemoryDiscovery


class Upstream:
    """Holds every request until `release` is set. most: running at once, ever."""

    def __init__(self) -> None:
        self.release = asyncio.Event()
        self.running = 0
        self.most = 0

    async def serve(self, request: web.Request) -> web.StreamResponse:
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await self.release.wait()
        finally:
            self.running -= 1
        return web.Response()


class Two:
    """Two workers, and a client of both."""

    def __init__(self, folder: Path) -> None:
        self.sources = (StaticSource(), StaticSource())
        cells = bytearray(CELLS_BYTES)
        self.gateways = tuple(
            Gateway(
                GatewaySettings(listen="127.0.0.1:0", plugin_cache=folder, access_log=False, replica=f"test~{number}"),
                source,
                MemoryDiscovery(),
                Place(
                    None,
                    None,
                    ("127.0.0.1", 0),
                    cells,
                    worker=number,
                    index=number,
                    workers=2,
                    column=number,
                ),
            )
            for number, source in enumerate(self.sources)
        )
        self.client = ClientSession(cookie_jar=DummyCookieJar(), connector=TCPConnector(limit=0))

    async def start(self, snapshot: Snapshot) -> None:
        for gateway, source in zip(self.gateways, self.sources, strict=True):
            await gateway.start()
            await source.publish(snapshot)
            await gateway.live()

    async def ask(self, number: int) -> int:
        async with self.client.get(f"http://127.0.0.1:{self.gateways[number].port}/") as response:
            await response.read()
            return response.status

    def ask_many(self, number: int, count: int) -> list[asyncio.Task[int]]:
        return [asyncio.create_task(self.ask(number)) for _ in range(count)]


@pytest.fixture
async def two(tmp_path: Path) -> AsyncIterator[Two]:
    made = Two(tmp_path)
    yield made
    await made.client.close()
    for gateway in made.gateways:
        await gateway.stop(0.1)


@pytest.fixture
async def upstream() -> AsyncIterator[tuple[Upstream, int]]:
    upstreams, made = Upstreams(), Upstream()
    yield made, await upstreams.start(made.serve)
    made.release.set()
    await upstreams.close()


async def test_both_workers_together_keep_the_limit(two: Two, upstream: tuple[Upstream, int]) -> None:
    held, port = upstream
    await two.start(simple(port, concurrency=Concurrency(max_requests=4)))
    asked = [*two.ask_many(0, 3), *two.ask_many(1, 1)]
    await until(lambda: held.running == 4)
    refused = await asyncio.gather(*two.ask_many(0, 2), *two.ask_many(1, 2))
    assert refused == [503] * 4
    held.release.set()
    assert await asyncio.gather(*asked) == [200] * 4
    assert await asyncio.gather(*two.ask_many(1, 4)) == [200] * 4
    assert held.most == 4


async def test_requests_that_wait_get_the_places_of_the_other_worker(two: Two, upstream: tuple[Upstream, int]) -> None:
    held, port = upstream
    await two.start(simple(port, concurrency=Concurrency(max_requests=2, max_pending=10)))
    first = two.ask_many(0, 2)
    await until(lambda: held.running == 2)
    waiting = two.ask_many(1, 3)
    pool = two.gateways[1].pools.all()["shop/orders"]
    await until(lambda: pool.limiter is not None and pool.limiter.pending == 3)
    held.release.set()
    assert await asyncio.gather(*first, *waiting) == [200] * 5
    assert held.most == 2


async def test_places_of_a_worker_that_ended_are_the_others(two: Two, upstream: tuple[Upstream, int]) -> None:
    held, port = upstream
    await two.start(simple(port, concurrency=Concurrency(max_requests=2)))
    gone = two.ask_many(0, 2)
    await until(lambda: held.running == 2)
    assert await two.ask(1) == 503
    await two.gateways[0].stop(0.0)
    await asyncio.gather(*gone, return_exceptions=True)
    await until(lambda: held.running == 0)
    served = two.ask_many(1, 2)
    await until(lambda: held.running == 2)
    held.release.set()
    assert await asyncio.gather(*served) == [200] * 2


async def test_requests_that_wait_are_served_when_the_limit_is_taken_away(
    two: Two, upstream: tuple[Upstream, int]
) -> None:
    held, port = upstream
    await two.start(simple(port, concurrency=Concurrency(max_requests=1, max_pending=10)))
    asked = two.ask_many(0, 3)
    pool = two.gateways[0].pools.all()["shop/orders"]
    await until(lambda: pool.limiter is not None and pool.limiter.pending == 2)
    await two.sources[0].publish(simple(port))
    await until(lambda: held.running == 3)
    held.release.set()
    assert await asyncio.gather(*asked) == [200] * 3
