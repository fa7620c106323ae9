"""A stop, and HTTP/2 clients that read slowly: what they were answered reaches them, although they answer DATA with WINDOW_UPDATE."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from aiohttp import web
from nexus_gateway import app
from nexus_gateway.app import Gateway
from nexus_gateway.testing import Harness, simple, until
from nexus_wire.h2serving import H2Serving
from nexus_wire.http2 import frames, hpack
from nexus_wire.parting import unacknowledged

SIZE = 150_000
LARGE_WINDOW = 2**24
HEAD = b"".join(
    hpack.field(*pair)
    for pair in ((b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/"), (b":authority", b"a.example"))
)


class Client:
    """A client on a blocking socket, with a small buffer and large windows; to be used in a thread."""

    def __init__(self, port: int, *, secure: bool) -> None:
        plain = socket.socket()
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        plain.settimeout(20)
        plain.connect(("127.0.0.1", port))
        self.socket = plain
        if secure:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            context.set_alpn_protocols(["h2"])
            self.socket = context.wrap_socket(plain)
        self._buffer = b""
        self.socket.sendall(
            frames.PREFACE
            + frames.settings({frames.INITIAL_WINDOW_SIZE: LARGE_WINDOW})
            + frames.window_update(0, LARGE_WINDOW)
        )

    def ask(self) -> None:
        self.socket.sendall(frames.headers(1, HEAD, 16384, end=True))

    def frame(self) -> tuple[int, bytes] | None:
        """Return the next frame's kind and payload; None at the end."""
        while len(self._buffer) < 9 or len(self._buffer) < 9 + int.from_bytes(self._buffer[:3]):
            data = self.socket.recv(4096)
            if not data:
                return None
            self._buffer += data
        end = 9 + int.from_bytes(self._buffer[:3])
        found, self._buffer = self._buffer[:end], self._buffer[end:]
        return found[3], found[9:]

    def first(self, kind: int) -> bytes:
        """Read until the first frame of a kind, and no further."""
        while (found := self.frame()) is not None:
            if found[0] == kind:
                return found[1]
        raise AssertionError(f"no frame of kind {kind}")

    def rest(self) -> bytes:
        """Read to the end as a client does that renews its windows; return the content."""
        content = b""
        while (found := self.frame()) is not None:
            if found[0] == frames.DATA and found[1]:
                content += found[1]
                self.socket.sendall(frames.window_update(0, len(found[1])))
        return content


@pytest.fixture
def client(harness: Harness) -> Iterator[Callable[..., Client]]:
    with contextlib.ExitStack() as opened:

        def connect(*, secure: bool = False) -> Client:
            gateway = harness.gateway
            assert gateway is not None
            made = Client(gateway.tls_port if secure else gateway.port, secure=secure)
            opened.enter_context(made.socket)
            return made

        yield connect


@pytest.fixture
async def gateway(harness: Harness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Gateway:
    """A gateway with HTTP and HTTPS before an upstream with a large answer; idle clients are let go almost at once."""
    monkeypatch.setattr(app, "_IDLE_GRACE_S", 0.05)
    folder = tmp_path / "certificates"
    folder.mkdir()
    await asyncio.to_thread(
        subprocess.run,
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1", "-subj",
         "/CN=localhost", "-keyout", folder / "default.key", "-out", folder / "default.crt"],
        check=True, capture_output=True,
    )  # fmt: skip
    body = os.urandom(SIZE)

    async def large(request: web.Request) -> web.Response:
        return web.Response(body=body)

    port = await harness.upstreams.start(large)
    return await harness.start(simple(port), tls_listen="127.0.0.1:0", tls_certificates=folder)


async def greeted(gateway: Gateway) -> H2Serving:
    """Return the one connection, once the gateway has read all that its client says by itself."""
    found: list[H2Serving] = []

    def look() -> bool:
        found[:] = [each for each in gateway.proxy.connections if isinstance(each, H2Serving)]
        return bool(found) and found[0].window > LARGE_WINDOW

    await until(look)
    return found[0]


@pytest.mark.parametrize("secure", [False, True], ids=["clear", "tls"])
async def test_a_stop_loses_nothing_of_what_the_kernel_still_has_to_deliver(
    gateway: Gateway, client: Callable[..., Client], secure: bool
) -> None:
    reader = await asyncio.to_thread(client, secure=secure)
    connection = await greeted(gateway)
    connection.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * SIZE)
    await asyncio.to_thread(reader.ask)
    content = await asyncio.to_thread(reader.first, frames.DATA)
    await until(lambda: not gateway.proxy.in_flight and not connection.transport.get_write_buffer_size())
    assert unacknowledged(connection.transport) > SIZE / 3, "the kernel has much of it still"
    stopping = asyncio.create_task(gateway.stop(60.0))
    await until(lambda: connection.going)
    content += await asyncio.to_thread(reader.rest)
    assert len(content) == SIZE
    reader.socket.close()
    await stopping
    assert not gateway.proxy.connections


@pytest.mark.parametrize("secure", [False, True], ids=["clear", "tls"])
async def test_a_stop_waits_for_no_client_that_is_idle_and_stays(
    gateway: Gateway, client: Callable[..., Client], secure: bool
) -> None:
    """Such a client may never close its side; it was told, and loses nothing."""
    idle = await asyncio.to_thread(client, secure=secure)
    await asyncio.to_thread(idle.first, frames.SETTINGS)
    connection = await greeted(gateway)
    await until(lambda: not unacknowledged(connection.transport))
    await gateway.proxy.quiet(0.05)
    assert not connection.unwritten(), "nobody waits for it"
    await asyncio.to_thread(idle.first, frames.GOAWAY)
    assert await asyncio.to_thread(idle.rest) == b""
    assert gateway.proxy.connections == {connection}, "its own side is its own to close"
    idle.socket.close()
    await until(lambda: not gateway.proxy.connections)
