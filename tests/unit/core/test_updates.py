"""Which newer releases an update policy lets through, and when."""

from __future__ import annotations

from datetime import UTC, datetime, time
from typing import Any

import pytest
from nexus_core.marketplace.locks import NO_LOCK, Lock, RefusedRelease
from nexus_core.marketplace.updates import Asked, Options, Window, find_options, next_change, within
from nexus_core.snapshot import Release


def release(version: str, channel: str = "stable") -> Release:
    return Release(
        name="a", version=version, api=">=1", package="p", entry_point="p:P", sha256=version, url="", channel=channel
    )


ALL = tuple(release(v) for v in ("3.0", "2.0", "1.3.0", "1.2.5", "1.2.4", "1.2.3"))
USUAL = Asked()
MONDAY = datetime(2026, 3, 2, 12, tzinfo=UTC)


def options(running: str | None, asked: Asked = USUAL, lock: Lock = NO_LOCK, **more: Any) -> Options:
    run = next((r for r in ALL if r.version == running), None)
    return find_options(within(ALL, asked.versions, asked.channel), asked, lock, running=run, **more)


@pytest.mark.parametrize(
    ("mode", "allowed", "available"),
    [
        ("manual", ["1.2.4"], "3.0"),
        ("patch", ["1.2.5", "1.2.4"], "3.0"),
        ("minor", ["1.3.0", "1.2.5", "1.2.4"], "3.0"),
        ("any", ["3.0", "2.0", "1.3.0", "1.2.5", "1.2.4"], ""),
    ],
)
def test_modes_are_relative_to_what_runs(mode: Any, allowed: list[str], available: str) -> None:
    found = options("1.2.4", Asked(mode=mode))
    assert [r.version for r in found.allowed] == allowed
    assert found.available == available


def test_the_first_one_is_the_highest_of_the_range_whatever_the_mode() -> None:
    window = Window(("Sun",))
    assert options(None, Asked("<2", mode="manual", window=window)).allowed[0].version == "1.3.0"


def test_a_range_that_excludes_what_runs_is_an_order() -> None:
    window = Window(("Sun",))
    found = options("1.2.4", Asked("<1.2.4", mode="manual", window=window), now_utc=MONDAY)
    assert [r.version for r in found.allowed] == ["1.2.3"]


def test_a_refused_release_is_passed_over() -> None:
    lock = Lock("1.2.4", "1.2.4", (RefusedRelease("1.3.0", "1.3.0", "PluginRolledBack"),))
    assert [r.version for r in options("1.2.4", lock=lock).allowed] == ["1.2.5", "1.2.4"]


def test_another_artefact_of_a_refused_version_is_another_release() -> None:
    lock = Lock("1.2.4", "1.2.4", (RefusedRelease("1.3.0", "another"),))
    assert options("1.2.4", lock=lock).allowed[0].version == "1.3.0"


def test_what_runs_stays_although_nobody_lists_it_any_more() -> None:
    gone = release("1.2.9")
    found = find_options(ALL, Asked(mode="patch"), running=gone)
    assert found.allowed == (gone,)


@pytest.mark.parametrize(
    ("window", "at", "open_"),
    [
        (Window(), "02T12:00", True),
        (Window(("Tue",)), "02T12:00", False),
        (Window(("Mon",)), "02T23:59", True),
        (Window(start=time(1), end=time(3)), "02T00:59", False),
        (Window(start=time(1), end=time(3)), "02T01:00", True),
        (Window(start=time(1), end=time(3)), "02T03:00", False),
        (Window(("Sun",), time(22), time(4)), "02T03:59", True),
        (Window(("Sun",), time(22), time(4)), "02T04:00", False),
        (Window(("Mon",), time(22), time(4)), "02T03:00", False),
    ],
)
def test_windows(window: Window, at: str, open_: bool) -> None:
    """2026-03-02 is a Monday; a window over midnight belongs to the day on which it opens."""
    assert window.is_open(datetime.fromisoformat(f"2026-03-{at}:00+00:00")) is open_


def test_a_closed_window_holds_newer_ones_back_and_says_when_it_opens() -> None:
    asked = Asked(mode="minor", window=Window(("Mon", "Wed"), time(2), time(4)))
    found = options("1.2.4", asked, now_utc=MONDAY)
    assert [r.version for r in found.allowed] == ["1.2.4"]
    assert found.opens_utc == datetime(2026, 3, 4, 2, tzinfo=UTC)
    opened = options("1.2.4", asked, now_utc=datetime(2026, 3, 4, 2, tzinfo=UTC))
    assert opened.allowed[0].version == "1.3.0"
    assert opened.opens_utc is None


def test_without_a_clock_every_window_is_closed() -> None:
    found = options("1.2.4", Asked(window=Window()))
    assert [r.version for r in found.allowed] == ["1.2.4"]
    assert found.opens_utc is None


def test_what_mode_holds_back_is_not_waited_for() -> None:
    asked = Asked(mode="patch", window=Window(("Wed",)))
    assert options("1.3.0", asked, now_utc=MONDAY) == Options((ALL[2],), "3.0", None)


def test_what_has_begun_in_the_window_goes_on_after_it() -> None:
    asked = Asked(window=Window(("Wed",)))
    found = options("1.2.4", asked, begun=ALL[2], now_utc=MONDAY)
    assert [r.version for r in found.allowed] == ["1.3.0", "1.2.4"]


def test_the_next_change_is_the_earliest() -> None:
    early, late = datetime(2026, 3, 4, tzinfo=UTC), datetime(2026, 3, 5, tzinfo=UTC)
    some = [Options((), opens_utc=late), Options(()), Options((), opens_utc=early)]
    assert next_change(some) == early
    assert next_change([Options(())]) is None


def test_pre_releases_come_by_name_by_channel_or_when_nothing_else_is_there() -> None:
    some = (release("1.0"), release("1.1b1"), release("1.2b1", "beta"), release("2.0", "nightly"))

    def of(versions: str, channel: str = "stable") -> list[str]:
        return [r.version for r in within(some, versions, channel)]

    assert of("") == ["1.0"]
    assert of(">=1.1b0") == ["1.1b1"]
    assert of("", "beta") == ["1.2b1", "1.0"]
    assert of("<1.2", "beta") == ["1.0"]
    assert of("", "nightly") == ["2.0", "1.0"]
    assert of(">1.0,<2") == ["1.1b1"]
    assert of("no range") == []
