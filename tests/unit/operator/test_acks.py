"""What the gateways' acks add up to, also of gateways with several workers."""

from __future__ import annotations

import pytest
from nexus_core.snapshot import Ack, PluginReport, Published, Snapshot
from nexus_operator.publication.acks import reports_of
from nexus_operator.publication.fleets import Fleet, Replica

CURRENT = Published(42, "new", Snapshot())


@pytest.mark.parametrize(
    ("acks", "live", "total"),
    [
        ([], 0, 0),
        ([("gw-1", 42), ("gw-2", 42)], 2, 2),
        ([("gw-1", 42), ("gw-2", 41)], 1, 2),
        ([("gw-1~0", 42), ("gw-1~1", 42), ("gw-2~0", 42), ("gw-2~1", 42)], 2, 2),
        ([("gw-1~0", 42), ("gw-1~1", 41), ("gw-2", 42)], 1, 2),
        ([("gw-1~1", 41), ("gw-1~0", 42)], 0, 1),
        ([("gw-1", 43)], 0, 1),
    ],
)
def test_a_gateway_is_live_when_all_its_workers_are(acks: list[tuple[str, int]], live: int, total: int) -> None:
    found = Fleet([Ack(name, number, f"digest-{number}") for name, number in acks], {}, CURRENT).liveness(42)
    assert (found.live, found.total) == (live, total)


def test_equal_content_counts_whatever_its_number() -> None:
    assert Fleet([Ack("gw-1~0", 7, "new"), Ack("gw-1~1", 42, "x")], {}, CURRENT).liveness(42).everywhere


@pytest.mark.parametrize(
    ("gateway", "live", "total"),
    [("shop/a", 1, 2), ("shop/b", 2, 2), ("shop/c", 1, 1)],
)
def test_a_gateways_own_processes_count_and_those_that_serve_all(gateway: str, live: int, total: int) -> None:
    acks = [
        Ack("a-1", 41, "old", gateway="shop/a"),
        Ack("b-1", 42, "new"),  # of a release that does not say which: its pod does
        Ack("somewhere", 42, "new"),
    ]
    fleet = Fleet(acks, {"b-1": Replica("shop/b", ready=True)}, CURRENT)
    found = fleet.liveness(42, frozenset({gateway}))
    assert (found.live, found.total) == (live, total)


def test_a_pod_that_takes_traffic_and_is_silent_keeps_the_others_from_being_everywhere() -> None:
    """It has lost Consul and serves what it has: a request that meets it would not find what is new."""
    ack = Ack("a-1", 42, "new", gateway="shop/a")
    silent = Fleet([ack], {"a-1": Replica("shop/a", True), "a-2": Replica("shop/a", True)}, CURRENT)
    assert not silent.liveness(42, frozenset({"shop/a"})).everywhere
    assert not silent.liveness(42).everywhere
    starting = Fleet([ack], {"a-1": Replica("shop/a", True), "a-2": Replica("shop/a", False)}, CURRENT)
    assert starting.liveness(42, frozenset({"shop/a"})).everywhere


def test_a_listener_that_one_process_could_not_open_is_told_for_its_gateway_alone() -> None:
    ack = Ack("a-1", 42, "new", gateway="shop/a", listeners={"shop/a/http": "Port 80 is taken."})
    fleet = Fleet([ack], {}, CURRENT)
    assert fleet.unopened("shop/a") == {"shop/a/http": "Port 80 is taken."}
    assert fleet.unopened("shop/b") == {}


def test_of_several_workers_the_one_that_cannot_run_a_plugin_speaks() -> None:
    def ack(name: str, state: str | None) -> Ack:
        return Ack(name, 42, "new", plugins={} if state is None else {"shop/key": PluginReport(state, message=name)})

    acks = [ack("a~0", "loaded"), ack("a~1", "failed"), ack("b~0", "loaded"), ack("b~1", None), ack("c", "loaded")]
    for given in (acks, acks[::-1]):
        found = {gateway: report.state if report else None for gateway, report in reports_of(given, "shop/key")}
        assert found == {"a": "failed", "b": None, "c": "loaded"}
