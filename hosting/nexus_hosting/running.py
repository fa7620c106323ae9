"""A started plugin, and how it ends: with the last of those who use it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from msgspec import structs
from nexus_core.problems.masking import hide
from nexus_core.snapshot import PluginInstance

from nexus_hosting import bounds
from nexus_hosting.calls import driven
from nexus_hosting.contexts import PluginContext
from nexus_hosting.importing import PluginCode
from nexus_hosting.letting_go import drop, leftovers
from nexus_hosting.permits import granted_to
from nexus_hosting.watchdog import watchdog

log = logging.getLogger("nexus.plugins")

STOP_S = 5.0
SWEEP_LATER_S = 1.0
"""After the swap that let a plugin go: what it made has settled by then."""


class Running:
    """One started plugin. It stops when the last of its users lets it go.

    instance: what it was started with, or reconfigured to. leaked: tasks that it left running when it had stopped. memory_bytes: that are
    reachable from it, as last measured; 0 before. over_memory: told on the event loop, with these bytes, when they are over its budget.
    secrets: their values.
    """

    __slots__ = ("_code", "_users", "context", "instance", "leaked", "memory_bytes", "over_memory", "plugin", "secrets")

    def __init__(
        self,
        instance: PluginInstance,
        plugin: Any,
        code: PluginCode,
        context: PluginContext,
        over_memory: Callable[[Running, int], None] | None = None,
        secrets: tuple[str, ...] = (),
    ) -> None:
        """code: let go of with the last user."""
        self.instance = instance
        self.plugin = plugin
        self.context = context
        self.secrets = secrets
        self.leaked = 0
        self.memory_bytes = 0
        self.over_memory = over_memory
        self._code = code
        self._users = 0
        watchdog.add(self)

    @property
    def prefix(self) -> str:
        """What the names of its modules begin with."""
        return self._code.prefix

    def told(self, error: BaseException) -> str:
        """Return what one of its errors says, without its secrets. It runs code of the error's, which is the plugin's."""
        if isinstance(error, TimeoutError) and not error.args:
            return f"TimeoutError: it took longer than budgets.callSeconds, which is {self.instance.timeout_s:g}"
        return hide(bounds.told(error), self.secrets)

    def bind(self, wanted: PluginInstance) -> None:
        """Have it go on with what `wanted`, that cannot take its place, grants."""
        granted = granted_to(self.instance, wanted)
        self.context.instance = structs.replace(self.context.instance, granted=granted)

    def acquire(self) -> None:
        """Count a user in."""
        self._users += 1

    async def release(self) -> None:
        """Count a user out; the last one stops the plugin, within `STOP_S`."""
        if self.leave():
            await self.end()

    def leave(self) -> bool:
        """Count a user out; True for the last one, who has to see to it that `end` runs."""
        self._users -= 1
        return self._users == 0

    async def end(self) -> None:
        """Stop the plugin, within `STOP_S`, and let go of it. Once, when the last user has left."""
        try:
            self.leaked = await _stop(self.plugin, self.context, self.secrets)
        finally:
            watchdog.remove(self)
            try:
                await drop(self.plugin, self.prefix)
            finally:
                self._code.unload()
                leftovers.unloaded()
                if leftovers.is_due():
                    asyncio.get_running_loop().call_later(SWEEP_LATER_S, leftovers.sweep)


async def _stop(plugin: Any, context: PluginContext, secrets: tuple[str, ...]) -> int:
    """Call the plugin's `stop`, cancel its tasks, close its connections; return how many tasks it left behind.

    A failing or slow one is logged and left.
    """
    try:
        await bounds.within(lambda: driven(plugin.stop(), context), STOP_S)
    except Exception as error:
        log.warning("plugin %s failed in stop: %s", context.plugin, hide(bounds.told(error), secrets))
    leaked = await context.close()
    if leaked:
        log.warning("plugin %s left %d tasks running; they were cancelled", context.plugin, leaked)
    return leaked
