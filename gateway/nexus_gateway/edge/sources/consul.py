"""Snapshots from Consul's KV store, and acknowledgements back into it.

In: a blocking query on the manifest key; chunks are fetched by digest, those already here are not fetched again, and all
digests are checked. Whatever goes wrong, the last good Snapshot stays; it is kept on disk too, so that a gateway started
while Consul is away serves. Out: the ack under a key that a Consul session with a TTL holds, so that it vanishes with the replica.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from nexus_core.problems import Problem
from nexus_core.snapshot import Ack, PluginStats, Published, wire
from nexus_core.snapshot.samples import Sample
from nexus_sdk.consul.connection import Connection, ConsulAway, ConsulRefused

from nexus_gateway.edge.slices import run_in_slices
from nexus_gateway.edge.sources.samples import SamplePublisher
from nexus_gateway.edge.sources.stats import StatsPublisher

log = logging.getLogger("nexus.gateway.consul")
T = TypeVar("T")

WAIT_S = 30
"""Longest blocking query."""
SESSION_TTL_S = 15
"""Consul lets a session live up to twice this after its last renewal; renewed three times within it."""
_BACKOFF_S = (0.5, 1.0, 2.0, 5.0)
_CHUNKS_AT_ONCE = 8


class ConsulSource:
    """The `SnapshotSource` over one Consul agent."""

    def __init__(self, url: str, token: str, prefix: str, replica: str, state_dir: Path | None) -> None:
        self._connection = Connection(url, token or None)
        self._prefix = prefix
        self._replica = replica
        self._kept = state_dir / "snapshot" if state_dir is not None else None
        self._chunks: dict[str, bytes] = {}
        self._reader = wire.Reader()
        self._live: wire.Manifest | None = None
        self._ack: Ack | None = None
        self._acked = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None
        self._session: str | None = None
        self._closed = asyncio.Event()
        self._rng = random.Random()
        self.trouble = ""
        """Why the newest Snapshot could not be read; empty while all is well."""

    @property
    def problems(self) -> tuple[Problem, ...]:
        """None: the operator tells the user."""
        return ()

    async def watch(self) -> AsyncIterator[Published]:
        """Yield the published Snapshot, then each new one; the one kept on disk first when Consul does not answer."""
        index = 0
        failures = 0
        started = False
        self._live = None  # this watch has yielded nothing yet, whatever an earlier one has
        while True:
            try:
                read = await self._unless_closed(self._read_manifest(index))
                if read is None:
                    return
                index, data = read
                published = await self._take(data) if data is not None else None
            except (ConsulAway, ConsulRefused, wire.WireError) as error:
                self._tell(str(error))
                index = 0
                if not started:
                    started = True
                    kept = await asyncio.to_thread(self._read_kept)
                    if kept is not None:
                        yield kept
                if await self._unless_closed(asyncio.sleep(self._pause(failures), True)) is None:
                    return
                failures += 1
                continue
            failures = 0
            self._tell("")
            if published is not None:
                started = True
                yield published
            elif data is None and not started:
                # Consul answers but holds nothing: it may have lost its data while we were down.
                started = True
                kept = await asyncio.to_thread(self._read_kept)
                if kept is not None:
                    yield kept

    async def _unless_closed(self, work: Coroutine[Any, Any, T]) -> T | None:
        """Return what the work returns, or None (and cancel it) when the source is closed first."""
        working, closed = asyncio.ensure_future(work), asyncio.ensure_future(self._closed.wait())
        try:
            await asyncio.wait({working, closed}, return_when=asyncio.FIRST_COMPLETED)
            return None if closed.done() else working.result()
        finally:
            working.cancel()
            closed.cancel()
            await asyncio.gather(working, closed, return_exceptions=True)

    def _pause(self, failures: int) -> float:
        return _BACKOFF_S[min(failures, len(_BACKOFF_S) - 1)] * self._rng.uniform(0.5, 1.0)

    def _tell(self, trouble: str) -> None:
        if trouble != self.trouble:
            if trouble:
                log.warning("the last good Snapshot stays: %s", trouble)
            else:
                log.info("Snapshots come from Consul again")
            self.trouble = trouble

    async def _read_manifest(self, index: int) -> tuple[int, bytes | None]:
        """Return the next index to wait at and the manifest's bytes, None without one."""
        found: tuple[Any, Any] = await self._connection.call(
            self._connection.client.kv.get(
                wire.manifest_key(self._prefix), index=index or None, wait=f"{WAIT_S}s", connections_timeout=WAIT_S + 10
            ),
            WAIT_S + 11,
            "read the Snapshot's manifest",
        )
        try:
            new_index = int(found[0] or 0)
        except ValueError as error:
            raise ConsulAway(
                f"Consul at {self._connection.url}: its index is {str(found[0])[:80]!r}, no number"
            ) from error
        value = _value(found[1])
        # Consul's rules for blocking queries: an index that went back starts again from 0; never wait at 0.
        return (0 if new_index < index else max(new_index, 1)), value

    async def _take(self, data: bytes) -> Published | None:
        """Return the Snapshot of a manifest, None when it is the live one. Raises ConsulAway, ConsulRefused, WireError."""
        manifest = wire.parse_manifest(data)
        live = self._live
        if live is not None and (live.digest, live.generation) == (manifest.digest, manifest.generation):
            return None
        missing = [digest for digest in dict.fromkeys(manifest.chunks) if digest not in self._chunks]
        gate = asyncio.Semaphore(_CHUNKS_AT_ONCE)
        fetched = await asyncio.gather(*(self._read_chunk(digest, gate) for digest in missing))
        chunks = {
            **self._chunks,
            **{digest: chunk for digest, chunk in zip(missing, fetched, strict=True) if chunk is not None},
        }
        # Of thousands of routes, the chunks that changed; on the loop, between requests: see `slices`.
        snapshot = await run_in_slices(self._reader.read(manifest, chunks))
        self._chunks = {digest: chunks[digest] for digest in manifest.chunks}
        self._live = manifest
        await asyncio.to_thread(self._keep, data, self._chunks)
        return Published(manifest.generation, manifest.digest, snapshot)

    async def _read_chunk(self, digest: str, gate: asyncio.Semaphore) -> bytes | None:
        async with gate:
            _, found = await self._connection.call(
                self._connection.client.kv.get(wire.chunk_key(digest, self._prefix)),
                what="read a chunk of the Snapshot",
            )
        return _value(found)

    def _keep(self, manifest: bytes, chunks: dict[str, bytes]) -> None:
        """Write the good Snapshot to disk: the chunks first, then the manifest in one rename, then old chunks go."""
        folder = self._kept
        if folder is None:
            return
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            for digest, chunk in chunks.items():
                path = folder / digest
                if not path.exists():
                    _write(path, chunk)
            _write(folder / "manifest", manifest)
            for path in folder.iterdir():
                if path.name != "manifest" and path.name not in chunks:
                    path.unlink(missing_ok=True)
        except OSError as error:
            log.warning("the Snapshot could not be kept in %s: %s. Check NEXUS_GATEWAY_STATE_DIR.", folder, error)

    def _read_kept(self) -> Published | None:
        folder = self._kept
        if folder is None:
            return None
        try:
            data = (folder / "manifest").read_bytes()
            manifest = wire.parse_manifest(data)
            chunks = {digest: (folder / digest).read_bytes() for digest in manifest.chunks}
            snapshot = wire.decode(manifest, chunks)
        except FileNotFoundError:
            return None
        except (OSError, wire.WireError) as error:
            log.warning("the Snapshot kept in %s cannot be used: %s", folder, error)
            return None
        log.warning("serving generation %d from %s until Consul has one", manifest.generation, folder)
        self._chunks = chunks
        self._live = manifest
        return Published(manifest.generation, manifest.digest, snapshot)

    async def ack(self, ack: Ack) -> None:
        """Publish the ack as soon as Consul takes it, and keep it there while this replica lives."""
        self._ack = ack
        self._acked.set()
        if self._keeper is None:
            self._keeper = asyncio.create_task(self._keep_ack(), name="consul ack")

    async def _keep_ack(self) -> None:
        """Hold the ack's key: renew the session, make a new one when Consul lost it, write each new ack."""
        written: Ack | None = None
        failures = 0
        while True:
            try:
                if self._session is None:
                    written = None
                    self._session = await self._open_session()
                else:
                    await self._connection.call(
                        self._connection.client.session.renew(self._session), what="renew the session"
                    )
                ack = self._ack
                if ack is not None and ack != written and await self._write_ack(ack):
                    written = ack
                failures = 0
                wait_s = SESSION_TTL_S / 3 if written == self._ack else 1.0
            except ConsulRefused as error:
                # The session is gone (its TTL ran out while we were cut off, or Consul lost its data): make another.
                log.info("the session for the ack is made anew: %s", error)
                self._session = None
                wait_s = self._pause(failures)
                failures += 1
            except ConsulAway:
                wait_s = self._pause(failures)
                failures += 1
            except Exception:
                # A bug must not end the renewals: the replica would count as gone while it serves.
                log.exception("keeping the ack failed")
                self._session = None
                wait_s = self._pause(failures)
                failures += 1
            await self._sleep_until_ack(wait_s)

    async def _sleep_until_ack(self, wait_s: float) -> None:
        self._acked.clear()
        try:
            async with asyncio.timeout(wait_s):
                await self._acked.wait()
        except TimeoutError:
            return

    async def _open_session(self) -> str:
        session: str = await self._connection.call(
            self._connection.client.session.create(
                name=f"nexus-gateway {self._replica}", ttl=SESSION_TTL_S, behavior="delete", lock_delay=0
            ),
            what="create the session",
        )
        return session

    async def _write_ack(self, ack: Ack) -> bool:
        """Return whether the key is ours. Raises ConsulRefused when the session is gone."""
        key = wire.ack_key(self._replica, self._prefix)
        taken = await self._connection.call(
            self._connection.client.kv.put(key, wire.encode_ack(ack), acquire=self._session), what="write the ack"
        )
        if not taken:
            # A former process with this replica's name may still hold it, for its session's TTL at most.
            log.info("the ack's key %s is held by another session; trying again", key)
        return bool(taken)

    async def publish_samples(self, samples: Callable[[], Sequence[Sample]]) -> None:
        """Publish what `samples` returns while somebody asks for it; for ever. samples: called in a thread."""
        await SamplePublisher(self._connection, self._prefix, self._replica, lambda: self._session, samples).run()

    async def publish_stats(self, stats: Callable[[], Mapping[str, PluginStats]]) -> None:
        """Publish what plugins do every few seconds, for ever. stats: by plugin; called on the event loop."""
        await StatsPublisher(self._connection, self._prefix, self._replica, lambda: self._session, stats).run()

    async def close(self) -> None:
        """End the watch, withdraw the ack and close the connection."""
        self._closed.set()
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        if self._session is not None:
            try:
                await self._connection.call(
                    self._connection.client.session.destroy(self._session), 2.0, "end the session"
                )
            except (ConsulAway, ConsulRefused) as error:
                log.info("the session ends with its TTL: %s", error)
            self._session = None
        await self._connection.close()


def _value(entry: Any) -> bytes | None:
    """Return the value of an entry of the KV store; None for no entry, or one without a value."""
    value = entry.get("Value") if entry is not None else None
    return value if isinstance(value, bytes) else None


def _write(path: Path, data: bytes) -> None:
    descriptor, temporary = tempfile.mkstemp(dir=path.parent)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    Path(temporary).replace(path)
