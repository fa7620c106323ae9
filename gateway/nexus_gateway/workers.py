"""A gateway with several workers: wires supervisor, signals and admin API. `app.run` hands over to `run` for `workers` > 1.

SIGHUP rolls: every worker is replaced by a new process, one after the other, and no connection is lost. SIGTERM and SIGINT drain.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from aiohttp import web
from nexus_sdk import logs

from nexus_gateway.edge import files
from nexus_gateway.edge.collecting import Collector
from nexus_gateway.edge.workers.admin import MergedAdmin, Render
from nexus_gateway.edge.workers.supervisor import CannotStart, Plan, Supervisor
from nexus_gateway.settings import GatewaySettings, environment, split_address

log = logging.getLogger("nexus.gateway.workers")

SECOND_SIGNAL_S = 0.5
"""As in `app`: a second signal this soon is the same wish twice."""
COMMAND = (sys.executable, "-m", "nexus_gateway.worker")


def build_plan(settings: GatewaySettings, manifests: Path | None, environ: Mapping[str, str]) -> Plan:
    """Return what the supervisor runs for these settings."""

    def of_place(index: int) -> Mapping[str, str]:
        state_dir = settings.state_dir / f"worker-{index}" if settings.state_dir is not None else None
        # The tilde is in no name that can be set: whoever counts gateways by acks takes what is before it for the gateway.
        own = replace(settings, replica=f"{settings.replica}~{index}", workers=1, state_dir=state_dir)
        return environment(own, environ)

    return Plan(
        command=COMMAND,
        environ=of_place,
        workers=settings.workers,
        plain=split_address(settings.listen) if settings.ports == "local" else None,
        secure=split_address(settings.tls_listen) if settings.tls_listen and settings.ports == "local" else None,
        manifests=str(manifests.absolute()) if manifests is not None else "",
        drain_delay_s=settings.drain_delay_s,
        drain_s=settings.drain_s,
    )


def run(settings: GatewaySettings, manifests: Path | None, render: Render) -> None:
    """Serve until SIGTERM or SIGINT, then drain; a second signal ends at once. Raises OSError, `CannotStart`, `SettingInvalid`.

    render: see `MergedAdmin`. Logs go to stderr as JSON.
    """
    if settings.otlp_endpoint:
        Collector(
            settings.otlp_endpoint, os.environ
        )  # for what is wrong with its settings: said once, not by every worker
    logs.install(settings.log_level, {"service": "nexus-gateway", "replica": settings.replica, "worker": "supervisor"})
    files.settle()
    asyncio.run(serve(settings, build_plan(settings, manifests, os.environ), render))


async def serve(settings: GatewaySettings, plan: Plan, render: Render) -> None:
    """Run the supervisor and the merged admin API in this event loop until a signal says to stop."""
    loop = asyncio.get_running_loop()
    stopping, forced, rolling = asyncio.Event(), asyncio.Event(), asyncio.Event()
    asked_at = 0.0

    def asked() -> None:
        nonlocal asked_at
        if not stopping.is_set():
            asked_at = loop.time()
            stopping.set()
        elif loop.time() - asked_at >= SECOND_SIGNAL_S:
            forced.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, asked)
    loop.add_signal_handler(signal.SIGHUP, rolling.set)
    supervisor = Supervisor(plan)
    admin = MergedAdmin(supervisor, settings.replica, render, traces=settings.traces_memory > 0)
    runner = web.AppRunner(admin.application(), access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        # Before the workers: /healthz answers while they start, as a startup probe wants.
        await web.TCPSite(runner, *split_address(settings.admin), reuse_address=True).start()
        starting = asyncio.create_task(supervisor.start(), name="start")
        stop = asyncio.create_task(stopping.wait(), name="stop")
        await asyncio.wait((starting, stop), return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            starting.cancel()
            await asyncio.gather(starting, return_exceptions=True)
            return
        await starting
        where = f"listening on {plan.plain[0]}:{supervisor.port}, " if plan.plain is not None else ""
        log.info("%sadmin API on port %d", where, runner.addresses[0][1])
        roller = asyncio.create_task(_roll(supervisor, rolling), name="roll")
        await stop
        log.info("stopping: draining %d workers for at most %g s", len(supervisor.workers), plan.drain_s)
        roller.cancel()
        await asyncio.gather(roller, return_exceptions=True)
        drain = asyncio.create_task(supervisor.stop(), name="drain")
        force = asyncio.create_task(forced.wait(), name="force")
        await asyncio.wait((drain, force), return_when=asyncio.FIRST_COMPLETED)
        force.cancel()
        if not drain.done():
            log.warning("stopping at once: requests in flight are cut off")
            drain.cancel()
            await asyncio.gather(drain, return_exceptions=True)
            await supervisor.abort()
            return
        await drain
    finally:
        await runner.cleanup()


async def _roll(supervisor: Supervisor, asked: asyncio.Event) -> None:
    while True:
        await asked.wait()
        asked.clear()
        log.info("rolling: every worker is replaced")
        await supervisor.roll()


__all__ = ["COMMAND", "CannotStart", "build_plan", "run", "serve"]
