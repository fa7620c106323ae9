"""Samples of requests by way of a real Consul: asked for, published under the gateway's session, read, and gone again."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from nexus_core.snapshot import Ack
from nexus_core.snapshot.samples import (
    MAX_PUBLISHED_BYTES,
    Sample,
    decode_samples,
    samples_key,
    samples_prefix,
    wanted_key,
)
from nexus_gateway.edge.sources.consul import ConsulSource
from nexus_operator.edge.consul import ConsulApi
from nexus_operator.edge.samples import SampleFeed

pytestmark = [pytest.mark.connected, pytest.mark.timeout(60)]

PREFIX = "preview"


async def until(look: Callable[[], Any], timeout_s: float = 20.0) -> Any:
    async with asyncio.timeout(timeout_s):
        while True:
            found = await look()
            if found:
                return found
            await asyncio.sleep(0.05)


class Replica:
    """A gateway's side: its Consul source with a sample to publish. asked: how often the sample was looked at."""

    def __init__(self, url: str, name: str, samples: list[Sample]) -> None:
        self.source = ConsulSource(url, "", PREFIX, name, None)
        self.samples = samples
        self.asked = 0
        self._task: asyncio.Task[None] | None = None
        self._name = name

    async def start(self) -> None:
        await self.source.ack(Ack(self._name, 1, "d"))
        self._task = asyncio.create_task(self.source.publish_samples(self._look))

    def _look(self) -> list[Sample]:
        self.asked += 1
        return self.samples

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        await self.source.close()


@pytest.fixture
async def replica(consul: ConsulApi) -> AsyncIterator[Replica]:
    await consul.delete(wanted_key(PREFIX))
    made = Replica(consul.url, "gw-1", [Sample("GET", "", f"/{n}") for n in range(50)])
    await made.start()
    yield made
    await made.stop()


async def test_a_sample_comes_when_it_is_asked_for_and_goes_when_it_is_not(consul: ConsulApi, replica: Replica) -> None:
    held = await until(lambda: consul.list(f"{PREFIX}/acks/"))
    assert held
    assert replica.asked == 0, "nobody asked yet"
    feed = SampleFeed(consul, PREFIX)
    found = await until(feed.read)
    assert found == tuple(replica.samples)
    assert await feed.read() is found, "the same as long as nothing changed"
    await feed.stop()

    async def gone() -> bool:
        return not (await consul.list(samples_prefix(PREFIX))).entries

    await until(gone)
    assert replica.asked == 1


async def test_a_sample_is_bounded_and_dies_with_its_replica(consul: ConsulApi, replica: Replica) -> None:
    replica.samples[:] = [Sample("GET", "", f"/{hashlib.sha256(str(n).encode()).hexdigest()}") for n in range(20_000)]
    feed = SampleFeed(consul, PREFIX)
    found = await until(feed.read)
    assert 1000 < len(found) < 20_000
    held = await consul.get(samples_key("gw-1", PREFIX))
    assert held is not None
    assert len(held.value) <= MAX_PUBLISHED_BYTES
    assert decode_samples(held.value) == found
    await replica.stop()

    async def gone() -> bool:
        return await feed.read() == ()

    await until(gone)
    await feed.stop()


async def test_who_leads_next_withdraws_what_another_asked_for(consul: ConsulApi, replica: Replica) -> None:
    await SampleFeed(consul, PREFIX).read()
    await SampleFeed(consul, PREFIX).stop()
    assert await consul.get(wanted_key(PREFIX)) is None
