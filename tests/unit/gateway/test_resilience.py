"""Breakers, budgets, endpoints: every rule with the clock in our hands."""

from __future__ import annotations

import pytest
from nexus_core.discovery import Endpoint
from nexus_core.snapshot import CircuitBreaker
from nexus_gateway.resilience.breakers import CLOSED, HALF_OPEN, OPEN, Breaker
from nexus_gateway.resilience.budgets import FLOOR, WINDOW_S, RetryBudget
from nexus_gateway.resilience.endpoints import FORGET_AFTER_S, EndpointRegistry

POLICY = CircuitBreaker(failures=3, reset_s=10.0)


def opened() -> Breaker:
    breaker = Breaker(POLICY)
    for now in (0.0, 1.0, 2.0):
        assert breaker.acquire(now)
        breaker.failure(now)
    assert breaker.state == OPEN
    return breaker


def test_consecutive_failures_open_the_circuit_and_a_success_between_them_does_not() -> None:
    seen: list[str] = []
    breaker = Breaker(POLICY, seen.append)
    for _ in range(5):
        breaker.failure(0.0)
        breaker.failure(0.0)
        breaker.success(0.0)
    assert (breaker.state, seen) == (CLOSED, [])
    for _ in range(3):
        breaker.failure(1.0)
    assert (breaker.state, seen) == (OPEN, [OPEN])


def test_an_open_circuit_refuses_until_its_time_is_over_then_lets_one_probe_through() -> None:
    breaker = opened()
    assert not breaker.acquire(2.1)
    assert not breaker.acquire(11.9)
    assert breaker.would_allow(12.0)
    assert breaker.acquire(12.0)
    assert breaker.state == HALF_OPEN
    assert not breaker.acquire(12.0), "one probe at a time"


def test_the_probe_decides() -> None:
    breaker = opened()
    breaker.acquire(12.0)
    breaker.failure(12.5, probe=True)
    assert (breaker.state, breaker.opened_at) == (OPEN, 12.5)
    assert not breaker.acquire(22.4)
    assert breaker.acquire(22.5)
    breaker.success(22.6, probe=True)
    assert (breaker.state, breaker.failing) == (CLOSED, False)
    for _ in range(2):
        breaker.failure(23.0)
    assert breaker.state == CLOSED, "the count begins anew"


def test_an_abandoned_probe_leaves_its_place_to_another() -> None:
    breaker = opened()
    breaker.acquire(12.0)
    breaker.abandon(probe=True)
    assert breaker.acquire(12.1)


def test_late_answers_of_earlier_attempts_do_not_close_an_open_circuit() -> None:
    breaker = opened()
    breaker.success(3.0)
    breaker.failure(4.0)
    assert (breaker.state, breaker.opened_at) == (OPEN, 2.0)


@pytest.mark.parametrize("late", ["success", "failure", "abandon"])
def test_in_a_half_open_circuit_only_the_probe_is_heard(late: str) -> None:
    """Attempts that began before the circuit opened end while the probe runs: neither verdict nor second probe."""
    breaker = opened()
    assert breaker.acquire(12.0)
    {"success": lambda: breaker.success(12.1), "failure": lambda: breaker.failure(12.1), "abandon": breaker.abandon}[
        late
    ]()
    assert breaker.state == HALF_OPEN
    assert not breaker.acquire(12.2), "still one probe at a time"
    breaker.success(12.3, probe=True)
    assert breaker.state == CLOSED


def test_a_changed_policy_holds_at_once_and_keeps_the_state() -> None:
    breaker = opened()
    breaker.apply(CircuitBreaker(failures=1, reset_s=1.0))
    assert breaker.acquire(3.0)
    breaker.success(3.1, probe=True)
    breaker.failure(3.2)
    assert breaker.state == OPEN


def test_the_budget_is_a_share_of_recent_requests_over_a_floor() -> None:
    budget = RetryBudget()
    for _ in range(100):
        budget.request(0.0)
    assert sum(budget.take(0.2, 0.5) for _ in range(100)) == FLOOR + 20
    assert not budget.take(0.2, WINDOW_S - 1.0)
    assert budget.take(0.2, WINDOW_S + 1.0), "the window has moved on"
    assert sum(budget.take(0.2, 1000.0) for _ in range(100)) == FLOOR


def test_a_clock_that_stands_still_or_jumps_does_not_confuse_the_budget() -> None:
    budget = RetryBudget()
    for now in (5.0, 4.0, 1e6, 1e6 - 3):
        budget.request(now)
        assert budget.take(1.0, now)


def test_state_is_kept_by_upstream_and_address_and_forgotten_when_long_unseen() -> None:
    registry = EndpointRegistry()
    (first,) = registry.update("u", [Endpoint("a", 80, "id-1")], POLICY, 0.0)
    (again,) = registry.update("u", [Endpoint("a", 80, "id-2", weight=5)], CircuitBreaker(failures=9), 1.0)
    assert again is first
    assert (again.weight, again.breaker.policy.failures) == (5, 9)
    (other,) = registry.update("other", [Endpoint("a", 80)], POLICY, 1.0)
    assert other is not first
    registry.forget((other,), FORGET_AFTER_S + 2.0)
    assert registry.all() == (other,)
