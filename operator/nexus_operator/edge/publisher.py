"""Puts Snapshots where the gateways find them: chunks first, then the manifest by compare-and-set.

Rules: a manifest never names a chunk that is not there yet; generations only grow, also past what Consul forgot; equal
content is not published twice; chunks of the previous few generations stay, for a gateway that is still reading them.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

from nexus_core.snapshot import Published, Snapshot, wire

from nexus_operator.edge.consul import ConsulApi, ConsulAway

log = logging.getLogger(__name__)
T = TypeVar("T")
KEPT_GENERATIONS = 4
ATTEMPTS = 5
PARALLEL = 8


class Publisher:
    """The publishing side of one installation. One task at a time may use it; leader election keeps it the only one."""

    def __init__(self, consul: ConsulApi, prefix: str) -> None:
        self._consul = consul
        self._prefix = prefix
        self._last: Published | None = None
        self._recent: deque[frozenset[str]] = deque(maxlen=KEPT_GENERATIONS)
        self._superfluous: frozenset[str] = frozenset()
        self._distrust = False

    @property
    def last(self) -> Published | None:
        """What was last published or loaded; None before."""
        return self._last

    async def load(self) -> Published | None:
        """Return what Consul holds, and remember it as the last publication; None when there is nothing readable.

        Raises ConsulAway.
        """
        held = await self._consul.get(wire.manifest_key(self._prefix))
        if held is None:
            return None
        try:
            manifest = wire.parse_manifest(held.value)
            self._recent.append(frozenset(manifest.chunks))
            rows = await _each(lambda c: self._consul.get(wire.chunk_key(c, self._prefix)), manifest.chunks)
            chunks = {c: row.value for c, row in zip(manifest.chunks, rows, strict=True) if row is not None}
            snapshot = wire.decode(manifest, chunks)
        except wire.WireError as err:
            # Written by another version or damaged: objects that are broken right now lose their last good form. All
            # others are published anew.
            log.warning("the published snapshot cannot be read; starting from the manifests alone: %s", err)
            self._distrust = True  # a chunk may be damaged under its right name: write all of them again
            return None
        self._last = Published(manifest.generation, manifest.digest, snapshot)
        return self._last

    async def publish(self, snapshot: Snapshot, *, acked: int = 0) -> Published:
        """Make `snapshot` what Consul holds and return it with its generation; nothing is written when it already is.

        acked: the highest generation any live gateway named. Where Consul holds less (its data was lost, or restored from
        a backup), the same content is published again above it, since gateways do not go back. Raises ConsulAway.
        """
        encoded = wire.encode(snapshot)
        manifest_key = wire.manifest_key(self._prefix)
        for _ in range(ATTEMPTS):
            held = await self._consul.get(manifest_key)
            holds = _manifest(held.value) if held is not None else None
            remembered = self._last.generation if self._last is not None else 0
            floor = max(acked, remembered)
            missing = frozenset(encoded.chunks) - (frozenset() if self._distrust else await self._stored())
            await _each(lambda c: self._consul.put(wire.chunk_key(c, self._prefix), encoded.chunks[c]), sorted(missing))
            self._distrust = False
            if holds is not None and holds.digest == encoded.digest and holds.generation >= floor:
                return self._remember(Published(holds.generation, encoded.digest, snapshot), encoded)
            generation = max(floor, holds.generation if holds is not None else 0) + 1
            body = wire.manifest_bytes(encoded, generation)
            if await self._consul.put_if(manifest_key, body, held.modify_index if held is not None else 0):
                log.info("published generation %d (%d chunks)", generation, len(encoded.chunks))
                published = self._remember(Published(generation, encoded.digest, snapshot), encoded)
                await self._collect()
                return published
        raise ConsulAway(
            f"{manifest_key} changed {ATTEMPTS} times while it was being written. Is another operator publishing here?"
        )

    async def _stored(self) -> frozenset[str]:
        keys = await self._consul.keys(wire.chunk_key("", self._prefix))
        return frozenset(key.rpartition("/")[2] for key in keys)

    async def _collect(self) -> None:
        """Delete chunks that no recent generation names. A failure is left to the next publication.

        Only those that were superfluous at the last publication already: a chunk seen for the first time may be of
        another writer, who is about to name it (leader election makes that rare, and a manifest without its chunks is bad).
        """
        try:
            superfluous = await self._stored() - frozenset().union(*self._recent)
            doomed = superfluous & self._superfluous
            self._superfluous = superfluous - doomed
            if doomed:
                held = await self._consul.get(wire.manifest_key(self._prefix))
                manifest = _manifest(held.value) if held is not None else None
                doomed -= frozenset(manifest.chunks if manifest is not None else ())
            await _each(lambda c: self._consul.delete(wire.chunk_key(c, self._prefix)), sorted(doomed))
        except ConsulAway as err:
            log.warning("old chunks stay until the next publication: %s", err)

    def _remember(self, published: Published, encoded: wire.Encoded) -> Published:
        chunks = frozenset(encoded.chunks)
        if not self._recent or self._recent[-1] != chunks:
            self._recent.append(chunks)
        self._last = published
        return published


def _manifest(data: bytes) -> wire.Manifest | None:
    try:
        return wire.parse_manifest(data)
    except wire.WireError:
        return None


async def _each(call: Callable[[str], Awaitable[T]], names: Iterable[str]) -> list[T]:
    """Return `await call(name)` for each name in order, a few at a time; the first error ends the others."""
    gate = asyncio.Semaphore(PARALLEL)

    async def one(name: str) -> T:
        async with gate:
            return await call(name)

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(name)) for name in names]
    except* ConsulAway as errors:
        raise errors.exceptions[0] from None
    return [task.result() for task in tasks]
