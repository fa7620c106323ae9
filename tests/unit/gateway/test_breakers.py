"""Breakers: error ratio, probes, and agreement of workers through cells. Consecutive failures: see test_resilience.py."""

from __future__ import annotations

import mmap
import multiprocessing
import multiprocessing.synchronize
import random
import time

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from nexus_core.snapshot import CircuitBreaker
from nexus_gateway.resilience.breakers import CLOSED, HALF_OPEN, OPEN, Breaker
from nexus_gateway.resilience.cells import Cells

RATIO = CircuitBreaker(failures=0, error_ratio=0.5, min_requests=10, window_s=10.0, reset_s=5.0)


def outcomes(breaker: Breaker, text: str, now: float, step_s: float = 0.0) -> float:
    for each in text:
        assert breaker.acquire(now)
        probe = breaker.state is HALF_OPEN
        (breaker.success if each == "+" else breaker.failure)(now, probe=probe)
        now += step_s
    return now


@pytest.mark.parametrize(
    ("text", "state"),
    [
        ("-" * 9, CLOSED), ("-" * 10, OPEN), ("+" * 5 + "-" * 4, CLOSED), ("+" * 5 + "-" * 5, OPEN),
        ("+" * 6 + "-" * 5, CLOSED), ("+-" * 20, OPEN), ("++-" * 20, CLOSED),
    ],
)  # fmt: skip
def test_the_error_ratio_opens_once_there_are_enough_requests(text: str, state: str) -> None:
    breaker = Breaker(RATIO)
    assert breaker.watching, "successes count for the ratio"
    for each in text:
        if breaker.state is OPEN:
            break
        outcomes(breaker, each, 1.0)
    assert breaker.state is state


def half_open(policy: CircuitBreaker) -> Breaker:
    """Return a breaker that opened at 1 and let a probe through at 6."""
    breaker = Breaker(policy)
    outcomes(breaker, "-" * policy.failures, 1.0)
    assert breaker.acquire(6.0)
    assert breaker.state is HALF_OPEN
    return breaker


@pytest.mark.parametrize(("at", "state"), [(6.0, OPEN), (10.9, OPEN), (11.0, CLOSED), (9000.0, CLOSED)])
def test_a_probe_that_fails_after_all_takes_back_what_it_brought_about_while_it_is_new(at: float, state: str) -> None:
    breaker = half_open(CircuitBreaker(failures=2, reset_s=5.0))
    breaker.success(6.0, probe=True)
    assert breaker.state is CLOSED
    breaker.relapse(at, 6.0)
    assert breaker.state is state
    assert breaker.failing, "it is a failure all the same"
    if state is OPEN:
        assert (breaker.opened_at, breaker.would_allow(at + 4.9), breaker.acquire(at + 5.0)) == (at, False, True)
    else:
        breaker.failure(at)
        assert breaker.state is OPEN


def test_a_probe_that_fails_after_all_opens_a_circuit_that_waits_for_others() -> None:
    breaker = half_open(CircuitBreaker(failures=1, reset_s=5.0, probes=2))
    breaker.success(6.1, probe=True)
    assert breaker.acquire(6.2)
    assert breaker.state is HALF_OPEN
    breaker.relapse(6.3, 6.0)
    assert breaker.state is OPEN
    breaker.success(6.4, probe=True)
    assert (breaker.state, breaker.opened_at) == (OPEN, 6.3), "the other one is late"


def test_a_probe_of_long_ago_says_nothing_of_a_circuit_that_opened_since() -> None:
    breaker = half_open(CircuitBreaker(failures=1, reset_s=5.0))
    breaker.success(6.0, probe=True)
    breaker.failure(7.0)
    breaker.relapse(7.5, 6.0)
    assert (breaker.state, breaker.opened_at) == (OPEN, 7.0)
    assert breaker.acquire(12.0)
    breaker.relapse(12.1, 6.0)
    assert breaker.state is HALF_OPEN
    breaker.success(12.2, probe=True)
    assert breaker.state is CLOSED


def test_a_relapse_is_seen_by_other_workers() -> None:
    cells = Cells(bytearray(1 << 16))
    policy = CircuitBreaker(failures=1, reset_s=5.0)
    one, other = Breaker(policy, cells=cells, key="a"), Breaker(policy, cells=cells, key="a")
    one.failure(1.0)
    assert one.acquire(6.0)
    one.success(6.0, probe=True)
    other.mirror(6.0)
    assert other.state is CLOSED
    one.relapse(6.5, 6.0)
    other.mirror(6.5)
    assert (other.state, other.reopens_at) == (OPEN, 11.5)


def test_what_left_the_window_no_longer_counts() -> None:
    breaker = Breaker(RATIO)
    outcomes(breaker, "-" * 9, 0.5)
    outcomes(breaker, "-" * 9, 11.0)
    assert breaker.state is CLOSED
    outcomes(breaker, "-", 20.0)
    assert breaker.state is OPEN


def test_a_closed_circuit_begins_a_new_window() -> None:
    breaker = Breaker(RATIO)
    outcomes(breaker, "-" * 10, 1.0)
    outcomes(breaker, "+", 6.0)
    assert breaker.state is CLOSED
    outcomes(breaker, "-" * 9, 6.1)
    assert breaker.state is CLOSED


def test_both_rules_hold_together_and_the_ratio_can_be_turned_on_and_off() -> None:
    breaker = Breaker(CircuitBreaker(failures=3))
    assert not breaker.watching
    breaker.apply(CircuitBreaker(failures=3, error_ratio=0.5))
    assert breaker.watching
    outcomes(breaker, "---", 1.0)
    assert breaker.state is OPEN
    breaker.apply(CircuitBreaker(failures=3))
    assert outcomes(breaker, "+", 11.5)
    assert (breaker.state, breaker.watching) == (CLOSED, False)


def test_as_many_probes_as_allowed_run_at_once_and_as_many_successes_close() -> None:
    breaker = Breaker(CircuitBreaker(failures=1, reset_s=5.0, probes=3))
    breaker.failure(1.0)
    assert breaker.reopens_at == 6.0
    assert [breaker.acquire(6.0) for _ in range(4)] == [True, True, True, False]
    breaker.success(6.1, probe=True)
    breaker.success(6.1, probe=True)
    assert breaker.state is HALF_OPEN
    assert breaker.would_allow(6.1)
    breaker.success(6.1, probe=True)
    assert (breaker.state, breaker.watching) == (CLOSED, False)


def test_one_failed_probe_opens_again_and_the_others_are_late() -> None:
    breaker = Breaker(CircuitBreaker(failures=1, reset_s=5.0, probes=3))
    breaker.failure(1.0)
    assert all(breaker.acquire(6.0) for _ in range(3))
    breaker.failure(6.5, probe=True)
    breaker.success(6.6, probe=True)
    breaker.success(6.6, probe=True)
    assert (breaker.state, breaker.reopens_at) == (OPEN, 11.5)


def test_a_probe_that_never_ends_holds_its_place_for_a_reset_time() -> None:
    breaker = Breaker(CircuitBreaker(failures=1, reset_s=5.0))
    breaker.failure(1.0)
    assert breaker.acquire(6.0)
    assert not breaker.acquire(10.9)
    assert breaker.acquire(11.0)
    assert not breaker.acquire(11.1)


class Pair:
    """Two workers' breakers of one endpoint."""

    def __init__(self, policy: CircuitBreaker) -> None:
        buffer = bytearray(1 << 14)
        self.cells = [Cells(buffer, worker=worker) for worker in (0, 1)]
        self.seen: list[tuple[int, str]] = []
        self.both = [
            Breaker(policy, lambda state, w=worker: self.seen.append((w, state)), cells, "u/a:80")  # type: ignore[misc]
            for worker, cells in enumerate(self.cells)
        ]


def test_failures_of_all_workers_are_counted_together_and_an_opening_is_seen_by_all() -> None:
    pair = Pair(CircuitBreaker(failures=4, reset_s=5.0))
    first, second = pair.both
    for now in (1.0, 1.1):
        first.failure(now)
        second.failure(now)
    assert second.state is OPEN
    assert first.state is CLOSED, "not looked yet"
    assert first.mirror(1.2)
    assert (first.state, first.opened_at, first.reopens_at) == (OPEN, 1.1, 6.1)
    assert pair.seen == [(1, OPEN), (0, OPEN)]


def test_a_success_elsewhere_sets_the_count_back_once_the_other_watches() -> None:
    pair = Pair(CircuitBreaker(failures=3))
    first, second = pair.both
    before = pair.cells[1].changes
    first.failure(1.0)
    first.failure(1.0)
    assert not second.watching
    assert pair.cells[1].changes != before
    second.mirror(1.1)
    assert second.watching
    second.success(1.1)
    assert not second.watching
    first.failure(1.2)
    first.failure(1.2)
    assert first.state is CLOSED


def test_probes_are_shared_and_closing_is_seen_by_all() -> None:
    pair = Pair(CircuitBreaker(failures=1, reset_s=5.0, probes=2))
    first, second = pair.both
    first.failure(1.0)
    second.mirror(1.0)
    assert first.acquire(6.0)
    assert second.acquire(6.0)
    assert (first.state, second.state) == (HALF_OPEN, HALF_OPEN)
    assert not first.acquire(6.0)
    assert not second.acquire(6.0)
    first.success(6.1, probe=True)
    second.mirror(6.1)
    assert second.state is HALF_OPEN, "one of two"
    second.success(6.2, probe=True)
    assert second.state is CLOSED
    first.mirror(6.3)
    assert (first.state, first.watching) == (CLOSED, False)


def test_a_worker_that_notices_the_probes_late_does_not_undo_their_successes() -> None:
    pair = Pair(CircuitBreaker(failures=1, reset_s=5.0, probes=2))
    first, second = pair.both
    first.failure(1.0)
    assert first.acquire(6.0)
    first.success(6.1, probe=True)
    second.mirror(6.2)
    assert second.state is HALF_OPEN
    assert second.acquire(6.3)
    second.success(6.4, probe=True)
    assert second.state is CLOSED, "the second of two successes"


def test_a_worker_that_has_not_looked_yet_is_put_right_by_its_next_failure() -> None:
    pair = Pair(CircuitBreaker(failures=2, reset_s=5.0))
    first, second = pair.both
    first.failure(1.0)
    first.failure(1.0)
    second.failure(1.5)
    assert (second.state, second.opened_at) == (OPEN, 1.0), "its failure is a late one, not a second opening"
    assert not second.acquire(2.0)


def test_a_worker_that_starts_later_finds_the_circuit_as_it_is() -> None:
    pair = Pair(CircuitBreaker(failures=1, reset_s=5.0))
    pair.both[0].failure(1.0)
    late = Breaker(pair.both[0].policy, cells=pair.cells[1], key="u/a:80")
    assert (late.state, late.reopens_at, late.watching) == (OPEN, 6.0, True)
    assert not late.acquire(5.9)
    assert late.acquire(6.0)


def test_a_probe_that_fails_unseen_keeps_the_circuit_open_for_all() -> None:
    """Refused at once, for example: the others look before and after, and find it open both times."""
    pair = Pair(CircuitBreaker(failures=1, reset_s=5.0))
    first, second = pair.both
    first.failure(1.0)
    second.mirror(1.0)
    assert first.acquire(6.0)
    first.failure(6.0, probe=True)
    second.mirror(6.1)
    assert (second.state, second.reopens_at) == (OPEN, 11.0)
    assert not second.acquire(10.9)
    assert second.acquire(11.0)


def test_the_ratio_counts_requests_of_all_workers() -> None:
    pair = Pair(RATIO)
    first, second = pair.both
    for _ in range(20):
        second.success(1.0)
    second.success(2.5)  # the part of the window is over: what was counted here becomes everyone's
    outcomes(first, "-" * 15, 3.0)
    assert first.state is CLOSED, "15 of 36"
    outcomes(first, "-" * 6, 3.0)
    assert first.state is OPEN, "21 of 42"
    second.mirror(3.1)
    assert second.state is OPEN


def _hammer(map_: mmap.mmap, worker: int, start: multiprocessing.synchronize.Barrier) -> None:
    """Everything at once, as fast as it goes: what is told of must never raise, whatever the other one does meanwhile."""
    cells = Cells(memoryview(map_), worker=worker)
    breaker = Breaker(
        CircuitBreaker(failures=2, reset_s=0.0005, probes=2, error_ratio=0.5, min_requests=4), cells=cells, key="x"
    )
    rng = random.Random(worker)
    start.wait(20)
    begun = time.monotonic()
    states = set()
    while (now := time.monotonic()) < begun + 0.5:
        if rng.random() < 0.1:
            breaker.mirror(now)
        states.add(breaker.state)
        if not breaker.acquire(now):
            continue
        probe, dice = breaker.state is HALF_OPEN, rng.random()
        if dice < 0.4:
            breaker.failure(now, probe=probe)
        elif dice < 0.95:
            breaker.success(now, probe=probe)
        else:
            breaker.abandon(probe=probe)
    assert states == {CLOSED, OPEN, HALF_OPEN}


def test_two_processes_at_full_speed_never_break_it_and_agree_in_the_end() -> None:
    map_ = mmap.mmap(-1, 1 << 14)
    late = Breaker(CircuitBreaker(failures=2, reset_s=0.0005), cells=Cells(memoryview(map_), worker=2), key="x")
    fork = multiprocessing.get_context("fork")
    start = fork.Barrier(2)
    workers = [fork.Process(target=_hammer, args=(map_, worker, start)) for worker in (0, 1)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(30)
        assert worker.exitcode == 0
    now = time.monotonic()
    late.mirror(now)
    assert late.opened_at <= now
    assert late.would_allow(now + 1.0)
    for step in range(1, 4):
        assert late.acquire(now + step)
        late.success(now + step, probe=late.state is HALF_OPEN)
    assert (late.state, late.watching) == (CLOSED, False)


class Workers(RuleBasedStateMachine):
    """Two workers with any order of outcomes: never more probes than allowed, never stuck, and once both looked they agree."""

    def __init__(self) -> None:
        super().__init__()
        self.policy = CircuitBreaker(failures=3, reset_s=5.0, probes=2)
        self.pair = Pair(self.policy)
        self.now = 1.0
        self.running: list[tuple[int, bool, float]] = []

    @rule(passed_s=st.sampled_from([0.0, 0.01, 1.0, 4.0]))
    def wait(self, passed_s: float) -> None:
        self.now += passed_s

    @rule(worker=st.integers(0, 1))
    def begin(self, worker: int) -> None:
        breaker = self.pair.both[worker]
        allowed = breaker.would_allow(self.now)
        if breaker.acquire(self.now):
            assert allowed
            self.running.append((worker, breaker.state is HALF_OPEN, self.now))

    @precondition(lambda self: self.running)
    @rule(data=st.data(), how=st.sampled_from(["success", "failure", "abandon"]))
    def end(self, data: st.DataObject, how: str) -> None:
        worker, probe, _ = self.running.pop(data.draw(st.integers(0, len(self.running) - 1)))
        breaker = self.pair.both[worker]
        if how == "abandon":
            breaker.abandon(probe=probe)
        else:
            getattr(breaker, how)(self.now, probe=probe)

    @rule()
    def tick(self) -> None:
        for breaker in self.pair.both:
            breaker.mirror(self.now)
        first, second = self.pair.both
        assert (first.state, first.reopens_at, first.watching) == (second.state, second.reopens_at, second.watching)

    @invariant()
    def comes_back(self) -> None:
        for breaker in self.pair.both:
            assert breaker.would_allow(self.now + 2 * self.policy.reset_s)
            assert breaker.watching or breaker.state is CLOSED


Workers.TestCase.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
TestWorkers = Workers.TestCase
