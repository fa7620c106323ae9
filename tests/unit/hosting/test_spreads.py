"""Durations, counted late."""

from __future__ import annotations

from bisect import bisect_left

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nexus_hosting.spreads import Spread

BOUNDS = (0.001, 0.01, 0.1, 1.0)
durations = st.lists(st.sampled_from([0.0, *BOUNDS, 5.0]) | st.floats(0.0, 10.0), max_size=60)


@given(durations, durations, st.booleans())
def test_they_are_counted_whenever_somebody_looks(first: list[float], then: list[float], looks: bool) -> None:
    spread = Spread(BOUNDS)
    for each in first:
        spread.took(each)
    if looks:
        spread.settle()
    for each in then:
        spread.observe(each)
    expected = [0] * (len(BOUNDS) + 1)
    for each in first + then:
        expected[bisect_left(BOUNDS, each)] += 1
    assert spread.buckets == expected
    assert spread.sum == pytest.approx(sum(first + then))
    assert spread.buckets == expected


def test_who_observes_one_at_a_time_keeps_no_more_than_so_many() -> None:
    spread = Spread(BOUNDS)
    for _ in range(10_000):
        spread.observe(0.5)
    assert len(spread._fresh) < 4096
    assert spread.buckets == [0, 0, 0, 10_000, 0]


@given(durations, durations)
def test_fewer_bounds_take_what_more_of_them_counted(one: list[float], other: list[float]) -> None:
    found, direct = Spread((0.01, 1.0)), Spread((0.01, 1.0))
    for values in (one, other):
        fine = Spread(BOUNDS)
        for each in values:
            fine.observe(each)
            direct.observe(each)
        found.take(fine)
    assert found.buckets == direct.buckets
    assert found.sum == pytest.approx(direct.sum)
