"""Probes of endpoints that speak TLS: verified, named and negotiated as requests to them are."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, Literal

import pytest
from nexus_core.discovery import Endpoint
from nexus_core.snapshot import HealthCheck, StaticAddresses, Upstream, UpstreamTls
from nexus_gateway.edge.health import probes
from nexus_gateway.edge.health.checker import Checker
from nexus_gateway.edge.health.grpc_probes import grpc
from nexus_gateway.edge.health.probes import Outcome, Target
from nexus_gateway.edge.tls.origination import Originations

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
PROBES: dict[str, probes.Probe] = {"http": probes.http, "tcp": probes.tcp, "grpc": grpc}


@contextlib.asynccontextmanager
async def listening(serve: Serve, context: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """Yield the port of a server, whose connections have ended afterwards."""
    tasks: set[asyncio.Task[None]] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                await serve(reader, writer)
        finally:
            writer.transport.abort()
            tasks.discard(task)

    listener = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=context)
    try:
        yield listener.sockets[0].getsockname()[1]
        # A connection that was made is handled a moment later.
        await asyncio.sleep(0.01)
        while tasks:
            await asyncio.wait(tasks)
    finally:
        listener.close()
        await listener.wait_closed()


class Server:
    """Answers every HTTP/1 request with 200 over TLS. names, protocols: what clients asked for."""

    def __init__(self, folder: Path) -> None:
        self.port = 0
        self.names: list[str | None] = []
        self.protocols: list[str | None] = []
        self.context = context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(folder / "orders.crt", folder / "orders.key")
        context.set_alpn_protocols(["h2", "http/1.1"])
        context.sni_callback = lambda _, name, __: self.names.append(name)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.protocols.append(writer.get_extra_info("ssl_object").selected_alpn_protocol())
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
        await writer.drain()


@pytest.fixture
async def server(tmp_path: Path, authority: Any) -> AsyncIterator[Server]:
    authority.write(tmp_path, "orders", "orders.internal")
    made = Server(tmp_path)
    async with listening(made.serve, made.context) as made.port:
        yield made


class NoPools:
    def all(self) -> dict[str, Any]:
        return {}

    def changed(self, upstream: str) -> None:
        raise AssertionError(upstream)


async def ask(port: int, tls: UpstreamTls | None, kind: Literal["http", "tcp", "grpc"], host: str = "") -> Outcome:
    """Probe as the checker does for an upstream with this TLS policy."""
    policy = HealthCheck(kind=kind, host=host, timeout_s=5.0)
    upstream = Upstream("shop/orders", "", StaticAddresses(()), health=policy, tls=tls)
    target = await Checker(NoPools(), tls=Originations().context).target(Endpoint("127.0.0.1", port), upstream, policy)
    return await PROBES[kind](target, policy)


@pytest.mark.parametrize("kind", ["http", "tcp"])
async def test_the_endpoint_is_verified(server: Server, authority: Any, kind: Literal["http", "tcp"]) -> None:
    trusted = UpstreamTls("orders.internal", ca=authority.pem)
    assert await ask(server.port, trusted, kind) == Outcome(True)
    for wrong in (UpstreamTls("carts.internal", ca=authority.pem), UpstreamTls("orders.internal")):
        outcome = await ask(server.port, wrong, kind)
        assert not outcome.good
        assert "CERTIFICATE_VERIFY_FAILED" in outcome.detail
    assert await ask(server.port, UpstreamTls(verify=False), kind) == Outcome(True)


async def test_the_name_asked_for_is_the_policys_else_the_checks_host(server: Server, authority: Any) -> None:
    await ask(server.port, UpstreamTls("orders.internal", ca=authority.pem), "http", "shop.example")
    await ask(server.port, UpstreamTls(ca=authority.pem), "http", "orders.internal")
    assert server.names == ["orders.internal", "orders.internal"]


async def test_only_grpc_offers_http2(server: Server, authority: Any) -> None:
    trusted = UpstreamTls("orders.internal", ca=authority.pem)
    await ask(server.port, trusted, "http")
    outcome = await ask(server.port, trusted, "grpc")
    assert server.protocols == ["http/1.1", "h2"]
    assert outcome == Outcome(False, "the server speaks HTTP/1, not gRPC")


async def test_a_server_without_tls_is_unfit() -> None:
    async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(64)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await writer.drain()

    async with listening(plain) as port:
        outcome = await ask(port, UpstreamTls(verify=False), "http")
    assert not outcome.good
    assert "SSL" in outcome.detail or "Connection" in outcome.detail


async def test_a_handshake_that_hangs_is_cut_off() -> None:
    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(1024):
            pass

    context = Originations().context(UpstreamTls(verify=False))
    async with listening(hang) as port:
        outcome = await probes.http(Target("127.0.0.1", port, context, "orders.internal"), HealthCheck(timeout_s=0.2))
    assert outcome == Outcome(False, "no answer within 0.2 s")
