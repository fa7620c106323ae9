"""For tests and experiments: streams without the rest of a gateway, and servers to send them to."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import random
from collections.abc import Awaitable, Callable, Sequence
from time import monotonic
from typing import Any, Literal

from nexus_core.snapshot import (
    Balancing,
    StaticAddresses,
    StreamRoute,
    Timeouts,
    Upstream,
    WeightedBackend,
)
from nexus_sdk.discovery.memory import MemoryDiscovery
from nexus_wire.clock import Clock

from nexus_gateway.edge.accesslogs import AccessLog
from nexus_gateway.edge.measurements import Measurements
from nexus_gateway.edge.pools import Pools
from nexus_gateway.edge.recording import Recorder
from nexus_gateway.edge.streams.connections import TcpConnection
from nexus_gateway.edge.streams.datagrams import UdpListener, bind_udp
from nexus_gateway.edge.streams.plans import NO_PLANS, build_stream_plans
from nexus_gateway.edge.streams.service import Means, Streams
from nexus_gateway.edge.tls.origination import Originations
from nexus_gateway.resilience.endpoints import EndpointRegistry
from nexus_gateway.settings import GatewaySettings
from nexus_gateway.telemetry.contexts import Contexts
from nexus_gateway.telemetry.decisions import Decisions
from nexus_gateway.telemetry.trees import TraceBook

LISTENER = "default/nexus/tcp"
UDP_LISTENER = "default/nexus/udp"
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def upstream(name: str, *ports: int, protocol: Literal["tcp", "udp"] = "tcp", **fields: Any) -> Upstream:
    """An upstream on ports of this machine, dealt to in turn. Unless a test says otherwise, nothing of it waits long."""
    fields.setdefault("balancing", Balancing(algorithm="round-robin"))
    fields.setdefault("timeouts", Timeouts(connect_s=1.0))
    addresses = StaticAddresses(tuple(("127.0.0.1", port) for port in ports))
    return Upstream(
        f"Service/default/{name}/1/{protocol}", f"Service default/{name}", addresses, protocol=protocol, **fields
    )


def route(
    name: str, *backends: Upstream | tuple[Upstream | None, int], kind: str = "TCP", **fields: Any
) -> StreamRoute:
    """A route to upstreams, or pairs of one and its weight; None is a backend that could not be resolved."""
    pairs = [each if isinstance(each, tuple) else (each, 1) for each in backends]
    weighted = tuple(WeightedBackend(each.id if each is not None else "", weight) for each, weight in pairs)
    fields.setdefault("listeners", (UDP_LISTENER if kind == "UDP" else LISTENER,))
    return StreamRoute(f"{kind}Route/default/{name}", f"{kind}Route default/{name}", kind, backends=weighted, **fields)  # type: ignore[arg-type]


class Lab:
    """The service under test with its plans, as a gateway has them."""

    def __init__(self, **settings: Any) -> None:
        values: dict[str, Any] = {"endpoints_wait_s": 0.05, **settings}
        self.settings = GatewaySettings(**values)
        loop = asyncio.get_running_loop()
        self.clock = Clock(loop)
        self.rng = random.Random(7)
        self.circuits: list[tuple[str, str, str]] = []
        self.registry = EndpointRegistry(lambda *change: self.circuits.append(change))
        self.pools = Pools(MemoryDiscovery(), self.registry, self.rng)
        self.measurements = Measurements(lambda: ())
        self.logged = io.BytesIO()
        self.access_log = AccessLog(True, self.measurements.log_lines_dropped, self.logged)
        self.book = TraceBook(100)
        self.recorder = Recorder("test", self.measurements.spans_dropped, book=self.book)
        self.originations = Originations()
        self.streams = Streams(
            Means(
                self.settings,
                self.clock,
                self.rng,
                self.measurements,
                Contexts(1.0, True, random.Random(1).randbytes),
                Decisions(log=True, log_ratio=1.0, trace=True, slow_s=1.0, random=self.rng.random),
                self.access_log,
                self.recorder,
                self.originations.context,
            )
        )
        self.plans = NO_PLANS
        self.server: asyncio.Server | None = None
        self.port = 0
        self.udp: UdpListener | None = None

    def swap(self, routes: Sequence[StreamRoute], upstreams: Sequence[Upstream]) -> None:
        """Take another Snapshot into service."""
        staged = self.pools.stage(upstreams, monotonic())
        self.plans = build_stream_plans(routes, staged.pools, self.plans)
        self.pools.commit(staged, monotonic())

    async def listen(self) -> int:
        """Accept TCP connections; return the port."""
        self.server = await asyncio.get_running_loop().create_server(
            lambda: TcpConnection(self.streams, self.plans.connection((LISTENER,)), LISTENER), "127.0.0.1", 0
        )
        self.port = self.server.sockets[0].getsockname()[1]
        return self.port

    def listen_udp(self) -> tuple[str, int]:
        """Take datagrams; return the address."""
        bound = bind_udp("127.0.0.1", 0)
        address: tuple[str, int] = bound.getsockname()
        self.udp = UdpListener(self.streams, bound, lambda: self.plans.datagrams((UDP_LISTENER,)), UDP_LISTENER)
        return address

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Open a connection to the gateway."""
        return await asyncio.open_connection("127.0.0.1", self.port)

    async def ask(self, data: bytes = b"") -> bytes:
        """Send something on a connection of its own and return all that comes back."""
        reader, writer = await self.connect()
        try:
            writer.write(data)
            with contextlib.suppress(OSError):  # it was reset already, which reading tells
                writer.write_eof()
            return await reader.read()
        finally:
            writer.transport.abort()

    async def settled(self) -> None:
        """Return once nothing runs; fail when an endpoint or a bulkhead was not given back."""
        async with asyncio.timeout(5):
            while self.streams.connections or self.streams.sessions or self.streams._tasks:  # noqa: ASYNC110 - their ends are no event
                await asyncio.sleep(0.01)
        for state in self.registry.all():
            assert (state.active, state.connections) == (0, 0), state.authority
        for pool in self.pools.all().values():
            assert pool.limiter is None or pool.limiter.running == 0

    def lines(self) -> list[dict[str, Any]]:
        """What the access log says so far."""
        self.access_log._drain(self.logged)
        return [json.loads(line) for line in self.logged.getvalue().splitlines()]

    def metrics(self) -> str:
        """What a scrape says."""
        return self.measurements.scrape()[0].decode()

    def state(self, port: int) -> Any:
        """What is known of the endpoint on that port."""
        return next(state for state in self.registry.all() if state.authority.endswith(f":{port}"))

    async def close(self) -> None:
        if self.server is not None:
            self.server.close()
        if self.udp is not None:
            self.udp.close()
        await self.streams.cut_off()
        await self.settled()
        await self.pools.close()
        self.clock.stop()


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send back what comes, until the end."""
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()


def named(name: bytes) -> Serve:
    """A server that says its name, then echoes."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(name)
        await echo(reader, writer)

    return serve
