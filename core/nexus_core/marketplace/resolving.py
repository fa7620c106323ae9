"""Which releases of a namespace's plugins, their libraries and their wheels go together.

Of each library (a plugin that others import) and of each distribution from PyPI a namespace has one version. Plugins are taken in
order of age: each has to fit to what the older ones run, which stay at their releases; libraries may move. One that does not fit is
told and left out, and the next goes on without it. Plugins that have nothing in common are resolved apart, so that none can change
what another gets. All of it is bounded in rounds, not in time, so that equal input gives equal output.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from packaging.version import Version

from nexus_core.marketplace.explaining import explain, say
from nexus_core.marketplace.searching import (
    Demand,
    Found,
    Impossible,
    Offer,
    Shelves,
    Start,
    TooLong,
    search,
)
from nexus_core.snapshot.plugins import Release, WheelNeed

MAX_ROUNDS = 20_000
"""Of all searches for one group of plugins that have something in common. One takes about a round for each thing that is chosen."""
ROUNDS_A_SEARCH = 2_000
MAX_LOOSE, MAX_VERSIONS = 2, 8
"""Older plugins, and versions of each, that are looked through for a proposal."""


@dataclass(frozen=True, slots=True)
class Wish:
    """A NexusPlugin that wants a release.

    id: `<namespace>/<name>`. age: sorts the older ones first. allowed: releases that it may have, the most wanted first; one or more.
    others: further releases that exist and work, for what is said when none of the allowed fits.
    """

    id: str
    age: tuple[bool, str, str, str]
    plugin: str
    marketplace: str
    allowed: tuple[Release, ...]
    others: tuple[Release, ...] = ()


@dataclass(frozen=True, slots=True)
class Resolved:
    """libraries: what the release imports, and what that imports, before whom imports it. wheels: by name, with the files that the
    release and its libraries list for the version. passed: releases that were wanted more and do not go with the older plugins, the
    most wanted first, each with who asks for what.
    """

    release: Release
    libraries: tuple[Offer, ...] = ()
    wheels: tuple[WheelNeed, ...] = ()
    passed: tuple[tuple[Release, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Unresolved:
    """Nothing of what is allowed goes with the older plugins. what, fix: sentences."""

    what: str
    fix: str


Answer = Resolved | Unresolved
Answers = Mapping[str, Answer]
Known = tuple[object, Answers]
"""All that a group was asked about, to be compared, and the answers."""


@dataclass
class _Budget:
    left: int = MAX_ROUNDS


@dataclass
class Resolver:
    """Resolves the plugins of one namespace after another. known: answers of groups, so that what did not change is not searched for
    again; take `used` for it the next time.
    """

    shelves: Shelves
    known: Mapping[tuple[str, ...], Known] = field(default_factory=dict)
    used: dict[tuple[str, ...], Known] = field(default_factory=dict)

    def resolve(self, wishes: Iterable[Wish], preferred: frozenset[tuple[str, str, str]] = frozenset()) -> Answers:
        """Return an answer to each wish, by id. wishes: of one namespace, in any order. preferred: (name, version, sha256) of
        libraries that are taken before newer ones.
        """
        answers: dict[str, Answer] = {}
        for group, names in _groups(sorted(wishes, key=lambda w: (w.age, w.id)), self.shelves):
            mine = frozenset(p for p in preferred if p[0] in names)
            key = tuple(wish.id for wish in group)
            asked = (group, mine, self.shelves.about(names))
            before = self.known.get(key)
            # Not by hash: releases hold schemas. Compared, what is the same object costs nothing.
            known = before if before is not None and before[0] == asked else None
            known = known or (asked, _resolve_group(group, self.shelves, mine))
            self.used[key] = known
            answers |= known[1]
        return answers


def _resolve_group(
    group: Sequence[Wish], shelves: Shelves, preferred: frozenset[tuple[str, str, str]]
) -> dict[str, Answer]:
    if len(group) == 1 and not any(r.plugins or r.wheels for r in group[0].allowed[:1]):
        return {group[0].id: Resolved(group[0].allowed[0])}
    budget = _Budget()
    answers: dict[str, Answer] = {}
    settled: list[Start] = []
    passed: dict[str, tuple[tuple[Release, str], ...]] = {}
    found: Found | None = None
    for wish in group:
        picked = _pick(wish, settled, shelves, preferred, budget)
        if isinstance(picked, _Picked):
            found = picked.found
            settled.append(picked.start)
            passed[wish.id] = picked.passed
        elif picked is None:
            what = f"Whether {wish.plugin} goes with the other plugins of the namespace could not be found out in {ROUNDS_A_SEARCH} rounds."
            fix = "Narrow the range in spec.version, or move the plugin into another namespace."
            answers[wish.id] = Unresolved(what, fix)
        else:
            answers[wish.id] = _explained(wish, group, settled, picked, shelves, preferred, budget)
    if found is None:
        return answers
    # The last search that went well was of all that are settled.
    for start in settled:
        libraries = found.libraries_of(start.release)
        wheels = found.wheels_of([start.release, *(offer.release for offer in libraries)])
        answers[start.id] = Resolved(start.release, libraries, wheels, passed[start.id])
    return answers


@dataclass(frozen=True)
class _Picked:
    start: Start
    found: Found
    passed: tuple[tuple[Release, str], ...]


def _pick(
    wish: Wish, settled: Sequence[Start], shelves: Shelves, preferred: frozenset[tuple[str, str, str]], budget: _Budget
) -> _Picked | tuple[Demand, ...] | None:
    """Return the most wanted release that goes with those that are settled, or why its first one does not; None when that takes too
    long to find out.
    """
    reasons: tuple[Demand, ...] | None = None
    passed: list[tuple[Release, str]] = []
    for release in wish.allowed:
        start = Start(wish.id, wish.plugin, wish.marketplace, release)
        found = _try([*settled, start], shelves, preferred, budget)
        if isinstance(found, Found):
            return _Picked(start, found, tuple(passed))
        if found is None:
            return None
        reasons = reasons if reasons is not None else found
        passed.append((release, say(found)))
    return reasons


def _try(
    starts: Sequence[Start], shelves: Shelves, preferred: frozenset[tuple[str, str, str]], budget: _Budget
) -> Found | tuple[Demand, ...] | None:
    """Return what goes together, or what of it does not; None when the rounds do not suffice."""
    rounds = min(budget.left, ROUNDS_A_SEARCH)
    if rounds <= 0:
        return None
    try:
        found, used = search(starts, shelves, preferred, rounds)
    except Impossible as error:
        budget.left -= error.rounds
        return error.demands
    except TooLong as error:
        budget.left -= error.rounds
        return None
    budget.left -= used
    return found


def _explained(
    wish: Wish,
    group: Sequence[Wish],
    settled: Sequence[Start],
    demands: tuple[Demand, ...],
    shelves: Shelves,
    preferred: frozenset[tuple[str, str, str]],
    budget: _Budget,
) -> Unresolved:
    """Say who asks for what, and look for versions that fit each other: of this plugin, then of the older ones in the contradiction."""
    by_id = {w.id: w for w in group}
    names = {d.about for d in demands} | {d.by.partition(" ")[0] for d in demands}
    loose = [s for s in settled if s.plugin in names][:MAX_LOOSE]
    tired = False
    fits: tuple[Found, dict[str, Release]] | None = None
    for older in ([], loose):
        choices = [_all(by_id[s.id])[:MAX_VERSIONS] for s in older] + [_all(wish)[:MAX_VERSIONS]]
        # The newest of all together first; of equals the older plugins keep theirs.
        for places in sorted(itertools.product(*(range(len(c)) for c in choices)), key=lambda p: (sum(p), p)):
            picks = dict(
                zip(
                    (*(s.id for s in older), wish.id), (c[i] for c, i in zip(choices, places, strict=True)), strict=True
                )
            )
            starts = [Start(s.id, s.plugin, s.marketplace, picks.get(s.id, s.release)) for s in settled]
            starts.append(Start(wish.id, wish.plugin, wish.marketplace, picks[wish.id]))
            found = _try(starts, shelves, preferred, budget)
            if isinstance(found, Found):
                fits = found, {s.id: s.release for s in starts}
                break
            tired = tired or found is None
            if tired:
                break
        if fits is not None or tired:
            break
    what, fix = explain(wish.plugin, wish.id, wish.allowed, demands, fits, settled, tired=tired)
    return Unresolved(what, fix)


def _all(wish: Wish) -> tuple[Release, ...]:
    """All releases of a wish, highest first: what range and policy say of them makes no difference here."""
    some = wish.allowed + tuple(r for r in wish.others if r not in wish.allowed)
    return tuple(sorted(some, key=lambda r: Version(r.version), reverse=True))


def _groups(wishes: Sequence[Wish], shelves: Shelves) -> list[tuple[list[Wish], frozenset[str]]]:
    """The wishes apart by what they may have in common, each group with the names of plugins that it is about; order is kept."""
    groups: list[tuple[list[Wish], set[str], set[str]]] = []
    about = {wish.id: _touches(wish, shelves) for wish in wishes}
    opposed = {t.removeprefix("against ") for _, touched in about.values() for t in touched if t.startswith("against ")}
    for wish in wishes:
        names, touched = about[wish.id]
        # Who opposes a plugin meets all who bring it; where nobody does, two of one plugin have nothing in common.
        touched |= {f"against {name}" for name in {wish.plugin, *names} & opposed}
        mine: tuple[list[Wish], set[str], set[str]] = ([wish], names, touched)
        apart = []
        for other in groups:
            if other[2] & mine[2]:
                mine = ([*other[0], *mine[0]], other[1] | mine[1], other[2] | mine[2])
            else:
                apart.append(other)
        groups = [*apart, mine]
    return [(sorted(g, key=lambda w: (w.age, w.id)), frozenset(names)) for g, names, _ in groups]


def _touches(wish: Wish, shelves: Shelves) -> tuple[set[str], set[str]]:
    """Return the names of plugins that a wish may bring as libraries, and everything at which it could meet another wish."""
    names: set[str] = set()
    touched: set[str] = set()
    todo = list(_all(wish))
    while todo:
        release = todo.pop()
        touched.update(f"wheel {w.name}" for w in release.wheels)
        touched.update(f"against {c.name}" for c in release.conflicts)
        for need in release.plugins:
            touched.add(f"library {need.name}")
            if need.name not in names:
                names.add(need.name)
                todo.extend(o.release for o in shelves.offers(need.name, wish.marketplace))
    return names, touched
