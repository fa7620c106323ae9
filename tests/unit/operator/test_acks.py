"""What the gateways' acks add up to, also of gateways with several workers."""

from __future__ import annotations

import pytest
from nexus_core.snapshot import Ack, PluginReport, Published, Snapshot
from nexus_operator.publication.acks import liveness, reports_of

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
    found = liveness([Ack(name, generation, f"digest-{generation}") for name, generation in acks], 42, CURRENT)
    assert (found.live, found.total) == (live, total)


def test_equal_content_counts_whatever_its_number() -> None:
    assert liveness([Ack("gw-1~0", 7, "new"), Ack("gw-1~1", 42, "x")], 42, CURRENT).everywhere


def test_of_several_workers_the_one_that_cannot_run_a_plugin_speaks() -> None:
    def ack(name: str, state: str | None) -> Ack:
        return Ack(name, 42, "new", plugins={} if state is None else {"shop/key": PluginReport(state, message=name)})

    acks = [ack("a~0", "loaded"), ack("a~1", "failed"), ack("b~0", "loaded"), ack("b~1", None), ack("c", "loaded")]
    for given in (acks, acks[::-1]):
        found = {gateway: report.state if report else None for gateway, report in reports_of(given, "shop/key")}
        assert found == {"a": "failed", "b": None, "c": "loaded"}
