"""From an instance in a Snapshot to a plugin that runs: judged, fetched, imported, constructed, started. Nothing outlives its deadline."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from nexus_core.hooks import Plugin, PluginConfigError
from nexus_core.problems.masking import hide
from nexus_core.snapshot import PluginInstance, Release
from nexus_marketplace.rejections import PluginRejected

from nexus_hosting import bounds, claims, natives, wheels
from nexus_hosting.calls import driven
from nexus_hosting.contexts import PluginContext
from nexus_hosting.facades import make_asyncio
from nexus_hosting.importing import PluginCode, refusal_in, without_frames
from nexus_hosting.judges import Judge
from nexus_hosting.means import Means
from nexus_hosting.obtaining import Obtainer
from nexus_hosting.running import Running
from nexus_hosting.unpacking import unpack

LOAD_S = 10.0
"""Importing and constructing a plugin, and again its `start`: longer is a failure."""
SECRET, CONFIG = "secret:", "config:"
_SECRETS = 1000
"""Values, former ones too, that are looked for in what a plugin's errors say."""


class Starter:
    """Starts plugins of one process."""

    def __init__(self, cache: Path, judge: Judge, means: Means | None = None) -> None:
        """cache: where artefacts are kept by digest. judge: says of each plugin whether it may run; closed by who made it."""
        self._cache = cache
        self._judge = judge
        self._means = means or Means()
        self._obtainer = Obtainer(cache, self._means)

    async def start(self, instance: PluginInstance) -> Running:
        """Return the plugin, started. Raises `PluginRejected`."""
        secrets = await self._unseal(instance)
        try:
            return await self._start(instance, secrets)
        except PluginRejected as rejected:
            raise _without(secrets.values(), rejected) from rejected.__cause__

    async def _start(self, instance: PluginInstance, secrets: dict[str, str]) -> Running:
        release = instance.release
        config = await self._judge.judge(instance, _starting_with(CONFIG, secrets))
        context = PluginContext(instance, config, _starting_with(SECRET, secrets), self._means)
        code = await self._code(instance, context)

        def make() -> Any:
            kind = code.load()
            claims.check(kind, release)
            plugin: Any = kind.__new__(kind, config)
            plugin.context = context
            plugin.__init__(config)
            return plugin

        try:
            # In a thread: top-level code and constructors may be slow, and the event loop serves requests meanwhile.
            plugin = await bounds.in_thread(make, LOAD_S)
        except BaseException as error:
            code.unload()
            if isinstance(error, PluginRejected) or not isinstance(error, Exception):
                raise
            raise self._rejected(
                release,
                error,
                "PluginConfigInvalid" if isinstance(error, ValueError) else "PluginLoadFailed",
                "cannot be made with this configuration",
            ) from without_frames(error)
        running = Running(instance, plugin, code, context, self._means.over_memory, tuple(secrets.values()))
        try:
            await bounds.within(lambda: driven(plugin.start(), context), LOAD_S)
        except BaseException as error:
            running.acquire()
            await running.release()
            if not isinstance(error, Exception):
                raise
            rejected = self._rejected(release, error, "PluginStartFailed", "failed in start")
            # What cannot be stopped would be left behind anew by each try.
            rejected.retryable = rejected.reason == "PluginStartFailed" and not isinstance(error, bounds.Stuck)
            raise rejected from without_frames(error)
        return running

    async def _code(self, instance: PluginInstance, context: PluginContext) -> PluginCode:
        """Return the instance's code: its own, of the plugins it imports, of its wheels. Raises `PluginRejected`."""
        release = instance.release
        own = unpack(await self._obtainer.artefact(release, instance.base_url), release.package)
        libraries = []
        for library in instance.libraries:
            data = await self._obtainer.artefact(library.release, library.base_url or instance.base_url)
            libraries.append((library.release, unpack(data, library.release.package)))
        files: dict[str, bytes] = {}
        extensions: dict[str, Path] = {}
        for need in instance.wheels:
            file = wheels.choose(need)
            data = await self._obtainer.wheel(file, need, instance.base_url)
            # In a thread: a large one takes a while to unpack and to be held against its RECORD.
            found = await asyncio.to_thread(wheels.read, file, need, data, native=instance.granted.native)
            wheels.merge(files, found, file.filename)
            extensions |= await asyncio.to_thread(natives.lay_out, self._cache, file.sha256, found)
        packages = [each.package for each, _ in [(release, own), *libraries]]
        tops = {path.split("/", 1)[0].removesuffix(".py") for path in files}
        for number, package in enumerate(packages):
            if package in tops or package in packages[:number]:
                raise PluginRejected(
                    "PluginLoadFailed",
                    f"{release.name} {release.version} has two packages {package} among its own, its plugins' and its wheels'. "
                    "Rename one of them.",
                )
        return PluginCode(
            release,
            own,
            libraries=libraries,
            wheels=files,
            extensions=extensions,
            granted=instance.granted,
            replaced={"asyncio": make_asyncio(context.owned)},
        )

    def _rejected(self, release: Release, error: Exception, reason: str, what: str) -> PluginRejected:
        refused = refusal_in(error)
        if refused is not None:
            return PluginRejected("PluginNotPermitted", f"{release.name} {release.version} {what}: {refused}")
        return PluginRejected(reason, f"{release.name} {release.version} {what}: {_said(error)}.")

    async def reconfigure(self, running: Running, instance: PluginInstance) -> bool:
        """Give a running plugin the configuration of another instance; return whether it took it.

        False: it has no `on_config`, or more than its configuration changed; a new instance has to take its place. Raises
        `PluginRejected` for a configuration that does not fit or that the plugin refuses; the former one stays in use.
        """
        plugin, context = running.plugin, running.context
        if not _is_same_code(running.instance, instance):
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
            rejected = PluginRejected(
                "PluginConfigInvalid",
                f"{instance.release.name} {instance.release.version} did not take the new configuration: {_said(error)}. "
                "The former one stays in use.",
            )
            raise _without(secrets.values(), rejected) from error
        running.instance = instance
        # What it was given before it may tell of still.
        running.secrets = tuple(dict.fromkeys((*secrets.values(), *running.secrets)))[:_SECRETS]
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


def _without(secrets: Iterable[str], rejected: PluginRejected) -> PluginRejected:
    """Return the same without the plugin's secrets, which errors of its own may tell."""
    return PluginRejected(rejected.reason, hide(rejected.message, secrets), retryable=rejected.retryable)


async def _awaited(plugin: Any, config: dict[str, Any]) -> None:
    result = plugin.on_config(config)
    if result is not None:
        await result


def _starting_with(prefix: str, secrets: dict[str, str]) -> dict[str, str]:
    return {name.removeprefix(prefix): value for name, value in secrets.items() if name.startswith(prefix)}


def _is_same_code(one: PluginInstance, other: PluginInstance) -> bool:
    """Return whether two instances run the same code with the same means. Signatures cover releases; addresses may change."""
    return _code_of(one) == _code_of(other)


def _code_of(instance: PluginInstance) -> tuple[object, ...]:
    libraries = [(each.release.sha256, each.release.signature, each.public_key) for each in instance.libraries]
    release = instance.release
    return (
        instance.id, release.sha256, release.signature, release.entry_point, instance.public_key, libraries, instance.wheels,
        instance.granted,
    )  # fmt: skip


def _said(error: Exception) -> str:
    if isinstance(error, PluginConfigError) and str(error):
        return str(error).rstrip(".")  # a sentence that the plugin's author wrote for whoever configures it
    return bounds.told(error)
