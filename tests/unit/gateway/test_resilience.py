"""Breakers, budgets, exchanges: every rule with the clock in our hands."""

from __future__ import annotations

import random

import pytest
from nexus_core.discovery import Endpoint
from nexus_core.snapshot import CircuitBreaker, Retry, Timeouts
from nexus_gateway.resilience.breakers import CLOSED, HALF_OPEN, OPEN, Breaker
from nexus_gateway.resilience.budgets import FLOOR, WINDOW_S, RetryBudget
from nexus_gateway.resilience.endpoints import FORGET_AFTER_S, EndpointRegistry, EndpointState
from nexus_gateway.resilience.exchanges import Again, Attempt, Exchange, Outcome, Refusal, backoff_s, outcome_of

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


def endpoints(*names: str, policy: CircuitBreaker = POLICY) -> tuple[EndpointState, ...]:
    registry = EndpointRegistry()
    return registry.update("u", [Endpoint(name, 80) for name in names], policy, 0.0)


def exchange(
    method: str = "GET", retry: Retry | None = None, timeouts: Timeouts | None = None, now: float = 0.0, **fields: float
) -> Exchange:
    return Exchange(
        method,
        retry or Retry(),
        timeouts or Timeouts(),
        RetryBudget(),
        lambda found: found[0],
        random.Random(1),
        now,
        **fields,
    )


def test_a_retry_takes_an_endpoint_that_was_not_tried() -> None:
    found = endpoints("a", "b")
    made = exchange()
    tried = []
    for _ in range(3):
        attempt = made.next(found, 0.0)
        assert isinstance(attempt, Attempt)
        tried.append(attempt.endpoint.endpoint.address)
        made.settle(Outcome.RESET, 0.0)
        made.release()
    assert tried == ["a", "b", "a"]
    assert [state.active for state in found] == [0, 0]


@pytest.mark.parametrize(
    ("method", "outcome", "replayable", "again"),
    [
        ("GET", Outcome.RESET, True, True), ("GET", Outcome.UNAVAILABLE, True, True), ("GET", Outcome.BAD_GATEWAY, True, False),
        ("GET", Outcome.TIMEOUT, True, False), ("GET", Outcome.RESET, False, False), ("GET", Outcome.ABANDONED, True, False),
        ("POST", Outcome.CONNECT_FAILURE, True, True), ("POST", Outcome.RESET, True, False), ("PATCH", Outcome.UNAVAILABLE, True, False),
        ("PUT", Outcome.UNAVAILABLE, True, True), ("DELETE", Outcome.RESET, True, True),
    ],
)  # fmt: skip
def test_what_is_repeated(method: str, outcome: Outcome, replayable: bool, again: bool) -> None:
    made = exchange(method)
    made.next(endpoints("a"), 0.0)
    made.settle(outcome, 0.0)
    assert isinstance(made.again(outcome, replayable=replayable, now=0.0), Again) is again


def test_attempts_are_bounded_by_count_and_by_deadline() -> None:
    made = exchange(retry=Retry(attempts=1))
    for more in (True, False):
        made.next(endpoints("a"), 0.0)
        assert (made.again(Outcome.RESET, replayable=True, now=0.0) is not None) is more
    late = exchange(timeouts=Timeouts(request_s=1.0))
    late.next(endpoints("a"), 0.0)
    assert late.again(Outcome.RESET, replayable=True, now=1.0) is None
    assert late.next(endpoints("a"), 1.0) is Refusal.DEADLINE


def test_deadlines_are_the_nearest_of_request_try_and_caller() -> None:
    made = exchange(timeouts=Timeouts(request_s=10.0, try_s=2.0), client_timeout_s=3.0)
    first = made.next(endpoints("a"), 0.0)
    second = made.next(endpoints("a"), 2.5)
    assert isinstance(first, Attempt)
    assert isinstance(second, Attempt)
    assert (first.deadline_at, second.deadline_at) == (2.0, 3.0)
    forever = exchange(timeouts=Timeouts(request_s=0.0)).next(endpoints("a"), 0.0)
    assert isinstance(forever, Attempt)
    assert forever.deadline_at is None


def test_refusals_say_why() -> None:
    assert exchange().next((), 0.0) is Refusal.NO_ENDPOINTS
    (state,) = endpoints("a", policy=CircuitBreaker(failures=1))
    state.breaker.failure(0.0)
    assert exchange().next((state,), 0.0) is Refusal.CIRCUIT_OPEN


def test_an_open_circuit_sends_the_request_elsewhere() -> None:
    found = endpoints("a", "b", policy=CircuitBreaker(failures=1))
    found[0].breaker.failure(0.0)
    attempt = exchange().next(found, 0.0)
    assert isinstance(attempt, Attempt)
    assert attempt.endpoint is found[1]


def test_a_probe_whose_client_leaves_is_given_back() -> None:
    (state,) = endpoints("a", policy=CircuitBreaker(failures=1, reset_s=1.0))
    state.breaker.failure(0.0)
    made = exchange(now=2.0)
    assert isinstance(made.next((state,), 2.0), Attempt)
    made.settle(Outcome.ABANDONED, 2.0)
    made.release()
    made.release()
    assert (state.active, state.failures) == (0, 0)
    assert isinstance(exchange(now=2.0).next((state,), 2.0), Attempt)


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


def test_backoff_is_jittered_below_a_growing_cap() -> None:
    rng = random.Random(1)
    for attempts, cap in ((1, 0.025), (2, 0.05), (3, 0.1), (50, 1.0)):
        pauses = [backoff_s(attempts, rng) for _ in range(200)]
        assert 0 <= min(pauses) < max(pauses) <= cap
        assert max(pauses) > cap * 0.9


def test_statuses_have_outcomes() -> None:
    assert [outcome_of(status).value for status in (200, 500, 502, 503, 504)] == [
        "answered",
        "answered",
        "502",
        "503",
        "504",
    ]


def test_late_attempts_of_many_do_not_speak_for_the_probe() -> None:
    """Three requests run when the circuit opens; they end, well and badly, while the probe is on its way."""
    (state,) = found = endpoints("a", policy=CircuitBreaker(failures=1, reset_s=1.0))
    runs = [exchange() for _ in range(4)]
    for run in runs:
        assert isinstance(run.next(found, 0.0), Attempt)
    runs[0].settle(Outcome.RESET, 0.1)
    probe = exchange()
    assert isinstance(probe.next(found, 1.5), Attempt)
    runs[1].settle(Outcome.ANSWERED, 1.6)
    runs[2].settle(Outcome.ABANDONED, 1.6)
    runs[3].settle(Outcome.TIMEOUT, 1.6)
    assert state.breaker.state == HALF_OPEN
    assert exchange().next(found, 1.7) is Refusal.CIRCUIT_OPEN
    probe.settle(Outcome.ANSWERED, 1.8)
    assert state.breaker.state == CLOSED


def test_an_attempt_that_is_released_unsettled_gives_the_probes_place_back() -> None:
    (state,) = found = endpoints("a", policy=CircuitBreaker(failures=1, reset_s=1.0))
    state.breaker.failure(0.0)
    broken = exchange()
    assert isinstance(broken.next(found, 1.5), Attempt)
    broken.release()
    assert state.active == 0
    assert isinstance(exchange().next(found, 1.6), Attempt)
