"""What is applied of a child when the API server would refuse all of it for one field."""

from __future__ import annotations

from typing import Any

import pytest
from nexus_operator.children.immutable import Applicable, applicable
from nexus_operator.world.kinds import RENDERED

US = "nexus-operator"


def service(cls: str | None = None, kind: str = "LoadBalancer", mark: str = "new", **more: Any) -> dict[str, Any]:
    spec = {"type": kind, "ports": [{"port": 80}], **({"loadBalancerClass": cls} if cls else {})}
    meta = {"name": "web-nexus", "namespace": "shop", "annotations": {RENDERED: mark, "note": "x"}, **more}
    return {"kind": "Service", "metadata": meta, "spec": spec}


def live(cls: str | None = None, kind: str = "LoadBalancer", *, by: str = US) -> dict[str, Any]:
    fields = [{"manager": by, "fieldsV1": {"f:spec": {"f:loadBalancerClass": {}}}}] if cls else [{"manager": US}]
    return service(cls, kind, "old", managedFields=fields)


@pytest.mark.parametrize(
    ("wanted", "held"),
    [
        (service("a"), None),
        (service("a"), live("a")),
        (service(), live()),
        (service(), live("webhook", by="load-balancer-webhook")),
        (service("a"), live(kind="ClusterIP")),
        (service(kind="ClusterIP"), live("a")),
        ({"kind": "Deployment", "metadata": {}, "spec": {}}, {"kind": "Deployment", "metadata": {}, "spec": {}}),
    ],
)
def test_what_the_api_server_takes_is_applied_as_it_is(wanted: Any, held: Any) -> None:
    assert applicable(wanted, held, US) == Applicable(wanted)


@pytest.mark.parametrize(
    ("asked", "held", "words", "remedy"),
    [
        ("b", live("a"), 'from "a" to "b"', 'back to "a"'),
        ("b", live("a", by="somebody"), 'from "a" to "b"', 'back to "a"'),
        ("b", live(), 'from none to "b"', "take service.loadBalancerClass out"),
        (None, live("a"), 'from "a" to none', 'back to "a"'),
    ],
)
def test_another_load_balancer_is_told_and_all_else_is_applied(
    asked: str | None, held: dict[str, Any], words: str, remedy: str
) -> None:
    wanted = service(asked)
    wanted["spec"]["ports"] = [{"port": 80}, {"port": 81}]
    found = applicable(wanted, held, US)
    assert found.body["spec"] == {**held["spec"], "ports": [{"port": 80}, {"port": 81}]}
    assert found.body["metadata"]["annotations"] == {RENDERED: "old", "note": "x"}
    assert "Service shop/web-nexus" in found.what
    assert words in found.what
    assert remedy in found.fix
    assert wanted["metadata"]["annotations"][RENDERED] == "new", "what was rendered stays as it is"
