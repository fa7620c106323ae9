"""Which releases go together, who is left out, and what is said of it."""

from __future__ import annotations

from typing import Any

from nexus_core.marketplace import resolving
from nexus_core.marketplace.resolving import Resolved, Resolver, Unresolved, Wish
from nexus_core.marketplace.searching import Shelves
from nexus_core.snapshot import Release
from nexus_core.snapshot.plugins import PluginNeed, Wheel, WheelNeed


def release(name: str, version: str, **fields: Any) -> Release:
    fields.setdefault("sha256", f"{name}{version}".encode().hex().ljust(64, "0"))
    return Release(name=name, version=version, api=">=1", package="p", entry_point="p:P", url="", **fields)


def needs(*texts: str) -> tuple[PluginNeed, ...]:
    return tuple(PluginNeed(*text.split(" ", 1)) for text in texts)


def wheels(name: str, *versions: str, sha256: str = "0" * 64) -> tuple[WheelNeed, ...]:
    return tuple(WheelNeed(name, v, (Wheel(f"{name}-{v}-py3-none-any.whl", sha256),)) for v in versions)


def wish(age: int, *allowed: Release, others: tuple[Release, ...] = (), place: str = "official") -> Wish:
    name = allowed[0].name
    return Wish(f"shop/{name}", (True, f"2026-01-0{age}", "shop", name), name, place, allowed, others)


def shelves(*releases: Release, place: str = "official") -> Shelves:
    found: dict[str, tuple[Release, ...]] = {}
    for each in releases:
        found[each.name] = (*found.get(each.name, ()), each)
    return Shelves({place: found})


NOTHING = Shelves({})


def resolve(wishes: list[Wish], shelf: Shelves = NOTHING, **more: Any) -> dict[str, Any]:
    return dict(Resolver(shelf).resolve(wishes, **more))


def shown(answer: Any) -> str:
    if isinstance(answer, Unresolved):
        return f"{answer.what} {answer.fix}"
    assert isinstance(answer, Resolved)
    libraries = [f"{o.release.name} {o.release.version}" for o in answer.libraries]
    return " + ".join([answer.release.version, *libraries, *(f"{w.name}=={w.version}" for w in answer.wheels)])


CORE = shelves(*(release("core-auth", v) for v in ("2.1", "2.0", "1.9", "1.0")))


def test_the_newest_that_is_wanted_is_taken_with_its_libraries() -> None:
    found = resolve([wish(1, release("a", "2.1", plugins=needs("core-auth >=1")), release("a", "2.0"))], CORE)
    assert shown(found["shop/a"]) == "2.1 + core-auth 2.1"


def test_a_library_moves_down_so_that_a_younger_plugin_fits_too() -> None:
    a = wish(1, release("a", "2.1", plugins=needs("core-auth")))
    b = wish(2, release("b", "1.4", plugins=needs("core-auth <2")))
    found = resolve([a, b], CORE)
    assert [shown(found[i]) for i in ("shop/a", "shop/b")] == ["2.1 + core-auth 1.9", "1.4 + core-auth 1.9"]


def test_the_younger_one_takes_an_older_release_of_its_own_before_it_is_left_out() -> None:
    a = wish(1, release("a", "2.1", plugins=needs("core-auth <2")))
    b = wish(
        2, release("b", "1.4", plugins=needs("core-auth >=2")), release("b", "1.3", plugins=needs("core-auth >=1"))
    )
    found = resolve([b, a], CORE)
    assert [shown(found[i]) for i in ("shop/a", "shop/b")] == ["2.1 + core-auth 1.9", "1.3 + core-auth 1.9"]


def test_a_conflict_names_who_needs_what_and_the_newest_that_fits_both() -> None:
    a = wish(1, release("a", "2.1", plugins=needs("core-auth <2")))
    old = release("b", "1.3", plugins=needs("core-auth >=1"))
    b = wish(2, release("b", "1.4", plugins=needs("core-auth >=2")), others=(old,))
    found = resolve([a, b], CORE)
    assert shown(found["shop/a"]) == "2.1 + core-auth 1.9"
    assert shown(found["shop/b"]) == (
        "a 2.1 needs core-auth <2, b 1.4 needs core-auth >=2; newest that fits both: core-auth 1.9 with a 2.1 and b 1.3. "
        'Set spec.version of NexusPlugin shop/b to "==1.3".'
    )


def test_the_older_one_is_moved_in_the_proposal_when_the_younger_one_alone_cannot() -> None:
    older = release("a", "2.0", plugins=needs("core-auth"))
    a = wish(1, release("a", "2.1", plugins=needs("core-auth <2")), others=(older,))
    b = wish(2, release("b", "1.4", plugins=needs("core-auth >=2")))
    said = shown(resolve([a, b], CORE)["shop/b"])
    assert "newest that fits both: core-auth 2.1 with a 2.0 and b 1.4." in said
    assert 'Set spec.version of NexusPlugin shop/a to "==2.0".' in said


def test_when_nothing_fits_that_is_said() -> None:
    a = wish(1, release("a", "2.1", plugins=needs("core-auth <2")))
    b = wish(2, release("b", "1.4", plugins=needs("core-auth >=2")))
    assert "; no versions of them fit each other. Move one" in shown(resolve([a, b], CORE)["shop/b"])


def test_the_others_go_on_after_a_conflict() -> None:
    a = wish(1, release("a", "1", plugins=needs("core-auth <2")))
    b = wish(2, release("b", "1", plugins=needs("core-auth >=2")))
    c = wish(3, release("c", "1", plugins=needs("core-auth <1.5")))
    found = resolve([c, b, a], CORE)
    assert isinstance(found["shop/b"], Unresolved)
    assert [shown(found[i]) for i in ("shop/a", "shop/c")] == ["1 + core-auth 1.0", "1 + core-auth 1.0"]


def test_a_library_that_nobody_lists_is_named() -> None:
    found = resolve([wish(1, release("a", "1", plugins=needs("gone >=1")))], CORE)
    assert shown(found["shop/a"]).startswith("a 1 needs gone >=1, which is in no marketplace. ")
    assert "Have gone listed" in shown(found["shop/a"])


def test_libraries_of_libraries_come_before_whom_they_are_for() -> None:
    shelf = shelves(
        release("x", "1", plugins=needs("z", "y")), release("y", "1", plugins=needs("z")), release("z", "3")
    )
    found = resolve([wish(1, release("a", "1", plugins=needs("x")))], shelf)
    assert shown(found["shop/a"]) == "1 + z 3 + y 1 + x 1"


def test_libraries_that_need_each_other_end() -> None:
    shelf = shelves(release("x", "1", plugins=needs("y")), release("y", "1", plugins=needs("x")))
    assert shown(resolve([wish(1, release("a", "1", plugins=needs("x")))], shelf)["shop/a"]) == "1 + y 1 + x 1"


def test_the_own_marketplace_comes_first_and_the_others_help_out() -> None:
    own, other = release("lib", "1"), release("lib", "2")
    both = Shelves({"official": {"lib": (own,)}, "partner": {"lib": (other,)}})
    plugin = release("a", "1", plugins=needs("lib"))
    assert shown(resolve([wish(1, plugin)], both)["shop/a"]) == "1 + lib 1"
    assert shown(resolve([wish(1, plugin)], Shelves({"partner": {"lib": (other,)}}))["shop/a"]) == "1 + lib 2"


def test_wheels_are_of_one_version_for_all() -> None:
    a = wish(1, release("a", "1", wheels=wheels("brotli", "1.0", "1.1")))
    b = wish(2, release("b", "1", wheels=wheels("brotli", "1.0", "0.9")))
    c = wish(3, release("c", "1", wheels=wheels("brotli", "1.1")))
    found = resolve([a, b, c])
    assert [shown(found[i]) for i in ("shop/a", "shop/b")] == ["1 + brotli==1.0", "1 + brotli==1.0"]
    assert "c 1 needs brotli 1.1" in shown(found["shop/c"])


def test_files_of_one_name_and_two_digests_do_not_go_together() -> None:
    a = wish(1, release("a", "1", wheels=wheels("brotli", "1.0")))
    b = wish(2, release("b", "1", wheels=wheels("brotli", "1.0", sha256="f" * 64)))
    assert isinstance(resolve([a, b])["shop/b"], Unresolved)


def test_files_that_a_plugin_and_its_library_list_are_put_together() -> None:
    def only(tag: str) -> tuple[WheelNeed, ...]:
        return (WheelNeed("brotli", "1.1", (Wheel(f"brotli-1.1-{tag}.whl", "0" * 64),)),)

    shelf = shelves(release("lib", "1", wheels=only("arm")))
    found = resolve([wish(1, release("a", "1", plugins=needs("lib"), wheels=only("x86")))], shelf)["shop/a"]
    assert [f.filename for f in found.wheels[0].files] == ["brotli-1.1-arm.whl", "brotli-1.1-x86.whl"]


def test_a_plugin_that_conflicts_with_an_older_one_is_left_out() -> None:
    a = wish(1, release("a", "1.5"))
    b = wish(2, release("b", "1", conflicts=needs("a <2")))
    assert shown(resolve([a, b])["shop/b"]).startswith("b 1 conflicts with a <2; no versions")


def test_a_plugin_that_an_older_one_conflicts_with_takes_a_version_it_allows() -> None:
    a = wish(1, release("a", "1", conflicts=needs("b >=2")))
    b = wish(2, release("b", "2.0"), release("b", "1.9"))
    assert shown(resolve([a, b])["shop/b"]) == "1.9"


def test_a_conflict_with_a_library_does_not_bring_it() -> None:
    assert shown(resolve([wish(1, release("a", "1", conflicts=needs("core-auth <2")))], CORE)["shop/a"]) == "1"
    a = wish(1, release("a", "1", conflicts=needs("core-auth >=2")))
    b = wish(2, release("b", "1", plugins=needs("core-auth")))
    assert shown(resolve([a, b], CORE)["shop/b"]) == "1 + core-auth 1.9"


def test_preferred_libraries_are_taken_before_newer_ones() -> None:
    kept = next(r for r in CORE.by_marketplace["official"]["core-auth"] if r.version == "1.9")
    preferred = frozenset({(kept.name, kept.version, kept.sha256)})
    found = resolve([wish(1, release("a", "1", plugins=needs("core-auth")))], CORE, preferred=preferred)
    assert shown(found["shop/a"]) == "1 + core-auth 1.9"


def test_a_search_that_takes_too_long_is_told(monkeypatch: Any) -> None:
    monkeypatch.setattr(resolving, "ROUNDS_A_SEARCH", 2)
    found = resolve([wish(1, release("a", "1", plugins=needs("core-auth", "core-auth <2")))], CORE)
    assert "could not be found out in 2 rounds" in shown(found["shop/a"])


def test_known_answers_are_taken_only_for_the_same_question() -> None:
    a = wish(1, release("a", "1", plugins=needs("core-auth")))
    first = Resolver(CORE)
    first.resolve([a])
    again = Resolver(CORE, first.used)
    assert again.resolve([a])["shop/a"] is first.used[("shop/a",)][1]["shop/a"]
    fewer = Resolver(shelves(release("core-auth", "1.0")), first.used)
    assert shown(fewer.resolve([a])["shop/a"]) == "1 + core-auth 1.0"
