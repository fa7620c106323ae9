"""What a plugin costs, and when it has cost too much: a clock of our own, and no plugin."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from nexus_core.snapshot import Budgets, PluginStats
from nexus_gateway.edge.plugins.meters import (
    BOUNDS,
    LATELY_S,
    SHOWN,
    TRY_CALLS,
    Budget,
    Meter,
    State,
    quantile,
    shown,
    stats_of,
)

BUDGETS = Budgets(error_percent=50.0, window_s=10.0, min_calls=20, disabled_s=30.0, cpu_percent=20.0, memory_mb=64)


class Bench:
    """A meter, its clock, and what it told."""

    def __init__(self, budgets: Budgets = BUDGETS) -> None:
        self.now = 100.0
        self.meter = Meter(budgets, self.now)
        self.told: list[State] = []
        self.meter.changed = lambda: self.told.append(self.meter.state)

    def call(self, count: int = 1, *, failed: bool = False, took_s: float = 0.001, held_s: float | None = None) -> None:
        """Have calls end, as a slot does."""
        meter = self.meter
        for _ in range(count):
            meter.count("on_request", took_s, took_s if held_s is None else held_s)
            if failed:
                meter.failed(self.now, "on_request", "ValueError: no")

    def later(self, seconds: float) -> None:
        """Let time pass, with a tick in every half second of it."""
        ends = self.now + seconds
        while self.now < ends:
            self.now = min(self.now + 0.5, ends)
            self.meter.tick(self.now)


def test_a_plugin_that_fails_too_often_is_closed_by_the_call_that_is_one_too_many() -> None:
    bench = Bench()
    bench.call(9)
    bench.call(10, failed=True)
    assert bench.meter.open, "19 calls are too few to judge"
    bench.call(failed=True)
    assert not bench.meter.open
    assert bench.told == [State.DISABLED]
    excess = bench.meter.excess
    assert excess is not None
    assert (excess.budget, excess.until) == (Budget.ERRORS, bench.now + 30.0)
    assert (
        excess.message
        == "11 of its 20 calls failed within 10 s (55 %); its budget is 50 %. The last: on_request: ValueError: no."
    )


@pytest.mark.parametrize(
    ("good", "bad", "is_open"), [(20, 20, True), (19, 21, False), (0, 19, True), (0, 20, False), (1000, 0, True)]
)
def test_the_share_of_failures_decides_from_the_least_number_of_calls_on(good: int, bad: int, is_open: bool) -> None:
    bench = Bench()
    bench.call(good)
    bench.call(bad, failed=True)
    assert bench.meter.open is is_open


def test_failures_of_before_the_window_are_forgotten() -> None:
    bench = Bench()
    bench.call(15, failed=True)
    bench.later(12.0)
    bench.call(15, failed=True)
    assert bench.meter.open, "no ten seconds hold twenty calls"
    bench.later(3.0)
    bench.call(5, failed=True)
    assert not bench.meter.open


def test_good_calls_of_long_ago_excuse_nothing() -> None:
    bench = Bench()
    bench.call(10_000)
    bench.later(15.0)
    bench.call(20, failed=True)
    assert not bench.meter.open


def test_a_closed_plugin_is_tried_again_and_goes_on_after_a_few_good_calls() -> None:
    bench = Bench()
    bench.call(20, failed=True)
    bench.later(29.5)
    assert not bench.meter.open
    bench.later(0.5)
    assert (bench.meter.open, bench.meter.state) == (True, State.TRYING)
    bench.call(TRY_CALLS)
    bench.later(0.5)
    assert bench.meter.state is State.RUNNING
    assert bench.meter.excess is None
    assert bench.told == [State.DISABLED, State.TRYING, State.RUNNING]


def test_a_few_bad_calls_close_it_again() -> None:
    bench = Bench()
    bench.call(20, failed=True)
    bench.later(30.0)
    bench.call(TRY_CALLS - 1, failed=True)
    assert bench.meter.open
    bench.call(failed=True)
    assert not bench.meter.open
    excess = bench.meter.excess
    assert excess is not None
    assert excess.until == bench.now + 30.0
    assert excess.message.startswith("5 of its 5 calls failed since it was tried again (100 %)")


def test_failures_of_before_do_not_count_once_it_goes_on() -> None:
    bench = Bench()
    bench.call(200, failed=True)
    bench.later(30.0)
    bench.call(TRY_CALLS)
    bench.later(0.5)
    bench.call(14, failed=True)
    assert bench.meter.open, "fewer calls since than are judged"


def test_a_plugin_that_nobody_calls_goes_on_after_a_window() -> None:
    bench = Bench()
    bench.call(20, failed=True)
    bench.later(30.0)
    bench.later(10.0)
    assert bench.meter.state is State.RUNNING


def test_calls_that_end_while_it_is_closed_change_nothing() -> None:
    bench = Bench()
    bench.call(20, failed=True)
    until = bench.meter.excess
    bench.call(50, failed=True)
    assert bench.meter.excess is until
    assert bench.told == [State.DISABLED]


@pytest.mark.parametrize(("share", "is_open"), [(0.1, True), (0.19, True), (0.25, False), (0.9, False)])
def test_a_plugin_that_holds_the_loop_too_long_is_closed(share: float, is_open: bool) -> None:
    bench = Bench()
    for _ in range(30):
        bench.call(2, took_s=1.0, held_s=share / 4)
        bench.later(0.5)
    assert bench.meter.open is is_open
    if not is_open:
        excess = bench.meter.excess
        assert excess is not None
        assert excess.budget is Budget.CPU
        assert "its budget is 20 % of one core" in excess.message


def test_a_short_burst_is_no_excess() -> None:
    bench = Bench()
    bench.call(30, took_s=0.05)
    bench.later(11.0)
    assert bench.meter.open, "1.5 of 10 seconds are 15 %"


def test_waiting_is_not_holding() -> None:
    bench = Bench()
    for _ in range(40):
        bench.call(5, took_s=2.0, held_s=0.0001)
        bench.later(0.5)
    assert bench.meter.open


def test_no_budget_is_no_limit() -> None:
    bench = Bench(replace(BUDGETS, cpu_percent=0.0, memory_mb=0))
    bench.meter.cost_bytes = 10**12
    for _ in range(40):
        bench.call(5, took_s=0.2)
        bench.later(0.5)
    assert bench.meter.open


def test_a_plugin_that_holds_too_much_memory_is_closed() -> None:
    bench = Bench()
    bench.meter.cost_bytes = 64 * 2**20
    bench.later(1.0)
    assert bench.meter.open
    bench.meter.cost_bytes = 81 * 2**20
    bench.later(0.5)
    excess = bench.meter.excess
    assert excess is not None
    assert not bench.meter.open
    assert (excess.budget, excess.message) == (Budget.MEMORY, "It holds 81 MB; its budget is 64 MB.")


def test_counts_go_on_with_the_next_instance_of_a_version_and_judgement_begins_anew() -> None:
    bench = Bench()
    bench.call(20, failed=True)
    after = Meter(BUDGETS, bench.now, bench.meter)
    assert (after.calls, after.errors, after.open) == (20, 20, True)
    after.count("on_request", 0.001, 0.001)
    after.failed(bench.now, "on_request", "ValueError: no")
    assert after.open, "one of one since it began"


def test_each_failure_is_told_to_a_trial() -> None:
    bench = Bench()
    seen: list[int] = []
    bench.meter.failing = lambda: seen.append(bench.meter.errors)
    bench.call(3, failed=True)
    assert seen == [1, 2, 3]


def test_stats_tell_of_everything_and_of_lately() -> None:
    bench = Bench()
    bench.call(1000, took_s=0.0001)
    bench.later(2 * LATELY_S)
    for _ in range(60):
        bench.call(1, took_s=0.01)
        bench.later(0.5)
    stats = stats_of([bench.meter], bench.now)
    assert (stats.calls, stats.errors) == (1060, 0)
    assert stats.seconds == pytest.approx(0.7)
    assert stats.calls_per_s == pytest.approx(2.0, rel=0.05)
    assert stats.cpu_percent == pytest.approx(2.0, rel=0.05)
    assert 0.005 < stats.p99_s <= 0.01


def test_stats_of_a_version_and_its_candidate_are_one() -> None:
    one, other = Bench(), Bench()
    for bench in (one, other):
        bench.later(LATELY_S / 2)
        bench.call(30, took_s=0.003)
    both = stats_of([one.meter, other.meter], one.now)
    assert both.calls == 60
    assert both.calls_per_s == pytest.approx(2 * stats_of([one.meter], one.now).calls_per_s)


def test_nothing_called_is_nothing_told() -> None:
    assert stats_of([Meter(BUDGETS, 1.0)], 1.0) == PluginStats()
    assert stats_of([], 1.0) == PluginStats()


@given(st.lists(st.floats(0.0, 10.0), min_size=1, max_size=200), st.sampled_from([0.5, 0.9, 0.99, 1.0]))
def test_a_quantile_is_in_the_bucket_of_the_value_it_stands_for(durations: list[float], share: float) -> None:
    meter = Meter(BUDGETS, 0.0)
    for each in durations:
        meter.spread("on_request").observe(each)
    found = quantile(list(meter.spread("on_request").buckets), share)
    exact = sorted(durations)[max(-(-int(share * 1000) * len(durations) // 1000) - 1, 0)]
    low = max((bound for bound in BOUNDS if bound < exact), default=0.0)
    high = min((bound for bound in BOUNDS if bound >= exact), default=BOUNDS[-1])
    assert low <= found <= high


def test_what_metrics_show_is_the_same_in_fewer_buckets() -> None:
    assert set(SHOWN) <= set(BOUNDS)
    meter = Meter(BUDGETS, 0.0)
    for seconds in (0.000005, 0.00001, 0.00003, 0.3, 0.7, 30.0):
        meter.spread("on_request").observe(seconds)
    found = shown([meter.spread("on_request"), meter.spread("on_response")])
    assert found.buckets == [2, 1, 0, 0, 0, 1, 1, 1]
    assert found.sum == pytest.approx(31.000045)
