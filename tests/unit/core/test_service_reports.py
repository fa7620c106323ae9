"""What services say of their plugins, on the wire."""

from __future__ import annotations

import pytest
from nexus_core.snapshot import PluginReport, wire
from nexus_core.snapshot.service_reports import (
    decode_reports,
    encode_reports,
    parse_reports_key,
    reports_key,
    reports_prefix,
)

REPORTS = {
    "shop/b": PluginReport("disabled", "1.0.0", "PluginDisabled", "20 of its 20 calls failed."),
    "shop/a": PluginReport("loaded", "2.1.0"),
}


def test_reports_come_back_as_they_were() -> None:
    assert decode_reports(encode_reports(REPORTS)) == REPORTS
    assert encode_reports(REPORTS) == encode_reports(dict(reversed(REPORTS.items())))


@pytest.mark.parametrize("data", [b"", b"[]", b"\xff", b'{"a": 1}', b'{"a": {"state": "odd"}}', b"[" * 100_000])
def test_what_are_no_reports_is_told(data: bytes) -> None:
    with pytest.raises(wire.WireError, match="reports of plugins cannot be read"):
        decode_reports(data)


def test_a_key_names_the_service_and_the_instance() -> None:
    key = reports_key("shop/events", "events-7c9-8080", "mine")
    assert key == "mine/service-plugins/shop/events/events-7c9-8080"
    assert key.startswith(reports_prefix("mine"))
    assert parse_reports_key(key, "mine") == ("shop/events", "events-7c9-8080")


@pytest.mark.parametrize("key", ["mine/stats/a/b/c", "mine/service-plugins/a/b", "mine/service-plugins/a//c", "x", ""])
def test_other_keys_are_nobodys(key: str) -> None:
    assert parse_reports_key(key, "mine") is None
