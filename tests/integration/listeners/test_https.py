"""HTTPS listeners of a Snapshot: certificates by name and kind of key, who serves which host, 421, clients' certificates."""

from __future__ import annotations

import asyncio
import ssl
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from h2.connection import H2Connection
from h2.events import ResponseReceived
from nexus_core.certificates.sealing import Sealer, process_sealer
from nexus_core.snapshot import Certificate, ListenerTls, StaticAddresses, Upstream
from nexus_gateway.edge.tls.keyring import Opened
from nexus_gateway.edge.tls.lenient import LenientContext
from nexus_gateway.testing import until
from OpenSSL import SSL

from tests.integration.listeners.conftest import Authority, Listeners, answers, ask, listener, world


def shown(context: ssl.SSLContext, writer: Any) -> x509.Certificate:
    return x509.load_der_x509_certificate(writer.get_extra_info("ssl_object").getpeercert(True))


def names(certificate: x509.Certificate) -> list[str]:
    found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return found.get_values_for_type(x509.DNSName)


async def test_an_https_listener_ends_tls_with_the_certificate_of_the_snapshot(gateway: Listeners) -> None:
    own = gateway.authority.certificate("api", "api.example")
    https = listener("https", 443, "HTTPS", certificates=(own.id,))
    await gateway.start(world(https, own, answers("a", https), await gateway.serve("a")))
    context = gateway.context()
    context.check_hostname = True
    assert await gateway.get(443, "api.example", context=context) == (200, "a")


@pytest.mark.parametrize(
    ("sni", "expected"),
    [
        ("api.example", ["api.example"]),
        ("shop.example", ["*.example"]),
        ("a.shop.example", ["api.example"]),  # a wildcard of a certificate stands for one label: the first is shown
        ("", ["api.example"]),
    ],
)
async def test_of_several_certificates_the_one_for_the_name_is_shown(
    gateway: Listeners, sni: str, expected: list[str]
) -> None:
    one, two = gateway.authority.certificate("one", "api.example"), gateway.authority.certificate("two", "*.example")
    https = listener("https", 443, "HTTPS", certificates=(one.id, two.id))
    await gateway.start(world(https, one, two, answers("a", https), await gateway.serve("a")))
    context = gateway.context()
    _, writer = await gateway.connect(443, sni, context)
    assert names(shown(context, writer)) == expected


@pytest.mark.parametrize(
    ("ciphers", "kind"), [("ECDHE-RSA-AES128-GCM-SHA256", "rsa"), ("ECDHE-ECDSA-AES128-GCM-SHA256", "ec")]
)
async def test_of_two_kinds_of_keys_the_one_that_the_client_understands_is_shown(
    gateway: Listeners, ciphers: str, kind: str
) -> None:
    ec, rsa_ = (gateway.authority.certificate(each, "api.example", kind=each) for each in ("ec", "rsa"))
    https = listener("https", 443, "HTTPS", certificates=(ec.id, rsa_.id))
    await gateway.start(world(https, ec, rsa_, answers("a", https), await gateway.serve("a")))
    context = gateway.context()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(ciphers)
    _, writer = await gateway.connect(443, "api.example", context)
    assert isinstance(shown(context, writer).public_key(), rsa.RSAPublicKey) is (kind == "rsa")


@pytest.mark.parametrize(
    ("sni", "host", "expected"),
    [
        ("example.org", "example.org", (200, "any")),
        ("example.org", "second-example.org", 421),
        ("example.org", "unknown-example.org", 404),
        ("second-example.org", "second-example.org", (200, "second")),
        ("second-example.org", "example.org", 421),
        ("second-example.org", "unknown-example.org", 421),
        ("third.wildcard.org", "third.wildcard.org", (200, "wildcard")),
        ("third.wildcard.org", "fifth.wildcard.org", (200, "wildcard")),
        ("third.wildcard.org", "fourth.wildcard.org", 421),
        ("third.wildcard.org", "second-example.org", 421),
        ("third.wildcard.org", "unknown-example.org", 421),
        ("fourth.wildcard.org", "fourth.wildcard.org", (200, "fourth")),
        ("fourth.wildcard.org", "fifth.wildcard.org", 421),
        ("unknown-example.org", "example.org", (200, "any")),
        ("unknown-example.org", "unknown-example.org", 404),
        ("", "example.org", (200, "any")),
    ],
)
async def test_a_host_of_another_listener_than_the_one_asked_for_by_tls_is_misdirected(
    gateway: Listeners, sni: str, host: str, expected: Any
) -> None:
    own = gateway.authority.certificate("own", "example.org")
    every = listener("any", 443, "HTTPS", certificates=(own.id,))
    second = listener("second", 443, "HTTPS", "second-example.org", certificates=(own.id,))
    wildcard = listener("wildcard", 443, "HTTPS", "*.wildcard.org", certificates=(own.id,))
    fourth = listener("fourth", 443, "HTTPS", "fourth.wildcard.org", certificates=(own.id,))
    await gateway.start(
        world(
            every, second, wildcard, fourth, own,
            answers("any", every, hostnames=("example.org",)),
            *(answers(each.id.rpartition("/")[2], each) for each in (second, wildcard, fourth)),
            *[await gateway.serve(name) for name in ("any", "second", "wildcard", "fourth")],
        )
    )  # fmt: skip
    status, body = await gateway.get(443, host, sni)
    if isinstance(expected, int):
        assert status == expected
        assert ("MisdirectedRequest" if expected == 421 else "RouteNotFound") in body
    else:
        assert (status, body) == expected


@pytest.mark.parametrize("sni", ["other.example", ""])
async def test_a_name_that_no_listener_serves_is_refused_in_the_handshake(gateway: Listeners, sni: str) -> None:
    own = gateway.authority.certificate("own", "api.example")
    https = listener("https", 443, "HTTPS", "api.example", certificates=(own.id,))
    await gateway.start(world(https, own, answers("a", https), await gateway.serve("a")))
    with pytest.raises(ssl.SSLError, match=r"UNRECOGNIZED_NAME|unrecognized name"):
        await gateway.connect(443, sni)


async def test_a_certificate_changes_without_a_connection_lost(gateway: Listeners) -> None:
    old = gateway.authority.certificate("own", "api.example", "old.example")
    https = listener("https", 443, "HTTPS", certificates=(old.id,))
    rest = (https, answers("a", https), await gateway.serve("a"))
    await gateway.start(world(old, *rest))
    kept = await gateway.connect(443, "api.example")
    assert await ask(*kept, "api.example") == (200, "a")
    new = gateway.authority.certificate("own", "api.example", "new.example")
    await gateway.publish(world(new, *rest))
    assert await ask(*kept, "api.example") == (200, "a")
    context = gateway.context()
    _, writer = await gateway.connect(443, "api.example", context)
    assert names(shown(context, writer)) == ["api.example", "new.example"]


async def test_a_key_that_cannot_be_opened_costs_its_listener_alone(gateway: Listeners) -> None:
    good = gateway.authority.certificate("good", "good.example")
    chain, key = gateway.authority.issue("bad.example")
    sealed = Sealer(bytes(32)).seal(key, "Secret/shop/bad", ["shop/main"])
    bad = Certificate("Secret/shop/bad", "Secret shop/bad", chain, *sealed)
    one = listener("good", 443, "HTTPS", "good.example", certificates=(good.id,))
    two = listener("bad", 443, "HTTPS", "bad.example", certificates=(bad.id,))
    await gateway.start(world(one, two, good, bad, answers("a", one, two), await gateway.serve("a")))
    assert await gateway.get(443, "good.example") == (200, "a")
    with pytest.raises(ssl.SSLError):
        await gateway.connect(443, "bad.example")
    [ack] = gateway.source.acks
    assert list(ack.listeners) == [two.id]
    assert "NEXUS_SEAL_KEY" in ack.listeners[two.id]
    problems = await gateway.ask("/problems")
    assert "ListenerNotOpen" in str(problems)
    assert key.decode().splitlines()[1] not in str(problems)


async def test_a_certificate_that_is_sealed_with_a_new_key_is_shown_on(gateway: Listeners) -> None:
    """The process does not have the new key: one that does takes its place, and until then clients notice nothing."""
    own = gateway.authority.certificate("own", "api.example")
    https = listener("https", 443, "HTTPS", certificates=(own.id,))
    rest = (https, answers("a", https), await gateway.serve("a"))
    await gateway.start(world(own, *rest))
    key, holders = Sealer(bytes(32)).seal(process_sealer().unseal(own), own.id, ["shop/main"])
    for number in (1, 2):  # the second Snapshot finds what the first one kept
        await gateway.publish(world(msgspec.structs.replace(own, key=key, holders=holders), *rest))
        assert await gateway.get(443, "api.example") == (200, "a"), number
        assert not gateway.source.acks[-1].listeners
    other = gateway.authority.certificate("own", "api.example")
    await gateway.publish(world(msgspec.structs.replace(other, key=key, holders=holders), *rest))
    assert list(gateway.source.acks[-1].listeners) == [https.id]


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_clients_prove_who_they_are(gateway: Listeners, tmp_path: Path, version: ssl.TLSVersion) -> None:
    own, clients, strangers = (
        gateway.authority.certificate("own", "api.example"),
        Authority("clients"),
        Authority("strangers"),
    )
    https = listener("https", 443, "HTTPS", certificates=(own.id,), client_authorities=clients.pem)
    await gateway.start(world(https, own, answers("a", https), await gateway.serve("a")))
    for pair, welcome in (
        (clients.write(tmp_path, "client", "client"), True),
        (strangers.write(tmp_path, "stranger", "client"), False),
        (None, False),
    ):
        context = gateway.context(pair=pair)
        context.minimum_version = context.maximum_version = version
        if welcome:
            assert await gateway.get(443, "api.example", context=context) == (200, "a")
        else:
            with pytest.raises((ssl.SSLError, ConnectionError, EOFError)):
                await gateway.get(443, "api.example", context=context)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_neither_a_session_nor_a_connection_carries_a_client_past_a_changed_authority(
    gateway: Listeners, tmp_path: Path, version: ssl.TLSVersion
) -> None:
    own, clients = gateway.authority.certificate("own", "api.example"), Authority("clients")

    def with_authority(authority: Authority) -> Any:
        return listener("https", 443, "HTTPS", certificates=(own.id,), client_authorities=authority.pem)

    first = with_authority(clients)
    rest = (own, answers("a", first), await gateway.serve("a"))
    await gateway.start(world(first, *rest))
    context = gateway.context(pair=clients.write(tmp_path, "client", "client"))
    context.minimum_version = context.maximum_version = version
    reader, writer = await gateway.connect(443, "api.example", context)
    assert await ask(reader, writer, "api.example") == (200, "a")
    session = writer.get_extra_info("ssl_object").session
    await gateway.publish(world(with_authority(Authority("others")), *rest))
    await until(reader.at_eof)

    class Resuming(ssl.SSLContext):
        def wrap_bio(self, *args: Any, **kwargs: Any) -> ssl.SSLObject:
            return super().wrap_bio(*args, **{**kwargs, "session": session})

    context.__class__ = Resuming
    with pytest.raises((ssl.SSLError, ConnectionError, EOFError)):
        await gateway.get(443, "api.example", context=context)


async def test_a_minimum_version_holds(gateway: Listeners) -> None:
    own = gateway.authority.certificate("own", "api.example")
    https = listener("https", 443, "HTTPS", certificates=(own.id,), minimum="1.3")
    await gateway.start(world(https, own, answers("a", https), await gateway.serve("a")))
    context = gateway.context()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(ssl.SSLError):
        await gateway.connect(443, "api.example", context)
    assert await gateway.get(443, "api.example") == (200, "a")


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_clients_without_a_valid_certificate_are_let_in_where_the_listener_says_so(
    gateway: Listeners, tmp_path: Path, version: ssl.TLSVersion
) -> None:
    own, clients, strangers = (
        gateway.authority.certificate("own", "api.example"),
        Authority("clients"),
        Authority("strangers"),
    )
    lenient = listener(
        "https", 443, "HTTPS", certificates=(own.id,), client_authorities=clients.pem, client_optional=True
    )
    await gateway.start(world(lenient, own, answers("a", lenient), await gateway.serve("a")))
    for pair in (clients.write(tmp_path, "client", "c"), strangers.write(tmp_path, "stranger", "c"), None):
        context = gateway.context(pair=pair)
        context.minimum_version = context.maximum_version = version
        reader, writer = await gateway.connect(443, "api.example", context)
        for _ in range(3):
            assert await ask(reader, writer, "api.example") == (200, "a")


async def test_large_bodies_pass_a_listener_that_lets_everybody_in(gateway: Listeners, tmp_path: Path) -> None:
    own, clients = gateway.authority.certificate("own", "api.example"), Authority("clients")
    lenient = listener(
        "https", 443, "HTTPS", certificates=(own.id,), client_authorities=clients.pem, client_optional=True
    )

    async def back(request: Any) -> Any:
        return web.Response(body=await request.read())

    port = await gateway.upstreams.start(back)
    upstream = Upstream("shop/a", "NexusService shop/a", StaticAddresses((("127.0.0.1", port),)))
    await gateway.start(world(lenient, own, answers("a", lenient), upstream))
    body = bytes(range(256)) * 8192
    reader, writer = await gateway.connect(443, "api.example")
    writer.write(b"POST / HTTP/1.1\r\nhost: api.example\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
    async with asyncio.timeout(20):
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 ")
        assert await reader.readexactly(len(body)) == body
    writer.write(b"GET / HTTP/1.1\r\nhost: api.example\r\nconnection: close\r\n\r\n")
    async with asyncio.timeout(5):
        assert (await reader.read()).startswith(b"HTTP/1.1 200 ")


def test_idle_connections_of_a_listener_that_lets_everybody_in_keep_no_buffers() -> None:
    authority = Authority()
    chain, key = authority.issue("api.example")
    opened = Opened("Secret/shop/own", chain, key, ("api.example",), "ec", datetime.now(UTC))
    tls = ListenerTls(client_authorities=authority.pem, client_optional=True)
    context = LenientContext([opened], tls, ["http/1.1"])
    assert context._context.set_mode(0) & SSL.MODE_RELEASE_BUFFERS


async def test_what_is_no_tls_is_refused_by_a_listener_that_lets_everybody_in(gateway: Listeners) -> None:
    own, clients = gateway.authority.certificate("own", "api.example"), Authority("clients")
    lenient = listener(
        "https", 443, "HTTPS", certificates=(own.id,), client_authorities=clients.pem, client_optional=True
    )
    await gateway.start(world(lenient, own, answers("a", lenient), await gateway.serve("a")))
    context = gateway.context()
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("AES128-SHA")  # none of ours
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await gateway.connect(443, "api.example", context)
    assert await gateway.get(443, "api.example") == (200, "a")


async def test_a_connection_of_http2_that_serves_one_host_is_misdirected_for_another_listeners(
    gateway: Listeners,
) -> None:
    own = gateway.authority.certificate("own", "one.example", "two.example")
    one, two = (listener(name, 443, "HTTPS", f"{name}.example", certificates=(own.id,)) for name in ("one", "two"))
    await gateway.start(
        world(one, two, own, answers("a", one), answers("b", two), await gateway.serve("a"), await gateway.serve("b"))
    )
    reader, writer = await gateway.connect(443, "one.example", gateway.context(alpn="h2"))
    assert writer.get_extra_info("ssl_object").selected_alpn_protocol() == "h2"
    client = H2Connection()
    client.initiate_connection()
    hosts = {1: "one.example", 3: "two.example", 5: "one.example"}
    for number, host in hosts.items():
        client.send_headers(
            number,
            [(":method", "GET"), (":scheme", "https"), (":path", "/"), (":authority", host)],
            end_stream=True,
        )
    writer.write(client.data_to_send())
    statuses: dict[int, int] = {}
    async with asyncio.timeout(5):
        while len(statuses) < len(hosts):
            for event in client.receive_data(await reader.read(65536)):
                if isinstance(event, ResponseReceived):
                    statuses[event.stream_id] = int(dict(event.headers)[b":status"])
            writer.write(client.data_to_send())
    assert statuses == {1: 200, 3: 421, 5: 200}


@pytest.mark.parametrize("change", ["host name", "gone"])
async def test_a_request_on_its_way_to_a_listener_that_changes_is_answered_as_before(
    gateway: Listeners, change: str
) -> None:
    own = gateway.authority.certificate("own", "api.example")
    before = listener("https", 443, "HTTPS", "api.example", certificates=(own.id,))
    after = listener("https", 443, "HTTPS", "*.example", certificates=(own.id,))
    other = listener("other", 443, "HTTPS", "other.example", certificates=(own.id,))
    up = await gateway.serve("a")
    await gateway.start(world(before, other, own, answers("a", before), up))
    kept = await gateway.connect(443, "api.example")
    assert await ask(*kept, "api.example") == (200, "a")
    await gateway.publish(world(after if change == "host name" else other, other, own, answers("a", after), up))
    assert await ask(*kept, "api.example") == (200, "a")
    assert await asyncio.wait_for(kept[0].read(), 5) == b""  # and is asked to come again
    assert gateway.gateway is not None
    former = gateway.gateway.proxy.departures
    await until(lambda: former.find("tls-listen/api.example") is None, 6.0)
    if change == "host name":
        assert await gateway.get(443, "api.example") == (200, "a")
