"""One suite for every balancer: shares respected, no endpoint starved, same seed same picks; then what each is better at."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from nexus_gateway.balance.split import Split
from nexus_gateway.balance.table import BALANCERS

HASHING = ("maglev", "ring-hash")


@dataclass(eq=False)
class Fake:
    authority: str
    share: float = 1.0
    active: int = 0
    ewma_s: float = 0.0
    ewma_at: float = 0.0


def key(number: int) -> bytes:
    return f"client-{number}".encode()


@pytest.fixture(params=sorted(BALANCERS))
def algorithm(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_one_endpoint_takes_everything(algorithm: str) -> None:
    only = [Fake("a")]
    balancer = BALANCERS[algorithm](random.Random(1))
    assert all(balancer.pick(only, key(number)) is only[0] for number in range(10))


@pytest.mark.parametrize("shares", [(1.0, 2.0, 5.0), (1.0, 1.0, 1.0), (0.1, 1.0, 1.0), (0.37, 1.21, 0.5)])
def test_idle_endpoints_get_their_share(algorithm: str, shares: tuple[float, ...]) -> None:
    endpoints = tuple(Fake(f"10.0.0.{number}:80", share) for number, share in enumerate(shares))
    balancer = BALANCERS[algorithm](random.Random(1))
    picks = Counter(balancer.pick(endpoints, key(number)).authority for number in range(20_000))
    for endpoint in endpoints:
        # A ring is as even as its points are many; the rest is chance.
        assert picks[endpoint.authority] == pytest.approx(20_000 * endpoint.share / sum(shares), rel=0.12)


@pytest.mark.parametrize("algorithm", HASHING)
def test_requests_without_a_key_are_spread_by_share(algorithm: str) -> None:
    endpoints = (Fake("a"), Fake("b", 3.0))
    balancer = BALANCERS[algorithm](random.Random(1))
    assert Counter(balancer.pick(endpoints).authority for _ in range(4000))["b"] == pytest.approx(3000, rel=0.05)


def test_many_endpoints_all_get_requests(algorithm: str) -> None:
    endpoints = tuple(Fake(f"10.0.{number // 200}.{number % 200}:80") for number in range(300))
    balancer = BALANCERS[algorithm](random.Random(1))
    picks = Counter(balancer.pick(endpoints, key(number)).authority for number in range(30_000))
    assert len(picks) == 300
    assert max(picks.values()) < 250


def test_same_seed_same_picks(algorithm: str) -> None:
    def run() -> list[str]:
        balancer = BALANCERS[algorithm](random.Random(7))
        return [balancer.pick([Fake("a"), Fake("b"), Fake("c")], key(n % 5)).authority for n in range(50)]

    assert run() == run()


def test_endpoints_may_come_and_go(algorithm: str) -> None:
    balancer = BALANCERS[algorithm](random.Random(1))
    rng = random.Random(2)
    for number in range(200):
        endpoints = [Fake(name, rng.choice((0.1, 1.0, 1.3))) for name in rng.sample("abcdef", rng.randint(1, 6))]
        assert balancer.pick(endpoints, key(number % 7), float(number)) in endpoints


def test_a_new_object_for_every_request_starves_no_endpoint(algorithm: str) -> None:
    balancer = BALANCERS[algorithm](random.Random(1))
    picks = Counter(balancer.pick([Fake("a"), Fake("b"), Fake("c", 1.7)], key(n)).authority for n in range(300))
    assert min(picks.values()) > 40


def test_a_passing_choice_changes_nothing_for_the_next_request(algorithm: str) -> None:
    """A retry leaves out what was tried; the plan for all endpoints stays."""
    endpoints = tuple(Fake(f"10.0.0.{number}:80") for number in range(6))
    balancer = BALANCERS[algorithm](random.Random(1))
    first = [balancer.pick(endpoints, key(number)) for number in range(600)]
    for number, tried in enumerate(first):
        rest = [each for each in endpoints if each is not tried]
        assert balancer.pick(rest, key(number)) in rest
        again = balancer.pick(endpoints, key(number))
        if algorithm in HASHING:
            assert again is tried
    assert len(set(first)) == 6


def test_an_endpoint_that_left_for_good_is_forgotten(algorithm: str) -> None:
    balancer = BALANCERS[algorithm](random.Random(1))
    endpoints = tuple(Fake(name) for name in "abcd")
    balancer.prepare(endpoints)
    left = endpoints[:3]
    picks = Counter(balancer.pick(left, key(number)).authority for number in range(3000))
    assert set(picks) == {"a", "b", "c"}
    assert min(picks.values()) > 800


# What each is better at: seeded simulations.


def simulate(algorithm: str, times: dict[str, float], every: float = 1.0, requests: int = 5000) -> Counter[str]:
    """A request every so many seconds to endpoints that take these seconds each. Returns requests by endpoint."""
    rng = random.Random(3)
    endpoints = tuple(Fake(name) for name in times)
    balancer = BALANCERS[algorithm](rng)
    observe: Callable[[Fake, float, float], None] | None = getattr(balancer, "observe", None)
    picks: Counter[str] = Counter()
    running: list[tuple[float, Fake]] = []
    for number in range(requests):
        now = number * every
        for until, endpoint in sorted((each for each in running if each[0] <= now), key=lambda each: each[0]):
            running.remove((until, endpoint))
            endpoint.active -= 1
            if observe is not None:
                observe(endpoint, times[endpoint.authority], until)
        chosen = balancer.pick(endpoints, b"", now)
        chosen.active += 1
        picks[chosen.authority] += 1
        running.append((now + times[chosen.authority], chosen))
    return picks


ONE_SLOW = {"a": 60.0, "b": 6.0, "c": 6.0, "d": 6.0}


def test_least_request_spares_a_slow_endpoint_and_round_robin_and_random_do_not() -> None:
    assert simulate("round-robin", ONE_SLOW)["a"] == 1250
    assert simulate("random", ONE_SLOW)["a"] == pytest.approx(1250, rel=0.1)
    assert simulate("least-request", ONE_SLOW)["a"] < 800


def test_peak_ewma_all_but_avoids_a_slow_endpoint_under_load() -> None:
    times = {"a": 0.06, "b": 0.006, "c": 0.006, "d": 0.006}
    assert simulate("least-request", times, every=0.001)["a"] > 200
    assert simulate("peak-ewma", times, every=0.001)["a"] < 20


def test_peak_ewma_spares_a_slow_endpoint_that_is_idle_and_least_request_cannot_tell() -> None:
    """Seldom requests: hardly ever is one running when the next comes, so only response times tell the endpoints apart."""
    times = {"a": 0.5, "b": 0.005, "c": 0.005, "d": 0.005}
    assert simulate("least-request", times)["a"] == pytest.approx(1250, rel=0.1)
    # It fades, is tried again every now and then, and found to be as slow as before.
    assert 0 < simulate("peak-ewma", times)["a"] < 300


def test_round_robin_is_the_smoothest() -> None:
    endpoints = (Fake("a", 5.0), Fake("b"), Fake("c"))
    balancer = BALANCERS["round-robin"](random.Random(1))
    assert "".join(balancer.pick(endpoints).authority for _ in range(7)) == "aabacaa"


def test_round_robin_is_smooth_with_shares_that_make_no_short_round() -> None:
    endpoints = tuple(Fake(str(number), 1.0 + number / 777) for number in range(5))
    balancer = BALANCERS["round-robin"](random.Random(1))
    last: dict[str, int] = {}
    for turn in range(2000):
        name = balancer.pick(endpoints).authority
        assert turn - last.get(name, turn) <= 7
        last[name] = turn


def test_round_robin_keeps_its_place_when_shares_change() -> None:
    """Slow start changes shares again and again; an endpoint with a small share must get its turn nevertheless."""
    balancer = BALANCERS["round-robin"](random.Random(1))
    picks: Counter[str] = Counter()
    for turn in range(2000):
        endpoints = (Fake("a", 3.33), Fake("b", 3.33 + turn / 10_007), Fake("small", 0.31))
        picks[balancer.pick(endpoints).authority] += 1
    assert picks["small"] == pytest.approx(2000 * 0.31 / 7.07, rel=0.2)


@pytest.mark.parametrize("algorithm", HASHING)
@pytest.mark.parametrize("shares", [(1.0,), (1.0, 2.0, 0.5)])
def test_hashing_moves_few_keys_when_an_endpoint_leaves_and_none_when_it_is_back(
    algorithm: str, shares: tuple[float, ...]
) -> None:
    endpoints = tuple(Fake(f"10.0.0.{number}:8080", shares[number % len(shares)]) for number in range(12))
    balancer = BALANCERS[algorithm](random.Random(1))
    keys = [key(number) for number in range(5000)]

    def owners(candidates: tuple[Fake, ...]) -> list[str]:
        balancer.prepare(candidates)
        return [balancer.pick(candidates, each).authority for each in keys]

    before = owners(endpoints)
    gone = endpoints[5]
    after = owners(tuple(each for each in endpoints if each is not gone))
    moved = sum(1 for one, two in zip(before, after, strict=True) if one != two)
    lost = before.count(gone.authority)
    # Those of the endpoint that left must move. Of the others a ring of few equal endpoints moves none, the rest some percent.
    exact = algorithm == "ring-hash" and len(shares) == 1
    assert lost <= moved <= lost + (0 if exact else 0.06 * len(keys))
    assert owners(tuple(reversed(endpoints))) == before


@pytest.mark.parametrize("algorithm", HASHING)
def test_hashing_keeps_no_more_tables_than_a_few(algorithm: str) -> None:
    balancer = BALANCERS[algorithm](random.Random(1))
    endpoints = tuple(Fake(f"10.0.0.{number}:8080") for number in range(9))
    owners = []
    for _ in range(2):
        for count in (9, 8, 7, 6, 5, 4):
            balancer.prepare(endpoints[:count])
            owners.append([balancer.pick(endpoints[:count], key(number)) for number in range(50)])
    assert owners[:6] == owners[6:]
    assert len(balancer._tables) == 4  # type: ignore[attr-defined]


@pytest.mark.parametrize("algorithm", HASHING)
def test_hashing_is_the_same_in_every_process(algorithm: str) -> None:
    """Fixed owners: a change of them would deal every client anew when gateways of two releases run side by side."""
    endpoints = tuple(Fake(f"10.0.0.{number}:8080") for number in range(5))
    balancer = BALANCERS[algorithm](random.Random(1))
    owners = "".join(balancer.pick(endpoints, key(number)).authority[7] for number in range(20))
    assert owners == {"maglev": "22021103303014000211", "ring-hash": "23043041211302214023"}[algorithm]


def test_a_split_keeps_exact_proportions_in_every_round() -> None:
    split = Split([90, 0, 10])
    for _ in range(3):
        assert Counter(split.next() for _ in range(100)) == {0: 90, 2: 10}
    assert Split([]).next() is None
    assert Split([0, 0]).next() is None


def test_a_split_over_weights_that_make_no_short_round_is_exact_too() -> None:
    split = Split([9973, 9967, 13])
    assert Counter(split.next() for _ in range(9973 + 9967 + 13)) == {0: 9973, 1: 9967, 2: 13}
