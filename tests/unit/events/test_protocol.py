"""CloudEvents over HTTP: right and wrong input, and the foreign `cloudevents` package as a peer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from cloudevents.core.bindings.http import HTTPMessage, from_http_event, to_binary_event, to_structured_event
from cloudevents.core.v1.event import CloudEvent as ForeignEvent
from nexus_events import protocol
from nexus_events.protocol import CloudEvent, Limits, Refused

STRUCTURED = {"content-type": "application/cloudevents+json; charset=utf-8"}
BATCH = {"content-type": protocol.BATCH}
LIMITS = Limits()
GOOD: dict[str, Any] = {"specversion": "1.0", "id": "1", "source": "/s", "type": "t"}


def parse(headers: Mapping[str, str], body: bytes | object, limits: Limits = LIMITS) -> tuple[CloudEvent, ...]:
    return protocol.parse(headers.items(), body if isinstance(body, bytes) else json.dumps(body).encode(), limits)


def refusal(headers: Mapping[str, str], body: bytes | object, limits: Limits = LIMITS) -> Refused:
    with pytest.raises(Refused) as stop:
        parse(headers, body, limits)
    assert all(p.where and p.what and p.fix for p in stop.value.problems)
    return stop.value


@pytest.mark.parametrize(
    ("more", "data", "attributes"),
    [
        ({}, None, {}),
        ({"data": {"a": [1, 1.5, None]}}, b'{"a": [1, 1.5, null]}', {"datacontenttype": "application/json"}),
        ({"data": None}, None, {}),
        ({"data": "text"}, b'"text"', {"datacontenttype": "application/json"}),
        ({"data": "<a/>", "datacontenttype": "text/xml"}, b"<a/>", {"datacontenttype": "text/xml"}),
        ({"data": 5, "datacontenttype": "application/vnd.x+json"}, b"5", {"datacontenttype": "application/vnd.x+json"}),
        ({"data_base64": "AP8="}, b"\x00\xff", {}),
        ({"time": "2026-11-21T08:00:00.123456789Z", "subject": None}, None, {"time": "2026-11-21T08:00:00.123456789Z"}),
        ({"ext1": True, "ext2": -7, "ext3": "ä"}, None, {"ext1": True, "ext2": -7, "ext3": "ä"}),
        ({"source": "https://shop.example/a?b=c#d", "dataschema": "urn:x:1"}, None, {"dataschema": "urn:x:1"}),
    ],
)
def test_structured_events(more: dict[str, Any], data: bytes | None, attributes: dict[str, Any]) -> None:
    (event,) = parse(STRUCTURED, {**GOOD, **more})
    assert (event.data, event.attributes) == (data, attributes)
    assert protocol.from_json(protocol.to_json(event)) == event


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"specversion": "0.3"}, ".specversion"), ({"specversion": None}, ".specversion"), ({"id": ""}, ".id"), ({"id": 7}, ".id"),
        ({"source": None}, ".source"), ({"source": "a b"}, ".source"), ({"type": "a\nb"}, ".type"), ({"type": "a\ud800"}, None),
        ({"time": "yesterday"}, ".time"), ({"time": "2026-13-01T00:00:00Z"}, ".time"), ({"time": "2026-11-21T08:00:00"}, ".time"),
        ({"dataschema": "not/absolute"}, ".dataschema"), ({"subject": ""}, ".subject"), ({"datacontenttype": "x"}, ".datacontenttype"),
        ({"Upper": "x"}, ".Upper"), ({"under_score": 1}, ".under_score"), ({"x" * 65: 1}, "." + "x" * 65),
        ({"ext": 1.5}, ".ext"), ({"ext": [1]}, ".ext"), ({"ext": {"a": 1}}, ".ext"), ({"ext": 2**31}, ".ext"), ({"ext": "a\x07"}, ".ext"),
        ({"data": 1, "data_base64": "AA=="}, ".data_base64"), ({"data_base64": "!"}, ".data_base64"), ({"data_base64": 5}, ".data_base64"),
        ({"data": {"a": 1}, "datacontenttype": "text/plain"}, ".data"),
    ],
)  # fmt: skip
def test_structured_events_that_are_refused_say_where(change: dict[str, Any], where: str | None) -> None:
    error = refusal(STRUCTURED, {**GOOD, **change})
    assert error.status == 400
    assert where is None or error.problems[0].where == where


@pytest.mark.parametrize("body", [b"", b"[]", b"5", b"{", b"\xff", b'{"id": "\xff"}', b"[" * 100_000])
def test_broken_bodies_are_refused(body: bytes) -> None:
    assert refusal(STRUCTURED, body).status == 400
    assert refusal(BATCH, body if body != b"[]" else b"[5]").status == 400


def test_a_batch_is_taken_whole_or_refused_whole_with_every_problem() -> None:
    assert parse(BATCH, []) == ()
    assert [e.id for e in parse(BATCH, [GOOD, {**GOOD, "id": "2"}])] == ["1", "2"]
    error = refusal(BATCH, [GOOD, {**GOOD, "id": ""}, {**GOOD, "time": "x", "source": ""}])
    assert [p.where for p in error.problems] == ["[1].id", "[2].source", "[2].time"]
    assert len(refusal(BATCH, [{}] * 500).problems) == protocol.MAX_PROBLEMS


def test_sizes() -> None:
    small = Limits(event_bytes=200, batch=2)
    assert refusal(STRUCTURED, {**GOOD, "data": "x" * 300}, small).status == 413
    assert refusal(BATCH, [GOOD] * 3, small).status == 413
    assert refusal({**binary(), "content-type": "text/plain"}, b"x" * 300, small).status == 413


def binary(**more: str) -> dict[str, str]:
    return {"CE-SpecVersion": "1.0", "Ce-Id": "1", "ce-source": "/s", "ce-type": "t", **more}


def test_binary_mode_decodes_headers_and_leaves_the_data_alone() -> None:
    (event,) = parse(
        binary(
            **{
                "content-type": "text/plain",
                "ce-greeting": "Euro%20%E2%82%AC%20%F0%9F%98%80",
                "ce-quoted": '"a \\"b\\""',
            }
        ),
        b"x\x00",
    )
    assert event.attributes == {"datacontenttype": "text/plain", "greeting": "Euro € 😀", "quoted": 'a "b"'}
    assert event.data == b"x\x00"
    assert parse(binary(), b"")[0].data is None


@pytest.mark.parametrize(
    ("headers", "body", "where"),
    [
        (binary(**{"ce-id": ""}), b"", "ce-id"), (binary(**{"ce-datacontenttype": "x/y"}), b"", "ce-datacontenttype"),
        (binary(**{"ce-x": "%FF"}), b"", "ce-x"), (binary(**{"ce-a_b": "1"}), b"", "ce-a_b"),
        (binary(**{"content-type": "application/json"}), b"{", "body"), ({"ce-specversion": "1.0"}, b"", "ce-id"),
    ],
)  # fmt: skip
def test_binary_events_that_are_refused_say_where(headers: dict[str, str], body: bytes, where: str) -> None:
    assert where in [p.where for p in refusal(headers, body).problems]


def test_an_attribute_twice_is_refused() -> None:
    with pytest.raises(Refused, match="more than once"):
        protocol.parse([*binary().items(), ("ce-ID", "2")], b"")


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"content-type": "application/json"},
        {"content-type": "application/cloudevents+xml"},
        {"content-type": protocol.STRUCTURED + ";charset=latin-1"},
    ],
)
def test_what_is_no_cloudevent_gets_415(headers: dict[str, str]) -> None:
    assert refusal(headers, GOOD).status == 415


@pytest.mark.parametrize(
    ("content_type", "data"),
    [
        ("application/json", {"a": ["ä", 1]}),
        ("text/plain", "grüße"),
        ("application/octet-stream", b"\x00\xff"),
        (None, None),
    ],
)
@pytest.mark.parametrize("write", [to_structured_event, to_binary_event])
def test_the_foreign_package_and_we_understand_each_other(write: Any, content_type: str | None, data: Any) -> None:
    attributes = {"id": "ä 1%", "source": "/shop/a", "type": "t", "subject": 'a "quoted" one', "ext": "€"}
    if content_type:
        attributes["datacontenttype"] = content_type
    theirs = ForeignEvent(attributes, data)
    message = write(theirs)
    (ours,) = parse(dict(message.headers), message.body)
    assert (ours.id, ours.source, ours.attributes["subject"], ours.attributes["ext"]) == (
        "ä 1%",
        "/shop/a",
        'a "quoted" one',
        "€",
    )
    headers, body = protocol.to_binary(ours)
    for back in (
        HTTPMessage(headers, body),
        HTTPMessage({"content-type": protocol.STRUCTURED}, protocol.to_json(ours)),
    ):
        again = from_http_event(back)
        assert again.get_id() == "ä 1%"
        assert again.get_extension("ext") == "€"
        assert again.get_data() == data or (data is None and not again.get_data())
