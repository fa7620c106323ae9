"""Which children are applied and deleted."""

from __future__ import annotations

from typing import Any

import pytest
from nexus_core.problems import ObjectRef
from nexus_operator.children.plan import (
    Settled,
    build_plan,
    child_key,
    edition,
    holds,
    owner_of,
    owner_uid,
    settle_names,
)
from nexus_operator.world.kinds import RENDERED


def child(name: str = "orders", *, owner: str = "u1", **spec: Any) -> dict[str, Any]:
    ref = {"apiVersion": "nexus.dev/v1alpha1", "kind": "NexusService", "name": name, "uid": owner, "controller": True}
    return {
        "kind": "Deployment",
        "metadata": {"namespace": "shop", "name": name, "ownerReferences": [ref]},
        "spec": spec,
    }


def live(wanted: dict[str, Any], *, generation: int = 1, **added: Any) -> dict[str, Any]:
    meta = {**wanted["metadata"], "uid": "child", "generation": generation, "resourceVersion": "7"}
    return {**wanted, "metadata": meta, "spec": {**wanted["spec"], **added}}


def test_a_missing_child_is_applied() -> None:
    assert build_plan([child()], [], {}).apply == (child(),)


def test_what_the_server_added_is_no_reason_to_apply() -> None:
    wanted = child(replicas=2)
    assert build_plan([wanted], [live(wanted, revisionHistoryLimit=10)], {}).apply == ()


def test_a_changed_field_is_put_back() -> None:
    wanted = child(replicas=2)
    assert build_plan([wanted], [live(wanted, replicas=5)], {}).apply == (wanted,)


def test_a_quantity_the_server_writes_its_own_way_is_applied_once() -> None:
    """0.5 CPU is stored as 500m: the comparison of fields never rests, the memory of what was applied does."""
    wanted = child(cpu="0.5")
    stored = live(child(cpu="500m"))
    assert build_plan([wanted], [stored], {}).apply == (wanted,)
    settled = {child_key(wanted): Settled(wanted, edition(stored))}
    assert build_plan([wanted], [stored], settled).apply == ()
    edited = live(child(cpu="500m"), generation=2, replicas=9)
    assert build_plan([wanted], [edited], settled).apply == (wanted,), "somebody edited it since"


def test_a_field_that_is_wanted_no_more_is_applied_away() -> None:
    """What is left is in the live object: only the memory of what was applied tells."""
    before, after = child(replicas=2, paused=True), child(replicas=2)
    stored = live(before)
    settled = {child_key(before): Settled(before, edition(stored))}
    assert build_plan([after], [stored], settled).apply == (after,)


def test_what_was_made_for_nobody_in_particular_is_deleted_when_it_is_wanted_no_more() -> None:
    """The data plane that stands in while there is no Gateway has no owner where the release has no parameters."""
    stand_in = {
        "kind": "Service",
        "metadata": {"namespace": "x", "name": "default-nexus", "annotations": {RENDERED: "1"}},
    }
    assert build_plan([], [stand_in], {}).delete == (stand_in,)
    assert build_plan([stand_in], [stand_in], {}).delete == ()


@pytest.mark.parametrize(
    ("api", "kind", "uid"),
    [
        ("gateway.networking.k8s.io/v1", "Gateway", "u1"),
        ("nexus.dev/v1alpha1", "NexusGatewayParameters", "u1"),
        ("networking.istio.io/v1", "Gateway", ""),
        ("apps/v1", "Deployment", ""),
    ],
)
def test_only_kinds_that_have_children_own_them(api: str, kind: str, uid: str) -> None:
    ref = {"apiVersion": api, "kind": kind, "name": "web", "uid": "u1", "controller": True}
    obj = {"kind": "Service", "metadata": {"namespace": "shop", "name": "web-nexus", "ownerReferences": [ref]}}
    assert owner_uid(obj) == uid
    assert owner_of(obj) == (ObjectRef(kind, "shop", "web") if uid else None)


def test_an_unwanted_child_is_deleted_and_a_stranger_is_not() -> None:
    stranger = {"kind": "Service", "metadata": {"namespace": "shop", "name": "hand-made", "labels": {}}}
    unwanted = live(child("old"))
    assert build_plan([], [unwanted, stranger], {}).delete == (unwanted,)


@pytest.mark.parametrize(
    ("held", "wanted", "expected"),
    [
        ({"a": 1, "b": 2}, {"a": 1}, True),
        ({"a": 1}, {"a": 1, "b": 2}, False),
        ([{"a": 1, "default": 3}], [{"a": 1}], True),
        ([1, 2], [1], False),
        ({}, {"a": {}}, False),
        ("1", 1, False),
    ],
)
def test_holds(held: Any, wanted: Any, expected: bool) -> None:
    assert holds(held, wanted) is expected


@pytest.mark.parametrize(
    ("held", "given", "winner"),
    [
        ((), ("u1", "u2"), "u1"),
        (("u2",), ("u1", "u2"), "u2"),
        (("u1",), ("u2", "u1"), "u1"),
        (("stranger",), ("u1", "u2"), "u1"),
    ],
)
def test_of_two_owners_whose_children_have_one_name_the_one_that_has_it_keeps_it(
    held: tuple[str, ...], given: tuple[str, ...], winner: str
) -> None:
    """Neither goes without a word: a NexusService `web-nexus` and a Gateway `web` want the same Service."""
    wanted = [child("web-nexus", owner=owner) for owner in given]
    made, disputed = settle_names([*wanted, child("other")], [live(child("web-nexus", owner=owner)) for owner in held])
    assert [owner_uid(obj) for obj in made] == [winner, "u1"]
    assert [owner_uid(obj) for obj in disputed] == [owner for owner in given if owner != winner]
