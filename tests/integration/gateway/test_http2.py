"""HTTP/2 towards clients: foreign ones, in clear and over TLS, through a real gateway; and what a connection of many requests means."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import h2.config
import h2.connection
import h2.events
import httpx
import pytest
from aiohttp import WSMsgType, web
from nexus_core.snapshot import Timeouts
from nexus_gateway.testing import Harness, simple, until
from nexus_testbed import components
from nexus_wire.http2 import frames

REPOSITORY = Path(__file__).resolve().parents[3]
HEAD = [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "a.example")]
Clients = Callable[..., Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]

curl = pytest.mark.skipif(
    shutil.which("curl") is None
    or " HTTP2" not in subprocess.run(["curl", "--version"], capture_output=True, text=True).stdout,
    reason="curl with HTTP/2 is not installed",
)
h2load = pytest.mark.skipif(shutil.which("h2load") is None, reason="h2load (Debian's nghttp2-client) is not installed")


async def answer(request: web.Request) -> web.StreamResponse:
    body = await request.read()
    if request.path == "/large":
        return web.Response(body=b"x" * 1_000_000)
    if request.path == "/stream":
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(3):
            await response.write(b"piece")
        return response
    said = f"{request.method} {request.path_qs} {len(body)} {request.headers.get('host')} {request.headers.get('x-forwarded-proto')}"
    return web.Response(text=said)


@pytest.fixture
async def edge(harness: Harness, tmp_path: Path) -> Harness:
    """A gateway with HTTP and HTTPS before one upstream."""
    folder = tmp_path / "certificates"
    folder.mkdir()
    await asyncio.to_thread(
        subprocess.run,
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1", "-subj",
         "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", folder / "default.key", "-out",
         folder / "default.crt"],
        check=True, capture_output=True,
    )  # fmt: skip
    port = await harness.upstreams.start(answer)
    await harness.start(simple(port), tls_listen="127.0.0.1:0", tls_certificates=folder)
    return harness


async def said_by(*command: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    try:
        async with asyncio.timeout(60):
            found, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, found.decode()
    return found.decode()


def where(edge: Harness, scheme: str) -> str:
    assert edge.gateway is not None
    return f"{scheme}://127.0.0.1:{edge.gateway.port if scheme == 'http' else edge.gateway.tls_port}"


# ---- foreign clients


@curl
@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_curl_is_served(edge: Harness, settled: Any, scheme: str) -> None:
    how = ["--http2-prior-knowledge"] if scheme == "http" else ["--http2", "-k"]
    common = ["curl", "-sS", *how, "-w", "\n%{http_version} %{response_code}"]
    base = where(edge, scheme)
    host = base.partition("//")[2]
    assert await said_by(*common, f"{base}/a?b=c") == f"GET /a?b=c 0 {host} {scheme}\n2 200"
    assert await said_by(*common, "-d", "x" * 5000, f"{base}/a") == f"POST /a 5000 {host} {scheme}\n2 200"
    # A body whose length nobody tells.
    chunked = ["-H", "transfer-encoding:", "-H", "content-length:", "-T", str(Path(__file__)), f"{base}/a"]
    assert re.fullmatch(r"PUT /a \d{4,} .*\n2 200", await said_by(*common, *chunked))
    assert await said_by(*common, f"{base}/stream") == "piecepiecepiece\n2 200"
    assert len(await said_by(*common, f"{base}/large")) == 1_000_000 + len("\n2 200")
    assert (await said_by(*common, "-I", f"{base}/a")).endswith("2 200")
    # curl's own path is sent as it is, and refused as on HTTP/1.1.
    assert (await said_by(*common, "--path-as-is", f"{base}/../a")).endswith("2 400")
    await settled()


@h2load
@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_many_requests_at_once_are_all_answered(edge: Harness, settled: Any, scheme: str) -> None:
    said = await said_by("h2load", "-n", "3000", "-c", "3", "-m", "50", f"{where(edge, scheme)}/a")
    assert "3000 succeeded, 0 failed, 0 errored" in said
    said = await said_by("h2load", "-n", "60", "-c", "2", "-m", "10", "-d", __file__, f"{where(edge, scheme)}/large")
    assert "60 succeeded, 0 failed, 0 errored" in said
    await settled()


async def test_httpx_is_served_over_one_connection(edge: Harness, settled: Any) -> None:
    assert edge.gateway is not None
    trust = ssl.create_default_context()
    trust.check_hostname, trust.verify_mode = False, ssl.CERT_NONE
    async with httpx.AsyncClient(http1=False, http2=True, verify=trust, base_url=where(edge, "https")) as client:
        answers = await asyncio.gather(*(client.post(f"/{number}", content=b"x" * number) for number in range(60)))
        assert {each.http_version for each in answers} == {"HTTP/2"}
        assert [each.text.split()[:3] for each in answers] == [
            ["POST", f"/{number}", str(number)] for number in range(60)
        ]
        assert len(edge.gateway.proxy.connections) == 1

        async def pieces() -> AsyncIterator[bytes]:
            for _ in range(10):
                yield b"x" * 30000

        assert (await client.post("/up", content=pieces())).text.split()[2] == "300000"
        assert len((await client.get("/large")).content) == 1_000_000
        assert (await client.get("/nowhere", headers={"host": "x y"})).status_code == 400
    await settled()


# ---- one connection, many requests


class Client:
    """The `h2` package on a connection to the gateway."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
        self.h2.initiate_connection()
        self.events: list[Any] = []

    def ask(self, path: str = "/", *extra: tuple[str, str], end: bool = True) -> int:
        stream: int = self.h2.get_next_available_stream_id()
        self.h2.send_headers(stream, [*HEAD[:2], (":path", path), HEAD[3], *extra], end_stream=end)
        self.flush()
        return stream

    def flush(self) -> None:
        self.writer.write(self.h2.data_to_send())

    async def until(self, kind: type, stream: int | None = None) -> Any:
        """Return the first event of a kind, of one stream or any."""
        async with asyncio.timeout(15):
            while True:
                for event in self.events:
                    if isinstance(event, kind) and stream in (None, getattr(event, "stream_id", None)):
                        return event
                data = await self.reader.read(65536)
                assert data, self.events
                self.events += self.h2.receive_data(data)
                self.flush()

    async def status(self, stream: int) -> str:
        event = await self.until(h2.events.ResponseReceived, stream)
        return str(dict(event.headers)[":status"])

    def body(self, stream: int) -> bytes:
        return b"".join(
            event.data
            for event in self.events
            if isinstance(event, h2.events.DataReceived) and event.stream_id == stream
        )


@pytest.fixture
def connect(clients: Clients) -> Callable[[], Awaitable[Client]]:
    async def begin() -> Client:
        return Client(*await clients())

    return begin


async def test_a_slow_stream_holds_no_other_up(harness: Harness, connect: Any, settled: Any) -> None:
    release = asyncio.Event()

    async def serve(request: web.Request) -> web.Response:
        if request.path == "/slow":
            await release.wait()
        return web.Response(text=request.path)

    await harness.start(simple(await harness.upstreams.start(serve)))
    client = await connect()
    slow = client.ask("/slow")
    for _ in range(5):
        fast = client.ask("/fast")
        await client.until(h2.events.StreamEnded, fast)
        assert client.body(fast) == b"/fast"
    release.set()
    await client.until(h2.events.StreamEnded, slow)
    assert client.body(slow) == b"/slow"
    await settled(clients=False)


async def test_a_stream_s_time_is_its_own(harness: Harness, connect: Any, settled: Any) -> None:
    async def serve(request: web.Request) -> web.Response:
        if request.path == "/slow":
            await asyncio.sleep(30)
        return web.Response(text="in time")

    port = await harness.upstreams.start(serve)
    await harness.start(simple(port, timeouts=Timeouts(request_s=0.5)))
    client = await connect()
    slow, fast = client.ask("/slow"), client.ask("/fast")
    assert await client.status(fast) == "200"
    assert await client.status(slow) == "504"
    await settled(clients=False)


async def test_a_stream_that_is_given_up_calls_its_upstream_off(harness: Harness, connect: Any, settled: Any) -> None:
    left = asyncio.Event()

    async def serve(request: web.Request) -> web.Response:
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            left.set()
            raise
        raise AssertionError

    await harness.start(simple(await harness.upstreams.start(serve)))
    client = await connect()
    stream = client.ask()
    await until(lambda: harness.gateway is not None and harness.gateway.proxy.in_flight)
    client.h2.reset_stream(stream)
    client.flush()
    async with asyncio.timeout(10):
        await left.wait()
    await settled(clients=False)


async def test_a_response_that_its_client_does_not_take_is_not_read_either(
    harness: Harness, connect: Any, settled: Any
) -> None:
    """The upstream is stopped by the client's window, not the gateway's memory."""
    size = 50_000_000
    sent = 0

    async def serve(request: web.Request) -> web.StreamResponse:
        nonlocal sent
        response = web.StreamResponse(headers={"content-length": str(size)})
        await response.prepare(request)
        while sent < size:
            await response.write(b"x" * 100_000)
            sent += 100_000
        return response

    await harness.start(simple(await harness.upstreams.start(serve)))
    client = await connect()
    stream = client.ask()
    while len(client.body(stream)) < 65535:
        client.events += client.h2.receive_data(await client.reader.read(65536))
    before = -1
    while before != sent:
        before = sent
        await asyncio.sleep(0.3)
    # What the two sockets' buffers hold is the kernel's.
    assert sent < size / 2
    client.writer.close()
    await settled()


async def test_a_stop_tells_the_client_and_finishes_what_it_asked_for(harness: Harness, connect: Any) -> None:
    release = asyncio.Event()

    async def serve(request: web.Request) -> web.Response:
        await release.wait()
        return web.Response(text="finished")

    gateway = await harness.start(simple(await harness.upstreams.start(serve)))
    client = await connect()
    stream = client.ask()
    await until(lambda: gateway.proxy.in_flight)
    stopping = asyncio.create_task(gateway.stop(10))
    # By hand: the `h2` package takes nothing more once it is told to go.
    said = b""
    async with asyncio.timeout(15):
        while frames.goaway(2**31 - 1, 0) not in said:
            said += await client.reader.read(65536)
        assert b"finished" not in said
        release.set()
        while b"finished" not in said:
            said += await client.reader.read(65536)
    assert stream == 1
    client.writer.close()
    await stopping


async def test_what_the_gateway_answers_itself_comes_the_same_way(edge: Harness, connect: Any) -> None:
    client = await connect()
    stream = client.ask("/%2e")
    await client.until(h2.events.StreamEnded, stream)
    assert await client.status(stream) == "400"
    assert b'"reason":"BadRequest"' in client.body(stream).replace(b" ", b"")
    # It is one stream's failure.
    assert await client.status(client.ask("/a")) == "200"


async def test_a_websocket_over_http_2_reaches_an_upstream_of_http_1(
    harness: Harness, connect: Any, settled: Any
) -> None:
    async def serve(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        async for message in socket:
            assert message.type is WSMsgType.TEXT
            await socket.send_str(message.data.upper())
        return socket

    await harness.start(simple(await harness.upstreams.start(serve)))
    client = await connect()
    client.h2.config.validate_outbound_headers = False
    stream = client.h2.get_next_available_stream_id()
    client.h2.send_headers(
        stream,
        [(":method", "CONNECT"), (":protocol", "websocket"), (":scheme", "http"), (":path", "/"), (":authority", "a.example"),
         ("sec-websocket-version", "13")],
    )  # fmt: skip
    client.flush()
    assert await client.status(stream) == "200"
    mask = bytes(4)
    client.h2.send_data(stream, b"\x81\x85" + mask + b"hello")
    client.flush()
    await client.until(h2.events.DataReceived, stream)
    assert client.body(stream) == b"\x81\x05HELLO"
    client.h2.send_data(stream, b"\x88\x82" + mask + b"\x03\xe8")
    client.flush()
    await client.until(h2.events.StreamEnded, stream)
    await settled(clients=False)


# ---- the specification


@pytest.mark.timeout(300)
async def test_h2spec_finds_nothing_in_clear_and_over_tls() -> None:
    program = await asyncio.to_thread(lambda: components.ensure(["h2spec"])["h2spec"])
    process = await asyncio.create_subprocess_exec(
        sys.executable, REPOSITORY / "scripts" / "h2spec.py", program,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, env={**os.environ},
    )  # fmt: skip
    said, _ = await process.communicate()
    assert said.decode() == ("h2spec in clear: 145 of 145 cases passed\nh2spec over TLS: 145 of 145 cases passed\n")
    assert process.returncode == 0
