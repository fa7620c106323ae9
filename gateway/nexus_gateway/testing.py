"""For tests and experiments: a gateway in this process before real aiohttp upstreams, all on port 0 of 127.0.0.1."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

from aiohttp import ClientSession, DummyCookieJar, web
from nexus_core.discovery import Discovery
from nexus_core.snapshot import (
    Listener,
    Match,
    Route,
    Rule,
    Snapshot,
    StaticAddresses,
    Upstream,
    WeightedBackend,
)
from nexus_sdk.discovery.memory import MemoryDiscovery

from nexus_gateway.app import Gateway
from nexus_gateway.edge.sources.port import StaticSource
from nexus_gateway.settings import GatewaySettings

T = TypeVar("T")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
LISTENER = Listener("default/nexus/http", "Gateway default/nexus", 80)


class Upstreams:
    """Real aiohttp servers."""

    def __init__(self) -> None:
        self._runners: list[web.AppRunner] = []

    async def start(self, handler: Handler, *, port: int = 0) -> int:
        """Serve every request with the handler; return the port."""
        app = web.Application(client_max_size=2**30)
        app.router.add_route("*", "/{tail:.*}", handler)
        runner = web.AppRunner(
            app, access_log=None, handler_cancellation=True, auto_decompress=False, shutdown_timeout=0.1
        )
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port, reuse_address=True).start()
        self._runners.append(runner)
        return int(runner.addresses[0][1])

    async def stop(self, index: int = -1) -> None:
        """Stop one server."""
        await self._runners.pop(index).cleanup()

    async def close(self) -> None:
        """Stop all."""
        while self._runners:
            await self.stop()


class Harness:
    """The gateway under test, a client, and ways to change its Snapshot."""

    def __init__(self, tmp_path: Path) -> None:
        self.tmp_path = tmp_path
        self.upstreams = Upstreams()
        self.source = StaticSource()
        self.discovery: Discovery = MemoryDiscovery()
        self.gateway: Gateway | None = None
        self.client: ClientSession | None = None

    async def start(self, snapshot: Snapshot | None = None, **settings: Any) -> Gateway:
        """Start the gateway; return once the Snapshot is live."""
        values: dict[str, Any] = {
            "listen": "127.0.0.1:0", "admin": "127.0.0.1:0", "replica": "test", "access_log": False,
            "plugin_cache": self.tmp_path / "plugins", "traces_memory": 50, **settings,
        }  # fmt: skip
        self.gateway = Gateway(GatewaySettings(**values), self.source, self.discovery)
        await self.gateway.start()
        self.client = ClientSession(cookie_jar=DummyCookieJar(), auto_decompress=False)
        if snapshot is not None:
            await self.publish(snapshot)
        return self.gateway

    async def publish(self, snapshot: Snapshot) -> None:
        """Change the Snapshot; return once the gateway has acknowledged it."""
        assert self.gateway is not None
        generation = await self.source.publish(snapshot)
        async with asyncio.timeout(15):
            await self.source.acked(generation)

    def url(self, path: str = "/") -> str:
        """Return a URL of the gateway."""
        assert self.gateway is not None
        return f"http://127.0.0.1:{self.gateway.port}{path}"

    def admin(self, path: str) -> str:
        """Return a URL of its admin API."""
        assert self.gateway is not None
        return f"http://127.0.0.1:{self.gateway.admin_port}{path}"

    async def ask(self, path: str) -> Any:
        """GET of the admin API, as JSON."""
        assert self.client is not None
        async with self.client.get(self.admin(path)) as response:
            return await response.json()

    async def raw(self, data: bytes, *, timeout_s: float = 5.0, half_close: bool = False) -> bytes:
        """Send bytes on a connection of their own and return everything until the gateway closes it."""
        assert self.gateway is not None
        reader, writer = await asyncio.open_connection("127.0.0.1", self.gateway.port)
        try:
            writer.write(data)
            await writer.drain()
            if half_close:
                writer.write_eof()
            async with asyncio.timeout(timeout_s):
                return await reader.read()
        except ConnectionResetError:
            return b""
        finally:
            writer.close()

    async def close(self) -> None:
        """Stop everything."""
        if self.client is not None:
            await self.client.close()
        if self.gateway is not None:
            await self.gateway.stop(0.5)
        await self.upstreams.close()
        await self.discovery.close()


def upstream(*ports: int, upstream_id: str = "shop/orders", **policies: Any) -> Upstream:
    """An upstream with these local ports."""
    addresses = tuple(("127.0.0.1", port) for port in ports)
    return Upstream(upstream_id, "NexusService shop/orders", StaticAddresses(addresses), **policies)


def rule(
    *upstreams: str | WeightedBackend, rule_id: str = "HTTPRoute/shop/main/0", path: str = "/", **fields: Any
) -> Rule:
    """A rule for a path prefix."""
    backends = tuple(each if isinstance(each, WeightedBackend) else WeightedBackend(each) for each in upstreams)
    return Rule(rule_id, fields.pop("matches", (Match(path),)), backends=backends, **fields)


def route(*rules: Rule, route_id: str = "HTTPRoute/shop/main", hostnames: tuple[str, ...] = ()) -> Route:
    """A route on the one listener."""
    return Route(route_id, "HTTPRoute shop/main", (LISTENER.id,), hostnames, tuple(rules))


def snapshot(*parts: Route | Upstream, plugins: tuple[Any, ...] = ()) -> Snapshot:
    """A Snapshot of routes and upstreams."""
    return Snapshot(
        listeners=(LISTENER,),
        routes=tuple(sorted((part for part in parts if isinstance(part, Route)), key=lambda each: each.id)),
        upstreams=tuple(sorted((part for part in parts if isinstance(part, Upstream)), key=lambda each: each.id)),
        plugins=plugins,
    )


def simple(*ports: int, **policies: Any) -> Snapshot:
    """Everything goes to these ports."""
    return snapshot(route(rule("shop/orders")), upstream(*ports, **policies))


async def until(check: Callable[[], object], timeout_s: float = 20.0) -> None:
    """Return once `check()` is true, awaited if it is awaitable: for what sends no event. Raises TimeoutError."""
    async with asyncio.timeout(timeout_s):
        while True:
            found = check()
            if await found if inspect.isawaitable(found) else found:
                return
            await asyncio.sleep(0.01)


async def turns_while(work: Awaitable[T]) -> tuple[T, int]:
    """Return what work returns, and how often the event loop turned for others before it was done."""
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    counting = asyncio.create_task(count())
    try:
        return await work, turns
    finally:
        counting.cancel()
