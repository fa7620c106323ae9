"""Endpoints on disk: what a gateway goes by that starts while its registry is away, or has just lost its data."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from pathlib import Path

import pytest
from nexus_core.discovery import Endpoint, ServiceEntry
from nexus_gateway.edge.kept import KeptDiscovery
from nexus_sdk.discovery.memory import MemoryDiscovery

ONE = (Endpoint("10.0.0.1", 80, "one"),)
TWO = (Endpoint("10.0.0.2", 80, "two", weight=3, zone="b"),)


class Away:
    """A registry that answers when it is told what."""

    def __init__(self) -> None:
        self.answers: asyncio.Queue[tuple[Endpoint, ...]] = asyncio.Queue()
        self.closed = False

    async def watch(self, service: str, *, tag: str = "") -> AsyncGenerator[tuple[Endpoint, ...], None]:
        while True:
            yield await self.answers.get()

    async def resolve(self, service: str, *, tag: str = "") -> tuple[Endpoint, ...]:
        raise ConnectionError("away")

    async def services(self) -> Mapping[str, ServiceEntry]:
        raise ConnectionError("away")

    async def close(self) -> None:
        self.closed = True


async def keep(folder: Path, endpoints: tuple[Endpoint, ...], *, tag: str = "") -> None:
    """What a gateway does before it is killed."""
    before = Away()
    before.answers.put_nowait(endpoints)
    watch = KeptDiscovery(before, folder).watch("orders.shop", tag=tag)
    assert await anext(watch) == endpoints
    await watch.aclose()


async def test_the_last_endpoints_are_there_while_the_registry_is_away(tmp_path: Path) -> None:
    await keep(tmp_path, TWO)
    away = Away()
    watch = KeptDiscovery(away, tmp_path, first_s=0.01).watch("orders.shop")
    assert await anext(watch) == TWO
    away.answers.put_nowait(ONE)
    assert await anext(watch) == ONE
    away.answers.put_nowait(())
    assert await anext(watch) == (), "a registry that has spoken is believed"
    await watch.aclose()


async def test_a_registry_that_answers_is_asked_first(tmp_path: Path) -> None:
    await keep(tmp_path, TWO)
    there = Away()
    there.answers.put_nowait(ONE)
    watch = KeptDiscovery(there, tmp_path, first_s=10).watch("orders.shop")
    assert await anext(watch) == ONE
    await watch.aclose()


async def test_a_registry_that_lost_its_data_is_given_time(tmp_path: Path) -> None:
    await keep(tmp_path, TWO)
    wiped = Away()
    wiped.answers.put_nowait(())
    watch = KeptDiscovery(wiped, tmp_path, hold_s=10).watch("orders.shop")
    assert await anext(watch) == TWO
    wiped.answers.put_nowait(ONE)
    assert await anext(watch) == ONE
    await watch.aclose()


async def test_nobody_is_believed_in_the_end_and_then_kept(tmp_path: Path) -> None:
    await keep(tmp_path, TWO)
    empty = Away()
    empty.answers.put_nowait(())
    watch = KeptDiscovery(empty, tmp_path, hold_s=0.01).watch("orders.shop")
    assert [await anext(watch), await anext(watch)] == [TWO, ()]
    await watch.aclose()
    empty.answers.put_nowait(())
    again = KeptDiscovery(empty, tmp_path, hold_s=10).watch("orders.shop")
    assert await anext(again) == ()
    await again.aclose()


async def test_each_tag_is_kept_apart(tmp_path: Path) -> None:
    await keep(tmp_path, ONE, tag="v1")
    away = Away()
    watch = KeptDiscovery(away, tmp_path, first_s=0.01).watch("orders.shop", tag="v2")
    away.answers.put_nowait(TWO)
    assert await anext(watch) == TWO
    await watch.aclose()


@pytest.mark.parametrize("damage", [b"", b"{}", b'[{"address": 1}]', b"\xff"])
async def test_a_damaged_file_is_no_file(tmp_path: Path, damage: bytes) -> None:
    await keep(tmp_path, TWO)
    [file] = tmp_path.iterdir()
    file.write_bytes(damage)
    await keep(tmp_path, ONE)
    away = Away()
    watch = KeptDiscovery(away, tmp_path, first_s=0.01).watch("orders.shop")
    assert await anext(watch) == ONE
    await watch.aclose()


async def test_a_folder_that_cannot_be_written_costs_nothing_but_the_copy(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    await keep(tmp_path / "file" / "endpoints", ONE)


async def test_a_watch_ends_with_its_registry() -> None:
    inner = MemoryDiscovery()
    kept = KeptDiscovery(inner, Path("/nonexistent"))
    watch = kept.watch("orders.shop")
    assert await anext(watch) == ()
    await kept.close()
    with pytest.raises(StopAsyncIteration):
        await anext(watch)
