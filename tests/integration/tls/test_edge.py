"""TLS on both sides of a gateway: names, verification and its failure, large bodies, early answers. On both event loops."""

from __future__ import annotations

import asyncio
import hashlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from nexus_core.snapshot import CircuitBreaker, Retry, Snapshot, Timeouts, Upstream, UpstreamTls
from nexus_core.snapshot.policies import Balancing, Concurrency, Persistence
from nexus_gateway.testing import Harness, simple, until

HOST = b" HTTP/1.1\r\nhost: api.example\r\n"
LAST = b"GET /last" + HOST + b"connection: close\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
Upstreams = Callable[..., Awaitable[int]]


async def answer_ok(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while await reader.readuntil(b"\r\n\r\n"):
        writer.write(OK)


@pytest.fixture
async def upstreams() -> AsyncIterator[Upstreams]:
    """Starts a server on bare sockets, with TLS when it is given a context."""
    servers: list[asyncio.Server] = []
    tasks: set[asyncio.Task[None]] = set()

    async def begin(serve: Serve, context: ssl.SSLContext | None = None) -> int:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                await serve(reader, writer)
            except (OSError, asyncio.IncompleteReadError):
                pass  # the gateway may leave at any time
            finally:
                writer.transport.abort()

        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.create_task(handle(reader, writer))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

        server = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=context)
        servers.append(server)
        return int(server.sockets[0].getsockname()[1])

    yield begin
    for server in servers:
        server.close()
    for task in tuple(tasks):
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


class Edge(Harness):
    """A gateway that listens with TLS. folder: its certificates; authority: who signed them."""

    def __init__(self, tmp_path: Path, authority: Any) -> None:
        super().__init__(tmp_path)
        self.authority = authority
        self.folder = tmp_path / "certificates"
        self.folder.mkdir()
        self.writers: list[asyncio.StreamWriter] = []
        authority.write(self.folder, "api", "api.example")

    async def begin(self, snapshot: Snapshot, **settings: Any) -> None:
        await self.start(snapshot, tls_listen="127.0.0.1:0", tls_certificates=self.folder, **settings)

    async def connect(
        self, data: bytes = b"", name: str = "api.example", *, plain: bool = False
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        assert self.gateway is not None
        context = ssl.create_default_context(cadata=self.authority.pem)
        port = self.gateway.port if plain else self.gateway.tls_port
        how: dict[str, Any] = {} if plain else {"ssl": context, "server_hostname": name}
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**20, **how)
        self.writers.append(writer)
        writer.write(data)
        return reader, writer

    async def send(self, data: bytes = LAST) -> bytes:
        reader, writer = await self.connect(data)
        async with asyncio.timeout(10):
            answer = await reader.read()
        writer.transport.abort()
        return answer

    async def settled(self) -> None:
        """Return once nothing of any request is left."""
        assert self.gateway is not None
        proxy, pools = self.gateway.proxy, self.gateway.pools.all().values()
        await until(lambda: not proxy.in_flight and not proxy.connections)
        states = {state for pool in pools for state in pool.endpoints}
        assert {state.active for state in states} <= {0}
        await until(lambda: proxy.connector.open_connections == sum(len(state.idle) for state in states))

    async def close(self) -> None:
        for writer in self.writers:
            writer.transport.abort()
        await super().close()


@pytest.fixture
async def edge(tmp_path: Path, authority: Any) -> AsyncIterator[Edge]:
    made = Edge(tmp_path, authority)
    errors: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))
    try:
        yield made
    finally:
        await made.close()
    assert not errors


def server_context(edge: Edge, *names: str) -> ssl.SSLContext:
    folder = edge.tmp_path / f"upstream-{names[0]}"
    folder.mkdir()
    edge.authority.write(folder, "u", *names)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(folder / "u.crt", folder / "u.key")
    return context


# ---- towards clients


async def test_the_certificate_follows_the_name_that_is_asked_for(edge: Edge, upstreams: Upstreams) -> None:
    expected = {
        "shop.example": edge.authority.write(edge.folder, "shop", "shop.example"),
        "a.wild.example": edge.authority.write(edge.folder, "wild", "*.wild.example"),
    }
    await edge.begin(simple(await upstreams(answer_ok)))
    for name, certificate in expected.items():
        reader, writer = await edge.connect(LAST, name)
        assert writer.get_extra_info("ssl_object").getpeercert(binary_form=True) == certificate
        assert (await reader.read()).endswith(b"ok")


async def test_upstreams_hear_that_a_request_came_over_tls(edge: Edge, upstreams: Upstreams) -> None:
    heads: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(OK)

    await edge.begin(simple(await upstreams(serve), balancing=Balancing(persistence=Persistence())))
    answer = await edge.send()
    assert b"\r\nx-forwarded-proto: https\r\n" in heads[0]
    assert b"; Secure\r\n" in answer, "its session is for TLS alone"
    reader, _ = await edge.connect(LAST, plain=True)
    await reader.read()
    assert b"\r\nx-forwarded-proto: http\r\n" in heads[1]
    await edge.settled()


async def test_requests_follow_each_other_on_a_tls_connection(edge: Edge, upstreams: Upstreams) -> None:
    await edge.begin(simple(await upstreams(answer_ok)))
    answer = await edge.send((b"GET /a" + HOST + b"\r\n") * 20 + LAST)
    assert answer.count(b"HTTP/1.1 200") == 21
    await edge.settled()


async def test_a_client_without_tls_on_the_tls_port_gets_nothing(edge: Edge, upstreams: Upstreams) -> None:
    await edge.begin(simple(await upstreams(answer_ok)))
    assert edge.gateway is not None
    reader, writer = await asyncio.open_connection("127.0.0.1", edge.gateway.tls_port)
    edge.writers.append(writer)
    writer.write(LAST)
    async with asyncio.timeout(5):
        assert b"HTTP" not in await reader.read()
    assert (await edge.send()).endswith(b"ok"), "others are served"


# ---- towards upstreams


async def test_an_upstream_is_verified_and_asked_by_name(edge: Edge, upstreams: Upstreams) -> None:
    names: list[str | None] = []
    context = server_context(edge, "orders.internal")
    context.sni_callback = lambda _, name, __: names.append(name)
    tls = UpstreamTls("orders.internal", edge.authority.pem)
    await edge.begin(simple(await upstreams(answer_ok, context), tls=tls))
    assert (await edge.send()).endswith(b"ok")
    assert names == ["orders.internal"]
    await edge.settled()


DISTRUSTED = {
    "another authority": ("orders.internal", "other"),
    "another name": ("else.internal", "own"),
    "the system's authorities": ("orders.internal", ""),
}


@pytest.mark.parametrize("name", DISTRUSTED)
async def test_an_upstream_that_is_not_who_it_should_be_is_a_502(edge: Edge, upstreams: Upstreams, name: str) -> None:
    heads: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(OK)

    server_name, whose = DISTRUSTED[name]
    ca = {"own": edge.authority.pem, "other": type(edge.authority)().pem, "": ""}[whose]
    port = await upstreams(serve, server_context(edge, "orders.internal"))
    await edge.begin(simple(port, tls=UpstreamTls(server_name, ca), retry=Retry(attempts=0)))
    answer = await edge.send()
    assert answer.startswith(b"HTTP/1.1 502")
    assert b'"UpstreamConnectFailure"' in answer
    assert heads == []
    await edge.settled()


async def test_verification_can_be_turned_off_for_experiments(edge: Edge, upstreams: Upstreams) -> None:
    port = await upstreams(answer_ok, server_context(edge, "orders.internal"))
    await edge.begin(simple(port, tls=UpstreamTls("else.internal", verify=False)))
    assert (await edge.send()).endswith(b"ok")


async def test_an_upstream_that_speaks_no_tls_is_a_502(edge: Edge, upstreams: Upstreams) -> None:
    tls = UpstreamTls("orders.internal", edge.authority.pem)
    await edge.begin(simple(await upstreams(answer_ok), tls=tls, retry=Retry(attempts=0)))
    assert (await edge.send()).startswith(b"HTTP/1.1 502")
    await edge.settled()


async def test_an_upstream_that_stops_within_its_handshake_is_a_502_in_time(edge: Edge, upstreams: Upstreams) -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(-1)

    policies: dict[str, Any] = {
        "tls": UpstreamTls("orders.internal", edge.authority.pem),
        "timeouts": Timeouts(connect_s=0.3),
        "retry": Retry(attempts=0),
    }
    await edge.begin(simple(await upstreams(silent), **policies))
    assert (await edge.send()).startswith(b"HTTP/1.1 502")
    await edge.settled()


# ---- towards upstreams whose policy names no name: the request's host is asked for and verified


def get(host: str) -> bytes:
    return f"GET /a HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n".encode()


async def circuit(edge: Edge) -> str:
    (row,) = (await edge.ask("/breakers"))["breakers"]
    return str(row["state"])


async def test_a_host_that_a_client_made_up_opens_no_circuit(edge: Edge, upstreams: Upstreams) -> None:
    policies: dict[str, Any] = {"tls": UpstreamTls(ca=edge.authority.pem), "breaker": CircuitBreaker(failures=1)}
    await edge.begin(simple(await upstreams(answer_ok, server_context(edge, "api.example")), **policies))
    for host in ("made.up", "127.0.0.1", f"{'a' * 64}.example"):
        answer = await edge.send(get(host))
        assert answer.startswith(b"HTTP/1.1 502")
        assert b'"UpstreamNotVerified"' in answer
    assert await circuit(edge) == "closed"
    assert (await edge.send(get("api.example"))).endswith(b"ok")
    await edge.settled()


async def test_a_server_that_hangs_up_on_a_name_it_does_not_know_is_not_to_blame(
    edge: Edge, upstreams: Upstreams
) -> None:
    context = server_context(edge, "api.example")
    context.sni_callback = lambda _, name, __: (
        None if name == "api.example" else ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME
    )
    policies: dict[str, Any] = {"tls": UpstreamTls(verify=False), "breaker": CircuitBreaker(failures=1)}
    await edge.begin(simple(await upstreams(answer_ok, context), **policies))
    assert b'"UpstreamNotVerified"' in await edge.send(get("made.up"))
    assert await circuit(edge) == "closed"


async def test_an_endpoint_that_can_prove_its_name_no_more_is_to_blame(edge: Edge, upstreams: Upstreams) -> None:
    """The certificate ran out, say: the name is known to be right."""
    context = server_context(edge, "api.example")
    policies: dict[str, Any] = {
        "tls": UpstreamTls(ca=edge.authority.pem),
        "breaker": CircuitBreaker(failures=1),
        "retry": Retry(attempts=0),
    }
    port = await upstreams(answer_ok, context)
    await edge.begin(simple(port, **policies))
    assert (await edge.send(get("api.example"))).endswith(b"ok")
    assert edge.gateway is not None
    (pool,) = edge.gateway.pools.all().values()
    edge.gateway.proxy.connector.flush(pool.endpoints[0])
    certificate, key = type(edge.authority)().issue("api.example")
    (edge.tmp_path / "other.pem").write_bytes(certificate + key)
    context.load_cert_chain(edge.tmp_path / "other.pem")
    assert b'"UpstreamConnectFailure"' in await edge.send(get("api.example"))
    assert await circuit(edge) == "open"


@pytest.mark.parametrize("most", [0, 1], ids=["any number of connections", "one connection"])
async def test_a_connection_serves_the_host_alone_that_it_was_verified_for(
    edge: Edge, upstreams: Upstreams, most: int
) -> None:
    names: list[str | None] = []
    heads: list[tuple[str | None, bytes]] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        name = names[-1]
        while True:
            heads.append((name, await reader.readuntil(b"\r\n\r\n")))
            writer.write(OK)

    hosts = ("a.example", "b.example")
    context = server_context(edge, *hosts)
    context.sni_callback = lambda _, name, __: names.append(name)
    policies: dict[str, Any] = {
        "tls": UpstreamTls(ca=edge.authority.pem),
        "concurrency": Concurrency(max_connections=most),
    }
    await edge.begin(simple(await upstreams(serve, context), **policies))
    for host in hosts * 2:
        assert (await edge.send(get(host))).endswith(b"ok")
    assert [name for name, _ in heads] == [*hosts * 2]
    assert all(f"\r\nhost: {name}\r\n".encode() in head for name, head in heads)
    assert len(names) == (4 if most else 2), "kept for the host's next request, while there is room"
    await edge.settled()


async def test_who_waits_for_a_connection_gets_one_for_its_own_host(edge: Edge, upstreams: Upstreams) -> None:
    seen: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await reader.readuntil(b"\r\n\r\n"):
            seen.append(head)
            await asyncio.sleep(0.1)
            writer.write(OK)

    policies: dict[str, Any] = {
        "tls": UpstreamTls(ca=edge.authority.pem),
        "concurrency": Concurrency(max_connections=1),
    }
    context = server_context(edge, "a.example", "b.example")
    await edge.begin(simple(await upstreams(serve, context), **policies))
    answers = await asyncio.gather(*(edge.send(get(host)) for host in ("a.example", "b.example") * 3))
    assert all(answer.endswith(b"ok") for answer in answers)
    assert len(seen) == 6
    await edge.settled()


# ---- bodies


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    size = int(head.split(b"content-length: ")[1].split(b"\r\n")[0])
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size)
    while size:
        piece = await reader.read(min(size, 2**18))
        size -= len(piece)
        writer.write(piece)
        await writer.drain()


async def test_large_bodies_pass_over_tls_both_ways_and_unchanged(edge: Edge, upstreams: Upstreams) -> None:
    """TLS on both sides, both directions at once."""
    pieces = [bytes([number % 251]) * (2**18 + number) for number in range(150)]
    size = sum(map(len, pieces))
    port = await upstreams(echo, server_context(edge, "orders.internal"))
    await edge.begin(
        simple(port, tls=UpstreamTls("orders.internal", edge.authority.pem), timeouts=Timeouts(request_s=60))
    )
    reader, writer = await edge.connect(b"POST /a" + HOST + b"content-length: %d\r\n\r\n" % size)

    async def send() -> None:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()

    sending = asyncio.create_task(send())
    found = hashlib.sha256()
    async with asyncio.timeout(50):
        await reader.readuntil(b"\r\n\r\n")
        got = 0
        while got < size:
            piece = await reader.read(2**18)
            assert piece, f"{got} of {size}"
            got += len(piece)
            found.update(piece)
        await sending
    expected = hashlib.sha256(b"".join(pieces))
    assert found.digest() == expected.digest()
    writer.transport.abort()
    await edge.settled()


async def test_a_client_that_does_not_read_over_tls_holds_the_upstream_back(edge: Edge, upstreams: Upstreams) -> None:
    sent = 0

    async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % 2**29)
        while sent < 2**29:
            writer.write(b"x" * 2**16)
            await writer.drain()
            sent += 2**16

    await edge.begin(simple(await upstreams(endless)))
    reader, writer = await edge.connect(b"GET /a" + HOST + b"\r\n")
    async with asyncio.timeout(20):
        await reader.readuntil(b"\r\n\r\n")
        before = -1
        while sent != before:
            before = sent
            await asyncio.sleep(0.3)
    assert sent < 2**26
    writer.transport.abort()
    await edge.settled()


async def test_an_early_answer_over_tls_is_read_although_the_body_still_comes(edge: Edge, upstreams: Upstreams) -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 No\r\ncontent-length: 2\r\n\r\nno")
        await reader.read(-1)

    await edge.begin(simple(await upstreams(refuse)))
    reader, writer = await edge.connect(b"POST /a" + HOST + b"content-length: 9000000\r\n\r\n")
    async with asyncio.timeout(10):
        for _ in range(20):
            writer.write(b"x" * 100_000)
            await writer.drain()
        answer = await reader.readuntil(b"\r\n\r\nno")
    assert answer.startswith(b"HTTP/1.1 413")
    assert b"connection: close" in answer
    writer.transport.abort()
    await edge.settled()


async def test_connections_that_break_at_any_moment_of_a_handshake_leave_nothing(
    edge: Edge, upstreams: Upstreams
) -> None:
    """Raw bytes of a handshake, cut off anywhere, by either kind of end."""
    await edge.begin(simple(await upstreams(answer_ok), breaker=CircuitBreaker(failures=0)), head_timeout_s=0.5)
    assert edge.gateway is not None
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.create_default_context(cadata=edge.authority.pem)
    client = context.wrap_bio(incoming, outgoing, server_hostname="api.example")
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    hello = outgoing.read()
    for cut in (0, 1, 5, 6, 50, len(hello) - 1, len(hello)):
        for reset in (False, True):
            _, writer = await asyncio.open_connection("127.0.0.1", edge.gateway.tls_port)
            edge.writers.append(writer)
            writer.write(hello[:cut] + (b"\x00" * 20 if cut == 50 else b""))
            await asyncio.sleep(0.01)
            if reset:
                writer.transport.abort()
            else:
                writer.close()
    assert (await edge.send()).endswith(b"ok")
    await edge.settled()


async def test_a_swap_of_tls_closes_what_was_opened_under_the_former(edge: Edge, upstreams: Upstreams) -> None:
    port = await upstreams(answer_ok, server_context(edge, "orders.internal"))
    await edge.begin(simple(port, tls=UpstreamTls(verify=False)))
    assert (await edge.send()).endswith(b"ok")
    assert edge.gateway is not None
    connector = edge.gateway.proxy.connector
    assert connector.open_connections == 1
    changed: Upstream = simple(port, tls=UpstreamTls("orders.internal", edge.authority.pem)).upstreams[0]
    assert changed.tls is not None
    await edge.publish(simple(port, tls=changed.tls))
    await until(lambda: not connector.open_connections)
    assert (await edge.send()).endswith(b"ok")
    assert connector.opened == 2
