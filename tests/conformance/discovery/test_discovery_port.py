"""The contract of `nexus_core.discovery.Discovery`, run against every adapter. The consul one talks to a real agent."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import pytest
from nexus_core.discovery import Discovery, Endpoint
from nexus_gateway.edge.kept import KeptDiscovery
from nexus_sdk.discovery.consul import ConsulDiscovery
from nexus_sdk.discovery.file import FileDiscovery
from nexus_sdk.discovery.memory import MemoryDiscovery
from nexus_sdk.testing.consul import LocalConsul
from nexus_testbed import components

A = Endpoint("127.0.0.1", 7001, "a")
B = Endpoint("127.0.0.1", 7002, "b", weight=3)
C = Endpoint("127.0.0.1", 7003, "c", zone="eu-1", meta=(("tier", "fast"), ("version", "v2")), draining=True)
WITHIN_S = 10.0


class Registry(Protocol):
    """One adapter and the means to change what it should see."""

    discovery: Discovery

    async def put(
        self,
        service: str,
        endpoints: Sequence[Endpoint],
        meta: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Make these the endpoints. tags: one tag for each endpoint id that has one."""

    async def lose(self) -> None:
        """Make the registry unreachable."""


class MemoryRegistry:
    discovery: Discovery

    def __init__(self) -> None:
        self.discovery = self.memory = MemoryDiscovery()

    async def put(self, service: str, endpoints: Sequence[Endpoint], meta: Any = None, tags: Any = None) -> None:
        by_tag: dict[str, list[Endpoint]] = {}
        for endpoint in endpoints:
            if tag := (tags or {}).get(endpoint.id):
                by_tag.setdefault(tag, []).append(endpoint)
        self.memory.set(service, endpoints, meta, tags=by_tag)

    async def lose(self) -> None:
        raise NotImplementedError("memory is always there")


class KeptRegistry(MemoryRegistry):
    """The gateway's discovery that remembers, over the one in memory."""

    def __init__(self, directory: Path) -> None:
        super().__init__()
        self.discovery = KeptDiscovery(self.memory, directory / "kept")


class FileRegistry:
    def __init__(self, directory: Path) -> None:
        self._path, self._services = directory / "services.json", dict[str, Any]()
        self._write()
        self.discovery = FileDiscovery(self._path, poll_s=0.02)

    def _write(self) -> None:
        scratch = self._path.with_suffix(".new")
        scratch.write_text(json.dumps({"services": self._services}))
        scratch.rename(self._path)

    async def put(self, service: str, endpoints: Sequence[Endpoint], meta: Any = None, tags: Any = None) -> None:
        self._services[service] = {
            "endpoints": [
                {"address": e.address, "port": e.port, "id": e.id, "weight": e.weight, "zone": e.zone,
                 "meta": dict(e.meta), "draining": e.draining, "tags": [tags[e.id]] if e.id in (tags or {}) else []}
                for e in endpoints
            ],
            "meta": meta or {},
        }  # fmt: skip
        self._write()

    async def lose(self) -> None:
        self._path.unlink()


class ConsulRegistry:
    def __init__(self, consul: LocalConsul) -> None:
        self._consul = consul
        self.discovery = ConsulDiscovery(consul.url)
        self._ids: dict[str, set[str]] = {}

    async def put(self, service: str, endpoints: Sequence[Endpoint], meta: Any = None, tags: Any = None) -> None:
        wanted = {e.id for e in endpoints}
        for gone in self._ids.get(service, set()) - wanted:
            await self._consul.deregister(gone)
        for e in endpoints:
            zone = {"nexus-zone": e.zone} if e.zone else {}
            await self._consul.register(
                service, e.id, e.port, address=e.address, Meta={**(meta or {}), **dict(e.meta), **zone},
                Weights={"Passing": e.weight, "Warning": 1}, Tags=[tags[e.id]] if e.id in (tags or {}) else [],
            )  # fmt: skip
            enable = "true" if e.draining else "false"
            await self._consul.request("PUT", f"/v1/agent/service/maintenance/{e.id}?enable={enable}")
        self._ids[service] = wanted

    async def lose(self) -> None:
        await self._consul.kill()


CONSUL = pytest.param("consul", marks=pytest.mark.connected)


@pytest.fixture(params=["memory", "kept", "file", CONSUL])
async def registry(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Registry]:
    if request.param == "consul":
        async with LocalConsul(components.ensure(["consul"])["consul"], tmp_path) as consul:
            made: Registry = ConsulRegistry(consul)
            yield made
            await made.discovery.close()
        return
    match request.param:
        case "memory":
            made = MemoryRegistry()
        case "kept":
            made = KeptRegistry(tmp_path)
        case _:
            made = FileRegistry(tmp_path)
    yield made
    await made.discovery.close()


async def until(
    changes: AsyncIterator[tuple[Endpoint, ...]], wanted: Callable[[tuple[Endpoint, ...]], bool]
) -> list[Any]:
    """Return what was seen up to the first wanted value."""
    seen = []
    async with asyncio.timeout(WITHIN_S):
        async for endpoints in changes:
            seen.append(endpoints)
            if wanted(endpoints):
                return seen
    raise AssertionError(f"the watch ended after {seen}")


async def test_unknown_service_is_empty(registry: Registry) -> None:
    assert await registry.discovery.resolve("nobody.shop") == ()
    async with contextlib.aclosing(registry.discovery.watch("nobody.shop")) as changes:
        assert await until(changes, lambda seen: True) == [()]


async def test_watch_yields_at_once_and_after_each_change(registry: Registry) -> None:
    await registry.put("orders.shop", [A])
    async with contextlib.aclosing(registry.discovery.watch("orders.shop")) as changes:
        await until(changes, lambda seen: seen == (A,))
        await registry.put("orders.shop", [B, A])
        await until(changes, lambda seen: seen == (A, B))
        await registry.put("orders.shop", [B])
        await until(changes, lambda seen: seen == (B,))
        await registry.put("orders.shop", [])
        assert (await until(changes, lambda seen: seen == ()))[-1] == ()


async def test_endpoints_are_sorted_and_unique_by_address_and_port(registry: Registry) -> None:
    twin = Endpoint("127.0.0.1", 7001, "twin")
    await registry.put("orders.shop", [B, twin, A])
    endpoints = await registry.discovery.resolve("orders.shop")
    assert [(e.address, e.port) for e in endpoints] == [("127.0.0.1", 7001), ("127.0.0.1", 7002)]
    assert endpoints == tuple(sorted(endpoints))


async def test_weights_and_ids_arrive(registry: Registry) -> None:
    await registry.put("orders.shop", [A, B])
    assert await registry.discovery.resolve("orders.shop") == (A, B)


async def test_zones_and_meta_arrive_and_what_drains_is_still_there(registry: Registry) -> None:
    await registry.put("orders.shop", [A, C])
    assert await registry.discovery.resolve("orders.shop") == (A, C)
    back = dataclasses.replace(C, draining=False)
    async with contextlib.aclosing(registry.discovery.watch("orders.shop")) as changes:
        await until(changes, lambda seen: seen == (A, C))
        await registry.put("orders.shop", [A, back])
        await until(changes, lambda seen: seen == (A, back))


async def test_a_tag_selects_instances(registry: Registry) -> None:
    await registry.put("orders.shop", [A, B], tags={"b": "canary"})
    assert await registry.discovery.resolve("orders.shop", tag="canary") == (B,)
    assert await registry.discovery.resolve("orders.shop", tag="none") == ()
    async with contextlib.aclosing(registry.discovery.watch("orders.shop", tag="canary")) as changes:
        await until(changes, lambda seen: seen == (B,))


async def test_a_change_of_one_service_is_not_seen_by_watchers_of_another(registry: Registry) -> None:
    await registry.put("orders.shop", [A])
    async with contextlib.aclosing(registry.discovery.watch("orders.shop")) as orders:
        await until(orders, lambda seen: seen == (A,))
        async with contextlib.aclosing(registry.discovery.watch("catalog.shop")) as catalog:
            await registry.put("catalog.shop", [Endpoint("127.0.0.1", 7009, "c")])
            await until(catalog, lambda seen: len(seen) == 1)
        await registry.put("orders.shop", [A, B])
        assert await until(orders, lambda seen: True) == [(A, B)]


async def test_services_lists_names_endpoints_and_meta(registry: Registry) -> None:
    await registry.put("orders.shop", [A], {"nexus-type": "http", "nexus-openapi": "/openapi.json"})
    await registry.put("events.shop", [B], {"nexus-type": "events"})
    services = await registry.discovery.services()
    assert sorted(services) == ["events.shop", "orders.shop"]
    assert services["orders.shop"].name == "orders.shop"
    assert services["orders.shop"].endpoints == (A,)
    assert services["orders.shop"].meta == {"nexus-type": "http", "nexus-openapi": "/openapi.json"}
    assert services["events.shop"].meta == {"nexus-type": "events"}


async def test_many_watchers_see_every_last_value(registry: Registry) -> None:
    await registry.put("orders.shop", [A])

    async def follow() -> list[Any]:
        async with contextlib.aclosing(registry.discovery.watch("orders.shop")) as changes:
            return await until(changes, lambda seen: seen == (A, B))

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(follow()) for _ in range(50)]
        await asyncio.sleep(0)  # each watcher has begun before the change
        await registry.put("orders.shop", [A, B])
    assert all(task.result()[-1] == (A, B) for task in tasks)


async def test_close_ends_watches(registry: Registry) -> None:
    await registry.put("orders.shop", [A])
    begun = asyncio.Event()

    async def follow() -> None:
        async with contextlib.aclosing(registry.discovery.watch("orders.shop")) as changes:
            async for _ in changes:
                begun.set()

    task = asyncio.create_task(follow())
    async with asyncio.timeout(WITHIN_S):
        await begun.wait()
        await registry.discovery.close()
        await task


@pytest.mark.parametrize("registry", ["file", CONSUL], indirect=True)
async def test_a_lost_registry_keeps_the_last_value_and_raises_connection_error(registry: Registry) -> None:
    await registry.put("orders.shop", [A])
    async with contextlib.aclosing(registry.discovery.watch("orders.shop")) as changes:
        await until(changes, lambda seen: seen == (A,))
        await registry.lose()
        with pytest.raises(ConnectionError):
            await registry.discovery.resolve("orders.shop")
        with pytest.raises(ConnectionError):
            await registry.discovery.services()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):  # long enough for several polls and queries to fail
                await anext(changes)
