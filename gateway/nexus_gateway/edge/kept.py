"""Discovery that outlives its registry: the last endpoints of each service are kept on disk.

A gateway that starts while Consul is away has the Snapshot from its disk; without this it would know where to send nothing.
What is kept is only a stand-in: it is shown when the registry does not answer at once, or answers "nobody" at first, as one
that has lost its data does. Knows nothing of Consul; wraps any `Discovery`.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import tempfile
from collections.abc import AsyncGenerator, Mapping
from pathlib import Path

import msgspec
from nexus_core.discovery import Discovery, Endpoint, ServiceEntry

log = logging.getLogger(__name__)
Endpoints = tuple[Endpoint, ...]

FIRST_S = 1.0
"""How long the registry has for its first answer before the kept endpoints are used."""
HOLD_S = 30.0
"""How long a first answer of "nobody" is not believed where somebody is kept: as long as `nexus_sdk.consul.blocking` holds."""


class KeptDiscovery:
    """The `Discovery` port over another one. Only `watch` differs from the other's."""

    def __init__(self, inner: Discovery, folder: Path, *, first_s: float = FIRST_S, hold_s: float = HOLD_S) -> None:
        """folder: made when there is something to keep; one small file a service. inner: closed by `close()`."""
        self._inner = inner
        self._folder = folder
        self._first_s = first_s
        self._hold_s = hold_s

    async def watch(self, service: str, *, tag: str = "") -> AsyncGenerator[Endpoints, None]:
        path = self._folder / hashlib.sha256(f"{service}\n{tag}".encode()).hexdigest()
        kept = await asyncio.to_thread(_read, path)
        watch = self._inner.watch(service, tag=tag)
        coming = asyncio.ensure_future(anext(watch))
        believed = not kept  # whether "nobody" is an answer
        try:
            if kept and not await _comes(coming, self._first_s):
                log.warning("the registry does not answer: %s is where it was last, at %d places", service, len(kept))
                yield kept
            while True:
                endpoints = await coming
                coming = asyncio.ensure_future(anext(watch))
                if not endpoints and not believed:
                    believed = True
                    yield kept
                    if await _comes(coming, self._hold_s):
                        continue
                believed = True
                if endpoints != kept:
                    kept = endpoints
                    await asyncio.to_thread(self._keep, path, endpoints)
                yield endpoints
        except StopAsyncIteration:
            return
        finally:
            coming.cancel()
            await asyncio.gather(coming, return_exceptions=True)
            # Not left to the garbage collector: the adapter's query behind it ends with the watch.
            close = getattr(watch, "aclose", None)
            if close is not None:
                await close()

    async def resolve(self, service: str, *, tag: str = "") -> Endpoints:
        return await self._inner.resolve(service, tag=tag)

    async def services(self) -> Mapping[str, ServiceEntry]:
        return await self._inner.services()

    async def close(self) -> None:
        await self._inner.close()

    def _keep(self, path: Path, endpoints: Endpoints) -> None:
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            descriptor, temporary = tempfile.mkstemp(dir=self._folder)
            with os.fdopen(descriptor, "wb") as file:
                file.write(msgspec.json.encode(endpoints))
            Path(temporary).replace(path)
        except OSError as error:
            log.warning("endpoints could not be kept in %s: %s. Check NEXUS_GATEWAY_STATE_DIR.", self._folder, error)


def _read(path: Path) -> Endpoints:
    try:
        return msgspec.json.decode(path.read_bytes(), type=tuple[Endpoint, ...])
    except FileNotFoundError:
        return ()
    except (OSError, msgspec.MsgspecError) as error:
        log.warning("the endpoints kept in %s cannot be used: %s", path, error)
        return ()


async def _comes(coming: asyncio.Future[Endpoints], within_s: float) -> bool:
    done, _ = await asyncio.wait({coming}, timeout=within_s)
    return bool(done)
