"""From the Snapshot's plugin instances to slots: fetch, verify, import, start; and what happens when one of these fails.

A failed new version leaves the previous one running. A plugin that never ran leaves its slot empty, and its failure
policy says what that means for requests. Nothing here raises, and nothing outlives its deadline.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from nexus_core.snapshot import PluginInstance, PluginReport
from nexus_hosting.judges import Judge
from nexus_hosting.running import Running
from nexus_hosting.starting import Starter
from nexus_marketplace.rejections import PluginRejected

from nexus_gateway.edge.plugins.slots import HookObserver, Known, Slot

log = logging.getLogger("nexus.gateway.plugins")

RETRY_S = 15.0
"""A retryable failure (the marketplace is away) is tried again after this long, and not with each Snapshot before it."""
_AT_ONCE = 4


class Loader:
    """Makes the slots of one gateway."""

    def __init__(self, cache: Path, observe: HookObserver, judge: Judge) -> None:
        """judge: says of each plugin whether it may run; closed by who made it."""
        self._starter = Starter(cache, judge)
        self._observe = observe
        self._known = Known()
        self._failed: dict[str, tuple[PluginInstance, float, PluginRejected]] = {}

    async def slots(self, instances: Sequence[PluginInstance], former: Mapping[str, Slot]) -> dict[str, Slot]:
        """Return the slot of each instance by id. former: the live runtime's slots, whose plugins are kept where unchanged."""
        gate = asyncio.Semaphore(_AT_ONCE)
        wanted = {instance.id for instance in instances}
        self._failed = {plugin: failure for plugin, failure in self._failed.items() if plugin in wanted}

        async def one(instance: PluginInstance) -> Slot:
            async with gate:
                return await self._slot(instance, former.get(instance.id))

        made = await asyncio.gather(*(one(instance) for instance in instances))
        return {slot.instance.id: slot for slot in made}

    def retry_in_s(self, now: float) -> float | None:
        """Return when a retryable failure is due again; None when there is none."""
        due = [at + RETRY_S - now for _, at, rejected in self._failed.values() if rejected.retryable]
        return max(min(due), 0.0) if due else None

    async def _slot(self, instance: PluginInstance, former: Slot | None) -> Slot:
        running = former.running if former is not None else None
        if running is not None and _same_code(running.instance, instance):
            loaded = PluginReport("loaded", instance.release.version)
            if former is not None and former.instance == instance and former.report == loaded:
                # The same object: rules that use it need not be compiled anew.
                return former
            return Slot(instance, running, PluginReport("loaded", instance.release.version), self._observe, self._known)
        try:
            fresh = await self._load(instance)
        except PluginRejected as rejected:
            log.warning("plugin %s: %s (%s)", instance.id, rejected.message, rejected.reason)
            if running is None:
                report = PluginReport("failed", "", rejected.reason, rejected.message)
            else:
                version = running.instance.release.version
                report = PluginReport("previous", version, rejected.reason, rejected.message)
            return Slot(instance, running, report, self._observe, self._known)
        return Slot(instance, fresh, PluginReport("loaded", instance.release.version), self._observe, self._known)

    async def _load(self, instance: PluginInstance) -> Running:
        now = asyncio.get_running_loop().time()
        failed = self._failed.get(instance.id)
        if failed is not None and failed[0] == instance and (not failed[2].retryable or now < failed[1] + RETRY_S):
            raise failed[2]
        try:
            running = await self._starter.start(instance)
        except PluginRejected as rejected:
            self._failed[instance.id] = (instance, now, rejected)
            raise
        self._failed.pop(instance.id, None)
        return running


def _same_code(one: PluginInstance, other: PluginInstance) -> bool:
    """Return whether the running plugin is what the other instance wants; order, timeouts and policy are the slot's."""
    return (
        one.release.sha256 == other.release.sha256
        and one.release.entry_point == other.release.entry_point
        and one.config == other.config
        and one.release.signature == other.release.signature
        and one.public_key == other.public_key
    )
