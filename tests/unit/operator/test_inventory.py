"""The inventory: events and lists in any order end in the same truth."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from nexus_operator.world.inventory import Inventory


def obj(name: str, version: int, **fields: Any) -> dict[str, Any]:
    return {"metadata": {"name": name, "namespace": "shop", "resourceVersion": str(version), "uid": name}, **fields}


def names(inventory: Inventory) -> list[str]:
    return [o["metadata"]["name"] for o in inventory.all("NexusService")]


@pytest.fixture
def inventory() -> Inventory:
    return Inventory(["NexusService", "Service"])


def test_nothing_may_be_concluded_before_every_kind_was_listed(inventory: Inventory) -> None:
    assert inventory.unlisted == ("NexusService", "Service")
    inventory.observe("NexusService", obj("a", 1))
    inventory.replace("NexusService", [], 1)
    assert inventory.unlisted == ("Service",)
    inventory.replace("Service", [], 0)
    assert inventory.unlisted == ()


def test_an_older_event_changes_nothing(inventory: Inventory) -> None:
    assert inventory.observe("NexusService", obj("a", 5, spec={"x": 2}))
    assert not inventory.observe("NexusService", obj("a", 4, spec={"x": 1}))
    found = inventory.get("NexusService", "shop", "a")
    assert found is not None
    assert found["spec"] == {"x": 2}


def test_an_echo_keeps_the_object(inventory: Inventory) -> None:
    """What the operator writes comes back as an event, too: what was built of the object need not be built again."""
    inventory.observe("NexusService", obj("a", 5, spec={"x": 2}))
    before = inventory.get("NexusService", "shop", "a")
    assert not inventory.observe("NexusService", obj("a", 5, spec={"x": 2}))
    assert inventory.get("NexusService", "shop", "a") is before
    assert inventory.observe("NexusService", obj("a", 5), deleted=True)


def test_a_list_drops_what_a_broken_watch_never_told(inventory: Inventory) -> None:
    inventory.observe("NexusService", obj("a", 1))
    inventory.observe("NexusService", obj("b", 2))
    assert inventory.replace("NexusService", [obj("b", 2)], 9)
    assert names(inventory) == ["b"]


def test_a_list_keeps_what_a_newer_event_told(inventory: Inventory) -> None:
    """The list was made at 5; the object was created at 7 and its event was faster than the list's answer."""
    inventory.observe("NexusService", obj("new", 7))
    inventory.replace("NexusService", [], 5)
    assert names(inventory) == ["new"]


def test_a_list_does_not_raise_the_dead(inventory: Inventory) -> None:
    """The list was made at 5; the deletion at 7 was told before the list's answer came."""
    inventory.observe("NexusService", obj("a", 3))
    inventory.observe("NexusService", obj("a", 7), deleted=True)
    inventory.replace("NexusService", [obj("a", 3)], 5)
    assert names(inventory) == []


def test_a_name_can_be_used_again_after_a_deletion(inventory: Inventory) -> None:
    inventory.observe("NexusService", obj("a", 3))
    inventory.observe("NexusService", obj("a", 7), deleted=True)
    assert inventory.observe("NexusService", obj("a", 8))
    assert names(inventory) == ["a"]


def test_a_restored_store_with_older_versions_is_the_whole_truth(inventory: Inventory) -> None:
    inventory.replace("NexusService", [obj("a", 90), obj("b", 80)], 100)
    inventory.replace("NexusService", [obj("a", 10, spec={"x": 0})], 20)
    assert names(inventory) == ["a"]
    assert inventory.get("NexusService", "shop", "a") == obj("a", 10, spec={"x": 0})


def test_events_and_list_give_the_same_in_every_order() -> None:
    """Object a is created (3), changed (6), deleted (8) and created again (9); the list was made at 6."""

    steps = {
        "created": lambda i: i.observe("NexusService", obj("a", 3)),
        "changed": lambda i: i.observe("NexusService", obj("a", 6, spec={})),
        "deleted": lambda i: i.observe("NexusService", obj("a", 8), deleted=True),
        "again": lambda i: i.observe("NexusService", obj("a", 9, spec={"new": True})),
    }
    for place in range(len(steps) + 1):
        inventory = Inventory(["NexusService"])
        for at, step in enumerate([*steps.values(), None]):
            if at == place:
                inventory.replace("NexusService", [obj("a", 6, spec={})], 6)
            if step is not None:
                step(inventory)
        found = inventory.get("NexusService", "shop", "a")
        assert found is not None, place
        assert found["spec"] == {"new": True}, place


def test_status_and_bookkeeping_wake_nobody(inventory: Inventory) -> None:
    inventory.observe("NexusService", obj("a", 1, spec={}))
    assert not inventory.observe("NexusService", obj("a", 2, spec={}, status={"url": "x"}))
    held = inventory.get("NexusService", "shop", "a")
    assert held is not None
    assert held["status"] == {"url": "x"}, "the newest status is kept all the same"
    assert inventory.observe("NexusService", obj("a", 3, spec={"x": 1}, status={"url": "x"}))


def test_the_status_of_a_service_matters(inventory: Inventory) -> None:
    inventory.observe("Service", obj("gw", 1, status={}))
    assert inventory.observe("Service", obj("gw", 2, status={"loadBalancer": {"ingress": [{"ip": "10.0.0.1"}]}}))


def test_managed_fields_are_not_kept(inventory: Inventory) -> None:
    thing = obj("a", 1)
    thing["metadata"]["managedFields"] = [{"manager": "kubectl"}]
    inventory.observe("NexusService", thing)
    held = inventory.get("NexusService", "shop", "a")
    assert held is not None
    assert "managedFields" not in held["metadata"]
    assert "managedFields" in thing["metadata"], "the event itself is not changed"


def test_objects_come_in_order_whatever_order_they_came_in() -> None:
    for order in itertools.permutations("abc"):
        inventory = Inventory(["NexusService"])
        for at, name in enumerate(order):
            inventory.observe("NexusService", obj(name, at))
        assert names(inventory) == ["a", "b", "c"]
