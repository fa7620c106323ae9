"""The locks that gateways keep which read manifests themselves."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from pathlib import Path

import pytest
from nexus_core.marketplace.locks import Lock, RefusedRelease
from nexus_core.snapshot import Ack, PluginInstance, Release, Snapshot
from nexus_core.snapshot.acks import PluginReport
from nexus_gateway.edge.sources.locks import LocksFile, locks_of, settled

ONE, TWO = Lock("1.0", "1"), Lock("2.0", "2", (RefusedRelease("2.1", "3", "PluginRolledBack", "slow", "now"),))


def test_what_one_process_writes_another_reads(tmp_path: Path) -> None:
    path = tmp_path / "state" / "locks.json"
    here, there = LocksFile(path), LocksFile(path)
    assert (here.read(), here.stamp()) == ({}, None)
    here.update(lambda locks: {**locks, "shop/a": ONE})
    stamp = there.stamp()
    assert stamp is not None
    assert there.read() == {"shop/a": ONE}
    there.update(lambda locks: {**locks, "shop/b": TWO})
    assert here.stamp() != stamp
    assert here.read() == {"shop/a": ONE, "shop/b": TWO}
    assert [p.name for p in path.parent.iterdir() if p.name != "locks.json.lock"] == ["locks.json"]


def test_what_changes_nothing_is_not_written(tmp_path: Path) -> None:
    here = LocksFile(tmp_path / "locks.json")
    here.update(dict)
    assert here.stamp() is None


def test_a_change_begins_with_what_others_wrote_meanwhile(tmp_path: Path) -> None:
    here, there = LocksFile(tmp_path / "locks.json"), LocksFile(tmp_path / "locks.json")
    here.read()
    there.update(lambda _: {"shop/a": ONE})
    assert here.update(lambda locks: {**locks, "shop/b": TWO}) == {"shop/a": ONE, "shop/b": TWO}


@pytest.mark.parametrize("text", ["{", "[]", '{"shop/a": {"version": 1}}', "\udcff"])
def test_a_damaged_file_is_told_once_and_costs_no_lock_that_is_known(
    tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "locks.json"
    here = LocksFile(path)
    here.update(lambda _: {"shop/a": ONE})
    path.write_bytes(text.encode(errors="surrogateescape"))
    with caplog.at_level(logging.WARNING, "nexus.gateway.locks"):
        assert here.read() == here.read() == {"shop/a": ONE}
    assert len(caplog.messages) == 1
    assert "locks.json cannot be read" in caplog.messages[0]
    assert LocksFile(path).read() == {}
    assert here.update(lambda locks: {**locks, "shop/b": TWO}) == {"shop/a": ONE, "shop/b": TWO}
    assert LocksFile(path).read() == {"shop/a": ONE, "shop/b": TWO}


def test_where_nothing_can_be_written_it_is_remembered_and_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("no directory")
    here = LocksFile(tmp_path / "file" / "locks.json")
    with caplog.at_level(logging.WARNING, "nexus.gateway.locks"):
        assert here.update(lambda _: {"shop/a": ONE}) == {"shop/a": ONE}
        assert here.update(lambda locks: {**locks, "shop/b": TWO}) == {"shop/a": ONE, "shop/b": TWO}
    assert "cannot be written" in caplog.text


def test_without_a_path_it_is_in_memory() -> None:
    here = LocksFile()
    assert here.update(lambda _: {"shop/a": ONE}) == here.read() == {"shop/a": ONE}
    assert here.stamp() is None


def test_an_ack_settles_the_plugins_that_it_speaks_of() -> None:
    def plugin(name: str) -> PluginInstance:
        release = Release(name="p", version="1.0", api="", package="p", entry_point="p:P", sha256="1", url="")
        return PluginInstance(id=name, source=f"NexusPlugin {name}", release=release, public_key="")

    world = Snapshot(plugins=(plugin("shop/a"), plugin("shop/b"), plugin("shop/c")))
    reports = {"shop/a": PluginReport("loaded", "1.0"), "shop/b": PluginReport("failed", "1.0", "PluginLoadFailed")}
    ack = Ack("one", 1, "x", plugins=reports)
    at = datetime(2026, 3, 2, tzinfo=UTC)
    assert settled({"shop/c": TWO, "gone/x": ONE}, world, ack, at) == {"shop/a": ONE, "shop/c": TWO, "gone/x": ONE}


def test_another_runtime_is_asked_again_about_what_the_former_was_not_fit_for(tmp_path: Path) -> None:
    """Though nothing of the plugin is in the Snapshot: it had no other release."""
    lock = Lock("", "", (RefusedRelease("1.0", "1", "PythonIncompatible", runtimes=("old",)),))
    file = LocksFile(tmp_path / "locks")
    file.update(lambda _: {"shop/a": lock})
    at = datetime(2026, 3, 2, tzinfo=UTC)
    assert file.settle(Snapshot(), Ack("one", 1, "x", runtime="old"), at) == {"shop/a": lock}
    assert file.settle(Snapshot(), Ack("one", 1, "x", runtime="new"), at) == {"shop/a": Lock()}


def test_gateways_on_different_runtimes_that_share_the_file_come_to_an_end(tmp_path: Path) -> None:
    """A release that is for neither of them: each tries it once more, and forgives the other's refusal no more."""
    gateways = {runtime: LocksFile(tmp_path / "locks") for runtime in ("one", "other")}
    older, newer = (
        Release(name="a", version=v, api=">=1,<2", package="a", entry_point="a:A", sha256=v, url="bundled:")
        for v in ("1.0", "2.0")
    )
    at, seen = datetime(2026, 3, 2, tzinfo=UTC), []
    for _ in range(6):
        for runtime, file in gateways.items():
            tried = next(r for r in (newer, older) if file.read().get("shop/a", Lock()).refusal_of(r) is None)
            world = Snapshot(plugins=(PluginInstance(id="shop/a", source="x", release=tried, public_key=""),))
            report = PluginReport("loaded", "1.0") if tried is older else PluginReport("failed", "", "WheelInvalid")
            found = file.settle(world, Ack("g", 1, "x", plugins={"shop/a": report}, runtime=runtime), at)
            seen.append((found["shop/a"].version, [(r.version, r.runtimes) for r in found["shop/a"].refused]))
    assert seen[0] == ("", [("2.0", ("one",))])
    assert ("1.0", []) in seen, "the other one tries it, too"
    assert {str(each) for each in seen[-4:]} == {str(seen[-1])}
    assert [version for version, _ in seen[-1][1]] == ["2.0"]


def test_gateways_with_other_manifests_do_not_forget_each_others(tmp_path: Path) -> None:
    """They share a cache, and each drops the locks of plugins that its own manifests do not name."""
    shop, lab = tmp_path / "shop", tmp_path / "lab"
    shop.mkdir()
    lab.mkdir()
    (tmp_path / "link").symlink_to(shop)
    assert locks_of(shop) == locks_of(tmp_path / "lab" / ".." / "shop") == locks_of(tmp_path / "link")
    mine, others = LocksFile(tmp_path / locks_of(shop)), LocksFile(tmp_path / locks_of(lab))
    mine.update(lambda _: {"shop/a": TWO})
    others.update(lambda _: {"lab/b": ONE})
    assert (mine.read(), others.read()) == ({"shop/a": TWO}, {"lab/b": ONE})
