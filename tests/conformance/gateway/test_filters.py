"""Every `filters/*.yaml`: a filter, a request or response, and what must come of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from nexus_core.hooks import Reply, RequestHead, ResponseHead
from nexus_core.snapshot import Filter
from nexus_gateway.filters.place import Place
from nexus_gateway.filters.table import FILTERS

CASES = [
    pytest.param(case, id=f"{path.stem}: {case['name']}")
    for path in sorted((Path(__file__).parent / "filters").glob("*.yaml"))
    for case in yaml.safe_load(path.read_text())
]


def headers(found: list[str] | None) -> tuple[tuple[str, str], ...]:
    return tuple((name.strip(), value.strip()) for name, _, value in (line.partition(":") for line in found or []))


def check_reply(reply: Reply, wanted: dict[str, Any]) -> None:
    """wanted: `status`, and what of `location`, `headers` (all of them) and `body` is said."""
    assert reply.status == wanted["status"]
    if "location" in wanted:
        assert dict(reply.headers)["location"] == wanted["location"]
    if "headers" in wanted:
        assert sorted(reply.headers) == sorted(headers(wanted["headers"]))
    assert reply.body.decode() == wanted.get("body", "")


@pytest.mark.parametrize("case", CASES)
def test_filter(case: dict[str, Any]) -> None:
    """`request` alone: what goes on, or the reply. `response` alone: what the client gets. Both: the response to that request."""
    policy = msgspec.convert(case["filter"], Filter)
    made = FILTERS[type(policy)](policy)
    sent = dict(case.get("request", {}))
    lines = headers(sent.pop("headers", None))
    head = RequestHead(
        sent.pop("method", "GET"), sent.pop("path", "/"), sent.pop("query", ""), sent.pop("host", "shop"), lines
    )
    result = made.on_request(head, Place(**sent))
    if "response" in case:
        assert result == head
        response = made.on_response(head, ResponseHead(200, headers(case["response"])))
        assert response.status == 200
        assert response.headers == headers(case["expect"])
        return
    wanted = dict(case["expect"])
    if isinstance(result, Reply):
        check_reply(result, wanted)
        return
    for field, value in wanted.items():
        assert getattr(result, field) == (headers(value) if field == "headers" else value), field
    if case["filter"]["type"] != "cors":
        assert made.on_response(result, ResponseHead(200, (("x", "1"),))) == ResponseHead(200, (("x", "1"),))


def test_every_filter_has_cases() -> None:
    kinds = {case.values[0]["filter"]["type"] for case in CASES}
    assert kinds == {msgspec.inspect.type_info(kind).tag for kind in FILTERS}
