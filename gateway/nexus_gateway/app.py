"""Wires a gateway: source → runtime → proxy, with its listener, admin API, and an orderly stop."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import random
import signal
from collections.abc import Awaitable, Callable, Coroutine
from datetime import UTC, datetime
from pathlib import Path

from aiohttp import web
from nexus_core.discovery import Discovery
from nexus_core.snapshot import Ack, Published
from nexus_sdk import logs
from nexus_sdk.discovery.consul import ConsulDiscovery
from nexus_sdk.discovery.file import FileDiscovery
from nexus_sdk.discovery.memory import MemoryDiscovery

from nexus_gateway.edge.admin import Admin, State
from nexus_gateway.edge.collectors import OwnSpans
from nexus_gateway.edge.kept import KeptDiscovery
from nexus_gateway.edge.logs import AccessLog
from nexus_gateway.edge.measurements import Measurements
from nexus_gateway.edge.plugins.loading import Loader
from nexus_gateway.edge.plugins.slots import STOP_S
from nexus_gateway.edge.pools import Pools
from nexus_gateway.edge.proxies import Proxy
from nexus_gateway.edge.runtimes import Runtime, empty
from nexus_gateway.edge.servers import EdgeServer
from nexus_gateway.edge.sources.consul import ConsulSource
from nexus_gateway.edge.sources.files import FileSource
from nexus_gateway.edge.sources.port import SnapshotSource
from nexus_gateway.edge.tracing import Tracing
from nexus_gateway.edge.upstreams import Upstreams
from nexus_gateway.resilience.endpoints import EndpointRegistry
from nexus_gateway.settings import GatewaySettings, split_address
from nexus_gateway.telemetry.trees import TraceBook

log = logging.getLogger("nexus.gateway")

_IDLE_GRACE_S = 1.0
"""While stopping, connections without a request are kept open this long: one may be on its way, and is still answered."""
_FOLLOW_AGAIN_S = 1.0
_HOUSEKEEPING_S = 60.0
_SECOND_SIGNAL_S = 0.5
"""A second signal this soon is the same wish twice: supervisors often signal a process and then its group."""


class Gateway:
    """One gateway in the running event loop.

    port, admin_port: what is bound, after `start`.
    """

    def __init__(self, settings: GatewaySettings, source: SnapshotSource, discovery: Discovery) -> None:
        self.settings = settings
        self.port = 0
        self.admin_port = 0
        self.source = source
        self._rng = random.Random()
        self._registry = EndpointRegistry(_breaker_changed)
        self.pools = Pools(discovery, self._registry, self._rng)
        self.measurements = Measurements(
            lambda: ((upstream, pool.endpoints) for upstream, pool in sorted(self.pools.all().items()))
        )
        self._loader = Loader(settings.plugin_cache, self.measurements.hook)
        self._runtime: Runtime = empty()
        self._swapping = asyncio.Lock()
        self._swapped = asyncio.Condition()
        self._tasks: set[asyncio.Task[None]] = set()
        self._draining = False
        self.traces = TraceBook(settings.traces_memory) if settings.traces_memory else None
        own_spans = (OwnSpans(self.traces, "nexus-gateway"),) if self.traces is not None else ()
        self._tracing = Tracing(settings.trace_ratio, settings.otlp_endpoint, own_spans, settings.replica)
        self._access_log = AccessLog(settings.access_log)
        self._stack = contextlib.AsyncExitStack()

    @property
    def runtime(self) -> Runtime:
        """What serves new requests."""
        return self._runtime

    async def start(self) -> None:
        """Listen and begin to take Snapshots. Raises OSError when an address cannot be bound; nothing is left open then."""
        settings = self.settings
        loop = asyncio.get_running_loop()
        try:
            self._access_log.start()
            self._stack.push_async_callback(self._close_telemetry)
            upstreams = Upstreams()
            self._stack.push_async_callback(upstreams.close)
            self._stack.push_async_callback(self.pools.close)
            await self._start_admin()
            self._proxy = Proxy(
                settings,
                lambda: self._runtime,
                upstreams,
                self._tracing,
                self.measurements,
                self._access_log,
                self._rng,
            )
            self._server = EdgeServer(
                self._proxy.handle,
                max_head_bytes=settings.max_head_bytes,
                head_timeout_s=settings.head_timeout_s,
                keepalive_s=settings.keepalive_s,
                on_refused=self.measurements.refused,
            )
            host, port = split_address(settings.listen)
            self._listener = await loop.create_server(self._server, host, port, backlog=1024, reuse_address=True)
            self.port = self._listener.sockets[0].getsockname()[1]
            self._stack.push_async_callback(self._close_source)
            self._own(self._follow(), "snapshots")
            self._own(self._housekeep(), "housekeeping")
        except BaseException:
            await self._stack.aclose()
            raise
        log.info("listening on %s:%d, admin API on port %d", host, self.port, self.admin_port)

    async def _start_admin(self) -> None:
        state = State(
            replica=self.settings.replica,
            runtime=lambda: self._runtime,
            pools=self.pools,
            measurements=self.measurements,
            problems=lambda: self.source.problems,
            not_ready=self._not_ready,
            traces=self.traces,
        )
        runner = web.AppRunner(Admin(state).application(), access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        self._stack.push_async_callback(runner.cleanup)
        host, port = split_address(self.settings.admin)
        await web.TCPSite(runner, host, port, reuse_address=True).start()
        self.admin_port = runner.addresses[0][1]

    def _not_ready(self) -> str | None:
        if self._draining:
            return "draining"
        return None if self._runtime.published.generation else "no Snapshot yet"

    def _own(self, work: Coroutine[object, object, None], name: str) -> None:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _housekeep(self) -> None:
        """Bound what a long life would pile up: pods come and go, and each address leaves state behind."""
        while True:
            await asyncio.sleep(_HOUSEKEEPING_S)
            self.pools.forget(asyncio.get_running_loop().time())

    async def _follow(self) -> None:
        while True:
            try:
                async for published in self.source.watch():
                    await self._take(published)
                return
            except Exception:
                log.exception("the Snapshot source failed; the live Snapshot stays, watching again")
                await asyncio.sleep(_FOLLOW_AGAIN_S)

    async def _take(self, published: Published) -> None:
        try:
            async with self._swapping:
                await self._swap(published)
        except Exception:
            # A Snapshot that we cannot run must not cost the one that runs.
            self.measurements.swap_failures.inc()
            log.exception(
                "generation %d cannot be run; generation %d stays",
                published.generation,
                self._runtime.published.generation,
            )

    async def _swap(self, published: Published) -> None:
        """Build the new runtime in full, move the reference, let the former one finish."""
        clock = asyncio.get_running_loop().time
        former = self._runtime
        slots = await self._loader.slots(published.snapshot.plugins, former.slots)
        staged = self.pools.stage(published.snapshot.upstreams, clock())
        try:
            runtime = Runtime(published, staged.pools, slots)
        except BaseException:
            self.pools.discard(staged)
            for slot in slots.values():
                if slot.running is not None:
                    # Stops what was started for this Snapshot alone; what the live one uses has another user.
                    slot.running.acquire()
                    await slot.running.release()
            raise
        runtime.hold_plugins()
        self.pools.commit(staged, clock())
        self._runtime = runtime
        self._own(former.retire(), "retire")
        self.measurements.swaps.inc()
        self.measurements.generation.set(published.generation)
        snapshot = published.snapshot
        self.measurements.forget(
            {route.id for route in snapshot.routes}, {upstream.id for upstream in snapshot.upstreams}, set(slots)
        )
        log.info("generation %d is live: %d routes, %d upstreams, %d plugins", published.generation, len(snapshot.routes),
                 len(snapshot.upstreams), len(slots))  # fmt: skip
        async with self._swapped:
            self._swapped.notify_all()
        await self.source.ack(
            Ack(
                self.settings.replica,
                published.generation,
                published.digest,
                datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
                {plugin: slot.report for plugin, slot in sorted(slots.items())},
            )
        )
        retry_in_s = self._loader.retry_in_s(clock())
        if retry_in_s is not None:
            self._own(self._retry_plugins(published, retry_in_s), "retry plugins")

    async def _retry_plugins(self, published: Published, after_s: float) -> None:
        await asyncio.sleep(after_s)
        if self._runtime.published is published:
            await self._take(published)

    async def live(self, generation: int = 1) -> None:
        """Return once this generation, or a later one, serves."""
        async with self._swapped:
            await self._swapped.wait_for(lambda: self._runtime.published.generation >= generation)

    async def stop(self, drain_s: float | None = None, *, drained: Callable[[], Awaitable[None]] | None = None) -> None:
        """Say not ready, wait for load balancers to notice, stop accepting, let requests finish, release everything.

        drain_s: longest wait for requests in flight; None takes the setting. drained: awaited when no request is left
        and the admin API still answers; `nexus up` stops the services there, which send their last spans to it.
        """
        bound_s = self.settings.drain_s if drain_s is None else drain_s
        self._draining = True
        self._proxy.draining = True
        try:
            if bound_s and self.settings.drain_delay_s:
                await asyncio.sleep(self.settings.drain_delay_s)
            self._listener.close()
            try:
                async with asyncio.timeout(bound_s):
                    await self._server.quiet(min(_IDLE_GRACE_S, bound_s))
                    await self._proxy.drained()
            except TimeoutError:
                log.warning("%d requests did not finish within %g s and are cut off", self._proxy.in_flight, bound_s)
            await self._server.shutdown(0.5)
            if drained is not None:
                await drained()
        finally:
            # Also when the drain itself is cancelled, by a second signal: nothing stays open.
            await self._release()

    async def _release(self) -> None:
        self._listener.close()
        await self._server.shutdown(0.1)
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        try:
            async with asyncio.timeout(STOP_S):
                await self._runtime.retire()
        except TimeoutError:
            log.warning("plugins were not stopped: a request still holds them")
        await self._stack.aclose()

    async def _close_source(self) -> None:
        await self.source.close()

    async def _close_telemetry(self) -> None:
        await self._access_log.close()
        # The exporter's last flush blocks, for its own timeout at most.
        await asyncio.to_thread(self._tracing.close)


def _breaker_changed(upstream: str, authority: str, state: str) -> None:
    log.warning("circuit of %s (%s) is now %s", authority, upstream, state)


def build_source(settings: GatewaySettings, manifests: Path | None) -> SnapshotSource:
    """Return the file source for a directory of manifests, else the Consul source. Raises `NothingToServe`."""
    if manifests is not None:
        return FileSource(manifests, cache=settings.plugin_cache.parent / "indexes")
    if settings.consul_url:
        return ConsulSource(
            settings.consul_url, settings.consul_token, settings.consul_prefix, settings.replica, settings.state_dir
        )
    raise NothingToServe(
        "The gateway has no configuration: neither a directory of manifests (`nexus gateway -f DIR`) nor NEXUS_CONSUL_URL is given."
    )


class NothingToServe(ValueError):
    """No Snapshot source is configured. The text says what to give."""


def build_discovery(settings: GatewaySettings) -> Discovery:
    """Return the file's discovery when one is named, else Consul's, else one that knows no service; as in `nexus_sdk`."""
    if settings.discovery_file is not None:
        return FileDiscovery(settings.discovery_file)
    if settings.consul_url:
        found = ConsulDiscovery(settings.consul_url, token=settings.consul_token or None)
        return KeptDiscovery(found, settings.state_dir / "endpoints") if settings.state_dir is not None else found
    return MemoryDiscovery()


def run(settings: GatewaySettings, manifests: Path | None = None) -> None:
    """Serve until SIGTERM or SIGINT, then drain; a second signal ends at once. Raises `NothingToServe`, OSError.

    Logs go to stderr as JSON, the access log to stdout.
    """
    logs.install(settings.log_level, {"service": "nexus-gateway", "replica": settings.replica})
    factory = None
    try:
        import uvloop

        factory = uvloop.new_event_loop
    except ImportError:
        log.info("uvloop is not installed: the standard event loop serves, at more CPU for each request")
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(_serve(settings, manifests))


def _calm_collector() -> None:
    """Let the garbage collector look at young objects seldom and at what the start made never.

    Requests make few cycles, and a full collection stops all of them: with Python's defaults p99 was 42 ms at saturation
    (32 connections, `benchmarks/gateway`), with these 12 ms. For a process that is a gateway alone; not done on import.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


async def _serve(settings: GatewaySettings, manifests: Path | None) -> None:
    source, discovery = build_source(settings, manifests), build_discovery(settings)
    loop = asyncio.get_running_loop()
    stopping = asyncio.Event()
    forced = asyncio.Event()

    asked_at = 0.0

    def asked() -> None:
        nonlocal asked_at
        if not stopping.is_set():
            asked_at = loop.time()
            stopping.set()
        elif loop.time() - asked_at >= _SECOND_SIGNAL_S:
            forced.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, asked)
    gateway = Gateway(settings, source, discovery)
    await gateway.start()
    _calm_collector()
    try:
        await stopping.wait()
        log.info("stopping: draining for at most %g s", settings.drain_s)
        drain = asyncio.create_task(gateway.stop(), name="drain")
        force = asyncio.create_task(forced.wait(), name="force")
        await asyncio.wait((drain, force), return_when=asyncio.FIRST_COMPLETED)
        force.cancel()
        if not drain.done():
            log.warning("stopping at once: requests in flight are cut off")
            drain.cancel()
            await asyncio.gather(drain, return_exceptions=True)
            return
        await drain
    finally:
        await discovery.close()
