"""The timers of plugins: trials that end, budgets that are exceeded, and what then is told to whom.

What is decided is `trials`' and `meters`'; here are the clock, the reports and the candidates' end.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from msgspec.structs import replace
from nexus_core.snapshot import PluginReport, PluginStats
from nexus_hosting.running import Running

from nexus_gateway.edge.plugins.meters import Budget, Meter, State, disabled_report, stats_of
from nexus_gateway.edge.plugins.slots import Slot
from nexus_gateway.edge.plugins.trials import Trial

log = logging.getLogger("nexus.gateway.plugins")

TICK_S = 0.5
_COUNTS = 5
"""How often calls are counted while one tick passes: each time it takes the event loop as long as there were calls to count."""

Own = Callable[[Coroutine[Any, Any, None], str], None]
"""Runs work in the background; see `edge.tasks.Tasks.own`."""


@dataclass(slots=True)
class _Life:
    """One live slot. said: its report as it was loaded, without what became of it since."""

    slot: Slot
    said: PluginReport


class Overseer:
    """Looks after the plugins of the live Snapshot.

    changed: set when what the acknowledgement says of plugins is outdated. renewing: set when the live Snapshot is to be taken
    again, since plugins have to be started anew.
    """

    def __init__(self, own: Own, renew: Callable[[str], None], tick_s: float = TICK_S) -> None:
        """renew: told of each plugin that is to be started anew."""
        self.changed = asyncio.Event()
        self.renewing = asyncio.Event()
        self._own = own
        self._renew = renew
        self._tick_s = tick_s
        self._lives: dict[str, _Life] = {}

    # ---- what is live

    def live(self, slots: Mapping[str, Slot]) -> None:
        """Look after these from now on. Call it when their Snapshot goes live, on the event loop."""
        now = asyncio.get_running_loop().time()
        lives = {}
        for plugin, slot in slots.items():
            known = self._lives.get(plugin)
            life = known if known is not None and known.slot is slot else _Life(slot, slot.report)
            lives[plugin] = life
            slot.meter.changed = self._metered(life)
            if slot.running is not None:
                slot.running.over_memory = self._weighed
            if slot.trial is not None:
                slot.trial.begin(now)
                slot.trial.candidate.meter.changed = self._candidate_metered(slot.trial)
                if slot.trial.candidate.running is not None:
                    slot.trial.candidate.running.over_memory = self._weighed
            self._write(life)
        self._lives = lives

    def slots(self) -> Iterator[Slot]:
        """Yield those that are looked after, by id."""
        for _, life in sorted(self._lives.items()):
            yield life.slot

    def stats(self, now: float) -> dict[str, PluginStats]:
        """Return what each plugin did, with its candidate."""
        return {slot.instance.id: stats_of(meters(slot), now) for slot in self.slots() if slot.running is not None}

    # ---- time

    async def run(self) -> None:
        """Judge for ever."""
        clock = asyncio.get_running_loop().time
        while True:
            for _ in range(_COUNTS):
                await asyncio.sleep(self._tick_s / _COUNTS)
                self._count()
            self.tick(clock())

    def _count(self) -> None:
        """Count the calls. Not within `run`, which waits: its variables would keep the last plugin when it has been uninstalled."""
        for life in self._lives.values():
            for meter in meters(life.slot):
                meter.settle()

    def tick(self, now: float) -> None:
        """Judge once."""
        for life in tuple(self._lives.values()):
            slot = life.slot
            self._tick(slot, now)
            if slot.trial is not None:
                self._tick(slot.trial.candidate, now)
                slot.trial.look(now)

    def _tick(self, slot: Slot, now: float) -> None:
        if slot.running is None:
            return
        meter = slot.meter
        # Measured by the watchdog, in its own time.
        meter.cost_bytes = slot.running.memory_bytes
        excess = meter.excess
        if meter.state is State.DISABLED and excess is not None and excess.budget is Budget.MEMORY:
            # Calling it again would help nothing: another instance has to take its place.
            if now >= excess.until and not self.renewing.is_set():
                # Should that fail, not again before the same time is over.
                meter.excess = dataclasses.replace(excess, until=now + meter.budgets.disabled_s)
                self._renew(slot.instance.id)
                self.renewing.set()
            return
        meter.tick(now)

    # ---- what happened

    def tried(self, trial: Trial) -> None:
        """Take the verdict on a candidate, or the end of its last exchange after one."""
        life = self._lives.get(trial.stable.instance.id)
        if life is not None and life.slot.trial is trial and trial.report != life.slot.report.candidate:
            report = trial.report
            if report.state == "refused":
                log.warning(
                    "plugin %s: its candidate %s is refused: %s", life.slot.instance.id, report.version, report.message
                )
            else:
                log.info("plugin %s: its candidate %s passed its trial", life.slot.instance.id, report.version)
            self._write(life)
            self.changed.set()
        if trial.is_over:
            self._own(trial.stop(), "stop a candidate")

    def _weighed(self, _running: Running, _size: int) -> None:
        self.tick(asyncio.get_running_loop().time())

    def _metered(self, life: _Life) -> Callable[[], None]:
        def changed() -> None:
            self._write(life)
            slot = life.slot
            if slot.meter.state is State.RUNNING:
                log.info("plugin %s goes on", slot.instance.id)
            else:
                log.warning("plugin %s: %s", slot.instance.id, slot.report.message)
            self.changed.set()

        return changed

    def _candidate_metered(self, trial: Trial) -> Callable[[], None]:
        def changed() -> None:
            candidate = trial.candidate
            candidate.open = candidate.meter.open
            excess = candidate.meter.excess
            if excess is not None and candidate.meter.state is State.DISABLED:
                trial.refuse(excess.message)

        return changed

    def _write(self, life: _Life) -> None:
        """Bring a slot's report up to date."""
        slot, report = life.slot, life.said
        slot.open = slot.meter.open
        if slot.running is not None:
            version, now = slot.running.instance.release.version, asyncio.get_running_loop().time()
            report = disabled_report(slot.meter, version, now, datetime.now(UTC)) or report
        candidate = slot.trial.report if slot.trial is not None else life.said.candidate
        slot.report = replace(report, candidate=candidate)


def meters(slot: Slot) -> tuple[Meter, ...]:
    """Return what counts for a slot and its candidate."""
    return (slot.meter,) if slot.trial is None else (slot.meter, slot.trial.candidate.meter)


def by_version(slots: Iterable[Slot]) -> Iterator[tuple[str, str, Meter]]:
    """Yield (plugin, version, what counts) of everything that runs."""
    for slot in slots:
        for each in (slot, slot.trial.candidate if slot.trial is not None else None):
            if each is not None and each.running is not None:
                yield each.instance.id, each.running.instance.release.version, each.meter
