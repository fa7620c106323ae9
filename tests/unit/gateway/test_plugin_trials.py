"""Which requests a candidate gets, and what becomes of it: tables of numbers, and no plugin."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nexus_core.snapshot import Budgets, Candidate, PluginInstance, PluginReport, Release
from nexus_gateway.edge.plugins.meters import Meter
from nexus_gateway.edge.plugins.trials import Seen, Trial, judge

RELEASE = Release(
    name="demo", version="2.0", api=">=1,<2", package="demo", entry_point="demo:Demo", sha256="", url="demo.zip"
)
INSTANCE = PluginInstance(id="shop/demo", source="NexusPlugin shop/demo", release=RELEASE, public_key="")


def terms(**fields: Any) -> Candidate:
    return Candidate(instance=INSTANCE, **fields)


GOOD = Seen(calls=900, seconds=0.9, requests=900)
CASES: dict[str, tuple[Seen, Seen, float, str | None]] = {
    # name: (stable, candidate, elapsed of 30 s, how the verdict begins)
    "nothing yet": (Seen(), Seen(), 1.0, None),
    "no traffic, and time is over": (Seen(), Seen(), 30.0, "passed"),
    "good, and time is not over": (GOOD, Seen(100, 0, 0.1, 100, 0), 29.9, None),
    "good, and time is over": (GOOD, Seen(100, 0, 0.1, 100, 0), 30.0, "passed"),
    "its first calls all fail": (GOOD, Seen(20, 20, 0.02, 0, 0), 0.1, "All of its 20 calls failed."),
    "its first calls all fail, as the running version's do": (
        Seen(900, 900, 0.9, 900, 0), Seen(20, 20, 0.02, 20, 0), 0.1, "All of its 20 calls failed.",
    ),
    "fewer fail than are judged": (GOOD, Seen(19, 19, 0.02, 19, 0), 1.0, None),
    "too few to judge by shares, but most failed": (GOOD, Seen(3, 2, 0.1, 3, 0), 30.0, "2 of its 3 calls failed."),
    "too few to judge, and few failed": (GOOD, Seen(3, 1, 0.1, 3, 0), 30.0, "passed"),
    "as many points more fail as may not": (GOOD, Seen(100, 5, 0.1, 100, 0), 1.0, "5 % of its 100 calls failed, and 0 %"),
    "fewer points more fail": (GOOD, Seen(100, 4, 0.1, 100, 0), 30.0, "passed"),
    "both fail alike": (Seen(900, 300, 0.9, 900, 0), Seen(100, 34, 0.1, 100, 0), 30.0, "passed"),
    "it fails less": (Seen(900, 300, 0.9, 900, 0), Seen(100, 1, 0.1, 100, 0), 30.0, "passed"),
    "no call failed, of a limit of nothing": (GOOD, Seen(100, 0, 0.1, 100, 0), 30.0, "passed"),
    "its requests end in 5xx": (GOOD, Seen(20, 0, 0.02, 20, 10), 0.1, "50 % of its 20 requests were answered with 5xx"),
    "so do the running version's": (Seen(900, 0, 0.9, 900, 450), Seen(100, 0, 0.1, 100, 52), 30.0, "passed"),
    "one 5xx in twenty is chance, where one in a hundred is usual": (
        Seen(900, 0, 0.9, 900, 9), Seen(20, 0, 0.02, 20, 1), 30.0, "passed",
    ),
    "five in a hundred more are none": (Seen(900, 0, 0.9, 900, 9), Seen(200, 0, 0.2, 200, 13), 1.0, "6.5 % of its 200"),
    "nothing to compare 5xx with": (Seen(), Seen(0, 0, 0.0, 20, 20), 1.0, "100 % of its 20 requests"),
    "its calls take longer": (GOOD, Seen(20, 0, 1.1, 20, 0), 1.0, "Its calls took 55 ms on average, and the running version's 1 ms"),
    "a little longer": (GOOD, Seen(20, 0, 0.9, 20, 0), 30.0, "passed"),
    "both take long": (Seen(900, 0, 900.0, 900, 0), Seen(20, 0, 20.5, 20, 0), 30.0, "passed"),
    "no call to compare with": (Seen(requests=9), Seen(20, 0, 20.0, 20, 0), 30.0, "passed"),
    "its requests are many, its calls few": (GOOD, Seen(2, 2, 0.1, 50, 50), 1.0, "100 % of its 50 requests"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_verdicts(name: str) -> None:
    stable, candidate, elapsed_s, begins = CASES[name]
    verdict = judge(stable, candidate, terms(), elapsed_s)
    if begins is None:
        assert verdict is None
    elif begins == "passed":
        assert verdict is not None
        assert (verdict.state, verdict.message) == ("passed", "")
    else:
        assert verdict is not None
        assert verdict.state == "refused"
        assert verdict.message.startswith(begins), verdict.message


@given(st.integers(0, 400), st.integers(0, 400), st.floats(0.0, 100.0))
def test_equal_versions_that_fail_seldom_enough_always_pass(calls: int, requests: int, elapsed_s: float) -> None:
    stable = Seen(9 * calls, 0, 0.009 * calls, 9 * requests, 0)
    verdict = judge(stable, Seen(calls, 0, 0.001 * calls, requests, 0), terms(), elapsed_s)
    assert (verdict.state if verdict is not None else None) == ("passed" if elapsed_s >= 30.0 else None)


@dataclass(eq=False)
class Side:
    """What a trial needs of a slot."""

    version: str
    meter: Meter = field(default_factory=lambda: Meter(Budgets(), 0.0))
    running: Any = None

    def __post_init__(self) -> None:
        self.report = PluginReport("loaded", self.version)
        self.instance = INSTANCE


class Held:
    """What a trial needs of a plugin that runs."""

    def __init__(self) -> None:
        self.users = 0

    def acquire(self) -> None:
        self.users += 1

    async def release(self) -> None:
        self.users -= 1


class Bench:
    def __init__(self, **fields: Any) -> None:
        self.stable, self.candidate = Side("1.0"), Side("2.0", running=Held())
        self.told: list[tuple[str, bool]] = []
        self.trial = Trial(self.stable, self.candidate, terms(**fields), 0.0, self._take)  # type: ignore[arg-type]
        self.trial.begin(0.0)

    def _take(self, trial: Trial) -> None:
        self.told.append((trial.report.state, trial.is_over))

    def exchange(self, status: int = 200, *, failed: bool = False) -> str:
        """Have one exchange come and go; return the version that it got."""
        slot: Any = self.trial.turn()
        slot.meter.count("on_request", 0.001, 0.001)
        if failed and slot is self.candidate:
            slot.meter.failed(1.0, "on_request", "ValueError: no")
        self.trial.ended(slot, status if slot is self.candidate else 200, 0.01)
        return str(slot.version)


def state(trial: Trial) -> str:
    return trial.report.state


@pytest.mark.parametrize(
    ("percent", "whole", "share"),
    [(10.0, 1000, 100), (1.0, 1000, 10), (0.5, 1000, 5), (50.0, 100, 50), (33.33, 10_000, 3333), (100.0, 50, 50), (0.0, 500, 0)],
)  # fmt: skip
def test_the_share_is_exact(percent: float, whole: int, share: int) -> None:
    bench = Bench(percent=percent)
    assert [bench.exchange() for _ in range(whole)].count("2.0") == share


def test_it_passes_when_its_time_is_over_and_keeps_its_share() -> None:
    bench = Bench(percent=50.0)
    for _ in range(100):
        bench.exchange()
    bench.trial.look(29.9)
    assert state(bench.trial) == "running"
    bench.trial.look(30.0)
    assert (bench.trial.report.state, bench.trial.report.version) == ("passed", "2.0")
    assert [bench.exchange() for _ in range(10)].count("2.0") == 5, "the Snapshot switches, not the gateway"
    assert bench.told == [("passed", False)]


def test_it_is_refused_with_the_call_that_shows_it_and_gets_nothing_more() -> None:
    bench = Bench(percent=50.0, min_calls=10)
    given = [bench.exchange(failed=True) for _ in range(100)]
    assert given.count("2.0") == 10
    report = bench.trial.report
    assert (report.state, report.reason) == ("refused", "PluginRolledBack")
    assert (
        report.message
        == "All of its 10 calls failed. The last: on_request: ValueError: no. All requests are with version 1.0 again."
    )
    assert bench.told == [("refused", False), ("refused", True)], "over with its last exchange"


def test_it_is_refused_for_answers_too() -> None:
    bench = Bench(percent=50.0, min_calls=10)
    assert [bench.exchange(503) for _ in range(100)].count("2.0") == 10
    assert "answered with 5xx" in bench.trial.report.message
    assert bench.told == [("refused", True)]


def test_a_last_word_is_one() -> None:
    bench = Bench(percent=50.0)
    bench.trial.look(30.0)
    for _ in range(200):
        bench.exchange(503, failed=True)
    bench.trial.look(60.0)
    assert state(bench.trial) == "passed"
    bench.trial.refuse("It went beyond its budget.")
    assert state(bench.trial) == "refused", "unless it had to be closed"


async def test_a_candidate_is_held_until_its_last_exchange() -> None:
    bench = Bench(percent=100.0, min_calls=5)
    bench.trial.hold()
    bench.trial.hold()
    slow = [bench.trial.turn() for _ in range(3)]
    bench.trial.refuse("x")
    assert not bench.trial.is_over
    for slot in slow[:2]:
        bench.trial.ended(slot, 200, 1.0)
    assert not bench.trial.is_over
    bench.trial.ended(slow[2], 200, 1.0)
    assert bench.trial.is_over
    assert bench.candidate.running.users == 2
    await bench.trial.stop()
    assert bench.candidate.running.users == 0
    await bench.trial.release()
    bench.trial.hold()
    assert bench.candidate.running.users == 0, "nobody holds what is over"


async def test_a_verdict_while_the_next_snapshot_is_being_loaded_holds_in_it() -> None:
    """The former trial goes on until then, and a candidate that it gives up is stopped: nobody may be sent there any more."""
    bench = Bench(percent=100.0, min_calls=5)
    bench.trial.hold()
    bench.trial.begin(0.0)
    later = Trial(bench.stable, bench.candidate, terms(percent=100.0), 1.0, lambda _: None)  # type: ignore[arg-type]
    later.go_on_from(bench.trial)
    bench.trial.refuse("It holds too much memory.")
    assert bench.trial.is_over
    await bench.trial.stop()
    later.hold()
    later.begin(2.0)
    assert later.report == bench.trial.report
    assert state(later) == "refused"
    assert later.turn() is bench.stable
    assert bench.candidate.running.users == 0
    await later.release()


async def test_a_verdict_of_a_former_snapshots_last_requests_stays_there() -> None:
    bench = Bench(percent=100.0, min_calls=5)
    bench.trial.begin(0.0)
    later = Trial(bench.stable, bench.candidate, terms(percent=100.0), 1.0, lambda _: None)  # type: ignore[arg-type]
    later.go_on_from(bench.trial)
    later.hold()
    later.begin(2.0)
    bench.trial.refuse("x")
    later.hold()
    assert state(later) == "running"


def test_what_was_before_the_trial_does_not_count() -> None:
    stable, candidate = Side("1.0"), Side("2.0")
    candidate.meter.errors = 500
    for _ in range(500):
        candidate.meter.count("on_request", 0.001, 0.001)
    trial = Trial(stable, candidate, terms(), 0.0, lambda _: None)  # type: ignore[arg-type]
    trial.begin(7.0)
    assert trial.seen() == (Seen(), Seen())
    trial.begin(20.0)
    trial.look(36.9)
    assert state(trial) == "running"
    trial.look(37.0)
    assert state(trial) == "passed", "it began once"
