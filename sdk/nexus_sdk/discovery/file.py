"""Discovery from a JSON file that is read again when it changes; `nexus up` writes it atomically.

`{"services": {"orders.shop": {"endpoints": [{"address": "127.0.0.1", "port": 8000, "id": "orders-1"}], "meta": {}}}}`;
an endpoint may also have `weight` (1..65535), `zone`, `meta` (texts by name), `draining` (true or false) and `tags` (list).
A file that is absent, half-written or wrong never empties anything: the last good content holds and the log says what is
wrong with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncGenerator, Mapping
from pathlib import Path
from typing import Any

from nexus_core.discovery import Endpoint, ServiceEntry

from nexus_sdk import logs
from nexus_sdk.discovery.memory import MemoryDiscovery

Table = dict[str, tuple[ServiceEntry, Mapping[str, list[Endpoint]]]]

MAX_BYTES = 16 * 1024 * 1024


class DiscoveryFileError(ConnectionError):
    """The file cannot be read or understood. Environment's; a ConnectionError, as the port asks for."""


def parse(data: bytes, origin: str) -> Table:
    """Return the services in `data`. Raises DiscoveryFileError: what, where in it, how to fix. Pure."""
    try:
        document = json.loads(data)
    except ValueError as error:
        raise DiscoveryFileError(f'{origin}: not JSON ({error}). Write {{"services": {{…}}}}.') from error
    services = document.get("services") if isinstance(document, dict) else None
    if not isinstance(services, dict):
        raise DiscoveryFileError(f'{origin}: .services is missing or no object. Write {{"services": {{…}}}}.')
    return {name: _service(name, value, f"{origin}: .services[{name!r}]") for name, value in services.items()}


def _service(name: str, value: Any, where: str) -> tuple[ServiceEntry, Mapping[str, list[Endpoint]]]:
    if not isinstance(value, dict):
        raise DiscoveryFileError(f'{where} is no object. Write {{"endpoints": []}}.')
    meta, raw, tags = value.get("meta", {}), value.get("endpoints", []), dict[str, list[Endpoint]]()
    if not isinstance(meta, dict) or not all(isinstance(v, str) for v in meta.values()):
        raise DiscoveryFileError(f"{where}.meta has to map texts to texts.")
    if not isinstance(raw, list):
        raise DiscoveryFileError(f"{where}.endpoints is no list.")
    endpoints = []
    for number, item in enumerate(raw):
        endpoint = _endpoint(item, f"{where}.endpoints[{number}]")
        endpoints.append(endpoint)
        own = item.get("tags", [])
        if not isinstance(own, list) or not all(isinstance(tag, str) for tag in own):
            raise DiscoveryFileError(f"{where}.endpoints[{number}].tags is no list of texts.")
        for tag in own:
            tags.setdefault(tag, []).append(endpoint)
    memory = MemoryDiscovery({name: endpoints})
    return ServiceEntry(name, memory._find(name, ""), meta), tags


def _endpoint(item: Any, where: str) -> Endpoint:
    if not isinstance(item, dict) or not isinstance(item.get("address"), str) or not item["address"]:
        raise DiscoveryFileError(f"{where}.address is missing. Write an IP address or a host name.")
    port, weight = item.get("port"), item.get("weight", 1)
    for field, number in (("port", port), ("weight", weight)):
        if not isinstance(number, int) or isinstance(number, bool) or not 1 <= number <= 65535:
            raise DiscoveryFileError(f"{where}.{field}: {number!r} is no whole number from 1 to 65535.")
    meta, draining = item.get("meta", {}), item.get("draining", False)
    if not isinstance(meta, dict) or not all(isinstance(v, str) for v in meta.values()):
        raise DiscoveryFileError(f"{where}.meta has to map texts to texts.")
    if not isinstance(draining, bool):
        raise DiscoveryFileError(f"{where}.draining: {draining!r} is neither true nor false.")
    named = str(item.get("id", "")), weight, str(item.get("zone", ""))
    return Endpoint(item["address"], port, *named, tuple(sorted(meta.items())), draining)  # type: ignore[arg-type]


class FileDiscovery:
    """The `Discovery` port over the file. One task polls it while anybody watches.

    poll_s: 0.2 because a stat call costs microseconds and a restart should be seen before the first retry.
    """

    def __init__(self, path: str | Path, *, poll_s: float = 0.2) -> None:
        self._path, self._poll_s = Path(path), poll_s
        self._memory = MemoryDiscovery()
        self._log = logs.make("discovery")
        self._stamp: tuple[int, int, int] | None = None
        self._complaint = ""
        self._loaded = asyncio.Event()
        self._poller: asyncio.Task[None] | None = None
        self._closed = False

    def _read(self) -> None:
        """Read the file if it is another than last time. Raises DiscoveryFileError; the table stays as it was."""
        try:
            stat = self._path.stat()
            stamp = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
            if stamp == self._stamp:
                return
            if stat.st_size > MAX_BYTES:
                raise DiscoveryFileError(f"{self._path}: {stat.st_size} bytes, more than {MAX_BYTES}.")
            table = parse(self._path.read_bytes(), os.fspath(self._path))
        except OSError as error:
            if isinstance(error, DiscoveryFileError):
                raise
            raise DiscoveryFileError(
                f"{self._path}: {error.strerror or error}. NEXUS_DISCOVERY_FILE names it."
            ) from error
        self._stamp = stamp
        self._memory.replace(table)
        self._loaded.set()

    async def _poll(self) -> None:
        while True:
            try:
                self._read()
                self._complaint = ""
            except DiscoveryFileError as error:
                if str(error) != self._complaint:  # once for each different complaint, not five times a second
                    self._complaint = str(error)
                    self._log.warning("discovery file not usable; the last good content holds", detail=str(error))
            await asyncio.sleep(self._poll_s)

    async def watch(self, service: str, *, tag: str = "") -> AsyncGenerator[tuple[Endpoint, ...], None]:
        if self._closed:
            return
        if self._poller is None or self._poller.done():
            self._poller = asyncio.create_task(self._poll(), name="nexus-discovery-file")
        await self._loaded.wait()
        async with contextlib.aclosing(self._memory.watch(service, tag=tag)) as changes:
            async for endpoints in changes:
                yield endpoints

    async def resolve(self, service: str, *, tag: str = "") -> tuple[Endpoint, ...]:
        self._read()
        return await self._memory.resolve(service, tag=tag)

    async def services(self) -> Mapping[str, ServiceEntry]:
        self._read()
        return await self._memory.services()

    async def close(self) -> None:
        self._closed = True
        self._loaded.set()
        if self._poller is not None:
            self._poller.cancel()
            await asyncio.wait([self._poller])
            self._poller = None
        await self._memory.close()
