"""What every store of the event service keeps; runs against all of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest
from nexus_events import protocol
from nexus_events.ports import Extent, Letter, Offer, Store, Stored
from nexus_events.protocol import CloudEvent
from nexus_events.stores.memory import MemoryStore
from nexus_events.stores.sqlite import SqliteStore
from nexus_events.subscriptions import Delivery, Sink, Subscription

STORES: dict[str, Callable[[Path], Store]] = {
    "memory": lambda _: MemoryStore(),
    "sqlite": lambda directory: SqliteStore(directory),
}


def offer(number: int, event_type: str = "order.placed", source: str = "/shop") -> Offer:
    event = CloudEvent(str(number), source, event_type, {"datacontenttype": "application/json"}, b"%d" % number)
    return Offer(event, protocol.to_json(event), f"trace-{number}")


class Heard(list[Stored]):
    pass


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture(params=STORES)
async def store(request: pytest.FixtureRequest, tmp_path: Path, heard: Heard) -> AsyncIterator[Store]:
    made = STORES[request.param](tmp_path)
    await made.open(heard.extend)
    yield made
    await made.close()


SUBSCRIPTION = Subscription(
    "billing", Sink(service="billing", path="/in"), ("order.*", "x"), Delivery(3, 60.0, 1.5), 30.0, 130.0, 4, 1, 100.0
)


async def test_events_get_rising_offsets_and_come_back_as_they_were(store: Store, heard: Heard) -> None:
    receipts = await store.append([offer(1), offer(2)], 10.0)
    receipts += await store.append([offer(3)], 11.0)
    assert [(r.offset, r.is_new) for r in receipts] == [(1, True), (2, True), (3, True)]
    events, looked = await store.read(0, 10)
    assert looked == 3
    assert list(events) == list(heard)
    assert events[0] == Stored(1, 10.0, "order.placed", offer(1).body, "trace-1")
    assert await store.extent() == Extent(3, 1)


async def test_source_and_id_together_make_a_duplicate(store: Store, heard: Heard) -> None:
    await store.append([offer(1)], 10.0)
    receipts = await store.append([offer(1), offer(2), offer(2), offer(1, source="/other")], 11.0)
    assert [(r.offset, r.is_new) for r in receipts] == [(1, False), (2, True), (2, False), (3, True)]
    assert [s.offset for s in heard] == [1, 2, 3]


async def test_many_at_once_are_all_stored_without_gaps_and_heard_in_order(store: Store, heard: Heard) -> None:
    answers = await asyncio.gather(*(store.append([offer(n)], 1.0) for n in range(300)))
    assert sorted(r.offset for (r,) in answers) == list(range(1, 301))
    assert [s.offset for s in heard] == list(range(1, 301))


async def test_an_append_whose_caller_gave_up_is_heard_nevertheless_or_not_stored(store: Store, heard: Heard) -> None:
    task = asyncio.create_task(store.append([offer(1)], 1.0))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await store.append([offer(2)], 1.0)
    events, _ = await store.read(0, 10)
    assert [s.offset for s in heard] == [s.offset for s in events]


@pytest.mark.parametrize(
    ("pattern", "expected"), [("*", [1, 2, 3, 4]), ("order.*", [1, 3]), ("user.made", [2]), ("%", []), ("order.", [])]
)
async def test_a_page_holds_what_matches(store: Store, pattern: str, expected: list[int]) -> None:
    for number, event_type in enumerate(["order.placed", "user.made", "order.paid", "orders"], 1):
        await store.append([offer(number, event_type)], 1.0)
    events, looked = await store.read(0, 10, pattern)
    assert [e.offset for e in events] == expected
    assert looked == 4
    if expected:
        first, looked = await store.read(0, 1, pattern)
        assert [e.offset for e in first] == expected[:1]
        assert looked == expected[0]


async def test_a_rare_match_far_behind_is_found_in_one_call(store: Store) -> None:
    await store.append([offer(n, "noise") for n in range(5000)], 1.0)
    await store.append([offer(1, "signal", "/rare")], 1.0)
    events, looked = await store.read(0, 10, "signal")
    assert ([e.offset for e in events], looked) == ([5001], 5001)
    assert await store.read(5001, 10, "signal") == ((), 5001)


async def test_purge_bounds_number_and_age_and_offsets_are_never_used_again(store: Store) -> None:
    for number in range(10):
        await store.append([offer(number)], float(number))
    assert await store.purge(keep=8, before=0.0) == 2
    assert await store.purge(keep=100, before=5.0) == 3
    assert await store.extent() == Extent(10, 6)
    assert await store.purge(keep=100, before=99.0) == 5
    assert await store.extent() == Extent(10, 11)
    assert [r.offset for r in await store.append([offer(0)], 1.0)] == [11], "forgotten events may be published again"


async def test_subscriptions_are_kept_whole_and_advance(store: Store) -> None:
    await store.put_subscription(SUBSCRIPTION)
    await store.put_subscription(replace(SUBSCRIPTION, id="audit"))
    await store.advance({"billing": (9, 2), "unknown": (1, 0)})
    assert await store.subscriptions() == (
        replace(SUBSCRIPTION, id="audit"),
        replace(SUBSCRIPTION, cursor=9, skipped=2),
    )
    assert await store.delete_subscription("billing")
    assert not await store.delete_subscription("billing")
    assert [s.id for s in await store.subscriptions()] == ["audit"]


async def test_dead_letters_survive_retention_and_are_redriven_and_deleted(store: Store) -> None:
    await store.put_subscription(SUBSCRIPTION)
    await store.append([offer(n) for n in range(3)], 1.0)
    events, _ = await store.read(0, 10)
    letters = [Letter(event, f"status 500 #{event.offset}", 10, 5.0) for event in events]
    for letter in letters:
        await store.bury("billing", letter, letter.event.offset)
    await store.purge(0, 100.0)
    assert await store.letters("billing", 0, 10) == tuple(letters)
    assert await store.letters("billing", 1, 1) == (letters[1],)
    assert (await store.subscriptions())[0].cursor == 3
    assert await store.count_letters() == {"billing": 3}
    assert await store.redrive("billing", [2, 99]) == 1
    assert await store.redrive("billing", []) == 0
    assert [x.event.offset for x in await store.letters("billing", 0, 10, redriven=True)] == [2]
    assert await store.redrive("billing", None) == 2
    assert await store.letters("billing", 0, 10, redriven=False) == ()
    assert await store.delete_letters("billing", [1, 1, 7]) == 1
    await store.delete_subscription("billing")
    assert await store.letters("billing", 0, 10) == ()
    await store.bury("billing", letters[0], 1)
    assert await store.count_letters() == {}
