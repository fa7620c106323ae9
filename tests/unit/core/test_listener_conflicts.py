"""Who gets a port, and whose host names meet."""

from __future__ import annotations

import random

import pytest
from nexus_core.problems import ObjectRef
from nexus_core.snapshot.listeners import Protocol
from nexus_core.translate.hostnames import covers
from nexus_core.translate.listener_conflicts import Claim, Claims, overlaps

GATEWAY = ObjectRef("Gateway", "infra", "web")
OLD, YOUNG = ObjectRef("ListenerSet", "infra", "old"), ObjectRef("ListenerSet", "infra", "young")
Row = tuple[Protocol, int, str]


def check(rows: list[list[Row]], expected: list[list[str]]) -> None:
    """rows: what each owner asks for, by precedence. expected: the reason for each, empty for what it gets."""
    claims = Claims()
    for owner, asked, wanted in zip((GATEWAY, OLD, YOUNG), rows, expected, strict=False):
        made = [Claim(owner, f"[{n}]", f"l{n}", port, protocol, name) for n, (protocol, port, name) in enumerate(asked)]
        refused = claims.admit(made)
        assert [refused[c.path].reason if c.path in refused else "" for c in made] == wanted
        for problem in refused.values():
            assert problem.where == owner


H, P = "HostnameConflict", "ProtocolConflict"


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ([("HTTP", 80, ""), ("HTTP", 80, "a"), ("HTTP", 81, "")], ["", "", ""]),
        ([("HTTP", 80, "a"), ("HTTP", 80, "a")], [H, H]),
        ([("HTTP", 80, "a"), ("HTTPS", 80, "b")], [P, P]),
        ([("HTTP", 80, "a"), ("HTTP", 80, "b"), ("TCP", 80, "")], [P, P, P]),
        ([("HTTPS", 443, "a"), ("TLS", 443, "b")], ["", ""]),
        ([("HTTPS", 443, "a"), ("TLS", 443, "a"), ("TLS", 443, "b")], [P, P, ""]),
        ([("TLS", 443, ""), ("TLS", 443, "")], [H, H]),
        ([("TCP", 53, ""), ("UDP", 53, "")], ["", ""]),
        ([("TCP", 53, ""), ("TCP", 53, "")], [P, P]),
        ([("UDP", 53, ""), ("UDP", 53, ""), ("HTTP", 53, "")], [P, P, ""]),
    ],
)
def test_of_one_object_none_of_those_in_conflict_is_accepted(asked: list[Row], expected: list[str]) -> None:
    check([asked], [expected])


def test_what_came_first_keeps_its_port_and_names() -> None:
    check(
        [
            [("HTTP", 80, "a")],
            [("HTTP", 80, "a"), ("HTTP", 80, "b"), ("TCP", 80, ""), ("TCP", 81, "")],
            [("HTTP", 80, "b"), ("HTTP", 80, "c"), ("HTTP", 81, ""), ("UDP", 80, "")],
        ],
        [[""], [H, "", P, ""], [H, "", P, ""]],
    )


def test_those_in_conflict_among_themselves_leave_the_place_to_later_ones() -> None:
    check([[("HTTP", 80, "a"), ("HTTP", 80, "a")], [("TCP", 80, "")]], [[H, H], [""]])


def test_overlaps_are_those_that_comparing_all_pairs_finds() -> None:
    names = ["", "*.example", "*.a.example", "a.example", "b.a.example", "*.b.a.example", "x.test", "*.test", "example"]
    rng = random.Random(5)
    for _ in range(50):
        asked = [(f"l{n}", rng.choice((1, 2)), rng.choice(names)) for n in range(rng.randrange(8))]
        expected = {
            one
            for one, port, name in asked
            for _, other_port, other in asked
            if port == other_port and name != other and (_covers(name, other) or _covers(other, name))
        }
        assert set(overlaps(asked)) == expected


def _covers(wide: str, narrow: str) -> bool:
    return not wide or covers(wide, narrow)
