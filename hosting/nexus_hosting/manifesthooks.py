"""Plugins' hooks on manifests, each plugin in a process of its own, asked for many objects at once.

What a hook made of an object is kept by the object's content: a round in which nothing changed asks nobody. A plugin that cannot be
asked follows its failure policy, object by object, and is told of in the conditions of its NexusPlugin.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import math
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import msgspec
from nexus_core.hooks.manifests import Manifest
from nexus_core.hooks.refusals import Refusal
from nexus_core.model.resources import Resource
from nexus_core.problems import ObjectRef, Problem
from nexus_core.snapshot import PluginInstance, Snapshot
from nexus_core.translate.hooked import KINDS, ManifestHook
from nexus_marketplace.rejections import PluginRejected

from nexus_hosting.asides import Aside, AsideGone
from nexus_hosting.hooking import Answer, Answers, Asked, Order

log = logging.getLogger(__name__)
HOOK = "on_manifest"
START_S = 20.0
"""To be fetched, loaded and started."""
BATCH = 200
BATCH_S = 5.0
"""Longest time for a batch. A route of many is done in fractions of a millisecond."""
RETRY_S = 60.0
"""After a plugin failed as a whole: each try holds up the rounds for as long as it may take."""
SPARE = 1000
"""Answers that are kept beyond four for each object."""


class HookFailed(Exception):
    """The plugin gave no answer for an object."""


@dataclass(eq=False, slots=True)
class _Hook:
    """Answers by the digest of what was asked. The same object for as long as the plugin would answer the same."""

    name: str
    namespace: str
    failure_policy: Literal["open", "closed"]
    answers: dict[bytes, Answer] = field(default_factory=dict)
    trouble: str = ""

    def call(self, manifest: Manifest) -> Manifest | Refusal:
        """See `ManifestHook.call`. Raises HookFailed."""
        answer = self.answers.get(_digest(manifest))
        if answer is None:
            raise HookFailed(self.trouble or "it was not asked")
        if answer.error:
            raise HookFailed(answer.error)
        if answer.manifest is None:
            return Refusal(answer.reason, answer.message)
        made = answer.manifest
        return Manifest(made.kind, made.namespace, made.name, made.spec, made.labels, made.annotations)


@dataclass(slots=True)
class _Host:
    """A plugin. instance: without what its hooks on manifests do not have. failed_at: monotonic."""

    instance: PluginInstance
    aside: Aside
    hook: _Hook
    started: bool = False
    failed_at: float | None = None
    reason: str = ""


class ManifestHooks:
    """The hooks of one process that translates: an operator, or who reads manifests for a gateway. Owns processes: call `close()`."""

    def __init__(self, cache: Path, obtain: Callable[[PluginInstance], Awaitable[None]] | None = None) -> None:
        """cache: directory of artefacts. obtain: puts a plugin's files into it, from places that a plugin's process does not reach; raises
        `PluginRejected`.
        """
        self._cache = cache
        self._obtain = obtain
        self._hosts: dict[str, _Host] = {}
        self._seen: dict[ObjectRef, tuple[Resource, tuple[_Hook, ...]]] = {}

    @property
    def problems(self) -> tuple[Problem, ...]:
        """What is wrong with plugins that have the hook."""
        found = []
        for name, host in sorted(self._hosts.items()):
            failed = [f"{answer.error}" for answer in host.hook.answers.values() if answer.error]
            what = host.hook.trouble
            if not what and failed:
                what = f"It failed at {len(failed)} objects: {failed[0]}"
            if what:
                policy = (
                    "they are translated as they were applied"
                    if host.hook.failure_policy == "open"
                    else "they are not accepted, and their last good versions keep serving"
                )
                fix = f"Objects that it does not answer for: {policy}. Mend or disable the plugin."
                namespace, _, plugin = name.partition("/")
                ref = ObjectRef("NexusPlugin", namespace, plugin)
                found.append(Problem(ref, ".", host.reason or "PluginFailed", f"{HOOK}: {what.rstrip('.')}.", fix))
        return tuple(found)

    def is_current(self, snapshot: Snapshot) -> bool:
        """Whether the hooks that were prepared last are those of this Snapshot's plugins."""
        return {name: host.instance for name, host in self._hosts.items()} == _instances(snapshot)

    def retry_in_s(self) -> float:
        """Seconds until a plugin that failed as a whole is to be tried again, by `prepare`; infinite without one."""
        failed = [host.failed_at for host in self._hosts.values() if host.failed_at is not None]
        return max(0.0, min(failed) + RETRY_S - time.monotonic()) if failed else math.inf

    async def prepare(self, snapshot: Snapshot | None, resources: Iterable[Resource]) -> tuple[ManifestHook, ...]:
        """Return the hooks of a Snapshot's plugins, in running order, with an answer for each of these objects, as far as they gave one."""
        wanted = _instances(snapshot) if snapshot is not None else {}
        for name in [n for n, host in self._hosts.items() if wanted.get(n) != host.instance]:
            await self._hosts.pop(name).aside.close()
        now = time.monotonic()
        for name, instance in wanted.items():
            host = self._hosts.get(name)
            if host is None:
                self._hosts[name] = self._host(instance)
            elif host.failed_at is not None and now - host.failed_at >= RETRY_S:
                await host.aside.close()
                self._hosts[name] = self._host(instance)
        hosts = [self._hosts[name] for name in sorted(wanted, key=lambda n: (wanted[n].order, n))]
        if hosts:
            await self._ask(hosts, [r for r in resources if (r.group, r.ref.kind) in KINDS])
        else:
            self._seen = {}
        return tuple(host.hook for host in hosts)

    async def close(self) -> None:
        """End all processes."""
        hosts, self._hosts = list(self._hosts.values()), {}
        for host in hosts:
            await host.aside.close()

    def _host(self, instance: PluginInstance) -> _Host:
        hook = _Hook(instance.id, instance.id.partition("/")[0], instance.failure_policy)
        return _Host(instance, Aside("nexus_hosting.hooking", str(self._cache)), hook)

    async def _ask(self, hosts: Sequence[_Host], resources: Sequence[Resource]) -> None:
        """Have the hosts' hooks know all of these objects: the second one's as the first one leaves them, and so on."""
        by_namespace: dict[str, tuple[_Hook, ...]] = {}
        for host in hosts:
            if len(host.hook.answers) > 4 * len(resources) + SPARE:
                host.hook = _Hook(host.hook.name, host.hook.namespace, host.hook.failure_policy)
            by_namespace[host.hook.namespace] = (*by_namespace.get(host.hook.namespace, ()), host.hook)
        seen: dict[ObjectRef, tuple[Resource, tuple[_Hook, ...]]] = {}
        open_: list[tuple[Resource, Manifest]] = []
        for resource in resources:
            hooks = by_namespace.get(resource.ref.namespace)
            spec = resource.raw.get("spec") if hooks is not None else None
            if hooks is None or not isinstance(spec, Mapping):
                continue
            known = self._seen.get(resource.ref)
            if known is None or known[0] is not resource or known[1] != hooks:
                open_.append((resource, _manifest(resource, spec)))
            seen[resource.ref] = (resource, hooks)
        for host in hosts:
            mine = [each for each in open_ if each[0].ref.namespace == host.hook.namespace]
            new: dict[bytes, Manifest] = {}
            for _, manifest in mine:
                digest = _digest(manifest)
                if digest not in host.hook.answers:
                    new[digest] = manifest
            if new:
                await self._run(host, new)
            gone: set[int] = set()
            after: dict[int, Manifest] = {}
            for resource, manifest in mine:
                try:
                    answer = host.hook.call(manifest)
                except HookFailed:
                    if host.hook.failure_policy == "closed":
                        gone.add(id(resource))
                    continue
                if isinstance(answer, Refusal):
                    gone.add(id(resource))
                else:
                    after[id(resource)] = answer
            open_ = [(r, after.get(id(r), m)) for r, m in open_ if id(r) not in gone]
        # What a plugin that is in trouble did not answer is asked again by the one that takes its place: that is another hook.
        self._seen = seen

    async def _run(self, host: _Host, manifests: Mapping[bytes, Manifest]) -> None:
        if host.failed_at is not None:
            return
        items = list(manifests.items())
        batches = [items[at : at + BATCH] for at in range(0, len(items), BATCH)]
        try:
            if not host.started:
                await self._fetch(host)
                await self._order(host, (), START_S)
                host.started = True
            for batch in batches:
                asked = [Asked(m.kind, m.namespace, m.name, *_parts(m)) for _, m in batch]
                seconds = min(BATCH_S, max(1.0, len(asked) * host.instance.timeout_s))
                answers = await self._order(host, asked, seconds)
                host.hook.answers.update(zip((digest for digest, _ in batch), answers, strict=True))
        except HookFailed as err:
            host.failed_at = time.monotonic()
            host.hook.trouble = str(err)
            log.warning("plugin %s: %s: %s", host.instance.id, HOOK, err)
            await host.aside.close()

    async def _fetch(self, host: _Host) -> None:
        """Raises HookFailed."""
        if self._obtain is None:
            return
        try:
            async with asyncio.timeout(START_S):
                await self._obtain(host.instance)
        except PluginRejected as err:
            host.reason = err.reason
            raise HookFailed(err.message) from err
        except TimeoutError as err:
            raise HookFailed(f"its files could not be had within {START_S:g} s") from err

    async def _order(self, host: _Host, asked: Sequence[Asked], seconds: float) -> list[Answer]:
        """Raises HookFailed when the plugin does not answer as it should; its process is then of no use."""
        body = msgspec.json.encode(Order(host.instance, list(asked)))
        try:
            async with asyncio.timeout(seconds):
                said = await host.aside.call(lambda _: body)
        except TimeoutError as err:
            raise HookFailed(f"it did not answer for {len(asked)} objects within {seconds:g} s") from err
        except AsideGone as err:
            raise HookFailed(str(err)) from err
        try:
            answers = msgspec.json.decode(said, type=Answers)
        except (msgspec.DecodeError, UnicodeDecodeError) as err:
            raise HookFailed(f"its process answered with something else ({err})") from err
        if answers.reason:
            host.reason = answers.reason
            raise HookFailed(answers.message)
        if len(answers.answers) != len(asked):
            raise HookFailed(f"it answered for {len(answers.answers)} of {len(asked)} objects")
        return answers.answers


def _instances(snapshot: Snapshot) -> dict[str, PluginInstance]:
    """Those with the hook, by id. Without candidates: two versions that change manifests by turns would be no share of anything. And
    without secrets: they are sealed for gateways.
    """
    return {
        each.id: msgspec.structs.replace(each, candidate=None, sealed=())
        for each in snapshot.plugins
        if HOOK in each.release.hooks
    }


def _manifest(resource: Resource, spec: Mapping[str, Any]) -> Manifest:
    ref = resource.ref
    return Manifest(ref.kind, ref.namespace, ref.name, spec, dict(resource.labels), dict(resource.annotations))


def _parts(manifest: Manifest) -> tuple[dict[str, Any], dict[str, str], dict[str, str]]:
    return dict(manifest.spec), dict(manifest.labels), dict(manifest.annotations)


def _digest(manifest: Manifest) -> bytes:
    told = (manifest.kind, manifest.namespace, manifest.name, *_parts(manifest))
    return hashlib.sha256(msgspec.json.encode(told, order="sorted")).digest()
