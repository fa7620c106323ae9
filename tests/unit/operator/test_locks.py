"""Locks of plugins: what gateways say moves them, what a status says is never lost."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec
from nexus_core.marketplace.locks import Lock, RefusedRelease
from nexus_core.snapshot import Ack, PluginInstance, PluginReport, Published, Release, Snapshot
from nexus_core.snapshot.acks import CandidateReport
from nexus_core.snapshot.plugins import Candidate
from nexus_operator.publication.locks import Locks, parse_lock, show_lock

NOW = datetime(2026, 2, 2, tzinfo=UTC)


def release(version: str) -> Release:
    return Release(
        name="key", version=version, api=">=1,<2", package="p", entry_point="p:P", sha256=version * 4, url="x"
    )


def instance(version: str, candidate: str = "") -> PluginInstance:
    def of(v: str, tried: Candidate | None = None) -> PluginInstance:
        return PluginInstance(
            id="shop/key", source="NexusPlugin shop/key", release=release(v), public_key="", candidate=tried
        )

    return of(version, Candidate(instance=of(candidate)) if candidate else None)


def published(*plugins: PluginInstance) -> Published:
    return Published(7, "now", Snapshot(plugins=plugins))


def ack(replica: str, version: str, candidate: str = "", state: Any = "running", digest: str = "now") -> Ack:
    tried = CandidateReport(candidate, state, "PluginRolledBack", "It failed.") if candidate else None
    return Ack(replica, 7, digest, plugins={"shop/key": PluginReport("loaded", version, candidate=tried)})


def plugin(uid: str = "u", **lock: Any) -> dict[str, Any]:
    return {"metadata": {"namespace": "shop", "name": "key", "uid": uid}, "status": {"lock": lock} if lock else {}}


def locks(*objects: dict[str, Any]) -> Locks:
    found = Locks()
    found.take(objects)
    return found


def settled(found: Locks, what: Published, *acks: Ack) -> Lock | None:
    return next((lock for _, _, lock in found.settled(what, acks, NOW)), None)


def test_the_first_release_is_locked_when_every_replica_runs_it() -> None:
    found = locks(plugin())
    assert settled(found, published(instance("1.0")), ack("a", "1.0"), ack("b", "0.9")) is None
    lock = settled(found, published(instance("1.0")), ack("a", "1.0"), ack("b", "1.0"))
    assert lock == Lock("1.0", release("1.0").sha256)


def test_a_candidate_takes_over_when_it_passed_everywhere_in_this_snapshot() -> None:
    found = locks(plugin(version="1.0", sha256=release("1.0").sha256))
    tried = published(instance("1.0", "1.1"))
    assert settled(found, tried, ack("a", "1.0", "1.1", "passed"), ack("b", "1.0", "1.1")) is None
    late = ack("b", "1.0", "1.1", "passed", digest="before")
    assert settled(found, tried, ack("a", "1.0", "1.1", "passed"), late) is None, "of another Snapshot"
    lock = settled(found, tried, ack("a", "1.0", "1.1", "passed"), ack("b", "1.0", "1.1", "passed"))
    assert lock is not None
    assert lock.version == "1.1"


def test_one_refusal_refuses_and_is_noted_once() -> None:
    found = locks(plugin(version="1.0", sha256=release("1.0").sha256))
    tried = published(instance("1.0", "1.1"))
    lock = settled(found, tried, ack("a", "1.0", "1.1", "passed"), ack("b", "1.0", "1.1", "refused"))
    assert lock is not None
    [refused] = lock.refused
    assert (refused.version, refused.reason, lock.version) == ("1.1", "PluginRolledBack", "1.0")
    found.put("shop/key", lock)
    assert settled(found, tried, ack("b", "1.0", "1.1", "refused")) is None, "each round would write another time"


def test_what_a_status_refused_stays_refused_whoever_leads() -> None:
    shown = {"version": "1.1", "sha256": "a", "reason": "R", "message": "m", "at": "t"}
    found = locks(plugin(version="1.0", sha256="s"))
    found.take([plugin(version="1.0", sha256="s", refused=[shown])])
    assert [r.version for r in found.current["shop/key"].refused] == ["1.1"]
    found.take([plugin(version="1.0", sha256="s")])  # somebody's older write
    assert [r.version for r in found.current["shop/key"].refused] == ["1.1"]


def test_an_object_that_is_made_anew_begins_anew() -> None:
    found = locks(plugin(version="1.0", sha256="s"))
    found.take([plugin("other")])
    assert not found.current
    found.take([])
    found.put("shop/key", Lock("1.0"))
    assert not found.current, "what is gone is not known again by a write that came late"


def test_a_lock_is_read_as_it_is_shown() -> None:
    lock = Lock("1.0", "s", (RefusedRelease("1.1", "t", "PluginRolledBack", "m", "2026-02-02T00:00:00Z", "c", ("a",)),))
    assert parse_lock({**show_lock(lock), "dependencies": [], "wheels": []}) == lock
    assert parse_lock({"version": 3, "refused": [1, {}]}) == Lock()
    assert parse_lock("x") == Lock()


def test_plugins_that_are_no_objects_any_more_are_not_settled() -> None:
    assert settled(locks(), published(instance("1.0")), ack("a", "1.0")) is None
    assert not list(locks(plugin()).settled(None, [], NOW))


def test_switching_off_forgives_what_was_refused() -> None:
    shown = {"version": "1.1", "sha256": "a", "reason": "R", "message": "m", "at": "t"}
    found = locks({**plugin(version="1.0", sha256="s", refused=[shown]), "spec": {"enabled": False}})
    lock = settled(found, published(instance("1.0")), ack("a", "1.0"))
    assert lock == Lock("1.0", "s")
    found.put("shop/key", Lock("1.0", "s"))
    assert settled(found, published(instance("1.0")), ack("a", "1.0")) is None


def test_a_release_that_was_not_for_gateways_of_before_is_tried_again() -> None:
    """Also one that was the only release, so that nothing of the plugin is published."""
    shown = {
        "version": "1.1",
        "sha256": "a",
        "reason": "PythonIncompatible",
        "message": "m",
        "at": "t",
        "runtimes": ["old"],
    }
    old, new = (
        msgspec.structs.replace(ack("a", "1.0"), runtime="old"),
        msgspec.structs.replace(ack("b", "1.0"), runtime="new"),
    )
    found = locks(plugin(version="1.0", sha256=release("1.0").sha256, refused=[shown]))
    for what in (published(instance("1.0")), published()):
        assert settled(found, what, old, new) is None
        assert settled(found, what, new) == Lock("1.0", release("1.0").sha256)
    assert settled(found, published()) is None, "nobody says anything"


def test_a_candidate_with_a_mended_configuration_is_heard_again() -> None:
    refused = RefusedRelease("1.1", release("1.1").sha256, "PluginConfigInvalid", config="of the former configuration")
    lock = Lock("1.0", release("1.0").sha256, (refused,))
    assert parse_lock(show_lock(lock)) == lock
    found = locks(plugin(**show_lock(lock)))
    assert settled(found, published(instance("1.0", "1.1")), ack("a", "1.0", "1.1", "passed")) == Lock(
        "1.1", release("1.1").sha256
    )
