"""Snapshots from a file or a directory of manifests, read again when they change.

The directory's own `*.yaml` and `*.yml` are read, as `kubectl apply -f DIR` does; deeper ones are not. A file that is not
YAML at the moment counts as it last was; an object that is broken keeps its last good version; both are in `problems`.

What the gateway says of its plugins moves their locks (`locks`), as it does in the operator on Kubernetes: a candidate that has passed
takes over with the next reading, one that was refused is gone with it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

from nexus_core.marketplace.locks import Lock
from nexus_core.problems import ObjectRef, Problem
from nexus_core.snapshot import Ack, Published, Snapshot

from nexus_gateway.edge.sources.locks import LocksFile, Stamp
from nexus_gateway.edge.sources.making import Fingerprint, Made, Maker, MakerGone

log = logging.getLogger("nexus.gateway.files")

POLL_S = 0.25
AGAIN_S = 2.0
"""Pause after nobody could read the manifests."""
SLOW_S = 1.0
"""From when on reading takes long enough to be told: who reads may have to be started, and is a nicer process than what serves."""

_GONE_FIX = (
    "It is tried again by itself; if it does not go away, see whether the gateway has enough memory and processes."
)


class FileSource:
    """The `SnapshotSource` over manifests on disk. It sees when they change; its maker reads them."""

    def __init__(
        self,
        path: Path,
        maker: Maker,
        *,
        locks: LocksFile | None = None,
        poll_s: float = POLL_S,
        slow_s: float = SLOW_S,
    ) -> None:
        """path: a file or directory. maker: closed with the source. locks: None remembers plugins' releases while it lives.
        slow_s: a reading that takes longer is told.
        """
        self._path = path
        self._maker = maker
        self._poll_s = poll_s
        self._slow_s = slow_s
        self._problems: tuple[Problem, ...] = ()
        self._digest = ""
        self._generation = 0
        self._closed = asyncio.Event()
        self._locks_file = locks or LocksFile()
        self._locks: Mapping[str, Lock] = {}
        self._locks_stamp: Stamp | None = None
        self._settled: Ack | None = None
        self._snapshot: Snapshot | None = None
        self.ack_latest: Ack | None = None

    @property
    def problems(self) -> tuple[Problem, ...]:
        """What is wrong with the manifests as they are now."""
        return self._problems

    async def watch(self) -> AsyncIterator[Published]:
        """Yield the manifests' Snapshot, then one for each change that makes a difference."""
        told = ""
        applied: Fingerprint | None = None
        seen: Fingerprint | None = None
        due_at = float("inf")
        loop = asyncio.get_running_loop()
        self._locks = await asyncio.to_thread(self._locks_file.read)
        applied_locks = self._locks
        while not self._closed.is_set():
            try:
                found = await asyncio.to_thread(self._fingerprint)
            except OSError as error:
                self._say((self._trouble(f"cannot be read: {error.strerror or error}."),))
                found = None
            # Applied once two looks agree: an editor that replaces a file leaves a moment in which it is gone or half there.
            settled = found is not None and (applied is None or found == seen)
            seen = found
            await self._settle()
            wanted = found != applied or loop.time() >= due_at or self._locks != applied_locks
            if found is not None and settled and wanted:
                locks = self._locks
                try:
                    made = await self._make(found, locks, "changed " if applied not in (None, found) else "")
                except MakerGone as error:
                    if self._closed.is_set():
                        return
                    self._say((self._trouble(f"could not be read: {error}.", _GONE_FIX),))
                    await self._pause(AGAIN_S)
                    continue
                applied = found
                self._snapshot = made.snapshot
                await self._remember(locks, made)
                applied_locks = locks
                due_at = loop.time() + made.due_in_s if made.due_in_s is not None else float("inf")
                self._say(made.problems)
                if made.digest != self._digest:
                    self._digest = made.digest
                    self._generation += 1
                if made.digest != told:
                    told = made.digest
                    yield Published(self._generation, made.digest, made.snapshot)
            await self._pause(self._poll_s)

    async def _settle(self) -> None:
        """Move the locks to what the gateway says of the Snapshot that it has now, and to what other processes wrote."""
        stamp = await asyncio.to_thread(self._locks_file.stamp)
        if stamp != self._locks_stamp:
            self._locks_stamp = stamp
            self._locks = await asyncio.to_thread(self._locks_file.read)
        ack, snapshot = self.ack_latest, self._snapshot
        if ack is None or ack is self._settled or snapshot is None or ack.generation != self._generation:
            return
        self._settled = ack
        now_utc = datetime.now(UTC)
        self._locks = await asyncio.to_thread(self._locks_file.settle, snapshot, ack, now_utc)

    async def _remember(self, given: Mapping[str, Lock], made: Made) -> None:
        """Forget the locks of plugins that are gone, and what translation says is to be forgotten of others."""
        if made.locks == given or any(problem.where.kind == "File" for problem in made.problems):
            return  # of what stands in a file that cannot be read, nothing is known

        def change(locks: Mapping[str, Lock]) -> dict[str, Lock]:
            return {
                name: made.locks[name] if made.locks[name] != given.get(name) else lock
                for name, lock in locks.items()
                if name in made.locks
            }

        self._locks = await asyncio.to_thread(self._locks_file.update, change)

    async def _make(self, found: Fingerprint, locks: Mapping[str, Lock], changed: str) -> Made:
        """Have the files read; say so if it takes long, lest whoever saved one of them believes that nobody saw it."""
        telling = asyncio.get_running_loop().call_later(self._slow_s, log.info, "reading the %smanifests…", changed)
        try:
            return await self._maker.make(found, locks)
        finally:
            telling.cancel()

    async def _pause(self, for_s: float) -> None:
        try:
            async with asyncio.timeout(for_s):
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

    def _trouble(self, what: str, fix: str = "Give a readable file or directory of manifests.") -> Problem:
        where = ObjectRef("File", "", str(self._path))
        return Problem(where, ".", "InvalidManifest", f"{self._path} {what}", fix)

    def _say(self, problems: tuple[Problem, ...]) -> None:
        for problem in problems:
            if problem not in self._problems:
                log.warning("%s", problem)
        self._problems = problems

    async def ack(self, ack: Ack) -> None:
        """Keep it in `ack_latest`; what it says of plugins is read there."""
        self.ack_latest = ack

    async def close(self) -> None:
        """End the watch."""
        self._closed.set()
        await self._maker.close()
