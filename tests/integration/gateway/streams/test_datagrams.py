"""UDP through the gateway, with real sockets on both sides."""

from __future__ import annotations

import asyncio
import resource
import socket
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from nexus_core.snapshot import CircuitBreaker, StaticAddresses, Upstream
from nexus_gateway.edge.streams import datagrams
from nexus_gateway.edge.streams.testing import Lab, route, upstream
from nexus_gateway.testing import until

Endpoint = Callable[..., int]
Client = Callable[[], "Asker"]

pytestmark = pytest.mark.usefixtures("loop_errors")


class Asker:
    """A client of its own address."""

    def __init__(self, address: tuple[str, int]) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._socket.connect(address)

    def tell(self, data: bytes) -> None:
        self._socket.send(data)

    async def hear(self) -> bytes:
        async with asyncio.timeout(3):
            return await asyncio.get_running_loop().sock_recv(self._socket, 65535)

    async def ask(self, data: bytes) -> bytes:
        self.tell(data)
        return await self.hear()

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
async def clients(lab: Lab) -> AsyncIterator[Client]:
    address = lab.listen_udp()
    made: list[Asker] = []

    def begin() -> Asker:
        made.append(Asker(address))
        return made[-1]

    yield begin
    for each in made:
        each.close()


@pytest.fixture
async def endpoint() -> AsyncIterator[Endpoint]:
    """Starts endpoints that answer with their name, the address they see and what they got; returns the port."""
    transports: list[asyncio.DatagramTransport] = []
    loop = asyncio.get_running_loop()

    class Answers(asyncio.DatagramProtocol):
        def __init__(self, name: bytes) -> None:
            self._name = name

        def connection_made(self, transport: Any) -> None:
            self._transport = transport

        def datagram_received(self, data: bytes, address: Any) -> None:
            self._transport.sendto(b"%b %d %b" % (self._name, address[1], data), address)

    made: list[asyncio.Task[Any]] = []

    def begin(name: bytes = b"one", port: int = 0) -> int:
        bound = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        bound.bind(("127.0.0.1", port))
        made.append(asyncio.ensure_future(loop.create_datagram_endpoint(lambda: Answers(name), sock=bound)))
        made[-1].add_done_callback(lambda task: transports.append(task.result()[0]))
        return int(bound.getsockname()[1])

    begin.stop = lambda: transports.pop().abort()  # type: ignore[attr-defined]
    yield begin
    await asyncio.gather(*made)
    for transport in transports:
        transport.abort()
    await asyncio.sleep(0)


@pytest.fixture
def nobody() -> int:
    """A port where datagrams are refused: one that was free a moment ago."""
    held = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    held.bind(("127.0.0.1", 0))
    port = int(held.getsockname()[1])
    held.close()
    return port


def split(answer: bytes) -> tuple[bytes, bytes, bytes]:
    name, port, data = answer.split(b" ", 2)
    return name, port, data


async def test_a_client_keeps_its_endpoint_and_others_get_their_own(
    lab: Lab, clients: Client, endpoint: Endpoint
) -> None:
    one = upstream("two", endpoint(b"a"), endpoint(b"b"), protocol="udp")
    lab.swap([route("dns", one, kind="UDP")], [one])
    first, second = clients(), clients()
    seen = [split(await first.ask(b"%d" % number)) for number in range(5)]
    assert [data for *_, data in seen] == [b"%d" % number for number in range(5)]
    assert len({(name, port) for name, port, _ in seen}) == 1
    assert split(await second.ask(b"x"))[0] != seen[0][0]
    assert len(lab.streams.sessions) == 2
    assert {state.active for state in lab.registry.all()} == {1}


async def test_datagrams_are_kept_apart_whatever_their_size(lab: Lab, clients: Client, endpoint: Endpoint) -> None:
    one = upstream("one", endpoint(), protocol="udp")
    lab.swap([route("dns", one, kind="UDP")], [one])
    client = clients()
    for data in (b"", b"x", b"y" * 60_000):
        assert split(await client.ask(data))[2] == data


async def test_weights_are_exact_over_a_hundred_clients(lab: Lab, clients: Client, endpoint: Endpoint) -> None:
    one = upstream("one", endpoint(b"one"), protocol="udp")
    two = upstream("two", endpoint(b"two"), protocol="udp")
    lab.swap([route("dns", (one, 9), (two, 1), kind="UDP")], [one, two])
    answers = Counter([split(await clients().ask(b"?"))[0] for _ in range(100)])
    assert answers == {b"one": 90, b"two": 10}


async def test_a_silent_client_may_get_another_endpoint(clients: Client, lab: Lab, endpoint: Endpoint) -> None:
    one = upstream("one", endpoint(), protocol="udp")
    lab.swap([route("dns", one, kind="UDP")], [one])
    await clients().ask(b"?")
    (session,) = lab.streams.sessions
    lab.streams._expire()
    assert session in lab.streams.sessions
    lab.clock.tick += session.idle_ticks
    lab.streams._expire()
    assert not lab.streams.sessions
    (line,) = lab.lines()
    assert (line["protocol"], line["bytes_in"], "reason" in line) == ("udp", 1, False)
    assert (
        f'nexus_gateway_streams_total{{outcome="ended",route="UDPRoute/default/dns",upstream="{one.id}"}}'
        in lab.metrics()
    )


async def test_the_client_that_is_silent_longest_makes_room(endpoint: Endpoint) -> None:
    lab = Lab(max_udp_sessions=2)
    address = lab.listen_udp()
    one = upstream("one", endpoint(), protocol="udp")
    lab.swap([route("dns", one, kind="UDP")], [one])
    first, second, third = (Asker(address) for _ in range(3))
    for client in (first, second, first, third):
        await client.ask(b"?")
    assert len(lab.streams.sessions) == 2
    (line,) = lab.lines()
    assert (line["reason"], line["bytes_in"]) == ("Evicted", 1)
    assert 'outcome="Evicted"' in lab.metrics()
    for client in (first, second, third):
        client.close()
    await lab.close()


async def test_a_refusal_counts_and_the_next_datagram_goes_elsewhere(
    lab: Lab, clients: Client, endpoint: Endpoint, nobody: int
) -> None:
    alive = endpoint(b"alive")
    one = upstream("half", nobody, alive, protocol="udp", breaker=CircuitBreaker(failures=1, reset_s=60.0))
    lab.swap([route("dns", one, kind="UDP")], [one])
    client, other = clients(), clients()
    for each in (client, other):  # in turn: one of them meets the dead one
        each.tell(b"lost?")
    await until(lambda: lab.state(nobody).failures > 0)
    assert split(await client.ask(b"again"))[0] == b"alive"
    assert split(await other.ask(b"again"))[0] == b"alive"
    assert lab.state(nobody).breaker.state == "open"
    assert lab.state(nobody).active == 0
    assert lab.state(alive).active == 2


async def test_an_endpoint_that_dies_is_left(lab: Lab, clients: Client, endpoint: Endpoint) -> None:
    first = endpoint(b"first")
    one = upstream("two", first, protocol="udp")
    lab.swap([route("dns", one, kind="UDP")], [one])
    client = clients()
    assert split(await client.ask(b"1"))[0] == b"first"
    endpoint.stop()  # type: ignore[attr-defined]
    await asyncio.sleep(0)
    client.tell(b"2")
    await until(lambda: lab.state(first).failures > 0)
    endpoint(b"reborn", first)
    await asyncio.sleep(0)
    assert split(await client.ask(b"3"))[0] == b"reborn"


async def test_the_share_of_a_backend_that_is_none_is_dropped(lab: Lab, clients: Client, endpoint: Endpoint) -> None:
    one = upstream("one", endpoint(), protocol="udp")
    lab.swap([route("dns", (None, 1), (one, 1), kind="UDP")], [one])
    unlucky, lucky = clients(), clients()
    unlucky.tell(b"1")
    await until(lambda: len(lab.streams.sessions) == 1)
    assert split(await lucky.ask(b"2"))[2] == b"2"
    unlucky.tell(b"3")
    await until(lambda: 'nexus_gateway_datagrams_dropped_total{reason="BackendNotFound"} 2.0' in lab.metrics())


async def test_without_a_route_datagrams_are_dropped(lab: Lab, clients: Client) -> None:
    clients().tell(b"?")
    await until(lambda: 'nexus_gateway_datagrams_dropped_total{reason="RouteNotFound"} 1.0' in lab.metrics())
    assert not lab.streams.sessions


async def test_a_swap_keeps_sessions_that_still_lead_somewhere(lab: Lab, clients: Client, endpoint: Endpoint) -> None:
    one = upstream("one", endpoint(b"one"), protocol="udp")
    two = upstream("two", endpoint(b"two"), protocol="udp")
    lab.swap([route("dns", (one, 1), (two, 0), kind="UDP")], [one, two])
    client = clients()
    before = split(await client.ask(b"1"))
    lab.swap([route("dns", (one, 1), (two, 9), kind="UDP")], [one, two])
    assert split(await client.ask(b"2"))[:2] == before[:2]
    lab.swap([route("dns", (one, 0), (two, 1), kind="UDP")], [one, two])
    assert split(await client.ask(b"3"))[0] == b"two"
    assert [line["reason"] for line in lab.lines()] == ["RouteChanged"]


async def test_an_endpoint_that_leaves_is_left(lab: Lab, clients: Client, endpoint: Endpoint) -> None:
    port, other = endpoint(b"one"), endpoint(b"other")
    one = upstream("one", port, protocol="udp")
    lab.swap([route("dns", one, kind="UDP")], [one])
    client = clients()
    await client.ask(b"1")
    lab.pools.all()[one.id].set([type(lab.state(port).endpoint)("127.0.0.1", other)], 1.0)
    assert split(await client.ask(b"2"))[0] == b"other"


async def test_endpoints_with_names_are_looked_up(lab: Lab, clients: Client, endpoint: Endpoint) -> None:
    addresses = StaticAddresses((("localhost", endpoint(b"named")),))
    one = Upstream("Service/default/named/1/udp", "", addresses, "udp")
    lab.swap([route("dns", one, kind="UDP")], [one])
    client = clients()
    assert split(await client.ask(b"1"))[0] == b"named"


async def test_datagrams_from_everywhere_leave_files_for_tcp(endpoint: Endpoint) -> None:
    """A datagram may name any sender; so many that each takes a file must not keep anybody from connecting."""
    port, serving = endpoint(), await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, hard))
    lab = Lab()
    try:
        one = upstream("one", port, protocol="udp")
        plain = upstream("plain", serving.sockets[0].getsockname()[1])
        lab.swap([route("dns", one, kind="UDP"), route("plain", plain)], [one, plain])
        await lab.listen()
        address = lab.listen_udp()
        for _ in range(300):
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
                sender.bind(("127.0.0.1", 0))
                sender.sendto(b"x", address)
            await asyncio.sleep(0)
        await until(lambda: len(lab.streams.sessions) >= 50)
        assert len(lab.streams.sessions) <= 100
        assert await lab.ask(b"") == b""
    finally:
        await lab.close()
        serving.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_what_waits_for_a_name_is_bounded(lab: Lab, clients: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = asyncio.Event()

    async def never(*args: Any, **options: Any) -> Any:
        asked.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(lab.streams.loop, "getaddrinfo", never)
    one = Upstream("Service/default/named/1/udp", "", StaticAddresses((("nowhere.example", 9),)), "udp")
    lab.swap([route("dns", one, kind="UDP")], [one])
    client = clients()
    for _ in range(datagrams.MAX_WAITING + 5):
        client.tell(b"x")
    await asked.wait()
    await until(lambda: 'nexus_gateway_datagrams_dropped_total{reason="UpstreamBacklog"} 5.0' in lab.metrics())


async def test_a_listener_that_closes_ends_its_sessions(lab: Lab, clients: Client, endpoint: Endpoint) -> None:
    one = upstream("one", endpoint(), protocol="udp")
    lab.swap([route("dns", one, kind="UDP")], [one])
    await clients().ask(b"?")
    assert lab.udp is not None
    lab.udp.close()
    await lab.settled()


async def test_a_session_is_one_span(lab: Lab, clients: Client, endpoint: Endpoint) -> None:
    one = upstream("one", endpoint(), protocol="udp")
    lab.swap([route("dns", one, kind="UDP")], [one])
    await clients().ask(b"?")
    for session in tuple(lab.streams.sessions):
        session.end("")
    (trace,) = lab.book.recent(10)
    assert "udp UDPRoute/default/dns" in str(trace)
