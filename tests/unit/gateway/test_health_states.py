"""Verdicts and times of probes, as tables: no clock, no socket."""

from __future__ import annotations

import random

import pytest
from nexus_core.snapshot import HealthCheck
from nexus_gateway.edge.health.states import SPREAD_S, ProbeState, first_at, next_at

CHECK = HealthCheck(unhealthy=3, healthy=2)


def outcomes(state: ProbeState, text: str, policy: HealthCheck = CHECK) -> str:
    """Feed `+` and `-`; return `H` or `U` after each, lower-case while nothing is known."""
    said = []
    for letter in text:
        before = state.healthy
        assert state.record(letter == "+", policy, "why") is (state.healthy is not before)
        mark = "H" if state.healthy else "U"
        said.append(mark if state.known else mark.lower())
    return "".join(said)


ROWS = [
    # healthy before, probes, verdicts
    (True, "+", "H"),
    (True, "--", "hh"),
    (True, "---", "hhU"),
    (True, "--+---", "hhHHHU"),
    (True, "+--+--+", "HHHHHHH"),
    (True, "+---+", "HHHUU"),
    (True, "+---++", "HHHUUH"),
    (True, "+---+-++", "HHHUUUUH"),
    (True, "---++", "hhUUH"),
    (False, "+", "H"),
    (False, "-+", "uH"),
    (False, "---+", "uuUU"),
]


@pytest.mark.parametrize(("before", "probes", "verdicts"), ROWS)
def test_verdicts(before: bool, probes: str, verdicts: str) -> None:
    assert outcomes(ProbeState(before), probes) == verdicts


@pytest.mark.parametrize("healthy", [True, False])
def test_a_changed_check_keeps_the_verdict_until_it_has_its_own(healthy: bool) -> None:
    state = ProbeState()
    outcomes(state, "+" if healthy else "---")
    state.begin_anew()
    assert (state.healthy, state.known) == (healthy, False)
    assert outcomes(state, "--") == ("hh" if healthy else "uu")
    state.begin_anew()
    assert outcomes(state, "--") == ("hh" if healthy else "uu"), "failures of the former check do not count"
    assert outcomes(state, "+") == "H"


def test_one_probe_is_enough_where_the_policy_says_so() -> None:
    assert outcomes(ProbeState(), "+-+-", HealthCheck(unhealthy=1, healthy=1)) == "HUHU"


def test_the_last_failure_says_why() -> None:
    state = ProbeState()
    state.record(False, CHECK, "refused")
    assert state.detail == "refused"
    state.record(True, CHECK)
    assert state.detail == ""


@pytest.mark.parametrize("jitter", [0.0, 0.2, 1.0])
@pytest.mark.parametrize("known", [True, False])
def test_pauses_stay_within_the_jitter(jitter: float, known: bool) -> None:
    policy = HealthCheck(interval_s=6.0, jitter_ratio=jitter, unhealthy=3)
    base = 6.0 if known else 2.0
    rng = random.Random(4)
    pauses = [next_at(100.0, policy, rng, known=known) - 100.0 for _ in range(2000)]
    assert min(pauses) >= max(base * (1 - jitter), 0.05) - 1e-9
    assert max(pauses) <= base * (1 + jitter) + 1e-9
    assert abs(sum(pauses) / len(pauses) - base) < 0.1 * max(jitter, 1e-6) * base + 1e-6
    if jitter:
        assert max(pauses) - min(pauses) > 1.8 * jitter * base * 0.9


def test_no_policy_makes_probes_come_without_pause() -> None:
    policy = HealthCheck(interval_s=0.0, jitter_ratio=1.0)
    rng = random.Random(4)
    assert min(next_at(0.0, policy, rng, known=True) for _ in range(100)) >= 0.05


@pytest.mark.parametrize(("count", "within_s"), [(1, SPREAD_S), (100, 1.0), (500, 5.0), (10_000, 5.0)])
def test_first_probes_are_spread_over_an_interval_at_most(count: int, within_s: float) -> None:
    rng = random.Random(5)
    policy = HealthCheck(interval_s=5.0)
    times = sorted(first_at(50.0, policy, count, rng) - 50.0 for _ in range(count))
    assert times[0] >= 0.0
    assert times[-1] < within_s
    if count > 1:
        # Evenly: no tenth of the span holds more than twice its share.
        shares = [sum(1 for t in times if tenth / 10 <= t / within_s < (tenth + 1) / 10) for tenth in range(10)]
        assert max(shares) < 2 * count / 10 + 5


def test_the_same_seed_probes_at_the_same_times() -> None:
    one, two = random.Random(6), random.Random(6)
    assert [next_at(0.0, CHECK, one, known=True) for _ in range(5)] == [
        next_at(0.0, CHECK, two, known=True) for _ in range(5)
    ]
