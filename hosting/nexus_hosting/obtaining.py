"""A process's way to its plugins' files: `nexus_marketplace.fetching` and `.wheels`, with the means that the process lends."""

from __future__ import annotations

from pathlib import Path

import msgspec
from nexus_core.snapshot import Release
from nexus_core.snapshot.plugins import Wheel, WheelNeed
from nexus_marketplace.fetching import fetch_release
from nexus_marketplace.wheels import fetch_wheel, wheel_tags

from nexus_hosting.means import Means


class Obtainer:
    """Where one process has its plugins' files from."""

    def __init__(self, cache: Path, means: Means) -> None:
        self._cache = cache
        self._means = means

    async def artefact(self, release: Release, base_url: str) -> bytes:
        """Return a release's artefact. base_url: what its address is relative to. Raises `PluginRejected`."""
        return await fetch_release(release, base_url, self._cache, artefact=self._means.artefact)

    async def wheel(self, file: Wheel, need: WheelNeed, base_url: str) -> bytes:
        """Return a wheel's bytes. base_url: the marketplace's, which may have it, too. Raises `PluginRejected`."""
        _, data = await fetch_wheel(
            msgspec.structs.replace(need, files=(file,)),
            self._cache,
            base_url=base_url,
            artefact=self._means.artefact,
            pypi=self._means.pypi,
            tags=wheel_tags(file),
        )
        return data
