"""Requests that may get a second attempt: looked at again when their upstream's usual response time is over."""

from __future__ import annotations

import asyncio
from heapq import heappop, heappush
from time import monotonic
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nexus_gateway.edge.trying import Trying

_MAX_WAITING = 65536
_MIN_PAUSE_S = 0.001


class Hedges:
    """One timer for all of them: most requests are answered before their time and cost a heap entry, no timer handle."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: list[tuple[float, int, Trying]] = []
        self._count = 0
        self._timer: asyncio.TimerHandle | None = None
        self._due_at = 0.0

    def after(self, delay_s: float, exchange: Trying, now: float) -> None:
        """Call `exchange.hedge_now` after this long."""
        if len(self._waiting) >= _MAX_WAITING:
            return  # so many requests in flight: a second attempt is the last thing their upstreams need
        self._count += 1
        due_at = now + delay_s
        heappush(self._waiting, (due_at, self._count, exchange))
        if self._timer is None or due_at < self._due_at:
            self._arm(due_at, now)

    def _arm(self, due_at: float, now: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._due_at = due_at
        self._timer = self._loop.call_later(max(due_at - now, _MIN_PAUSE_S), self._turn)

    def _turn(self) -> None:
        self._timer = None
        now = monotonic()
        waiting = self._waiting
        while waiting and waiting[0][0] <= now:
            _, _, exchange = heappop(waiting)
            if not exchange.over:
                exchange.hedge_now(now)
        if waiting:
            self._arm(waiting[0][0], now)

    def close(self) -> None:
        """Forget everybody."""
        self._waiting.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
