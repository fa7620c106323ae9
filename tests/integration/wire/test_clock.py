"""Deadlines of a loop that stands still for a while."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from time import sleep

import pytest
import uvloop
from nexus_wire.clock import Clock


class Answer(asyncio.Protocol):
    """An answer that somebody waits for until a deadline, and that comes while the loop stands still."""

    def __init__(self, clock: Clock) -> None:
        self.closed = False
        self.late = asyncio.Event()
        self.deadline = clock.at(0.2)
        self.said: list[str] = []
        self.ticks: list[int] = []
        self._clock = clock
        clock.watch(self)

    def data_received(self, data: bytes) -> None:
        self.said.append("read")
        self.ticks.append(self._clock.tick)

    def on_deadline(self) -> None:
        self.said.append("late")
        self.ticks.append(self._clock.tick)
        self.closed = True
        self.late.set()


class Blocking(asyncio.Protocol):
    """Holds the loop up where most work is done: while something is read."""

    def __init__(self, peer: socket.socket) -> None:
        self._peer = peer

    def data_received(self, data: bytes) -> None:
        self._peer.send(b"answer")
        sleep(0.6)


@pytest.mark.parametrize("make_loop", [uvloop.new_event_loop, asyncio.new_event_loop], ids=["uvloop", "asyncio"])
def test_what_comes_while_the_loop_is_held_up_is_read_before_deadlines_are_looked_at(
    make_loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    async def hold_up() -> Answer:
        loop = asyncio.get_running_loop()
        near, far = socket.socketpair()
        waking, woken = socket.socketpair()
        clock = Clock(loop)
        answering, answer = await loop.create_connection(lambda: Answer(clock), sock=near)
        blocked, _ = await loop.create_connection(lambda: Blocking(far), sock=woken)
        waking.send(b"x")
        async with asyncio.timeout(10):
            await answer.late.wait()
        clock.stop()
        for transport in (answering, blocked):
            transport.close()
        for each in (far, waking):
            each.close()
        await asyncio.sleep(0)
        return answer

    with asyncio.Runner(loop_factory=make_loop) as runner:
        answer = runner.run(hold_up())
    assert answer.said == ["read", "late"]
    assert answer.ticks[-1] >= 6, "what is done late is done at the time that it is"
