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
from nexus_gateway.filters.table import FILTERS, build_filters

CASES = [
    pytest.param(case, id=f"{path.stem}: {case['name']}")
    for path in sorted((Path(__file__).parent / "filters").glob("*.yaml"))
    for case in yaml.safe_load(path.read_text())
]


def headers(found: list[str] | None) -> tuple[tuple[str, str], ...]:
    return tuple((name.strip(), value.strip()) for name, _, value in (line.partition(":") for line in found or []))


@pytest.mark.parametrize("case", CASES)
def test_filter(case: dict[str, Any]) -> None:
    (made,) = build_filters([msgspec.convert(case["filter"], Filter)])
    if "request" in case:
        sent = dict(case["request"])
        lines = headers(sent.pop("headers", None))
        head = RequestHead("GET", sent.pop("path", "/"), sent.pop("query", ""), sent.pop("host", "shop"), lines)
        result = made.on_request(head, Place(**sent))
        wanted = dict(case["expect"])
        if isinstance(result, Reply):
            assert {"status": result.status, "location": dict(result.headers)["location"]} == wanted
            return
        for field, value in wanted.items():
            assert getattr(result, field) == (headers(value) if field == "headers" else value), field
        assert made.on_response(ResponseHead(200, (("x", "1"),))) == ResponseHead(200, (("x", "1"),))
    else:
        response = made.on_response(ResponseHead(200, headers(case["response"])))
        assert response.headers == headers(case["expect"])
        untouched = RequestHead("GET", "/", headers=(("x", "1"),))
        assert made.on_request(untouched, Place()) == untouched


def test_every_filter_has_cases() -> None:
    kinds = {case.values[0]["filter"]["type"] for case in CASES}
    assert kinds == {msgspec.inspect.type_info(kind).tag for kind in FILTERS}
