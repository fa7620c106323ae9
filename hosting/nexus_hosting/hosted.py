"""The plugins of one service: started and replaced while it serves, and asked at its own phases.

For whoever is not the gateway: its hooks run some hundred times a second, so a task for each call that waits is no matter. One
failing version leaves the one before it running; a plugin that never ran, or that is disabled for it went beyond a budget, is judged
by its failure policy.
"""

from __future__ import annotations

import asyncio
import dataclasses
import inspect
import logging
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from time import monotonic
from typing import Any, Protocol, TypeVar

from nexus_core.hooks import Event, Operation, Plugin, Refusal, Resolved
from nexus_core.snapshot import PluginInstance, PluginReport
from nexus_marketplace.rejections import PluginRejected

from nexus_hosting import bounds
from nexus_hosting.calls import Held, driven
from nexus_hosting.costs import cost_of
from nexus_hosting.ending import in_time
from nexus_hosting.meters import Budget, Meter, State, disabled_report
from nexus_hosting.permits import Permits, granted_to
from nexus_hosting.running import Running
from nexus_hosting.watching import watch

log = logging.getLogger("nexus.plugins")

T = TypeVar("T")

_RESULTS: dict[str, tuple[type[Any], ...]] = {
    "on_event_accepted": (Event, Refusal),
    "on_event_delivered": (type(None),),
    "on_event_dead_lettered": (type(None),),
    "on_operation_parsed": (Operation, Refusal),
    "on_operation_resolved": (Resolved,),
}
HOOKS = frozenset(_RESULTS)
"""What services call."""


class Unavailable(Exception):
    """A plugin could not do its part and fails closed. plugin: its id."""

    def __init__(self, plugin: str) -> None:
        super().__init__(
            f"The plugin {plugin} does not run and its failure policy is closed. Its NexusPlugin says why."
        )
        self.plugin = plugin


class Starts(Protocol):
    """Starts plugins; `nexus_hosting.starting.Starter` does."""

    async def start(self, instance: PluginInstance) -> Running:
        """Return the plugin, started. Raises `PluginRejected`."""
        ...

    async def reconfigure(self, running: Running, instance: PluginInstance) -> bool:
        """Give a running plugin another configuration; False when another instance has to take its place. Raises `PluginRejected`."""
        ...


class Observe(Protocol):
    """Told of each call. failed: whether it raised, was too slow or returned what it may not."""

    def __call__(self, plugin: str, hook: str, seconds: float, *, failed: bool) -> None: ...


def _unseen(plugin: str, hook: str, seconds: float, *, failed: bool) -> None:
    pass


class _Seat:
    """One plugin's place. running: None while it never ran. trouble: (reason, message), why it does not run as declared. meter: counts
    its calls, and says whether it is called. spent: it holds too much memory, so another instance has to take its place.
    """

    __slots__ = ("_permits", "instance", "meter", "running", "spent", "trouble")

    def __init__(
        self,
        instance: PluginInstance,
        running: Running | None,
        meter: Meter,
        trouble: tuple[str, str] | None = None,
        *,
        spent: bool = False,
    ) -> None:
        self.instance = instance
        self.running = running
        self.meter = meter
        self.trouble = trouble
        self.spent = spent
        permits = Permits(granted_to(running.instance, instance) if running is not None else instance.granted)
        self._permits = permits if permits.limits else None

    def bound(self, running: Running, hook: str) -> Callable[..., Any]:
        """Return the hook as it is called: with what the plugin may see."""
        found: Callable[..., Any] = getattr(running.plugin, hook)
        return found if self._permits is None else self._permits.guard(hook, found)

    def overrides(self, hook: str) -> bool:
        """Whether the plugin has the hook; one that does not run is taken at its release's word."""
        if self.running is None:
            return hook in self.instance.release.hooks
        return getattr(type(self.running.plugin), hook, None) is not getattr(Plugin, hook)


class Hosted:
    """The plugins of one process. `take` what is wanted; `change` and `tell` call them, in order or in reverse.

    changed: set when `reports` may say something else than before.
    """

    def __init__(self, starter: Starts, observe: Observe = _unseen, clock: Callable[[], float] = monotonic) -> None:
        self.changed = asyncio.Event()
        self._starter = starter
        self._observe = observe
        self._clock = clock
        self._seats: tuple[_Seat, ...] = ()
        self._turn = asyncio.Lock()
        self._retiring: set[asyncio.Task[None]] = set()

    @property
    def troubles(self) -> dict[str, str]:
        """What does not run as it should, by plugin id."""
        return {seat.instance.id: ": ".join(seat.trouble) for seat in self._seats if seat.trouble is not None}

    @property
    def disabled(self) -> Mapping[str, bool]:
        """Whether each plugin that runs is not called now, for it went beyond a budget; by plugin id."""
        return {seat.instance.id: not seat.meter.open for seat in self._seats if seat.running is not None}

    def reports(self) -> dict[str, PluginReport]:
        """Return how each plugin does, as a gateway's acknowledgement says it; by plugin id."""
        now, now_utc = self._clock(), datetime.now(UTC)
        return {seat.instance.id: _report(seat, now, now_utc) for seat in self._seats}

    def costs(self) -> list[dict[str, Any]]:
        """Return a row for each plugin, in running order: what runs, how it does, and what it costs, named as in a gateway's `/plugins`.

        No row says why: reasons have addresses and settings in them, and who asks a service is as a rule a client.
        """
        now, now_utc = self._clock(), datetime.now(UTC)
        return [_row(seat, now, now_utc) for seat in self._seats]

    def hears(self, hook: str) -> bool:
        """Return whether any plugin has the hook: where none has, nothing needs to be made for them."""
        return any(seat.overrides(hook) for seat in self._seats)

    async def take(self, instances: Sequence[PluginInstance]) -> bool:
        """Run these from now on, in their order. Return whether all run as they should; else it is worth to try again later."""
        async with self._turn:
            former = {seat.instance.id: seat for seat in self._seats}
            seats = [await self._seat(instance, former.get(instance.id)) for instance in instances]
            self._seats = tuple(seats)
            for seat in former.values():
                seat.meter.changed = None  # what calls that are under way bring is nothing of its successor's
            for seat in seats:
                self._oversee(seat)
            self.changed.set()
            kept = {id(seat.running) for seat in seats}
            for seat in former.values():
                if seat.running is not None and id(seat.running) not in kept:
                    self._retire(seat.running)
            return all(seat.trouble is None for seat in seats)

    async def _seat(self, instance: PluginInstance, former: _Seat | None) -> _Seat:
        running = former.running if former is not None else None
        spent = former is not None and former.spent
        if (
            former is not None
            and running is not None
            and not spent
            and not former.trouble
            and former.instance == instance
        ):
            return former
        try:
            if running is not None and not spent and await self._starter.reconfigure(running, instance):
                return _Seat(instance, running, Meter(instance.budgets, self._clock()))
            fresh = await self._starter.start(instance)
        except PluginRejected as rejected:
            log.warning("plugin %s: %s (%s)", instance.id, rejected.message, rejected.reason)
            if running is not None:
                running.bind(instance)
            # What goes on of it goes on as it was: disabled, if that is what it is.
            meter = former.meter if former is not None else Meter(instance.budgets, self._clock())
            return _Seat(instance, running, meter, (rejected.reason, rejected.message), spent=spent)
        fresh.acquire()
        return _Seat(instance, fresh, Meter(instance.budgets, self._clock()))

    def _oversee(self, seat: _Seat) -> None:
        def changed() -> None:
            report = _report(seat, self._clock(), datetime.now(UTC))
            if seat.meter.state is State.RUNNING:
                log.info("plugin %s goes on", seat.instance.id)
            else:
                log.warning("plugin %s: %s", seat.instance.id, report.message)
            self.changed.set()

        seat.meter.changed = changed

    def tick(self) -> bool:
        """Judge what time alone brings; call it a few times a second.

        Return whether a plugin has to be started anew: `take` does, given the same instances again.
        """
        now = self._clock()
        anew = False
        for seat in self._seats:
            if seat.running is None:
                continue
            meter = seat.meter
            meter.cost_bytes = seat.running.memory_bytes  # measured by the watchdog, in its own time
            excess = meter.excess
            if meter.state is State.DISABLED and excess is not None and excess.budget is Budget.MEMORY:
                # Calling it again would help nothing.
                if now >= excess.until:
                    # Should the start fail, not again before the same time is over.
                    meter.excess = dataclasses.replace(excess, until=now + meter.budgets.disabled_s)
                    seat.spent = anew = True
                continue
            meter.tick(now)
        return anew

    def _retire(self, running: Running) -> None:
        """Count a user out; the last one's plugin stops in the background: nobody who asked something waits for that."""
        if running.leave():
            task = asyncio.create_task(_end(running), name="retire plugin")
            self._retiring.add(task)
            task.add_done_callback(self._retiring.discard)

    async def close(self) -> None:
        """Stop all."""
        await self.take(())
        while self._retiring:
            await asyncio.wait(self._retiring)

    # ---- calling

    async def change(self, hook: str, value: T, make: Callable[[Any, T], Any]) -> T | Refusal:
        """Pass a value through the plugins that have the hook. make: calls it, given the bound hook and the value so far.

        Return what the last one made of it, or the first refusal. Raises `Unavailable`.
        """
        seats = self._seats if hook != "on_operation_resolved" else self._seats[::-1]
        for seat in seats:
            if not seat.overrides(hook):
                continue
            done, result = await self._call(seat, hook, lambda bound, value=value: make(bound, value))  # type: ignore[misc]
            if not done:
                if seat.instance.failure_policy == "closed":
                    raise Unavailable(seat.instance.id)
                continue
            if isinstance(result, Refusal):
                return result
            value = result
        return value

    async def tell(self, hook: str, make: Callable[[Any], Any]) -> None:
        """Tell the plugins that have the hook; what fails is logged and counted."""
        for seat in self._seats:
            if seat.overrides(hook):
                await self._call(seat, hook, make)

    async def _call(self, seat: _Seat, hook: str, make: Callable[[Any], Any]) -> tuple[bool, Any]:
        """Return whether the call did what it should, and its result."""
        running, meter = seat.running, seat.meter
        if running is None or not meter.open:
            return False, None
        running.acquire()
        held = Held()
        started = monotonic()
        failed, waits, left, said = True, False, False, ""
        try:
            watch.since, watch.who = started, seat
            try:
                result = make(seat.bound(running, hook))
            finally:
                watch.who = None
                held.seconds = monotonic() - started
            if inspect.isawaitable(result):
                waits = True
                result = await in_time(driven(result, seat, held), seat.instance.timeout_s)
            if not isinstance(result, _RESULTS[hook]):
                raise TypeError(f"{hook} returned {type(result).__name__}")
            failed = False
        except bounds.THROWN as error:
            if waits and bounds.is_cancelled(error):
                left = True
                raise  # whoever asked has left, which is no failure; what a plain function raises is its own
            said = running.told(error)
            log.warning("plugin %s failed in %s: %s", seat.instance.id, hook, said)
            return False, None
        finally:
            if not left:
                took_s = monotonic() - started
                meter.count(hook, took_s, held.seconds)
                if failed:
                    meter.failed(self._clock(), hook, said)
                self._observe(seat.instance.id, hook, took_s, failed=failed)
            self._retire(running)
        return True, result


async def _end(running: Running) -> None:
    try:
        await running.end()
    except Exception:
        log.exception("plugin %s could not be let go of", running.instance.id)


def _report(seat: _Seat, now: float, now_utc: datetime) -> PluginReport:
    """now, now_utc: the same moment, monotonic and as people read it."""
    version = seat.running.instance.release.version if seat.running is not None else ""
    disabled = disabled_report(seat.meter, version, now, now_utc) if seat.running is not None else None
    if disabled is not None:
        return disabled
    if seat.trouble is not None:
        return PluginReport("previous" if version else "failed", version, *seat.trouble)
    return PluginReport("loaded", version)


def _row(seat: _Seat, now: float, now_utc: datetime) -> dict[str, Any]:
    report = _report(seat, now, now_utc)
    return {
        "id": seat.instance.id,
        "plugin": seat.instance.release.name,
        "version": seat.instance.release.version,
        "state": report.state,
        "running_version": report.version,
        **cost_of((seat.meter,) if seat.running is not None else (), now),
        "memory_bytes": seat.meter.cost_bytes,
    }
