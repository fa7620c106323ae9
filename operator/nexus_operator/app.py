"""Wires the operator: one process, one event loop, one task group."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import signal
import socket
import sys
import time
from collections.abc import Callable
from typing import Any

import kopf
from kopf._core.engines.peering import Identity  # kopf asks for this type and exports no name for it

from nexus_operator import handlers, logs
from nexus_operator.edge.consul import ConsulApi
from nexus_operator.edge.health import HealthServer
from nexus_operator.edge.kube import KubeApi, KubeError
from nexus_operator.edge.lease import Election
from nexus_operator.edge.lister import Lister
from nexus_operator.metrics import Metrics
from nexus_operator.reconcile import Reconciler
from nexus_operator.settings import Settings
from nexus_operator.world.inventory import Inventory
from nexus_operator.world.kinds import WATCHED

log = logging.getLogger(__name__)
FIRST_PAUSE_S, LAST_PAUSE_S = 0.25, 30.0
"""Between two beginnings; it doubles while they do not last."""
STOP_S = 10.0
"""How long kopf may take to stop."""


class Operator:
    """One operator replica. `run()` ends when `stop()` is called, or raises when a part that must not end does."""

    def __init__(self, settings: Settings, kube: KubeApi, *, take_signals: Callable[[], None] = lambda: None) -> None:
        """kube: closed by `run()`. take_signals: installs the process's signal handlers; called again once kopf has put
        in its own, which would let kopf finish before the Lease is released."""
        self._settings = settings
        self._kube = kube
        self._take_signals = take_signals
        self._stop = asyncio.Event()
        self._synced = False
        self._again = asyncio.Event()
        self.identity = f"{settings.identity or socket.gethostname()}-{secrets.token_hex(3)}"
        self.metrics = Metrics()
        self.inventory = Inventory(kind.kind for kind in WATCHED)
        self.health = HealthServer(
            settings.listen, alive=lambda: "", ready=self._unready, metrics=lambda: self.metrics.render()
        )

    def stop(self) -> None:
        """Ask `run()` to end."""
        self._stop.set()

    async def run(self) -> None:
        """Run until stopped. Raises OSError when the health port is taken."""
        consul = ConsulApi(self._settings.consul_url, self._settings.consul_token)
        reconciler = Reconciler(self._settings, self._kube, consul, self.inventory, self.metrics)
        lister = Lister(
            self._kube, self.inventory, every_s=self._settings.relist_s, changed=reconciler.wake_for,
            kinds_changed=self._again.set,
        )  # fmt: skip
        self._kube.on_back = lister.list_soon
        pause_s = FIRST_PAUSE_S
        try:
            await self.health.start()
            while not self._stop.is_set():
                self._again.clear()
                started = time.monotonic()
                await self._run_parts(reconciler, lister)
                await reconciler.close()
                pause_s = FIRST_PAUSE_S if time.monotonic() - started > LAST_PAUSE_S else min(LAST_PAUSE_S, 2 * pause_s)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause_s):
                        await self._stop.wait()
        finally:
            await reconciler.close()
            await self.health.stop()
            await consul.close()
            await self._kube.close()

    async def _run_parts(self, reconciler: Reconciler, lister: Lister) -> None:
        """Run lister, kopf and election until stopped, or until they have to begin anew: when kinds have come or gone, or kopf ends.

        A kind that goes may end all of kopf's watches, and one that comes back it may not see: it looks at the API server's discovery
        once for each change of a definition, and that may be late.

        They end in the opposite order: first the leader's work and its Lease. kopf goes after that, since when it ends it
        cancels every task that was begun after it.
        """
        stopping: asyncio.Future[Any] = asyncio.ensure_future(self._stop.wait())
        again: asyncio.Future[Any] = asyncio.ensure_future(self._again.wait())
        watching: asyncio.Future[Any] | None = None
        parts: list[asyncio.Future[Any]] = []
        try:
            parts.append(asyncio.ensure_future(lister.run()))
            complete: asyncio.Future[Any] = asyncio.ensure_future(lister.complete.wait())
            await asyncio.wait({stopping, complete, *parts}, return_when=asyncio.FIRST_COMPLETED)
            complete.cancel()
            if not any(task.done() for task in (stopping, *parts)):
                self._synced = True
                known = ", ".join(f"{self.inventory.count(k.kind)} {k.plural}" for k in WATCHED)
                log.info("every kind is listed: %s", known)
                watching = asyncio.ensure_future(self._watch(reconciler, lister))
                parts += [watching, asyncio.ensure_future(self._compete(reconciler))]
                await asyncio.wait({stopping, again, *parts}, return_when=asyncio.FIRST_COMPLETED)
            for task in parts:
                if not task.done() or task.cancelled():
                    continue  # kopf may have cancelled it on its way out
                if task is watching and (fault := task.exception()) is not None:
                    log.warning("the watches ended (%s: %s); beginning anew", type(fault).__name__, fault)
                else:
                    task.result()
            if again.done():
                log.info("kinds were installed or removed; beginning anew")
        finally:
            for task in [*reversed(parts), stopping, again]:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    async def _compete(self, reconciler: Reconciler) -> None:
        async def lead() -> None:
            self.metrics.leader = 1
            try:
                await reconciler.lead()
            finally:
                self.metrics.leader = 0

        if not self._settings.leader_election:
            await lead()
            return
        election = Election(
            self._kube, namespace=self._settings.namespace, name=self._settings.lease_name,
            identity=self.identity, lease_s=self._settings.lease_s,
        )  # fmt: skip
        await election.run(lead)

    async def _watch(self, reconciler: Reconciler, lister: Lister) -> None:
        registry = handlers.build_registry(
            self.inventory, login=self._kube.login, changed=reconciler.wake_for, relisted=lambda _: lister.list_soon()
        )
        stop_kopf, kopf_is_up = asyncio.Event(), asyncio.Event()
        running = asyncio.ensure_future(
            kopf.operator(
                registry=registry, settings=handlers.build_settings(), clusterwide=True, standalone=True,
                ready_flag=kopf_is_up, stop_flag=stop_kopf,
                # kopf's own would ask the password database for a user, and the image's has none.
                identity=Identity(self.identity),
            )
        )  # fmt: skip
        up = asyncio.ensure_future(kopf_is_up.wait())
        try:
            await asyncio.wait({running, up}, return_when=asyncio.FIRST_COMPLETED)
            self._take_signals()
            await asyncio.shield(running)
            # It ends by itself only for a signal that came before ours were back.
            self.stop()
        finally:
            up.cancel()
            stop_kopf.set()
            done, _ = await asyncio.wait({running}, timeout=STOP_S)
            if not done:
                running.cancel()
                await asyncio.gather(running, return_exceptions=True)

    def _unready(self) -> str:
        return "" if self._synced else f"not listed yet: {', '.join(self.inventory.unlisted)}"


async def serve(settings: Settings) -> None:
    """Run one replica until SIGTERM or SIGINT. Raises KubeError without access to a cluster."""
    loop = asyncio.get_running_loop()

    def take_signals() -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, operator.stop)

    operator = Operator(settings, await KubeApi.connect(), take_signals=take_signals)
    take_signals()
    log.info("operator %s starts, Consul at %s", operator.identity, settings.consul_url)
    await operator.run()
    log.info("operator %s has stopped", operator.identity)


def run(settings: Settings) -> None:
    """Run the operator in this process until it is told to stop; ends the process with status 1 when it cannot run."""
    logs.configure(settings.log_level)
    with contextlib.suppress(KeyboardInterrupt):
        try:
            asyncio.run(serve(settings))
        except (KubeError, OSError) as err:
            log.error("%s", err)
            sys.exit(1)
