"""Wires `nexus up`: manifests → plan → processes and gateway, until it is told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from pathlib import Path

from nexus_core.problems import Problem

from nexus_cli import manifests, output
from nexus_cli.errors import UserError
from nexus_cli.offline import translate
from nexus_cli.up import plans, plugins, ports, routes, screen
from nexus_cli.up.gateways import LocalGateway
from nexus_cli.up.guard import Guard
from nexus_cli.up.logs import ServiceLog, Terminal, TerminalHandler
from nexus_cli.up.registries import ConsulRegistry, LocalRegistry, Registry
from nexus_cli.up.replicas import House
from nexus_cli.up.supervisor import Supervisor

START_WAIT_S = 20.0
"""How long the table waits for services that do not become ready; they are shown as they are then."""
RELOAD_POLL_S = 0.3
DRAIN_S = 10.0
"""What requests in flight get to finish after Ctrl-C."""
SERVED = frozenset({"Gateway", "ListenerSet", "HTTPRoute", "GRPCRoute", "TLSRoute", "TCPRoute", "UDPRoute"})
"""Kinds of manifests that are worth a gateway without any service that is run here."""
INHERITED = ("NEXUS_LOG_LEVEL", "NEXUS_CONSUL_TOKEN", "NEXUS_GRAPHIQL_ASSETS")
"""What services may take from the environment of `nexus up`. No other NEXUS_ variable: they are of this command."""
SECOND_SIGNAL_S = 0.3
"""A signal that follows the first sooner is the same one: `timeout` and some shells send it to the process and its group."""


@dataclass(frozen=True, slots=True)
class UpSettings:
    """directory: of manifests. listen, tls_listen, admin: host:port, tls_listen empty for the default. consul, otlp: URLs, empty
    for none. data_dir: logs and stores."""

    directory: Path
    listen: str
    tls_listen: str
    admin: str
    consul: str
    otlp: str
    data_dir: Path
    quiet: bool
    as_json: bool


def run(settings: UpSettings) -> int:
    """Run until SIGINT or SIGTERM. Returns the exit code. Raises UserError when it cannot start."""
    loaded = manifests.load([settings.directory])
    broken = loaded.problems
    if broken:
        for problem in broken:
            output.note(f"nexus: {describe(problem, loaded)}")
        raise UserError(
            f"{settings.directory} has {len(broken)} problem(s), so nothing was started. `nexus validate` explains."
        )
    wanted = plans.build_plans(loaded.resources, {})
    if not wanted and not any(resource.ref.kind in SERVED for resource, _ in loaded.resources):
        raise UserError(
            f"{settings.directory} has no NexusService and no Gateway or route, so there is nothing to run. Add one; see "
            "examples/shop and examples/gateway-api."
        )
    known = translate(loaded).problems
    for problem in known:
        output.note(f"nexus: {describe(problem, loaded)}")  # costs that object alone: the rest is started
    _check_ports(settings, wanted)
    with _lock(settings.data_dir):
        return asyncio.run(_Up(settings, wanted, {str(problem) for problem in known}).run())


def describe(problem: Problem, loaded: manifests.Manifests) -> str:
    """Return one line: file, object, field, what, fix, reason."""
    origin = loaded.origin(problem.where)
    prefix = f"{origin}: " if origin is not None else ""
    return f"{prefix}{problem}"


def _check_ports(settings: UpSettings, wanted: Mapping[str, plans.ServicePlan]) -> None:
    ports.require_free(*ports.parse_address(settings.listen, "--listen"), "--listen")
    ports.require_free(*ports.parse_address(settings.admin, "--admin"), "--admin")
    if settings.tls_listen:
        ports.require_free(*ports.parse_address(settings.tls_listen, "--tls-listen"), "--tls-listen")
    taken: dict[tuple[bool, int], str] = {}
    for key, plan in wanted.items():
        if not plan.port or not plan.command or not plan.replicas:
            continue
        udp = plan.probe == "udp"
        if (udp, plan.port) in taken:
            other = taken[udp, plan.port]
            raise UserError(f"{key} and {other} both want port {plan.port}. Change or remove spec.process.port of one.")
        taken[udp, plan.port] = key
        ports.require_free("127.0.0.1", plan.port, f"spec.process.port of {key}, not", udp=udp)


@contextlib.contextmanager
def _lock(data_dir: Path) -> Iterator[None]:
    """Hold the data directory: two `nexus up` on one would share databases and logs."""
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        (data_dir / ".gitignore").write_text("*\n")
        handle = (data_dir / "lock").open("a+")
    except OSError as error:
        raise UserError(
            f"--data-dir {data_dir} cannot be written: {error.strerror}. Name another with --data-dir."
        ) from error
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            handle.seek(0)
            other = handle.read(32).strip() or "another process"
            raise UserError(
                f"{data_dir} is in use by another `nexus up` (process {other}). Stop it, or name another --data-dir."
            ) from error
        handle.truncate(0)
        handle.write(str(os.getpid()))
        handle.flush()
        yield


class _Up:
    def __init__(self, settings: UpSettings, wanted: Mapping[str, plans.ServicePlan], said: Set[str]) -> None:
        """said: problems that the user has been told of."""
        self._settings = settings
        self._said = said
        self._wanted = wanted
        self._stop = asyncio.Event()
        self._signalled_at = 0.0
        self._terminal = Terminal(quiet=settings.quiet)
        self._terminal.width = max((len(plan.name) + 2 for plan in wanted.values()), default=10)

    async def run(self) -> int:
        began = time.monotonic()
        settings = self._settings
        loop = asyncio.get_running_loop()
        guard = Guard()
        registry: Registry = (
            ConsulRegistry(settings.consul) if settings.consul else LocalRegistry(settings.data_dir / "discovery.json")
        )
        supervisor = self._supervisor = Supervisor(
            House(self._environment(registry), settings.data_dir, self._terminal, guard.watch, guard.forget), registry
        )
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self._on_signal)
        gateway_log = ServiceLog("gateway", settings.data_dir / "logs" / "gateway.log", self._terminal)
        gateway: LocalGateway | None = None
        listing: asyncio.Task[None] | None = None
        try:
            await supervisor.apply(self._wanted)
            await asyncio.sleep(0)  # the processes are being started: they boot while this one imports the gateway
            await asyncio.sleep(0.02)
            _route_logs(gateway_log)
            gateway = LocalGateway(
                settings.directory,
                settings.listen,
                settings.tls_listen,
                settings.admin,
                settings.otlp,
                settings.data_dir,
                alone=not settings.consul,
            )
            await gateway.start(registry.discovery())
            served = gateway
            listing = asyncio.create_task(
                plugins.follow(settings.directory, settings.data_dir, lambda: served.live_snapshot, self._terminal.say),
                name="services' plugins",
            )
            await self._wait_ready(gateway)
            await self._announce(gateway, time.monotonic() - began)
            self._terminal.held = False
            for line in gateway_log.warnings(self._said):
                self._terminal.line("gateway", line)  # the screen was the progress's: a plugin that does not load, say
            await self._serve(gateway)
        finally:
            if listing is not None:
                listing.cancel()
                await asyncio.wait((listing,))
            await self._shut_down(gateway)
            await registry.close()
            guard.close()
            logging.getLogger().handlers.clear()
            gateway_log.close()
        return 0

    def _environment(self, registry: Registry) -> dict[str, str]:
        host, port = ports.parse_address(self._settings.admin, "--admin")
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("NEXUS_", "OTEL_EXPORTER_"))}
        kept = {k: v for k, v in os.environ.items() if k in INHERITED}
        return {
            "OTEL_BSP_SCHEDULE_DELAY": "300",  # spans are looked at right after the request; the default is 5 s
            **inherited,
            **kept,
            **registry.environment,
            "PATH": os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath))),
            "PYTHONUNBUFFERED": "1",
            "OTEL_EXPORTER_OTLP_ENDPOINT": self._settings.otlp or f"http://{host}:{port}",
        }

    def _on_signal(self) -> None:
        now = time.monotonic()
        if not self._stop.is_set():
            self._signalled_at = now
            self._stop.set()
        elif now - self._signalled_at >= SECOND_SIGNAL_S:
            self._terminal.say("\nstopping at once")
            self._supervisor.kill()
            os._exit(130)  # nothing here needs an orderly end, and half of one would only complain

    async def _wait_ready(self, gateway: LocalGateway) -> None:
        """Return when every replica is ready or hopeless, when START_WAIT_S are over, or on a signal."""
        progress = screen.Progress()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(START_WAIT_S):
                while not self._supervisor.is_settled and not self._stop.is_set():
                    progress.update(self._supervisor)
                    self._supervisor.changed.clear()
                    await _first(self._supervisor.changed.wait(), self._stop.wait())
                await _first(gateway.live(), self._stop.wait())
        progress.update(self._supervisor)
        progress.close()

    async def _announce(self, gateway: LocalGateway, took_s: float) -> None:
        if self._stop.is_set():
            return
        supervisor, pid = self._supervisor, os.getpid()
        found = routes.rows(gateway.snapshot, gateway.listeners)
        if self._settings.as_json:
            output.show_json(
                {
                    **screen.report(supervisor, gateway.url, gateway.admin_url, pid),
                    "listeners": screen.listeners(gateway.listeners),
                    "routes": routes.values(found),
                    "startSeconds": round(took_s, 2),
                }
            )
            return
        sys.stdout.write(
            "\n" + screen.render_table(screen.rows(supervisor.groups, gateway.url, gateway.admin_url, pid))
        )
        sys.stdout.write("\n" + screen.render_listeners(gateway.listeners))
        if found:
            sys.stdout.write("\n" + screen.render_routes(found))
        for line in (*screen.unwell(supervisor), *screen.closed(gateway.listeners)):
            sys.stdout.write(f"\n{line}")
        sys.stdout.write(f"\nUp in {took_s:.1f} s. Next:\n\n")
        commands = screen.next_commands(
            supervisor.current().values(), self._settings.directory, gateway.url, gateway.admin_url, found
        )
        sys.stdout.write(screen.render_commands(commands))
        logs = self._settings.data_dir / "logs"
        sys.stdout.write(f"\nLogs are in {logs}. Edit the manifests and this follows. Ctrl-C stops everything.\n\n")
        sys.stdout.flush()

    async def _serve(self, gateway: LocalGateway) -> None:
        reloading = asyncio.create_task(self._follow_manifests(), name="manifests")
        try:
            await _first(self._stop.wait(), reloading)
            if reloading.done():
                reloading.result()
        finally:
            reloading.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await reloading

    async def _follow_manifests(self) -> None:
        """Apply each edit. A broken file keeps what ran; its problems are said once."""
        directory = self._settings.directory
        seen, said = manifests.stamp(directory), set[str]()
        while True:
            await asyncio.sleep(RELOAD_POLL_S)
            now = manifests.stamp(directory)
            if now == seen:
                continue
            seen = now
            try:
                loaded = manifests.load([directory])
            except UserError as error:
                self._terminal.say(f"nexus: {error.format_message()} What ran goes on.")
                continue
            lines = {describe(problem, loaded) for problem in loaded.problems}
            for line in sorted(lines - said):
                self._terminal.say(f"nexus: {line} What ran goes on.")
            if said and not lines:
                self._terminal.say("nexus: the manifests are in order again.")
            said = lines
            if any(problem.where.kind == "File" for problem in loaded.problems):
                continue  # a file that is no YAML now: whose services it held cannot be told, so none is stopped
            wanted = plans.build_plans(loaded.resources, self._supervisor.current())
            for key, action in (await self._supervisor.apply(wanted)).items():
                if action != "update":
                    self._terminal.say(f"nexus: {key}: {_DONE[action]}")

    async def _shut_down(self, gateway: LocalGateway | None) -> None:
        if self._stop.is_set():
            self._terminal.held = True  # their last words are in the files
            self._terminal.say("\nstopping: the gateway drains, then the services (Ctrl-C again stops at once)")
        began = time.monotonic()
        if gateway is not None:
            await gateway.stop(DRAIN_S, self._supervisor.stop)
        await self._supervisor.stop()
        if self._stop.is_set():
            self._terminal.say(f"stopped in {time.monotonic() - began:.1f} s")


_DONE = {
    "start": "added, it is being started",
    "stop": "removed, it was stopped",
    "restart": "changed, it is being replaced",
    "scale": "its number of replicas was changed",
}


async def _first(*waits: asyncio.Task[None] | object) -> None:
    """Return when one of them is done; coroutines are cancelled then, tasks stay."""
    tasks = [w if isinstance(w, asyncio.Task) else asyncio.ensure_future(w) for w in waits]  # type: ignore[call-overload]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task, wait in zip(tasks, waits, strict=True):
            if task is not wait:
                task.cancel()


def _route_logs(log: ServiceLog) -> None:
    root = logging.getLogger()
    root.handlers[:] = [TerminalHandler(log)]
    root.setLevel(logging.WARNING)
    logging.getLogger("nexus").setLevel(logging.INFO)
