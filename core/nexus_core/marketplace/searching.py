"""One search with resolvelib: libraries and wheels that go with some releases of plugins, or that there are none.

What is chosen has a key: `library` and the name of a plugin that others import, `wheel` and the name of a distribution; `start` and an
id is a plugin that is installed, whose release is given. A conflict forbids versions of a key; for a library that nobody needs there
is the candidate that is not there, so that to forbid it does not bring it. What conflicts with an installed plugin is no candidate at
all: searched for as the others, resolvelib would go back to the plugin before it has tried all of what lies between.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from packaging.version import Version
from resolvelib import AbstractProvider, BaseReporter, ResolutionImpossible, ResolutionTooDeep, Resolver

from nexus_core.marketplace.updates import contains
from nexus_core.snapshot.plugins import PluginNeed, Release, Wheel, WheelNeed

Kind = Literal["start", "library", "wheel"]
Key = tuple[Kind, str]
_RANK: Mapping[str, int] = {"start": 0, "library": 1, "wheel": 2}


@dataclass(frozen=True, slots=True)
class Offer:
    """A release and the NexusMarketplace that lists it."""

    marketplace: str
    release: Release


@dataclass(frozen=True, slots=True)
class Shelves:
    """What plugins may take as libraries. by_marketplace: releases that work with this API and are signed by someone whom the
    marketplace trusts, by name, highest first.
    """

    by_marketplace: Mapping[str, Mapping[str, tuple[Release, ...]]]

    def offers(self, name: str, marketplace: str) -> tuple[Offer, ...]:
        """Return what a plugin of a marketplace may take of this name: its own marketplace's releases; when that lists none, those of
        all others. Highest first.
        """
        own = self.by_marketplace.get(marketplace, {}).get(name, ())
        if own:
            return tuple(Offer(marketplace, release) for release in own)
        found = [
            Offer(other, release)
            for other in sorted(self.by_marketplace)
            for release in self.by_marketplace[other].get(name, ())
        ]
        return tuple(sorted(found, key=lambda o: Version(o.release.version), reverse=True))

    def about(self, names: Iterable[str]) -> tuple[Any, ...]:
        """Return all that these shelves say of some names, to be compared."""
        return tuple(
            (name, place, releases)
            for name in sorted(names)
            for place in sorted(self.by_marketplace)
            if (releases := self.by_marketplace[place].get(name))
        )


@dataclass(frozen=True, slots=True)
class Start:
    """A plugin that is installed, in one release."""

    id: str
    plugin: str
    marketplace: str
    release: Release


@dataclass(frozen=True, slots=True)
class Demand:
    """A requirement of what was found not to go together. by: `name version` of whose it is, empty for the wish itself.
    about: name of what is asked for. text: of the requirement, such as `core-auth <2`. refuses: the versions are forbidden instead.
    there: versions that there are at all, highest first.
    """

    by: str
    about: str
    text: str
    refuses: bool = False
    there: tuple[str, ...] = ()


class Impossible(Exception):
    """Nothing goes together. demands: of the last contradiction."""

    def __init__(self, demands: tuple[Demand, ...], rounds: int) -> None:
        super().__init__("nothing goes together")
        self.demands, self.rounds = demands, rounds


class TooLong(Exception):
    """The rounds did not suffice."""

    def __init__(self, rounds: int) -> None:
        super().__init__(f"not found in {rounds} rounds")
        self.rounds = rounds


@dataclass(frozen=True, slots=True)
class _Requirement:
    """versions: PEP 440 range, of wheels unused. offers: of a library, what it may be. wheels: of which one is taken. banned: the
    versions are what must not be.
    """

    key: Key
    versions: str = ""
    offers: tuple[Offer, ...] = ()
    wheels: tuple[WheelNeed, ...] = ()
    banned: bool = False


@dataclass(frozen=True, slots=True)
class _Candidate:
    """identity: marketplace, version and digest; of a wheel the version. offer: None for wheels and for what is not there."""

    key: Key
    identity: tuple[str, str, str]
    offer: Offer | None = field(default=None, compare=False)
    files: Mapping[str, Wheel] = field(default_factory=dict, compare=False)

    @property
    def version(self) -> str:
        return self.identity[1]

    @property
    def absent(self) -> bool:
        return not self.version


@dataclass(frozen=True, slots=True)
class Found:
    """libraries: by name. wheels: versions by distribution. Both may hold more than what the releases lead to."""

    libraries: Mapping[str, Offer]
    wheels: Mapping[str, str]

    def libraries_of(self, release: Release) -> tuple[Offer, ...]:
        """Return the libraries of a release and theirs; each after those that it needs, as far as they do not need each other."""
        found: dict[str, Offer] = {}
        visiting: set[str] = set()

        def visit(needing: Release) -> None:
            for name in sorted(need.name for need in needing.plugins):
                if name not in visiting:
                    visiting.add(name)
                    visit(self.libraries[name].release)
                    found[name] = self.libraries[name]

        visit(release)
        return tuple(found.values())

    def wheels_of(self, releases: Iterable[Release]) -> tuple[WheelNeed, ...]:
        """Return the wheels that these releases need, by name, with all files that they list for the version."""
        files: dict[str, dict[str, Wheel]] = {}
        for release in releases:
            for need in release.wheels:
                if need.version == self.wheels[need.name]:
                    here = files.setdefault(need.name, {})
                    for wheel in need.files:
                        here.setdefault(wheel.filename, wheel)
        return tuple(
            WheelNeed(name, self.wheels[name], tuple(here[file] for file in sorted(here)))
            for name, here in sorted(files.items())
        )


def search(
    starts: Sequence[Start], shelves: Shelves, preferred: frozenset[tuple[str, str, str]], max_rounds: int
) -> tuple[Found, int]:
    """Return what goes together, and the rounds it took. preferred: (name, version, sha256) of libraries to be taken before newer ones.

    Raises Impossible, TooLong.
    """
    counter = _Counter()
    opposed = [
        Demand(f"{one.plugin} {one.release.version}", conflict.name, _asked(conflict), refuses=True)
        for one in starts
        for conflict in one.release.conflicts
        if any(_is_against(conflict, other) for other in starts if other.id != one.id)
    ]
    if opposed:
        raise Impossible(tuple(opposed), 1)
    provider = _Provider(starts, shelves, preferred)
    resolver: Resolver[_Requirement, _Candidate, Key] = Resolver(provider, counter)
    try:
        result = resolver.resolve([_Requirement(("start", s.id)) for s in starts], max_rounds=max(max_rounds, 1))
    except ResolutionImpossible as error:
        causes = [(cause.requirement, cause.parent) for cause in error.causes]
        raise Impossible(provider.demands(causes), counter.rounds) from error
    except ResolutionTooDeep as error:
        raise TooLong(counter.rounds) from error
    mapping = result.mapping
    offers = {key: c.offer for key, c in mapping.items() if c.offer is not None}
    return Found(
        {name: offer for (kind, name), offer in offers.items() if kind == "library"},
        {name: c.version for (kind, name), c in mapping.items() if kind == "wheel"},
    ), counter.rounds


class _Counter(BaseReporter[_Requirement, _Candidate, Key]):
    def __init__(self) -> None:
        self.rounds = 0

    def starting_round(self, index: int) -> None:
        self.rounds = index + 1


class _Provider(AbstractProvider[_Requirement, _Candidate, Key]):
    def __init__(self, starts: Sequence[Start], shelves: Shelves, preferred: frozenset[tuple[str, str, str]]) -> None:
        self._starts = {s.id: s for s in starts}
        self._shelves = shelves
        self._preferred = preferred

    def identify(self, requirement_or_candidate: _Requirement | _Candidate) -> Key:
        return requirement_or_candidate.key

    def get_preference(
        self, identifier: Key, resolutions: Any, candidates: Any, information: Any, backtrack_causes: Any
    ) -> tuple[int, str]:
        kind, name = identifier
        return _RANK[kind], name

    def find_matches(
        self,
        identifier: Key,
        requirements: Mapping[Key, Iterator[_Requirement]],
        incompatibilities: Mapping[Key, Iterator[_Candidate]],
    ) -> list[_Candidate]:
        asked = list(requirements[identifier])
        bad = list(incompatibilities[identifier])
        return [c for c in self._all(identifier, asked) if c not in bad and all(_satisfies(r, c) for r in asked)]

    def _all(self, key: Key, asked: Sequence[_Requirement]) -> list[_Candidate]:
        kind, name = key
        if kind == "start":
            start = self._starts[name]
            return [_of_offer(key, Offer(start.marketplace, start.release))]
        needs = [r for r in asked if not r.banned]
        if not needs:
            return [_Candidate(key, ("", "", ""))]
        if kind == "library":
            offers = sorted(needs[0].offers, key=lambda o: not self._is_preferred(o.release))
            return [_of_offer(key, offer) for offer in offers if not any(self._opposed(offer.release))]
        versions = sorted({w.version for w in needs[0].wheels}, key=Version, reverse=True)
        return [_of_wheels(key, version, needs) for version in versions if _agree(version, needs)]

    def _is_preferred(self, release: Release) -> bool:
        return (release.name, release.version, release.sha256) in self._preferred

    def _opposed(self, release: Release) -> Iterator[PluginNeed]:
        """The conflicts of a release that an installed plugin is one of."""
        return (c for c in release.conflicts if any(_is_against(c, start) for start in self._starts.values()))

    def is_satisfied_by(self, requirement: _Requirement, candidate: _Candidate) -> bool:
        return _satisfies(requirement, candidate)

    def get_dependencies(self, candidate: _Candidate) -> list[_Requirement]:
        offer = candidate.offer
        if offer is None:
            return []
        release = offer.release
        found = [
            _Requirement(("library", need.name), need.versions, self._shelves.offers(need.name, offer.marketplace))
            for need in release.plugins
        ]
        wheels: dict[str, list[WheelNeed]] = {}
        for wheel in release.wheels:
            wheels.setdefault(wheel.name, []).append(wheel)
        found += [_Requirement(("wheel", name), wheels=tuple(some)) for name, some in wheels.items()]
        found += [
            _Requirement(("library", conflict.name), conflict.versions, banned=True)
            for conflict in release.conflicts
            if ("library", conflict.name) != candidate.key
        ]
        return found

    def demands(self, causes: Iterable[tuple[_Requirement, _Candidate | None]]) -> tuple[Demand, ...]:
        """Return the causes for people, each once, sorted."""
        found: set[Demand] = set()
        for requirement, parent in causes:
            kind, name = requirement.key
            about = self._starts[name].plugin if kind == "start" else name
            by = ""
            if parent is not None and parent.offer is not None:
                by = f"{parent.offer.release.name} {parent.version}"
            if kind == "wheel":
                versions = sorted({w.version for w in requirement.wheels}, key=Version)
                text, there = f"{about} {' or '.join(versions)}", tuple(reversed(versions))
            else:
                text = f"{about} {requirement.versions}".rstrip()
                there = tuple(o.release.version for o in requirement.offers)
                for offer in requirement.offers:
                    mine = f"{offer.release.name} {offer.release.version}"
                    found.update(Demand(mine, c.name, _asked(c), refuses=True) for c in self._opposed(offer.release))
            found.add(Demand(by, about, text, requirement.banned, there))
        return tuple(sorted(found, key=lambda d: (d.by, d.about, d.text)))


def _is_against(conflict: PluginNeed, start: Start) -> bool:
    return conflict.name == start.plugin and contains(conflict.versions, start.release.version)


def _asked(need: PluginNeed) -> str:
    return f"{need.name} {need.versions}".rstrip()


def _of_offer(key: Key, offer: Offer) -> _Candidate:
    return _Candidate(key, (offer.marketplace, offer.release.version, offer.release.sha256), offer)


def _of_wheels(key: Key, version: str, needs: Iterable[_Requirement]) -> _Candidate:
    files = {f.filename: f for r in needs for w in r.wheels if w.version == version for f in w.files}
    return _Candidate(key, ("", version, ""), None, files)


def _agree(version: str, needs: Iterable[_Requirement]) -> bool:
    """Whether all who list files of this version mean the same bytes by the same name."""
    digests: dict[str, str] = {}
    for requirement in needs:
        for wheel in requirement.wheels:
            if wheel.version == version:
                for file in wheel.files:
                    if digests.setdefault(file.filename, file.sha256) != file.sha256:
                        return False
    return True


def _satisfies(requirement: _Requirement, candidate: _Candidate) -> bool:
    if requirement.banned:
        return candidate.absent or not contains(requirement.versions, candidate.version)
    if candidate.absent:
        return False
    kind, _ = requirement.key
    if kind == "start":
        return True
    if kind == "library":
        return contains(requirement.versions, candidate.version) and any(
            (o.release.version, o.release.sha256) == candidate.identity[1:] for o in requirement.offers
        )
    return any(
        w.version == candidate.version
        and all(f.filename not in candidate.files or candidate.files[f.filename].sha256 == f.sha256 for f in w.files)
        for w in requirement.wheels
    )
