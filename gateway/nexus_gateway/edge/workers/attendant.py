"""A worker's side of the supervision: says how it is, does what it is told."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable

from nexus_gateway.edge.workers.channel import BEAT_S, Channel, Order, State


class Attendant:
    """Runs beside a gateway in its event loop.

    leads: whether this worker does what one does for all. drain: set when it is to stop. handed_over: see `Order`.
    """

    def __init__(
        self,
        control: int,
        state: Callable[[], State],
        *,
        on_lead: Callable[[bool], None] | None = None,
        beat_s: float = BEAT_S,
    ) -> None:
        """control: descriptor of the supervisor's socket, owned from here on. state: called at every beat. on_lead: called
        when `leads` changes."""
        self._socket = socket.socket(fileno=control)
        self._state = state
        self._on_lead = on_lead
        self._beat_s = beat_s
        self._changed = asyncio.Event()
        self.leads = False
        self.handed_over = False
        self.drain = asyncio.Event()

    def changed(self) -> None:
        """Say at once how the worker is, rather than with the next beat."""
        self._changed.set()

    async def run(self) -> None:
        """Attend until cancelled. A supervisor that is gone is an order to drain: nobody would replace or stop this worker,
        and the next supervisor starts its own."""
        channel = await Channel.open(self._socket)
        beating = asyncio.create_task(self._beat(channel), name="beat")
        try:
            async for order in channel.messages(Order):
                self._obey(order)
            self._obey(Order(drain=True))
            await asyncio.Event().wait()
        finally:
            beating.cancel()
            await asyncio.gather(beating, return_exceptions=True)
            channel.close()

    def _obey(self, order: Order) -> None:
        if order.lead is not None and order.lead != self.leads:
            self.leads = order.lead
            if self._on_lead is not None:
                self._on_lead(order.lead)
        if order.drain:
            self.handed_over = self.handed_over or order.handed_over
            self.drain.set()

    async def _beat(self, channel: Channel) -> None:
        while True:
            self._changed.clear()
            channel.send(self._state())
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._beat_s):
                    await self._changed.wait()
