"""Redirects name the listener's port (Gateway API, HTTPRequestRedirectFilter.port), save where clients have to use another."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from nexus_core.snapshot import Match, Redirect, Route, Rule

from tests.integration.listeners.conftest import Listeners, listener, world
from tests.integration.listeners.test_ports import free_port


def redirect(*listeners: Any, **policy: Any) -> Route:
    rule = Rule("HTTPRoute/shop/r/0", (Match(),), filters=(Redirect(status=302, **policy),))
    return Route("HTTPRoute/shop/r", "HTTPRoute shop/r", tuple(sorted(each.id for each in listeners)), (), (rule,))


async def location(gateway: Listeners, port: int, host: str, *, plain: bool = True) -> str:
    reader, writer = await gateway.connect(port, "shop.example", plain=plain)
    writer.write(f"GET /a HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n".encode())
    async with asyncio.timeout(5):
        head = (await reader.read()).decode()
    return head.partition("location: ")[2].partition("\r\n")[0]


@pytest.mark.parametrize(
    ("host", "policy", "expected"),
    [
        ("shop.example", {"hostname": "new.example"}, "http://new.example:PORT/a"),
        ("shop.example:PORT", {"hostname": "new.example"}, "http://new.example:PORT/a"),
        # What Host says is the client's; the listener's port is what is.
        ("shop.example:1", {"hostname": "new.example"}, "http://new.example:PORT/a"),
        ("shop.example", {"scheme": "https"}, "https://shop.example/a"),
        ("shop.example", {"scheme": "http"}, "http://shop.example/a"),
        ("shop.example", {"port": 80}, "http://shop.example/a"),
        ("shop.example", {"port": 8443, "scheme": "https"}, "https://shop.example:8443/a"),
    ],
)
async def test_the_declared_port_counts_where_ports_are_opened_as_declared(
    gateway: Listeners, host: str, policy: dict[str, Any], expected: str
) -> None:
    http = listener("http", free_port())
    await gateway.start(world(http, redirect(http, **policy)), ports="declared", listen="127.0.0.1:8080")
    found = await location(gateway, http.port, host.replace("PORT", str(http.port)))
    assert found == expected.replace("PORT", str(http.port))


@pytest.mark.parametrize(
    ("host", "expected"),
    [("shop.example:8080", "http://new.example:8080/a"), ("shop.example", "http://new.example/a")],
)
async def test_a_port_that_is_opened_elsewhere_is_the_one_that_the_client_names(
    gateway: Listeners, host: str, expected: str
) -> None:
    http = listener("http", 80)
    await gateway.start(world(http, redirect(http, hostname="new.example")))
    assert await location(gateway, 80, host) == expected


@pytest.mark.parametrize("host", ["shop.example", "shop.example:1234", "shop.example:PORT"])
async def test_a_port_that_a_laptop_opens_as_declared_counts_whatever_the_client_names(
    gateway: Listeners, host: str
) -> None:
    usual, own = listener("usual", 80), listener("own", free_port())
    await gateway.start(world(usual, own, redirect(usual, own, path_kind="full", path="/x")))
    assert gateway.bound(own.port) == own.port
    expected = f"http://shop.example:{own.port}/x"
    assert await location(gateway, own.port, host.replace("PORT", str(own.port))) == expected


async def test_https_keeps_its_scheme_and_needs_no_port(gateway: Listeners) -> None:
    own = gateway.authority.certificate("own", "shop.example")
    https = listener("https", 443, "HTTPS", certificates=(own.id,))
    await gateway.start(world(https, own, redirect(https, hostname="new.example")))
    assert await location(gateway, 443, "shop.example", plain=False) == "https://new.example/a"
