import random

import pytest
from nexus_sdk.client import retries


def test_budget_is_a_share_of_the_requests_of_the_window() -> None:
    budget = retries.RetryBudget(percent=20, floor=0, window_s=10)
    for _ in range(100):
        budget.note_request(now=1.0)
    assert [budget.take_retry(now=1.0) for _ in range(30)].count(True) == 20


def test_a_quiet_service_may_retry_up_to_the_floor() -> None:
    budget = retries.RetryBudget(percent=20, floor=3, window_s=10)
    budget.note_request(now=0.0)
    assert [budget.take_retry(now=0.0) for _ in range(5)] == [True, True, True, False, False]


def test_the_window_slides() -> None:
    budget = retries.RetryBudget(percent=0, floor=1, window_s=10)
    assert budget.take_retry(now=0.0)
    assert not budget.take_retry(now=9.0)
    assert budget.take_retry(now=20.0)


def test_budget_memory_is_bounded() -> None:
    budget = retries.RetryBudget(window_s=10)
    for step in range(100_000):
        budget.note_request(now=step / 1000)
    assert len(budget._slots) <= 12


@pytest.mark.parametrize(("retry", "ceiling"), [(1, 0.025), (2, 0.05), (4, 0.2), (50, 1.0)])
def test_wait_is_jittered_over_the_whole_range_below_a_doubling_ceiling(retry: int, ceiling: float) -> None:
    rng = random.Random(1)
    waits = [retries.wait_s(retry, rng) for _ in range(500)]
    assert 0 <= min(waits) < ceiling * 0.1
    assert ceiling * 0.9 < max(waits) <= ceiling


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("3", 3.0),
        ("0", 0.0),
        (None, None),
        ("Wed, 21 Oct 2026 07:28:00 GMT", None),
        ("-1", None),
        ("9" * 30, None),
        ("³", None),
    ],
)
def test_retry_after(text: str | None, seconds: float | None) -> None:
    assert retries.parse_retry_after(text) == seconds
