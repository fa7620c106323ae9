"""Marketplace indexes: fetched in the background, kept while their place is away.

An unreachable or broken marketplace costs nothing but news: the last good index stays in use, and the problem is shown on
the NexusMarketplace. What an index means is `nexus_core.marketplace`'s business.
"""

from __future__ import annotations

import asyncio
import importlib.resources
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import aiohttp
from nexus_core.marketplace import Index, IndexInvalid, parse_index
from nexus_core.marketplace.index import MAX_INDEX_BYTES

from nexus_operator.status.view import Trouble

log = logging.getLogger(__name__)
FETCH_TIMEOUT_S = 15.0
FIRST_WAIT_S = 1.0
"""How long a reconciliation waits for the first answer of a new marketplace, so that its plugins need no second round."""
RETRY_S = 15.0
BUNDLED = "bundled:"


@dataclass(slots=True)
class _Entry:
    source: str
    task: asyncio.Task[None]
    index: Index | None = None
    trouble: Trouble | None = None
    etag: str = ""


class Indexes:
    """The indexes of all marketplaces. Owns one task for each; call `close()`."""

    def __init__(self, *, ttl_s: float, changed: Callable[[], None]) -> None:
        """changed: called after an index, or the trouble with it, has changed."""
        self._ttl_s = ttl_s
        self._changed = changed
        self._entries: dict[str, _Entry] = {}
        self._session: aiohttp.ClientSession | None = None

    @property
    def current(self) -> Mapping[str, Index]:
        """The last good index of each marketplace that has one, by its name."""
        return MappingProxyType({name: e.index for name, e in self._entries.items() if e.index is not None})

    @property
    def troubles(self) -> Mapping[str, Trouble]:
        """What is wrong with the indexes now, by marketplace name."""
        return MappingProxyType({name: e.trouble for name, e in self._entries.items() if e.trouble is not None})

    async def follow(self, sources: Mapping[str, str]) -> None:
        """Follow exactly these marketplaces. sources: address of the index by marketplace name, `bundled:` for ours.

        Waits a moment for the first answer of new ones; a marketplace that does not answer is left to its task.
        """
        for name in [n for n, e in self._entries.items() if sources.get(n) != e.source]:
            self._entries.pop(name).task.cancel()
        fresh: list[asyncio.Event] = []
        for name, source in sources.items():
            if name not in self._entries:
                answered = asyncio.Event()
                fresh.append(answered)
                task = asyncio.create_task(self._follow(name, source, answered), name=f"marketplace {name}")
                self._entries[name] = _Entry(source, task)
        if fresh:
            await asyncio.wait([asyncio.create_task(e.wait()) for e in fresh], timeout=FIRST_WAIT_S)
            for answered in fresh:
                answered.set()  # from now on a first answer is news like any other

    async def close(self) -> None:
        """Stop following, until `follow` is called again."""
        tasks = [entry.task for entry in self._entries.values()]
        self._entries.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _follow(self, name: str, source: str, answered: asyncio.Event) -> None:
        await asyncio.sleep(0)  # let `follow` store the entry
        while True:
            entry = self._entries[name]
            before = (entry.index, entry.trouble)
            try:
                data = _bundled() if source == BUNDLED else await self._fetch(entry)
                if data is not None:
                    entry.index = parse_index(data, source)
                entry.trouble = None
            except IndexInvalid as err:
                entry.trouble = Trouble(
                    "MarketplaceInvalid", str(err), "Have its publisher correct the index.", entry.index is not None
                )
            except _Unreachable as err:
                entry.trouble = Trouble(
                    "MarketplaceUnreachable", str(err), f"Check .spec.source.url and the network; it is tried again every {RETRY_S:.0f} s.",
                    entry.index is not None,
                )  # fmt: skip
            if (entry.index, entry.trouble) != before:
                if entry.trouble is not None:
                    log.warning("marketplace %s: %s", name, entry.trouble.what)
                if answered.is_set():
                    self._changed()
            answered.set()
            await asyncio.sleep(RETRY_S if entry.trouble is not None else self._ttl_s)

    async def _fetch(self, entry: _Entry) -> bytes | None:
        """Return the index, or None when it is the one we have. Raises _Unreachable."""
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=FETCH_TIMEOUT_S))
        headers = {"Accept": "application/json"}
        if entry.etag and entry.index is not None:
            headers["If-None-Match"] = entry.etag
        try:
            async with self._session.get(entry.source, headers=headers, max_redirects=3) as reply:
                if reply.status == 304:
                    return None
                if reply.status != 200:
                    raise _Unreachable(f"{entry.source} answered with HTTP {reply.status}.")
                body = bytearray()
                async for piece in reply.content.iter_chunked(65536):
                    body += piece
                    if len(body) > MAX_INDEX_BYTES:
                        raise _Unreachable(
                            f"{entry.source} is larger than {MAX_INDEX_BYTES} bytes, the limit for an index."
                        )
                entry.etag = reply.headers.get("ETag", "")
                return bytes(body)
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as err:
            raise _Unreachable(f"{entry.source} did not answer ({type(err).__name__}).") from err


class _Unreachable(Exception):
    pass


def _bundled() -> bytes:
    try:
        return importlib.resources.files("nexus_plugins").joinpath("index.json").read_bytes()
    except OSError as err:
        raise _Unreachable("This installation of Nexus holds no bundled plugin index.") from err
