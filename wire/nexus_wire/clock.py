"""Coarse time: one timer serves the deadlines of every connection.

A request that moves its connection's deadline only writes an attribute. Each connection is looked at once a second, or
sooner when its deadline is nearer, so a deadline is kept to within `TICK_S`, and one that was moved nearer after the
last look has to be announced with `soon`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

TICK_S = 0.1
NEVER = 1 << 62
"""A deadline that never comes, in ticks."""
_SLOTS = 256
_LOOK_TICKS = 10


def ticks_of(seconds: float) -> int:
    """Return how many ticks on `seconds` are over, never sooner; for 0 a number that lies beyond every deadline."""
    return 1 + int(seconds / TICK_S + 0.999) if seconds else NEVER >> 1


class Timed(Protocol):
    """What has a deadline. deadline: in ticks of the clock. closed: it needs no more looks."""

    deadline: int
    closed: bool

    def on_deadline(self) -> None:
        """The deadline is over. Set a later one, or close."""
        ...


class Clock:
    """tick: now, in `TICK_S` steps since the clock was made.

    After a loop was held up, it says when that began until the clock's own turn comes, which may be after what was read meanwhile. A
    deadline that is counted from it then comes too early: who blames somebody for a short one makes sure that its time is over.
    """

    __slots__ = (
        "_held_up", "_looked", "_loop", "_short", "_started_at", "_timer", "_wheel", "every_second", "every_tick", "tick",
    )  # fmt: skip

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._started_at = loop.time()
        self.tick = 0
        self._looked = 0
        """The tick whose deadlines were looked at last."""
        self._held_up = False
        self._wheel: list[list[Timed]] = [[] for _ in range(_SLOTS)]
        self._short: list[list[Timed]] = [[] for _ in range(_SLOTS)]
        self.every_second: list[Callable[[], None]] = []
        """Called about once a second."""
        self.every_tick: list[Callable[[], None]] = []
        """Called at each tick; for what costs next to nothing."""
        self._timer: asyncio.TimerHandle | None = loop.call_later(TICK_S, self._turn)

    def stop(self) -> None:
        """Let go of the timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def at(self, seconds: float) -> int:
        """Return the tick at which `seconds` from now are over, never sooner; `NEVER` for 0.

        Counted from the loop's time: `tick` stands still while the loop is held up, and what is read right after that would have
        a deadline that is over already.
        """
        if not seconds:
            return NEVER
        return int((self._loop.time() - self._started_at) / TICK_S) + ticks_of(seconds)

    def watch(self, timed: Timed) -> None:
        """Look at a new connection from now on."""
        self._wheel[min(timed.deadline, self.tick + _LOOK_TICKS) & (_SLOTS - 1)].append(timed)

    def soon(self, timed: Timed) -> None:
        """Look at the deadline when it comes, even before the next regular look. Needed for less than a second."""
        if timed.deadline - self.tick <= _LOOK_TICKS:
            self._short[timed.deadline & (_SLOTS - 1)].append(timed)

    def _turn(self) -> None:
        until = int((self._loop.time() - self._started_at) / TICK_S)
        held_up, self._held_up = self._held_up, False
        self.tick = until
        if until - self._looked > 1 and not held_up:
            # The loop was held up. What came meanwhile was in time and is read first: uvloop has timers before it, asyncio has not.
            self._held_up = True
            self._timer = self._loop.call_later(0.001, self._turn)
            return
        # A loop that was held up for long makes up for at most one turn of the wheel: every slot is looked at once then.
        self._looked = max(self._looked, until - _SLOTS)
        try:
            while self._looked < until:
                self._looked += 1
                self._look(self._looked)
        finally:
            # Whatever happens: without its clock no deadline would hold any more.
            next_s = self._started_at + (self.tick + 1) * TICK_S - self._loop.time()
            self._timer = self._loop.call_later(max(next_s, 0.001), self._turn)

    def _look(self, now: int) -> None:
        slot = now & (_SLOTS - 1)
        due = self._short[slot]
        if due:
            self._short[slot] = []
            for timed in due:
                if not timed.closed and timed.deadline <= now:
                    self._call(timed.on_deadline)
        due = self._wheel[slot]
        if due:
            self._wheel[slot] = []
            for timed in due:
                if timed.closed:
                    continue
                if timed.deadline <= now:
                    self._call(timed.on_deadline)
                    if timed.closed:
                        continue
                ahead = timed.deadline - now
                # Never more than a second ahead: the next request may bring a nearer deadline than the one known now.
                self._wheel[(now + min(max(ahead, 1), _LOOK_TICKS)) & (_SLOTS - 1)].append(timed)
        for call in self.every_tick:
            self._call(call)
        if not now % 10:
            for call in self.every_second:
                self._call(call)

    def _call(self, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception as error:
            # One that fails must not cost the others their deadlines: whoever is not looked at now never is again.
            self._loop.call_exception_handler({"message": "a deadline's callback failed", "exception": error})
