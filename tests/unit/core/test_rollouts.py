"""What becomes of a lock after what gateways say."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec
import pytest
from nexus_core.marketplace import rollouts
from nexus_core.marketplace.locks import MAX_REFUSED, MAX_RUNTIMES, Lock, RefusedRelease, config_digest, digest_of
from nexus_core.marketplace.rollouts import Said
from nexus_core.snapshot import PluginInstance, Release
from nexus_core.snapshot.acks import CandidateReport, PluginReport
from nexus_core.snapshot.plugins import Candidate, Lacking

NOW = datetime(2026, 3, 2, 12, 30, tzinfo=UTC)
OLD = PluginInstance(
    id="shop/a",
    source="NexusPlugin shop/a",
    release=Release(name="a", version="1.0", api="", package="p", entry_point="p:P", sha256="1", url=""),
    public_key="",
)
NEW = msgspec.structs.replace(OLD, release=msgspec.structs.replace(OLD.release, version="1.1", sha256="2"))
TRYING = msgspec.structs.replace(OLD, candidate=Candidate(instance=NEW))
LOCK = Lock("1.0", "1")


def settle(instance: PluginInstance, lock: Lock | None, reports: Iterable[PluginReport], now_utc: datetime) -> Lock:
    return rollouts.settle(instance, lock, [Said(each) for each in reports], now_utc)


def report(
    state: Literal["running", "passed", "refused"] | None = None, version: str = "1.1", **more: Any
) -> PluginReport:
    candidate = CandidateReport(version, state, **more) if state else None
    return PluginReport("loaded", "1.0", candidate=candidate)


def test_all_that_passed_move_the_lock() -> None:
    assert settle(TRYING, LOCK, [report("passed"), report("passed")], NOW) == Lock("1.1", "2")


@pytest.mark.parametrize(
    "reports",
    [[], [report("passed"), report("running")], [report("passed"), report()], [report("passed", version="1.0.9")]],
)
def test_the_lock_waits_for_every_gateway(reports: list[PluginReport]) -> None:
    assert settle(TRYING, LOCK, reports, NOW) == LOCK


def test_one_refusal_is_enough_and_its_words_do_not_depend_on_the_order() -> None:
    some = [report("passed"), report("refused", reason="PluginRolledBack", message="b"),
            report("refused", reason="PluginRolledBack", message="a")]  # fmt: skip
    wanted = Lock("1.0", "1", (RefusedRelease("1.1", "2", "PluginRolledBack", "a", "2026-03-02T12:30:00Z"),))
    assert settle(TRYING, LOCK, some, NOW) == settle(TRYING, LOCK, some[::-1], NOW) == wanted


def test_a_refusal_without_a_lock_locks_what_runs() -> None:
    found = settle(TRYING, None, [report("refused", reason="PluginLoadFailed")], NOW)
    assert (found.version, found.sha256, len(found.refused)) == ("1.0", "1", 1)


def test_the_first_release_is_locked_when_every_gateway_runs_it() -> None:
    assert settle(OLD, None, [report(), report()], NOW) == LOCK
    assert settle(OLD, None, [report(), PluginReport("failed", "1.0")], NOW) == Lock()
    assert settle(OLD, None, [], NOW) == Lock()


def test_without_a_canary_the_lock_follows_what_runs() -> None:
    assert settle(NEW, LOCK, [PluginReport("loaded", "1.1")], NOW) == Lock("1.1", "2")
    assert settle(NEW, LOCK, [PluginReport("previous", "1.0", "PluginLoadFailed")], NOW) == LOCK


MISFIT = PluginReport("failed", "", "PythonIncompatible", "It needs Python >=3.99.")


def test_a_first_release_that_is_not_for_the_gateways_is_refused_so_that_the_next_older_one_is_taken() -> None:
    other = PluginReport("failed", "", "PythonIncompatible", "It needs Python >=3.98.")
    wanted = Lock(refused=(RefusedRelease("1.0", "1", "PythonIncompatible", other.message, "2026-03-02T12:30:00Z"),))
    assert settle(OLD, None, [MISFIT, report(), other], NOW) == settle(OLD, None, [other, MISFIT], NOW) == wanted
    assert settle(OLD, wanted, [MISFIT], NOW) == wanted


@pytest.mark.parametrize(
    "reason", ["PluginSignatureInvalid", "PluginDigestMismatch", "PluginConfigInvalid", "PluginFetchFailed"]
)
def test_a_first_release_with_another_fault_is_waited_for(reason: str) -> None:
    assert settle(OLD, None, [PluginReport("failed", "", reason, "x")], NOW) == Lock()


def test_a_locked_release_is_not_refused_by_a_gateway_that_cannot_run_it() -> None:
    assert settle(OLD, LOCK, [MISFIT], NOW) == LOCK


def test_without_a_canary_a_misfit_is_taken_back() -> None:
    said = PluginReport("previous", "1.0", "PythonIncompatible", "It needs Python >=3.99.")
    found = settle(NEW, LOCK, [said], NOW)
    assert (found.version, [r.version for r in found.refused]) == ("1.0", ["1.1"])


def test_a_misfit_is_noted_with_the_runtimes_that_it_is_not_for() -> None:
    refused = CandidateReport("1.1", "refused", "PythonIncompatible", "x")
    for instance, lock, misfit in (
        (OLD, None, MISFIT),
        (TRYING, LOCK, PluginReport("loaded", "1.0", candidate=refused)),
    ):
        words = [Said(misfit, "b"), Said(misfit, "a"), Said(misfit, "a"), Said(report("passed"), "c")]
        found = rollouts.settle(instance, lock, words, NOW)
        assert [each.runtimes for each in found.refused] == [("a", "b")]
        silent = rollouts.settle(instance, lock, [*words, Said(misfit)], NOW)
        assert [each.runtimes for each in silent.refused] == [()], "one does not say what it runs on"
        many = rollouts.settle(instance, lock, [Said(misfit, str(each)) for each in range(MAX_RUNTIMES + 1)], NOW)
        assert [each.runtimes for each in many.refused] == [()]


def test_what_failed_on_traffic_is_noted_without() -> None:
    failed = PluginReport("loaded", "1.0", candidate=CandidateReport("1.1", "refused", "PluginRolledBack", "x"))
    misfit = PluginReport("loaded", "1.0", candidate=CandidateReport("1.1", "refused", "PythonIncompatible", "x"))
    for words in ([Said(failed, "a")], [Said(misfit, "a"), Said(failed, "b")]):
        assert [each.runtimes for each in rollouts.settle(TRYING, LOCK, words, NOW).refused] == [()]


@pytest.mark.parametrize(
    ("runtimes", "kept"),
    [
        ({"c"}, ["1.1"]),
        ({"a", "c"}, ["1.1", "1.2"]),
        ({"b"}, ["1.1", "1.2"]),
        (set(), ["1.1", "1.2"]),
        ({"c", ""}, ["1.1", "1.2"]),
    ],
)
def test_a_misfit_is_forgiven_when_no_gateway_runs_on_what_refused_it(runtimes: set[str], kept: list[str]) -> None:
    lock = Lock(
        "1.0", "1", (RefusedRelease("1.1", "2", "PluginRolledBack"), RefusedRelease("1.2", "3", runtimes=("a", "b")))
    )
    assert [each.version for each in lock.upgraded(runtimes).refused] == kept


def test_a_lock_remembers_the_newest_refusals_and_each_once() -> None:
    lock = Lock("1", "1")
    for number in range(MAX_REFUSED + 3):
        lock = lock.refusing(RefusedRelease(str(number), "x"))
    assert [r.version for r in lock.refused] == [str(n) for n in range(3, MAX_REFUSED + 3)]
    again = lock.refusing(RefusedRelease("5", "x", message="again"))
    assert len(again.refused) == MAX_REFUSED
    assert again.refused[-1].message == "again"
    assert again.forgiven() == Lock("1", "1")


def test_a_lock_is_of_a_release_by_version_and_digest() -> None:
    assert LOCK.is_of(OLD.release)
    assert not LOCK.is_of(NEW.release)
    assert not Lock("1.0", "another").is_of(OLD.release)
    assert Lock("1.0").is_of(OLD.release)
    assert not Lock().is_of(OLD.release)


def test_a_release_that_refused_its_configuration_is_refused_with_that_one_alone() -> None:
    """Whoever mends the configuration need not switch the plugin off and on again."""
    lock = settle(TRYING, LOCK, [report("refused", reason="PluginConfigInvalid")], NOW)
    assert lock.with_config(digest_of(NEW)).refusal_of(NEW.release) is not None
    assert lock.with_config(config_digest({})).refusal_of(NEW.release) is not None
    assert lock.with_config(config_digest({"a": 1})).refusal_of(NEW.release) is None
    mended = msgspec.structs.replace(NEW, config='{"a":1}')
    again = msgspec.structs.replace(OLD, candidate=Candidate(instance=mended))
    assert settle(again, lock, [report("passed")], NOW) == Lock("1.1", "2"), "what runs is refused no more"
    worse = settle(again, lock, [report("refused", reason="PluginRolledBack")], NOW)
    assert len(worse.refused) == 1
    assert worse.with_config(config_digest({"a": 2})).refusal_of(NEW.release) is not None, "it refuses any"


@pytest.mark.parametrize("said", [PluginReport("failed", "", "PluginIncompatible"), PluginReport("loaded", "")])
def test_a_plugin_that_lacks_a_release_moves_no_lock(said: PluginReport) -> None:
    release = Release(name="a", version="", api="", package="", entry_point="", sha256="", url="")
    lacking = msgspec.structs.replace(OLD, release=release, lacking=Lacking("PluginNotFound", "It is nowhere."))
    assert settle(lacking, LOCK, [said], NOW) == LOCK
    assert settle(lacking, None, [said], NOW) == Lock()
