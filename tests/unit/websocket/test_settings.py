"""Settings, and pushed events in every mode."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest
from multidict import CIMultiDict
from nexus_core.model.load import parse_text
from nexus_sdk import SettingsError
from nexus_websocket import cloudevents, settings

ROOT = Path(__file__).parents[3]


def test_feeds() -> None:
    parsed = settings.parse({"NEXUS_WEBSOCKET_EVENTS": "order.placed=orders, order.*=audit,order.placed=orders"})
    assert parsed.channels_of("order.placed") == ("orders", "audit")
    assert parsed.channels_of("order.paid") == ("audit",)
    assert parsed.channels_of("user.made") == ()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("NEXUS_WEBSOCKET_EVENTS", "order.placed"), ("NEXUS_WEBSOCKET_EVENTS", "a*b=c"), ("NEXUS_WEBSOCKET_EVENTS", "a=b c"),
        ("NEXUS_WEBSOCKET_PING_SECONDS", "0"), ("NEXUS_WEBSOCKET_PING_SECONDS", "nan"), ("NEXUS_WEBSOCKET_MAX_CONNECTIONS", "many"),
        ("NEXUS_WEBSOCKET_EVENTS_SERVICE", "A b"), ("NEXUS_WEBSOCKET_CLIENT_PUBLISH", "a b"),
    ],
)  # fmt: skip
def test_a_wrong_variable_is_named(name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=name):
        settings.parse({name: value})


@pytest.mark.parametrize(
    ("content_type", "body", "data"),
    [
        ("application/json", b'{"a": 1}', {"a": 1}), ("application/x+json", b"5", 5), ("text/plain", "ä".encode(), "ä"),
        ("application/octet-stream", b"\x00", {"base64": "AA=="}), ("", b"", None),
    ],
)  # fmt: skip
def test_binary_and_structured_events_become_the_same_data(content_type: str, body: bytes, data: object) -> None:
    headers = CIMultiDict(
        {"CE-specversion": "1.0", "ce-id": "1", "ce-source": "/s", "ce-type": "a%20b", "content-type": content_type}
    )
    (event,) = cloudevents.parse(headers, body)
    assert (event.type, json.loads(bytes(event.data))) == ("a b", data)
    document = {"specversion": "1.0", "id": "1", "source": "/s", "type": "a b", "traceparent": "tp"}
    if body:
        document |= {"datacontenttype": content_type, "data_base64": base64.b64encode(body).decode()}
    batch = json.dumps([document]).encode()
    (again,) = cloudevents.parse(CIMultiDict({"content-type": "application/cloudevents-batch+json"}), batch)
    assert (json.loads(bytes(again.data)), again.traceparent) == (data, "tp")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"[]",
        b'{"id": "1", "source": "/s", "type": 5}',
        b'{"id":"1","source":"/s","type":"t","data_base64":"!"}',
        b"\xff",
    ],
)
def test_what_is_no_event_is_refused(body: bytes) -> None:
    with pytest.raises(cloudevents.NotAnEvent):
        cloudevents.parse(CIMultiDict({"content-type": "application/cloudevents+json"}), body)


@pytest.mark.parametrize("name", ["events", "websocket"])
def test_the_manifests_of_the_services_are_valid(name: str) -> None:
    resources, problems = parse_text((ROOT / "services" / name / "service.yaml").read_text(), name)
    assert not problems
    assert [r.spec is not None and not r.problems for r in resources] == [True]


@pytest.mark.parametrize("name", ["events", "websocket"])
def test_every_variable_is_documented(name: str) -> None:
    import re

    page = (
        ROOT / "docs" / "reference" / {"events": "events-api.md", "websocket": "websocket-protocol.md"}[name]
    ).read_text()
    source = (ROOT / "services" / name / f"nexus_{name}" / "settings.py").read_text()
    read = set(re.findall(r'"(NEXUS_[A-Z_]+)"', source))
    assert len(read) >= 7
    assert {variable for variable in read if variable not in page} == set()
