"""ServiceApp: what a Nexus service is made of, wired. The parts are in the modules beside this one.

Order of start: `on_start` hooks, listen, background tasks, registration. Order of stop: not ready and deregistered,
`settle_s` in which balancers notice, no new connections, `on_drain` hooks, requests in flight end (at most `drain_s`),
background tasks, `on_stop` hooks in reverse, client, discovery, traces flushed.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar
from urllib.parse import urlsplit

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware
from nexus_core.discovery import Discovery, service_name
from opentelemetry.sdk.trace import SpanProcessor
from prometheus_client import CollectorRegistry

from nexus_sdk import discovery as discoveries
from nexus_sdk import logs, metrics, middleware, replies, tracing
from nexus_sdk import settings as sdk_settings
from nexus_sdk.background import Background, Work
from nexus_sdk.client import ClientSettings, ServiceClient
from nexus_sdk.errors import SettingsError, UsageError
from nexus_sdk.readiness import Check, Readiness

Hook = Callable[[], Awaitable[object]]
RouteHandler = TypeVar("RouteHandler", bound=Callable[[web.Request], Awaitable[web.StreamResponse]])
AnyHook = TypeVar("AnyHook", bound=Hook)
AnyWork = TypeVar("AnyWork", bound=Work)

HOOK_STOP_S = 5.0
"""Bound of each `on_drain` and `on_stop` hook, and of the end of background tasks."""


@dataclass(frozen=True, slots=True)
class RunningService:
    """Where a started app listens. url: `http://host:port`, without a path."""

    url: str
    host: str
    port: int


class _Registration(Protocol):
    def start(self) -> None: ...

    async def stop(self) -> None: ...


class ServiceApp:
    """A service with health, readiness, metrics, traces, logs, discovery, a client, and a graceful stop.

    name: used unless NEXUS_SERVICE_NAME says otherwise. openapi: served at /openapi.json, None for none.
    environ: what settings are read from; None: the process's environment. settings: replaces `environ`.
    discovery: replaces the one the settings choose, and stays the giver's to close. span_processors: more receivers of
    spans. Raises SettingsError.
    """

    def __init__(
        self,
        name: str,
        *,
        version: str = "0.0.0",
        openapi: Mapping[str, Any] | None = None,
        environ: Mapping[str, str] | None = None,
        settings: sdk_settings.Settings | None = None,
        discovery: Discovery | None = None,
        client_settings: ClientSettings | None = None,
        max_body_bytes: int | None = None,
        meta: Mapping[str, str] | None = None,
        tags: Iterable[str] = (),
        span_processors: Iterable[SpanProcessor] = (),
    ) -> None:
        self.settings = settings or sdk_settings.parse(os.environ if environ is None else environ, default_name=name)
        self.version = version
        self.log = logs.make(self.settings.name)
        self.port = self.settings.port
        """The port that is listened on; before the start, the one of the settings."""
        self._openapi = None if openapi is None else json.dumps(openapi).encode()
        self._meta = {"nexus-type": "http", "nexus-version": version, **(meta or {})}
        if openapi is not None:
            self._meta.setdefault("nexus-openapi", "/openapi.json")
        self._tags = tuple(tags)
        self._metrics = metrics.Metrics()
        self._tracing = tracing.Tracing(self.settings, version, span_processors)
        self.tracer = self._tracing.tracer
        self._owns_discovery = discovery is None
        self.discovery: Discovery = discoveries.choose(self.settings) if discovery is None else discovery
        self.client = ServiceClient(
            self.discovery, self.settings.namespace, settings=client_settings, metrics=self._metrics,
            trace_config=self._tracing.build_trace_config(),
        )  # fmt: skip
        self._readiness = Readiness()
        self._background = Background(self.log, lambda task: self._metrics.restarts.labels(task).inc())
        self._background_work: dict[str, Work] = {}
        self._start_hooks: list[Hook] = []
        self._drain_hooks: list[Hook] = []
        self._stop_hooks: list[Hook] = []
        self._runner: web.AppRunner | None = None
        self._registration: _Registration | None = None
        self._started = self._draining = False
        self._in_flight = _InFlight()
        self._hurry = asyncio.Event()
        limit = self.settings.max_body_bytes if max_body_bytes is None else max_body_bytes
        self.web = web.Application(
            client_max_size=limit,
            middlewares=[
                self._tracing.build_middleware(),
                middleware.build_observing(self._metrics, self.log, lambda: self._draining),
                self._in_flight.build_middleware(),
                middleware.build_answering(limit, self.log),
            ],
        )
        self.web.router.add_get("/healthz", self._healthz)
        self.web.router.add_get("/readyz", self._readyz)
        self.web.router.add_get("/metrics", self._metrics_page)
        if self._openapi is not None:
            self.web.router.add_get("/openapi.json", self._openapi_page)

    # --- what authors declare ------------------------------------------------------------------------------------------

    def route(self, method: str, path: str) -> Callable[[RouteHandler], RouteHandler]:
        """Decorate the handler of `method` (or `*`) and `path` (aiohttp's: `/orders/{id}`, `/files/{rest:.*}`)."""

        def add(handler: RouteHandler) -> RouteHandler:
            self.web.router.add_route(method, path, handler)
            return handler

        return add

    def get(self, path: str) -> Callable[[RouteHandler], RouteHandler]:
        """Decorate the handler of GET and HEAD."""

        def add(handler: RouteHandler) -> RouteHandler:
            self.web.router.add_get(path, handler)
            return handler

        return add

    def post(self, path: str) -> Callable[[RouteHandler], RouteHandler]:
        return self.route("POST", path)

    def put(self, path: str) -> Callable[[RouteHandler], RouteHandler]:
        return self.route("PUT", path)

    def patch(self, path: str) -> Callable[[RouteHandler], RouteHandler]:
        return self.route("PATCH", path)

    def delete(self, path: str) -> Callable[[RouteHandler], RouteHandler]:
        return self.route("DELETE", path)

    def on_start(self, hook: AnyHook) -> AnyHook:
        """Call `hook` before the app listens, in order of declaration. Raising keeps the app from starting."""
        self._start_hooks.append(hook)
        return hook

    def on_drain(self, hook: AnyHook) -> AnyHook:
        """Call `hook` when the app has stopped to take connections: end what never ends by itself (WebSockets, SSE)."""
        self._drain_hooks.append(hook)
        return hook

    def on_stop(self, hook: AnyHook) -> AnyHook:
        """Call `hook` after the last request and background task, in reverse order; each within `HOOK_STOP_S`."""
        self._stop_hooks.append(hook)
        return hook

    def background(self, work: AnyWork, *, name: str) -> AnyWork:
        """Run `work` while the app runs. A crash is logged and it starts again with backoff; returning ends it."""
        if name in self._background_work:
            raise UsageError(f"background task {name!r} of {self.settings.name} exists already. Use another name.")
        self._background_work[name] = work
        if self._started:
            self._background.start(name, work)
        return work

    def readiness(self, name: str, check: Check) -> None:
        """Make /readyz 503 while `check` raises or takes longer than 2 s."""
        self._readiness.add(name, check)

    @property
    def metrics(self) -> CollectorRegistry:
        """The registry behind /metrics: `Counter(..., registry=app.metrics)`."""
        return self._metrics.registry

    @property
    def namespace(self) -> str:
        return self.settings.namespace

    @property
    def registered_name(self) -> str:
        """The name in every registry: `orders.shop`."""
        return service_name(self.settings.name, self.settings.namespace)

    # --- life ----------------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT, then stop gracefully; a second signal ends the drain at once. Blocks.

        Logs go to stderr as JSON from here on. Exits with status 1 and one line if the app cannot start.
        """
        name = self.settings.name
        logs.install(self.settings.log_level, {"service": name, "namespace": self.settings.namespace})
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        loop, stop = asyncio.get_running_loop(), asyncio.Event()

        def on_signal() -> None:
            if stop.is_set():
                self._hurry.set()
            stop.set()

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, on_signal)
        try:
            await self.start()
        except Exception as error:
            self.log.exception("not started", detail=str(error))
            raise SystemExit(1) from error
        await stop.wait()
        self.log.info("stopping", drain_s=self.settings.drain_s)
        await self.stop()
        self.log.info("stopped")

    async def start(self, host: str | None = None, port: int | None = None) -> RunningService:
        """Start and return where it listens. host, port: instead of the settings'. What failed to start is stopped."""
        if self._runner is not None:
            raise UsageError(f"{self.settings.name} has been started before. Make a new ServiceApp.")
        # Cancelling handlers when the client leaves would break writes that are under way; the deadline does it.
        self._runner = web.AppRunner(
            self.web, access_log=None, handle_signals=False, shutdown_timeout=0.1, handler_cancellation=False
        )
        try:
            return await self._start(host or self.settings.host, self.settings.port if port is None else port)
        except BaseException:
            await self.stop(drain_s=0, settle_s=0)
            raise

    async def _start(self, host: str, port: int) -> RunningService:
        assert self._runner is not None
        for hook in self._start_hooks:
            await hook()
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, host, port, backlog=1024).start()
        except OSError as error:
            what = f"cannot listen on {host}:{port} ({error.strerror or error})"
            raise SettingsError(
                f"{self.settings.name} {what}. Stop what uses it, or set PORT and NEXUS_HOST."
            ) from error
        self.port = int(self._runner.addresses[0][1])
        self._started = True
        for name, work in self._background_work.items():
            self._background.start(name, work)
        if self.settings.consul.register:
            await self._register(host)
        self.log.info("listening", host=host, port=self.port, version=self.version)
        local = "127.0.0.1" if host in ("0.0.0.0", "::") else host
        shown = f"[{local}]" if ":" in local else local
        return RunningService(f"http://{shown}:{self.port}", local, self.port)

    async def _register(self, host: str) -> None:
        from nexus_sdk.consul.registration import Registration, Service  # py-consul only where Consul is

        address = self.settings.advertise_address or await _find_address(host, self.settings.consul.url or "")
        service = Service(
            name=self.registered_name, id=f"{self.registered_name}-{address}-{self.port}", address=address,
            port=self.port, tags=self._tags, meta=self._registered_meta(),
        )  # fmt: skip
        self._registration = Registration(self.settings.consul, service, self._readiness.find_failures)
        self._registration.start()

    def _registered_meta(self) -> dict[str, str]:
        """What the service is, and what tells this instance from the others."""
        zone = {"nexus-zone": self.settings.zone} if self.settings.zone else {}
        return {"nexus-namespace": self.settings.namespace, **self._meta, **self.settings.meta, **zone}

    async def stop(self, *, drain_s: float | None = None, settle_s: float | None = None) -> None:
        """Stop gracefully. drain_s, settle_s: instead of the settings'. Errors of hooks are logged, the rest goes on."""
        if self._draining or self._runner is None:
            return
        self._draining = True
        drain_s = self.settings.drain_s if drain_s is None else drain_s
        settle_s = self.settings.settle_s if settle_s is None else settle_s
        if self._registration is not None:
            await self._registration.stop()
        if self._started:
            await self._or_hurry(asyncio.sleep(settle_s), settle_s)
            for site in list(self._runner.sites):
                await site.stop()
            ends_at = asyncio.get_running_loop().time() + drain_s
            await self._call("on_drain", self._drain_hooks)
            if not await self._or_hurry(self._in_flight.wait_idle(), drain_s):
                self.log.warning("drain ended with requests in flight; they are cancelled", waited_s=drain_s)
                ends_at = 0.0
            if (server := self._runner.server) is not None:
                # Handlers have ended; what is left are answers on their way to slow clients. 0.1: to see what is done.
                server.pre_shutdown()
                await server.shutdown(max(ends_at - asyncio.get_running_loop().time(), 0.1))
        await self._runner.cleanup()
        await self._background.stop(HOOK_STOP_S)
        await self._call("on_stop", self._stop_hooks[::-1])
        await self.client.close()
        if self._owns_discovery:
            await self.discovery.close()
        if not await self._tracing.stop():
            self.log.warning("spans lost: the receiver did not take them in time")

    async def _or_hurry(self, work: Awaitable[None], within_s: float) -> bool:
        """Wait for `work`, at most `within_s` and only until a second signal; return whether it ended."""
        task, hurry = asyncio.ensure_future(work), asyncio.ensure_future(self._hurry.wait())
        try:
            # 0.01: with no time at all even what is done already would not be seen.
            await asyncio.wait((task, hurry), timeout=max(within_s, 0.01), return_when=asyncio.FIRST_COMPLETED)
            return task.done()
        finally:
            task.cancel()
            hurry.cancel()

    async def _call(self, kind: str, hooks: list[Hook]) -> None:
        for hook in hooks:
            try:
                async with asyncio.timeout(HOOK_STOP_S):
                    await hook()
            except Exception:
                self.log.exception("hook failed", kind=kind, hook=getattr(hook, "__qualname__", str(hook)))

    @contextlib.asynccontextmanager
    async def test_server(self) -> AsyncIterator[RunningService]:
        """Run the app on a free port of 127.0.0.1 while the block runs: `async with app.test_server() as server:`."""
        running = await self.start("127.0.0.1", 0)
        try:
            yield running
        finally:
            await self.stop(settle_s=0)

    # --- what every service serves -------------------------------------------------------------------------------------

    async def _healthz(self, _request: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def _readyz(self, request: web.Request) -> web.Response:
        failing = {"stop": "the service is stopping"} if self._draining else dict(await self._readiness.find_failures())
        checks = {name: failing.get(name, "ok") for name in sorted({*self._readiness.names, *failing})}
        if not failing:
            return web.json_response({"status": "ready", "checks": checks})
        detail = "; ".join(f"{name}: {why}" for name, why in sorted(failing.items()))
        return replies.problem(
            503, "NotReady", f"{self.settings.name} is not ready. {detail}", request_id=replies.request_id(request),
            members={"checks": checks},
        )  # fmt: skip

    async def _metrics_page(self, _request: web.Request) -> web.Response:
        return web.Response(body=self._metrics.render(), headers={"content-type": metrics.CONTENT_TYPE})

    async def _openapi_page(self, _request: web.Request) -> web.Response:
        return web.Response(body=self._openapi, content_type="application/json")


class _InFlight:
    """Counts requests being handled; health and metrics do not hold a drain."""

    def __init__(self) -> None:
        self._count = 0
        self._idle = asyncio.Event()
        self._idle.set()

    def build_middleware(self) -> Middleware:
        @web.middleware
        async def count(request: web.Request, handler: Handler) -> web.StreamResponse:
            if request.path in tracing.UNTRACED:
                return await handler(request)
            self._count += 1
            self._idle.clear()
            try:
                return await handler(request)
            finally:
                self._count -= 1
                if not self._count:
                    self._idle.set()

        return count

    async def wait_idle(self) -> None:
        await self._idle.wait()


async def _find_address(host: str, consul_url: str) -> str:
    """Return the address to advertise: the one listened on, or that of the interface that leads to Consul."""
    if host not in ("0.0.0.0", "::", ""):
        return host
    parts = urlsplit(consul_url)
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(parts.hostname, parts.port or 8500, type=socket.SOCK_DGRAM)
        family, _, _, _, target = found[0]
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect(target)  # a datagram socket: chooses the route, sends nothing
            return str(probe.getsockname()[0])
    except OSError as error:
        raise SettingsError(
            f"No route to Consul at {consul_url} ({error}), so no address to advertise. Set NEXUS_ADVERTISE_ADDRESS."
        ) from error
