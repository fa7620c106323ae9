"""What plugins have of Consul, and what Consul has of plugins: a real one."""

from __future__ import annotations

import asyncio
import base64
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientResponseError, ClientSession
from nexus_core.snapshot import Ack, PluginStats, wire
from nexus_core.snapshot.stats import decode_stats, stats_key
from nexus_gateway.edge.sources.consul import ConsulSource
from nexus_gateway.edge.sources.keys import MAX_ARTEFACT_BYTES, Keys
from nexus_gateway.edge.sources.stats import StatsPublisher
from nexus_gateway.testing import until
from nexus_sdk.consul.connection import Connection
from nexus_sdk.testing.consul import LocalConsul
from nexus_testbed import components

pytestmark = [pytest.mark.connected, pytest.mark.timeout(120)]
PART = 480 * 1024
DIGEST = "ab" * 32


@pytest.fixture
async def consul(tmp_path: Path) -> AsyncIterator[LocalConsul]:
    async with LocalConsul(components.ensure(["consul"])["consul"], tmp_path) as made:
        yield made


@pytest.fixture
async def keys(consul: LocalConsul) -> AsyncIterator[Keys]:
    made = Keys(Connection(consul.url), "nexus")
    yield made
    await made.close()


async def put(consul: LocalConsul, key: str, value: bytes) -> None:
    async with ClientSession() as session, session.put(f"{consul.url}/v1/kv/{key}", data=value) as response:
        assert response.status == 200


async def read(consul: LocalConsul, key: str) -> bytes | None:
    try:
        found: Any = await consul.request("GET", f"/v1/kv/{key}")
    except ClientResponseError as error:
        if error.status != 404:
            raise
        return None
    return base64.b64decode(found[0]["Value"])


async def test_values_are_read_as_they_are(consul: LocalConsul, keys: Keys) -> None:
    await put(consul, "plugins/flags/a", b"\x00\xff on")
    await put(consul, "plugins/flags/empty", b"")
    assert await keys.value("plugins/flags/a") == b"\x00\xff on"
    assert await keys.value("plugins/flags/empty") == b""
    assert await keys.value("plugins/flags/none") is None


async def test_an_artefact_comes_in_the_order_of_its_parts(consul: LocalConsul, keys: Keys) -> None:
    data = bytes(range(256)) * 5000
    parts = [data[at : at + PART] for at in range(0, len(data), PART)]
    assert len(parts) == 3
    for number in (2, 0, 1):
        await put(consul, wire.artefact_key(DIGEST, number), parts[number])
    assert await keys.artefact(DIGEST) == data
    assert await keys.artefact("cd" * 32) is None


async def test_more_than_any_artefact_is_not_taken(consul: LocalConsul, keys: Keys) -> None:
    for number in range(MAX_ARTEFACT_BYTES // PART + 1):
        await put(consul, wire.artefact_key(DIGEST, number), bytes(PART))
    with pytest.raises(OSError, match="larger than 4 MiB"):
        await keys.artefact(DIGEST)


async def test_a_consul_that_does_not_answer_is_told(unused_tcp_port: int) -> None:
    away = Keys(Connection(f"http://127.0.0.1:{unused_tcp_port}"), "nexus")
    with pytest.raises(OSError, match="Consul at"):
        await away.value("a")
    await away.close()


async def test_what_plugins_do_is_beside_the_ack_and_goes_with_it(consul: LocalConsul) -> None:
    source = ConsulSource(consul.url, "", "nexus", "one~0", None)
    stats = {"shop/demo": PluginStats(calls=7, calls_per_s=1.5)}
    publisher = StatsPublisher(
        Connection(consul.url), "nexus", "one~0", lambda: source._session, lambda: stats, every_s=0.05
    )
    running = asyncio.create_task(publisher.run())
    try:
        await source.ack(Ack("one~0", 1, "x"))

        async def published() -> dict[str, PluginStats]:
            data = await read(consul, stats_key("one~0"))
            return decode_stats(data) if data is not None else {}

        async def is_there() -> bool:
            return await published() == stats

        await until(is_there)
        stats["shop/demo"] = PluginStats(calls=9)
        await until(is_there)
        stats.clear()

        async def is_gone() -> bool:
            return await read(consul, stats_key("one~0")) is None

        await until(is_gone)
        stats["shop/demo"] = PluginStats(calls=10)
        await until(is_there)
        await source.close()  # ends the session
        await until(is_gone)
    finally:
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running
        await publisher._connection.close()
        await source.close()
