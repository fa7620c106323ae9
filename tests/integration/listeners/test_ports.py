"""Ports follow the Snapshot: opened, closed, shared, refused; and whose routes a request to one of them finds."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from typing import Any

import pytest
from nexus_gateway.testing import until

from tests.integration.listeners.conftest import Listeners, answers, ask, listener, passes, world


def free_port(kind: int = socket.SOCK_STREAM) -> int:
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def echo(gateway: Listeners, *, prefix: bytes = b"") -> int:
    """Start a server of lines; return its port."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while line := await reader.readline():
                writer.write(prefix + line)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    gateway.servers.append(server)
    return int(server.sockets[0].getsockname()[1])


def to(port: int, name: str, protocol: str = "tcp") -> Any:
    from nexus_core.snapshot import StaticAddresses, Upstream

    return Upstream(f"shop/{name}", f"Service shop/{name}", StaticAddresses((("127.0.0.1", port),)), protocol=protocol)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("foo.example.com", "exact"),
        ("bar.example.com", "wildcard"),
        ("foo.foo.example.com", "narrow"),
        ("other.org", "any"),
    ],
)
async def test_only_the_most_specific_listener_of_a_port_takes_a_host(
    gateway: Listeners, host: str, expected: str
) -> None:
    found = {
        "any": listener("any", 80),
        "wildcard": listener("wildcard", 80, hostname="*.example.com"),
        "narrow": listener("narrow", 80, hostname="*.foo.example.com"),
        "exact": listener("exact", 80, hostname="foo.example.com"),
    }
    routes = [answers(name, each) for name, each in found.items()]
    await gateway.start(world(*found.values(), *routes, *[await gateway.serve(name) for name in found]))
    assert await gateway.get(80, host, plain=True) == (200, expected)


async def test_a_listener_that_is_more_specific_takes_its_host_from_others_even_without_a_route(
    gateway: Listeners,
) -> None:
    every, exact = listener("any", 80), listener("exact", 80, hostname="foo.example.com")
    await gateway.start(world(every, exact, answers("any", every), await gateway.serve("any")))
    assert (await gateway.get(80, "foo.example.com", plain=True))[0] == 404
    assert await gateway.get(80, "bar.example.com", plain=True) == (200, "any")


async def test_a_port_has_its_own_routes_alone(gateway: Listeners) -> None:
    one, two = listener("one", 80), listener("two", free_port())
    both = answers("both", one, two, hostnames=("both.example",))
    await gateway.start(
        world(
            one, two, answers("one", one, hostnames=("one.example",)), answers("two", two, hostnames=("two.example",)), both,
            *[await gateway.serve(name) for name in ("one", "two", "both")],
        )
    )  # fmt: skip
    for port, host, expected in (
        (80, "one.example", 200), (80, "two.example", 404), (80, "both.example", 200),
        (two.port, "one.example", 404), (two.port, "two.example", 200), (two.port, "both.example", 200),
    ):  # fmt: skip
        assert (await gateway.get(port, host, plain=True))[0] == expected


async def test_listeners_come_and_go_a_hundred_times_and_no_request_on_others_is_lost(gateway: Listeners) -> None:
    first, second = listener("first", 80), listener("second", free_port())
    upstream = await gateway.serve("a")
    alone = world(first, answers("a", first), upstream)
    both = world(first, second, answers("a", first, second), upstream)
    await gateway.start(alone)
    port = gateway.bound(80)
    served = 0
    over = asyncio.Event()

    async def load(*, keeps: bool) -> None:
        nonlocal served
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while not over.is_set():
            assert await ask(reader, writer, "api.example") == (200, "a")
            served += 1
            if not keeps:
                writer.close()
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.close()

    loads = [asyncio.create_task(load(keeps=number % 2 == 0)) for number in range(4)]
    for number in range(100):
        await gateway.publish(both if number % 2 == 0 else alone)
        if number % 2 == 0:
            # Acked: it is open.
            assert await gateway.get(second.port, "api.example", plain=True) == (200, "a")
        else:
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection("127.0.0.1", second.port)
    over.set()
    await asyncio.gather(*loads)
    assert served > 100


async def test_connections_to_a_listener_that_goes_are_answered_and_then_closed(gateway: Listeners) -> None:
    first, second = listener("first", 80), listener("second", free_port())
    upstream = await gateway.serve("a")
    await gateway.start(world(first, second, answers("a", first, second), upstream))
    reader, writer = await gateway.connect(second.port, plain=True)
    assert await ask(reader, writer, "api.example") == (200, "a")
    await gateway.publish(world(first, answers("a", first), upstream))
    writer.write(b"GET / HTTP/1.1\r\nhost: api.example\r\n\r\n")
    async with asyncio.timeout(5):
        answer = await reader.read()
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b"connection: close" in answer


async def test_a_port_that_is_taken_costs_its_listeners_alone_and_is_tried_again(gateway: Listeners) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        first, second = listener("first", 80), listener("second", other.getsockname()[1])
        await gateway.start(world(first, second, answers("a", first, second), await gateway.serve("a")))
        assert await gateway.get(80, "api.example", plain=True) == (200, "a")
        [ack] = gateway.source.acks
        assert list(ack.listeners) == [second.id]
        assert f"Port {second.port} cannot be opened" in ack.listeners[second.id]
        assert "ListenerNotOpen" in str(await gateway.ask("/problems"))
    await until(lambda: not gateway.source.acks[-1].listeners)
    assert await gateway.get(second.port, "api.example", plain=True) == (200, "a")
    assert "ListenerNotOpen" not in str(await gateway.ask("/problems"))


async def test_a_listener_that_was_not_open_can_go(gateway: Listeners) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        first, second = listener("first", 80), listener("second", other.getsockname()[1])
        upstream = await gateway.serve("a")
        await gateway.start(world(first, second, answers("a", first, second), upstream))
        assert list(gateway.source.acks[-1].listeners) == [second.id]
        third = listener("third", free_port())
        await gateway.publish(world(first, third, answers("a", first, third), upstream))
        await until(lambda: not gateway.source.acks[-1].listeners)
        assert await gateway.get(third.port, "api.example", plain=True) == (200, "a")
        assert "ListenerNotOpen" not in str(await gateway.ask("/problems"))
        # And it is not tried again: the next change finds nothing in its way.
        await gateway.publish(world(first, answers("b", first), await gateway.serve("b")))
        assert await gateway.get(80, "api.example", plain=True) == (200, "b")


async def test_tls_ends_or_goes_on_by_the_name_on_one_port(gateway: Listeners) -> None:
    own = gateway.authority.certificate("own", "https.example", "ends.example")
    port = free_port()
    https = listener("https", port, "HTTPS", "https.example", certificates=(own.id,))
    ends = listener("ends", port, "TLS", "ends.example", certificates=(own.id,))
    onward = listener("onward", port, "TLS", "*.onward.example", mode="passthrough")
    # Behind the listener that passes on there is another TLS server, with a certificate of its own.
    inner = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    inner.load_cert_chain(*gateway.authority.write(gateway.tmp_path, "inner", "a.onward.example"))

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            while line := await reader.readline():
                writer.write(b"inner " + line)

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=inner)
    gateway.servers.append(server)
    inner_port = server.sockets[0].getsockname()[1]
    await gateway.start(
        world(
            https, ends, onward, own, answers("a", https), await gateway.serve("a"),
            passes("TLS", "ends", ends), to(await echo(gateway, prefix=b"echo "), "ends"),
            passes("TLS", "inner", onward, hostnames=("a.onward.example",)), to(inner_port, "inner"),
        )
    )  # fmt: skip
    assert await gateway.get(port, "https.example") == (200, "a")
    for sni, expected in (("ends.example", b"echo hello\n"), ("a.onward.example", b"inner hello\n")):
        context = gateway.context()
        context.check_hostname = True
        reader, writer = await gateway.connect(port, sni, context)
        writer.write(b"hello\n")
        async with asyncio.timeout(5):
            assert await reader.readline() == expected
    for sni in ("b.onward.example", "nobody.example", ""):
        with pytest.raises((ConnectionError, EOFError)):  # the end at once, and no word of TLS
            await gateway.connect(port, sni)


async def test_a_client_hello_comes_byte_by_byte(gateway: Listeners) -> None:
    own = gateway.authority.certificate("own", "api.example")
    https = listener("https", 443, "HTTPS", "api.example", certificates=(own.id,))
    await gateway.start(world(https, own, answers("a", https), await gateway.serve("a")))
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = gateway.context().wrap_bio(incoming, outgoing, server_hostname="api.example")
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    reader, writer = await gateway.connect(443, plain=True)
    for byte in outgoing.read():
        writer.write(bytes((byte,)))
        await writer.drain()
        await asyncio.sleep(0)
    async with asyncio.timeout(5):
        while True:
            incoming.write(await reader.read(65536))
            with contextlib.suppress(ssl.SSLWantReadError):
                client.do_handshake()
                break
    assert client.version() == "TLSv1.3"


async def test_tcp_and_udp_share_a_port_number(gateway: Listeners) -> None:
    port = free_port()
    tcp, udp = listener("tcp", port, "TCP"), listener("udp", port, "UDP")
    loop = asyncio.get_running_loop()

    class Back(asyncio.DatagramProtocol):
        def connection_made(self, transport: Any) -> None:
            self.transport = transport

        def datagram_received(self, data: bytes, address: Any) -> None:
            self.transport.sendto(b"echo " + data, address)

    transport, _ = await loop.create_datagram_endpoint(Back, local_addr=("127.0.0.1", 0))
    try:
        await gateway.start(
            world(
                tcp, udp, passes("TCP", "lines", tcp), to(await echo(gateway, prefix=b"echo "), "lines"),
                passes("UDP", "grams", udp), to(transport.get_extra_info("sockname")[1], "grams", "udp"),
            )
        )  # fmt: skip
        reader, writer = await gateway.connect(port, plain=True)
        writer.write(b"hello\n")
        async with asyncio.timeout(5):
            assert await reader.readline() == b"echo hello\n"
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.setblocking(False)
            client.connect(("127.0.0.1", gateway.bound(port, udp=True)))
            client.send(b"hello")
            async with asyncio.timeout(5):
                assert await loop.sock_recv(client, 100) == b"echo hello"
    finally:
        transport.close()


async def test_one_gateway_alone_is_served_when_one_is_named(gateway: Listeners) -> None:
    mine, other = listener("shop/main/http", 80), listener("shop/other/http", free_port())
    await gateway.start(
        world(mine, other, answers("a", mine), answers("b", other), await gateway.serve("a"), await gateway.serve("b")),
        gateway="shop/main",
    )
    assert await gateway.get(80, "api.example", plain=True) == (200, "a")
    assert gateway.bound(other.port) == 0
    assert gateway.source.acks[-1].gateway == "shop/main"
    assert gateway.gateway is not None
    assert list(gateway.gateway.pools.all()) == ["shop/a"]


async def test_ports_are_opened_as_declared_on_every_address(gateway: Listeners) -> None:
    one, two = listener("one", free_port()), listener("two", free_port())
    await gateway.start(
        world(one, two, answers("a", one, two), await gateway.serve("a")), ports="declared", listen="127.0.0.1:8080"
    )
    for each in (one, two):
        assert gateway.bound(each.port) == each.port
        for host in ("127.0.0.1", "127.0.0.2"):
            reader, writer = await asyncio.open_connection(host, each.port)
            assert await ask(reader, writer, "api.example") == (200, "a")
            writer.close()


async def test_a_protocol_changes_on_one_port(gateway: Listeners) -> None:
    port = free_port()
    own = gateway.authority.certificate("own", "api.example")
    plain = listener("one", port)
    secure = listener("one", port, "HTTPS", certificates=(own.id,))
    upstream, first = await gateway.serve("a"), listener("first", 80)
    await gateway.start(world(first, plain, answers("a", plain), upstream))
    for _ in range(3):
        assert await gateway.get(port, "api.example", plain=True) == (200, "a")
        await gateway.publish(world(first, secure, own, answers("a", secure), upstream))
        assert await gateway.get(port, "api.example") == (200, "a")
        await gateway.publish(world(first, plain, answers("a", plain), upstream))
