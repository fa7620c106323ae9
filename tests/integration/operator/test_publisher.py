"""Publishing to a real Consul: order, generations, what survives a kill and a loss of data."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from nexus_core.snapshot import EMPTY, Listener, Route, Rule, Snapshot, wire
from nexus_core.snapshot.routes import Match
from nexus_operator.edge.consul import ConsulApi, ConsulAway
from nexus_operator.edge.publisher import KEPT_GENERATIONS, Publisher

pytestmark = pytest.mark.connected


def world(*paths: str) -> Snapshot:
    routes = tuple(
        Route(
            id=f"HTTPRoute/shop/{path}", source=f"HTTPRoute shop/{path}", listeners=("a/b/http",), hostnames=(),
            rules=(Rule(id=f"HTTPRoute/shop/{path}/0", matches=(Match(path=f"/{path}"),)),),
        )
        for path in sorted(paths)
    )  # fmt: skip
    return Snapshot(listeners=(Listener(id="a/b/http", source="Gateway a/b", port=80),), routes=routes)


async def read(consul: ConsulApi, prefix: str) -> tuple[int, Snapshot]:
    """Read as a gateway does."""
    held = await consul.get(wire.manifest_key(prefix))
    assert held is not None
    manifest = wire.parse_manifest(held.value)
    rows = [await consul.get(wire.chunk_key(chunk, prefix)) for chunk in manifest.chunks]
    return manifest.generation, wire.decode(
        manifest, {c: r.value for c, r in zip(manifest.chunks, rows, strict=True) if r}
    )


async def test_gateways_read_what_was_published(consul: ConsulApi) -> None:
    published = await Publisher(consul, "t-read").publish(world("a", "b"))
    assert published.generation == 1
    assert await read(consul, "t-read") == (1, world("a", "b"))


async def test_an_empty_snapshot_is_published_too(consul: ConsulApi) -> None:
    """A gateway is ready once it has a Snapshot, also one without routes."""
    await Publisher(consul, "t-empty").publish(EMPTY)
    assert await read(consul, "t-empty") == (1, EMPTY)


async def test_equal_content_is_not_published_twice(consul: ConsulApi) -> None:
    publisher = Publisher(consul, "t-equal")
    await publisher.publish(world("a"))
    before = await consul.get(wire.manifest_key("t-equal"))
    again = await publisher.publish(world("a"))
    assert again.generation == 1
    assert await consul.get(wire.manifest_key("t-equal")) == before


async def test_a_restarted_operator_goes_on_where_the_last_one_was(consul: ConsulApi) -> None:
    await Publisher(consul, "t-restart").publish(world("a"))
    second = Publisher(consul, "t-restart")
    loaded = await second.load()
    assert loaded is not None
    assert (loaded.generation, loaded.snapshot) == (1, world("a"))
    assert (await second.publish(world("a"))).generation == 1
    assert (await second.publish(world("b"))).generation == 2


async def test_two_writers_never_overwrite_each_other(consul: ConsulApi) -> None:
    """Leader election keeps them apart; should it fail, compare-and-set still orders them."""
    publishers = [Publisher(consul, "t-race") for _ in range(4)]
    results = await asyncio.gather(*(p.publish(world(f"w{i}")) for i, p in enumerate(publishers)))
    assert sorted(r.generation for r in results) == [1, 2, 3, 4]
    generation, snapshot = await read(consul, "t-race")
    assert generation == 4
    assert snapshot == next(r.snapshot for r in results if r.generation == 4)


async def test_chunks_of_a_writer_that_has_not_named_them_yet_stay(consul: ConsulApi) -> None:
    """Another operator has written its chunks and is about to write its manifest, while this one publishes."""
    other = wire.encode(world("other"))
    for digest, chunk in other.chunks.items():
        await consul.put(wire.chunk_key(digest, "t-late"), chunk)
    publisher = Publisher(consul, "t-late")
    await publisher.publish(world("mine"))
    held = await consul.get(wire.manifest_key("t-late"))
    assert held is not None
    assert await consul.put_if(held.key, wire.manifest_bytes(other, 2), held.modify_index)
    assert await read(consul, "t-late") == (2, world("other"))


async def test_old_chunks_go_after_a_few_generations(consul: ConsulApi) -> None:
    publisher = Publisher(consul, "t-gc")
    first = wire.encode(world("gone")).chunks.keys()
    await publisher.publish(world("gone"))
    for number in range(KEPT_GENERATIONS + 1):
        stored = await consul.keys(wire.chunk_key("", "t-gc"))
        if number < KEPT_GENERATIONS:
            assert {wire.chunk_key(c, "t-gc") for c in first} <= stored, f"still read by a slow gateway at {number}"
        await publisher.publish(world(f"n{number}"))
    await publisher.publish(world("last"))  # what is superfluous is looked at twice before it goes
    stored = await consul.keys(wire.chunk_key("", "t-gc"))
    only_first = set(first) - set(wire.encode(world("last")).chunks)
    assert only_first
    assert not {wire.chunk_key(c, "t-gc") for c in only_first} & stored


async def test_a_higher_acked_generation_is_passed(consul: ConsulApi) -> None:
    """Consul was restored from a backup: gateways are at 7, it holds 1. The same content goes out as 8."""
    publisher = Publisher(consul, "t-acked")
    await publisher.publish(world("a"))
    assert (await publisher.publish(world("a"), acked=7)).generation == 8
    assert (await publisher.publish(world("a"), acked=8)).generation == 8


@pytest.mark.parametrize("damage", ["chunk", "manifest", "lost chunk"])
async def test_damaged_content_is_written_again(consul: ConsulApi, damage: str) -> None:
    prefix = f"t-damage-{damage.replace(' ', '-')}"
    await Publisher(consul, prefix).publish(world("a"))
    [chunk] = await consul.keys(wire.chunk_key("", prefix))
    if damage == "chunk":
        await consul.put(chunk, b"not what it was")
    elif damage == "lost chunk":
        await consul.delete(chunk)
    else:
        await consul.put(wire.manifest_key(prefix), b"{")
    restarted = Publisher(consul, prefix)
    assert await restarted.load() is None
    await restarted.publish(world("a"))
    _, snapshot = await read(consul, prefix)
    assert snapshot == world("a")


async def test_nothing_is_lost_by_a_kill_of_consul(own_consul: Any, fragile_consul: ConsulApi) -> None:
    publisher = Publisher(fragile_consul, "nexus")
    await publisher.publish(world("a"))
    own_consul.kill()
    with pytest.raises(ConsulAway, match="did not read nexus/snapshot/manifest"):
        await publisher.publish(world("b"))
    await asyncio.to_thread(own_consul.start)
    assert await read(fragile_consul, "nexus") == (1, world("a"))
    assert (await publisher.publish(world("b"))).generation == 2


async def test_lost_data_is_published_again_above_the_old_generation(
    own_consul: Any, fragile_consul: ConsulApi
) -> None:
    publisher = Publisher(fragile_consul, "nexus")
    await publisher.publish(world("a"))
    await publisher.publish(world("b"))
    own_consul.kill()
    own_consul.wipe()
    await asyncio.to_thread(own_consul.start)
    assert (await publisher.publish(world("b"))).generation == 3
    assert await read(fragile_consul, "nexus") == (3, world("b"))
