"""Which releases of a namespace's plugins, their libraries and their wheels go together.

Of each library (a plugin that others import) and of each distribution from PyPI a namespace has one version. Plugins are taken in
order of age: each has to fit to what the older ones run, which stay at their releases; libraries may move. One that does not fit is
told and left out, and the next goes on without it. Plugins that have nothing in common are resolved apart, so that none can change
what another gets. All of it is bounded in rounds, not in time, so that equal input gives equal output.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from nexus_core.marketplace.explaining import explain
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
    release and its libraries list for the version.
    """

    release: Release
    libraries: tuple[Offer, ...] = ()
    wheels: tuple[WheelNeed, ...] = ()


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

    def take(self) -> int:
        return min(self.left, ROUNDS_A_SEARCH)


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
    found: Found | None = None
    for wish in group:
        new = Start(wish.id, wish.plugin, wish.marketplace, wish.allowed)
        try:
            found, rounds = search([*settled, new], shelves, preferred, budget.take())
        except Impossible as error:
            budget.left -= error.rounds
            answers[wish.id] = _explained(wish, group, settled, error.demands, shelves, preferred, budget)
            continue
        except TooLong as error:
            budget.left -= error.rounds
            what = f"Whether {wish.plugin} goes with the other plugins of the namespace could not be found out in {error.rounds} rounds."
            answers[wish.id] = Unresolved(
                what, "Narrow the range in spec.version, or move the plugin into another namespace."
            )
            continue
        budget.left -= rounds
        settled.append(Start(wish.id, wish.plugin, wish.marketplace, (found.starts[wish.id],)))
    if found is None:
        return answers
    # The last search that went well was of all that are settled.
    for start in settled:
        release = found.starts[start.id]
        libraries = found.libraries_of(release)
        answers[start.id] = Resolved(release, libraries, found.wheels_of([release, *(o.release for o in libraries)]))
    return answers


def _explained(
    wish: Wish,
    group: Sequence[Wish],
    settled: Sequence[Start],
    demands: tuple[Demand, ...],
    shelves: Shelves,
    preferred: frozenset[tuple[str, str, str]],
    budget: _Budget,
) -> Unresolved:
    """Say who asks for what, and look for versions that fit each other: of this plugin, then of the older ones too."""
    by_id = {w.id: w for w in group}
    free = Start(wish.id, wish.plugin, wish.marketplace, _all(wish))
    pinned = list(settled)
    loose = [Start(s.id, s.plugin, s.marketplace, _all(by_id[s.id])) for s in settled]
    fits: Found | None = None
    tired = False
    for starts in ([*pinned, free], [*loose, free]):
        rounds = budget.take()
        if rounds <= 0:
            tired = True
            break
        try:
            fits, used = search(starts, shelves, preferred, rounds)
        except Impossible as error:
            budget.left -= error.rounds
        except TooLong as error:
            budget.left -= error.rounds
            tired = True
        else:
            budget.left -= used
            break
    what, fix = explain(
        Start(wish.id, wish.plugin, wish.marketplace, wish.allowed),
        demands,
        fits,
        {s.id: s for s in settled},
        tired=tired,
    )
    return Unresolved(what, fix)


def _all(wish: Wish) -> tuple[Release, ...]:
    return wish.allowed + tuple(r for r in wish.others if r not in wish.allowed)


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
