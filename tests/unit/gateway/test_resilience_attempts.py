"""Attempts, budgets and deadlines as tables and properties: what is repeated, where, when, and what upstream hears of it."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nexus_core.discovery import Endpoint
from nexus_core.snapshot import CircuitBreaker, Retry
from nexus_gateway.resilience.attempts import (
    BACKOFF_MAX_S,
    IDEMPOTENT,
    Blame,
    Outcome,
    backoff_s,
    blame_for_delay,
    choose,
    may_retry,
    outcome_of,
)
from nexus_gateway.resilience.budgets import FLOOR, WINDOW_S, RetryBudget
from nexus_gateway.resilience.deadlines import (
    client_timeout_s,
    parse_grpc,
    parse_seconds,
    remaining_lines,
    render_grpc,
)
from nexus_gateway.resilience.endpoints import EndpointRegistry, EndpointState

EVERY = Retry(attempts=2, on=("502", "503", "504", "connect-failure", "reset", "timeout"))


def check(
    outcome: Outcome,
    *,
    method: str = "GET",
    retry: Retry = EVERY,
    attempts: int = 1,
    replayable: bool = True,
    nothing_sent: bool = False,
    now: float = 0.0,
    deadline_at: float | None = None,
    budget: RetryBudget | None = None,
    status: int = 0,
) -> float | None:
    budget = budget or RetryBudget()
    return may_retry(
        method in IDEMPOTENT,
        outcome,
        retry,
        attempts,
        replayable,
        nothing_sent,
        budget,
        now,
        deadline_at,
        random.Random(1),
        status,
    )


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "PUT", "DELETE", "POST", "PATCH"])
@pytest.mark.parametrize("nothing_sent", [True, False])
@pytest.mark.parametrize("replayable", [True, False])
@pytest.mark.parametrize("outcome", list(Outcome))
def test_what_is_repeated(method: str, nothing_sent: bool, replayable: bool, outcome: Outcome) -> None:
    safe = method not in ("POST", "PATCH") or nothing_sent
    again = replayable and safe and outcome not in (Outcome.ANSWERED, Outcome.ABANDONED)
    got = check(outcome, method=method, nothing_sent=nothing_sent, replayable=replayable)
    assert (got is not None) is again


@pytest.mark.parametrize("outcome", [each for each in Outcome if each not in ("stale", "answered", "abandoned")])
def test_only_outcomes_that_the_policy_names_are_repeated(outcome: Outcome) -> None:
    assert check(outcome, retry=Retry(on=(outcome.value,))) is not None
    assert check(outcome, retry=Retry(on=tuple(each for each in EVERY.on if each != outcome.value))) is None


@pytest.mark.parametrize("status", [400, 404, 429, 500, 507, 599])
def test_answers_are_repeated_when_the_policy_names_their_status(status: int) -> None:
    named = Retry(on=("503", str(status)))
    assert check(Outcome.ANSWERED, retry=named, status=status) is not None
    assert check(Outcome.ANSWERED, retry=named, status=status + 1) is None
    assert check(Outcome.ANSWERED, retry=named, status=status, method="POST") is None
    assert check(Outcome.ANSWERED, retry=EVERY, status=status) is None


@pytest.mark.parametrize(
    ("attempts", "most", "again"), [(1, 0, False), (1, 1, True), (2, 1, False), (2, 2, True), (3, 2, False)]
)
def test_attempts_are_bounded(attempts: int, most: int, again: bool) -> None:
    assert (check(Outcome.RESET, attempts=attempts, retry=Retry(attempts=most)) is not None) is again


def test_no_attempt_begins_after_the_deadline() -> None:
    wait_s = check(Outcome.RESET, now=5.0)
    assert wait_s is not None
    assert check(Outcome.RESET, now=5.0, deadline_at=5.0 + wait_s) is None
    assert check(Outcome.RESET, now=5.0, deadline_at=5.0 + wait_s + 0.001) == wait_s


def test_a_stale_connection_is_no_matter_of_policy_or_budget_and_needs_no_pause() -> None:
    spent = RetryBudget()
    while spent.take(0.0, 0.0):
        pass
    off = Retry(attempts=0, on=())
    assert check(Outcome.STALE, retry=off, attempts=9, budget=spent) == 0.0
    assert check(Outcome.RESET, budget=spent) is None
    assert check(Outcome.STALE, method="POST", retry=off) is None, "the endpoint may have acted on it"
    assert check(Outcome.STALE, method="POST", retry=off, nothing_sent=True) == 0.0
    assert check(Outcome.STALE, now=1.0, deadline_at=1.0) is None


def test_a_refusal_costs_no_budget() -> None:
    budget = RetryBudget()
    for _ in range(100):
        check(Outcome.ANSWERED, budget=budget)
        check(Outcome.RESET, method="POST", budget=budget)
        check(Outcome.RESET, now=1.0, deadline_at=0.5, budget=budget)
        check(Outcome.STALE, budget=budget)
    assert sum(check(Outcome.RESET, now=1.0, budget=budget) is not None for _ in range(100)) == FLOOR


def states(count: int) -> tuple[EndpointState, ...]:
    found = [Endpoint(f"10.0.0.{n}", 80) for n in range(count)]
    return EndpointRegistry().update("u", found, CircuitBreaker(), 0.0)


@given(st.integers(1, 5), st.sets(st.integers(0, 5)))
def test_an_endpoint_that_was_not_tried_is_taken_as_long_as_there_is_one(count: int, tried: set[int]) -> None:
    live = states(count)
    seen: list[Sequence[EndpointState]] = []

    def pick(candidates: tuple[EndpointState, ...], key: bytes, now: float) -> EndpointState:
        assert (key, now) == (b"k", 3.0)
        seen.append(candidates)
        return candidates[-1]

    authorities = {f"10.0.0.{n}:80" for n in tried}
    chosen = choose(live, authorities, pick, b"k", 3.0)
    left = [each for each in live if each.authority not in authorities]
    assert chosen is (left or live)[-1]
    if not tried:
        assert seen[0] is live, "by whose identity balancers keep what they work out"


def test_statuses_have_outcomes() -> None:
    assert [outcome_of(status).value for status in (200, 404, 500, 502, 503, 504)] == [
        *["answered"] * 3,
        "502",
        "503",
        "504",
    ]


@given(st.integers(1, 200), st.integers())
def test_pauses_are_jittered_below_a_growing_cap(attempts: int, seed: int) -> None:
    assert 0.0 <= backoff_s(attempts, random.Random(seed)) <= min(BACKOFF_MAX_S, 0.025 * 2 ** (attempts - 1))


@given(st.integers(1, 12), st.floats(0.0, 60.0), st.integers())
def test_pauses_are_never_shorter_than_the_least_and_always_jittered(attempts: int, least_s: float, seed: int) -> None:
    rng = random.Random(seed)
    found = [backoff_s(attempts, rng, least_s) for _ in range(8)]
    assert min(found) >= least_s
    assert max(found) <= least_s + BACKOFF_MAX_S
    assert len(set(found)) > 1


def test_a_policys_backoff_is_the_least_pause() -> None:
    wait_s = check(Outcome.CONNECT_FAILURE, retry=Retry(on=("connect-failure",), backoff_s=0.1))
    assert wait_s is not None
    assert 0.1 <= wait_s <= 0.15, "approximately, as the Gateway API says"
    again_s = check(Outcome.CONNECT_FAILURE, retry=Retry(on=("connect-failure",), backoff_s=5.0), deadline_at=4.0)
    assert again_s is None, "there is no time for it"


STEPS_S = st.sampled_from([0.0, 0.0, 0.3, 1.0, 1.7, 8.9, 30.0])


@given(st.lists(st.tuples(st.sampled_from([0, 0, 1, 7, 40]), STEPS_S), max_size=150), st.sampled_from([0.0, 0.2, 1.0]))
def test_running_totals_say_what_counting_anew_says(events: list[tuple[int, float]], ratio: float) -> None:
    """Each event is a number of requests, or, for 0, as many retries as the budget gives."""
    budget = RetryBudget()
    now = 1000.0
    requests: list[int] = []
    retries: list[int] = []
    for count, passed_s in events:
        now += passed_s
        second = int(now * 10 / WINDOW_S)
        for _ in range(count):
            budget.request(now)
        requests += [second] * count
        while not count:
            allowed = sum(at > second - 10 for at in retries) < FLOOR + ratio * sum(at > second - 10 for at in requests)
            assert budget.take(ratio, now) is allowed
            if not allowed:
                break
            retries.append(second)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (b"1S", 1.0), (b"100m", 0.1), (b"2M", 120.0), (b"1H", 3600.0), (b"5u", 5e-6), (b"99999999n", 0.099999999), (b"00000015S", 15.0),
        (b"", None), (b"S", None), (b"1", None), (b"1s", None), (b"1.5S", None), (b"-1S", None), (b"+1S", None), (b" 1S", None),
        (b"1S ", None), (b"1 S", None), (b"123456789S", None), ("１S".encode(), None), (b"0S", None), (b"1S\n", None), (b"1Sm", None),
    ],
)  # fmt: skip
def test_grpc_timeouts(value: bytes, seconds: float | None) -> None:
    assert parse_grpc(value) == (None if seconds is None else pytest.approx(seconds))


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (b"1", 1.0), (b"2.5", 2.5), (b"0.001", 0.001), (b"15.000", 15.0), (b"0", None), (b"0.0", None), (b"", None), (b".5", None),
        (b"5.", None), (b"-1", None), (b"1e3", None), (b"inf", None), (b"nan", None), (b"1s", None), (b"1 ", None), (b"1_0", None),
        (b"1234567890", None), ("١".encode(), None),
    ],
)  # fmt: skip
def test_timeouts_in_seconds(value: bytes, seconds: float | None) -> None:
    assert parse_seconds(value) == seconds


@given(st.binary(max_size=12))
def test_no_header_value_raises_or_means_nothing_or_less(value: bytes) -> None:
    for found in (parse_grpc(value), parse_seconds(value), client_timeout_s({b"grpc-timeout": value})):
        assert found is None or found > 0.0


@pytest.mark.parametrize(
    ("aside", "seconds"),
    [
        ({}, None), ({b"grpc-timeout": b"2S"}, 2.0), ({b"x-request-timeout": b"3"}, 3.0),
        ({b"grpc-timeout": b"2S", b"x-request-timeout": b"1"}, 1.0), ({b"grpc-timeout": b"2S", b"x-request-timeout": b"9"}, 2.0),
        ({b"grpc-timeout": b"soon", b"x-request-timeout": b"9"}, 9.0), ({b"x-request-timeout": b"0"}, None), ({b"other": b"1"}, None),
    ],
)  # fmt: skip
def test_the_shortest_time_that_the_client_gives_counts(aside: dict[bytes, bytes], seconds: float | None) -> None:
    assert client_timeout_s(aside) == seconds


@pytest.mark.parametrize(
    ("aside", "remaining_s", "lines"),
    [
        ({b"grpc-timeout": b"2S"}, 1.5, b"grpc-timeout: 1500000u\r\n"),
        ({b"x-request-timeout": b"3"}, 1.5, b"x-request-timeout: 1.500\r\n"),
        ({b"grpc-timeout": b"2S", b"x-request-timeout": b"3"}, 0.25, b"grpc-timeout: 250000u\r\nx-request-timeout: 0.250\r\n"),
        ({b"grpc-timeout": b"2S", b"x-request-timeout": b"3"}, -1.0, b"grpc-timeout: 1u\r\nx-request-timeout: 0.001\r\n"),
        ({b"grpc-timeout": b"2S"}, 0.0, b""), ({b"grpc-timeout": b"soon", b"x-request-timeout": b"x"}, 1.0, b""), ({}, 1.0, b""),
    ],
)  # fmt: skip
def test_upstream_hears_what_is_left_in_the_clients_own_headers(
    aside: dict[bytes, bytes], remaining_s: float, lines: bytes
) -> None:
    assert remaining_lines(aside, remaining_s) == lines


@given(st.floats(1e-6, 3e11))
def test_rendered_grpc_timeouts_are_valid_and_never_longer_than_what_is_left(seconds: float) -> None:
    found = parse_grpc(render_grpc(seconds))
    assert found is not None
    assert found <= seconds * (1 + 1e-9) or found == pytest.approx(1e-6)
    assert found > 0.99 * seconds - 1e-6


@pytest.mark.parametrize(
    ("answered", "complete", "taking", "queued", "clients", "blame"),
    [
        (False, True, True, False, False, Blame.ENDPOINT), (False, True, False, False, False, Blame.ENDPOINT),
        (False, False, False, False, False, Blame.ENDPOINT), (False, False, True, False, False, Blame.CLIENT),
        (False, False, True, False, True, Blame.CLIENT), (False, True, True, False, True, Blame.NOBODY),
        (False, False, False, False, True, Blame.NOBODY), (False, True, False, True, False, Blame.NOBODY),
        (False, False, False, True, False, Blame.NOBODY), (True, True, True, False, False, Blame.GATEWAY),
        (True, False, True, False, False, Blame.GATEWAY), (True, False, False, False, True, Blame.GATEWAY),
    ],
)  # fmt: skip
def test_an_endpoint_is_to_blame_for_what_it_alone_delays(
    answered: bool, complete: bool, taking: bool, queued: bool, clients: bool, blame: Blame
) -> None:
    found = blame_for_delay(answered=answered, complete=complete, taking=taking, queued=queued, clients=clients)
    assert found is blame
