"""NexusGatewayParameters of a class and of a Gateway become one."""

from __future__ import annotations

from typing import Any

import pytest
from nexus_core.model.load import parse
from nexus_core.translate import Translation, translate
from nexus_core.translate.features import KINDS_OF_PROTOCOL, PROTOCOLS, SUPPORTED_FEATURES


def world(base: dict[str, Any], own: dict[str, Any]) -> Translation:
    group = "gateway.networking.k8s.io/v1"
    ref = {"group": "nexus.dev", "kind": "NexusGatewayParameters"}
    spec = {"controllerName": "nexus.dev/gateway-controller", "parametersRef": {**ref, "name": "c", "namespace": "sys"}}
    manifests: list[dict[str, Any]] = [
        {"apiVersion": group, "kind": "GatewayClass", "metadata": {"name": "edge"}, "spec": spec},
        {
            "apiVersion": group,
            "kind": "Gateway",
            "metadata": {"name": "web", "namespace": "infra"},
            "spec": {
                "gatewayClassName": "edge",
                "listeners": [{"name": "http", "port": 80, "protocol": "HTTP"}],
                "infrastructure": {"parametersRef": {**ref, "name": "own"}},
            },
        },
    ]
    for name, namespace, each in (("c", "sys", base), ("own", "infra", own)):
        manifests.append(
            {
                "apiVersion": "nexus.dev/v1alpha1",
                "kind": "NexusGatewayParameters",
                "metadata": {"name": name, "namespace": namespace},
                "spec": each,
            }
        )
    return translate(parse(manifest) for manifest in manifests)


@pytest.mark.parametrize(
    ("base", "own", "expected"),
    [
        ({}, {}, {}),
        ({"replicas": 3}, {}, {"replicas": 3}),
        ({"replicas": 3}, {"replicas": 0}, {"replicas": 0}),
        ({"zone": "a"}, {"zone": None}, {"zone": "a"}),
        ({"affinity": {"a": {"b": 1}}}, {"affinity": {"a": {"c": 2}}}, {"affinity": {"a": {"b": 1, "c": 2}}}),
        ({"tolerations": [{"key": "a"}]}, {"tolerations": []}, {"tolerations": []}),
        (
            {"resources": {"requests": {"cpu": "1", "memory": "1Gi"}}},
            {"resources": {"requests": {"cpu": 2}}},
            {"resources": {"requests": {"cpu": 2, "memory": "1Gi"}}},
        ),
        (
            {"podDisruptionBudget": {"enabled": False}},
            {"podDisruptionBudget": {"maxUnavailable": "10%"}},
            {"podDisruptionBudget": {"enabled": False, "maxUnavailable": "10%"}},
        ),
        (
            {"autoscaling": {"maxReplicas": 9, "behavior": {"scaleUp": {"a": 1}}, "metrics": [{"type": "Pods"}]}},
            {"autoscaling": {"minReplicas": 3, "behavior": {"scaleDown": {}}, "metrics": [{"type": "Object"}]}},
            {"autoscaling": {"minReplicas": 3, "maxReplicas": 9, "behavior": {"scaleUp": {"a": 1}, "scaleDown": {}},
                             "metrics": [{"type": "Object"}]}},
        ),
        ({"autoscaling": {"enabled": False}}, {"replicas": 4}, {"replicas": 4, "autoscaling": {"enabled": False}}),
    ],
)  # fmt: skip
def test_the_gateways_own_win_field_by_field(base: Any, own: Any, expected: Any) -> None:
    (status,) = world(base, own).gateways
    assert status.accepted.ok
    found = status.infrastructure.parameters
    assert found is not None
    assert found.model_dump(mode="json", by_alias=True, exclude_unset=True, exclude_none=True) == expected


MEMORY = {
    "type": "Resource",
    "resource": {"name": "memory", "target": {"type": "Utilization", "averageUtilization": 70}},
}
OF_A_CONTAINER = {
    "type": "ContainerResource",
    "containerResource": {"container": "gateway", "name": "cpu", "target": {"type": "Utilization"}},
}
PLAIN = {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "AverageValue", "averageValue": "200m"}}}
NONE: dict[str, Any] = {}


@pytest.mark.parametrize(
    ("base", "own", "told"),
    [
        ({"autoscaling": {"maxReplicas": 4}}, NONE, ""),
        ({"autoscaling": {"maxReplicas": 4}}, {"resources": {"requests": {"memory": "1Gi"}}}, "utilization of cpu"),
        (
            {"autoscaling": {"maxReplicas": 4}, "resources": {"requests": {"cpu": "1"}}},
            {"resources": {"limits": NONE}},
            "",
        ),
        ({"autoscaling": {"maxReplicas": 4}}, {"resources": {"limits": {"cpu": 2}}}, ""),
        ({"autoscaling": {"minReplicas": 4}}, NONE, "no maxReplicas"),
        ({"autoscaling": {"minReplicas": 4}}, {"autoscaling": {"maxReplicas": 4}}, ""),
        ({"autoscaling": {"minReplicas": 4}}, {"autoscaling": {"maxReplicas": 3}}, "minReplicas is larger"),
        ({"autoscaling": {"minReplicas": 4}}, {"autoscaling": {"enabled": False}}, ""),
        ({"autoscaling": {"maxReplicas": 4, "metrics": [PLAIN]}}, {"resources": {"requests": {"memory": "1Gi"}}}, ""),
        (
            {"autoscaling": {"maxReplicas": 4, "metrics": [MEMORY]}},
            {"resources": {"requests": {"cpu": 1}}},
            "of memory",
        ),
        ({"autoscaling": {"maxReplicas": 4, "metrics": [OF_A_CONTAINER]}}, {"resources": NONE}, "of cpu"),
        (
            {"autoscaling": {"maxReplicas": 4, "metrics": [{"type": "Resource", "resource": "x"}]}},
            {"resources": NONE},
            "",
        ),
    ],
)
def test_autoscaling_is_judged_by_what_both_say_together(base: Any, own: Any, told: str) -> None:
    (status,) = world(base, own).gateways
    assert (status.accepted.reason, status.infrastructure.usable) == (
        ("InvalidParameters", False) if told else ("Accepted", True)
    )
    assert told in status.accepted.message


def test_what_both_together_may_not_say_is_told_and_changes_nothing() -> None:
    (status,) = world({"service": {"externalTrafficPolicy": "Local"}}, {"service": {"type": "ClusterIP"}}).gateways
    assert (status.accepted.ok, status.accepted.reason) == (False, "InvalidParameters")
    assert "externalTrafficPolicy" in status.accepted.message
    assert not status.infrastructure.usable


def test_features_are_sorted_and_listed_once() -> None:
    assert list(SUPPORTED_FEATURES) == sorted(set(SUPPORTED_FEATURES))


def test_every_protocol_has_its_kinds() -> None:
    assert KINDS_OF_PROTOCOL.keys() == PROTOCOLS.keys()
    assert all(list(kinds) == sorted(kinds) for kinds in KINDS_OF_PROTOCOL.values())
