"""TCP connections through the gateway, with real sockets on both sides."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest
from nexus_core.snapshot import (
    Balancing,
    CircuitBreaker,
    Concurrency,
    HashKey,
    Outlier,
    Retry,
    StaticAddresses,
    Timeouts,
    Upstream,
)
from nexus_gateway.edge.streams.connections import TcpConnection
from nexus_gateway.edge.streams.testing import LISTENER, Lab, echo, named, route, upstream
from nexus_gateway.testing import until

Peers = Callable[..., Awaitable[int]]
Refused = Callable[[], int]

pytestmark = pytest.mark.usefixtures("loop_errors")


def reset(writer: asyncio.StreamWriter) -> None:
    """Close with a RST."""
    found = writer.get_extra_info("socket")
    found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def shrink(one: Any) -> None:
    """Give a socket small buffers, so that who does not read is noticed soon."""
    one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)


async def test_bytes_go_both_ways(lab: Lab, peers: Peers) -> None:
    one = upstream("echo", await peers(echo))
    lab.swap([route("echo", one)], [one])
    sent = bytes(range(256)) * 10_000
    assert await lab.ask(sent) == sent
    await lab.settled()
    (line,) = lab.lines()
    assert (line["bytes_in"], line["bytes_out"], line["attempts"]) == (len(sent), len(sent), 1)
    assert (line["kind"], line["protocol"], line["route"]) == ("connection", "tcp", "TCPRoute/default/echo")
    assert (line["client_ip"], line["listener"], "reason" in line) == ("127.0.0.1", LISTENER, False)
    metrics = lab.metrics()
    labels = f'route="TCPRoute/default/echo",upstream="{one.id}"'
    assert f'nexus_gateway_streams_total{{outcome="ended",{labels}}} 1.0' in metrics
    assert f'nexus_gateway_stream_bytes_total{{direction="out",{labels}}} {float(len(sent))}' in metrics
    assert f"nexus_gateway_stream_duration_seconds_count{{{labels}}} 1.0" in metrics
    assert f"nexus_gateway_streams_active{{{labels}}}" not in metrics


async def test_a_server_may_speak_first(lab: Lab, peers: Peers) -> None:
    one = upstream("greets", await peers(named(b"220 ready\r\n")))
    lab.swap([route("greets", one)], [one])
    reader, writer = await lab.connect()
    assert await reader.readline() == b"220 ready\r\n"
    writer.write(b"quit")
    assert await reader.readexactly(4) == b"quit"
    assert 'nexus_gateway_streams_active{route="TCPRoute/default/greets"' in lab.metrics()
    writer.close()


async def test_a_client_that_has_said_its_last_still_gets_the_answer(lab: Lab, peers: Peers) -> None:
    async def after_the_end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked = await reader.read()
        writer.write(b"%d bytes" % len(asked))
        writer.close()

    one = upstream("counts", await peers(after_the_end))
    lab.swap([route("counts", one)], [one])
    assert await lab.ask(b"x" * 300_000) == b"300000 bytes"


async def test_a_server_that_has_said_its_last_still_reads(lab: Lab, peers: Peers) -> None:
    heard: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def listens(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"bye")
        writer.write_eof()
        heard.set_result(await reader.read())

    one = upstream("listens", await peers(listens))
    lab.swap([route("listens", one)], [one])
    reader, writer = await lab.connect()
    assert await reader.read() == b"bye"
    writer.write(b"y" * 200_000)
    writer.close()
    assert len(await heard) == 200_000


async def test_a_reset_of_the_client_reaches_the_endpoint_as_one(lab: Lab, peers: Peers) -> None:
    ends: asyncio.Queue[BaseException | None] = asyncio.Queue()

    async def listens(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"!")
        try:
            await reader.read()
            await ends.put(None)
        except ConnectionError as error:
            await ends.put(error)

    one = upstream("listens", await peers(listens))
    lab.swap([route("listens", one)], [one])
    reader, writer = await lab.connect()
    await reader.readexactly(1)
    reset(writer)
    assert isinstance(await ends.get(), ConnectionResetError)
    await lab.settled()
    assert lab.lines()[0]["reason"] == "ClientReset"
    assert lab.state(one.endpoints.addresses[0][1]).failures == 0  # type: ignore[union-attr]


async def test_a_reset_of_the_endpoint_reaches_the_client_as_one(lab: Lab, peers: Peers) -> None:
    async def dies(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"half of")
        await reader.readexactly(1)
        reset(writer)

    one = upstream("dies", await peers(dies))
    lab.swap([route("dies", one)], [one])
    reader, writer = await lab.connect()
    assert await reader.readexactly(7) == b"half of"
    writer.write(b"?")
    with pytest.raises(ConnectionResetError):
        await reader.read()
    await lab.settled()
    assert lab.lines()[0]["reason"] == "UpstreamReset"
    writer.close()


async def test_who_takes_connections_only_to_reset_them_is_failing(lab: Lab, peers: Peers) -> None:
    async def resets(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        reset(writer)

    bad, good = await peers(resets), await peers(named(b"good"))
    one = upstream("half", bad, good, outlier=Outlier(failures=2, eject_s=60.0))
    lab.swap([route("half", one)], [one])
    answers = []
    for _ in range(10):
        reader, writer = await lab.connect()
        try:
            answers.append(await reader.readexactly(4))
        except (ConnectionError, asyncio.IncompleteReadError):
            answers.append(b"")
        writer.transport.abort()
    assert answers[-6:] == [b"good"] * 6
    assert lab.state(bad).ejections == 1


async def test_a_slow_reader_slows_the_endpoint_down(lab: Lab, peers: Peers) -> None:
    written = 0

    async def floods(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal written
        shrink(writer.get_extra_info("socket"))
        while True:
            writer.write(b"f" * 65536)
            written += 65536
            await writer.drain()

    one = upstream("floods", await peers(floods))
    lab.swap([route("floods", one)], [one])
    client = socket.socket()
    shrink(client)
    client.setblocking(False)
    await asyncio.get_running_loop().sock_connect(client, ("127.0.0.1", lab.port))
    before = -1
    while written != before:
        before = written
        await asyncio.sleep(0.1)
    (connection,) = lab.streams.connections
    held = connection.transport.get_write_buffer_size()  # type: ignore[attr-defined]
    assert 0 < held <= 2**19, "a transport's high water mark and one read"
    assert written < 2**24, "what is beyond are the kernel's buffers"
    # It is not stuck: whoever reads gets more.
    got, wanted = 0, written + 2**20
    while got < wanted:
        got += len(await asyncio.get_running_loop().sock_recv(client, 2**20))
    client.close()


async def test_a_slow_endpoint_slows_the_client_down(lab: Lab, peers: Peers) -> None:
    may_read = asyncio.Event()

    async def waits(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        shrink(writer.get_extra_info("socket"))
        await may_read.wait()
        await echo(reader, writer)

    one = upstream("waits", await peers(waits, limit=4096))
    lab.swap([route("waits", one)], [one])
    client = socket.socket()
    client.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(client, ("127.0.0.1", lab.port))
    sent = 0
    with suppress(TimeoutError):
        while sent < 2**28:
            async with asyncio.timeout(0.5):
                await loop.sock_sendall(client, b"s" * 65536)
            sent += 65536
    assert sent < 2**24
    (connection,) = lab.streams.connections
    assert connection._far.transport.get_write_buffer_size() <= 2**19  # type: ignore[attr-defined]
    may_read.set()
    assert len(await loop.sock_recv(client, 65536)) > 0
    client.close()


async def test_a_refused_connection_is_tried_at_the_next_endpoint(
    lab: Lab, peers: Peers, refused_port: Refused
) -> None:
    dead, alive = refused_port(), await peers(named(b"here"))
    one = upstream("half", dead, alive)
    lab.swap([route("half", one)], [one])
    assert [await lab.ask() for _ in range(4)] == [b"here"] * 4
    await lab.settled()
    assert max(line["attempts"] for line in lab.lines()) == 2
    assert {line["endpoint"] for line in lab.lines()} == {f"127.0.0.1:{alive}"}
    assert lab.state(dead).failures >= 1


async def test_where_nobody_is_the_client_is_reset(lab: Lab, refused_port: Refused) -> None:
    one = upstream("gone", refused_port())
    lab.swap([route("gone", one)], [one])
    with pytest.raises(ConnectionResetError):
        await lab.ask(b"hello")
    await lab.settled()
    (line,) = lab.lines()
    assert (line["reason"], line["attempts"]) == ("UpstreamConnectFailure", 3)


async def test_retries_can_be_turned_off(lab: Lab, peers: Peers, refused_port: Refused) -> None:
    one = upstream("half", refused_port(), await peers(named(b"here")), retry=Retry(attempts=0))
    lab.swap([route("half", one)], [one])
    answers = Counter()  # type: Counter[bytes]
    for _ in range(2):
        try:
            answers[await lab.ask()] += 1
        except ConnectionResetError:
            answers[b"reset"] += 1
    assert answers == {b"here": 1, b"reset": 1}


async def test_the_circuit_of_a_dead_endpoint_opens(lab: Lab, refused_port: Refused) -> None:
    one = upstream("gone", refused_port(), breaker=CircuitBreaker(failures=3, reset_s=60.0), retry=Retry(attempts=0))
    lab.swap([route("gone", one)], [one])
    for _ in range(5):
        with pytest.raises(ConnectionResetError):
            await lab.ask()
    await lab.settled()
    assert [line["reason"] for line in lab.lines()] == ["UpstreamConnectFailure"] * 3 + ["CircuitOpen"] * 2
    assert [change[2] for change in lab.circuits] == ["open"]


async def test_a_probe_closes_the_circuit(lab: Lab, refused_port: Refused, peers: Peers) -> None:
    port = refused_port()
    one = upstream("back", port, breaker=CircuitBreaker(failures=1, reset_s=0.05), retry=Retry(attempts=0))
    lab.swap([route("back", one)], [one])
    with pytest.raises(ConnectionResetError):
        await lab.ask()
    server = await asyncio.start_server(named(b"back"), "127.0.0.1", port, reuse_address=True)
    await until(lambda: lab.state(port).breaker.would_allow(asyncio.get_running_loop().time()))
    assert await lab.ask() == b"back"
    assert [change[2] for change in lab.circuits] == ["open", "half-open", "closed"]
    server.close()


async def test_weights_are_exact_over_a_hundred_connections(lab: Lab, peers: Peers) -> None:
    one, two, three = [upstream(name, await peers(named(name.encode()))) for name in ("one", "two", "three")]
    lab.swap([route("split", (one, 70), (two, 30), (three, 0))], [one, two, three])
    answers = Counter([await lab.ask() for _ in range(100)])
    assert answers == {b"one": 70, b"two": 30}


async def test_the_share_of_a_backend_that_is_none_is_refused(lab: Lab, peers: Peers) -> None:
    one = upstream("one", await peers(named(b"one")))
    lab.swap([route("split", (one, 1), (None, 1))], [one])
    answers: list[bytes] = []
    for _ in range(10):
        try:
            answers.append(await lab.ask())
        except ConnectionResetError:
            answers.append(b"reset")
    assert Counter(answers) == {b"one": 5, b"reset": 5}
    await lab.settled()
    assert Counter(line.get("reason", "") for line in lab.lines()) == {"": 5, "BackendNotFound": 5}


async def test_without_a_route_or_a_backend_there_is_nothing(lab: Lab) -> None:
    with pytest.raises(ConnectionResetError):
        await lab.ask()
    one = upstream("one", 1)
    lab.swap([route("none", (one, 0))], [one])
    with pytest.raises(ConnectionResetError):
        await lab.ask()
    nobody = upstream("nobody")
    lab.swap([route("none", nobody)], [nobody])
    with pytest.raises(ConnectionResetError):
        await lab.ask()
    await lab.settled()
    assert [line["reason"] for line in lab.lines()] == ["RouteNotFound", "NoBackends", "NoEndpoints"]


async def test_a_swap_keeps_connections_and_turns(lab: Lab, peers: Peers) -> None:
    one, two = upstream("one", await peers(named(b"one"))), upstream("two", await peers(named(b"two")))
    kept = route("kept", (one, 3), (two, 1))
    lab.swap([kept], [one, two])
    reader, writer = await lab.connect()
    assert await reader.readexactly(3) == b"one"
    plan = lab.plans.connection((LISTENER,))
    lab.swap([kept, route("other", two, listeners=("default/nexus/other",))], [one, two])
    assert lab.plans.connection((LISTENER,)) is plan
    assert Counter([await lab.ask() for _ in range(3)]) == {b"one": 2, b"two": 1}
    lab.swap([], [])
    writer.write(b"still there?")
    assert await reader.readexactly(12) == b"still there?"
    with pytest.raises(ConnectionResetError):
        await lab.ask()
    writer.close()


async def test_clients_are_hashed_by_their_address(lab: Lab, peers: Peers) -> None:
    ports = [await peers(named(b"%d" % number)) for number in range(4)]
    one = upstream("hashed", *ports, balancing=Balancing(algorithm="maglev", hash_on=(HashKey("source"),)))
    lab.swap([route("hashed", one)], [one])
    assert len({await lab.ask() for _ in range(8)}) == 1


async def test_silence_ends_a_connection(lab: Lab, peers: Peers) -> None:
    one = upstream("echo", await peers(echo), timeouts=Timeouts(idle_s=1.0))
    lab.swap([route("echo", one)], [one])
    reader, writer = await lab.connect()
    writer.write(b"x")
    await reader.readexactly(1)
    with pytest.raises(ConnectionResetError):
        await reader.read()
    await lab.settled()
    (line,) = lab.lines()
    assert line["reason"] == "IdleTimeout"
    assert line["duration_ms"] >= 1000
    writer.close()


async def test_the_bulkhead_counts_connections(lab: Lab, peers: Peers) -> None:
    one = upstream("few", await peers(named(b"in")), concurrency=Concurrency(max_requests=1, max_pending=1))
    lab.swap([route("few", one)], [one])
    first, writer = await lab.connect()
    assert await first.readexactly(2) == b"in"
    second, waiting = await lab.connect()
    await until(lambda: lab.pools.all()[one.id].limiter.pending == 1)  # type: ignore[union-attr]
    with pytest.raises(ConnectionResetError):
        await lab.ask()
    writer.close()
    assert await second.readexactly(2) == b"in"
    waiting.close()
    await lab.settled()
    assert Counter(line.get("reason", "") for line in lab.lines()) == {"": 2, "UpstreamOverloaded": 1}


async def test_an_endpoint_takes_as_many_connections_as_it_may(lab: Lab, peers: Peers) -> None:
    ports = [await peers(named(b"%d" % number)) for number in range(2)]
    one = upstream("two", *ports, concurrency=Concurrency(max_connections=1))
    lab.swap([route("two", one)], [one])
    opened = [await lab.connect() for _ in range(2)]
    assert sorted([await reader.readexactly(1) for reader, _ in opened]) == [b"0", b"1"]
    with pytest.raises(ConnectionResetError):
        await lab.ask()
    for _, writer in opened:
        writer.close()


async def test_a_client_that_leaves_while_waiting_gives_everything_back(lab: Lab) -> None:
    # Nobody answers there: TEST-NET-1, RFC 5737.
    nowhere = StaticAddresses((("192.0.2.1", 9),))
    silent = Upstream("Service/default/silent/9/tcp", "", nowhere, "tcp", concurrency=Concurrency(max_requests=5))
    lab.swap([route("silent", silent)], [silent])
    _, writer = await lab.connect()
    writer.write(b"hello")
    await until(lambda: any(state.active for state in lab.registry.all()))
    reset(writer)
    await lab.settled()


async def test_connections_are_cut_off_in_the_end(lab: Lab, peers: Peers) -> None:
    one = upstream("echo", await peers(named(b"hi")))
    lab.swap([route("echo", one)], [one])
    reader, writer = await lab.connect()
    await reader.readexactly(2)
    drained = asyncio.ensure_future(lab.streams.drained())
    await asyncio.sleep(0)
    assert not drained.done()
    await lab.streams.cut_off()
    await drained
    with pytest.raises(ConnectionResetError):
        await reader.read()
    assert lab.lines()[0]["reason"] == "Draining"
    writer.close()


async def test_who_waits_for_an_endpoint_is_cut_off_too(lab: Lab) -> None:
    nowhere = StaticAddresses((("192.0.2.1", 9),))
    silent = Upstream("Service/default/silent/9/tcp", "", nowhere, "tcp", timeouts=Timeouts(connect_s=30.0))
    lab.swap([route("silent", silent)], [silent])
    reader, writer = await lab.connect()
    await until(lambda: any(state.active for state in lab.registry.all()))
    await lab.streams.cut_off()
    with pytest.raises(ConnectionResetError):
        await reader.read()
    await lab.settled()
    assert lab.lines()[0]["reason"] == "Draining"
    writer.close()


async def test_a_crowd_is_bounded(peers: Peers) -> None:
    lab = Lab(max_connections=3)
    await lab.listen()
    one = upstream("echo", await peers(named(b"hi")))
    lab.swap([route("echo", one)], [one])
    opened = [await lab.connect() for _ in range(3)]
    for reader, _ in opened:
        await reader.readexactly(2)
    with pytest.raises(ConnectionResetError):
        await lab.ask()
    assert 'nexus_gateway_requests_shed_total{reason="TooManyConnections"} 1.0' in lab.metrics()
    for _, writer in opened:
        writer.transport.abort()
    await lab.settled()
    assert await lab.ask() == b"hi"
    await lab.close()


async def test_a_connection_is_one_span(lab: Lab, peers: Peers, refused_port: Refused) -> None:
    one = upstream("echo", refused_port(), await peers(echo))
    lab.swap([route("echo", one)], [one])
    assert await lab.ask(b"12345") == b"12345"
    await lab.settled()
    (trace,) = lab.book.recent(10)
    assert "tcp TCPRoute/default/echo" in str(trace)
    assert lab.lines()[0]["trace_id"] in str(trace)


async def test_bytes_that_came_ahead_go_first(lab: Lab, peers: Peers) -> None:
    one = upstream("echo", await peers(echo))
    lab.swap([route("echo", one)], [one])

    class Looks(asyncio.Protocol):
        def connection_made(self, transport: Any) -> None:
            self.transport = transport

        def data_received(self, data: bytes) -> None:
            plan = lab.plans.connection((LISTENER,))
            TcpConnection(lab.streams, plan, LISTENER, protocol="tls", server_name="a.b").take(self.transport, data)

    server = await asyncio.get_running_loop().create_server(Looks, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection("127.0.0.1", server.sockets[0].getsockname()[1])
    writer.write(b"ahead ")
    assert await reader.readexactly(6) == b"ahead "
    writer.write(b"behind")
    writer.write_eof()
    assert await reader.read() == b"behind"
    writer.close()
    server.close()
    await lab.settled()
    (line,) = lab.lines()
    assert (line["protocol"], line["host"], line["bytes_in"]) == ("tls", "a.b", 12)
