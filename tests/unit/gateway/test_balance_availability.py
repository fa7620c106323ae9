"""Which endpoints take requests, with what shares, until when."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import pytest
from nexus_core.snapshot import Balancing
from nexus_gateway.balance.availability import PROBE_AGAIN_S, available, is_available


@dataclass
class Circuit:
    """Open until `reopens_at`; `places` probes afterwards."""

    reopens_at: float = 0.0
    places: int = 1

    def would_allow(self, now: float) -> bool:
        return now >= self.reopens_at and self.places > 0


@dataclass(eq=False)
class Fake:
    name: str
    weight: int = 1
    draining: bool = False
    healthy: bool = True
    ejected_until: float = 0.0
    since: float = -1000.0
    zone: str = ""
    meta: tuple[tuple[str, str], ...] = ()
    breaker: Circuit = field(default_factory=Circuit)
    share: float = 0.0


DEFAULT = Balancing()


def names(states: list[Fake], policy: Balancing = DEFAULT) -> str:
    live, again = available(states, policy, "", 100.0)
    assert again > 100.0
    assert all(each.share > 0.0 for each in live)
    return "".join(each.name for each in live)


def test_draining_unhealthy_ejected_and_open_endpoints_are_left_out() -> None:
    out = [
        Fake("d", draining=True),
        Fake("u", healthy=False),
        Fake("e", ejected_until=101.0),
        Fake("o", breaker=Circuit(reopens_at=105.0)),
        Fake("h", breaker=Circuit(places=0)),
    ]
    fine = [Fake(name) for name in "abcdef"]
    assert names([*out, *fine]) == "abcdef"
    assert [is_available(each, 100.0) for each in (*out, fine[0])] == [False] * 5 + [True]


def test_a_circuit_ready_for_a_probe_and_an_ejection_that_is_over_are_in() -> None:
    assert names([Fake("a"), Fake("p", breaker=Circuit(reopens_at=100.0)), Fake("e", ejected_until=100.0)]) == "ape"


@pytest.mark.parametrize(
    ("endpoint", "again"),
    [
        (Fake("e", ejected_until=130.0), 130.0),
        (Fake("o", breaker=Circuit(reopens_at=104.0)), 104.0),
        (Fake("h", breaker=Circuit(places=0)), 100.0 + PROBE_AGAIN_S),
        (Fake("u", healthy=False), math.inf),
        (Fake("d", draining=True, ejected_until=130.0), math.inf),
    ],
)
def test_it_says_when_to_look_again(endpoint: Fake, again: float) -> None:
    assert available([Fake("a"), Fake("b"), endpoint], Balancing(), "", 100.0)[1] == again


def test_only_endpoints_with_all_pairs_are_in_a_subset() -> None:
    policy = Balancing(subset=(("stage", "canary"), ("tier", "1")))
    both = (("stage", "canary"), ("tier", "1"), ("x", "y"))
    assert names([Fake("a"), Fake("b", meta=both), Fake("c", meta=(("stage", "canary"),))], policy) == "b"
    assert names([Fake("a")], policy) == ""


# Panic.


def test_too_few_available_endpoints_bring_all_back_but_open_circuits_and_draining_ones() -> None:
    states = [
        Fake("a"),
        Fake("u", healthy=False),
        Fake("v", healthy=False),
        Fake("o", breaker=Circuit(reopens_at=105.0)),
        Fake("d", draining=True),
    ]
    assert names(states) == "auv"
    assert names(states, Balancing(panic_ratio=0.25)) == "a"
    assert names(states, Balancing(panic_ratio=0.0)) == "a"


def test_half_of_the_endpoints_is_enough() -> None:
    assert names([Fake("a"), Fake("u", healthy=False)]) == "a"


def test_when_every_circuit_is_open_all_are_returned_so_that_they_refuse() -> None:
    states = [Fake(name, breaker=Circuit(reopens_at=105.0)) for name in "ab"]
    assert names(states) == "ab"
    assert available(states, Balancing(), "", 100.0)[1] == 105.0


def test_without_a_panic_ratio_nothing_may_be_left() -> None:
    assert names([Fake("u", healthy=False)], Balancing(panic_ratio=0.0)) == ""


# Slow start.


def test_a_new_endpoint_gets_a_tenth_of_its_share_and_then_a_tenth_more_each_time() -> None:
    policy = Balancing(slow_start_s=30.0)
    new, old = Fake("n", weight=2, since=100.0), Fake("o", weight=2)
    seen = []
    now = 100.0
    while now < math.inf:
        _, again = available([new, old], policy, "", now)
        seen.append((now, round(new.share, 6)))
        assert old.share == 2.0
        assert again > now
        now = again
    assert seen == [(100.0 + 3.0 * step, round(0.2 * (step + 1), 6)) for step in range(10)]


def test_slow_start_always_looks_again_later_whatever_the_rounding() -> None:
    for number in range(1, 200):
        slow, since = number / 7, number / 3
        now, steps = since, 0
        while now < math.inf:
            now, before = available([Fake("n", since=since)], Balancing(slow_start_s=slow), "", now)[1], now
            assert now > before
            steps += 1
        assert 9 <= steps <= 11


# Zones.


def zoned(*counts: tuple[str, int]) -> list[Fake]:
    return [Fake(f"{zone}{number}", zone=zone) for zone, count in counts for number in range(count)]


ZONES = Balancing(zone_aware=True)


def loads(states: list[Fake], own: str, policy: Balancing = ZONES) -> dict[str, float]:
    """Each zone's part of the requests of a gateway in zone `own`."""
    live, _ = available(states, policy, own, 100.0)
    total = sum(each.share for each in live)
    parts: dict[str, float] = {}
    for each in live:
        parts[each.zone] = parts.get(each.zone, 0.0) + each.share / total
    return {zone: round(part, 6) for zone, part in sorted(parts.items())}


def test_a_zone_with_its_share_of_the_capacity_keeps_everything() -> None:
    assert loads(zoned(("a", 2), ("b", 2), ("c", 2)), "a") == {"a": 1.0}
    assert loads(zoned(("a", 4), ("b", 1), ("c", 1)), "a") == {"a": 1.0}


def test_a_zone_with_less_keeps_what_it_can_bear_and_the_rest_goes_where_there_is_more() -> None:
    # a has 1/6 of the capacity and receives 1/3 of the requests: it keeps half of them; only c has more than a third.
    assert loads(zoned(("a", 1), ("b", 2), ("c", 3)), "a") == {"a": 0.5, "c": 0.5}


def test_with_every_zones_gateways_doing_the_same_every_endpoint_gets_the_same() -> None:
    states = zoned(("a", 1), ("b", 2), ("c", 5), ("d", 4))
    states[3].weight = 3
    total: dict[str, float] = {}
    for own in "abcd":
        for zone, part in loads(states, own).items():
            total[zone] = total.get(zone, 0.0) + part / 4
    capacity = {"a": 1 / 14, "b": 2 / 14, "c": 7 / 14, "d": 4 / 14}
    assert {zone: pytest.approx(part, abs=1e-5) for zone, part in total.items()} == capacity


def test_lost_endpoints_of_the_own_zone_are_made_up_for_elsewhere() -> None:
    states = zoned(("a", 2), ("b", 2))
    states[0].healthy = False
    # a has 1 of 3 left, and two zones share the requests: it bears 2/3 of its own.
    assert loads(states, "a") == {"a": 0.666667, "b": 0.333333}


def test_a_gateway_in_a_zone_without_endpoints_uses_the_others() -> None:
    assert loads(zoned(("a", 1), ("b", 1)), "z") == {"a": 0.5, "b": 0.5}


def test_zones_do_not_count_in_panic_or_when_the_gateway_has_none() -> None:
    states = zoned(("a", 2), ("b", 2))
    assert loads(states, "") == {"a": 0.5, "b": 0.5}
    for each in states[:3]:
        each.healthy = False
    assert loads(states, "a") == {"a": 0.5, "b": 0.5}
