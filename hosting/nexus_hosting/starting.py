"""From an instance in a Snapshot to a plugin that runs: judged, fetched, imported, constructed, started. Nothing outlives its deadline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nexus_core.snapshot import PluginInstance
from nexus_marketplace.fetching import fetch
from nexus_marketplace.rejections import PluginRejected

from nexus_hosting import bounds
from nexus_hosting.importing import PluginCode, unpack
from nexus_hosting.judges import Judge
from nexus_hosting.running import Running, stop_plugin

LOAD_S = 10.0
"""Importing and constructing a plugin, and again its `start`: longer is a failure."""


class Starter:
    """Starts plugins of one process."""

    def __init__(self, cache: Path, judge: Judge) -> None:
        """cache: where artefacts are kept by digest. judge: says of each plugin whether it may run; closed by who made it."""
        self._cache = cache
        self._judge = judge

    async def start(self, instance: PluginInstance) -> Running:
        """Return the plugin, started. Raises `PluginRejected`."""
        release = instance.release
        config = await self._judge.judge(instance)
        code = PluginCode(release, unpack(await fetch(instance, self._cache), release.package))
        try:
            # In a thread: top-level code and constructors may be slow, and the event loop serves requests meanwhile.
            plugin: Any = await bounds.in_thread(lambda: code.load()(config), LOAD_S)
        except PluginRejected:
            raise
        except Exception as error:
            code.unload()
            raise PluginRejected(
                "PluginConfigInvalid" if isinstance(error, ValueError) else "PluginLoadFailed",
                f"{release.name} {release.version} cannot be made with this configuration: {_said(error)}.",
            ) from error
        try:
            await bounds.within(lambda: plugin.start(), LOAD_S)
        except Exception as error:
            await stop_plugin(instance.id, plugin)
            code.unload()
            raise PluginRejected(
                "PluginStartFailed",
                f"{release.name} {release.version} failed in start: {_said(error)}.",
                # What cannot be stopped would be left behind anew by each try.
                retryable=not isinstance(error, bounds.Stuck),
            ) from error
        return Running(instance, plugin, code.unload)


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else f"{type(error).__name__} (out of time)"
