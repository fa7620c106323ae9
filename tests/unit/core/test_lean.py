"""Resources without their specs in memory are the same to whoever reads them."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from nexus_core.model.lean import lean
from nexus_core.model.load import parse
from nexus_core.translate import Session, translate

sys.path.insert(0, str(Path(__file__).parents[3] / "benchmarks"))
from control import worlds

FIELDS = ("ref", "generation", "created_at", "labels", "annotations", "problems", "raw", "group", "readable", "spec")
BROKEN = {**worlds.route(0, 1, 1), "spec": {"rules": "none"}}
REMARKED = {**worlds.route(0, 1, 1), "spec": {**worlds.route(0, 1, 1)["spec"], "novelty": 1}}


@pytest.mark.parametrize(
    "manifest", [worlds.route(3, 2, 5), BROKEN, REMARKED, {}], ids=["sound", "broken", "remarked", "none"]
)
def test_a_lean_resource_says_what_the_whole_one_does(manifest: dict[str, Any]) -> None:
    whole = parse(manifest)
    assert [getattr(lean(whole), name) for name in FIELDS] == [getattr(whole, name) for name in FIELDS]


class Counted(Mapping[str, Any]):
    """A manifest that counts how often its spec is read."""

    def __init__(self, manifest: Mapping[str, Any]) -> None:
        self._manifest, self.read = manifest, 0

    def __getitem__(self, key: str) -> Any:
        self.read += key == "spec"
        return self._manifest[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._manifest)

    def __len__(self) -> int:
        return len(self._manifest)


def test_a_session_reads_the_specs_of_no_routes_but_those_that_changed() -> None:
    """So that a change of one does not cost what reading all of them does."""
    manifests = list(worlds.world(2, 20))
    routes = {number: Counted(m) for number, m in enumerate(manifests) if m["kind"] == "HTTPRoute"}
    world = [lean(parse(routes[number])) if number in routes else parse(m) for number, m in enumerate(manifests)]
    session = Session()
    first = session.translate(world)
    assert first == translate(parse(m) for m in manifests)
    for each in routes.values():
        each.read = 0
    changed = min(routes)
    routes[changed] = Counted(worlds.route(0, 2, 20, edition=1))
    world[changed] = lean(parse(routes[changed]))
    routes[changed].read = 0
    after = session.translate(world, previous=first.snapshot)
    assert after.snapshot != first.snapshot
    assert {number for number, each in routes.items() if each.read} == {changed}
