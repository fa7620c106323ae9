"""TLS to endpoints: verified as the policy says, sessions resumed, on both event loops."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path
from typing import Any

import pytest
from nexus_core.snapshot import UpstreamTls
from nexus_gateway.edge.tls.origination import Originations, ResumingContext, TlsInvalid, server_name
from nexus_gateway.edge.tls.store import Certificates


async def call(port: int, context: ResumingContext, name: str) -> bool:
    """One connection; returns whether its session was resumed."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=name)
    try:
        writer.write(b"hello")
        assert await reader.readexactly(5) == b"hello"
        connection = writer.get_extra_info("ssl_object")
        context.remember(connection)
        assert connection.selected_alpn_protocol() == "http/1.1"
        return bool(connection.session_reused)
    finally:
        writer.close()
        await writer.wait_closed()


@pytest.fixture
def upstream(tmp_path: Path, authority: Any) -> Certificates:
    authority.write(tmp_path, "orders", "orders.internal", "127.0.0.1")
    store = Certificates(tmp_path)
    store.reload()
    return store


async def test_the_endpoint_is_verified_by_authority_and_name(
    upstream: Certificates, authority: Any, echoing: Any
) -> None:
    contexts = Originations()
    trusting = contexts.context(UpstreamTls(ca=authority.pem))
    async with echoing(upstream.context) as port:
        assert await call(port, trusting, "orders.internal") is False
        assert await call(port, trusting, "127.0.0.1") is False
        with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
            await call(port, trusting, "carts.internal")
        with pytest.raises(ssl.SSLCertVerificationError, match=r"unable to get local issuer|self.signed"):
            await call(port, contexts.context(UpstreamTls()), "orders.internal")
        await call(port, contexts.context(UpstreamTls(verify=False)), "carts.internal")


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_the_next_connection_to_a_name_resumes_the_session(
    upstream: Certificates, authority: Any, echoing: Any, version: ssl.TLSVersion
) -> None:
    context = Originations().context(UpstreamTls(ca=authority.pem))
    context.maximum_version = version
    async with echoing(upstream.context) as port:
        assert [await call(port, context, "orders.internal") for _ in range(4)] == [False, True, True, True]
        # A session is never taken to another name: that name has not been verified.
        assert await call(port, context, "127.0.0.1") is False


async def test_a_server_that_lost_its_keys_costs_a_full_handshake_and_no_request(
    tmp_path: Path, upstream: Certificates, authority: Any, echoing: Any
) -> None:
    context = Originations().context(UpstreamTls(ca=authority.pem))
    async with echoing(upstream.context) as port:
        await call(port, context, "orders.internal")
    restarted = Certificates(tmp_path)
    restarted.reload()
    async with echoing(restarted.context) as port:
        assert [await call(port, context, "orders.internal") for _ in range(2)] == [False, True]


def test_equal_policies_share_a_context() -> None:
    contexts = Originations()
    one = contexts.context(UpstreamTls(server_name="a", verify=False))
    assert contexts.context(UpstreamTls(server_name="a", verify=False)) is one
    assert contexts.context(UpstreamTls(server_name="b", verify=False)) is not one


def test_authorities_that_are_none_are_refused_with_the_remedy() -> None:
    with pytest.raises(TlsInvalid, match="Write certificates in PEM"):
        Originations().context(UpstreamTls(ca="no certificate"))


@pytest.mark.parametrize(
    ("policy", "host", "expected"),
    [
        (UpstreamTls(server_name="fixed.example"), "shop.example", "fixed.example"),
        (UpstreamTls(), "shop.example", "shop.example"),
        (UpstreamTls(), "", "10.0.0.1"),
    ],
)
def test_the_name_to_verify(policy: UpstreamTls, host: str, expected: str) -> None:
    assert server_name(policy, host, "10.0.0.1") == expected
