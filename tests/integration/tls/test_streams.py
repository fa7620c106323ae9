"""Connections below HTTP that speak TLS: passed through by the name they ask for, ended here, begun here."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from nexus_core.snapshot import Listener, ListenerTls, Snapshot, StaticAddresses, Upstream, UpstreamTls
from nexus_gateway.edge.streams.connections import TcpConnection
from nexus_gateway.edge.streams.testing import LISTENER, Lab, echo, named, route, upstream
from nexus_gateway.testing import Harness
from nexus_wire.tls import TlsListener

Serve = Callable[..., Any]


@pytest.fixture
async def lab() -> AsyncIterator[Lab]:
    made = Lab()
    await made.listen()
    yield made
    await made.close()


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Starts servers: `await serve(handler, context)` returns the port."""
    servers: list[asyncio.Server] = []
    writers: list[asyncio.StreamWriter] = []

    async def begin(handler: Serve, context: ssl.SSLContext | None = None) -> int:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writers.append(writer)
            with contextlib.suppress(ConnectionError):
                await handler(reader, writer)

        servers.append(await asyncio.start_server(handle, "127.0.0.1", 0, ssl=context))
        return int(servers[-1].sockets[0].getsockname()[1])

    yield begin
    for server in servers:
        server.close()
    for writer in writers:
        writer.transport.abort()
    await asyncio.sleep(0.01)


@pytest.fixture
def free_port() -> Callable[[int], int]:
    """Finds a port for a kind of socket."""

    def find(kind: int) -> int:
        with socket.socket(socket.AF_INET, kind) as probe:
            probe.bind(("127.0.0.1", 0))
            return int(probe.getsockname()[1])

    return find


def server_context(authority: Any, folder: Path, *names: str) -> ssl.SSLContext:
    authority.write(folder, names[0], *names)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / f"{names[0]}.crt", folder / f"{names[0]}.key")
    return context


def client_context(authority: Any) -> ssl.SSLContext:
    return ssl.create_default_context(cadata=authority.pem)


async def greeting(port: int, name: str, context: ssl.SSLContext) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=name)
    try:
        return await reader.readexactly(3)
    finally:
        writer.transport.abort()


async def test_a_connection_to_an_endpoint_over_tls(lab: Lab, serve: Serve, authority: Any, tmp_path: Path) -> None:
    port = await serve(echo, server_context(authority, tmp_path, "echo.internal"))
    policy = UpstreamTls(server_name="echo.internal", ca=authority.pem)
    one = upstream("echo", port, tls=policy)
    lab.swap([route("echo", one)], [one])
    reader, writer = await lab.connect()
    writer.write(b"x" * 300_000)
    assert await reader.readexactly(300_000) == b"x" * 300_000
    client = writer.get_extra_info("socket")
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
    wrong = upstream("echo", port, tls=UpstreamTls(server_name="other.internal", ca=authority.pem))
    lab.swap([route("echo", wrong)], [wrong])
    with pytest.raises(ConnectionResetError):
        await lab.ask(b"hello")
    await lab.settled()
    assert lab.lines()[-1]["reason"] == "UpstreamConnectFailure"


async def test_a_connection_whose_tls_ends_here(lab: Lab, serve: Serve, authority: Any, tmp_path: Path) -> None:
    one = upstream("echo", await serve(echo))
    lab.swap([route("echo", one)], [one])
    context = server_context(authority, tmp_path, "shop.example")
    listener = TlsListener(
        context,
        lab.clock,
        lambda protocol: TcpConnection(lab.streams, lab.plans.connection((LISTENER,)), LISTENER),
        lambda failure, peer, words: None,
    )
    server = await asyncio.get_running_loop().create_server(listener, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", port, ssl=client_context(authority), server_hostname="shop.example"
    )
    sent = bytes(range(256)) * 4000
    writer.write(sent)
    assert await reader.readexactly(len(sent)) == sent
    writer.close()
    await lab.settled()
    (line,) = lab.lines()
    assert (line["bytes_in"], line["bytes_out"], "reason" in line) == (len(sent), len(sent), False)
    server.close()


async def test_a_client_that_ends_its_direction_of_tls_still_gets_the_answer(
    lab: Lab, serve: Serve, authority: Any, tmp_path: Path
) -> None:
    async def counts(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked = await reader.read()
        writer.write(b"%d bytes" % len(asked))
        writer.close()

    one = upstream("counts", await serve(counts))
    lab.swap([route("counts", one)], [one])
    listener = TlsListener(
        server_context(authority, tmp_path, "shop.example"),
        lab.clock,
        lambda protocol: TcpConnection(lab.streams, lab.plans.connection((LISTENER,)), LISTENER),
        lambda failure, peer, words: None,
    )
    server = await asyncio.get_running_loop().create_server(listener, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection("127.0.0.1", server.sockets[0].getsockname()[1])
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_context(authority).wrap_bio(incoming, outgoing, server_hostname="shop.example")

    async def until_done(step: Callable[[], Any]) -> Any:
        while True:
            try:
                return step()
            except ssl.SSLWantReadError:
                writer.write(outgoing.read())
                incoming.write(await reader.read(65536))

    await until_done(client.do_handshake)
    client.write(b"x" * 1000)
    with contextlib.suppress(ssl.SSLWantReadError):
        client.unwrap()
    writer.write(outgoing.read())
    assert await until_done(lambda: client.read(100)) == b"1000 bytes"
    writer.transport.abort()
    server.close()


def listeners(tcp: int, udp: int) -> tuple[Listener, ...]:
    return (
        Listener("default/nexus/pass", "Gateway default/nexus", 443, "", "TLS", ListenerTls("passthrough")),
        Listener("default/nexus/tcp", "Gateway default/nexus", tcp, "", "TCP"),
        Listener("default/nexus/udp", "Gateway default/nexus", udp, "", "UDP"),
    )


async def test_a_gateway_serves_tcp_udp_and_tls_by_name(
    serve: Serve, authority: Any, tmp_path: Path, free_port: Callable[[int], int]
) -> None:
    # A policy says how the gateway itself speaks TLS to a backend; what is passed through is TLS already, and not encrypted twice.
    policy = UpstreamTls(server_name="one.example", ca=authority.pem)
    one = upstream("one", await serve(named(b"one"), server_context(authority, tmp_path, "one.example")), tls=policy)
    two = upstream("two", await serve(named(b"two"), server_context(authority, tmp_path, "x.two.example")))
    plain = upstream("plain", await serve(named(b"tcp")))
    answering = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    answering.bind(("127.0.0.1", 0))
    answering.settimeout(5)
    datagrams = Upstream(
        "Service/default/dns/1/udp", "", StaticAddresses((("127.0.0.1", answering.getsockname()[1]),)), "udp"
    )
    tcp, udp = free_port(socket.SOCK_STREAM), free_port(socket.SOCK_DGRAM)
    full = Snapshot(
        listeners=listeners(tcp, udp),
        streams=(
            route("one", one, kind="TLS", listeners=("default/nexus/pass",), hostnames=("one.example",)),
            route("two", two, kind="TLS", listeners=("default/nexus/pass",), hostnames=("*.two.example",)),
            route("plain", plain, listeners=("default/nexus/tcp",)),
            route("dns", datagrams, kind="UDP", listeners=("default/nexus/udp",)),
        ),
        upstreams=tuple(sorted((one, two, plain, datagrams), key=lambda each: each.id)),
    )
    harness = Harness(tmp_path)
    loop = asyncio.get_running_loop()
    client = client_context(authority)
    asker = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    asker.setblocking(False)
    try:
        gateway = await harness.start(full, tls_listen="127.0.0.1:0")
        secure = gateway.ports.declared(443)
        assert await greeting(secure, "one.example", client) == b"one"
        assert await greeting(secure, "x.two.example", client) == b"two"
        with pytest.raises(OSError):
            await greeting(secure, "three.example", client)
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.ports.declared(tcp))
        assert await reader.readexactly(3) == b"tcp"
        asker.connect(("127.0.0.1", gateway.ports.declared(udp, udp=True)))
        asker.send(b"question")
        question, sender = await asyncio.to_thread(answering.recvfrom, 100)
        answering.sendto(b"answer", sender)
        assert (question, await loop.sock_recv(asker, 100)) == (b"question", b"answer")
        rows = (await harness.ask("/routes"))["streams"]
        assert [row["route"] for row in rows] == sorted(each.id for each in full.streams)
        # A listener that is gone accepts nothing; its connections live on.
        await harness.publish(
            Snapshot(listeners=full.listeners[:1], streams=full.streams[:2], upstreams=full.upstreams)
        )
        writer.write(b"still?")
        assert await reader.readexactly(6) == b"still?"
        with pytest.raises(OSError):
            await asyncio.open_connection("127.0.0.1", tcp)
        # What does not end by itself is cut off once the drain is over.
        await gateway.stop(drain_s=0.2)
        with pytest.raises(ConnectionResetError):
            await reader.read()
        writer.transport.abort()
    finally:
        asker.close()
        answering.close()
        await harness.close()
