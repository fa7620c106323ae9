"""Whose word a condition is."""

from __future__ import annotations

from typing import Any

import pytest
from nexus_operator.world.inventory import Inventory
from nexus_operator.world.words import is_our_word

OURS, THEIRS = "nexus-operator", "other"


def entry(manager: str, *types: str, subresource: str = "status") -> dict[str, Any]:
    conditions = {f'k:{{"type":"{kind}"}}': {"f:message": {}} for kind in types}
    fields = {"f:status": {"f:addresses": {}, "f:conditions": {".": {}, **conditions}}}
    return {"manager": manager, "operation": "Update", "subresource": subresource, "fieldsV1": fields}


def held(*entries: dict[str, Any], kind: str = "Gateway") -> Any:
    """An object as the inventory holds it."""
    inventory = Inventory([kind])
    meta = {"name": "web", "namespace": "shop", "resourceVersion": "1"}
    inventory.observe(kind, {"metadata": {**meta, "managedFields": [*entries]} if entries else meta})
    return inventory.get(kind, "shop", "web")


@pytest.mark.parametrize("kind", ["Gateway", "ListenerSet"])
@pytest.mark.parametrize(
    ("entries", "ours"),
    [
        ([entry(OURS, "Accepted")], True),
        ([entry("kubectl", subresource=""), entry(OURS, "Accepted"), entry(THEIRS, "Programmed")], True),
        ([entry(OURS, "Accepted"), entry("kubectl", "Accepted", subresource="")], True),  # what a user applied
        ([entry(OURS, "Accepted"), entry(THEIRS, "Accepted")], False),
        ([entry(OURS, "Programmed")], False),
        ([entry(THEIRS, "Accepted")], False),
        ([{"manager": OURS, "subresource": "status", "fieldsV1": {"f:status": {}}}], False),
        ([{"manager": OURS, "subresource": "status"}], False),
        ([], False),
    ],
)
def test_a_condition_is_ours_when_nobody_else_wrote_anything_of_it(
    kind: str, entries: list[dict[str, Any]], ours: bool
) -> None:
    assert is_our_word(held(*entries, kind=kind), "Accepted") is ours


def test_no_more_is_kept_than_that_takes_and_of_routes_nothing() -> None:
    conditions = {".": {}, 'k:{"type":"Accepted"}': {"f:message": {}}}
    assert held(entry("kubectl", subresource=""), entry(OURS, "Accepted"))["metadata"]["managedFields"] == [
        {"manager": OURS, "subresource": "status", "fieldsV1": {"f:status": {"f:conditions": conditions}}}
    ]
    assert "managedFields" not in held(entry(OURS, "Accepted"), kind="HTTPRoute")["metadata"]


def test_what_is_kept_is_kept_as_it_is() -> None:
    """Lists hand in what was kept already."""
    once = held(entry(OURS, "Accepted"))
    again = Inventory(["Gateway"])
    again.observe("Gateway", once)
    assert again.get("Gateway", "shop", "web") == once
