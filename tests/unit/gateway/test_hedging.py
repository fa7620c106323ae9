"""Live percentiles, hedges and their budget; a seeded simulation shows what hedging is worth."""

from __future__ import annotations

import heapq
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nexus_core.snapshot import Concurrency, Hedge
from nexus_gateway.resilience.budgets import WINDOW_S, HedgeBudget, RetryBudget
from nexus_gateway.resilience.concurrency import Limiter
from nexus_gateway.resilience.hedging import BEYOND, delay_s, may_hedge
from nexus_gateway.resilience.latencies import HALF_LIFE_S, REFRESH_S, SAMPLES, Latencies


def observed(times: list[float], now: float = 1.0) -> Latencies:
    latencies = Latencies()
    for seconds in times:
        latencies.observe(seconds, now)
    return latencies


@given(st.lists(st.floats(1e-5, 1000.0), min_size=1, max_size=SAMPLES), st.sampled_from([0.5, 0.9, 0.95, 0.99, 1.0]))
def test_a_percentile_is_the_one_of_a_sorted_list_within_a_bucket(times: list[float], p: float) -> None:
    exact = sorted(times)[max(0, -int(-p * len(times) // 1) - 1)]
    found = observed(times).percentile(p, 1.0)
    assert exact / 1.10 <= found <= exact * 1.10


def test_extreme_times_are_counted_too() -> None:
    assert 0.0 < observed([-1.0, 0.0]).percentile(0.5, 1.0) < 2e-5
    assert observed([1e9]).percentile(0.5, 1.0) > 1000.0
    assert Latencies().percentile(0.95, 1.0) == 0.0


def test_percentiles_follow_a_change_and_are_worked_out_seldom() -> None:
    latencies = observed([0.010] * 400)
    assert latencies.percentile(0.95, 1.0) == pytest.approx(0.010, rel=0.05)
    for _ in range(400):
        latencies.observe(0.100, 1.1)
    assert latencies.percentile(0.95, 1.0 + REFRESH_S * 0.9) == pytest.approx(0.010, rel=0.05), "the one of before"
    assert latencies.percentile(0.95, 1.0 + REFRESH_S) == pytest.approx(0.100, rel=0.05)
    now = 1.3
    for _ in range(60):
        now += 0.5
        for _ in range(10):
            latencies.observe(0.010, now)
        last = latencies.percentile(0.95, now)
    assert last == pytest.approx(0.010, rel=0.05), "30 s later"


def test_what_is_long_past_is_no_longer_believed() -> None:
    latencies = observed([0.01] * 400)
    assert latencies.percentile(0.95, 1.0, BEYOND) > 0.0
    assert latencies.percentile(0.95, 1.0 + 2 * HALF_LIFE_S, BEYOND) > 0.0
    assert latencies.percentile(0.95, 1.0 + 3 * HALF_LIFE_S, BEYOND) == 0.0
    assert latencies.percentile(0.95, 1e6) == 0.0


def test_between_two_looks_only_the_last_times_count() -> None:
    latencies = observed([9.0] * 5000 + [0.01] * SAMPLES)
    assert latencies.percentile(1.0, 1.0) == pytest.approx(0.01, rel=0.05)


@pytest.mark.parametrize(
    ("count", "percentile", "expected"),
    [(0, 0.95, None), (99, 0.95, None), (101, 0.95, 0.02), (101, 0.99, None), (501, 0.99, 0.02), (101, 0.5, 0.02)],
)
def test_the_delay_is_the_live_percentile_once_enough_is_known(
    count: int, percentile: float, expected: float | None
) -> None:
    found = delay_s(Hedge(percentile=percentile), observed([0.02] * count), 1.0)
    assert found == (None if expected is None else pytest.approx(expected, rel=0.05))


def test_the_delay_is_never_below_its_minimum() -> None:
    assert delay_s(Hedge(min_delay_s=0.005), observed([0.001] * 200), 1.0) == 0.005


def counted(requests: int, now: float = 1.0) -> RetryBudget:
    budget = RetryBudget()
    for _ in range(requests):
        budget.request(now)
    return budget


def test_hedges_have_a_share_of_recent_requests_and_no_floor() -> None:
    assert not HedgeBudget(counted(19)).take(0.05, 1.0)
    budget = HedgeBudget(counted(1000))
    assert sum(budget.take(0.05, 1.0) for _ in range(1000)) == 50
    assert not budget.take(0.05, 1.0 + WINDOW_S), "the requests have left the window too"


@pytest.mark.parametrize(
    ("idempotent", "replayable", "running", "expected"),
    [(True, True, 7, True), (True, True, 8, False), (False, True, 0, False), (True, False, 0, False), (True, True, 10, False)],
)  # fmt: skip
def test_who_is_hedged(idempotent: bool, replayable: bool, running: int, expected: bool) -> None:
    limiter = Limiter(Concurrency(max_requests=10, max_pending=5), 0.0)
    for _ in range(running):
        limiter.acquire(0.0, lambda: None)
    budget = HedgeBudget(counted(100))
    assert may_hedge(Hedge(), budget, limiter, 1.0, idempotent=idempotent, replayable=replayable) is expected
    assert may_hedge(Hedge(), budget, None, 1.0, idempotent=True, replayable=True), "a refusal costs no budget"


@given(st.lists(st.tuples(st.sampled_from(["request", "hedge"]), st.floats(0, 3)), max_size=300))
def test_no_window_has_more_hedges_than_its_share_and_one(events: list[tuple[str, float]]) -> None:
    requests = RetryBudget()
    hedges = HedgeBudget(requests)
    now, begun, spent = 0.0, [], []
    for what, passed_s in events:
        now += passed_s
        if what == "request":
            requests.request(now)
            begun.append(now)
        elif hedges.take(0.5, now):
            spent.append(now)
            recent = sum(now - WINDOW_S <= at for at in begun)
            assert sum(at > now - WINDOW_S + 1.0 for at in spent) <= 0.5 * recent


class Bimodal:
    """An upstream that answers in 10 ms, and in 500 ms one time in 50."""

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)

    def time_s(self) -> float:
        usual = self._rng.lognormvariate(0.0, 0.1) * 0.010
        return usual + (0.490 if self._rng.random() < 0.02 else 0.0)


def simulate(hedge: Hedge | None, requests: int = 20_000, rate_per_s: float = 500.0) -> tuple[float, float]:
    """Return (p99 of the client's time in seconds, extra attempts for each request)."""
    upstream, latencies, rng = Bimodal(1), Latencies(), random.Random(2)
    retry = RetryBudget()
    budget = HedgeBudget(retry)
    answers: list[
        tuple[float, float]
    ] = []  # (when the upstream answered, its response time): seen in the order they come
    now, extra, times = 1000.0, 0, []
    for _ in range(requests):
        now += rng.expovariate(rate_per_s)
        while answers and answers[0][0] <= now:
            at, seconds = heapq.heappop(answers)
            latencies.observe(seconds, at)
        retry.request(now)
        took_s = upstream.time_s()
        if hedge is not None:
            wait_s = delay_s(hedge, latencies, now)
            if (
                wait_s is not None
                and wait_s < took_s
                and may_hedge(hedge, budget, None, now + wait_s, idempotent=True, replayable=True)
            ):
                extra += 1
                took_s = min(took_s, wait_s + upstream.time_s())
        heapq.heappush(answers, (now + took_s, took_s))
        times.append(took_s)
    return sorted(times)[int(0.99 * requests)], extra / requests


def test_hedging_cuts_the_tail_of_a_bimodal_upstream_for_five_percent_more_requests() -> None:
    plain, none = simulate(None)
    hedged, extra = simulate(Hedge())
    assert (plain > 0.4, none) == (True, 0.0)
    assert hedged < 0.1 * plain
    assert 0.01 < extra <= 0.05


def test_an_upstream_that_slows_down_as_a_whole_is_not_sent_twice_the_load() -> None:
    """All requests look slow until the percentile has followed: the budget holds."""
    latencies, retry = observed([0.01] * 500, 1.0), RetryBudget()
    budget, hedges = HedgeBudget(retry), 0
    for n in range(2000):
        now = 1.0 + n * 0.001
        retry.request(now)
        wait_s = delay_s(Hedge(), latencies, now)
        if wait_s is not None and wait_s < 1.0:
            hedges += may_hedge(Hedge(), budget, None, now, idempotent=True, replayable=True)
        latencies.observe(1.0, now)
    assert hedges <= 100
