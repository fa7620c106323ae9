"""What the disk can do to the SQLite store."""

from __future__ import annotations

import asyncio
import random
import sqlite3
import time
import uuid
from pathlib import Path

import pytest
from nexus_events import protocol
from nexus_events.couriers import HttpCourier
from nexus_events.delivery import Dispatcher
from nexus_events.hooks import EventHooks
from nexus_events.ports import Offer, StoreUnavailable
from nexus_events.protocol import CloudEvent, Limits
from nexus_events.stores.sqlite import SqliteStore
from nexus_events.subscriptions import Sink, SinkRules, Subscription
from nexus_sdk import ServiceApp
from nexus_sdk.plugins import NoPlugins


def offer(number: int, size: int = 10) -> Offer:
    event = CloudEvent(str(number), "/s", "t", {"datacontenttype": "text/plain"}, b"x" * size)
    return Offer(event, protocol.to_json(event))


def ignore(_: object) -> None:
    return None


async def test_everything_is_there_after_close_and_open(tmp_path: Path) -> None:
    first = SqliteStore(tmp_path)
    await first.open(ignore)
    await first.append([offer(1)], 1.0)
    await first.close()
    second = SqliteStore(tmp_path)
    await second.open(ignore)
    assert second.id == first.id
    assert [r.is_new for r in await second.append([offer(1), offer(2)], 1.0)] == [False, True]
    await second.close()


async def test_concurrent_appends_share_commits(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path)
    await store.open(ignore)
    await asyncio.gather(*(store.append([offer(n)], 1.0) for n in range(500)))
    assert store._writer.groups < 250
    await store.close()


async def test_a_full_store_refuses_and_recovers_when_retention_made_room(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path, max_bytes=1_000_000)
    await store.open(ignore)
    stored = 0
    with pytest.raises(StoreUnavailable, match="full"):  # noqa: PT012 - until it is full
        while True:
            await store.append([offer(stored, 10_000)], float(stored))
            stored += 1
    assert 20 < stored < 100
    events, _ = await store.read(0, 1000)
    assert len(events) == stored, "what was acknowledged is there, what was refused is not"
    assert await store.purge(keep=5, before=0.0) == stored - 5
    await store.append([offer(stored, 10_000)], 1.0)
    assert (await store.extent()).head == stored + 1
    await store.close()


async def test_a_write_error_loses_only_what_was_not_acknowledged(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path)
    await store.open(ignore)
    await store.append([offer(1)], 1.0)
    other = sqlite3.connect(tmp_path / "events.db", isolation_level=None)
    other.execute(
        "CREATE TRIGGER broken BEFORE INSERT ON events WHEN NEW.id = '13' BEGIN SELECT RAISE(ABORT, 'disk says no'); END"
    )
    answers = await asyncio.gather(*(store.append([offer(n)], 1.0) for n in range(2, 20)), return_exceptions=True)
    failed = [a for a in answers if isinstance(a, StoreUnavailable)]
    assert failed
    assert "disk says no" in str(failed[0])
    other.execute("DROP TRIGGER broken")
    other.close()
    events, _ = await store.read(0, 100)
    assert len(events) == 1 + len(answers) - len(failed)
    assert [r.is_new for r in await store.append([offer(13)], 1.0)] == [True]
    await store.close()


async def test_a_second_process_is_kept_out_and_a_released_directory_is_taken(tmp_path: Path) -> None:
    first = SqliteStore(tmp_path)
    await first.open(ignore)
    with pytest.raises(StoreUnavailable, match="in use by another event service"):
        await SqliteStore(tmp_path, lock_wait_s=0.2).open(ignore)
    second = SqliteStore(tmp_path, lock_wait_s=10)
    waiting = asyncio.create_task(second.open(ignore))
    await first.append([offer(1)], 1.0)
    await first.close()
    await waiting
    assert (await second.extent()).head == 1
    await second.close()


@pytest.mark.parametrize("content", [b"this is no database, but long enough to be read as one" * 100])
async def test_a_damaged_file_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "events.db").write_bytes(content)
    with pytest.raises(StoreUnavailable, match=r"events\.db cannot be opened.*NEXUS_DATA_DIR"):
        await SqliteStore(tmp_path).open(ignore)


async def test_a_file_in_the_place_of_the_directory_is_named(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("")
    with pytest.raises(StoreUnavailable, match="NEXUS_DATA_DIR"):
        await SqliteStore(tmp_path / "x").open(ignore)


async def test_a_read_that_runs_while_the_store_closes_leaves_no_connection_open(tmp_path: Path) -> None:
    """Python 3.13 warns of connections that are never closed; on all versions they hold the file."""
    store = SqliteStore(tmp_path)
    await store.open(ignore)
    await store.append([offer(1)], 1.0)
    reading = asyncio.ensure_future(store.read(0, 10))
    extent = asyncio.ensure_future(store.extent())
    await asyncio.sleep(0)  # the read is with its thread, the connection may not be there yet
    await store.close()
    await asyncio.gather(reading, extent, return_exceptions=True)
    held = [link for link in Path("/proc/self/fd").iterdir() if str(tmp_path) in str(link.resolve())]
    assert not held


async def test_a_store_that_died_while_it_was_made_can_be_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise OSError("no entropy")

    with monkeypatch.context() as patch:
        patch.setattr(uuid, "uuid4", fail)
        with pytest.raises(StoreUnavailable, match="no entropy"):
            await SqliteStore(tmp_path).open(ignore)
    store = SqliteStore(tmp_path)
    await store.open(ignore)
    assert store.id
    await store.close()


async def test_a_subscription_put_and_removed_at_once_is_in_the_store_or_nowhere(tmp_path: Path) -> None:
    class Uncounted:
        def attempted(self, verdict: object) -> None: ...

        def skipped(self, events: int) -> None: ...

    app = ServiceApp("events", version="0", environ={})
    store = SqliteStore(tmp_path)
    dispatcher = Dispatcher(
        store, HttpCourier(app.client, SinkRules(), time.time), tracer=app.tracer, log=app.log, counted=Uncounted(),
        clock=time.time, rng=random.Random(1), hooks=EventHooks(NoPlugins(), Limits()),
    )  # fmt: skip
    await store.open(dispatcher.on_appended)
    wanted = Subscription("a", Sink(url="http://127.0.0.1:1/"), ("*",))
    await asyncio.gather(dispatcher.put(wanted), dispatcher.remove("a"))
    assert [s.id for s in await store.subscriptions()] == list(dispatcher.lanes())
    await asyncio.gather(dispatcher.put(wanted), dispatcher.remove("a"), dispatcher.put(wanted))
    assert [s.id for s in await store.subscriptions()] == list(dispatcher.lanes()) == ["a"]
    await store.close()
