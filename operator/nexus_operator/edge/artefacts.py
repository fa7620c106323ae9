"""Keeps the files of all plugins in Consul, so that a gateway with an empty disk starts with them while their marketplace is away."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from nexus_core.problems import ObjectRef, Problem
from nexus_core.snapshot import PluginInstance, Snapshot
from nexus_core.snapshot.wire import artefact_key, artefact_prefix
from nexus_core.translate.market_access import Way
from nexus_marketplace.fetching import fetch_release
from nexus_marketplace.rejections import PluginRejected
from nexus_marketplace.sources.ports import FileMissing, FileTooLarge, SourcePort
from nexus_marketplace.troubles import MarketplaceTrouble
from nexus_marketplace.wheels import fetch_wheel, pick

from nexus_operator.edge.consul import ConsulApi, ConsulAway
from nexus_operator.edge.indexes import Indexes
from nexus_operator.publication.artefacts import (
    MAX_BYTES,
    Artefact,
    WheelFile,
    artefacts_of,
    parts_of,
    wheels_of,
)

log = logging.getLogger(__name__)
HOLD_S = 5.0
"""How long a Snapshot waits for files that are new in it. All of them are as a rule a second away; one that is not holds up no route."""
RETRY_S = 30.0
KEPT_S = 3600.0
"""How long a file stays after the last Snapshot that named it, for gateways that run that one."""
AT_ONCE = 4


@dataclass(slots=True)
class _Effort:
    """Bringing one file. failed_at: monotonic, of the last try that failed."""

    task: asyncio.Task[None] | None = None
    failed_at: float | None = None
    problem: str = ""


class ArtefactMirror:
    """The writing side of one installation; its leader's. Owns tasks: call `close()`."""

    def __init__(self, consul: ConsulApi, prefix: str, indexes: Indexes, cache: Path) -> None:
        """cache: directory for what was fetched, by digest."""
        self._consul = consul
        self._prefix = prefix
        self._indexes = indexes
        self._cache = cache
        self._efforts: dict[str, _Effort] = {}
        self._named_at: dict[str, float] = {}
        self._gate = asyncio.Semaphore(AT_ONCE)
        self.problems: tuple[Problem, ...] = ()

    async def ensure(self, snapshot: Snapshot) -> None:
        """Have the files of a Snapshot in Consul, before it is published; what cannot be had within a moment comes later.

        `problems` says afterwards of which plugins files are missing that gateways cannot fetch by themselves. Raises ConsulAway.
        """
        wanted = await asyncio.to_thread(_wanted, snapshot)
        stored = await self._stored()
        now = time.monotonic()
        self._named_at.update(dict.fromkeys(wanted, now))
        for sha256 in [s for s in self._efforts if s not in wanted]:
            gone = self._efforts.pop(sha256)
            if gone.task is not None:
                gone.task.cancel()
        begun: list[asyncio.Task[None]] = []
        for sha256, item in wanted.items():
            if sha256 in stored:
                self._efforts.pop(sha256, None)
                continue
            effort = self._efforts.setdefault(sha256, _Effort())
            running = effort.task is not None and not effort.task.done()
            waits = effort.failed_at is not None and now - effort.failed_at < RETRY_S
            if not running and not waits:
                first = effort.task is None
                effort.task = asyncio.create_task(self._bring(sha256, item, effort), name=f"mirror {sha256[:12]}")
                if first:
                    begun.append(effort.task)
        if begun:
            await asyncio.wait(begun, timeout=HOLD_S)
        self.problems = tuple(self._problems(wanted))
        await self._forget(now)

    async def obtain(self, instance: PluginInstance) -> None:
        """Have the files of a plugin in the cache. Raises `PluginRejected`."""
        for sha256, item in (await asyncio.to_thread(_wanted, Snapshot(plugins=(instance,)))).items():
            await self._fetched(sha256, item)

    async def close(self) -> None:
        """End what is under way."""
        tasks = [effort.task for effort in self._efforts.values() if effort.task is not None]
        self._efforts.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _stored(self) -> frozenset[str]:
        """The digests of files that are there in full: their first part is written last."""
        head = artefact_prefix(self._prefix)
        keys = await self._consul.keys(head)
        found = {key.removeprefix(head).partition("/") for key in keys}
        for sha256, _, _ in found:
            self._named_at.setdefault(sha256, time.monotonic())
        return frozenset(sha256 for sha256, _, part in found if part == "0")

    async def _bring(self, sha256: str, item: Artefact | WheelFile, effort: _Effort) -> None:
        try:
            async with self._gate:
                data = await self._fetched(sha256, item)
                if len(data) > MAX_BYTES:
                    size = f"{len(data) / 2**20:.1f} MiB"
                    raise PluginRejected(
                        "PluginArtefactInvalid", f"{item.name} has {size}; at most {MAX_BYTES // 2**20} are kept."
                    )
                parts = parts_of(data)
                for number in reversed(range(len(parts))):
                    await self._consul.put(artefact_key(sha256, number, self._prefix), parts[number])
        except PluginRejected as err:
            effort.problem = err.message
        except ConsulAway as err:
            effort.problem = str(err)
        except Exception as err:
            log.exception("%s could not be kept in Consul", item.name)
            effort.problem = f"{type(err).__name__}: {err}"
        else:
            self._efforts.pop(sha256, None)
            log.info("%s is kept in Consul, %d bytes", item.name, len(data))
            return
        effort.failed_at = time.monotonic()
        log.warning("%s is not kept in Consul: %s", item.name, effort.problem)

    async def _fetched(self, sha256: str, item: Artefact | WheelFile) -> bytes:
        """Raises PluginRejected."""

        async def elsewhere(digest: str) -> bytes | None:
            kind = "artefacts/{}.zip" if isinstance(item, Artefact) else "wheels/{}.whl"
            return await asyncio.to_thread(self._read, item.base_url, kind.format(digest))

        way = self._indexes.ways.get(item.base_url) or Way(item.base_url)
        if isinstance(item, Artefact):
            return await fetch_release(item.release, way.url, self._cache, artefact=elsewhere, access=way.access)
        _, data = await fetch_wheel(item.need, self._cache, base_url=way.url, artefact=elsewhere, access=way.access)
        return data

    def _read(self, base_url: str, path: str) -> bytes | None:
        """A file of a marketplace that is in a ConfigMap, which only the operator reads; None for any other place."""
        source: SourcePort | None = self._indexes.open_at(base_url) if base_url.startswith("configmap:") else None
        if source is None:
            return None
        try:
            source.begin()
            return source.read(path, MAX_BYTES)
        except (FileMissing, FileTooLarge, MarketplaceTrouble) as err:
            raise OSError(str(err)) from err

    def _problems(self, wanted: dict[str, Artefact | WheelFile]) -> Iterable[Problem]:
        private = self._indexes.ways
        for sha256, effort in sorted(self._efforts.items()):
            item = wanted.get(sha256)
            if item is None or not effort.problem or (item.is_remote and item.base_url not in private):
                continue
            for source in item.sources:
                what = f"{item.name} could not be handed to the gateways, which cannot fetch it themselves: {effort.problem}"
                fix = f"It is tried again every {RETRY_S:.0f} s."
                yield Problem(ObjectRef.parse(source), ".spec.marketplace", "PluginFetchFailed", what, fix)

    async def _forget(self, now: float) -> None:
        """Remove what no Snapshot has named for long."""
        for sha256 in [s for s, at in self._named_at.items() if now - at > KEPT_S]:
            head = f"{artefact_prefix(self._prefix)}{sha256}/"
            # The first part first: without it the rest is nothing to anybody.
            for key in sorted(await self._consul.keys(head)):
                await self._consul.delete(key)
            log.info("%s is kept in Consul no more", sha256)
            del self._named_at[sha256]


def _wanted(snapshot: Snapshot) -> dict[str, Artefact | WheelFile]:
    """By digest. A distribution without a file for this interpreter is left out: the gateways say so."""
    found: dict[str, Artefact | WheelFile] = {each.release.sha256: each for each in artefacts_of(snapshot)}
    for each in wheels_of(snapshot):
        try:
            found[pick(each.need).sha256] = each
        except PluginRejected:
            continue
    return found
