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
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

from aiohttp import web
from nexus_core.discovery import Discovery
from nexus_core.problems import Problem
from nexus_core.snapshot import Fault, PluginStats, Upstream
from nexus_hosting.judges import Judge, RemoteVerifier, Verifier
from nexus_hosting.running import STOP_S
from nexus_hosting.starting import Starter
from nexus_sdk import logs

from nexus_gateway import workers
from nexus_gateway.balance.keys import build_key
from nexus_gateway.building import (
    NOTHING,
    NothingToServe,
    addresses_of,
    build_discovery,
    build_keys,
    build_means,
    build_opener,
    build_source,
    place_of,
)
from nexus_gateway.edge import allocator, files, gauges
from nexus_gateway.edge.accesslogs import AccessLog
from nexus_gateway.edge.admin import Admin, State
from nexus_gateway.edge.health.checker import Checked, Checker
from nexus_gateway.edge.listeners.plans import PLAIN, SECURE
from nexus_gateway.edge.listeners.ports import Ports
from nexus_gateway.edge.listeners.reception import Reception
from nexus_gateway.edge.measurements import Measurements, Renderer
from nexus_gateway.edge.plugins.loading import Loader
from nexus_gateway.edge.plugins.logbooks import Logbook
from nexus_gateway.edge.plugins.overseeing import Overseer
from nexus_gateway.edge.pools import Pools
from nexus_gateway.edge.proxy import Proxy
from nexus_gateway.edge.recording import Recorder
from nexus_gateway.edge.runtimes import Parts, Runtime
from nexus_gateway.edge.samples import Samples
from nexus_gateway.edge.sessions import Sessions
from nexus_gateway.edge.sources.port import SnapshotSource, TakesSamples, TakesStats
from nexus_gateway.edge.streams.service import Means as StreamMeans
from nexus_gateway.edge.streams.service import Streams
from nexus_gateway.edge.swaps import Means, Swaps
from nexus_gateway.edge.tasks import Tasks
from nexus_gateway.edge.tls.clients import ClientCertificates
from nexus_gateway.edge.tls.keyring import Keyring
from nexus_gateway.edge.tls.serving import Contexts as TlsContexts
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

__all__ = ["Gateway", "NothingToServe", "build_discovery", "build_source", "calm_collector", "loop_factory", "run"]

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

    admin_port: what is bound, after `start`; 0 for none. ports: where listeners are, after `start`. leads: whether it does what one
    worker does for all; see `lead`.
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
        self._tasks = Tasks(lambda name: self.measurements.tally(names.TASK_FAILURES, name).inc())
        self._keys = build_keys(settings)
        lent = build_means(
            settings, self.pools.all, self.place.workers, self._keys, lambda policy: self.proxy.tls.context(policy)
        )
        self._loader = Loader(
            Starter(settings.plugin_cache, self._judge, lent),
            self.measurements,
            lambda trial: self.overseer.tried(trial),
        )
        self.overseer = Overseer(self._tasks.own, self._loader.renew)
        self._draining = False
        self.samples = Samples(settings.sample_requests, self._rng, monotonic())
        self.traces = TraceBook(settings.traces_memory) if settings.traces_memory else None
        self._stack = contextlib.AsyncExitStack()
        self.listening = asyncio.Event()
        self.certificates: Certificates | None = None

    @property
    def runtime(self) -> Runtime:
        """What serves new requests."""
        return self.proxy.runtime

    @property
    def port(self) -> int:
        """Where `listen` is bound, 0 where nothing is."""
        return self.ports.bound(PLAIN)

    @property
    def tls_port(self) -> int:
        """Where `tls_listen` is bound, 0 where nothing is."""
        return self.ports.bound(SECURE)

    @property
    def calm(self) -> bool:
        """Whether the garbage collector was told (`calm_collector`) to leave what lives long alone."""
        return self._swaps.calm

    @calm.setter
    def calm(self, calm: bool) -> None:
        self._swaps.calm = calm

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
            self.streams = self._build_streams()
            self.proxy.elsewhere = lambda: len(self.streams.connections)
            self._stack.push_async_callback(self.streams.cut_off)
            gauges.watch(self.measurements, self.proxy)
            self._logbook = Logbook(lambda plugin: plugin in self.runtime.slots)
            self._logbook.open()
            self._stack.callback(self._logbook.close)
            gauges.watch_plugins(self.measurements, self.overseer.slots)
            self.proxy.clock.every_tick.append(self._mirror_cells)
            self._checker = Checker(
                self.pools,
                active=self.leads,
                tls=self.proxy.tls.context,
                publish=self._publish_health,
                rng=self._rng,
            )
            self._stack.push_async_callback(self._checker.close)
            self._build_ports()
            self._swaps = Swaps(
                Means(
                    replica=settings.replica,
                    gateway=settings.gateway,
                    proxy=self.proxy,
                    ports=self.ports,
                    clients=self._clients,
                    pools=self.pools,
                    loader=self._loader,
                    overseer=self.overseer,
                    parts=self._parts,
                    measurements=self.measurements,
                    tasks=self._tasks,
                    ack=self.source.ack,
                    follow=self._checker.follow,
                )
            )
            await self._start_admin()
            self._stack.callback(self.ports.stop_accepting)
            if self.certificates is not None:
                await asyncio.to_thread(self.certificates.reload)
                self._tasks.keep(self.certificates.watch, "certificates")
            if not self.place.inherits:
                await self._open()
            if once_live or self.place.inherits:
                self._tasks.own(self._accept_once_live(), "listen")
            else:
                await self._accept()
            self._stack.push_async_callback(self._judge.close)
            if self._keys is not None:
                self._stack.push_async_callback(self._keys.close)
            self._stack.push_async_callback(self._close_source)
            self._stack.push_async_callback(self._swaps.close)
            self._tasks.own(self._follow(), "snapshots")
            self._tasks.keep(self._housekeep, "housekeeping")
            self._tasks.keep(self._swaps.reopen, "ports")
            self._tasks.keep(self.overseer.run, "plugins")
            self._tasks.keep(self._swaps.tell_of_plugins, "reports of plugins")
            self._tasks.keep(self._swaps.renew_plugins, "renew plugins")
            source = self.source
            if settings.sample_requests and isinstance(source, TakesSamples):
                self._tasks.keep(lambda: source.publish_samples(lambda: self.samples.samples), "samples")
            if isinstance(source, TakesStats):
                self._tasks.keep(lambda: source.publish_stats(self._plugin_stats), "stats of plugins")
        except BaseException:
            await self._stack.aclose()
            raise

    def _plugin_stats(self) -> dict[str, PluginStats]:
        return self.overseer.stats(asyncio.get_running_loop().time())

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
                await self._open()
            await self._accept()
        except OSError:
            log.exception("this gateway cannot accept and stays not ready")

    async def _open(self) -> None:
        """Open what is open without any Snapshot. Raises OSError."""
        await self.ports.start()
        tls = f", TLS on port {self.tls_port}" if self.tls_port else ""
        if self.port:
            host, _ = split_address(self.settings.listen)
            log.info("listening on %s:%d%s, admin API on port %d", host, self.port, tls, self.admin_port)

    async def _accept(self) -> None:
        await self.ports.accept()
        self.listening.set()

    def _build_streams(self) -> Streams:
        proxy = self.proxy
        return Streams(
            StreamMeans(
                self.settings,
                proxy.clock,
                self._rng,
                self.measurements,
                self._contexts,
                self._decisions,
                self._access_log,
                self._recorder,
                proxy.tls.context,
                lambda: len(proxy.connections),
            )
        )

    def _build_ports(self) -> None:
        settings, proxy = self.settings, self.proxy
        addresses = addresses_of(settings)
        if addresses.always_secure and settings.tls_certificates is not None:
            # Here: reading certificates takes 7 MB.
            from nexus_gateway.edge.tls.store import Certificates

            self.certificates = Certificates(settings.tls_certificates)
        keyring = Keyring(lambda: build_opener(settings))
        self.ports = Ports(
            addresses, self.place, Reception(proxy, self.streams, self.certificates), TlsContexts(keyring)
        )
        self._clients = ClientCertificates(keyring, proxy.tls)

    async def _start_admin(self) -> None:
        state = State(
            replica=self.settings.replica,
            runtime=lambda: self.runtime,
            pools=self.pools,
            measurements=self.measurements,
            problems=self._problems,
            not_ready=self.not_ready,
            traces=self.traces,
            zone=self.settings.zone,
            samples=self.samples,
            logbook=self._logbook,
            listeners=lambda: self.ports.rows,
            doors=lambda: self.ports.doors,
        )
        runner = web.AppRunner(Admin(state).application(), access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        self._stack.push_async_callback(runner.cleanup)
        self.admin_port = await self.place.serve_admin(runner)

    def _problems(self) -> tuple[Problem, ...]:
        certificates = self.certificates.problems if self.certificates is not None else ()
        return (*self.source.problems, *certificates, *self.ports.problems, *self._clients.problems)

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
        if not self.runtime.published.generation:
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
                    await self._swaps.take(published)
                return
            except Exception:
                log.exception("the Snapshot source failed; the live Snapshot stays, watching again")
                await asyncio.sleep(_FOLLOW_AGAIN_S)

    async def live(self, generation: int = 1) -> None:
        """Return once this generation, or a later one, serves."""
        await self._swaps.live(generation)

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
        self.proxy.drain()
        try:
            if bound_s and self.settings.drain_delay_s and not handed_over:
                await asyncio.sleep(self.settings.drain_delay_s)
            self.ports.stop_accepting()
            try:
                async with asyncio.timeout(bound_s):
                    await self.proxy.quiet(min(_IDLE_GRACE_S, bound_s))
                    await self.proxy.drained()
                    await self.streams.drained()
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
        self.ports.stop_accepting()
        await self.streams.cut_off()
        await self.proxy.cut_off()  # or the plugins would wait for requests that nobody waits for
        await self._tasks.close()
        try:
            async with asyncio.timeout(STOP_S):
                await self.runtime.retire()
        except TimeoutError:
            log.warning("plugins were not stopped: a request still holds them")
        await self._stack.aclose()
        self._bulkheads.leave()

    async def _close_source(self) -> None:
        await self.source.close()

    async def _close_telemetry(self) -> None:
        # Both block until the last of it is written, or their own bounds are over.
        await asyncio.to_thread(self._access_log.close)
        await asyncio.to_thread(self._recorder.close)


def _cells_full(key: str) -> None:
    log.error("the memory that workers share is full at %s: what finds no room is counted by each worker alone", key)


def run(settings: GatewaySettings, manifests: Path | None = None) -> None:
    """Serve until SIGTERM or SIGINT, then drain; a second signal ends at once. Raises `NothingToServe`, `SettingInvalid`, OSError.

    Logs go to stderr as JSON, the access log to stdout.
    """
    if settings.workers > 1:
        if manifests is None and not settings.consul_url:
            raise NothingToServe(NOTHING)  # once, not in every worker
        workers.run(settings, manifests, Renderer(settings.metrics_series).render_encoded)
        return
    allocator.settle()
    logs.install(settings.log_level, {"service": "nexus-gateway", "replica": settings.replica})
    files.settle()
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
