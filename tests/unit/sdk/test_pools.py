import dataclasses
import random
from collections import Counter

from nexus_core.discovery import Endpoint
from nexus_sdk.client.pools import Balancing, Pool

A, B, C = (Endpoint("10.0.0.1", port, weight=weight) for port, weight in ((1, 1), (2, 1), (3, 4)))


def pool(*endpoints: Endpoint, balancing: Balancing = "least-request") -> Pool:
    made = Pool("orders.shop", failures=2, reset_s=10, balancing=balancing)
    made.update(endpoints)
    return made


def picks(made: Pool, count: int, *, release: bool = True) -> Counter[int]:
    seen: Counter[int] = Counter()
    rng = random.Random(7)
    for _ in range(count):
        picked = made.pick(frozenset(), 0.0, rng)
        assert picked is not None
        seen[picked[0].endpoint.port] += 1
        if not release:
            picked[0].active += 1
    return seen


def test_nobody_there_gives_nothing() -> None:
    assert pool().pick(frozenset(), 0.0, random.Random(1)) is None


def test_an_endpoint_that_drains_gets_no_calls() -> None:
    draining = dataclasses.replace(B, draining=True)
    assert picks(pool(A, draining), 20) == {1: 20}
    assert pool(draining).pick(frozenset(), 0.0, random.Random(1)) is None


def test_least_request_evens_out_what_stays_on_the_way() -> None:
    seen = picks(pool(A, B), 100, release=False)
    assert abs(seen[1] - seen[2]) <= 1


def test_least_request_follows_weights() -> None:
    seen = picks(pool(A, C), 100, release=False)
    assert 75 <= seen[3] <= 85


def test_round_robin_takes_turns() -> None:
    assert picks(pool(A, B, C, balancing="round-robin"), 9) == {1: 3, 2: 3, 3: 3}


def test_a_tried_endpoint_is_taken_again_only_without_another() -> None:
    made, rng = pool(A, B), random.Random(1)
    tried = frozenset({("10.0.0.1", 1)})
    assert all(made.pick(tried, 0.0, rng)[0].endpoint == B for _ in range(20))  # type: ignore[index]
    made.update([A])
    assert made.pick(tried, 0.0, rng)[0].endpoint == A  # type: ignore[index]


def test_breakers_survive_changes_of_the_set() -> None:
    made, rng = pool(A), random.Random(1)
    for _ in range(2):
        seat, permit = made.pick(frozenset(), 0.0, rng) or (None, None)
        assert seat is not None
        assert permit is not None
        seat.breaker.failed(permit, 0.0)
    made.update([A, B])
    assert made.count_open() == 1
    assert picks(made, 10) == {2: 10}
    made.update([A])
    assert made.pick(frozenset(), 5.0, rng) is None
    assert made.reopens_in_s(5.0) == 5.0
