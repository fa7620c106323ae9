"""What holds of resolution whatever releases there are."""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping, Sequence

from hypothesis import given, settings
from hypothesis import strategies as st
from nexus_core.marketplace.resolving import Answer, Resolved, Resolver, Wish
from nexus_core.marketplace.searching import Offer, Shelves
from nexus_core.marketplace.updates import contains
from nexus_core.snapshot import Release
from nexus_core.snapshot.plugins import PluginNeed, Wheel, WheelNeed

LIBRARIES = ("x", "y", "z")
VERSIONS = ("3.0", "2.0", "1.0")
RANGES = ("", ">=2", "<2", "<3", "==1.0")
PLUGINS = ("a", "b", "c")

ranges = st.sampled_from(RANGES)
wheels = st.lists(st.sampled_from(VERSIONS), max_size=2, unique=True).map(
    lambda versions: tuple(WheelNeed("w", v, (Wheel(f"w-{v}.whl", "0" * 64),)) for v in versions)
)


def needs(names: Sequence[str]) -> st.SearchStrategy[tuple[PluginNeed, ...]]:
    one = st.builds(PluginNeed, st.sampled_from(names), ranges)
    return st.lists(one, max_size=2, unique_by=lambda n: n.name).map(tuple)


@st.composite
def releases(draw: st.DrawFn, name: str, later: Sequence[str]) -> tuple[Release, ...]:
    """Some versions, highest first. later: libraries that it may need."""
    versions = draw(st.lists(st.sampled_from(VERSIONS), min_size=1, max_size=3, unique=True))
    return tuple(
        Release(
            name=name, version=version, api="", package="p", entry_point="p:P", url="", sha256=name + version,
            plugins=draw(needs(later)) if later else (), wheels=draw(wheels),
            conflicts=draw(st.one_of(st.just(()), needs((*PLUGINS, *LIBRARIES)))),
        )
        for version in sorted(versions, reverse=True)
    )  # fmt: skip


@st.composite
def worlds(draw: st.DrawFn) -> tuple[tuple[Wish, ...], Shelves]:
    shelf = {name: draw(releases(name, LIBRARIES[place + 1 :])) for place, name in enumerate(LIBRARIES)}
    wishes = tuple(
        Wish(f"shop/{name}", (True, str(age), "shop", name), name, "m", draw(releases(name, LIBRARIES)))
        for age, name in enumerate(PLUGINS[: draw(st.integers(1, 3))])
    )
    return wishes, Shelves({"m": shelf})


def is_whole(starts: Sequence[Release], libraries: Mapping[str, str], shelves: Shelves) -> bool:
    """Whether these releases go together with these versions of libraries and some of wheels: the definition, naively."""
    shelf = shelves.by_marketplace["m"]
    present: list[Release] = []
    todo = list(starts)
    while todo:
        release = todo.pop()
        present.append(release)
        for need in release.plugins:
            version = libraries.get(need.name)
            if version is None or not contains(need.versions, version):
                return False
            found = next(r for r in shelf[need.name] if r.version == version)
            if found not in present and found not in todo:
                todo.append(found)
    for release in present:
        for ban in release.conflicts:
            if any(r.name == ban.name and r is not release and contains(ban.versions, r.version) for r in present):
                return False
    sets = [{w.version for w in r.wheels} for r in present if r.wheels]
    return not sets or bool(set.intersection(*sets))


def some_whole(starts: Sequence[Release], shelves: Shelves) -> bool:
    shelf = shelves.by_marketplace["m"]
    choices = [[(name, r.version) for r in some] for name, some in shelf.items()]
    return any(is_whole(starts, dict(pick), shelves) for pick in itertools.product(*choices))


def resolve(wishes: Sequence[Wish], shelves: Shelves) -> dict[str, Answer]:
    return dict(Resolver(shelves).resolve(wishes))


@settings(max_examples=150, deadline=None)
@given(worlds())
def test_what_is_resolved_goes_together_and_what_is_left_out_could_not(world: tuple[tuple[Wish, ...], Shelves]) -> None:
    wishes, shelves = world
    found = resolve(wishes, shelves)
    taken: list[Release] = []
    for wish in wishes:
        answer = found[wish.id]
        if isinstance(answer, Resolved):
            # The newest that goes with what older ones have.
            fitting = [r for r in wish.allowed if some_whole([*taken, r], shelves)]
            assert answer.release == fitting[0]
            taken.append(answer.release)
        else:
            assert not any(some_whole([*taken, r], shelves) for r in wish.allowed)
    answers = [a for a in found.values() if isinstance(a, Resolved)]
    # Plugins that have nothing in common are resolved apart; those that share a library have the same one.
    versions = {(o.release.name, o.release.version) for a in answers for o in a.libraries}
    assert len({name for name, _ in versions}) == len(versions)
    assert len({w.version for a in answers for w in a.wheels}) <= 1
    assert is_whole([a.release for a in answers], dict(versions), shelves)
    for answer in answers:
        for release in (answer.release, *(o.release for o in answer.libraries)):
            assert {n.name for n in release.plugins} <= {o.release.name for o in answer.libraries}
            assert {w.name for w in release.wheels} <= {w.name for w in answer.wheels}


@settings(deadline=None)
@given(worlds(), st.randoms(use_true_random=False))
def test_order_and_memory_make_no_difference(world: tuple[tuple[Wish, ...], Shelves], rng: random.Random) -> None:
    wishes, shelves = world
    resolver = Resolver(shelves)
    first = dict(resolver.resolve(wishes))
    shuffled = list(wishes)
    rng.shuffle(shuffled)
    assert resolve(shuffled, shelves) == first
    assert dict(Resolver(shelves, resolver.used).resolve(shuffled)) == first


@settings(deadline=None)
@given(worlds())
def test_an_unrelated_plugin_changes_nothing(world: tuple[tuple[Wish, ...], Shelves]) -> None:
    wishes, shelves = world
    other = Release(
        name="other", version="1", api="", package="p", entry_point="p:P", url="", sha256="other",
        plugins=(PluginNeed("far"),), wheels=(WheelNeed("v", "1", ()),),
    )  # fmt: skip
    far = Release(name="far", version="1", api="", package="p", entry_point="p:P", url="", sha256="far")
    more = Shelves({"m": {**shelves.by_marketplace["m"], "far": (far,)}})
    oldest = Wish("shop/other", (False, "", "shop", "other"), "other", "m", (other,))
    found = resolve([*wishes, oldest], more)
    assert found.pop("shop/other") == Resolved(other, (Offer("m", far),), (WheelNeed("v", "1", ()),))
    assert found == resolve(wishes, shelves)
