"""Single probes against real servers, good and hostile ones; each outcome names what was wrong, and no socket stays open."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable

import h2.config
import h2.connection
import h2.events
import h2.settings
import pytest
from aiohttp import web
from nexus_core.snapshot import HealthCheck
from nexus_gateway.edge.health import grpc_health, probes
from nexus_gateway.edge.health.grpc_probes import grpc
from nexus_gateway.edge.health.probes import Target

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
SLOW = HealthCheck(timeout_s=20.0)


@contextlib.asynccontextmanager
async def serving(serve: Serve) -> AsyncIterator[Target]:
    """Run a server whose connections `serve` handles; they end with it, however long they would hang."""
    tasks: set[asyncio.Task[None]] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            with contextlib.suppress(ConnectionError, asyncio.CancelledError):
                await serve(reader, writer)
        finally:
            writer.transport.abort()
            tasks.discard(task)

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    try:
        yield Target("127.0.0.1", server.sockets[0].getsockname()[1])
    finally:
        server.close()
        for task in tuple(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await server.wait_closed()


def open_sockets() -> int:
    """Return how many sockets this process has open."""
    found = 0
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found += os.readlink(f"/proc/self/fd/{name}").startswith("socket:")
    return found


@pytest.fixture(autouse=True)
async def nothing_is_left() -> AsyncIterator[None]:
    """Every test ends with the tasks and sockets it began with."""
    tasks, sockets = asyncio.all_tasks(), open_sockets()
    yield
    for _ in range(20):
        await asyncio.sleep(0)
    gc.collect()
    assert asyncio.all_tasks() <= tasks | {asyncio.current_task()}
    assert open_sockets() <= sockets


def answering(data: bytes, *, then_hang: bool = False) -> Serve:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(4096)
        writer.write(data)
        await writer.drain()
        if then_hang:
            await asyncio.sleep(60)

    return serve


async def slam(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Reset the connection: with no time to linger, closing it sends RST."""
    await reader.read(4096)
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(60)


async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    for byte in b"HTTP/1.1 200 OK\r\nx-slow: " + b"a" * 10_000:
        writer.write(bytes([byte]))
        await asyncio.sleep(0.01)


async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(b"x" * 65_536)
        await writer.drain()


async def interims(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(b"HTTP/1.1 103 Early Hints\r\n\r\n")
        await writer.drain()


OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


# ---- HTTP


async def test_a_real_server_is_asked_for_path_and_host() -> None:
    asked = []

    async def handle(request: web.Request) -> web.Response:
        asked.append((request.method, request.path_qs, request.host, request.headers["user-agent"]))
        return web.Response(status=204)

    app = web.Application()
    app.router.add_get("/ready", handle)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        target = Target("127.0.0.1", runner.addresses[0][1])
        good = await probes.http(target, HealthCheck(path="/ready?deep=1", host="orders.internal"))
        bad = await probes.http(target, HealthCheck(path="/nothing"))
        listed = await probes.http(target, HealthCheck(path="/nothing", statuses=((200, 299), (404, 404))))
    finally:
        await runner.cleanup()
    assert good.good
    assert good.detail == ""
    assert asked == [("GET", "/ready?deep=1", "orders.internal", "nexus-health")]
    assert (bad.good, bad.detail) == (False, "status 404")
    assert listed.good


async def test_without_a_host_the_endpoint_is_named() -> None:
    heads = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(OK)
        await writer.drain()

    async with serving(serve) as target:
        assert (await probes.http(target, HealthCheck())).good
    assert heads[0].startswith(b"GET /healthz HTTP/1.1\r\nhost: %b\r\n" % target.authority.encode())


GOOD = {
    "an answer": answering(OK),
    "HTTP/1.0": answering(b"HTTP/1.0 200 OK\r\n\r\n"),
    "no reason": answering(b"HTTP/1.1 200\r\n\r\n"),
    "interim first": answering(b"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: a\r\n\r\n" + OK),
    "a body that never ends": answering(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 1_000_000, then_hang=True),
    "a body that never comes": answering(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n", then_hang=True),
}


@pytest.mark.parametrize("name", GOOD)
async def test_http_answers_that_pass(name: str) -> None:
    async with serving(GOOD[name]) as target:
        assert await probes.http(target, HealthCheck(timeout_s=5.0)) == probes.Outcome(True)


def timeout_for(detail: str) -> float:
    """Return a short timeout for those that are meant to run into it; a busy machine may keep the others as long."""
    return 0.3 if detail == "no answer within 0.3 s" else 20.0


BAD = [
    ("hangs", hang, "no answer within 0.3 s"),
    ("slow drip", drip, "no answer within 0.3 s"),
    ("bare line feeds", answering(b"HTTP/1.1 200 OK\ncontent-length: 0\n\n", then_hang=True), "no answer within 0.3 s"),
    ("resets", slam, "ConnectionResetError: "),
    ("closes at once", answering(b""), "the connection closed without an answer"),
    ("half a head", answering(b"HTTP/1.1 200 OK\r\ncontent-"), "the answer ends within its head"),
    ("garbage", answering(b"\x00\xff\x13\r\n\r\n"), "the answer is not HTTP/1"),
    ("another protocol", answering(b"SSH-2.0-OpenSSH_9.9\r\n\r\n"), "the answer is not HTTP/1"),
    ("HTTP/2", answering(b"HTTP/2 200\r\n\r\n"), "the answer is not HTTP/1"),
    ("no status", answering(b"HTTP/1.1 OK\r\n\r\n"), "the answer is not HTTP/1"),
    ("status too long", answering(b"HTTP/1.1 2000 OK\r\n\r\n"), "the answer is not HTTP/1"),
    ("no header", answering(b"HTTP/1.1 200 OK\r\nwhat is this\r\n\r\n"), "the answer is not HTTP/1"),
    ("a head without end", flood, "the answer's head is longer than 16384 bytes, or is none"),
    ("interims without end", interims, "interim responses and no answer"),
    ("a redirect", answering(b"HTTP/1.1 302 Found\r\nlocation: /\r\n\r\n"), "status 302"),
    ("an error", answering(b"HTTP/1.1 500 no\r\n\r\n"), "status 500"),
]


@pytest.mark.parametrize(("serve", "detail"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
async def test_http_answers_that_fail(serve: Serve, detail: str) -> None:
    async with serving(serve) as target:
        outcome = await probes.http(target, HealthCheck(timeout_s=timeout_for(detail)))
    assert not outcome.good
    assert outcome.detail.startswith(detail)


@pytest.mark.parametrize("probe", [probes.http, probes.tcp, grpc])
async def test_a_refused_connection_fails(probe: probes.Probe, unused_tcp_port: int) -> None:
    outcome = await probe(Target("127.0.0.1", unused_tcp_port), SLOW)
    assert not outcome.good
    assert "refused" in outcome.detail or "Connect call failed" in outcome.detail


@pytest.mark.parametrize("address", ["a" * 64, "no such host", "name.invalid", ""])
async def test_an_address_that_is_none_fails(address: str) -> None:
    outcome = await probes.http(Target(address, 1), SLOW)
    assert not outcome.good
    assert outcome.detail


async def test_a_probe_that_is_cancelled_closes_its_connection() -> None:
    connected, closed = asyncio.Event(), asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connected.set()
        await reader.read()
        closed.set()

    async with serving(serve) as target:
        task = asyncio.create_task(probes.http(target, HealthCheck(timeout_s=30.0)))
        async with asyncio.timeout(5):
            await connected.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await closed.wait()


async def test_without_a_timeout_the_interval_is_the_bound() -> None:
    async with serving(hang) as target:
        outcome = await probes.http(target, HealthCheck(timeout_s=0.0, interval_s=0.1))
    assert outcome.detail == "no answer within 1 s"


# ---- TCP


async def test_tcp_wants_a_connection_and_nothing_else() -> None:
    async with serving(hang) as target:
        assert (await probes.tcp(target, SLOW)).good


# ---- gRPC


def health(
    statuses: dict[str, int],
    *,
    message: bytes | None = None,
    grpc_status: str = "0",
    content_type: str = "application/grpc",
) -> Serve:
    """Serve grpc.health.v1: the status of each service. An unknown one is NOT_FOUND, in one head without a message."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding="utf-8"))
        connection.initiate_connection()
        writer.write(connection.data_to_send())
        body = b""
        while data := await reader.read(65_536):
            for event in connection.receive_data(data):
                if isinstance(event, h2.events.RequestReceived):
                    headers = dict(event.headers or ())
                    assert headers[":method"] == "POST"
                    assert headers[":path"] == "/grpc.health.v1.Health/Check"
                    assert headers["content-type"] == "application/grpc"
                    assert headers["te"] == "trailers"
                elif isinstance(event, h2.events.DataReceived):
                    body += event.data or b""
                elif isinstance(event, h2.events.StreamEnded):
                    service = body[7:].decode()
                    first = [(":status", "200"), ("content-type", content_type)]
                    if service not in statuses:
                        ended = [("grpc-status", "5"), ("grpc-message", "unknown service")]
                        connection.send_headers(event.stream_id, first + ended, end_stream=True)
                    else:
                        answer = b"\x08" + bytes([statuses[service]])
                        connection.send_headers(event.stream_id, first)
                        connection.send_data(
                            event.stream_id, b"\x00" + len(answer).to_bytes(4) + answer if message is None else message
                        )
                        connection.send_headers(event.stream_id, [("grpc-status", grpc_status)], end_stream=True)
            writer.write(connection.data_to_send())
            await writer.drain()

    return serve


SERVICES = {"": 1, "shop.Orders": 1, "shop.Sick": 2, "shop.Odd": 9}


@pytest.mark.parametrize(
    ("service", "detail"),
    [
        ("", ""),
        ("shop.Orders", ""),
        ("shop.Sick", "NOT_SERVING"),
        ("shop.Odd", "9"),
        ("shop.Nothing", "gRPC status 5: unknown service"),
    ],
)
async def test_grpc_services_are_asked_for_their_status(service: str, detail: str) -> None:
    async with serving(health(SERVICES)) as target:
        outcome = await grpc(target, HealthCheck(kind="grpc", service=service, timeout_s=5.0))
    assert (outcome.good, outcome.detail) == (not detail, detail)


async def endless_pings(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"\x00\x00\x00\x04\x00\x00\x00\x00\x00")
    while True:
        writer.write(b"\x00\x00\x08\x06\x00\x00\x00\x00\x00" + b"\x00" * 8)
        await writer.drain()


async def goes_away(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(1024)
    writer.write(b"\x00\x00\x00\x04\x00\x00\x00\x00\x00")
    writer.write(b"\x00\x00\x08\x07\x00\x00\x00\x00\x00" + b"\x00\x00\x00\x00" + b"\x00\x00\x00\x0b")
    await reader.read()


async def resets(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(1024)
    writer.write(b"\x00\x00\x00\x04\x00\x00\x00\x00\x00")
    writer.write(b"\x00\x00\x04\x03\x00\x00\x00\x00\x01" + b"\x00\x00\x00\x08")
    await reader.read()


BAD_GRPC = [
    ("hangs", hang, "no answer within 0.3 s"),
    ("closes", answering(b""), "the connection closed before the answer was complete"),
    ("HTTP/1", answering(b"HTTP/1.1 400 Bad Request\r\n\r\n"), "the server speaks HTTP/1, not gRPC"),
    ("garbage", answering(bytes(range(256)) * 8), "the answer is not HTTP/2"),
    ("zeros", answering(b"\x00" * 4096), "the answer is not HTTP/2"),
    ("pings without end", endless_pings, f"the answer is longer than {2**16} bytes"),
    ("goes away", goes_away, "the server ended the connection: error"),
    ("resets", resets, "the server reset the stream: error"),
    ("no gRPC", health(SERVICES, content_type="text/html"), "the answer is not gRPC"),
    ("a failed call", health(SERVICES, grpc_status="14"), "gRPC status 14"),
    ("compressed", health(SERVICES, message=b"\x01\x00\x00\x00\x02\x08\x01"), "the message is compressed"),
    ("no message", health(SERVICES, message=b""), "the answer ends before its message"),
    (
        "a long message",
        health(SERVICES, message=b"\x00" * 5000),
        f"the message is longer than {grpc_health.MAX_MESSAGE_BYTES}",
    ),
    ("nonsense", health(SERVICES, message=b"\x00\x00\x00\x00\x01\x0b"), "the message is not valid protobuf"),
]


@pytest.mark.parametrize(("serve", "detail"), [row[1:] for row in BAD_GRPC], ids=[row[0] for row in BAD_GRPC])
async def test_grpc_answers_that_fail(serve: Serve, detail: str) -> None:
    async with serving(serve) as target:
        outcome = await grpc(target, HealthCheck(kind="grpc", timeout_s=timeout_for(detail)))
    assert not outcome.good
    assert outcome.detail.startswith(detail)
