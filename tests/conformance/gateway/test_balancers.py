"""One suite for every balancer: shares by weight, no endpoint starved, same seed same picks."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass

import pytest
from nexus_gateway.balance.split import Split
from nexus_gateway.balance.table import BALANCERS


@dataclass
class Fake:
    authority: str
    weight: int = 1
    active: int = 0


@pytest.fixture(params=sorted(BALANCERS))
def algorithm(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_one_endpoint_takes_everything(algorithm: str) -> None:
    only = [Fake("a")]
    balancer = BALANCERS[algorithm](random.Random(1))
    assert all(balancer.pick(only) is only[0] for _ in range(10))


def test_idle_endpoints_get_their_weights_share(algorithm: str) -> None:
    endpoints = (Fake("a", 1), Fake("b", 2), Fake("c", 5))
    balancer = BALANCERS[algorithm](random.Random(1))
    picks = Counter(balancer.pick(endpoints).authority for _ in range(8000))
    for endpoint in endpoints:
        assert picks[endpoint.authority] == pytest.approx(1000 * endpoint.weight, rel=0.1)


def test_same_seed_same_picks(algorithm: str) -> None:
    def run() -> list[str]:
        balancer = BALANCERS[algorithm](random.Random(7))
        return [balancer.pick([Fake("a"), Fake("b"), Fake("c")]).authority for _ in range(50)]

    assert run() == run()


def test_endpoints_may_come_and_go(algorithm: str) -> None:
    balancer = BALANCERS[algorithm](random.Random(1))
    rng = random.Random(2)
    for _ in range(200):
        endpoints = [Fake(name) for name in rng.sample("abcdef", rng.randint(1, 6))]
        assert balancer.pick(endpoints) in endpoints


def simulate(algorithm: str) -> Counter[str]:
    """Four endpoints, one of them ten times slower; a request each tick. Returns requests by endpoint."""
    rng = random.Random(3)
    endpoints = tuple(Fake(name) for name in "abcd")
    balancer = BALANCERS[algorithm](rng)
    picks: Counter[str] = Counter()
    running: list[tuple[int, Fake]] = []
    for now in range(5000):
        for until, endpoint in [each for each in running if each[0] <= now]:
            running.remove((until, endpoint))
            endpoint.active -= 1
        chosen = balancer.pick(endpoints)
        chosen.active += 1
        picks[chosen.authority] += 1
        running.append((now + (60 if chosen.authority == "a" else 6), chosen))
    return picks


def test_least_request_spares_a_slow_endpoint_and_round_robin_does_not() -> None:
    assert simulate("round-robin")["a"] == 1250
    assert simulate("least-request")["a"] < 800


def test_round_robin_is_smooth() -> None:
    endpoints = (Fake("a", 5), Fake("b"), Fake("c"))
    balancer = BALANCERS["round-robin"](random.Random(1))
    assert "".join(balancer.pick(endpoints).authority for _ in range(7)) == "aabacaa"


def test_a_split_keeps_exact_proportions_in_every_round() -> None:
    split = Split([90, 0, 10])
    for _ in range(3):
        assert Counter(split.next() for _ in range(100)) == {0: 90, 2: 10}
    assert Split([]).next() is None
    assert Split([0, 0]).next() is None
