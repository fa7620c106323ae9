"""Passive ejection, and the states it is kept on: through reloads, absence and between workers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nexus_core.discovery import Endpoint
from nexus_core.snapshot import CircuitBreaker, Outlier
from nexus_gateway.resilience.breakers import OPEN
from nexus_gateway.resilience.cells import Cells
from nexus_gateway.resilience.endpoints import FORGET_AFTER_S, NEW_AFTER_S, EndpointRegistry, EndpointState
from nexus_gateway.resilience.outliers import FORGIVE_AFTER, LONGEST, Outliers

POLICY = Outlier(failures=3, eject_s=10.0, max_ejected_ratio=0.5)


def listed(count: int, registry: EndpointRegistry | None = None) -> tuple[EndpointState, ...]:
    found = [Endpoint("10.0.0.1", 8000 + n) for n in range(count)]
    return (registry or EndpointRegistry()).update("u", found, CircuitBreaker(), 0.0)


def strike(state: EndpointState, states: tuple[EndpointState, ...], now: float, policy: Outlier = POLICY) -> bool:
    outliers = Outliers(policy)
    return [outliers.failure(state, states, now) for _ in range(policy.failures)][-1]


def test_failures_in_a_row_eject_and_a_good_answer_between_them_does_not() -> None:
    states = listed(4)
    outliers = Outliers(POLICY)
    assert not outliers.failure(states[0], states, 1.0)
    assert not outliers.failure(states[0], states, 1.0)
    outliers.success(states[0])
    assert states[0].strikes == 0
    assert [outliers.failure(states[0], states, 2.0) for _ in range(3)] == [False, False, True]
    assert (states[0].ejected_until, states[0].ejections, states[0].strikes) == (12.0, 1, 0)
    assert not outliers.failure(states[0], states, 3.0), "late failures of an ejected endpoint say nothing new"
    assert states[0].strikes == 0


def test_the_nth_ejection_is_n_times_as_long_up_to_ten() -> None:
    states = listed(2)
    now, lengths = 1.0, []
    for _ in range(12):
        assert strike(states[0], states, now)
        lengths.append((states[0].ejected_until - now) / POLICY.eject_s)
        now = states[0].ejected_until + 0.1
    assert lengths == [pytest.approx(min(n, LONGEST)) for n in range(1, 13)]


@pytest.mark.parametrize(("quiet", "times"), [(0.0, 4), (0.99, 4), (1.0, 3), (2.5, 2), (3.0, 1), (1000.0, 1)])
def test_quiet_time_in_service_forgives(quiet: float, times: int) -> None:
    states = listed(2)
    now = 1.0
    for _ in range(3):
        strike(states[0], states, now)
        now = states[0].ejected_until
    now += quiet * FORGIVE_AFTER * POLICY.eject_s
    assert strike(states[0], states, now)
    assert states[0].ejected_until - now == pytest.approx(times * POLICY.eject_s)


@pytest.mark.parametrize(
    ("count", "ratio", "out"),
    [(1, 1.0, 0), (2, 1.0, 1), (2, 0.5, 1), (3, 0.5, 1), (4, 0.5, 2), (10, 0.1, 1), (10, 0.0, 0), (9, 0.1, 0)],
)
def test_never_more_than_the_share_and_never_the_last_one(count: int, ratio: float, out: int) -> None:
    states = listed(count)
    policy = Outlier(failures=1, eject_s=10.0, max_ejected_ratio=ratio)
    assert sum(strike(state, states, 1.0, policy) for state in states) == out


def test_an_endpoint_that_could_not_go_goes_when_there_is_room() -> None:
    states = listed(2)
    assert strike(states[0], states, 1.0)
    assert not strike(states[1], states, 1.0)
    assert Outliers(POLICY).failure(states[1], states, 11.0), "the other one is back, and one more failure is enough"


@given(
    st.lists(st.tuples(st.integers(0, 4), st.booleans(), st.sampled_from([0.0, 1.0, 30.0])), max_size=80),
    st.floats(0, 1),
)
def test_whatever_happens_the_share_holds_and_one_is_left(events: list[tuple[int, bool, float]], ratio: float) -> None:
    states = listed(5)
    outliers = Outliers(Outlier(failures=2, eject_s=10.0, max_ejected_ratio=ratio))
    now = 1.0
    for which, bad, passed_s in events:
        now += passed_s
        if bad:
            outliers.failure(states[which], states, now)
        else:
            outliers.success(states[which])
        out = sum(now < state.ejected_until for state in states)
        assert out <= min(4, ratio * 5)


def workers() -> tuple[EndpointRegistry, EndpointRegistry, list[tuple[str, str, str]]]:
    buffer = bytearray(1 << 16)
    told: list[tuple[str, str, str]] = []
    first = EndpointRegistry(cells=Cells(buffer, worker=0))
    return first, EndpointRegistry(lambda *args: told.append(args), Cells(buffer, worker=1)), told


def test_workers_count_strikes_together_and_see_each_others_ejections() -> None:
    first, second, _ = workers()
    here, there = listed(3, first), listed(3, second)
    outliers = Outliers(POLICY)
    outliers.failure(here[0], here, 1.0)
    outliers.failure(there[0], there, 1.0)
    assert second.mirror(1.1) == frozenset()
    outliers.failure(here[0], here, 1.2)
    assert here[0].ejected_until == 11.2
    assert second.mirror(1.3) == {"u"}
    assert (there[0].ejected_until, there[0].ejections) == (11.2, 1)
    assert second.mirror(1.4) == frozenset(), "nothing since"
    assert not strike(there[1], there, 1.5), "the share counts ejections of all"


def test_a_success_here_takes_back_strikes_from_elsewhere() -> None:
    first, second, _ = workers()
    here, there = listed(3, first), listed(3, second)
    outliers = Outliers(POLICY)
    outliers.failure(here[0], here, 1.0)
    outliers.failure(here[0], here, 1.0)
    second.mirror(1.1)
    assert there[0].strikes == 2
    outliers.success(there[0])
    assert not outliers.failure(here[0], here, 1.2)


def test_a_worker_that_starts_late_knows_who_is_out() -> None:
    first, second, _ = workers()
    here = listed(2, first)
    strike(here[0], here, 1.0)
    assert listed(2, second)[0].ejected_until == 11.0


def test_circuits_of_endpoints_and_services_are_mirrored_and_told() -> None:
    first, second, told = workers()
    here, there = listed(2, first), listed(2, second)
    service = first.service_breaker("u", CircuitBreaker(failures=1))
    other = second.service_breaker("u", CircuitBreaker(failures=1))
    for _ in range(5):
        here[1].breaker.failure(1.0)
    assert second.mirror(1.1) == {"u"}
    assert there[1].breaker.state is OPEN
    service.failure(2.0)
    second.mirror(2.1)
    assert other.state is OPEN
    assert told == [("u", "10.0.0.1:8001", OPEN), ("u", "", OPEN)]


def test_a_services_breaker_is_kept_through_reloads_and_goes_on_after_its_pool_is_gone() -> None:
    registry = EndpointRegistry()
    breaker = registry.service_breaker("u", CircuitBreaker(failures=1))
    assert registry.service_breaker("u", CircuitBreaker(failures=1, reset_s=3.0)) is breaker
    assert breaker.policy.reset_s == 3.0
    breaker.failure(1.0)
    number = id(breaker)
    del breaker
    assert registry.service_breaker("u", CircuitBreaker(failures=1)).state is OPEN, number


def test_state_survives_absence_and_a_restart_is_new_for_slow_start() -> None:
    registry = EndpointRegistry()
    endpoint = Endpoint("a", 80, weight=3, zone="z", meta=(("v", "1"),))
    (state,) = registry.update("u", [endpoint], CircuitBreaker(), 10.0)
    assert (state.since, state.share, state.zone, state.meta, state.draining) == (10.0, 3.0, "z", (("v", "1"),), False)
    state.strikes = 2
    registry.update("u", [], CircuitBreaker(), 20.0)
    assert state.gone_at == 20.0
    (back,) = registry.update("u", [endpoint], CircuitBreaker(), 20.0 + NEW_AFTER_S / 2)
    assert (back is state, back.since, back.gone_at) == (True, 10.0, 0.0), "the registry had a hiccup"
    registry.update("u", [], CircuitBreaker(), 30.0)
    (again,) = registry.update("u", [Endpoint("a", 80, draining=True)], CircuitBreaker(), 30.0 + NEW_AFTER_S)
    assert (again is state, again.since, again.draining, again.weight) == (True, 35.0, True, 1)


def test_forgotten_states_leave_and_their_cells_with_them_when_the_owner_sweeps() -> None:
    cells = Cells(bytearray(1 << 14))
    registry = EndpointRegistry(cells=cells)
    old, kept = registry.update("u", [Endpoint("old", 80), Endpoint("kept", 80)], CircuitBreaker(), 1.0)
    for _ in range(5):
        old.breaker.failure(1.0)
    registry.forget([kept], FORGET_AFTER_S + 3.0)
    assert registry.all() == (kept,)
    assert cells.sweep(FORGET_AFTER_S + 3.0, FORGET_AFTER_S) == 2, "its breaker and its own"
    fresh, same = registry.update(
        "u", [Endpoint("old", 80), Endpoint("kept", 80)], CircuitBreaker(), FORGET_AFTER_S + 3
    )
    assert fresh.breaker.state != OPEN
    assert same is kept
