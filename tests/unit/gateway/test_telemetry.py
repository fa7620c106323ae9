"""Redaction, trace trees, and that every metric, setting, filter, balancer and hook is documented."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path
from typing import get_args

import msgspec
import pytest
from nexus_core.problems import catalogue
from nexus_core.snapshot import Filter
from nexus_gateway.balance.table import BALANCERS
from nexus_gateway.edge.replies import TITLES
from nexus_gateway.settings import GatewaySettings
from nexus_gateway.telemetry.names import METRICS
from nexus_gateway.telemetry.redactions import is_secret, redact_query
from nexus_gateway.telemetry.trees import SpanRecord, TraceBook

DOCS = Path(__file__).parents[3] / "docs" / "reference"


@pytest.mark.parametrize(
    "name",
    [
        "Authorization",
        "cookie",
        "set-cookie",
        "x-api-key",
        "access_token",
        "password",
        "sig",
        "code",
        "X-Amz-Signature",
    ],
)
def test_secrets_are_known_by_name(name: str) -> None:
    assert is_secret(name)


@pytest.mark.parametrize("name", ["accept", "monkey", "author", "x-request-id", "postcode", "design"])
def test_other_names_are_shown(name: str) -> None:
    assert not is_secret(name)


def test_redaction() -> None:
    assert redact_query("a=1&token=x&flag&api_key=") == "a=1&token=[redacted]&flag&api_key=[redacted]"


def span(trace: str, own: str, parent: str = "", start: int = 0) -> SpanRecord:
    return SpanRecord(trace, own, parent, "svc", own, "server", start, start + 10)


def test_traces_are_trees_whatever_the_order_of_arrival() -> None:
    book = TraceBook(2)
    for each in (span("t", "c", "b", 2), span("t", "a", "elsewhere"), span("t", "b", "a", 1), span("t", "d", "a", 3)):
        book.add(each)
    (trace,) = book.recent(5)
    (root,) = trace["spans"]
    assert (root["name"], [child["name"] for child in root["children"]]) == ("a", ["b", "d"])
    assert root["children"][0]["children"][0]["name"] == "c"


def test_the_book_is_bounded_and_survives_cycles() -> None:
    book = TraceBook(2)
    for trace in ("one", "two", "three"):
        book.add(span(trace, "a", "b"))
        book.add(span(trace, "b", "a"))
    assert [trace["trace_id"] for trace in book.recent(9)] == ["three", "two"]
    assert {each["name"] for each in book.recent(1)[0]["spans"]} == {"a", "b"}
    for number in range(2000):
        book.add(span("deep", f"{number}", f"{number - 1}"))
    assert (book.recent(1)[0]["span_count"], book.dropped) == (512, 1488)


def test_every_reason_a_client_reads_is_in_the_catalogue() -> None:
    assert set(TITLES) <= set(catalogue.REASONS)


def test_every_metric_is_documented_with_its_labels() -> None:
    text = (DOCS / "metrics.md").read_text()
    for metric in METRICS:
        name = metric.name + ("_total" if metric.kind == "counter" else "")
        row = next(line for line in text.splitlines() if f"`{name}`" in line)
        assert metric.kind in row
        assert all(f"`{label}`" in row for label in metric.labels), row


def test_every_setting_is_documented_with_its_variable() -> None:
    text = (DOCS / "gateway-settings.md").read_text()
    assert set(re.findall(r"^\| `([A-Z_]+)`", text, re.MULTILINE)) == {
        each.metadata["env"] for each in fields(GatewaySettings)
    }


def test_every_filter_and_balancer_is_documented() -> None:
    filters = (DOCS / "filters.md").read_text()
    assert set(re.findall(r"^## `([a-z-]+)`", filters, re.MULTILINE)) == {
        msgspec.inspect.type_info(kind).tag for kind in get_args(Filter)
    }
    balancers = (DOCS / "balancers.md").read_text()
    assert set(re.findall(r"^\| `([a-z-]+)`", balancers, re.MULTILINE)) == set(BALANCERS)
