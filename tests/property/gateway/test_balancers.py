"""What holds for balancers and availability whatever the endpoints are."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nexus_core.snapshot import Balancing
from nexus_gateway.balance.availability import available
from nexus_gateway.balance.draws import Alias
from nexus_gateway.balance.schedules import build_round
from nexus_gateway.balance.split import Split
from nexus_gateway.balance.table import BALANCERS

ALGORITHM = st.sampled_from(sorted(BALANCERS))
SHARE = st.one_of(st.integers(1, 5).map(float), st.floats(0.05, 50.0), st.just(1.0))


@dataclass
class Circuit:
    reopens_at: float = 0.0

    def would_allow(self, now: float) -> bool:
        return now >= self.reopens_at


@dataclass(eq=False)
class Fake:
    authority: str
    share: float = 1.0
    active: int = 0
    ewma_s: float = 0.0
    ewma_at: float = 0.0
    weight: int = 1
    draining: bool = False
    healthy: bool = True
    ejected_until: float = 0.0
    since: float = 0.0
    zone: str = ""
    meta: tuple[tuple[str, str], ...] = ()
    breaker: Circuit = field(default_factory=Circuit)


def endpoints(shares: list[float]) -> tuple[Fake, ...]:
    return tuple(Fake(f"10.0.{number}.1:80", share) for number, share in enumerate(shares))


@settings(max_examples=60)
@given(
    ALGORITHM,
    st.lists(SHARE, min_size=1, max_size=30),
    st.lists(st.tuples(st.integers(0, 2**30), st.binary(max_size=12), st.integers(0, 9)), max_size=40),
    st.integers(0, 2**32),
)
def test_a_pick_is_always_one_of_the_candidates(
    algorithm: str, shares: list[float], steps: list[tuple[int, bytes, int]], seed: int
) -> None:
    """Whatever comes, goes, is measured or runs: also with a few of them, or the same ones as another object, in between."""
    every = endpoints(shares)
    balancer = BALANCERS[algorithm](random.Random(seed))
    now = 0.0
    for mask, key, what in steps:
        now += what / 3
        some = tuple(each for at, each in enumerate(every) if mask >> at & 1) or every[:1]
        candidates = some if what < 5 else every
        chosen = balancer.pick(candidates, key, now)
        assert any(chosen is each for each in candidates)
        chosen.active += 1
        chosen.ewma_s, chosen.ewma_at = what / 100, now


@settings(max_examples=40)
@given(st.lists(SHARE, min_size=1, max_size=12), st.integers(1, 5))
def test_round_robin_never_drifts_from_the_shares(shares: list[float], rounds: int) -> None:
    candidates = endpoints(shares)
    balancer = BALANCERS["round-robin"](random.Random(1))
    requests = round(200 * rounds)
    picks = Counter(balancer.pick(candidates).authority for _ in range(requests))
    for each in candidates:
        due = requests * each.share / sum(shares)
        assert abs(picks[each.authority] - due) <= len(shares) + 1


@settings(max_examples=30)
@given(
    st.sampled_from(["least-request", "peak-ewma", "random"]),
    st.lists(SHARE, min_size=1, max_size=8),
    st.integers(0, 9),
)
def test_idle_endpoints_are_drawn_by_share_in_the_long_run(algorithm: str, shares: list[float], seed: int) -> None:
    candidates = endpoints(shares)
    balancer = BALANCERS[algorithm](random.Random(seed))
    requests = 4000
    picks = Counter(balancer.pick(candidates).authority for _ in range(requests))
    for each in candidates:
        part = each.share / sum(shares)
        # Six standard deviations of a binomial: one false alarm in 10⁸.
        assert abs(picks[each.authority] - requests * part) <= 6 * (requests * part * (1 - part)) ** 0.5 + 1


@settings(max_examples=40)
@given(st.lists(st.floats(0.01, 1000.0), min_size=1, max_size=200))
def test_the_alias_method_gives_every_index_exactly_its_weight(weights: list[float]) -> None:
    alias = Alias(weights, random.Random(1))
    whole = 1 << 30
    part = [0.0] * len(weights)
    for column, (threshold, other) in enumerate(zip(alias._threshold, alias._alias, strict=True)):
        part[column] += threshold / whole
        part[other] += 1 - threshold / whole
    for got, weight in zip(part, weights, strict=True):
        assert got / len(weights) == pytest.approx(weight / sum(weights), abs=1e-6)


@settings(max_examples=60)
@given(
    st.sampled_from(["maglev", "ring-hash"]),
    st.lists(st.floats(0.5, 4.0), min_size=2, max_size=40),
    st.integers(0, 39),
    st.booleans(),
)
def test_few_keys_move_when_one_endpoint_leaves(algorithm: str, shares: list[float], leaves: int, equal: bool) -> None:
    every = endpoints([1.0] * len(shares) if equal else shares)
    gone = every[leaves % len(every)]
    rest = tuple(each for each in every if each is not gone)
    balancer = BALANCERS[algorithm](random.Random(1))
    keys = [f"k{number}".encode() for number in range(2000)]
    balancer.prepare(every)
    before = [balancer.pick(every, key) for key in keys]
    balancer.prepare(rest)
    after = [balancer.pick(rest, key) for key in keys]
    needless = sum(1 for one, two in zip(before, after, strict=True) if one is not two and one is not gone)
    part = max(1 / len(every), gone.share / sum(each.share for each in every))
    if algorithm == "ring-hash" and equal:
        assert needless <= (0 if len(every) <= 32 else 1.5 * part * len(keys))
    elif algorithm == "ring-hash":
        assert needless <= 1.5 * part * len(keys)
    else:
        # The table is refilled, and the turns that the leaving endpoint had are dealt to the others on the way.
        assert needless <= 0.08 * len(keys)


@settings(max_examples=60)
@given(st.lists(st.integers(0, 40), max_size=8))
def test_a_round_and_a_split_deal_exactly_the_weights(weights: list[int]) -> None:
    split = Split(weights)
    total = sum(weights)
    if not total:
        assert split.next() is None
        return
    dealt = [split.next() for _ in range(total)]
    assert Counter(dealt) == {index: weight for index, weight in enumerate(weights) if weight}
    turns = build_round(weights)
    assert turns is not None
    assert total % len(turns) == 0
    # Smooth: after any number of requests nobody is ahead of or behind its part by as much as the number of backends.
    seen: Counter[int | None] = Counter()
    for number, index in enumerate(dealt, 1):
        seen[index] += 1
        for each, weight in enumerate(weights):
            assert abs(seen[each] - number * weight / total) < max(2, len(weights))


STATE = st.builds(
    Fake,
    authority=st.just("a:1"),
    weight=st.integers(1, 9),
    draining=st.booleans(),
    healthy=st.booleans(),
    ejected_until=st.sampled_from([0.0, 50.0, 150.0]),
    since=st.sampled_from([0.0, 85.0, 99.9, 100.0]),
    zone=st.sampled_from(["", "a", "b", "c"]),
    breaker=st.builds(Circuit, st.sampled_from([0.0, 0.0, 120.0])),
)
POLICY = st.builds(
    Balancing,
    zone_aware=st.booleans(),
    slow_start_s=st.sampled_from([0.0, 10.0, 30.0]),
    panic_ratio=st.sampled_from([0.01, 0.3, 0.5, 1.0]),
)


@settings(max_examples=300)
@given(st.lists(STATE, max_size=12), POLICY, st.sampled_from(["", "a", "z"]))
def test_someone_takes_requests_unless_all_are_draining(states: list[Fake], policy: Balancing, zone: str) -> None:
    live, again = available(states, policy, zone, 100.0)
    assert bool(live) == any(not each.draining for each in states)
    assert again > 100.0
    assert not any(each.draining for each in live)
    assert all(each.share > 0.0 for each in live)
    assert [each for each in states if any(each is one for one in live)] == list(live)
    if live:
        # Whatever is live can be picked from, and the answer holds: nothing changes by itself before `again`.
        just_before = min(again - 1e-6, 1e6)
        if just_before > 100.0:
            shares = [each.share for each in live]
            later, _ = available(states, policy, zone, just_before)
            assert list(later) == list(live)
            assert [each.share for each in later] == shares


@settings(max_examples=100)
@given(st.lists(STATE, min_size=1, max_size=12), st.sampled_from(["a", "b", "z"]))
def test_zones_move_requests_and_lose_none(states: list[Fake], zone: str) -> None:
    """The shares of all live endpoints are together what they would be without zones: the capacity that is there."""
    plain, _ = available(states, Balancing(panic_ratio=0.0), zone, 100.0)
    total = sum(each.share for each in plain)
    live, _ = available(states, Balancing(panic_ratio=0.0, zone_aware=True), zone, 100.0)
    moved = sum(each.share for each in live)
    if {each.zone for each in live} == {zone}:
        assert moved <= total + 1e-9
    else:
        assert moved == pytest.approx(total)
