"""Locks that several workers share: a candidate takes over when it has passed in each, and is gone when one refuses it."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest
from nexus_core.marketplace.locks import Lock
from nexus_core.snapshot import Ack, PluginInstance, Release, Snapshot
from nexus_core.snapshot.acks import CandidateReport, PluginReport
from nexus_core.snapshot.plugins import Candidate
from nexus_gateway.edge.sources.locks import LocksFile

NOW = datetime(2026, 3, 2, tzinfo=UTC)
OLD = PluginInstance(
    id="shop/a",
    source="NexusPlugin shop/a",
    release=Release(name="a", version="1.0", api="", package="p", entry_point="p:P", sha256="1", url=""),
    public_key="",
)


def trying(version: str = "1.1", sha256: str = "2") -> Snapshot:
    release = msgspec.structs.replace(OLD.release, version=version, sha256=sha256)
    tried = Candidate(instance=msgspec.structs.replace(OLD, release=release))
    return Snapshot(plugins=(msgspec.structs.replace(OLD, candidate=tried),))


def says(state: str, version: str = "1.1") -> Ack:
    report = CandidateReport(version, state, reason="PluginRolledBack" if state == "refused" else "")  # type: ignore[arg-type]
    return Ack("one", 1, "d", plugins={"shop/a": PluginReport("loaded", "1.0", candidate=report)})


@pytest.fixture
def workers(tmp_path: Path) -> list[LocksFile]:
    found = [LocksFile(tmp_path / "locks.json", worker=each, workers=3) for each in range(3)]
    found[0].update(lambda _: {"shop/a": Lock("1.0", "1")})
    return found


def version_of(locks: dict[str, Lock]) -> tuple[str, int]:
    return locks["shop/a"].version, len(locks["shop/a"].refused)


def test_a_candidate_takes_over_when_it_has_passed_in_every_worker(workers: list[LocksFile]) -> None:
    said = [version_of(workers[each].settle(trying(), says("passed"), NOW)) for each in (2, 0, 0, 2, 1)]
    assert said == [("1.0", 0)] * 4 + [("1.1", 0)]
    assert version_of(workers[0].read()) == ("1.1", 0)


def test_one_worker_that_refuses_later_is_enough(workers: list[LocksFile]) -> None:
    for each in (0, 1):
        assert version_of(workers[each].settle(trying(), says("passed"), NOW)) == ("1.0", 0)
    assert version_of(workers[2].settle(trying(), says("refused"), NOW)) == ("1.0", 1)
    assert version_of(workers[0].settle(trying(), says("passed"), NOW)) == ("1.0", 1), "who is late changes nothing"


def test_a_release_that_is_tried_anew_has_to_pass_anew(workers: list[LocksFile]) -> None:
    for each in (0, 1):
        workers[each].settle(trying(), says("passed"), NOW)
    workers[2].settle(trying(), says("refused"), NOW)
    workers[0].settle(trying(), says("passed"), NOW)
    workers[0].update(lambda locks: {"shop/a": locks["shop/a"].forgiven()})
    said = [version_of(workers[each].settle(trying(), says("passed"), NOW)) for each in (2, 1, 0)]
    assert said == [("1.0", 0), ("1.0", 0), ("1.1", 0)]


def test_what_passed_of_another_release_does_not_count(workers: list[LocksFile]) -> None:
    for each in (0, 1):
        workers[each].settle(trying(), says("passed"), NOW)
    other = trying("1.2", "3")
    said = [version_of(workers[each].settle(other, says("passed", "1.2"), NOW)) for each in (2, 1, 0)]
    assert said == [("1.0", 0), ("1.0", 0), ("1.2", 0)]
    assert workers[1].settle(other, says("passed"), NOW) == workers[0].read(), "of a version that is not tried"


def test_one_worker_alone_decides(tmp_path: Path) -> None:
    alone = LocksFile(tmp_path / "locks.json")
    assert version_of(alone.settle(trying(), says("passed"), NOW)) == ("1.1", 0)
