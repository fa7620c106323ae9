"""The plugins of a service: which ones is read from Consul or a file, and followed while the service runs.

The operator writes the list of each service to Consul's KV, `nexus up` to a file. A list that cannot be read empties nothing: what ran
goes on. The service is not ready before it has read the list once: a plugin that masks data must not be missing in the first second.
"""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
from aiohttp import web
from nexus_core.discovery import TLS_META, Endpoint, service_name
from nexus_core.hooks import CallFailed, Refusal
from nexus_core.snapshot import PluginInstance
from nexus_core.snapshot.service_reports import reports_key
from nexus_hosting.hosted import Hosted, Unavailable
from nexus_hosting.judges import RemoteVerifier
from nexus_hosting.means import Means, Reached
from nexus_hosting.starting import Starter
from prometheus_client import Counter, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from nexus_sdk.background import backoff_s

if TYPE_CHECKING:
    from nexus_sdk.app import ServiceApp

__all__ = ["NoPlugins", "Refusal", "ServicePlugins", "Unavailable"]

T = TypeVar("T")
Stamp = tuple[int, int, int]

POLL_S = 0.3
RETRY_S = 15.0
"""After a plugin could not be started; its list may be the same for months."""
TICK_S = 0.5
"""Between two looks at what plugins have spent of their budgets."""
WAIT_S = 30.0
LONGEST_BACKOFF_S = 5.0
MAX_BYTES = 16 * 1024 * 1024
_DECODER = msgspec.json.Decoder(tuple[PluginInstance, ...])


class ListInvalid(ValueError):
    """The list of plugins cannot be read. The text says where it is from and what is wrong."""


def parse(data: bytes, origin: str) -> tuple[PluginInstance, ...]:
    """Return the plugins of a list. Raises ListInvalid. Pure."""
    if len(data) > MAX_BYTES:
        raise ListInvalid(f"{origin}: {len(data)} bytes, more than {MAX_BYTES}.")
    try:
        return _DECODER.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ListInvalid(
            f"{origin}: not a list of plugins ({error}). Operator and service may be of versions too far apart."
        ) from error


def _read(path: Path, stamp: Stamp | None) -> tuple[Stamp, bytes | None]:
    """Return what the file is now, and its content if that is another one."""
    stat = path.stat()
    found = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
    return found, path.read_bytes() if found != stamp else None


class _Disabled(Collector):
    """The gauge of plugins that are not called; read when it is scraped, so that those that are gone are gone."""

    def __init__(self, read: Callable[[], Mapping[str, bool]]) -> None:
        self._read = read

    def collect(self) -> Iterator[Metric]:
        found = GaugeMetricFamily(
            "nexus_plugin_disabled",
            "1 while a plugin is not called, for it went beyond a budget.",
            labels=["plugin"],
        )
        for plugin, disabled in sorted(self._read().items()):
            found.add_metric([plugin], float(disabled))
        yield found


class NoPlugins:
    """None at all, for whoever runs a service's parts without one."""

    def hears(self, hook: str) -> bool:
        """No."""
        return False

    async def change(self, hook: str, value: T, make: Callable[[Any, T], Any]) -> T | Refusal:
        """Return the value."""
        return value

    async def tell(self, hook: str, make: Callable[[Any], Any]) -> None:
        """Nobody."""


class ServicePlugins:
    """Attached to an app before it starts; `hears`, `change` and `tell` as `nexus_hosting.hosted.Hosted` has them."""

    def __init__(self, app: ServiceApp) -> None:
        self._app = app
        settings = app.settings
        self._judge = RemoteVerifier()
        self._calls = Counter(
            "nexus_plugin_calls", "Calls of plugins' hooks.", ["plugin", "hook", "result"], registry=app.metrics
        )
        self._seconds = Histogram(
            "nexus_plugin_call_seconds", "How long they took.", ["plugin", "hook"], registry=app.metrics
        )
        self._rng = random.Random()
        self._endpoints: dict[str, tuple[Endpoint, ...]] = {}
        self._watching: dict[str, asyncio.Task[None]] = {}
        self._hosted = Hosted(
            Starter(Path(settings.plugin_cache).expanduser(), self._judge, self._means()), self._observe
        )
        app.metrics.register(_Disabled(lambda: self._hosted.disabled))
        self._known = asyncio.Event()
        self._news = asyncio.Event()
        self._wanted: tuple[PluginInstance, ...] | None = None
        self._complaint = ""
        if settings.plugins_file is not None:
            app.background(self._follow_file, name="list of plugins")
        elif settings.consul.url:
            app.background(self._follow_consul, name="list of plugins")
            app.background(self._report, name="reports of plugins")
        else:
            self._known.set()
        app.background(self._apply, name="plugins")
        app.background(self._oversee, name="budgets of plugins")
        app.readiness("plugins", self._check)
        app.get("/plugins")(self._page)
        app.on_stop(self.close)

    def hears(self, hook: str) -> bool:
        """Return whether any plugin has the hook."""
        return self._hosted.hears(hook)

    async def change(self, hook: str, value: T, make: Callable[[Any, T], Any]) -> T | Refusal:
        """Pass a value through the plugins that have the hook. Raises `Unavailable`."""
        return await self._hosted.change(hook, value, make)

    async def tell(self, hook: str, make: Callable[[Any], Any]) -> None:
        """Tell the plugins that have the hook."""
        await self._hosted.tell(hook, make)

    async def close(self) -> None:
        """Stop all plugins."""
        self._watch_services(())
        await self._hosted.close()
        await self._judge.close()

    # ---- what they may use

    def _means(self) -> Means:
        consul = self._app.settings.consul.url
        return Means(endpoint=self._endpoint, consul=self._consul_key if consul else None)

    def _endpoint(self, service: str) -> Reached | None:
        """Return where a service that a plugin may call listens. It is watched from the moment the plugin is listed.

        In clear, as services call each other. Raises `CallFailed` for one that is to be spoken to over TLS: whom to trust there,
        gateways alone are told.
        """
        found = [each for each in self._endpoints.get(service, ()) if not each.draining]
        if not found:
            return None
        chosen = self._rng.choice(found)
        if (TLS_META, "true") in chosen.meta:
            raise CallFailed(
                f"The NexusService {service} is spoken to over TLS, which plugins can do in gateways, and not in services. Call another "
                "one, or take the policy with its TLS away."
            )
        host = f"[{chosen.address}]" if ":" in chosen.address else chosen.address
        return Reached(f"{host}:{chosen.port}")

    async def _consul_key(self, key: str) -> bytes | None:
        from nexus_sdk.consul.connection import Connection

        consul = self._app.settings.consul
        connection = Connection(consul.url or "", consul.token)
        try:
            _, entry = await connection.call(connection.client.kv.get(key), what=f"GET {key}")
        finally:
            await connection.close()
        return bytes(entry["Value"] or b"") if entry is not None else None

    def _watch_services(self, wanted: tuple[PluginInstance, ...]) -> None:
        named = {name for each in wanted for name in each.granted.services if name != "*"}
        for name in [name for name in self._watching if name not in named]:
            self._watching.pop(name).cancel()
            self._endpoints.pop(name, None)
        for name in named - self._watching.keys():
            self._watching[name] = asyncio.create_task(self._watch(name), name=f"plugins watch {name}")

    async def _watch(self, service: str) -> None:
        namespace, _, name = service.partition("/")
        async for endpoints in self._app.discovery.watch(service_name(name, namespace)):
            self._endpoints[service] = endpoints

    # ---- following

    async def _follow_file(self) -> None:
        path = Path(self._app.settings.plugins_file or "")
        stamp: Stamp | None = None
        while True:
            try:
                found, data = await asyncio.to_thread(_read, path, stamp)
                if data is not None:
                    self._found(parse(data, str(path)))
                stamp = found
            except (OSError, ListInvalid) as error:
                self._complain(error)
            await asyncio.sleep(POLL_S)

    async def _follow_consul(self) -> None:
        from nexus_sdk.consul.connection import Connection  # py-consul only where Consul is

        settings = self._app.settings
        connection = Connection(settings.consul.url or "", settings.consul.token)
        key = f"{settings.consul.prefix}/services/{settings.namespace}/{settings.name}/plugins"
        index, failures, rng = 0, 0, random.Random()
        try:
            while True:
                try:
                    client = connection.client
                    waiting = client.kv.get(
                        key, index=index or None, wait=f"{WAIT_S:g}s", connections_timeout=WAIT_S + 10
                    )
                    index, entry = await connection.call(waiting, WAIT_S + 10, f"GET {key}")
                    self._found(parse(entry["Value"] or b"[]", key) if entry is not None else ())
                    failures = 0
                except (ConnectionError, ListInvalid) as error:
                    self._complain(error)
                    failures += 1
                    index = 0
                    await asyncio.sleep(backoff_s(failures, rng, cap_s=LONGEST_BACKOFF_S))
        finally:
            await connection.close()

    def _found(self, wanted: tuple[PluginInstance, ...]) -> None:
        self._complaint = ""
        if wanted != self._wanted:
            self._wanted = wanted
            self._news.set()

    async def _apply(self) -> None:
        """Run what is listed; what could not be started is tried again."""
        good = True
        while True:
            try:
                async with asyncio.timeout(None if good else RETRY_S):
                    await self._news.wait()
            except TimeoutError:
                pass
            self._news.clear()
            wanted = self._wanted or ()
            self._watch_services(wanted)
            good = await self._hosted.take(wanted)
            running = [each.id for each in wanted if each.id not in self._hosted.troubles]
            self._app.log.info("plugins", running=running, troubles=self._hosted.troubles)
            self._known.set()

    async def _oversee(self) -> None:
        """Judge what plugins cost; one that holds too much memory is started anew."""
        while True:
            await asyncio.sleep(TICK_S)
            if self._hosted.tick():
                self._news.set()

    # ---- what is seen of them

    async def _report(self) -> None:
        """Tell the operator, by Consul, what plugins do here; for ever."""
        from nexus_sdk.consul.connection import Connection
        from nexus_sdk.consul.reporting import Reporting

        settings = self._app.settings
        # Whoever listens on a port of a host is one process: a restarted one takes over from the one before.
        instance = f"{socket.gethostname()}-{self._app.port}"
        key = reports_key(f"{settings.namespace}/{settings.name}", instance, settings.consul.prefix)
        connection = Connection(settings.consul.url or "", settings.consul.token)
        reporting = Reporting(connection, key, self._hosted.reports, self._hosted.changed)
        try:
            await reporting.run()
        finally:
            await reporting.close()

    async def _page(self, _request: web.Request) -> web.Response:
        settings = self._app.settings
        return web.json_response(
            {"service": f"{settings.namespace}/{settings.name}", "plugins": self._hosted.costs()},
            headers={"cache-control": "no-store"},
        )

    async def _check(self) -> None:
        if not self._known.is_set():
            raise RuntimeError(self._complaint or "the list of plugins has not been read yet")

    def _complain(self, error: Exception) -> None:
        if str(error) != self._complaint:
            self._complaint = str(error)
            self._app.log.warning("the list of plugins cannot be read; what runs goes on", detail=str(error))

    def _observe(self, plugin: str, hook: str, seconds: float, *, failed: bool) -> None:
        self._calls.labels(plugin, hook, "failed" if failed else "ok").inc()
        self._seconds.labels(plugin, hook).observe(seconds)
