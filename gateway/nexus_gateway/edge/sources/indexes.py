"""Marketplace indexes for the file source: bundled, or fetched and kept on disk, so that no start depends on a network."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import tempfile
from collections.abc import Iterable
from importlib import resources
from pathlib import Path

from aiohttp import ClientError, ClientSession, ClientTimeout
from nexus_core.marketplace import Index, IndexInvalid, parse_index
from nexus_core.marketplace.index import MAX_INDEX_BYTES
from nexus_core.model.plugins import NexusMarketplaceSpec
from nexus_core.model.resources import Resource
from nexus_core.problems import Problem

log = logging.getLogger("nexus.gateway.marketplaces")

FETCH_S = 5.0
FRESH_S = 300.0
"""A fetched index is taken as it is for this long."""


class Indexes:
    """Reads the index of each NexusMarketplace."""

    def __init__(self, cache: Path) -> None:
        self._cache = cache
        self._fetched: dict[str, tuple[float, Index | None, str]] = {}

    async def read(self, marketplaces: Iterable[Resource]) -> tuple[dict[str, Index], tuple[Problem, ...]]:
        """Return the indexes by marketplace name, and what is wrong with those that cannot be had."""
        found: dict[str, Index] = {}
        problems: list[Problem] = []
        for marketplace in marketplaces:
            spec = marketplace.spec
            if not isinstance(spec, NexusMarketplaceSpec):
                continue
            index, trouble = await self._read(spec)
            if index is not None:
                found[marketplace.ref.name] = index
            if trouble:
                path = ".spec.source.bundled" if spec.source.bundled else ".spec.source.url"
                fix = "Correct the address or its server; it is tried again by itself."
                problems.append(Problem(marketplace.ref, path, "MarketplaceUnreachable", trouble, fix))
        return found, tuple(problems)

    def due_in_s(self, now: float) -> float | None:
        """Return when a fetched index should be read again; None when none was fetched."""
        return min((max(at + _fresh_s(trouble) - now, 0.0) for at, _, trouble in self._fetched.values()), default=None)

    async def _read(self, spec: NexusMarketplaceSpec) -> tuple[Index | None, str]:
        url = spec.source.url
        if url is None:
            try:
                data = await asyncio.to_thread(read_bundled_index)
                return parse_index(data, "that ships with Nexus"), ""
            except (OSError, ModuleNotFoundError, IndexInvalid) as error:
                return None, f"The bundled index cannot be read: {error}"
        now = asyncio.get_running_loop().time()
        kept = self._fetched.get(url)
        if kept is not None and now - kept[0] < _fresh_s(kept[2]):
            return kept[1], kept[2]
        try:
            data = await _fetch(url)
            index = parse_index(data, url)
        except (ClientError, OSError, TimeoutError, IndexInvalid, ValueError) as error:
            trouble = f"The index {url} cannot be read: {error or type(error).__name__}."
            old = kept[1] if kept is not None else None
            if old is None:
                old = await asyncio.to_thread(self._read_kept, url)
            self._fetched[url] = (now, old, trouble)
            return old, trouble
        await asyncio.to_thread(self._keep, url, data)
        self._fetched[url] = (now, index, "")
        return index, ""

    def _path(self, url: str) -> Path:
        return self._cache / (hashlib.sha256(url.encode()).hexdigest() + ".json")

    def _read_kept(self, url: str) -> Index | None:
        try:
            return parse_index(self._path(url).read_bytes(), url)
        except (OSError, IndexInvalid):
            return None

    def _keep(self, url: str, data: bytes) -> None:
        try:
            self._cache.mkdir(parents=True, exist_ok=True, mode=0o700)
            descriptor, temporary = tempfile.mkstemp(dir=self._cache)
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
            Path(temporary).replace(self._path(url))
        except OSError as error:
            log.warning("the index of %s could not be kept: %s", url, error)


def _fresh_s(trouble: str) -> float:
    return FRESH_S if not trouble else FETCH_S * 3


def read_bundled_index() -> bytes:
    """Return the index that ships with Nexus."""
    return resources.files("nexus_plugins").joinpath("index.json").read_bytes()


async def _fetch(url: str) -> bytes:
    timeout = ClientTimeout(total=FETCH_S)
    async with ClientSession(timeout=timeout) as session, session.get(url, allow_redirects=False) as response:
        if response.status != 200:
            raise ValueError(f"it answered {response.status}, expected 200")
        data = await response.content.read(MAX_INDEX_BYTES + 1)
        while len(data) <= MAX_INDEX_BYTES and (more := await response.content.read(MAX_INDEX_BYTES + 1)):
            data += more
        if len(data) > MAX_INDEX_BYTES:
            raise ValueError(f"it is larger than {MAX_INDEX_BYTES} bytes")
        return data
