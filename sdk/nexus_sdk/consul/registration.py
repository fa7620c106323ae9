"""Keeps one service instance in Consul's catalog: registered, its TTL check passed, taken out on stop.

Nothing here takes the service down: while Consul is away the loop tries again, and a Consul that forgot the instance
(it lost its data, or somebody removed it) gets it registered again with the next beat.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from nexus_sdk import logs
from nexus_sdk.background import backoff_s
from nexus_sdk.consul.connection import Connection, ConsulAway, ConsulRefused
from nexus_sdk.settings import ConsulSettings

DEREGISTER_S = 2.0
"""Bound of the deregistration at stop: what Consul does not take in time, the TTL and `forget_after_s` clear up."""


@dataclass(frozen=True, slots=True)
class Service:
    """What is registered. id: unique at the agent; the same after a restart on the same address and port."""

    name: str
    id: str
    address: str
    port: int
    tags: tuple[str, ...] = ()
    meta: Mapping[str, str] = field(default_factory=dict)


class Registration:
    """find_failures: the readiness checks; while one fails the TTL check is critical and nobody sends requests here."""

    def __init__(
        self,
        settings: ConsulSettings,
        service: Service,
        find_failures: Callable[[], Awaitable[Mapping[str, str]]],
        rng: random.Random | None = None,
    ) -> None:
        assert settings.url is not None
        self._settings, self._service, self._find_failures = settings, service, find_failures
        self._connection = Connection(settings.url, settings.token)
        self._rng = rng or random.Random()
        self._log = logs.make("registration")
        self._check_id = f"service:{service.id}"
        self._task: asyncio.Task[None] | None = None
        self.registered = asyncio.Event()
        """Set while Consul is believed to know the instance."""

    def start(self) -> None:
        self._task = asyncio.create_task(self._keep(), name="nexus-consul-registration")

    async def _keep(self) -> None:
        beat_s, failures = self._settings.ttl_s / 3, 0
        while True:
            try:
                await self._beat()
                if failures:
                    self._log.info("Consul is back", url=self._connection.url, tries=failures)
                failures, wait_s = 0, beat_s
            except (ConsulAway, ConsulRefused) as error:
                if not failures:
                    self._log.warning("registration waits for Consul", detail=str(error), service=self._service.name)
                if isinstance(error, ConsulRefused):
                    self.registered.clear()
                failures += 1
                wait_s = backoff_s(failures, self._rng, cap_s=beat_s)
            except Exception:
                # A bug must not end the beats: the instance would fall out of the catalog while it serves.
                self._log.exception("registration failed", service=self._service.name)
                failures += 1
                wait_s = backoff_s(failures, self._rng, cap_s=beat_s)
            await asyncio.sleep(wait_s)

    async def _beat(self) -> None:
        failing = await self._find_failures()
        note = "; ".join(f"{name}: {why}" for name, why in sorted(failing.items()))[:1000]
        if self.registered.is_set():
            check = self._connection.client.agent.check
            mark = check.ttl_fail if failing else check.ttl_pass
            if await self._connection.call(mark(self._check_id, notes=note), what="pass the TTL check"):
                return
            self._log.warning("Consul has forgotten this instance; registering again", service=self._service.name)
            self.registered.clear()
        await self._register("critical" if failing else "passing")

    async def _register(self, status: str) -> None:
        service, settings = self._service, self._settings
        # Passing at once: without it each start would wait a beat for its first request.
        check = {
            "CheckID": self._check_id, "Name": f"{service.name} is ready", "TTL": f"{settings.ttl_s:g}s",
            "Status": status, "DeregisterCriticalServiceAfter": f"{settings.forget_after_s:g}s",
        }  # fmt: skip
        await self._connection.call(
            self._connection.client.agent.service.register(
                service.name, service_id=service.id, address=service.address, port=service.port,
                tags=list(service.tags), meta=dict(service.meta), check=check, replace_existing_checks=True,
            ),
            what=f"register {service.id}",
        )  # fmt: skip
        self.registered.set()
        self._log.info("registered", service=service.name, id=service.id, address=service.address, port=service.port)

    async def stop(self) -> None:
        """End the beats and deregister, bounded; never raises for a Consul that is away."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            try:
                await self._connection.call(
                    self._connection.client.agent.service.deregister(self._service.id),
                    DEREGISTER_S,
                    f"deregister {self._service.id}",
                )
            except (ConsulAway, ConsulRefused) as error:
                self._log.warning("not deregistered; Consul forgets the instance by its TTL", detail=str(error))
        await self._connection.close()
