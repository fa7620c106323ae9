"""One worker process, as its supervisor sees it."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from nexus_gateway.edge.workers import handover
from nexus_gateway.edge.workers.brokers import Lender
from nexus_gateway.edge.workers.channel import Channel, Order, State
from nexus_gateway.edge.workers.handover import Handover

log = logging.getLogger("nexus.gateway.workers")

BOOTING = State(False, "starting", 0)


class Worker:
    """state: what it said last. said_at: when (loop time). ready: set once it has been ready. spoke: set with its first words.

    leaving: it was told to drain. ended: done when the process is gone; its result is the exit code (negative: the signal).
    """

    def __init__(
        self, given: Handover, process: asyncio.subprocess.Process, channel: Channel, changed: Callable[[], None]
    ) -> None:
        self.index = given.index
        self.serial = given.serial
        self.column = given.column
        self.admin = given.admin
        self.pid = process.pid
        self.state = BOOTING
        self.started_at = self.said_at = asyncio.get_running_loop().time()
        self.spoke = asyncio.Event()
        self.ready = asyncio.Event()
        self.leaving = False
        self._process = process
        self._channel = channel
        self._changed = changed
        self.ended: asyncio.Task[int] = asyncio.create_task(self._attend(), name=f"worker {self.index}.{self.serial}")

    @classmethod
    async def start(
        cls,
        command: Sequence[str],
        environ: Mapping[str, str],
        given: Handover,
        changed: Callable[[], None],
        lender: Lender,
    ) -> Worker:
        """Start the process. given: `control` and `broker` are filled in here. changed: called whenever its state changes.

        Raises OSError."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        lends, asks = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            given = replace(given, control=theirs.fileno(), broker=asks.fileno())
            passed = (given.control, given.broker, given.memory, given.plain, given.secure)
            kept = [each for each in passed if each is not None]
            process = await asyncio.create_subprocess_exec(
                *command,
                env={**environ, handover.VARIABLE: given.to_env()},
                pass_fds=kept,
                stdin=asyncio.subprocess.DEVNULL,
            )
        except BaseException:
            ours.close()
            lends.close()
            raise
        finally:
            theirs.close()
            asks.close()
        lender.attend(lends, given.index)
        worker = cls(given, process, await Channel.open(ours), changed)
        worker.ended.add_done_callback(lambda _: lender.leave(lends))
        return worker

    async def _attend(self) -> int:
        """Take in what it says until it is gone."""
        loop = asyncio.get_running_loop()
        try:
            async for state in self._channel.messages(State):
                self.said_at = loop.time()
                self.spoke.set()
                if state != self.state:
                    self.state = state
                    if state.ready:
                        self.ready.set()
                    self._changed()
        except (ValueError, TypeError):
            # A worker that speaks no sense cannot be led; a bug must not leave its place unattended.
            log.exception("worker %d (process %d) sent what is no message and is ended", self.index, self.pid)
            self.kill()
        try:
            return await self._process.wait()
        finally:
            self._channel.close()
            Path(self.admin).unlink(missing_ok=True)  # noqa: ASYNC240 - one unlink in a directory of our own
            self._changed()

    def lead(self, leads: bool) -> None:
        """Tell it whether it does what one worker does for all."""
        self._channel.send(Order(lead=leads))

    def leave(self, *, handed_over: bool) -> None:
        """Tell it to drain and end."""
        self.leaving = True
        self._channel.send(Order(drain=True, handed_over=handed_over))

    def kill(self) -> None:
        """End it at once. Its descriptors close, so whoever reads `ended` is not kept waiting."""
        if self._process.returncode is None:
            self.leaving = True
            os.kill(self.pid, signal.SIGKILL)

    async def gone(self, within_s: float) -> bool:
        """Return whether it ended by itself in time; kill it otherwise, and return once it is gone."""
        await asyncio.wait((self.ended,), timeout=within_s)
        if self.ended.done():
            return True
        self.kill()
        await self.ended
        return False
