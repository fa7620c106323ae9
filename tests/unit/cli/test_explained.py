"""Explanations as text for people."""

from __future__ import annotations

from typing import Any

import pytest
from nexus_cli.explained import render


@pytest.mark.parametrize("policy", ["tls", "balancing", "service_breaker", "concurrency"])
def test_names_and_what_is_said_of_them_are_apart_however_long_the_name_is(policy: str) -> None:
    line = next(line for line in render(explained(policy, {"limit": 3})).splitlines() if "limit=3" in line)
    assert line.split() == [policy.replace("_", "-"), "limit=3;", "from", "NexusService", "shop/orders"]


def explained(policy: str, value: dict[str, Any]) -> dict[str, Any]:
    """An explanation in which the upstream has this policy."""
    return {
        "request": {"method": "GET", "host": "shop.example", "path": "/"},
        "route": "HTTPRoute/shop/main",
        "rule": "HTTPRoute/shop/main/0",
        "why": "it matches.",
        "plugins": [],
        "filters": [],
        "upstreams": [
            {
                "upstream": "shop/orders",
                "share": 1.0,
                "weight": 1,
                "policies": {policy: {"value": value, "from": "NexusService shop/orders"}},
            }
        ],
    }


@pytest.mark.parametrize("policy", ["breaker", "service_breaker"])
@pytest.mark.parametrize(
    ("given", "expected"), [({"failures": 0}, "off;"), ({"failures": 0, "error_ratio": 0.5}, "error_ratio=0.5,")]
)
def test_a_circuit_that_nothing_opens_is_told_as_off(policy: str, given: dict[str, Any], expected: str) -> None:
    value = {"failures": 5, "reset_s": 10.0, "error_ratio": 0.0, "min_requests": 20, "window_s": 10.0, "probes": 1}
    line = next(line for line in render(explained(policy, value | given)).splitlines() if "NexusService" in line)
    name, first, *rest = line.split()
    assert (name, rest[-2:]) == (policy.replace("_", "-"), ["NexusService", "shop/orders"])
    assert expected in (first, *rest)
    assert ("reset_s=10," in rest or first == "reset_s=10,") == (expected != "off;")
