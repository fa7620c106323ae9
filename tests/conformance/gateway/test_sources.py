"""What every Snapshot source owes a gateway: one suite for the source in code, the one of files, the one in Consul."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing
from pathlib import Path
from typing import Protocol

import pytest
from aiohttp import ClientSession
from nexus_core.snapshot import Ack, Published, wire
from nexus_gateway.edge.sources.consul import ConsulSource
from nexus_gateway.edge.sources.files import FileSource
from nexus_gateway.edge.sources.port import SnapshotSource, StaticSource
from nexus_gateway.edge.sources.workshop import Workshop
from nexus_gateway.testing import route, rule, snapshot, upstream
from nexus_sdk.testing.consul import LocalConsul
from nexus_testbed import components

WITHIN_S = 30.0


class Driver(Protocol):
    """The publisher's side of a source."""

    source: SnapshotSource

    async def publish(self, path: str) -> None:
        """Publish a Snapshot whose one rule takes this path prefix."""
        ...

    async def damage(self) -> None:
        """Put something in its place that is no Snapshot."""
        ...


class InCode:
    def __init__(self) -> None:
        self.source = StaticSource()

    async def publish(self, path: str) -> None:
        await self.source.publish(snapshot(route(rule("shop/orders", path=path)), upstream(8000)))

    async def damage(self) -> None:
        """A program cannot hand over anything but a Snapshot."""


class InFiles:
    def __init__(self, directory: Path) -> None:
        self._file = directory / "orders.yaml"
        directory.mkdir()
        self.source = FileSource(directory, Workshop(directory.parent / "cache"))

    async def publish(self, path: str) -> None:
        self._file.write_text(
            "apiVersion: nexus.dev/v1alpha1\nkind: NexusService\nmetadata: {name: orders, namespace: shop}\n"
            f'spec: {{backend: {{addresses: ["127.0.0.1:8000"]}}, expose: {{path: {path}}}}}\n'
        )

    async def damage(self) -> None:
        self._file.write_text("kind: [")


class InConsul:
    def __init__(self, consul: LocalConsul, state: Path) -> None:
        self._consul = consul
        self._generation = 0
        self.source = ConsulSource(consul.url, "", "nexus", "one", state)

    async def _put(self, key: str, value: bytes) -> None:
        async with ClientSession() as session, session.put(f"{self._consul.url}/v1/kv/{key}", data=value) as reply:
            assert reply.status == 200

    async def publish(self, path: str) -> None:
        self._generation += 1
        encoded = wire.encode(snapshot(route(rule("shop/orders", path=path)), upstream(8000)))
        for digest, chunk in encoded.chunks.items():
            await self._put(wire.chunk_key(digest), chunk)
        await self._put(wire.manifest_key(), wire.manifest_bytes(encoded, self._generation))

    async def damage(self) -> None:
        await self._put(wire.manifest_key(), b"{")


@pytest.fixture(
    params=["code", "files", pytest.param("consul", marks=[pytest.mark.connected, pytest.mark.timeout(120)])]
)
async def driver(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Driver]:
    async with AsyncExitStack() as stack:
        made: Driver
        match request.param:
            case "code":
                made = InCode()
            case "files":
                made = InFiles(tmp_path / "manifests")
            case _:
                consul = LocalConsul(components.ensure(["consul"])["consul"], tmp_path)
                made = InConsul(await stack.enter_async_context(consul), tmp_path / "state")
        stack.push_async_callback(made.source.close)
        yield made


def paths(published: Published) -> list[str]:
    return [match.path for route in published.snapshot.routes for rule in route.rules for match in rule.matches]


async def until_path(watch: AsyncIterator[Published], path: str) -> Published:
    """Return the first Snapshot with this path; those before it may be skipped or seen."""
    async with asyncio.timeout(WITHIN_S):
        while True:
            published = await anext(watch)
            if paths(published) == [path]:
                return published


async def test_the_first_snapshot_and_every_later_one_arrive(driver: Driver) -> None:
    await driver.publish("/a")
    async with aclosing(driver.source.watch()) as watch:
        first = await until_path(watch, "/a")
        await driver.publish("/b")
        second = await until_path(watch, "/b")
    assert second.generation > first.generation
    assert second.digest != first.digest


async def test_a_watch_begins_with_the_newest(driver: Driver) -> None:
    await driver.publish("/a")
    async with aclosing(driver.source.watch()) as watch:
        await until_path(watch, "/a")
        await driver.publish("/b")
        await until_path(watch, "/b")
    async with aclosing(driver.source.watch()) as again, asyncio.timeout(WITHIN_S):
        assert paths(await anext(again)) == ["/b"]


async def test_damage_takes_nothing_away_and_the_next_good_one_arrives(driver: Driver) -> None:
    await driver.publish("/a")
    async with aclosing(driver.source.watch()) as watch:
        await until_path(watch, "/a")
        await driver.damage()
        following = asyncio.ensure_future(anext(watch))
        done, _ = await asyncio.wait({following}, timeout=1.0)
        if done:  # a source may say again what holds, never something less
            assert paths(following.result()) == ["/a"]
            following = asyncio.ensure_future(anext(watch))
        await driver.publish("/b")
        async with asyncio.timeout(WITHIN_S):
            while paths(await following) != ["/b"]:
                following = asyncio.ensure_future(anext(watch))


async def test_an_ack_is_taken_at_any_time(driver: Driver) -> None:
    """Before the first Snapshot, after one, and again: a publisher that does not listen is no fault of the gateway."""
    await driver.source.ack(Ack("one", 0, ""))
    await driver.publish("/a")
    async with aclosing(driver.source.watch()) as watch:
        published = await until_path(watch, "/a")
        ack = Ack("one", published.generation, published.digest)
        await driver.source.ack(ack)
        await driver.source.ack(ack)
        await driver.publish("/b")
        later = await until_path(watch, "/b")
    assert later.generation > published.generation, "acks stand in no Snapshot's way"


async def test_closing_ends_the_watch(driver: Driver) -> None:
    await driver.publish("/a")
    watch = driver.source.watch()
    await until_path(watch, "/a")
    following = asyncio.ensure_future(anext(watch, None))
    await asyncio.sleep(0)
    await driver.source.close()
    async with asyncio.timeout(WITHIN_S):
        assert await following is None
