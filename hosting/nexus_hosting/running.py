"""A started plugin, and how it ends: with the last of those who use it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from nexus_core.snapshot import PluginInstance

from nexus_hosting import bounds
from nexus_hosting.calls import driven
from nexus_hosting.contexts import PluginContext
from nexus_hosting.letting_go import drop

log = logging.getLogger("nexus.plugins")

STOP_S = 5.0


class Running:
    """One started plugin. It stops when the last of its users lets it go.

    instance: what it was started with, or reconfigured to. leaked: tasks that it left running when it had stopped. memory_bytes: that are
    reachable from it, as last measured; 0 before. unload: lets its code go.
    """

    __slots__ = ("_unload", "_users", "context", "instance", "leaked", "memory_bytes", "plugin")

    def __init__(
        self, instance: PluginInstance, plugin: Any, unload: Callable[[], None], context: PluginContext
    ) -> None:
        self.instance = instance
        self.plugin = plugin
        self.context = context
        self.leaked = 0
        self.memory_bytes = 0
        self._unload = unload
        self._users = 0

    def acquire(self) -> None:
        """Count a user in."""
        self._users += 1

    async def release(self) -> None:
        """Count a user out; the last one stops the plugin, within `STOP_S`."""
        self._users -= 1
        if self._users == 0:
            self.leaked = await stop_plugin(self.plugin, self.context)
            drop(self.plugin)
            self._unload()


async def stop_plugin(plugin: Any, context: PluginContext) -> int:
    """Call the plugin's `stop`, cancel its tasks, close its connections; return how many tasks it left behind.

    A failing or slow one is logged and left.
    """
    try:
        await bounds.within(lambda: driven(plugin.stop(), context), STOP_S)
    except Exception as error:
        log.warning("plugin %s failed in stop: %s: %s", context.plugin, type(error).__name__, error or "out of time")
    leaked = await context.close()
    if leaked:
        log.warning("plugin %s left %d tasks running; they were cancelled", context.plugin, leaked)
    return leaked
