"""Wires a gateway: source → runtime → proxy, with its listener, admin API, and an orderly stop."""

from __future__ import annotations

import asyncio
import logging
import random
from datetime import UTC, datetime

from nexus_core.discovery import Discovery
from nexus_core.snapshot import Ack, Published

from nexus_gateway.edge.logs import AccessLog
from nexus_gateway.edge.measurements import Measurements
from nexus_gateway.edge.pools import Pools
from nexus_gateway.edge.proxies import Proxy
from nexus_gateway.edge.runtimes import Runtime, empty
from nexus_gateway.edge.servers import EdgeServer
from nexus_gateway.edge.sources.port import SnapshotSource
from nexus_gateway.edge.tracing import Tracing
from nexus_gateway.edge.upstreams import Upstreams
from nexus_gateway.resilience.endpoints import EndpointRegistry
from nexus_gateway.settings import GatewaySettings, split_address

log = logging.getLogger("nexus.gateway")


class Gateway:
    """One gateway in the running event loop."""

    def __init__(self, settings: GatewaySettings, source: SnapshotSource, discovery: Discovery) -> None:
        self.settings = settings
        self._source = source
        self._rng = random.Random()
        self.registry = EndpointRegistry(self._breaker_changed)
        self.pools = Pools(discovery, self.registry, self._rng)
        self.measurements = Measurements(
            lambda: ((upstream, pool.endpoints) for upstream, pool in sorted(self.pools.all().items()))
        )
        self.runtime: Runtime = empty()
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0

    async def start(self) -> None:
        """Listen and begin to take Snapshots. Raises OSError when an address cannot be bound."""
        settings = self.settings
        self.tracing = Tracing(settings.trace_ratio, settings.otlp_endpoint, (), settings.replica)
        self._upstreams = Upstreams()
        self._access_log = AccessLog(settings.access_log)
        self._access_log.start()
        self.proxy = Proxy(
            settings,
            lambda: self.runtime,
            self._upstreams,
            self.tracing,
            self.measurements,
            self._access_log,
            self._rng,
        )
        self._server = EdgeServer(
            self.proxy.handle,
            max_head_bytes=settings.max_head_bytes,
            head_timeout_s=settings.head_timeout_s,
            keepalive_s=settings.keepalive_s,
            on_refused=self.measurements.refused,
        )
        host, port = split_address(settings.listen)
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_server(self._server, host, port, backlog=1024, reuse_address=True)
        self.port = self._listener.sockets[0].getsockname()[1]
        self._own(self._follow(), "snapshots")

    def _own(self, coroutine: object, name: str) -> None:
        task: asyncio.Task[None] = asyncio.create_task(coroutine, name=name)  # type: ignore[arg-type]
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _follow(self) -> None:
        async for published in self._source.watch():
            try:
                await self._swap(published)
            except Exception:
                self.measurements.swap_failures.inc()
                log.exception(
                    "generation %d could not be taken; generation %d stays",
                    published.generation,
                    self.runtime.published.generation,
                )

    async def _swap(self, published: Published) -> None:
        now = asyncio.get_running_loop().time()
        pools = self.pools.apply(published.snapshot.upstreams, now)
        former, self.runtime = self.runtime, Runtime(published, pools, {})
        self.measurements.swaps.inc()
        self.measurements.generation.set(published.generation)
        self._own(former.retire(), "retire")
        await self._source.ack(
            Ack(
                self.settings.replica,
                published.generation,
                published.digest,
                datetime.now(UTC).isoformat(timespec="seconds"),
                {},
            )
        )

    def _breaker_changed(self, upstream: str, authority: str, state: str) -> None:
        log.warning("circuit of %s (%s) is now %s", authority, upstream, state)

    async def stop(self, drain_s: float | None = None) -> None:
        """Stop accepting, let requests finish for at most `drain_s` seconds, and release everything."""
        self.proxy.draining = True
        self._listener.close()
        try:
            async with asyncio.timeout(self.settings.drain_s if drain_s is None else drain_s):
                await self.proxy.drained()
        except TimeoutError:
            log.warning("%d requests did not finish in time and are cut off", self.proxy.in_flight)
        await self._server.shutdown(0.1)
        await self._source.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.pools.close()
        await self._upstreams.close()
        await self._access_log.close()
        await asyncio.to_thread(self.tracing.close)
