"""What a gateway lends to its plugins."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from nexus_gateway.building import find_endpoint


def endpoint(authority: str, **fields: Any) -> Any:
    values = {"healthy": True, "draining": False, "active": 0, "attempts": 0, "state": "closed", **fields}
    return SimpleNamespace(authority=authority, breaker=SimpleNamespace(state=values.pop("state")), **values)


CASES: dict[str, tuple[list[Any], str | None]] = {
    "none": ([], None),
    "the one there is": ([endpoint("a:1")], "a:1"),
    "that with the least to do": ([endpoint("a:1", active=2), endpoint("b:1", active=1)], "b:1"),
    "else that which was asked least": ([endpoint("a:1", attempts=9), endpoint("b:1", attempts=3)], "b:1"),
    "not one that is ill": ([endpoint("a:1", healthy=False), endpoint("b:1", active=9)], "b:1"),
    "not one that leaves": ([endpoint("a:1", draining=True), endpoint("b:1", active=9)], "b:1"),
    "not one whose circuit is open": ([endpoint("a:1", state="open"), endpoint("b:1", active=9)], "b:1"),
    "all are ill: any is better than none": ([endpoint("a:1", healthy=False)], "a:1"),
}


@pytest.mark.parametrize("name", CASES)
def test_the_endpoint_that_a_plugin_calls(name: str) -> None:
    endpoints, found = CASES[name]
    pools: Any = {"shop/orders": SimpleNamespace(endpoints=endpoints)}
    assert find_endpoint(pools, "shop/orders") == found
    assert find_endpoint(pools, "shop/other") is None
