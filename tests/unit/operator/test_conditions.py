"""Conditions: merging, order, length, and what acks add up to."""

from __future__ import annotations

import pytest
from nexus_core.problems import ObjectRef, Problem
from nexus_core.snapshot import EMPTY, Ack, Listener, Published, Route, Snapshot
from nexus_operator.publication.acks import Ledger, decode_acks, fingerprints
from nexus_operator.publication.fleets import Fleet
from nexus_operator.status.conditions import MESSAGE_LIMIT, Condition, from_problems, merge, summary
from nexus_operator.status.writes import StatusWrite, needed

WHERE = ObjectRef("NexusService", "shop", "orders")
EARLIER, NOW = "2026-01-01T00:00:00Z", "2026-02-02T00:00:00Z"


def problem(number: int = 1, fix: str = "Do that.") -> Problem:
    return Problem(WHERE, f".spec.field{number}", "InvalidSpec", "It is wrong.", fix)


def test_the_transition_time_stays_while_the_status_does() -> None:
    held = merge([], [Condition("Ready", "True", "Ready", "live on 1/1")], generation=1, now_utc=EARLIER)
    again = merge(held, [Condition("Ready", "True", "Ready", "live on 2/2")], generation=2, now_utc=NOW)
    assert again[0]["lastTransitionTime"] == EARLIER
    assert again[0]["message"] == "live on 2/2"
    assert again[0]["observedGeneration"] == 2
    changed = merge(again, [Condition("Ready", "False", "Pending")], generation=2, now_utc=NOW)
    assert changed[0]["lastTransitionTime"] == NOW


def test_conditions_of_the_crds_default_are_replaced() -> None:
    """The Gateway API's CRDs put `Unknown/Pending` with observedGeneration 0 into new Gateways."""
    pending = [
        {"type": t, "status": "Unknown", "reason": "Pending", "lastTransitionTime": EARLIER}
        for t in ("Accepted", "Programmed")
    ]
    merged = merge(pending, [Condition("Accepted", "True", "Accepted")], generation=3, now_utc=NOW)
    assert [(c["type"], c["status"], c["observedGeneration"]) for c in merged] == [("Accepted", "True", 3)]


def test_all_problems_are_shown_with_path_remedy_and_page() -> None:
    shown = from_problems(
        "Accepted", [problem(1), problem(2)], docs_base="docs/errors/", pages={"InvalidSpec": "invalid-spec.md"}
    )
    assert shown.reason == "InvalidSpec"
    assert shown.message.splitlines() == [
        ".spec.field1: It is wrong. Do that. → docs/errors/invalid-spec.md",
        ".spec.field2: It is wrong. Do that. → docs/errors/invalid-spec.md",
    ]


def test_many_and_long_problems_are_bounded() -> None:
    shown = from_problems("Accepted", [problem(n, "x" * 900) for n in range(9)], docs_base="", pages={})
    assert len(shown.message) <= MESSAGE_LIMIT
    few = from_problems("Accepted", [problem(n) for n in range(9)], docs_base="", pages={})
    assert few.message.endswith("(and 4 more)")


@pytest.mark.parametrize("reason", ["", "not CamelCase", "1st", "ends-"])
def test_a_reason_the_server_would_refuse_is_a_fault_of_ours(reason: str) -> None:
    with pytest.raises(ValueError, match="not CamelCase"):
        Condition("Ready", "True", reason)


def test_ready_is_the_worst_of_all() -> None:
    good, unknown, bad = (
        Condition("A", "True", "A"),
        Condition("B", "Unknown", "Pending"),
        Condition("C", "False", "Broken", "why"),
    )
    assert summary([good], "fine") == Condition("Ready", "True", "Ready", "fine")
    assert summary([good, unknown], "fine").status == "Unknown"
    assert summary([good, unknown, bad], "fine") == Condition("Ready", "False", "Broken", "why")


def test_a_status_is_written_only_when_it_says_something_new() -> None:
    obj = {"metadata": {"name": "a"}, "status": {"endpoints": "1/1", "other": 1}}
    assert needed([StatusWrite("NexusService", obj, {"endpoints": "1/1", "url": None})]) == ()
    assert needed([StatusWrite("NexusService", obj, {"endpoints": None})])
    assert needed([StatusWrite("NexusService", obj, {"endpoints": "2/2"})])


# --- acks ------------------------------------------------------------------------------------------------------------------


def ack(replica: str, generation: int, digest: str) -> Ack:
    return Ack(replica, generation, digest)


@pytest.mark.parametrize(
    ("acks", "text", "everywhere"),
    [
        ([], "live on 0/0 gateways, generation 5", False),
        ([("a", 7, "d7")], "live on 1/1 gateways, generation 5", True),
        ([("a", 5, "d5"), ("b", 6, "d6")], "live on 2/2 gateways, generation 5", True),
        ([("a", 4, "d4"), ("b", 7, "d7")], "live on 1/2 gateways, generation 5", False),
        # Same content under another number, before Consul lost its data.
        ([("a", 99, "d7")], "live on 1/1 gateways, generation 5", True),
        ([("a", 99, "other")], "live on 0/1 gateways, generation 5", False),
    ],
)
def test_an_object_is_live_where_its_generation_or_a_newer_one_is(
    acks: list[tuple[str, int, str]], text: str, everywhere: bool
) -> None:
    state = Fleet([ack(*a) for a in acks], {}, Published(7, "d7", EMPTY)).liveness(5)
    assert str(state) == text
    assert state.everywhere is everywhere


def world(hostname: str) -> Snapshot:
    route = Route(id="r", source="HTTPRoute shop/r", listeners=("l",), hostnames=(hostname,), rules=())
    return Snapshot(listeners=(Listener(id="l", source="Gateway shop/g", port=80),), routes=(route,))


def test_the_ledger_knows_what_changed_when() -> None:
    ledger = Ledger()
    for generation, host in enumerate(("a", "b", "b", "a"), start=1):
        ledger.record(Published(generation, host + str(generation == 3), world(host)))
    prints = fingerprints(world("a"))
    assert ledger.since("Gateway shop/g", prints["Gateway shop/g"]) == 1
    assert ledger.since("HTTPRoute shop/r", prints["HTTPRoute shop/r"]) == 4
    assert ledger.since("HTTPRoute shop/r", fingerprints(world("b"))["HTTPRoute shop/r"]) is None, (
        "not what is published"
    )
    assert ledger.since("HTTPRoute shop/none", 1) is None


def test_an_unreadable_ack_is_named_and_the_others_count() -> None:
    from nexus_core.snapshot import wire

    good, bad = decode_acks([("nexus/acks/b", wire.encode_ack(ack("b", 1, "d"))), ("nexus/acks/a", b"{")])
    assert [a.replica for a in good] == ["b"]
    assert bad[0].startswith("nexus/acks/a: ")
