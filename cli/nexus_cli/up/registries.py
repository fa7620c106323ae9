"""Where the healthy instances are written: memory for the gateway and a file for the services, or a real Consul."""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from nexus_core.discovery import Discovery, Endpoint

HOST = "127.0.0.1"
RETRY_S = 1.0


class Registry(Protocol):
    """Told of each service's healthy instances after every change."""

    environment: Mapping[str, str]
    """What services need in their environment to find each other."""

    def discovery(self) -> Discovery:
        """Return what the gateway looks instances up in."""
        ...

    async def set(self, service: str, endpoints: tuple[Endpoint, ...], meta: Mapping[str, str]) -> None:
        """Make these the healthy instances of a service."""
        ...

    async def remove(self, service: str) -> None:
        """Forget a service."""
        ...

    async def close(self) -> None: ...


class LocalRegistry:
    """Memory, and a JSON file that is replaced in one step so that no reader sees half of it."""

    def __init__(self, file: Path) -> None:
        from nexus_sdk.discovery import MemoryDiscovery

        self._memory = MemoryDiscovery()
        self._file = file
        self._services: dict[str, object] = {}
        self._again: asyncio.TimerHandle | None = None
        self.environment: Mapping[str, str] = {"NEXUS_DISCOVERY_FILE": str(file)}
        self._replace()

    def discovery(self) -> Discovery:
        return self._memory

    async def set(self, service: str, endpoints: tuple[Endpoint, ...], meta: Mapping[str, str]) -> None:
        listed = [{"address": e.address, "port": e.port, "id": e.id} for e in sorted(endpoints)]
        entry: object = {"endpoints": listed, "meta": dict(meta)}
        if self._services.get(service) != entry:
            self._services[service] = entry
            self._write()
            self._memory.set(service, endpoints, meta)

    async def remove(self, service: str) -> None:
        if self._services.pop(service, None) is not None:
            self._write()
            self._memory.remove(service)

    async def close(self) -> None:
        if self._again is not None:
            self._again.cancel()
        await self._memory.close()
        self._file.unlink(missing_ok=True)

    def _write(self) -> None:
        """Write the file, now or as soon as the disk has room: services keep what it said last, the gateway knows more."""
        if self._again is not None:
            self._again.cancel()
            self._again = None
        try:
            self._replace()
        except OSError as error:
            logging.getLogger("nexus.up").warning("%s cannot be written (%s); tried again", self._file, error.strerror)
            self._again = asyncio.get_running_loop().call_later(RETRY_S, self._write)

    def _replace(self) -> None:
        fresh = self._file.with_suffix(".new")
        fresh.write_text(json.dumps({"services": dict(sorted(self._services.items()))}, indent=1), encoding="utf-8")
        fresh.replace(self._file)


class ConsulRegistry:
    """Registers each healthy instance with a TTL check, so that Consul forgets what a killed `nexus up` left behind.

    The supervisor registers and not the services, because then any program is found, whatever it is written in.
    """

    def __init__(self, url: str) -> None:
        from nexus_sdk.discovery.consul import ConsulDiscovery
        from nexus_sdk.settings import parse

        inherited = {k: v for k, v in os.environ.items() if k == "NEXUS_CONSUL_TOKEN"}
        self._settings = parse({**inherited, "NEXUS_CONSUL_URL": url}, default_name="up").consul
        self._discovery = ConsulDiscovery(url, token=self._settings.token)
        self._registered: dict[str, dict[Endpoint, _Registration]] = {}
        self._one_at_a_time = asyncio.Lock()
        self.environment: Mapping[str, str] = {"NEXUS_CONSUL_URL": url, "NEXUS_CONSUL_REGISTER": "false"}

    def discovery(self) -> Discovery:
        return self._discovery

    async def set(self, service: str, endpoints: tuple[Endpoint, ...], meta: Mapping[str, str]) -> None:
        from nexus_sdk.consul.registration import Registration, Service

        async with self._one_at_a_time:
            held = self._registered.setdefault(service, {})
            for gone in [endpoint for endpoint in held if endpoint not in endpoints]:
                await held.pop(gone).stop()
            for endpoint in endpoints:
                if endpoint not in held:
                    instance = f"{service}-{endpoint.address}-{endpoint.port}"
                    what = Service(service, instance, endpoint.address, endpoint.port, (), dict(meta))
                    held[endpoint] = Registration(self._settings, what, _no_failures)
                    held[endpoint].start()

    async def remove(self, service: str) -> None:
        async with self._one_at_a_time:
            held = self._registered.pop(service, {})
            await asyncio.gather(*(registration.stop() for registration in held.values()))

    async def close(self) -> None:
        for service in list(self._registered):
            await self.remove(service)
        await self._discovery.close()


class _Registration(Protocol):
    def start(self) -> None: ...

    async def stop(self) -> None: ...


async def _no_failures() -> Mapping[str, str]:
    return {}
