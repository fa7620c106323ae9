"""Routes in the inventory: kept as text, the same to read; and what of them is parsed again."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from nexus_core.model.load import parse
from nexus_operator.world.inventory import Inventory
from nexus_operator.world.kinds import WATCHED
from nexus_operator.world.packed import Packed
from nexus_operator.world.reading import Reader

sys.path.insert(0, str(Path(__file__).parents[3] / "benchmarks"))
from control import worlds

ODD = {
    "apiVersion": "v1",
    "kind": "K",
    "metadata": {"name": "a"},
    "spec": {"much": 10**400, "half": "\ud800", "f": 1.0},
}


def route(version: int, *, edition: int = 0, status: Any = None, **metadata: Any) -> dict[str, Any]:
    found = json.loads(json.dumps(worlds.route(0, 1, 1, edition=edition)))
    found["metadata"] |= {"resourceVersion": str(version), **metadata}
    return {**found, **({"status": status} if status is not None else {})}


@pytest.fixture
def inventory() -> Inventory:
    return Inventory(kind.kind for kind in WATCHED)


@pytest.mark.parametrize(
    "obj",
    [route(1), route(2, status={"parents": []}), {"metadata": {"name": "bare"}}, ODD],
    ids=["route", "status", "bare", "odd"],
)
def test_a_packed_object_reads_as_the_object(obj: dict[str, Any]) -> None:
    packed = Packed(obj)
    assert dict(packed) == obj
    assert (packed.keys(), len(packed)) == (obj.keys(), len(obj))
    assert packed.get("absent") is None


def test_only_what_differs_differs() -> None:
    one, same, other = (
        Packed({"spec": {"a": 1, "b": 2}}),
        Packed({"spec": {"b": 2, "a": 1}}),
        Packed({"spec": {"a": 2}}),
    )
    assert not one.differs(same, "spec")  # another order is no difference
    assert one.differs(other, "spec")
    assert one.differs(Packed({}), "spec")
    assert not one.differs(other, "status")


def test_a_route_of_the_inventory_reads_as_the_route(inventory: Inventory) -> None:
    assert inventory.observe("HTTPRoute", route(1, status={"parents": []}))
    found = inventory.get("HTTPRoute", "team-0", "route-0")
    assert found == route(1, status={"parents": []})


def test_a_route_wakes_for_its_spec_and_not_for_its_status(inventory: Inventory) -> None:
    assert inventory.observe("HTTPRoute", route(1))
    assert not inventory.observe("HTTPRoute", route(2, status={"parents": [{"controllerName": "x"}]}))
    assert inventory.observe("HTTPRoute", route(3, edition=1))
    assert inventory.observe("HTTPRoute", route(4, edition=1, labels={"a": "b"}))


def test_a_status_gives_no_other_resource(inventory: Inventory) -> None:
    """A translation knows by identity what it has done before."""
    reader = Reader()
    inventory.observe("HTTPRoute", route(1))
    (first,) = reader.read(inventory)
    inventory.observe("HTTPRoute", route(2, status={"parents": []}))
    (after_status,) = reader.read(inventory)
    assert after_status is first


@pytest.mark.parametrize(
    "then",
    [route(2, edition=1), route(2, labels={"a": "b"}), route(2, generation=7), route(2, uid="another")],
    ids=["spec", "labels", "generation", "made-anew"],
)
def test_all_else_does(inventory: Inventory, then: dict[str, Any]) -> None:
    reader = Reader()
    inventory.observe("HTTPRoute", route(1))
    (first,) = reader.read(inventory)
    inventory.observe("HTTPRoute", then)
    (second,) = reader.read(inventory)
    assert second is not first
    whole = parse(then)
    assert (second.spec, second.generation, second.labels) == (whole.spec, whole.generation, whole.labels)


def test_what_is_gone_is_forgotten(inventory: Inventory) -> None:
    reader = Reader()
    inventory.observe("HTTPRoute", route(1))
    reader.read(inventory)
    inventory.observe("HTTPRoute", route(2), deleted=True)
    assert reader.read(inventory) == ()
