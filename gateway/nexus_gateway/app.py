"""Wires a gateway: source → runtime → proxy, with its listener, admin API, and an orderly stop."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import random
import secrets
import signal
import sys
from collections.abc import Awaitable, Callable, Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

from aiohttp import web
from nexus_core.discovery import Discovery
from nexus_core.problems import Problem
from nexus_core.snapshot import Ack, Fault, Published, Upstream
from nexus_sdk import logs
from nexus_sdk.discovery.file import FileDiscovery
from nexus_sdk.discovery.memory import MemoryDiscovery
from nexus_wire.server import ServerConnection

from nexus_gateway import workers
from nexus_gateway.balance.keys import build_key
from nexus_gateway.edge import allocator, gauges
from nexus_gateway.edge.accesslogs import AccessLog
from nexus_gateway.edge.admin import Admin, State
from nexus_gateway.edge.health.checker import Checked, Checker
from nexus_gateway.edge.kept import KeptDiscovery
from nexus_gateway.edge.measurements import Measurements, Renderer
from nexus_gateway.edge.plugins.judges import Judge, RemoteVerifier, Verifier
from nexus_gateway.edge.plugins.loading import Loader
from nexus_gateway.edge.plugins.slots import STOP_S, Slot
from nexus_gateway.edge.pools import Pool, Pools
from nexus_gateway.edge.proxy import Proxy
from nexus_gateway.edge.recording import Recorder
from nexus_gateway.edge.runtimes import Parts, Runtime, dismantle, empty
from nexus_gateway.edge.samples import Samples
from nexus_gateway.edge.sessions import Sessions
from nexus_gateway.edge.slices import START_SLICE_S, run_in_slices
from nexus_gateway.edge.sources.files import FileSource
from nexus_gateway.edge.sources.port import SnapshotSource, TakesSamples
from nexus_gateway.edge.sources.remote import RemoteWorkshop
from nexus_gateway.edge.tasks import Tasks
from nexus_gateway.edge.workers.places import Place
from nexus_gateway.filters.faults import FaultDraw
from nexus_gateway.filters.mirrors import MirrorDraw
from nexus_gateway.resilience.bulkheads import Bulkheads
from nexus_gateway.resilience.cells import Cells
from nexus_gateway.resilience.endpoints import SWEEP_AFTER_S, EndpointRegistry, EndpointState
from nexus_gateway.resilience.rates import Limits
from nexus_gateway.settings import GatewaySettings, split_address
from nexus_gateway.telemetry import names
from nexus_gateway.telemetry.contexts import Contexts
from nexus_gateway.telemetry.decisions import Decisions
from nexus_gateway.telemetry.trees import TraceBook

if TYPE_CHECKING:
    from nexus_gateway.edge.tls.store import Certificates

log = logging.getLogger("nexus.gateway")

_IDLE_GRACE_S = 1.0
"""While stopping, connections without a request are kept open this long: one may be on its way, and is still answered."""
_FOLLOW_AGAIN_S = 1.0
_LIVE_S = 10.0
"""How long a gateway waits for its first Snapshot before it accepts all the same and says why it cannot serve."""
_HOUSEKEEPING_S = 60.0
SWITCH_S = 0.0005
"""How long a thread (one that reads a Snapshot, or sends spans) may keep the interpreter while requests wait for it."""
_SECOND_SIGNAL_S = 0.5
"""A second signal this soon is the same wish twice: supervisors often signal a process and then its group."""


class Gateway:
    """One gateway in the running event loop.

    port, tls_port, admin_port: what is bound, after `start`; 0 for none. calm: whether the garbage collector was told
    (`calm_collector`) to leave what lives long alone. leads: whether it does what one worker does for all; see `lead`.
    """

    def __init__(
        self,
        settings: GatewaySettings,
        source: SnapshotSource,
        discovery: Discovery,
        place: Place | None = None,
        judge: Judge | None = None,
    ) -> None:
        """place: what a supervisor prepared; None for a gateway of one process. judge: verifies plugins; None for this process."""
        self.settings = settings
        self.port = 0
        self.tls_port = 0
        self.admin_port = 0
        self.source = source
        self.place = place or place_of(settings)
        self.leads = not self.place.inherits
        self._rng = random.Random()
        cells = Cells(
            self.place.cells,
            lock=self.place.lock,
            worker=self.place.worker,
            seed=secrets.randbits(64),
            on_full=_cells_full,
        )
        self._registry = EndpointRegistry(self._breaker_changed, cells)
        self._bulkheads = Bulkheads(cells, monotonic(), column=self.place.column, workers=self.place.workers)
        self.measurements = Measurements(self._live, str(self.place.worker), settings.metrics_series)
        self.pools = Pools(
            discovery,
            self._registry,
            self._rng,
            settings.zone,
            self._endpoint_gone,
            lambda upstream: self.measurements.tally(names.ATTEMPTS, upstream, "answered"),
            self._bulkheads,
        )
        self._limits = Limits(cells, build_key)
        self._parts = Parts(
            self._limits.get, self._fault, lambda policy: MirrorDraw(policy, self._rng.random()), self._sessions
        )
        self._judge = judge or Verifier()
        self._loader = Loader(settings.plugin_cache, self.measurements, self._judge)
        self._swapping = asyncio.Lock()
        self._swapped = asyncio.Condition()
        self._tasks = Tasks(lambda name: self.measurements.tally(names.TASK_FAILURES, name).inc())
        self._draining = False
        self.calm = False
        self.samples = Samples(settings.sample_requests, self._rng, monotonic())
        self.traces = TraceBook(settings.traces_memory) if settings.traces_memory else None
        self._stack = contextlib.AsyncExitStack()
        self._runtime = empty()
        self._listeners: list[asyncio.Server] = []
        self.listening = asyncio.Event()
        self.certificates: Certificates | None = None

    @property
    def runtime(self) -> Runtime:
        """What serves new requests."""
        return self._runtime

    def _live(self) -> Iterable[tuple[str, tuple[EndpointState, ...]]]:
        return ((upstream, pool.endpoints) for upstream, pool in sorted(self.pools.all().items()))

    async def start(self, *, once_live: bool = False) -> None:
        """Listen and begin to take Snapshots. Raises OSError when an address cannot be bound, `SettingInvalid` for what only the
        start can find out of a setting; nothing is left open then.

        once_live: accept when the first Snapshot serves; a gateway with inherited sockets always does.
        """
        settings = self.settings
        try:
            self._start_telemetry()
            self._stack.push_async_callback(self.pools.close)
            self.proxy = Proxy(
                settings,
                self._recorder,
                self._contexts,
                self.measurements,
                self._access_log,
                self._decisions,
                self._rng,
                self.samples,
            )
            self._stack.push_async_callback(self.proxy.close)
            gauges.watch(self.measurements, self.proxy)
            self.proxy.clock.every_tick.append(self._mirror_cells)
            self._checker = Checker(
                self.pools,
                active=self.leads,
                tls=self.proxy.tls.context,
                publish=self._publish_health,
                rng=self._rng,
            )
            self._stack.push_async_callback(self._checker.close)
            await self._start_admin()
            self._stack.callback(self._close_listeners)
            if not self.place.inherits:
                await self._bind()
            if once_live or self.place.inherits:
                self._tasks.own(self._accept_once_live(), "listen")
            else:
                await self._accept()
            self._stack.push_async_callback(self._judge.close)
            self._stack.push_async_callback(self._close_source)
            self._tasks.own(self._follow(), "snapshots")
            self._tasks.keep(self._housekeep, "housekeeping")
            source = self.source
            if settings.sample_requests and isinstance(source, TakesSamples):
                self._tasks.keep(lambda: source.publish_samples(lambda: self.samples.samples), "samples")
        except BaseException:
            await self._stack.aclose()
            raise

    def _start_telemetry(self) -> None:
        settings = self.settings
        self._recorder = Recorder(
            settings.replica, self.measurements.spans_dropped, otlp_endpoint=settings.otlp_endpoint, book=self.traces
        )
        self._contexts = Contexts(settings.trace_ratio, self._recorder.active, os.urandom)
        self._access_log = AccessLog(settings.access_log, self.measurements.log_lines_dropped)
        self._decisions = Decisions(
            log=settings.access_log,
            log_ratio=settings.access_log_ratio,
            trace=self._recorder.active,
            slow_s=settings.trace_slow_s,
            random=self._rng.random,
        )
        self._stack.push_async_callback(self._close_telemetry)
        self._access_log.start()
        self._recorder.start()

    async def _accept_once_live(self) -> None:
        """Accept when there is something to serve: what connects before waits in the queue of the socket, and would get a 503, from a
        worker that has just replaced another for one. Not for ever, though."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LIVE_S):
                await self.live()
        if self._draining:
            return
        try:
            if self.place.inherits:
                await self._bind()
            await self._accept()
        except OSError:
            log.exception("this gateway cannot accept and stays not ready")

    async def _bind(self) -> None:
        place, proxy = self.place, self.proxy
        options = proxy.options
        if place.secure is not None:
            # Here: reading certificates takes 7 MB.
            from nexus_gateway.edge.tls.listening import build_listener
            from nexus_gateway.edge.tls.store import Certificates

            assert self.settings.tls_certificates is not None
            certificates = Certificates(self.settings.tls_certificates)
            await asyncio.to_thread(certificates.reload)
            self._tasks.keep(certificates.watch, "certificates")
            self.certificates = certificates
            listener = build_listener(certificates, options, self.measurements, self.settings.max_connections)
            secure = await place.listen_tls(listener)
            assert secure is not None
            self._listeners.append(secure)
            self.tls_port = secure.sockets[0].getsockname()[1]
        plain = await place.listen(lambda: ServerConnection(options))
        self._listeners.append(plain)
        self.port = plain.sockets[0].getsockname()[1]
        tls = f", TLS on port {self.tls_port}" if self.tls_port else ""
        host, _ = split_address(self.settings.listen)
        log.info("listening on %s:%d%s, admin API on port %d", host, self.port, tls, self.admin_port)

    async def _accept(self) -> None:
        for listener in self._listeners:
            await listener.start_serving()
        self.listening.set()

    async def _start_admin(self) -> None:
        state = State(
            replica=self.settings.replica,
            runtime=lambda: self._runtime,
            pools=self.pools,
            measurements=self.measurements,
            problems=self._problems,
            not_ready=self.not_ready,
            traces=self.traces,
            zone=self.settings.zone,
            samples=self.samples,
        )
        runner = web.AppRunner(Admin(state).application(), access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        self._stack.push_async_callback(runner.cleanup)
        self.admin_port = await self.place.serve_admin(runner)

    def _problems(self) -> tuple[Problem, ...]:
        return (*self.source.problems, *(self.certificates.problems if self.certificates is not None else ()))

    def _mirror_cells(self) -> None:
        """Take over what other workers learned, and what they gave back."""
        now = monotonic()
        for upstream in self._registry.mirror(now):
            self.pools.changed(upstream)
        self._bulkheads.tick(now)

    def _breaker_changed(self, upstream: str, authority: str, state: str) -> None:
        log.warning("circuit of %s (%s) is now %s", authority or "the whole service", upstream, state)
        self.pools.changed(upstream)

    def _publish_health(self, upstream: str, checked: Checked, healthy: bool) -> None:
        if isinstance(checked, EndpointState):
            checked.judged(healthy)

    def lead(self, leads: bool) -> None:
        """Do, or do no more, what one worker does for all: active health checks, and sweeping the memory that they share.

        Whoever has a place prepared by a supervisor leads when that one says so; a gateway of one process always does."""
        self.leads = leads
        self._checker.lead(leads)

    def _fault(self, policy: Fault) -> FaultDraw:
        return FaultDraw(policy, self._rng)

    def _sessions(self, upstream: Upstream) -> Sessions | None:
        policy = upstream.balancing.persistence
        return Sessions(policy, self.settings.session_secret.encode(), upstream.id) if policy is not None else None

    def _endpoint_gone(self, state: EndpointState) -> None:
        self.proxy.connector.retire(state)

    def not_ready(self) -> str | None:
        """Return why the gateway takes no traffic; None when it does."""
        if self._draining:
            return "draining"
        if not self._runtime.published.generation:
            return "no Snapshot yet"
        return None if self.listening.is_set() else "not listening yet"

    async def _housekeep(self) -> None:
        while True:
            await asyncio.sleep(_HOUSEKEEPING_S)
            self.tidy(asyncio.get_running_loop().time())

    def tidy(self, now: float) -> None:
        """Bound what a long life would pile up: pods come and go, and each address leaves state behind. Called once a minute."""
        self.pools.forget(now)
        self._limits.touch(now)
        self._bulkheads.touch(now)
        if self.leads:
            self._registry.cells.sweep(now, SWEEP_AFTER_S)

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
            runtime = await self._build(published, staged.pools, slots)
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
        self._runtime = self.proxy.runtime = runtime
        self._checker.follow(published.snapshot.upstreams)
        self._tasks.own(self._retire(former), "retire")
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
            self._tasks.own(self._retry_plugins(published, retry_in_s), "retry plugins")

    async def _build(self, published: Published, pools: Mapping[str, Pool], slots: Mapping[str, Slot]) -> Runtime:
        """Compile the Snapshot, what changed of it, in slices between requests; the first one in one go, nearly."""
        live = self._runtime
        building = Runtime.in_slices(published, pools, slots, self._parts, live)
        first = not live.published.generation
        undisturbed = self.calm and not first
        if undisturbed:
            # What is built must not keep the garbage of before alive with it; none is looked for meanwhile.
            gc.collect(1)
            gc.disable()
        try:
            runtime = await (run_in_slices(building, START_SLICE_S, 0.0) if first else run_in_slices(building))
            if self.calm:
                # It lives as long as it serves: no collection has to walk it. It holds no cycles, so that it is freed with its
                # last request all the same.
                gc.freeze()
        finally:
            if undisturbed:
                gc.enable()
        return runtime

    async def _retire(self, former: Runtime) -> None:
        await former.retire()
        await run_in_slices(dismantle(former))
        if self.calm:
            # What the swap, or the start, took in passing. In a thread: the interpreter is free meanwhile.
            await asyncio.to_thread(allocator.trim)

    async def _retry_plugins(self, published: Published, after_s: float) -> None:
        await asyncio.sleep(after_s)
        if self._runtime.published is published:
            await self._take(published)

    async def live(self, generation: int = 1) -> None:
        """Return once this generation, or a later one, serves."""
        async with self._swapped:
            await self._swapped.wait_for(lambda: self._runtime.published.generation >= generation)

    async def stop(
        self,
        drain_s: float | None = None,
        *,
        drained: Callable[[], Awaitable[None]] | None = None,
        handed_over: bool = False,
    ) -> None:
        """Say not ready, wait for load balancers to notice, stop accepting, let requests finish, release everything.

        drain_s: longest wait for requests in flight, and for clients to take their answers; None takes the setting.
        drained: awaited when no request is left and the admin API still answers; `nexus up` stops the services there, which
        send their last spans to it.
        handed_over: another process has the sockets already, so load balancers have nothing to notice.
        """
        bound_s = self.settings.drain_s if drain_s is None else drain_s
        self._draining = True
        self.proxy.options.draining = True
        try:
            if bound_s and self.settings.drain_delay_s and not handed_over:
                await asyncio.sleep(self.settings.drain_delay_s)
            self._close_listeners()
            try:
                async with asyncio.timeout(bound_s):
                    await self.proxy.quiet(min(_IDLE_GRACE_S, bound_s))
                    await self.proxy.drained()
                    await self.proxy.written()
            except TimeoutError:
                log.warning(
                    "cut off after %g s: %d requests that did not finish, and clients that did not take their answers",
                    bound_s,
                    self.proxy.in_flight,
                )
            if drained is not None:
                await drained()
        finally:
            # Also when the drain itself is cancelled, by a second signal: nothing stays open.
            await self._release()

    async def _release(self) -> None:
        self._close_listeners()
        await self.proxy.cut_off()  # or the plugins would wait for requests that nobody waits for
        await self._tasks.close()
        try:
            async with asyncio.timeout(STOP_S):
                await self._runtime.retire()
        except TimeoutError:
            log.warning("plugins were not stopped: a request still holds them")
        await self._stack.aclose()
        self._bulkheads.leave()

    def _close_listeners(self) -> None:
        for listener in self._listeners:
            listener.close()

    async def _close_source(self) -> None:
        await self.source.close()

    async def _close_telemetry(self) -> None:
        # Both block until the last of it is written, or their own bounds are over.
        await asyncio.to_thread(self._access_log.close)
        await asyncio.to_thread(self._recorder.close)


def place_of(settings: GatewaySettings) -> Place:
    """Return where a gateway of one process listens."""
    secure = split_address(settings.tls_listen) if settings.tls_listen else None
    return Place.alone(split_address(settings.listen), secure, split_address(settings.admin))


def _cells_full(key: str) -> None:
    log.error("the memory that workers share is full at %s: what finds no room is counted by each worker alone", key)


def build_source(settings: GatewaySettings, manifests: Path | None) -> SnapshotSource:
    """Return the file source for a directory of manifests, else the Consul source. Raises `NothingToServe`."""
    if manifests is not None:
        return FileSource(manifests, RemoteWorkshop(settings.plugin_cache.parent / "indexes"))
    if settings.consul_url:
        # Where it is needed, as below: its client takes 7 MB.
        from nexus_gateway.edge.sources.consul import ConsulSource

        return ConsulSource(
            settings.consul_url, settings.consul_token, settings.consul_prefix, settings.replica, settings.state_dir
        )
    raise NothingToServe(_NOTHING)


_NOTHING = "The gateway has no configuration: neither a directory of manifests (`nexus gateway -f DIR`) nor NEXUS_CONSUL_URL is given."


class NothingToServe(ValueError):
    """No Snapshot source is configured. The text says what to give."""


def build_discovery(settings: GatewaySettings) -> Discovery:
    """Return the file's discovery when one is named, else Consul's, else one that knows no service; as in `nexus_sdk`."""
    if settings.discovery_file is not None:
        return FileDiscovery(settings.discovery_file)
    if settings.consul_url:
        from nexus_sdk.discovery.consul import ConsulDiscovery

        found = ConsulDiscovery(settings.consul_url, token=settings.consul_token or None)
        return KeptDiscovery(found, settings.state_dir / "endpoints") if settings.state_dir is not None else found
    return MemoryDiscovery()


def run(settings: GatewaySettings, manifests: Path | None = None) -> None:
    """Serve until SIGTERM or SIGINT, then drain; a second signal ends at once. Raises `NothingToServe`, `SettingInvalid`, OSError.

    Logs go to stderr as JSON, the access log to stdout.
    """
    if settings.workers > 1:
        if manifests is None and not settings.consul_url:
            raise NothingToServe(_NOTHING)  # once, not in every worker
        workers.run(settings, manifests, Renderer(settings.metrics_series).render_encoded)
        return
    allocator.settle()
    logs.install(settings.log_level, {"service": "nexus-gateway", "replica": settings.replica})
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(_serve(settings, manifests))


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return what makes the event loop: uvloop where it is installed."""
    try:
        import uvloop
    except ImportError:
        log.info("uvloop is not installed: the standard event loop serves, at more CPU for each request")
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


def calm_collector(gateway: Gateway) -> None:
    """Let the garbage collector look at young objects seldom and at what the start made never.

    Requests make few cycles, and a full collection stops all of them: with Python's defaults p99 was 42 ms at saturation
    (32 connections, `benchmarks/gateway`), with these 12 ms. For a process that is a gateway alone; not done on import.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    sys.setswitchinterval(SWITCH_S)
    gateway.calm = True


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
    gateway = Gateway(settings, source, discovery, judge=RemoteVerifier())
    await gateway.start(once_live=True)
    calm_collector(gateway)
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
