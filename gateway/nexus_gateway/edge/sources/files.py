"""Snapshots from a file or a directory of manifests, read again when they change.

The directory's own `*.yaml` and `*.yml` are read, as `kubectl apply -f DIR` does; deeper ones are not. A file that is not
YAML at the moment counts as it last was; an object that is broken keeps its last good version; both are in `problems`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path

from nexus_core.model import load
from nexus_core.model.resources import Resource
from nexus_core.problems import ObjectRef, Problem, sort_problems
from nexus_core.snapshot import Ack, Published, Snapshot, wire
from nexus_core.translate import Translation, translate

from nexus_gateway.edge.sources.indexes import Indexes

log = logging.getLogger("nexus.gateway.files")

POLL_S = 0.25
MAX_FILE_BYTES = 4 * 2**20

Fingerprint = tuple[tuple[str, int, int, int], ...]
"""(path, inode, mtime_ns, size) of each file, sorted."""


class FileSource:
    """The `SnapshotSource` over manifests on disk.

    translation: what came of them last; None before the first read.
    """

    def __init__(self, path: Path, *, cache: Path, poll_s: float = POLL_S, class_name: str = "nexus") -> None:
        """path: a file or directory. cache: directory for fetched marketplace indexes."""
        self._path = path
        self._poll_s = poll_s
        self._class_name = class_name
        self._indexes = Indexes(cache)
        self._read: dict[str, tuple[tuple[int, int, int], tuple[Resource, ...]]] = {}
        self._problems: tuple[Problem, ...] = ()
        self._snapshot: Snapshot | None = None
        self._generation = 0
        self._closed = asyncio.Event()
        self.translation: Translation | None = None
        self.ack_latest: Ack | None = None

    @property
    def problems(self) -> tuple[Problem, ...]:
        """What is wrong with the manifests as they are now."""
        return self._problems

    async def watch(self) -> AsyncIterator[Published]:
        """Yield the manifests' Snapshot, then one for each change that makes a difference."""
        told: Snapshot | None = None
        applied: Fingerprint | None = None
        seen: Fingerprint | None = None
        loop = asyncio.get_running_loop()
        while not self._closed.is_set():
            try:
                found = await asyncio.to_thread(self._fingerprint)
            except OSError as error:
                self._say((self._trouble(f"cannot be read: {error.strerror or error}."),))
                found = None
            # Applied once two looks agree: an editor that replaces a file leaves a moment in which it is gone or half there.
            settled = found is not None and (applied is None or found == seen)
            seen = found
            if found is not None and settled and (found != applied or self._indexes.due(loop.time())):
                applied = found
                snapshot = await self._build(found)
                if snapshot != self._snapshot:
                    self._snapshot = snapshot
                    self._generation += 1
                if snapshot != told:
                    told = snapshot
                    digest = (await asyncio.to_thread(wire.encode, snapshot)).digest
                    yield Published(self._generation, digest, snapshot)
            await self._pause()

    async def _pause(self) -> None:
        try:
            async with asyncio.timeout(self._poll_s):
                await self._closed.wait()
        except TimeoutError:
            return

    def _fingerprint(self) -> Fingerprint:
        if self._path.is_dir():
            paths = sorted(
                each
                for each in self._path.iterdir()
                if each.suffix in (".yaml", ".yml") and not each.name.startswith(".")
            )
        else:
            paths = [self._path]
        rows = []
        for path in paths:
            status = path.stat()
            rows.append((str(path), status.st_ino, status.st_mtime_ns, status.st_size))
        return tuple(rows)

    async def _build(self, found: Fingerprint) -> Snapshot:
        resources, troubles = await asyncio.to_thread(self._parse, found)
        marketplaces = [each for each in resources if each.ref.kind == "NexusMarketplace"]
        indexes, unavailable = await self._indexes.read(marketplaces)
        translation = await asyncio.to_thread(
            translate, resources, previous=self._snapshot, indexes=indexes, class_name=self._class_name
        )
        self.translation = translation
        self._say(sort_problems((*troubles, *unavailable, *translation.problems)))
        return translation.snapshot

    def _parse(self, found: Fingerprint) -> tuple[tuple[Resource, ...], tuple[Problem, ...]]:
        """Return the resources of all files, unchanged ones as they were read before."""
        resources: list[Resource] = []
        troubles: list[Problem] = []
        read: dict[str, tuple[tuple[int, int, int], tuple[Resource, ...]]] = {}
        for name, *stamp_parts in found:
            stamp = (stamp_parts[0], stamp_parts[1], stamp_parts[2])
            former = self._read.get(name)
            if former is not None and former[0] == stamp:
                read[name] = former
                resources.extend(former[1])
                continue
            parsed, wrong = self._parse_file(name, stamp[2])
            if wrong and former is not None:
                # As it last was; the stamp of then makes the next look read the file again.
                parsed = former[1]
            read[name] = (stamp if not wrong else (0, 0, 0), parsed)
            resources.extend(parsed)
            troubles.extend(wrong)
        self._read = read
        return tuple(resources), tuple(troubles)

    def _parse_file(self, name: str, size: int) -> tuple[tuple[Resource, ...], tuple[Problem, ...]]:
        where = ObjectRef("File", "", name)
        if size > MAX_FILE_BYTES:
            fix = f"Split it: files of up to {MAX_FILE_BYTES // 2**20} MiB are read."
            return (), (Problem(where, ".", "InvalidManifest", f"The file has {size} bytes.", fix),)
        try:
            text = Path(name).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            return (), (
                Problem(
                    where, ".", "InvalidManifest", f"The file cannot be read: {error}.", "Make it readable UTF-8 text."
                ),
            )
        return load.parse_text(text, name)

    def _trouble(self, what: str) -> Problem:
        where = ObjectRef("File", "", str(self._path))
        return Problem(
            where, ".", "InvalidManifest", f"{self._path} {what}", "Give a readable file or directory of manifests."
        )

    def _say(self, problems: tuple[Problem, ...]) -> None:
        for problem in problems:
            if problem not in self._problems:
                log.warning("%s", problem)
        self._problems = problems

    async def ack(self, ack: Ack) -> None:
        """Keep it in `ack_latest`: nobody else needs it."""
        self.ack_latest = ack

    async def close(self) -> None:
        """End the watch."""
        self._closed.set()
