"""Files of plugins whose marketplace asks for a login: fetched by who reads the manifests, for they alone say these.

Gateways find the files in their cache; the Snapshot, which many may read, has the address without them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from pathlib import Path

from nexus_core.problems import ObjectRef, Problem
from nexus_core.snapshot import PluginInstance, Snapshot
from nexus_core.translate.market_access import Way
from nexus_marketplace.fetching import fetch_release
from nexus_marketplace.rejections import PluginRejected
from nexus_marketplace.wheels import fetch_wheel

log = logging.getLogger(__name__)
HOLD_S = 20.0
"""How long manifests wait for files of plugins, all together."""
AGAIN_S = 15.0
"""After this long, what could not be fetched is tried again."""


class Prefetcher:
    """Fetches into one cache. ways: `core.translate.market_access.find_ways` of the marketplaces."""

    def __init__(self, cache: Path) -> None:
        self._cache = cache
        self.ways: Mapping[str, Way] = {}

    async def obtain(self, instance: PluginInstance) -> None:
        """Have a plugin's files in the cache, those that only come by a login. Raises `PluginRejected`."""
        needed = [(instance.release, instance.base_url)]
        needed += [(library.release, library.base_url) for library in instance.libraries]
        for release, base_url in needed:
            way = self.ways.get(base_url)
            if way is not None:
                await fetch_release(release, way.url, self._cache, access=way.access)
        way = self.ways.get(instance.base_url)
        if way is not None:
            for need in instance.wheels:
                await fetch_wheel(need, self._cache, base_url=way.url, access=way.access)

    async def fetch(self, snapshot: Snapshot) -> tuple[Problem, ...]:
        """Have the files of all plugins in the cache, candidates' too. Return what is wrong with those that cannot be had."""
        if not self.ways:
            return ()
        instances = [each for each in snapshot.plugins if each.lacking is None]
        instances += [each.candidate.instance for each in snapshot.plugins if each.candidate is not None]
        found = await asyncio.gather(*(self._try(each) for each in instances))
        return tuple(problem for problem in found if problem is not None)

    async def _try(self, instance: PluginInstance) -> Problem | None:
        try:
            async with asyncio.timeout(HOLD_S):
                await self.obtain(instance)
        except PluginRejected as rejected:
            what, reason = rejected.message, rejected.reason
        except TimeoutError:
            release = instance.release
            what = f"{release.name} {release.version} and its wheels could not be fetched within {HOLD_S:g} s."
            reason = "PluginFetchFailed"
        else:
            return None
        fix = f"It is tried again every {AGAIN_S:g} s."
        return Problem(ObjectRef.parse(instance.source), ".spec.marketplace", reason, what, fix)
