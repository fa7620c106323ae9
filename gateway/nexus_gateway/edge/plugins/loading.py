"""From the Snapshot's plugin instances to slots: fetch, verify, import, start; and what happens when one of these fails.

A failed new version leaves the previous one running. A plugin that never ran leaves its slot empty, and its failure
policy says what that means for requests. A candidate that fails is refused. Nothing here raises, and nothing outlives its deadline.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from msgspec.structs import replace
from nexus_core.snapshot import CandidateReport, PluginInstance, PluginReport
from nexus_hosting.running import Running
from nexus_marketplace.rejections import PluginRejected

from nexus_gateway.edge.measurements import Spread
from nexus_gateway.edge.plugins.meters import Meter
from nexus_gateway.edge.plugins.slots import Known, Slot
from nexus_gateway.edge.plugins.trials import Trial

log = logging.getLogger("nexus.gateway.plugins")

RETRY_S = 15.0
"""A retryable failure (the marketplace is away) is tried again after this long, and not with each Snapshot before it."""
_AT_ONCE = 4
_AWAY = frozenset({"PluginFetchFailed", "MarketplaceUnreachable", "PluginDigestMismatch"})
"""Failures that, where they are retryable, say nothing of a release itself, but of the place it is fetched from: its candidate waits.
Others refuse it."""


class Starts(Protocol):
    """What makes plugins of instances; `nexus_hosting.starting.Starter` is it."""

    async def start(self, instance: PluginInstance) -> Running:
        """Return the plugin, started. Raises `PluginRejected`."""
        ...

    async def reconfigure(self, running: Running, instance: PluginInstance) -> bool:
        """Return whether the running plugin took a new configuration by itself. Raises `PluginRejected` when it refused it."""
        ...


class Failures(Protocol):
    """Where failures are counted; `edge.measurements.Measurements` is one."""

    def failed(self, plugin: str, hook: str) -> None:
        """Count a call that failed."""
        ...


class _Observed:
    """Durations by version, failures by plugin."""

    def __init__(self, meter: Meter, observe: Failures) -> None:
        self._meter = meter
        self._observe = observe

    def spread(self, plugin: str, hook: str) -> Spread:
        return self._meter.spread(hook)

    def failed(self, plugin: str, hook: str) -> None:
        self._observe.failed(plugin, hook)


class Loader:
    """Makes the slots of one gateway."""

    def __init__(self, starter: Starts, observe: Failures, changed: Callable[[Trial], None] = lambda _: None) -> None:
        """observe: where failures are counted. changed: told of verdicts; see `Trial`."""
        self._starter = starter
        self._observe = observe
        self._changed = changed
        self._known = Known()
        self._failed: dict[str, _Failure] = {}
        self._candidates: dict[str, _Failure] = {}
        self._renewed: set[str] = set()

    async def slots(self, instances: Sequence[PluginInstance], former: Mapping[str, Slot]) -> dict[str, Slot]:
        """Return the slot of each instance by id. former: the live runtime's slots, whose plugins are kept where unchanged.

        A slot of which nothing changed is the same object: rules that use it need not be compiled anew.
        """
        gate = asyncio.Semaphore(_AT_ONCE)
        wanted = {instance.id for instance in instances}
        for failures in (self._failed, self._candidates):
            for plugin in failures.keys() - wanted:
                del failures[plugin]
        self._renewed &= wanted

        async def one(instance: PluginInstance) -> Slot:
            async with gate:
                return await self._slot(instance, former.get(instance.id))

        made = await asyncio.gather(*(one(instance) for instance in instances))
        return {slot.instance.id: slot for slot in made}

    def retry_in_s(self, now: float) -> float | None:
        """Return when a retryable failure is due again; None when there is none."""
        due = [each.due_at - now for failures in (self._failed, self._candidates) for each in failures.values()]
        soonest = min(due, default=float("inf"))
        return max(soonest, 0.0) if soonest < float("inf") else None

    def renew(self, plugin: str) -> None:
        """Start this plugin anew with the next Snapshot, be it the same one: what it holds is to be let go."""
        self._renewed.add(plugin)

    async def _slot(self, instance: PluginInstance, former: Slot | None) -> Slot:
        now = asyncio.get_running_loop().time()
        renew = instance.id in self._renewed
        if former is not None and former.instance == instance and not renew and not self._is_due(instance.id, now):
            return former
        running, report = await self._stable(instance, former, renew)
        meter = self._meter(instance, running, former, now)
        slot = Slot(instance, running, report, _Observed(meter, self._observe), self._known, meter)
        if instance.candidate is not None:
            await self._try(slot, instance.candidate.instance, former, now)
        else:
            self._candidates.pop(instance.id, None)
        return slot

    def _is_due(self, plugin: str, now: float) -> bool:
        return any(
            plugin in failures and now >= failures[plugin].due_at for failures in (self._failed, self._candidates)
        )

    async def _stable(
        self, instance: PluginInstance, former: Slot | None, renew: bool
    ) -> tuple[Running | None, PluginReport]:
        """Return what runs of an instance, and its report."""
        loaded = PluginReport("loaded", instance.release.version)
        running = former.running if former is not None else None
        try:
            if instance.lacking is not None:
                # With the next Snapshot that has a release; until then there is nothing to try again.
                self._failed.pop(instance.id, None)
                self._renewed.discard(instance.id)
                raise PluginRejected(instance.lacking.reason, instance.lacking.message)
            if not renew:
                for each in (running, _tried(former)):
                    # The second: a candidate that proved itself takes over as it is.
                    if each is not None and is_same(each.instance, instance):
                        self._failed.pop(instance.id, None)
                        # Nothing of its configuration; its budgets may be others.
                        await self._starter.reconfigure(each, instance)
                        return each, loaded
                if (
                    running is not None
                    and differs_in_config(running.instance, instance)
                    and await self._reconfigure(running, instance)
                ):
                    return running, loaded
            fresh = await self._load(instance, self._failed)
            self._renewed.discard(instance.id)
            return fresh, loaded
        except PluginRejected as rejected:
            log.warning("plugin %s: %s (%s)", instance.id, rejected.message, rejected.reason)
            if running is None:
                return None, PluginReport("failed", "", rejected.reason, rejected.message)
            running.bind(instance)
            version = running.instance.release.version
            return running, PluginReport("previous", version, rejected.reason, rejected.message)

    async def _reconfigure(self, running: Running, instance: PluginInstance) -> bool:
        now = asyncio.get_running_loop().time()
        known = self._failed.get(instance.id)
        if known is not None and known.instance == instance and now < known.due_at:
            raise known.rejected
        try:
            taken = await self._starter.reconfigure(running, instance)
        except PluginRejected as rejected:
            self._failed[instance.id] = _Failure(instance, now, rejected)
            raise
        if taken:
            self._failed.pop(instance.id, None)
        return taken

    async def _load(self, instance: PluginInstance, failures: dict[str, _Failure]) -> Running:
        now = asyncio.get_running_loop().time()
        known = failures.get(instance.id)
        if known is not None and known.instance == instance and now < known.due_at:
            raise known.rejected
        try:
            running = await self._starter.start(instance)
        except PluginRejected as rejected:
            failures[instance.id] = _Failure(instance, now, rejected)
            raise
        failures.pop(instance.id, None)
        return running

    async def _try(self, slot: Slot, wanted: PluginInstance, former: Slot | None, now: float) -> None:
        """Put a candidate beside a slot, unless it had its last word already."""
        terms = slot.instance.candidate
        assert terms is not None
        before = former.trial if former is not None else None
        if before is not None and is_same(before.candidate.instance, wanted):
            if before.report.state == "refused":
                slot.report = replace(slot.report, candidate=before.report)
                return
            running = before.candidate.running
        else:
            said = former.report.candidate if former is not None else None
            if said is not None and said.state == "refused" and former is not None and _tried_the_same(former, wanted):
                slot.report = replace(slot.report, candidate=said)
                return
            try:
                running = await self._load(wanted, self._candidates)
            except PluginRejected as rejected:
                version, why = wanted.release.version, f"{rejected.message} ({rejected.reason})"
                log.warning("plugin %s: its candidate %s cannot be tried: %s", wanted.id, version, why)
                waits = rejected.retryable and rejected.reason in _AWAY
                report = CandidateReport(version, "running" if waits else "refused", rejected.reason, rejected.message)
                if not waits:
                    self._candidates.pop(wanted.id, None)
                slot.report = replace(slot.report, candidate=report)
                return
        meter = self._meter(wanted, running, before.candidate if before is not None else None, now)
        loaded = PluginReport("loaded", wanted.release.version)
        beside = Slot(wanted, running, loaded, _Observed(meter, self._observe), self._known, meter)
        beside.is_candidate = True
        slot.trial = Trial(slot, beside, terms, now, self._changed)
        if before is not None and is_same_trial(before, slot.trial):
            slot.trial.go_on_from(before)
        slot.report = replace(slot.report, candidate=slot.trial.report)

    def _meter(self, instance: PluginInstance, running: Running | None, former: Slot | None, now: float) -> Meter:
        """Return what counts for a plugin: as long as it runs with the same budgets the same one."""
        beside = former.trial.candidate if former is not None and former.trial is not None else None
        for each in (former, beside):
            if each is not None and each.running is running and each.meter.budgets == instance.budgets:
                return each.meter
        version = running.instance.release.version if running is not None else ""
        same = (
            each
            for each in (former, beside)
            if each is not None and each.running is not None and each.running.instance.release.version == version
        )
        former_one = next(same, None)
        return Meter(instance.budgets, now, former_one.meter if former_one is not None else None)


class _Failure:
    """instance: which could not be loaded. due_at: when that is tried again, never for what would fail again."""

    __slots__ = ("due_at", "instance", "rejected")

    def __init__(self, instance: PluginInstance, at: float, rejected: PluginRejected) -> None:
        self.instance = instance
        self.rejected = rejected
        self.due_at = at + RETRY_S if rejected.retryable else float("inf")


def is_same(one: PluginInstance, other: PluginInstance) -> bool:
    """Return whether a plugin that runs as one instance is what the other wants; order, time, policy and budgets are the slot's."""
    return one is other or (one.config == other.config and one.sealed == other.sealed and _same_code(one, other))


def is_same_trial(one: Trial, other: Trial) -> bool:
    """Return whether the same plugins are held against each other by the same terms."""
    return (
        one.stable.meter is other.stable.meter
        and one.candidate.meter is other.candidate.meter
        and replace(one.terms, instance=other.terms.instance) == other.terms
    )


def differs_in_config(one: PluginInstance, other: PluginInstance) -> bool:
    """Return whether only the configuration of two instances differs."""
    return (one.config, one.sealed) != (other.config, other.sealed) and _same_code(one, other)


def _same_code(one: PluginInstance, other: PluginInstance) -> bool:
    return (
        one.release.sha256 == other.release.sha256
        and one.release.entry_point == other.release.entry_point
        and one.release.signature == other.release.signature
        and one.public_key == other.public_key
        and one.libraries == other.libraries
        and one.wheels == other.wheels
        and one.granted == other.granted
    )


def _tried(former: Slot | None) -> Running | None:
    """Return the candidate that is with requests now, if there is one."""
    if former is None or former.trial is None or former.trial.report.state == "refused":
        return None
    return former.trial.candidate.running


def _tried_the_same(former: Slot, wanted: PluginInstance) -> bool:
    terms = former.instance.candidate
    return terms is not None and is_same(terms.instance, wanted)
