"""Balancers that take endpoints in turn: no turn is lost to a connection that has yet to be opened."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from nexus_core.discovery import Endpoint
from nexus_core.snapshot import Discovered, Retry, Snapshot, Upstream
from nexus_core.snapshot.policies import Balancing
from nexus_gateway.testing import Harness, route, rule, snapshot

Peers = Callable[..., Awaitable[int]]
Clients = Callable[..., Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]
ALGORITHMS = ["least-request", "round-robin", "random", "peak-ewma", "ring-hash", "maglev"]


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
async def shop(harness: Harness, peers: Peers) -> AsyncIterator[Shop]:
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


@pytest.mark.parametrize("algorithm", ["least-request", "round-robin", "random", "peak-ewma"])
async def test_all_endpoints_take_requests(shop: Shop, algorithm: str) -> None:
    await shop.start(Balancing(algorithm=algorithm))
    found = await shop.ask(90)
    assert set(found) == set(shop.ports)
    if algorithm == "round-robin":
        assert set(found.values()) == {30}


async def test_weights_are_kept_exactly(shop: Shop) -> None:
    weights = dict(zip(shop.ports, (5, 3, 1), strict=True))
    await shop.start(
        Balancing(algorithm="round-robin"),
        *(Endpoint("127.0.0.1", port, weight=weight) for port, weight in weights.items()),
    )
    assert await shop.ask(90) == {port: 10 * weight for port, weight in weights.items()}
