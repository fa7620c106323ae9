"""`nexus explain URL -f`: which listener takes a request or a connection, told from manifests alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from nexus_cli import manifests
from nexus_cli.errors import UserError
from nexus_cli.explained import render
from nexus_cli.offline import explain_request, translate
from nexus_core.snapshot import Snapshot

EXAMPLE = Path(__file__).parents[3] / "examples" / "gateway-api"


@pytest.fixture(scope="module")
def snapshot() -> Snapshot:
    made = translate(manifests.load([EXAMPLE]))
    assert not made.problems
    return made.snapshot


def ask(snapshot: Snapshot, url: str, *headers: str, method: str = "GET") -> dict[str, Any]:
    return explain_request(snapshot, method, url, headers)


@pytest.mark.parametrize(
    ("url", "listener", "route"),
    [
        ("http://www.example.test/", "edge/edge/http", "HTTPRoute/edge/web"),
        ("http://www.example.test:8080/", "edge/edge/http", "HTTPRoute/edge/web"),
        ("http://127.0.0.1:8080/", "edge/edge/http", ""),
        ("https://www.example.test/", "edge/edge/https", "HTTPRoute/edge/web"),
        ("https://www.example.test:8443/", "edge/edge/https", "HTTPRoute/edge/web"),
        ("http://team.example.test:8088/", "edge/edge/edge/team/http", "HTTPRoute/edge/team"),
        ("http://team.example.test/", "edge/edge/http", ""),
    ],
)
def test_port_and_scheme_choose_the_listener(snapshot: Snapshot, url: str, listener: str, route: str) -> None:
    found = ask(snapshot, url)
    assert ([each["id"] for each in found["listeners"]], found["route"]) == ([listener], route)
    assert found["note"] == ""


def test_a_call_is_a_post_to_its_method(snapshot: Snapshot) -> None:
    found = ask(snapshot, "grpcs://calls.example.test/example.Greeter/Hello", method="POST")
    assert (found["route"], found["listeners"][0]["id"]) == ("GRPCRoute/edge/calls", "edge/edge/https")
    assert ask(snapshot, "grpc://calls.example.test/example.Other/Hello", method="POST")["route"] == ""


def test_another_host_than_the_connections_is_misdirected(snapshot: Snapshot) -> None:
    """The URL's host is what the client of TLS asks for; the header says which host the request is for."""
    found = ask(snapshot, "https://www.example.test/", "host: vault.example.test")
    assert found["refusal"] == "MisdirectedRequest"
    assert "421" in render(found)
    assert ask(snapshot, "https://www.example.test/", "host: other.example.test")["refusal"] == "RouteNotFound"


def test_a_port_that_no_listener_has_is_told_and_the_rest_all_the_same(snapshot: Snapshot) -> None:
    found = ask(snapshot, "http://www.example.test:9/")
    assert found["route"] == "HTTPRoute/edge/web"
    assert "No listener of HTTP is at port 9" in render(found)


@pytest.mark.parametrize(
    ("url", "does", "route", "upstream"),
    [
        ("tls://vault.example.test:443", "passes TLS on as it comes", "TLSRoute/edge/vault", "edge/vault"),
        ("tls://vault.example.test:8443", "passes TLS on as it comes", "TLSRoute/edge/vault", "edge/vault"),
        ("tls://lines.example.test:853", "ends TLS and passes bytes on", "TLSRoute/edge/lines", "edge/lines"),
        ("tls://www.example.test:443", "ends TLS and serves HTTP; ask with https://", "", ""),
        ("tcp://127.0.0.1:7", "passes bytes on", "TCPRoute/edge/lines", "edge/lines"),
        ("tcp://127.0.0.1:8007", "passes bytes on", "TCPRoute/edge/lines", "edge/lines"),
        ("udp://127.0.0.1:53", "passes datagrams on", "UDPRoute/edge/names", "edge/names"),
    ],
)
def test_connections(snapshot: Snapshot, url: str, does: str, route: str, upstream: str) -> None:
    found = ask(snapshot, url)
    assert (found["does"], found["route"]) == (does, route)
    assert [each["upstream"] for each in found["upstreams"]] == ([upstream] if upstream else [])
    assert does in render(found)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("tcp://127.0.0.1:9", "finds no TCP listener at port 9; there are: 7"),
        ("tls://other.test:443", "refuses the handshake"),
        ("https://other.test/", "refuses the handshake"),
        ("https://vault.example.test/", "ask with tls://"),
    ],
)
def test_what_finds_nobody_says_why(snapshot: Snapshot, url: str, says: str) -> None:
    found = ask(snapshot, url)
    assert not found["route"]
    assert says in render(found)


def test_a_scheme_that_no_gateway_serves_is_refused(snapshot: Snapshot) -> None:
    with pytest.raises(UserError, match="'ftp' is no scheme"):
        ask(snapshot, "ftp://www.example.test/")
