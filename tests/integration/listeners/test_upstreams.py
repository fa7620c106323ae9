"""TLS to upstreams: names that certificates have to have, and the certificate that the gateway itself shows."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from pathlib import Path
from typing import Any

import pytest
from nexus_core.snapshot import GatewayPart, StaticAddresses, Upstream, UpstreamTls
from nexus_gateway.edge.tls.origination import is_one_of

from tests.integration.listeners.conftest import Listeners, answers, listener, world

ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b"


@pytest.mark.parametrize(
    ("wanted", "found", "expected"),
    [
        ([("dns", "a.example")], [("DNS", "a.example")], True),
        ([("dns", "A.Example.")], [("DNS", "a.example")], True),
        ([("dns", "a.example")], [("DNS", "*.example")], True),
        ([("dns", "b.a.example")], [("DNS", "*.example")], False),
        ([("dns", "*.example")], [("DNS", "a.example")], True),
        ([("dns", "*.example")], [("DNS", "b.a.example")], False),
        ([("dns", "*.example")], [("DNS", "*.example")], True),
        ([("dns", "*.example")], [("DNS", "example")], False),
        ([("dns", "example")], [("DNS", "*.example")], False),
        ([("uri", "spiffe://a/b")], [("URI", "spiffe://a/b")], True),
        ([("uri", "spiffe://a/b")], [("URI", "spiffe://a/b/c"), ("DNS", "spiffe://a/b")], False),
        ([("uri", "spiffe://a/b"), ("dns", "a.example")], [("DNS", "a.example")], True),
        ([("dns", "a.example")], [], False),
        ([("dns", "127.0.0.1")], [("IP Address", "127.0.0.1")], False),
    ],
)
def test_names_of_certificates(wanted: list[tuple[str, str]], found: list[tuple[str, str]], expected: bool) -> None:
    assert is_one_of(wanted, found) is expected


async def serve(gateway: Listeners, context: ssl.SSLContext, asked: list[str]) -> int:
    """Start an upstream over TLS that answers with the name of its client's certificate; asked: names it was asked for."""

    def name(_: Any, server_name: str | None, __: Any) -> None:
        asked.append(server_name or "")

    context.sni_callback = name

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while await reader.readuntil(b"\r\n\r\n"):
                shown = writer.get_extra_info("ssl_object").getpeercert() or {}
                body = ",".join(value for _, value in shown.get("subjectAltName", ())).encode()
                writer.write(ANSWER % (len(body), body))

    server = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=context)
    gateway.servers.append(server)
    return int(server.sockets[0].getsockname()[1])


@pytest.mark.parametrize(
    ("names", "status"),
    [
        ((("dns", "inner.example"),), 200),
        ((("uri", "spiffe://shop/orders"),), 200),
        ((("dns", "other.example"), ("uri", "spiffe://shop/orders")), 200),
        ((("dns", "other.example"),), 502),
        ((("uri", "spiffe://shop/other"),), 502),
    ],
)
async def test_a_certificate_has_to_have_one_of_the_names_and_the_servers_name_is_for_sni_alone(
    gateway: Listeners, tmp_path: Path, names: Any, status: int
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*gateway.authority.write(tmp_path, "inner", "inner.example", uris=["spiffe://shop/orders"]))
    asked: list[str] = []
    port = await serve(gateway, context, asked)
    tls = UpstreamTls(server_name="sni.example", ca=gateway.authority.pem, subject_alt_names=names)
    http = listener("http", 80)
    upstream = Upstream("shop/a", "NexusService shop/a", StaticAddresses((("127.0.0.1", port),)), tls=tls)
    await gateway.start(world(http, answers("a", http), upstream))
    assert (await gateway.get(80, "api.example", plain=True))[0] == status
    assert set(asked) == {"sni.example"}


async def test_a_gateways_certificate_is_shown_to_upstreams_and_changes_with_the_snapshot(
    gateway: Listeners, tmp_path: Path
) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cadata=gateway.authority.pem)
    context.verify_mode = ssl.CERT_OPTIONAL
    context.load_cert_chain(*gateway.authority.write(tmp_path, "inner", "inner.example"))
    port = await serve(gateway, context, [])
    tls = UpstreamTls(server_name="inner.example", ca=gateway.authority.pem)
    http = listener("http", 80)
    upstream = Upstream("shop/a", "NexusService shop/a", StaticAddresses((("127.0.0.1", port),)), tls=tls)
    rest = (http, answers("a", http), upstream)
    one, two = gateway.authority.certificate("one", "one.example"), gateway.authority.certificate("two", "two.example")
    await gateway.start(world(*rest))
    assert await gateway.get(80, "api.example", plain=True) == (200, "")
    for shown in (one, two):
        await gateway.publish(world(*rest, shown, GatewayPart("shop/main", "Gateway shop/main", shown.id)))
        name = shown.id.rpartition("/")[2]
        assert await gateway.get(80, "api.example", plain=True) == (200, f"{name}.example")
    await gateway.publish(
        world(
            *rest, one, two, GatewayPart("shop/main", "Gateway shop/main", one.id),
            GatewayPart("shop/other", "Gateway shop/other", two.id),
        )
    )  # fmt: skip
    assert await gateway.get(80, "api.example", plain=True) == (200, "")
    assert "ClientCertificateUnusable" in str(await gateway.ask("/problems"))
