"""Why endpoints serve or do not, and which one a request would get."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from typing import Any

import pytest
from nexus_core.discovery import Endpoint
from nexus_core.snapshot import Balancing, CircuitBreaker
from nexus_gateway.balance.availability import available
from nexus_gateway.balance.outlooks import foresee, reasons
from nexus_gateway.balance.table import BALANCERS
from nexus_gateway.resilience.endpoints import EndpointRegistry, EndpointState

NOW = 1000.0


def endpoints(count: int = 4, **fields: Any) -> tuple[EndpointState, ...]:
    listed = [Endpoint(f"10.0.0.{n}", 80, **fields) for n in range(1, count + 1)]
    return EndpointRegistry().update("shop/a", listed, CircuitBreaker(failures=1, reset_s=10.0), NOW)


def drain(state: EndpointState) -> None:
    state.draining = True


def sicken(state: EndpointState) -> None:
    state.healthy = False


def eject(state: EndpointState) -> None:
    state.ejected_until = NOW + 12.0


def break_it(state: EndpointState) -> None:
    assert state.breaker.acquire(NOW)
    state.breaker.failure(NOW)


@pytest.mark.parametrize(
    ("trouble", "why", "for_s"),
    [(drain, "draining", 0.0), (sicken, "unhealthy", 0.0), (eject, "ejected", 12.0), (break_it, "circuit-open", 10.0)],
)
def test_an_endpoint_that_does_not_serve_has_a_reason_and_one_that_does_has_none(
    trouble: Callable[[EndpointState], None], why: str, for_s: float
) -> None:
    states = endpoints()
    trouble(states[0])
    policy = Balancing()
    live, _ = available(states, policy, "", NOW)
    told = {state.authority: reasons(state, policy, NOW, serves=state in live) for state in states}
    (reason,) = told.pop("10.0.0.1:80")
    assert (reason.why, round(reason.for_s, 6)) == (why, for_s)
    assert set(told.values()) == {()}


def test_what_is_outside_the_subset_names_what_it_lacks() -> None:
    (state,) = endpoints(1, meta=(("version", "v1"),))
    (reason,) = reasons(state, Balancing(subset=(("version", "v2"),)), NOW, serves=False)
    assert reason.why == "subset"
    assert "version=v2" in reason.text


def test_zone_is_the_reason_when_nothing_else_is() -> None:
    registry = EndpointRegistry()
    listed = [
        Endpoint("10.0.0.1", 80, zone="a"),
        Endpoint("10.0.0.2", 80, zone="a"),
        Endpoint("10.0.0.3", 80, zone="b"),
    ]
    states = registry.update("shop/a", listed, CircuitBreaker(), NOW)
    policy = Balancing(zone_aware=True)
    live, _ = available(states, policy, "a", NOW)
    for state in states:
        told = [each.why for each in reasons(state, policy, NOW, serves=state in live)]
        assert told == ([] if state in live else ["zone"])
    assert len(live) < 3


def test_in_panic_an_endpoint_serves_in_spite_of_its_reason() -> None:
    states = endpoints(3)
    for state in states:
        sicken(state)
    live, _ = available(states, Balancing(), "", NOW)
    assert [each.why for each in reasons(states[0], Balancing(), NOW, serves=states[0] in live)] == ["unhealthy"]
    assert len(live) == 3


@pytest.mark.parametrize("algorithm", ["ring-hash", "maglev"])
def test_the_endpoint_that_is_told_is_the_one_that_the_serving_balancer_picks(algorithm: Any) -> None:
    states = endpoints(5)
    states[1].share = 3.0
    policy = Balancing(algorithm=algorithm)
    serving = BALANCERS[algorithm](random.Random(7))
    for n in range(200):
        key = f"client-{n}".encode()
        copies = tuple(copy.copy(each) for each in states)
        told = foresee(policy, copies, key, NOW)
        assert told["endpoint"] == serving.pick(states, key, NOW).authority
        assert told["by"] == "hash"


@pytest.mark.parametrize(
    ("algorithm", "key", "by"),
    [("random", b"", "draw"), ("least-request", b"k", "draw"), ("peak-ewma", b"", "draw"), ("round-robin", b"", "turn"),
     ("ring-hash", b"", "draw")],
)  # fmt: skip
def test_what_is_drawn_is_told_as_shares(algorithm: Any, key: bytes, by: str) -> None:
    states = endpoints(3)
    states[0].share = 2.0
    told = foresee(Balancing(algorithm=algorithm), states, key, NOW)
    assert (told["endpoint"], told["by"]) == (None, by)
    assert [each["share"] for each in told["candidates"]] == [0.5, 0.25, 0.25]


def test_a_session_wins_while_its_endpoint_serves() -> None:
    states = endpoints(3)
    policy = Balancing(algorithm="ring-hash")
    assert foresee(policy, states, b"k", NOW, session="10.0.0.2:80")["by"] == "session"
    gone = foresee(policy, states[:1], b"k", NOW, session="10.0.0.2:80")
    assert (gone["endpoint"], gone["by"]) == ("10.0.0.1:80", "only")
    assert "takes no requests now" in gone["why"]


def test_without_endpoints_nothing_is_picked() -> None:
    assert foresee(Balancing(), (), b"k", NOW)["by"] == "nothing"


def test_asking_changes_no_balancer_and_no_share() -> None:
    states = endpoints(3)
    before = [(state.share, state.active) for state in states]
    foresee(Balancing(algorithm="maglev"), states, b"k", NOW)
    assert [(state.share, state.active) for state in states] == before
