"""TLS towards clients at its edges: hostile and broken peers, odd records, ends of every kind. Real clients, real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from nexus_gateway.edge.tls.store import Certificates
from nexus_gateway.testing import until
from nexus_wire.clock import Clock
from nexus_wire.server import AnyConnection
from nexus_wire.testing import App, Served
from nexus_wire.tls import Failure, TlsListener, TlsTransport

NAME = "api.example"
HOST = b" HTTP/1.1\r\nhost: api.example\r\n"
ASK = b"GET /a" + HOST + b"\r\n"
LAST = b"GET /a" + HOST + b"connection: close\r\n\r\n"


@dataclass
class Service:
    """A small service that listens with TLS. failures: what was told of connections that broke."""

    app: App
    listener: TlsListener
    pem: str
    port: int = 0
    failures: list[tuple[Failure, str]] = field(default_factory=list)
    transports: list[TlsTransport] = field(default_factory=list)
    protocols: list[str | None] = field(default_factory=list)

    def client(self, version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> ssl.SSLContext:
        context = ssl.create_default_context(cadata=self.pem)
        context.minimum_version = context.maximum_version = version
        return context

    async def ask(self, data: bytes = LAST) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, ssl=self.client(), server_hostname=NAME)
        try:
            writer.write(data)
            async with asyncio.timeout(5):
                return await reader.read()
        finally:
            writer.transport.abort()

    async def nothing_left(self) -> None:
        await until(lambda: not self.app.connections and not self.listener.handshakes)

    async def raw(self, data: bytes) -> bytes:
        """Send bytes as they are, return all that comes until the service closes."""
        reader, writer = await self.app.connect()
        writer.write(data)
        async with asyncio.timeout(5):
            return await reader.read()


Serve = Callable[..., Any]


@pytest.fixture
async def serve(tmp_path: Path, authority: Any) -> AsyncIterator[Serve]:
    loop = asyncio.get_running_loop()
    errors: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: errors.append(context))
    clock = Clock(loop)
    servers: list[asyncio.Server] = []
    services: list[Service] = []
    authority.write(tmp_path, "api", NAME)
    certificates = Certificates(tmp_path)
    certificates.reload()

    async def begin(*, handshake_s: float = 5.0, max_handshakes: int = 0, **options: Any) -> Service:
        app = App(clock, **options)

        def make(protocol: str | None) -> AnyConnection:
            service.protocols.append(protocol)
            return app.options.connection(protocol)

        def accept() -> TlsTransport:
            service.transports.append(listener())
            return service.transports[-1]

        listener = TlsListener(
            certificates.context,
            clock,
            make,
            lambda failure, peer, words: service.failures.append((failure, words)),
            handshake_s,
            max_handshakes,
        )
        service = Service(app, listener, authority.pem)
        server = await loop.create_server(accept, "127.0.0.1", 0)
        service.port = app.port = server.sockets[0].getsockname()[1]
        servers.append(server)
        services.append(service)
        return service

    yield begin
    for service in services:
        service.app.close()
        for transport in service.transports:
            transport.abort()
    for server in servers:
        server.close()
        await server.wait_closed()
    await asyncio.sleep(0.01)
    clock.stop()
    assert not errors


class Wire:
    """A client whose TLS is in the test's hands: `cipher` gives records, `send` puts any bytes on the wire."""

    def __init__(self, service: Service, version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> None:
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = service.client(version).wrap_bio(self.incoming, self.outgoing, server_hostname=NAME)
        self.service = service

    async def connect(self, by: int = 0) -> None:
        """Shake hands; by: so many bytes at a time, 0 for as they come."""
        self.reader, self.writer = await self.service.app.connect()
        while True:
            try:
                self.tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                await self.send(self.outgoing.read(), by)
                await self.take()
        await self.send(self.outgoing.read(), by)
        await until(lambda: self.service.app.opened > 0)

    async def send(self, data: bytes, by: int = 0) -> None:
        step = by or len(data) or 1
        for at in range(0, len(data), step):
            self.writer.write(data[at : at + step])
            await self.writer.drain()
            if by:
                await asyncio.sleep(0)

    async def take(self) -> bool:
        async with asyncio.timeout(5):
            data = await self.reader.read(2**16)
        if data:
            self.incoming.write(data)
        else:
            self.incoming.write_eof()
        return bool(data)

    def cipher(self, plain: bytes) -> bytes:
        self.tls.write(plain)
        return self.outgoing.read()

    async def read(self, end: bytes) -> bytes:
        """Return the plaintext up to `end`, or to the server's goodbye. Raises SSLError, also when there is none."""
        got = b""
        while not got.endswith(end) or not end:
            try:
                plain = self.tls.read(2**16)
            except ssl.SSLWantReadError:
                await self.take()
                continue
            except ssl.SSLZeroReturnError:
                return got
            if not plain:
                return got
            got += plain
        return got


# ---- what is no TLS


GARBAGE = {
    "plain HTTP": LAST,
    "zeros": bytes(600),
    "a record of no version": b"\x16\x09\x09\x00\x05hello",
    "a record that is too long": b"\x16\x03\x01\xff\xff" + bytes(100),
    "a hello that is none": b"\x16\x03\x01\x00\x05hello",
    "data before any hello": b"\x17\x03\x03\x00\x05hello",
    "an alert": b"\x15\x03\x01\x00\x02\x02\x28",
    "SSL 2": b"\x80\x2e\x01\x00\x02\x00\x15\x00\x00\x00\x10" + bytes(37),
    "noise": random.Random(4).randbytes(5000),
}


@pytest.mark.parametrize("name", GARBAGE)
async def test_what_is_no_handshake_is_refused_at_once_and_counted(serve: Serve, name: str) -> None:
    service = await serve()
    answer = await service.raw(GARBAGE[name])
    assert b"HTTP" not in answer
    assert len(answer) <= 7, "an alert or nothing"
    assert [failure for failure, _ in service.failures] == [Failure.HANDSHAKE]
    await service.nothing_left()
    assert service.app.opened == 0
    assert (await service.ask()).endswith(b"/a ")


@pytest.mark.parametrize("cut", [0, 1, 5, 40])
async def test_a_handshake_that_stops_is_cut_off_in_time_and_counted(serve: Serve, cut: int) -> None:
    service = await serve(handshake_s=0.3)
    wire = Wire(service)
    with pytest.raises(ssl.SSLWantReadError):
        wire.tls.do_handshake()
    hello = wire.outgoing.read()
    reader, writer = await service.app.connect()
    writer.write(hello[:cut])
    await until(lambda: service.listener.handshakes == 1)
    async with asyncio.timeout(3):
        with contextlib.suppress(ConnectionError):  # a reset is as good an end as any
            assert await reader.read() == b""
    assert service.failures == [(Failure.TIMEOUT, "")]
    await service.nothing_left()


async def test_a_handshake_that_stops_after_the_servers_part_is_cut_off_too(serve: Serve) -> None:
    service = await serve(handshake_s=0.3)
    wire = Wire(service)
    with pytest.raises(ssl.SSLWantReadError):
        wire.tls.do_handshake()
    wire.reader, wire.writer = await service.app.connect()
    await wire.send(wire.outgoing.read())
    with contextlib.suppress(ConnectionError):
        while await wire.take():
            pass
    assert service.failures == [(Failure.TIMEOUT, "")]
    await service.nothing_left()


async def test_no_more_handshakes_at_once_than_the_listener_takes(serve: Serve) -> None:
    service = await serve(max_handshakes=2)
    held = [await service.app.connect() for _ in range(2)]
    await until(lambda: service.listener.handshakes == 2)
    with contextlib.suppress(ConnectionError):
        assert await service.raw(b"") == b""
    assert service.failures == [(Failure.CROWD, "")]
    for _, writer in held:
        writer.transport.abort()
    await service.nothing_left()
    assert (await service.ask()).endswith(b"/a ")
    assert len(service.failures) == 1, "who just leaves is no failure"


async def test_a_client_that_refuses_the_certificate_is_counted(serve: Serve) -> None:
    """Whether it says why, as openssl itself does, or just leaves, as the loops do."""
    service = await serve()

    def blocking() -> None:
        with socket.create_connection(("127.0.0.1", service.port), timeout=5) as plain:
            ssl.create_default_context().wrap_socket(plain, server_hostname=NAME)

    with pytest.raises(ssl.SSLCertVerificationError):
        await asyncio.to_thread(blocking)
    await until(lambda: service.failures == [(Failure.HANDSHAKE, "TLSV1_ALERT_UNKNOWN_CA")])
    with pytest.raises(ssl.SSLCertVerificationError):
        await asyncio.open_connection("127.0.0.1", service.port, ssl=service.client(), server_hostname="else.example")
    await until(lambda: service.failures[1:] == [(Failure.HANDSHAKE, "the client left")])
    await service.nothing_left()


# ---- records


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_everything_may_come_a_byte_at_a_time(serve: Serve, version: ssl.TLSVersion) -> None:
    service = await serve()
    wire = Wire(service, version)
    await wire.connect(by=1)
    await wire.send(wire.cipher(ASK), by=1)
    assert (await wire.read(b"/a ")).startswith(b"HTTP/1.1 200 OK\r\n")


@pytest.mark.parametrize("seed", range(8))
async def test_records_and_packets_may_be_cut_anywhere(serve: Serve, seed: int) -> None:
    """Body in records of any size, records in packets of any size: the same bytes arrive."""
    rng = random.Random(seed)
    service = await serve()
    body = rng.randbytes(300_000)
    wire = Wire(service)
    await wire.connect()
    plain = b"POST /b" + HOST + b"content-length: %d\r\n\r\n" % len(body) + body
    stream = bytearray()
    at = 0
    while at < len(plain):
        size = rng.choice((1, 7, 200, 5000, 2**14, 40_000))
        stream += wire.cipher(plain[at : at + size])
        at += size
    at = 0
    while at < len(stream):
        size = rng.choice((1, 3, 4, 5, 6, 900, 2**14 + 21, 2**14 + 22, 70_000))
        await wire.send(bytes(stream[at : at + size]))
        if rng.random() < 0.3:
            await asyncio.sleep(0.001)
        at += size
    answer = await wire.read(body[-100:])
    assert answer.partition(b"\r\n\r\n")[2] == b"/b " + body


async def test_the_first_request_may_come_with_the_end_of_the_handshake(serve: Serve) -> None:
    """One packet with the client's last handshake record and two requests."""
    service = await serve()
    wire = Wire(service)
    wire.reader, wire.writer = await service.app.connect()
    with pytest.raises(ssl.SSLWantReadError):
        wire.tls.do_handshake()
    await wire.send(wire.outgoing.read())
    while True:
        await wire.take()
        try:
            wire.tls.do_handshake()
            break
        except ssl.SSLWantReadError:
            assert not wire.outgoing.pending
    finished = wire.outgoing.read()
    await wire.send(finished + wire.cipher(ASK) + wire.cipher(LAST))
    assert (await wire.read(b"")).count(b"HTTP/1.1 200 OK") == 2


BROKEN: dict[str, Callable[[bytes], bytes]] = {
    "changed on its way": lambda record: record[:-1] + bytes([record[-1] ^ 1]),
    "sent twice": lambda record: record + record,
    "plain HTTP": lambda record: ASK,
    "noise": lambda record: random.Random(1).randbytes(2000),
    "a record that is too long": lambda record: b"\x17\x03\x03\xff\xff" + record,
    "a second hello": lambda record: b"\x16\x03\x01\x00\x05hello",
}


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("name", BROKEN)
async def test_a_broken_record_ends_the_connection_with_an_alert(
    serve: Serve, name: str, version: ssl.TLSVersion
) -> None:
    service = await serve()
    wire = Wire(service, version)
    await wire.connect()
    await wire.send(wire.cipher(ASK))
    await wire.read(b"/a ")
    await wire.send(BROKEN[name](wire.cipher(ASK)))
    with pytest.raises(ssl.SSLError, match="ALERT"):
        await wire.read(b"")
    assert len(service.app.served) <= 2
    assert [failure for failure, _ in service.failures] == [Failure.RECORD]
    wire.writer.close()
    await service.nothing_left()


async def test_what_came_before_a_broken_record_still_counts(serve: Serve) -> None:
    """Served but not answered: after an alert nothing may be said."""
    service = await serve()
    wire = Wire(service)
    await wire.connect()
    await wire.send(wire.cipher(ASK) + b"\x17\x03\x03\x00\x20" + bytes(32))
    with pytest.raises(ssl.SSLError, match="ALERT"):
        await wire.read(b"")
    assert len(service.app.served) == 1
    assert [failure for failure, _ in service.failures] == [Failure.RECORD]
    wire.writer.close()
    await service.nothing_left()


async def test_records_that_hold_nothing_are_refused(serve: Serve) -> None:
    """Unencrypted, as of somebody who only wants us to look at them."""
    service = await serve()
    wire = Wire(service, ssl.TLSVersion.TLSv1_2)
    await wire.connect()
    await wire.send(b"\x17\x03\x03\x00\x00" * 1000)
    with pytest.raises(ssl.SSLError, match="ALERT"):
        await wire.read(b"")
    await service.nothing_left()


# ---- the end, from both sides


async def test_the_server_says_goodbye_and_waits_for_the_clients(serve: Serve) -> None:
    service = await serve()
    wire = Wire(service)
    await wire.connect()
    await wire.send(wire.cipher(LAST))
    answer = await wire.read(b"")  # raises SSLEOFError without a goodbye
    assert answer.endswith(b"/a ")
    assert service.app.connections, "it waits"
    assert not await wire.take(), "and has closed its side"
    wire.tls.unwrap()
    await wire.send(wire.outgoing.read())
    wire.writer.close()
    await service.nothing_left()


async def test_a_client_that_does_not_close_its_side_is_cut_off(serve: Serve) -> None:
    service = await serve()
    wire = Wire(service)
    await wire.connect()
    await wire.send(wire.cipher(LAST))
    await wire.read(b"")
    started = asyncio.get_running_loop().time()
    await service.nothing_left()
    assert asyncio.get_running_loop().time() - started < 5


async def test_a_client_may_go_on_sending_while_the_server_closes(serve: Serve) -> None:
    """Closed at once, its kernel would answer with a reset, and the client might never see the answer."""
    service = await serve()
    wire = Wire(service)
    await wire.connect()
    await wire.send(wire.cipher(LAST))
    await until(lambda: all(each.is_closing() for each in service.transports))
    for _ in range(20):
        await wire.send(wire.cipher(b"x" * 1000))
        await asyncio.sleep(0.005)
    assert (await wire.read(b"")).endswith(b"/a ")
    wire.writer.close()
    await service.nothing_left()


async def test_a_clients_goodbye_is_answered(serve: Serve) -> None:
    service = await serve()
    wire = Wire(service)
    await wire.connect()
    await wire.send(wire.cipher(ASK))
    await wire.read(b"/a ")
    with pytest.raises(ssl.SSLWantReadError):
        wire.tls.unwrap()
    await wire.send(wire.outgoing.read())
    await wire.take()
    wire.tls.unwrap()  # raises unless the server's is here
    assert not await wire.take(), "closed as well"
    await service.nothing_left()
    assert service.failures == []


@pytest.mark.parametrize("how", ["closed", "reset", "goodbye"])
async def test_a_client_that_leaves_within_its_body_is_gone(serve: Serve, how: str) -> None:
    """Cut off, the body must not pass for a whole one, whatever kind of end it is."""
    service = await serve()
    wire = Wire(service)
    await wire.connect()
    await wire.send(wire.cipher(b"POST /b" + HOST + b"content-length: 100\r\n\r\n" + b"x" * 50))
    await until(lambda: len(service.app.served) == 1)
    if how == "goodbye":
        with pytest.raises(ssl.SSLWantReadError):
            wire.tls.unwrap()
        await wire.send(wire.outgoing.read())
    elif how == "reset":
        wire.writer.transport.abort()
    else:
        wire.writer.close()
    await until(lambda: service.app.served[0].events == ["gone"])
    assert not service.app.served[0].stream.complete
    await service.nothing_left()
    assert service.failures == []


async def test_a_refused_client_reads_why_although_it_still_sends(serve: Serve) -> None:
    service = await serve()
    wire = Wire(service)
    await wire.connect()
    await wire.send(wire.cipher(b"GET /a HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n"))
    for _ in range(20):
        await wire.send(wire.cipher(b"x" * 1000))
    assert (await wire.read(b"")).startswith(b"HTTP/1.1 400 ")
    wire.writer.close()
    await service.nothing_left()


async def test_pieces_are_written_in_their_order(serve: Serve) -> None:
    """Small and large, bytes and views, an empty one between them."""
    service = await serve()
    body = random.Random(5).randbytes(150_000)
    wire = Wire(service)
    await wire.connect()
    [transport] = service.transports
    transport.writelines((b"head ", b"", memoryview(body)[:70_000], body[70_000:], b" tail"))
    assert await wire.read(b" tail") == b"head " + body + b" tail"


async def test_nothing_can_be_done_to_a_connection_that_is_over(serve: Serve) -> None:
    service = await serve()
    wire = Wire(service)
    await wire.connect()
    [transport] = service.transports
    transport.write(b"")
    transport.close()
    assert await wire.read(b"") == b""

    def try_everything() -> None:
        for size in (1, 100_000):
            transport.write(b"x" * size)
            transport.writelines((b"head", memoryview(b"x" * size)))
        transport.write_eof()
        transport.pause_reading()
        transport.resume_reading()
        transport.set_write_buffer_limits(1000)
        assert transport.is_closing()
        assert transport.get_write_buffer_size() == 0
        assert transport.get_extra_info("ssl_object") is None
        transport.close()

    try_everything()
    assert not await wire.take()
    assert service.app.connections, "it is closing"
    wire.writer.close()
    await service.nothing_left()
    try_everything()
    transport.abort()


async def test_the_end_of_writing_leaves_the_other_direction_open(serve: Serve) -> None:
    service = await serve()
    wire = Wire(service)
    await wire.connect()
    [transport] = service.transports
    transport.write(b"last words")
    transport.write_eof()
    transport.write(b"and more")
    assert await wire.read(b"") == b"last words"
    await wire.send(wire.cipher(b"POST /b" + HOST + b"content-length: 1\r\n\r\nx"))
    await until(lambda: len(service.app.served) == 1)


# ---- back-pressure


async def test_who_does_not_read_is_not_written_to_without_end(serve: Serve) -> None:
    service = await serve()
    sent = 0
    piece = b"x" * 2**17

    def stream(served: Served) -> bool:
        served.stream.respond(b"HTTP/1.1 200 OK\r\n", b"content-length: %d\r\n" % 2**30, 2**30, b"", False)
        more(served)
        return True

    def more(served: Served) -> None:
        nonlocal sent
        while not served.stream.blocked and not served.stream.closed:
            served.stream.write(piece)
            sent += len(piece)

    service.app.on_head = stream
    wire = Wire(service)
    await wire.connect()
    await wire.send(wire.cipher(ASK))
    await until(lambda: len(service.app.served) == 1 and service.app.served[0].stream.blocked)
    served, [transport] = service.app.served[0], service.transports
    served.on_ready = lambda: more(served)
    low = sent
    assert transport.get_write_buffer_size() < 2**20
    got = 0
    while got < low + 2**22:
        if not wire.incoming.pending:
            await wire.take()
        try:
            got += len(wire.tls.read(2**18))
        except ssl.SSLWantReadError:
            await wire.take()
        assert transport.get_write_buffer_size() < 2**20
    assert sent > low + 2**21, "it goes on when the client reads"
    wire.writer.transport.abort()
    await service.nothing_left()


async def test_what_the_application_does_not_want_stays_with_the_client(serve: Serve) -> None:
    service = await serve()

    def hold(served: Served) -> bool:
        served.stream.pause()
        return False

    service.app.on_head = hold
    wire = Wire(service)
    await wire.connect()
    await wire.send(wire.cipher(b"POST /b" + HOST + b"content-length: %d\r\n\r\n" % 2**26))
    await until(lambda: len(service.app.served) == 1)
    served = service.app.served[0]
    piece = wire.cipher(b"x" * 2**20)
    sent = 0
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0.5):
            while True:
                await wire.send(piece)
                sent += 1
    assert sent < 2**5
    assert len(served.body) == 0
    served.stream.resume()
    await until(lambda: len(served.body) > 2**18)
    wire.writer.transport.abort()
    await service.nothing_left()


# ---- what is agreed


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [(["http/1.1", "h2"], "h2"), (["http/1.1"], "http/1.1"), (["spdy/1"], None), ([], None)],
)
async def test_the_factory_is_told_what_was_agreed(serve: Serve, offered: list[str], chosen: str | None) -> None:
    service = await serve()
    context = service.client()
    if offered:
        context.set_alpn_protocols(offered)
    _, writer = await asyncio.open_connection("127.0.0.1", service.port, ssl=context, server_hostname=NAME)
    await until(lambda: len(service.protocols) == 1)
    assert service.protocols == [chosen]
    connection = next(iter(service.app.connections))
    assert connection.secure
    assert connection.peer == "127.0.0.1"
    assert connection.transport.get_extra_info("ssl_object").version() == "TLSv1.3"
    writer.transport.abort()


Said = Callable[[str], object]


async def s_client(service: Service, pieces: Sequence[tuple[bytes, Said]], *arguments: str) -> str:
    """Type into openssl's client; return all that it says. A letter alone in what it reads at once is a command to it.

    pieces: what to type, and what must be true of all it has said by then before the next: it would read both as one.
    """
    client = await asyncio.create_subprocess_exec(
        "openssl", "s_client", "-connect", f"127.0.0.1:{service.port}", "-servername", NAME, *arguments,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    typed, output = client.stdin, client.stdout
    assert typed is not None
    assert output is not None
    heard = bytearray()

    async def listen() -> None:
        while data := await output.read(2**16):
            heard.extend(data)

    def said() -> str:
        return heard.decode(errors="replace")

    async def enter(piece: bytes, is_done: Said) -> None:
        if not typed.is_closing():  # so when it has ended
            with contextlib.suppress(ConnectionError):
                typed.write(piece)
                await typed.drain()
        await until(lambda: is_done(said()) or listening.done())

    listening = asyncio.create_task(listen())
    try:
        await until(lambda: service.protocols)
        for piece, is_done in pieces:
            await enter(piece, is_done)
        await until(listening.done)
    finally:
        if client.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                client.kill()
        await client.wait()
        await listening
    return said()


async def test_renegotiation_is_refused_and_costs_nothing(serve: Serve) -> None:
    service = await serve()
    pieces: list[tuple[bytes, Said]] = [(b"R\n", lambda said: "no renegotiation" in said), (LAST, lambda _: True)]
    said = await s_client(service, pieces, "-tls1_2", "-crlf")
    assert "RENEGOTIATING" in said
    assert "no renegotiation" in said
    assert "200 OK" not in said, "openssl gives up"
    await service.nothing_left()
    assert (await service.ask()).endswith(b"/a ")


async def test_keys_may_be_changed_at_any_time(serve: Serve) -> None:
    """K asks the server to change its keys as well."""
    service = await serve()

    def changes(count: int) -> Said:
        return lambda said: said.count("KEYUPDATE") == count

    def requests(count: int) -> Said:
        return lambda _: len(service.app.served) == count

    pieces = [
        (b"K\n", changes(1)), (ASK, requests(1)), (b"K\n", changes(2)), (b"k\n", changes(3)), (b"K\n", changes(4)),
        (LAST, requests(2)),
    ]  # fmt: skip
    said = await s_client(service, pieces, "-tls1_3")
    assert said.count("KEYUPDATE") == 4
    assert said.count("200 OK") == 2
    assert "closed" in said.splitlines()[-1]
    assert service.failures == []
    await service.nothing_left()


async def test_curl_is_served(serve: Serve) -> None:
    service = await serve()

    def run() -> subprocess.CompletedProcess[bytes]:
        address = f"{NAME}:{service.port}"
        return subprocess.run(
            ["curl", "-sSk", "--resolve", f"{address}:127.0.0.1", "-d", "body", *(f"https://{address}/{n}" for n in "ab")],
            capture_output=True, timeout=10, check=False,
        )  # fmt: skip

    done = await asyncio.to_thread(run)
    assert (done.stdout, done.stderr) == (b"/a body/b body", b"")
    assert service.app.opened == 1, "one connection"
    await service.nothing_left()


async def test_blocking_clients_read_a_clean_end(serve: Serve) -> None:
    service = await serve()

    def run() -> bytes:
        with (
            socket.create_connection(("127.0.0.1", service.port), timeout=5) as plain,
            service.client().wrap_socket(plain, server_hostname=NAME, suppress_ragged_eofs=False) as secure,
        ):
            secure.sendall(LAST)
            got = b""
            while piece := secure.recv(1000):
                got += piece
            secure.unwrap().close()
            return got

    assert (await asyncio.to_thread(run)).endswith(b"/a ")
    await service.nothing_left()
