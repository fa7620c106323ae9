"""Limits that several workers keep together: never exceeded, never lost to a dead worker, shared fairly."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nexus_core.snapshot import Concurrency
from nexus_gateway.resilience.bulkheads import SILENT_S, SPARE, Bulkheads
from nexus_gateway.resilience.cells import Cells
from nexus_gateway.resilience.concurrency import Limiter

START = 1000.0
TICK_S = 0.1


@dataclass
class Worker:
    """One worker's limiter, and the requests that it let in."""

    limiter: Limiter
    bulkheads: Bulkheads
    woken: list[int] = field(default_factory=list)

    def ask(self, number: int = 0) -> bool | None:
        return self.limiter.acquire(START, lambda: self.woken.append(number))

    def end(self) -> None:
        self.limiter.release(START, 0.01, ok=True)


def make(count: int, policy: Concurrency, buffer: bytearray | None = None) -> list[Worker]:
    buffer = buffer or bytearray(64 * 1024)
    return [begin(buffer, number, count, policy) for number in range(count)]


def begin(buffer: bytearray, column: int, count: int, policy: Concurrency, now: float = START) -> Worker:
    bulkheads = Bulkheads(Cells(buffer, worker=column), now, column=column, workers=count)
    return Worker(bulkheads.limiter("shop/orders", policy, now), bulkheads)


def test_all_workers_together_keep_the_limit() -> None:
    first, second, third = make(3, Concurrency(max_requests=4))
    assert [first.ask(), first.ask(), second.ask(), third.ask()] == [True] * 4
    assert [first.ask(), second.ask(), third.ask()] == [False] * 3
    assert [each.limiter.taken for each in (first, second, third)] == [4] * 3
    assert third.limiter.crowded
    first.end()
    assert [third.ask(), second.ask()] == [True, False]


def test_one_worker_may_take_all_while_the_others_are_idle() -> None:
    busy, _ = make(2, Concurrency(max_requests=100))
    assert sum(bool(busy.ask()) for _ in range(150)) == 100


def test_the_bound_of_the_queue_is_for_all_together() -> None:
    first, second = make(2, Concurrency(max_requests=1, max_pending=2))
    assert [first.ask(), first.ask(), second.ask(), second.ask(), first.ask()] == [True, None, None, False, False]


def test_who_waits_gets_a_place_that_another_worker_gave_back() -> None:
    first, second = make(2, Concurrency(max_requests=1, max_pending=5))
    assert first.ask()
    assert second.ask(7) is None
    first.end()
    assert not second.woken
    second.bulkheads.tick(START + TICK_S)
    assert second.woken == [7]
    assert first.ask() is None


def test_a_worker_beyond_its_share_leaves_what_gets_free_to_those_who_wait() -> None:
    """Else one with many connections would keep another's requests waiting for ever."""
    busy, other = make(2, Concurrency(max_requests=10, max_pending=50))
    assert all(busy.ask() for _ in range(10))
    assert other.ask() is None
    for _ in range(4):
        busy.end()
        assert busy.ask() is None, "it has more than half"
    other.bulkheads.tick(START + TICK_S)
    assert len(other.woken) == 1
    assert busy.limiter.running == 6
    busy.bulkheads.tick(START + TICK_S)
    assert len(busy.woken) == 3, "nobody else waits: the rest is its own again"


def test_places_of_a_killed_worker_are_given_back() -> None:
    first, dead = make(2, Concurrency(max_requests=4, max_pending=2))
    assert [dead.ask() for _ in range(6)] == [True] * 4 + [None] * 2
    assert first.ask() is False
    now = START
    while now < START + SILENT_S:
        now += TICK_S
        first.bulkheads.tick(now)
    assert [first.ask() for _ in range(6)] == [True] * 4 + [None] * 2


def test_a_successor_takes_over_its_predecessors_column_empty() -> None:
    buffer, policy = bytearray(64 * 1024), Concurrency(max_requests=4)
    first, dead = make(2, policy, buffer)
    assert [dead.ask() for _ in range(3)] == [True] * 3
    successor = begin(buffer, 1, 2, policy, START + 0.2)
    assert [first.ask() for _ in range(3)] == [True] * 3
    assert [successor.ask(), successor.ask()] == [True, False]


def test_a_new_limit_counts_nothing_of_workers_that_are_gone() -> None:
    buffer, policy = bytearray(64 * 1024), Concurrency(max_requests=4)
    dead = begin(buffer, 2, 2, policy)
    assert [dead.ask() for _ in range(4)] == [True] * 4
    late = begin(buffer, 0, 2, policy, START + 2 * SILENT_S)
    assert late.ask()


def test_a_worker_that_only_stood_still_is_counted_again() -> None:
    first, stalled = make(2, Concurrency(max_requests=4))
    assert [stalled.ask() for _ in range(3)] == [True] * 3
    first.bulkheads.tick(START + 2 * SILENT_S)
    assert first.limiter.taken == 0
    stalled.bulkheads.tick(START + 2 * SILENT_S)
    assert first.limiter.taken == 3
    stalled.end()
    assert first.limiter.taken == 2


def test_a_worker_that_ends_leaves_nothing() -> None:
    first, leaving = make(2, Concurrency(max_requests=2))
    assert [leaving.ask(), leaving.ask()] == [True, True]
    leaving.bulkheads.leave()
    assert first.ask()
    leaving.bulkheads.tick(START + TICK_S)
    assert first.limiter.taken == 1


def test_two_limiters_of_one_upstream_in_one_worker_take_from_the_same_places() -> None:
    """While a former Snapshot's requests end, its pool and the new one's have a limiter each."""
    policy = Concurrency(max_requests=3)
    first, second = make(2, policy)
    newer = Worker(first.bulkheads.limiter("shop/orders", policy, START), first.bulkheads)
    assert [first.ask(), newer.ask(), second.ask(), newer.ask()] == [True, True, True, False]
    first.end()
    assert newer.ask()
    assert second.limiter.taken == 3


def test_another_upstream_has_places_of_its_own() -> None:
    first, second = make(2, Concurrency(max_requests=1))
    other = Worker(second.bulkheads.limiter("shop/catalog", Concurrency(max_requests=1), START), second.bulkheads)
    assert [first.ask(), other.ask(), second.ask()] == [True, True, False]


def test_an_adaptive_limit_alone_is_each_workers_own() -> None:
    first, second = make(2, Concurrency(adaptive=True, min_limit=2, max_limit=8))
    assert sum(bool(first.ask()) for _ in range(20)) == 8
    assert sum(bool(second.ask()) for _ in range(20)) == 8


@pytest.mark.parametrize(("column", "workers"), [(0, 1), (2 + SPARE, 2)], ids=["the only one", "no column left"])
def test_a_worker_without_a_column_counts_for_itself(column: int, workers: int) -> None:
    alone = begin(bytearray(64 * 1024), column, workers, Concurrency(max_requests=2))
    assert [alone.ask(), alone.ask(), alone.ask()] == [True, True, False]
    alone.bulkheads.tick(START + TICK_S)
    alone.bulkheads.touch(START + TICK_S)
    alone.bulkheads.leave()


@given(st.integers(2, 5), st.integers(1, 12), st.integers(0, 6), st.integers())
def test_whatever_happens_no_more_run_than_allowed_and_all_who_wait_are_served(
    workers: int, limit: int, pending: int, seed: int
) -> None:
    rng = random.Random(seed)
    policy = Concurrency(max_requests=limit, max_pending=pending)
    buffer = bytearray(64 * 1024)
    made = make(workers, policy, buffer)
    running = [0] * workers
    waiting = [0] * workers
    seen = [0] * workers
    now = START

    def settle() -> None:
        for at, worker in enumerate(made):
            fresh = len(worker.woken) - seen[at]
            seen[at] += fresh
            running[at] += fresh
            waiting[at] -= fresh
            assert (worker.limiter.running, worker.limiter.pending) == (running[at], waiting[at])
        assert sum(running) <= limit
        assert sum(waiting) <= pending
        assert {worker.limiter.taken for worker in made} == {sum(running)}

    for _ in range(120):
        at = rng.randrange(workers)
        match rng.randrange(8):
            case 0 | 1 | 2:
                answer = made[at].ask()
                running[at] += answer is True
                waiting[at] += answer is None
            case 3 | 4 | 5 if running[at]:
                running[at] -= 1
                made[at].end()
            case 6:
                now += TICK_S
                for worker in made:
                    worker.bulkheads.tick(now)
            case 7 if rng.random() < 0.2:
                # Killed, and its successor begins in its column.
                made[at] = begin(buffer, at, workers, policy, now)
                running[at] = waiting[at] = seen[at] = 0
        settle()
    for _ in range(200):
        for at, worker in enumerate(made):
            while running[at]:
                running[at] -= 1
                worker.end()
                settle()
        now += TICK_S
        for worker in made:
            worker.bulkheads.tick(now)
        settle()
    assert sum(waiting) == sum(running) == 0


@given(st.integers(2, 4), st.integers(1, 400), st.integers(), st.integers(1, 40))
def test_places_that_are_kept_ready_are_never_too_many_and_soon_everybodys(
    workers: int, limit: int, seed: int, ticks: int
) -> None:
    rng = random.Random(seed)
    made = make(workers, Concurrency(max_requests=limit))
    running = [0] * workers
    now = START
    for _ in range(ticks):
        for _ in range(rng.randrange(60)):
            at = rng.randrange(workers)
            if rng.random() < 0.6:
                running[at] += made[at].ask() is True
            elif running[at]:
                running[at] -= 1
                made[at].end()
            assert sum(running) <= limit
        now += SILENT_S / 50  # nobody is taken for dead
        rng.choice(made).bulkheads.tick(now)
    for at, worker in enumerate(made):
        for _ in range(running[at]):
            worker.end()
    for worker in made:
        worker.bulkheads.tick(now + TICK_S)
    assert sum(made[0].ask() is True for _ in range(2 * limit)) == limit


def test_little_is_kept_from_a_sudden_rush_and_that_not_for_long() -> None:
    workers = make(4, Concurrency(max_requests=400))
    for worker in workers:
        assert worker.ask()
        worker.bulkheads.tick(START + TICK_S)
    rush = workers[0]
    got = sum(rush.ask() is True for _ in range(400))
    assert 396 * 0.9 <= got < 396
    for worker in workers:
        worker.bulkheads.tick(START + 2 * TICK_S)
    assert got + sum(rush.ask() is True for _ in range(400)) == 396
