"""Which releases of one plugin may be taken: by range, channel, API, what was refused, and what the update policy lets through now."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from typing import Literal

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import InvalidVersion, Version

from nexus_core.marketplace.locks import NO_LOCK, Lock
from nexus_core.snapshot.plugins import Release

Mode = Literal["manual", "patch", "minor", "any"]
STABLE = "stable"
DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")


@dataclass(frozen=True, slots=True)
class Window:
    """When new versions are taken. days: of `DAYS`, empty for all; the day on which it opens. start, end: UTC, minutes; an end that is
    not after the start is on the next day; equal ones: the whole day.
    """

    days: tuple[str, ...] = ()
    start: time = time(0)
    end: time = time(0)

    def is_open(self, now_utc: datetime) -> bool:
        """Whether new versions may be taken now."""
        return any(opens <= now_utc < closes for opens, closes in self._around(now_utc, range(-1, 1)))

    def opens_next(self, now_utc: datetime) -> datetime:
        """Return when it opens next, later than now."""
        return next(opens for opens, _ in self._around(now_utc, range(9)) if opens > now_utc)

    def _around(self, now_utc: datetime, offsets: range) -> Iterable[tuple[datetime, datetime]]:
        """From when to when it is open, of the windows that open so many days from today."""
        today = now_utc.astimezone(UTC).date()
        for offset in offsets:
            day = today + timedelta(days=offset)
            if self.days and DAYS[day.weekday()] not in self.days:
                continue
            opens = datetime.combine(day, self.start, UTC)
            closes = datetime.combine(day, self.end, UTC)
            yield opens, closes if closes > opens else closes + timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Asked:
    """What a NexusPlugin says of versions. versions: PEP 440 range, empty for any."""

    versions: str = ""
    channel: str = STABLE
    mode: Mode = "minor"
    window: Window | None = None


@dataclass(frozen=True, slots=True)
class Options:
    """allowed: releases that may be taken now, the most wanted first. available: version of the newest one that the update policy
    holds back, empty for none. opens_utc: when the window alone would let it through; None when waiting does not help.
    """

    allowed: tuple[Release, ...]
    available: str = ""
    opens_utc: datetime | None = None


def find_options(
    fitting: Sequence[Release],
    asked: Asked,
    lock: Lock = NO_LOCK,
    *,
    running: Release | None = None,
    begun: Release | None = None,
    now_utc: datetime | None = None,
) -> Options:
    """Return which of a plugin's releases may be taken.

    fitting: from `within`, highest first. running: the release that is locked; it need not be listed any more. None installs the
    first one, at any time and of any version. begun: one that was let through before and is being tried: no window holds it up any more.
    now_utc: None counts as outside of every window.
    """
    tried = tuple(r for r in fitting if lock.refusal_of(r) is None or _same(r, running))
    if running is None:
        return Options(tried)
    if not contains(asked.versions, running.version):
        return Options(tuple(r for r in tried if not _same(r, running)))
    is_open = asked.window is None or (now_utc is not None and asked.window.is_open(now_utc))
    mine = Version(running.version)
    allowed, held, waiting = [], "", False
    for release in tried:
        version = Version(release.version)
        if version < mine or _same(release, running):
            continue
        by_mode = lets_through(asked.mode, mine, version)
        if by_mode and (is_open or _same(release, begun)):
            allowed.append(release)
        elif not allowed:
            held = held or release.version
            waiting = waiting or by_mode
    opens = asked.window.opens_next(now_utc) if waiting and asked.window is not None and now_utc is not None else None
    return Options((*allowed, running), held, opens)


def within(releases: Iterable[Release], versions: str, channel: str) -> tuple[Release, ...]:
    """Return the releases in a range and channel, highest first.

    A pre-release is there when the range names one, when nothing else is in it (PEP 440's rule), or when it is of the channel that
    is asked for and that is not `stable`.
    """
    try:
        specifiers = SpecifierSet(versions)
    except InvalidSpecifier:
        return ()
    mine = [r for r in releases if r.channel in (STABLE, channel)]
    early = {r.version for r in mine if r.channel == channel != STABLE}
    usual = {str(v) for v in specifiers.filter([r.version for r in mine])}
    found = [
        r
        for r in mine
        if r.version in usual or (r.version in early and specifiers.contains(r.version, prereleases=True))
    ]
    return tuple(sorted(found, key=lambda r: Version(r.version), reverse=True))


def contains(versions: str, version: str) -> bool:
    """Whether a version is in a range, pre-releases too. Nothing is in a range that cannot be read."""
    try:
        return SpecifierSet(versions).contains(version, prereleases=True)
    except (InvalidSpecifier, InvalidVersion):
        return False


def parse_clock(text: str) -> time:
    """Return a time of day. text: HH:MM, as the model checks it."""
    hour, _, minute = text.partition(":")
    return time(int(hour), int(minute))


def next_change(options: Iterable[Options]) -> datetime | None:
    """Return when time alone may change the answer for any of these plugins; None for never."""
    return min((o.opens_utc for o in options if o.opens_utc is not None), default=None)


def lets_through(mode: Mode, mine: Version, other: Version) -> bool:
    """Whether an update policy lets another version take over. mine: the one that runs."""
    if mode == "manual":
        return False
    same_major = (mine.epoch, mine.major) == (other.epoch, other.major)
    if mode == "patch":
        return same_major and mine.minor == other.minor
    return mode == "any" or same_major


def _same(release: Release, other: Release | None) -> bool:
    return other is not None and (release.version, release.sha256) == (other.version, other.sha256)
