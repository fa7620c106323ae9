"""A started plugin, and how it ends: with the last of those who use it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from nexus_core.snapshot import PluginInstance

from nexus_hosting import bounds

log = logging.getLogger("nexus.plugins")

STOP_S = 5.0


class Running:
    """One started plugin. It stops when the last of its users lets it go.

    instance: what it was started with. unload: lets its code go.
    """

    __slots__ = ("_unload", "_users", "instance", "plugin")

    def __init__(self, instance: PluginInstance, plugin: Any, unload: Callable[[], None]) -> None:
        self.instance = instance
        self.plugin = plugin
        self._unload = unload
        self._users = 0

    def acquire(self) -> None:
        """Count a user in."""
        self._users += 1

    async def release(self) -> None:
        """Count a user out; the last one stops the plugin, within `STOP_S`."""
        self._users -= 1
        if self._users == 0:
            await stop_plugin(self.instance.id, self.plugin)
            self._unload()


async def stop_plugin(plugin_id: str, plugin: Any) -> None:
    """Call the plugin's `stop`; a failing or slow one is logged and left."""
    try:
        await bounds.within(lambda: plugin.stop(), STOP_S)
    except Exception as error:
        log.warning("plugin %s failed in stop: %s: %s", plugin_id, type(error).__name__, error or "out of time")
