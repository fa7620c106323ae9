"""Which endpoint takes a request, seen from outside: each policy through the gateway."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Awaitable, Callable

import pytest
from nexus_core.discovery import Endpoint
from nexus_core.snapshot import CircuitBreaker, Discovered, Retry, Snapshot, StaticAddresses, Upstream
from nexus_core.snapshot.policies import Algorithm, Balancing, HashKey, Persistence
from nexus_gateway.resilience.endpoints import EndpointState
from nexus_gateway.testing import Harness, route, rule, snapshot, until

Peers = Callable[..., Awaitable[int]]
Clients = Callable[..., Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]
ALGORITHMS = ["least-request", "random", "peak-ewma", "ring-hash", "maglev"]


class Shop:
    """Three endpoints that say who they are. ports: in order; got: requests by port; connections: open ones by port."""

    def __init__(self, harness: Harness, ports: list[int]) -> None:
        self.harness = harness
        self.ports = ports
        self.got: Counter[int] = Counter()
        self.connections: Counter[int] = Counter()

    async def start(self, balancing: Balancing, *endpoints: Endpoint, **fields: object) -> None:
        self.list(*(endpoints or [Endpoint("127.0.0.1", port) for port in self.ports]))
        await self.harness.start(self.snapshot(balancing), **fields)

    def list(self, *endpoints: Endpoint) -> None:
        self.harness.discovery.set("orders.shop", endpoints)  # type: ignore[attr-defined]

    def snapshot(self, balancing: Balancing) -> Snapshot:
        service = Upstream(
            "shop/orders",
            "NexusService shop/orders",
            Discovered("orders.shop"),
            balancing=balancing,
            retry=Retry(attempts=0),
        )
        return snapshot(route(rule("shop/orders")), service)

    async def ask(self, count: int = 1, lines: str = "", target: str = "/a") -> Counter[int]:
        """Ask one after the other; return which port answered how often."""
        found: Counter[int] = Counter()
        head = f"GET {target} HTTP/1.1\r\nhost: x\r\n{lines}"
        answer = await self.harness.raw(
            f"{head}\r\n".encode() * (count - 1) + f"{head}connection: close\r\n\r\n".encode(), timeout_s=10
        )
        for port in re.findall(rb"port=(\d+);", answer):
            found[int(port)] += 1
        assert found.total() == count, answer
        self.last = answer
        return found

    def live(self) -> set[int]:
        assert self.harness.gateway is not None
        return {state.endpoint.port for state in self.harness.gateway.pools.all()["shop/orders"].live}


@pytest.fixture
async def shop(harness: Harness, peers: Peers) -> Shop:
    made = Shop(harness, [])

    def serving(index: int) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            port = made.ports[index]
            made.connections[port] += 1
            try:
                while True:
                    await reader.readuntil(b"\r\n\r\n")
                    made.got[port] += 1
                    body = b"port=%d;" % port
                    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))
            finally:
                made.connections[port] -= 1

        return serve

    made.ports += [await peers(serving(index)) for index in range(3)]
    return made


@pytest.mark.parametrize("algorithm", ["least-request", "random", "peak-ewma"])
async def test_all_endpoints_take_requests(shop: Shop, algorithm: Algorithm) -> None:
    await shop.start(Balancing(algorithm=algorithm))
    assert set(await shop.ask(90)) == set(shop.ports)


KEYS: dict[str, tuple[HashKey, Callable[[int], tuple[str, str]]]] = {
    "header": (HashKey("header", "X-User"), lambda user: (f"x-user: {user}\r\n", "/a")),
    "cookie": (HashKey("cookie", "user"), lambda user: (f"cookie: a=b; user={user}\r\n", "/a")),
    "query": (HashKey("query", "user"), lambda user: ("", f"/a?x=1&user={user}")),
}


@pytest.mark.parametrize("algorithm", ["ring-hash", "maglev"])
@pytest.mark.parametrize("kind", KEYS)
async def test_a_key_finds_its_endpoint_each_time(shop: Shop, algorithm: Algorithm, kind: str) -> None:
    key, make = KEYS[kind]
    await shop.start(Balancing(algorithm=algorithm, hash_on=(key,)))
    homes = {}
    for user in range(60):
        found = await shop.ask(2, *make(user))
        assert len(found) == 1
        homes[user] = next(iter(found))
    assert set(homes.values()) == set(shop.ports), "and keys are spread"


@pytest.mark.parametrize("algorithm", ["ring-hash", "maglev"])
async def test_an_endpoint_that_leaves_moves_hardly_any_other_key(shop: Shop, algorithm: Algorithm) -> None:
    await shop.start(Balancing(algorithm=algorithm, hash_on=(HashKey("header", "x-user"),)))
    before = {user: next(iter(await shop.ask(1, f"x-user: {user}\r\n"))) for user in range(40)}
    left, *rest = shop.ports
    shop.list(*(Endpoint("127.0.0.1", port) for port in rest))
    await until(lambda: shop.live() == set(rest))
    after = {user: next(iter(await shop.ask(1, f"x-user: {user}\r\n"))) for user in range(40)}
    stayed = [user for user in before if before[user] != left]
    assert sum(before[user] != after[user] for user in stayed) <= len(stayed) / 4
    assert left not in after.values()


async def test_without_a_key_requests_are_dealt(shop: Shop) -> None:
    await shop.start(Balancing(algorithm="ring-hash", hash_on=(HashKey("header", "x-user"),)))
    assert set(await shop.ask(90)) == set(shop.ports)


# ---- sessions


def cookie_of(answer: bytes) -> str:
    found = re.search(rb"\r\nset-cookie: (nexus-session=[^;\r]+)", answer)
    assert found is not None
    return found[1].decode()


async def test_a_session_in_a_cookie_stays_with_its_endpoint(shop: Shop) -> None:
    await shop.start(Balancing(algorithm="random", persistence=Persistence()))
    first = await shop.ask()
    cookie = cookie_of(shop.last)
    assert await shop.ask(9, f"cookie: {cookie}\r\n") == dict.fromkeys(first, 9)
    assert b"set-cookie" not in shop.last, "it goes on"
    assert all(str(port).encode() not in cookie.encode() for port in shop.ports)


async def test_a_session_in_a_header_stays_with_its_endpoint(shop: Shop) -> None:
    await shop.start(Balancing(algorithm="random", persistence=Persistence("header", "x-session")))
    first = await shop.ask()
    found = re.search(rb"\r\nx-session: ([^\r]+)", shop.last)
    assert found is not None
    assert await shop.ask(9, f"x-session: {found[1].decode()}\r\n") == dict.fromkeys(first, 9)


async def test_a_session_whose_endpoint_is_gone_begins_anew(shop: Shop) -> None:
    await shop.start(Balancing(algorithm="random", persistence=Persistence()))
    (home,) = await shop.ask()
    cookie = cookie_of(shop.last)
    rest = [port for port in shop.ports if port != home]
    shop.list(*(Endpoint("127.0.0.1", port) for port in rest))
    await until(lambda: shop.live() == set(rest))
    (second,) = await shop.ask(1, f"cookie: {cookie}\r\n")
    assert second != home
    assert cookie_of(shop.last) != cookie
    assert await shop.ask(5, f"cookie: {cookie_of(shop.last)}\r\n") == {second: 5}


async def test_a_session_that_nobody_gave_out_is_none(shop: Shop) -> None:
    await shop.start(Balancing(algorithm="random", persistence=Persistence()))
    await shop.ask()
    forged = cookie_of(shop.last)[:-2] + "AA"
    assert set(await shop.ask(60, f"cookie: {forged}\r\n")) == set(shop.ports)


# ---- who takes part


async def test_only_the_subset_takes_requests(shop: Shop) -> None:
    first, *rest = shop.ports
    await shop.start(
        Balancing(subset=(("version", "2"),)),
        Endpoint("127.0.0.1", first, meta=(("version", "1"),)),
        *(Endpoint("127.0.0.1", port, meta=(("track", "a"), ("version", "2"))) for port in rest),
    )
    assert set(await shop.ask(40)) == set(rest)


async def test_the_gateways_own_zone_comes_first(shop: Shop) -> None:
    near, far, near_too = shop.ports
    await shop.start(
        Balancing(zone_aware=True),
        Endpoint("127.0.0.1", near, zone="a"), Endpoint("127.0.0.1", far, zone="b"), Endpoint("127.0.0.1", near_too, zone="a"),
        zone="a",
    )  # fmt: skip
    assert set(await shop.ask(40)) == {near, near_too}
    shop.list(Endpoint("127.0.0.1", far, zone="b"))
    await until(lambda: shop.live() == {far})
    assert set(await shop.ask(5)) == {far}, "another zone is better than none"


async def test_a_new_endpoint_begins_with_little(shop: Shop) -> None:
    *known, new = shop.ports
    await shop.start(
        Balancing(algorithm="random", slow_start_s=600.0), *(Endpoint("127.0.0.1", port) for port in known)
    )
    assert harness_states(shop)
    for state in harness_states(shop):
        state.since -= 3600.0  # they have been there for long
    shop.list(*(Endpoint("127.0.0.1", port) for port in shop.ports))
    await until(lambda: shop.live() == set(shop.ports))
    found = await shop.ask(300)
    assert found[new] < 45
    assert all(found[port] > 90 for port in known)


def harness_states(shop: Shop) -> tuple[EndpointState, ...]:
    assert shop.harness.gateway is not None
    return shop.harness.gateway.pools.all()["shop/orders"].endpoints


async def test_with_too_few_left_all_take_requests(shop: Shop) -> None:
    """Health that says most are down is more often wrong than right (panic)."""
    await shop.start(Balancing(algorithm="random", panic_ratio=0.5))
    await shop.ask(3)
    first, second, _ = harness_states(shop)
    first.judged(False)
    await until(lambda: not first.healthy)
    assert set(await shop.ask(40)) == set(shop.ports) - {first.endpoint.port}
    second.judged(False)
    await until(lambda: not second.healthy)
    assert set(await shop.ask(60)) == set(shop.ports)


async def test_a_draining_endpoint_gets_no_new_requests_and_its_idle_connections_close(
    shop: Shop, clients: Clients
) -> None:
    await shop.start(Balancing(algorithm="random"))
    assert set(await shop.ask(60)) == set(shop.ports)
    assert all(shop.connections[port] for port in shop.ports)
    first, *rest = shop.ports
    shop.list(Endpoint("127.0.0.1", first, draining=True), *(Endpoint("127.0.0.1", port) for port in rest))
    await until(lambda: not shop.connections[first])
    assert set(await shop.ask(20)) == set(rest)
    shop.list(*(Endpoint("127.0.0.1", port) for port in shop.ports))
    await until(lambda: shop.live() == set(shop.ports))
    assert set(await shop.ask(60)) == set(shop.ports), "it came back"


async def test_a_request_in_flight_on_a_draining_endpoint_is_finished_there(
    harness: Harness, peers: Peers, clients: Clients
) -> None:
    go = asyncio.Event()
    closed = asyncio.Event()

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await go.wait()
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
        await reader.read(-1)
        closed.set()

    shop = Shop(harness, [await peers(slow)])
    await shop.start(Balancing())
    reader, _ = await clients(b"GET /a HTTP/1.1\r\nhost: x\r\n\r\n")
    (state,) = harness_states(shop)
    await until(lambda: state.active)
    shop.list(Endpoint("127.0.0.1", shop.ports[0], draining=True))
    await until(lambda: not shop.live())
    go.set()
    async with asyncio.timeout(5):
        assert (await reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200")
        await closed.wait()


async def test_a_request_in_flight_on_an_endpoint_that_leaves_takes_its_connection_along(
    harness: Harness, peers: Peers, clients: Clients
) -> None:
    go = asyncio.Event()
    closed = asyncio.Event()

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await go.wait()
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
        await reader.read(-1)
        closed.set()

    port, other = await peers(slow), await peers(slow)
    shop = Shop(harness, [port])
    await shop.start(Balancing())
    reader, _ = await clients(b"GET /a HTTP/1.1\r\nhost: x\r\n\r\n")
    (state,) = harness_states(shop)
    await until(lambda: state.active)
    shop.list(Endpoint("127.0.0.1", other))
    await until(lambda: shop.live() == {other})
    go.set()
    async with asyncio.timeout(5):
        await reader.readuntil(b"ok")
        await closed.wait()


async def test_a_changed_algorithm_holds_from_the_next_request_on(shop: Shop) -> None:
    await shop.start(Balancing(algorithm="ring-hash", hash_on=(HashKey("header", "x-user"),)))
    assert len(await shop.ask(9, "x-user: a\r\n")) == 1
    await shop.harness.publish(shop.snapshot(Balancing(algorithm="random")))
    assert set(await shop.ask(60, "x-user: a\r\n")) == set(shop.ports)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
async def test_static_addresses_are_balanced_too(shop: Shop, algorithm: Algorithm) -> None:
    addresses = StaticAddresses(tuple(("127.0.0.1", port) for port in shop.ports))
    breaker = CircuitBreaker(failures=0)
    service = Upstream("shop/orders", "x", addresses, balancing=Balancing(algorithm=algorithm), breaker=breaker)
    await shop.harness.start(snapshot(route(rule("shop/orders")), service))
    assert set(await shop.ask(60)) == set(shop.ports)
