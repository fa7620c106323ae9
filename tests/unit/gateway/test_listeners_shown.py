"""Where listeners are, as people are told."""

from __future__ import annotations

import pytest
from nexus_core.snapshot import Listener, ListenerTls
from nexus_gateway.edge.listeners.plans import Addresses, build
from nexus_gateway.edge.listeners.shown import ListenerRow, address, rows

LISTENERS = (
    Listener("shop/main/web", "Gateway shop/main", 80),
    Listener("shop/main/lines", "Gateway shop/main", 7, protocol="TCP"),
    Listener("shop/main/secure", "Gateway shop/main", 443, "a.example", "HTTPS", ListenerTls()),
)
PLAN = build(LISTENERS, Addresses(False, ("0.0.0.0",), ("0.0.0.0", 8080)))


def test_each_listener_has_the_address_that_is_open() -> None:
    bound = {key: 1000 + index for index, key in enumerate(sorted(PLAN.doors))}
    found = {row.listener: row for row in rows(LISTENERS, PLAN, bound, {}, {})}
    assert list(found) == sorted(found)
    assert found["shop/main/lines"] == ListenerRow(
        "shop/main/lines", "Gateway shop/main", "TCP", "", 7, bound["tcp:8007"], f"tcp://127.0.0.1:{bound['tcp:8007']}"
    )
    assert found["shop/main/secure"].url == f"https://127.0.0.1:{bound['tls-listen']}"
    assert {row.problem for row in found.values()} == {""}


def test_what_is_not_served_has_no_address_and_a_reason() -> None:
    """A port may be open for one listener, and another of it refused for its certificate."""
    bound = dict.fromkeys(PLAN.doors, 9)
    web, lines, secure = (
        next(row for row in rows(LISTENERS, PLAN, bound, {"shop/main/web": "why."}, {"shop/main/secure": "hm."}) if row.listener == each.id)
        for each in LISTENERS
    )  # fmt: skip
    assert (web.url, web.bound, web.problem) == ("", 0, "why.")
    assert (secure.url, secure.problem) == ("https://127.0.0.1:9", "hm.")
    assert lines.problem == ""
    del bound["tcp:8007"]
    assert next(row for row in rows(LISTENERS, PLAN, bound, {}, {}) if row.listener == "shop/main/lines").url == ""


@pytest.mark.parametrize(
    ("host", "url"),
    [("127.0.0.1", "http://127.0.0.1:80"), ("0.0.0.0", "http://127.0.0.1:80"), ("::", "http://[::1]:80"), ("::1", "http://[::1]:80")],
)  # fmt: skip
def test_an_address_can_be_connected_to(host: str, url: str) -> None:
    assert address("http", host, 80) == url
