"""Pages of large events end early and lose nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
from nexus_events.ports import Letter, Offer, Stored
from nexus_events.protocol import CloudEvent
from nexus_events.stores import sqlite
from nexus_events.stores.sqlite import SqliteStore
from nexus_events.subscriptions import Sink, Subscription


async def test_a_page_of_large_events_ends_early_and_the_next_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "PAGE_BYTES", 2500)
    store = SqliteStore(tmp_path)
    await store.open(lambda _: None)
    await store.append([Offer(CloudEvent(str(n), "/s", "t"), b"x" * 1000) for n in range(7)], 1.0)
    seen, after = list[int](), 0
    while (page := await store.read(after, 100))[0]:
        assert len(page[0]) <= 3
        seen += [event.offset for event in page[0]]
        after = page[1]
    assert seen == list(range(1, 8))
    await store.put_subscription(Subscription("a", Sink(url="http://x"), ("*",)))
    for number in range(1, 6):
        await store.bury("a", Letter(Stored(number, 1.0, "t", b"x" * 1000), "c", 1, 1.0), number)
    assert [x.event.offset for x in await store.letters("a", 0, 100)] == [1, 2, 3]
    await store.close()
