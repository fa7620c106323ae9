"""From an instance in a Snapshot to a plugin that runs: judged, fetched, imported, constructed, started. Nothing outlives its deadline."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from nexus_core.hooks import Plugin
from nexus_core.snapshot import PluginInstance
from nexus_marketplace.fetching import fetch
from nexus_marketplace.rejections import PluginRejected

from nexus_hosting import bounds
from nexus_hosting.calls import driven
from nexus_hosting.contexts import PluginContext
from nexus_hosting.importing import PluginCode, unpack
from nexus_hosting.judges import Judge
from nexus_hosting.means import Means
from nexus_hosting.running import Running, stop_plugin

LOAD_S = 10.0
"""Importing and constructing a plugin, and again its `start`: longer is a failure."""
SECRET, CONFIG = "secret:", "config:"
_CONFIGURED = ("config", "sealed", "order", "timeout_s", "failure_policy", "budgets", "candidate", "source")
"""What may change of an instance without another one being started; the code, and what it may use, may not."""


class Starter:
    """Starts plugins of one process."""

    def __init__(self, cache: Path, judge: Judge, means: Means | None = None) -> None:
        """cache: where artefacts are kept by digest. judge: says of each plugin whether it may run; closed by who made it."""
        self._cache = cache
        self._judge = judge
        self._means = means or Means()

    async def start(self, instance: PluginInstance) -> Running:
        """Return the plugin, started. Raises `PluginRejected`."""
        release = instance.release
        secrets = await self._unseal(instance)
        config = await self._judge.judge(instance, _starting_with(CONFIG, secrets))
        code = PluginCode(release, unpack(await fetch(instance, self._cache), release.package))
        context = PluginContext(instance, config, _starting_with(SECRET, secrets), self._means)

        def make() -> Any:
            kind = code.load()
            plugin: Any = kind.__new__(kind, config)
            plugin.context = context
            plugin.__init__(config)
            return plugin

        try:
            # In a thread: top-level code and constructors may be slow, and the event loop serves requests meanwhile.
            plugin = await bounds.in_thread(make, LOAD_S)
        except PluginRejected:
            raise
        except Exception as error:
            code.unload()
            raise PluginRejected(
                "PluginConfigInvalid" if isinstance(error, ValueError) else "PluginLoadFailed",
                f"{release.name} {release.version} cannot be made with this configuration: {_said(error)}.",
            ) from error
        try:
            await bounds.within(lambda: driven(plugin.start(), context), LOAD_S)
        except Exception as error:
            await stop_plugin(plugin, context)
            code.unload()
            raise PluginRejected(
                "PluginStartFailed",
                f"{release.name} {release.version} failed in start: {_said(error)}.",
                # What cannot be stopped would be left behind anew by each try.
                retryable=not isinstance(error, bounds.Stuck),
            ) from error
        return Running(instance, plugin, code.unload, context)

    async def reconfigure(self, running: Running, instance: PluginInstance) -> bool:
        """Give a running plugin the configuration of another instance; return whether it took it.

        False: it has no `on_config`, or more than its configuration changed; a new instance has to take its place. Raises
        `PluginRejected` for a configuration that does not fit or that the plugin refuses; the former one stays in use.
        """
        plugin, context = running.plugin, running.context
        if not _differs_in_config_alone(running.instance, instance):
            return False
        if (running.instance.config, running.instance.sealed) == (instance.config, instance.sealed):
            running.instance = context.instance = instance
            return True
        if type(plugin).on_config is Plugin.on_config:
            return False
        secrets = await self._unseal(instance)
        config = await self._judge.judge(instance, _starting_with(CONFIG, secrets))
        former = context.held
        # Before: what the new configuration names may be called while the plugin takes it.
        context.configure(instance, config, _starting_with(SECRET, secrets))
        try:
            await bounds.within(lambda: driven(_awaited(plugin, config), context), LOAD_S)
        except Exception as error:
            context.configure(*former)
            raise PluginRejected(
                "PluginConfigInvalid",
                f"{instance.release.name} {instance.release.version} did not take the new configuration: {_said(error)}. "
                "The former one stays in use.",
            ) from error
        running.instance = instance
        return True

    async def _unseal(self, instance: PluginInstance) -> dict[str, str]:
        """Return the instance's secrets by their names. Raises `PluginRejected`."""
        if not instance.sealed:
            return {}
        unseal = self._means.unseal
        if unseal is None:
            raise PluginRejected(
                "PluginConfigInvalid",
                f"{instance.id} has secrets, and this process has no key for them. Give it NEXUS_SEAL_KEY.",
            )
        try:
            # In a thread: the library for it is imported with the first secret.
            return await asyncio.to_thread(
                lambda: {each.name: unseal(each, f"{instance.id}#{each.name}").decode() for each in instance.sealed}
            )
        except Exception as error:
            raise PluginRejected(
                "PluginConfigInvalid",
                f"A secret of {instance.id} cannot be opened: "
                # What is not text may not be told of: the error would show it.
                f"{'it is not UTF-8' if isinstance(error, UnicodeDecodeError) else error}.",
            ) from (None if isinstance(error, UnicodeDecodeError) else error)


async def _awaited(plugin: Any, config: dict[str, Any]) -> None:
    result = plugin.on_config(config)
    if result is not None:
        await result


def _starting_with(prefix: str, secrets: dict[str, str]) -> dict[str, str]:
    return {name.removeprefix(prefix): value for name, value in secrets.items() if name.startswith(prefix)}


def _differs_in_config_alone(one: PluginInstance, other: PluginInstance) -> bool:
    return all(
        getattr(one, field) == getattr(other, field)
        for field in PluginInstance.__struct_fields__
        if field not in _CONFIGURED
    )


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else f"{type(error).__name__} (out of time)"
