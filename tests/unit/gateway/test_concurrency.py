"""Bulkhead and queue as tables; the adaptive limit against a simulated server with so many places."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nexus_core.snapshot import Concurrency
from nexus_gateway.resilience.concurrency import PROBE_EVERY_S, Gradient, Limiter


def nobody() -> None:
    raise AssertionError("woken")


def test_no_more_run_than_allowed_and_the_rest_is_refused() -> None:
    limiter = Limiter(Concurrency(max_requests=2), 0.0)
    assert [limiter.acquire(0.0, nobody) for _ in range(3)] == [True, True, False]
    assert limiter.crowded
    limiter.release(0.1, 0.1, ok=True)
    assert limiter.acquire(0.1, nobody) is True


def test_those_who_wait_get_places_in_order_and_nobody_overtakes() -> None:
    limiter = Limiter(Concurrency(max_requests=1, max_pending=2), 0.0)
    woken: list[str] = []
    assert limiter.acquire(0.0, nobody) is True
    assert limiter.acquire(0.0, lambda: woken.append("a")) is None
    assert limiter.acquire(0.0, lambda: woken.append("b")) is None
    assert limiter.acquire(0.0, nobody) is False, "the queue is full"
    assert limiter.pending == 2
    limiter.release(1.0, 1.0, ok=True)
    assert (woken, limiter.running, limiter.pending) == (["a"], 1, 1)
    limiter.release(2.0, 1.0, ok=True)
    limiter.release(3.0, 1.0, ok=True)
    assert (woken, limiter.running, limiter.pending) == (["a", "b"], 0, 0)


def test_who_leaves_the_queue_is_not_woken_and_leaving_twice_is_harmless() -> None:
    limiter = Limiter(Concurrency(max_requests=1, max_pending=5), 0.0)
    limiter.acquire(0.0, nobody)
    assert limiter.acquire(0.0, nobody) is None
    assert [limiter.leave(nobody), limiter.leave(nobody)] == [True, False]
    limiter.release(1.0, 1.0, ok=True)
    assert limiter.running == 0


def test_a_thousand_waiting_that_end_at_once_do_not_nest() -> None:
    limiter = Limiter(Concurrency(max_requests=1, max_pending=5000), 0.0)
    ended: list[int] = []

    def wake(number: int) -> None:
        ended.append(number)
        limiter.release(1.0, 0.0, ok=False)

    limiter.acquire(0.0, nobody)
    for number in range(5000):
        limiter.acquire(0.0, partial(wake, number))
    limiter.release(1.0, 1.0, ok=True)
    assert (ended, limiter.running) == (list(range(5000)), 0)


def test_whoever_comes_while_others_are_woken_does_not_overtake_them() -> None:
    limiter = Limiter(Concurrency(max_requests=1, max_pending=2), 0.0)
    got: list[object] = []
    limiter.acquire(0.0, nobody)
    limiter.acquire(0.0, lambda: got.append(limiter.acquire(1.0, lambda: got.append("third"))))
    limiter.acquire(0.0, lambda: got.append("second"))
    limiter.apply(Concurrency(max_requests=4, max_pending=2), 1.0)
    assert got == [None, "second", "third"]


def test_a_limit_that_is_not_in_use_does_not_grow() -> None:
    gradient = Gradient(8, 1024, 0.0)
    before = gradient.limit
    for step in range(1, 1000):
        gradient.observe(0.05, int(before) // 2 - 1, step * 0.01, ok=True)
    assert gradient.limit == before
    for step in range(1000, 1200):
        gradient.observe(0.05, int(before), step * 0.01, ok=True)
    assert gradient.limit > 1.5 * before


def test_a_changed_policy_keeps_who_runs_and_lets_in_who_waits() -> None:
    limiter = Limiter(Concurrency(max_requests=1, max_pending=3), 0.0)
    woken: list[int] = []
    limiter.acquire(0.0, nobody)
    for number in range(3):
        limiter.acquire(0.0, partial(woken.append, number))
    limiter.apply(Concurrency(max_requests=3, max_pending=3), 1.0)
    assert (woken, limiter.running) == ([0, 1], 3)
    limiter.apply(Concurrency(max_requests=1), 2.0)
    limiter.release(2.0, 1.0, ok=True)
    assert (woken, limiter.running) == ([0, 1], 2), "the limit shrank below those who run"
    limiter.apply(Concurrency(), 3.0)
    assert woken == [0, 1, 2]
    assert limiter.acquire(3.0, nobody) is True, "no limit any more"


@given(st.integers(1, 5), st.integers(0, 5), st.lists(st.sampled_from(["come", "end", "leave"]), max_size=100))
def test_places_and_queue_stay_bounded_and_first_come_is_first_served(
    places: int, pending: int, events: list[str]
) -> None:
    limiter = Limiter(Concurrency(max_requests=places, max_pending=pending), 0.0)
    running, served = 0, []
    queue: list[tuple[int, Callable[[], None]]] = []
    for number, event in enumerate(events):
        if event == "come":
            wake = partial(served.append, number)
            got = limiter.acquire(0.0, wake)
            expected = True if running < places and not queue else None if len(queue) < pending else False
            assert got is expected
            running += got is True
            if got is None:
                queue.append((number, wake))
        elif event == "leave" and queue:
            assert limiter.leave(queue.pop()[1])
        elif event == "end" and running:
            limiter.release(0.0, 0.1, ok=True)
            if queue:
                assert served[-1] == queue.pop(0)[0]
            else:
                running -= 1
        assert (limiter.running, limiter.pending) == (running, len(queue))


class Server:
    """Works on `places` requests at once, `work_s` each on average; more wait inside it, first come first served."""

    def __init__(self, places: int, work_s: float, seed: int = 1) -> None:
        self.places = places
        self.work_s = work_s
        self._free_at = [0.0] * places
        self._rng = random.Random(seed)

    def answer_at(self, now: float) -> float:
        begin = max(now, heapq.heappop(self._free_at))
        end = begin + self.work_s * self._rng.uniform(0.8, 1.2)
        heapq.heappush(self._free_at, end)
        return end


class Load:
    """An open loop of requests through a limiter to a server."""

    def __init__(self, server: Server, policy: Concurrency, seed: int = 2) -> None:
        self.server = server
        self.limiter = Limiter(policy, 0.0)
        self.now = 0.0
        self._rng = random.Random(seed)
        self._running: list[tuple[float, float]] = []

    def run(self, rate_per_s: float, lasts_s: float) -> tuple[float, float, float]:
        """Return (answers for each second, median response time, share shed) of the second half."""
        begin, half = self.now, self.now + lasts_s / 2
        times, come, shed = [], 0, 0
        while self.now < begin + lasts_s:
            self.now += self._rng.expovariate(rate_per_s)
            while self._running and self._running[0][0] <= self.now:
                end, started = heapq.heappop(self._running)
                self.limiter.release(end, end - started, ok=True)
                if end > half:
                    times.append(end - started)
            got = self.limiter.acquire(self.now, nobody)
            if got:
                heapq.heappush(self._running, (self.server.answer_at(self.now), self.now))
            if self.now > half:
                come += 1
                shed += not got
        return len(times) / (lasts_s / 2), sorted(times)[len(times) // 2], shed / come


ADAPTIVE = Concurrency(adaptive=True)


@pytest.mark.parametrize(("places", "work_s"), [(20, 0.05), (50, 0.05), (100, 0.1), (40, 0.01)])
def test_under_three_times_its_capacity_a_server_works_at_capacity_and_the_rest_is_shed(
    places: int, work_s: float
) -> None:
    load = Load(Server(places, work_s), ADAPTIVE)
    capacity = places / work_s
    answered, median_s, shed = load.run(3 * capacity, 40.0)
    assert answered > 0.93 * capacity
    assert 0.6 < shed < 0.75
    assert places * 0.95 < load.limiter.limit < places * 1.1 + 2 * places**0.5 + 4
    assert median_s < 2.0 * work_s, "without a limit it would grow for ever"


def test_below_its_capacity_nothing_is_shed() -> None:
    load = Load(Server(50, 0.05), ADAPTIVE)
    answered, median_s, shed = load.run(700.0, 80.0)
    assert shed < 0.002
    assert median_s < 0.06
    assert answered == pytest.approx(700.0, rel=0.05)


def test_the_limit_follows_a_server_that_grows_and_one_that_shrinks() -> None:
    server = Server(20, 0.05)
    load = Load(server, ADAPTIVE)
    load.run(3000.0, 20.0)
    small = load.limiter.limit
    server._free_at += [load.now] * 60
    heapq.heapify(server._free_at)
    answered, _, _ = load.run(3000.0, 40.0)
    assert load.limiter.limit > 2.5 * small
    assert answered > 0.9 * 80 / 0.05
    server._free_at = sorted(server._free_at)[:20]
    answered, median_s, _ = load.run(3000.0, 40.0)
    assert answered > 0.9 * 20 / 0.05
    assert median_s < 0.1
    assert load.limiter.limit < 1.5 * small


def test_a_server_that_became_slower_is_still_used_to_its_capacity() -> None:
    """Four times the work for each request: the old minimum would hold the limit down until it is measured anew."""
    server = Server(50, 0.02)
    load = Load(server, ADAPTIVE)
    load.run(6000.0, 10.0)
    server.work_s = 0.08
    answered, _, _ = load.run(3000.0, 2.5 * PROBE_EVERY_S)
    assert answered > 0.9 * 50 / 0.08


def test_measuring_the_minimum_under_load_does_not_let_it_creep() -> None:
    load = Load(Server(50, 0.05), ADAPTIVE)
    load.run(3000.0, 20.0)
    before = load.limiter.limit
    load.run(3000.0, 6 * PROBE_EVERY_S)
    assert load.limiter.limit == pytest.approx(before, rel=0.25)


@given(
    st.lists(st.tuples(st.floats(0.0, 10.0), st.integers(0, 2000), st.booleans(), st.floats(0.0, 5.0)), max_size=300)
)
def test_the_limit_stays_within_its_bounds_whatever_is_observed(seen: list[tuple[float, int, bool, float]]) -> None:
    gradient = Gradient(8, 1024, 0.0)
    now = 0.0
    for seconds, inflight, ok, passed_s in seen:
        now += passed_s
        for _ in range(12):
            gradient.observe(seconds, inflight, now, ok=ok)
        assert 8 <= gradient.limit <= 1024


def test_fast_failures_say_nothing_and_slow_ones_do() -> None:
    gradient = Gradient(8, 1024, 0.0)
    now = 0.0
    for _ in range(200):
        now += 0.02
        gradient.observe(0.1, 30, now, ok=True)
    settled = gradient.limit
    for _ in range(200):
        now += 0.02
        gradient.observe(0.001, 1000, now, ok=False)
    assert (gradient.limit, gradient.rtt_min_s) == (settled, 0.1)
    for _ in range(200):
        now += 0.02
        gradient.observe(2.0, 1000, now, ok=False)
    assert gradient.limit < 0.5 * settled


def test_both_limits_hold_and_the_smaller_one_counts() -> None:
    limiter = Limiter(Concurrency(adaptive=True, max_requests=5, min_limit=8), 0.0)
    assert limiter.limit == 5
    limiter.apply(Concurrency(adaptive=True, min_limit=8, max_limit=16), 0.0)
    assert limiter.limit == 16
