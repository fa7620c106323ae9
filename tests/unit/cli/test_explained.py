"""Explanations as text for people."""

from __future__ import annotations

from typing import Any

import pytest
from nexus_cli.explained import render


@pytest.mark.parametrize("policy", ["tls", "balancing", "service_breaker", "concurrency"])
def test_names_and_what_is_said_of_them_are_apart_however_long_the_name_is(policy: str) -> None:
    found: dict[str, Any] = {
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
                "policies": {policy: {"value": {"limit": 3}, "from": "NexusService shop/orders"}},
            }
        ],
    }
    line = next(line for line in render(found).splitlines() if "limit=3" in line)
    assert line.split() == [policy.replace("_", "-"), "limit=3;", "from", "NexusService", "shop/orders"]
