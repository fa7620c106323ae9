"""Keeps workers running: starts them, replaces those that die or stand still, rolls them, stops them.

Order of a rolling restart, one place after the other: the successor starts on the same sockets; when it is ready both accept
from the same queue; the predecessor is told to stop accepting and to finish what it has; it ends. A successor that does not
become ready is ended, the predecessor stays, and the roll stops there.

A worker that dies is replaced at once, and later if it does so again (`pause_s`). Until its successor accepts,
the connections that the kernel gave to its socket wait there.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import tempfile
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from pathlib import Path

from nexus_gateway.edge.workers import sockets
from nexus_gateway.edge.workers.brokers import Lender
from nexus_gateway.edge.workers.handover import Handover
from nexus_gateway.edge.workers.memory import SharedMemory
from nexus_gateway.edge.workers.places import CELLS_BYTES
from nexus_gateway.edge.workers.processes import Worker

log = logging.getLogger("nexus.gateway.workers")

SILENT_S = 15.0
"""A worker that has not said anything for so long stands still and is replaced: fifteen beats. A stall that ends by itself
(a large plugin imported, a machine that swaps) is shorter."""
BOOT_S = 60.0
"""What a process may take from its start to its first word, and a successor to be ready."""
STEADY_S = 30.0
"""A worker that lived so long is not in a crash loop."""
MARGIN_S = 5.0
"""What a drained worker gets beyond its drain time, to stop plugins and send its last spans."""
_PAUSES_S = (0.0, 0.1, 0.5, 1.0, 2.0, 5.0)
_SERIALS = 1024


def pause_s(failures: int) -> float:
    """Return how long to wait before a place's next worker. failures: of this place in a row, without a steady life between."""
    return _PAUSES_S[min(max(failures - 1, 0), len(_PAUSES_S) - 1)]


class CannotStart(Exception):
    """The first worker ended before it served. The text says how; the worker's own log says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to run. command: the worker's program. environ: its whole environment, by place. manifests: see `Handover`.

    plain, secure: `(host, port)` of the listeners that settings name, None for none; workers ask for those of other ports.
    drain_s: the longest a worker takes to drain,
    drain_delay_s beforehand when it is not handed over.
    """

    command: tuple[str, ...]
    environ: Callable[[int], Mapping[str, str]]
    workers: int
    plain: tuple[str, int] | None
    secure: tuple[str, int] | None = None
    manifests: str = ""
    drain_delay_s: float = 0.0
    drain_s: float = 10.0
    silent_s: float = SILENT_S
    boot_s: float = BOOT_S


@dataclass(slots=True)
class Slot:
    """One place among the workers. current: who serves there now; None while nobody does. restarts: after deaths."""

    index: int
    plain: socket.socket | None
    secure: socket.socket | None
    current: Worker | None = None
    failures: int = 0
    restarts: int = 0


class Supervisor:
    """The workers of one gateway.

    port, tls_port: what is bound, after `start`; tls_port 0 without a TLS listener. draining: it is being stopped.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._serial = 0
        self._alive: set[Worker] = set()
        self._starting: set[int] = set()
        self._leader: Worker | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._rolling = asyncio.Lock()
        self._stack = contextlib.ExitStack()
        self.slots: tuple[Slot, ...] = ()
        self.port = 0
        self.tls_port = 0
        self.draining = False

    @property
    def workers(self) -> tuple[Worker, ...]:
        """Who serves now, by place."""
        return tuple(slot.current for slot in self.slots if slot.current is not None)

    @property
    def not_ready(self) -> str | None:
        """None when every place is filled and ready, else why not."""
        if self.draining:
            return "draining"
        for slot in self.slots:
            if slot.current is None:
                return f"worker {slot.index} is being replaced"
            if not slot.current.state.ready:
                return f"worker {slot.index}: {slot.current.state.reason}"
        return None if self.slots else "starting"

    @property
    def generation(self) -> int:
        """The generation that every worker serves, or a newer one; 0 while one has none."""
        found = [worker.state.generation for worker in self.workers]
        return min(found) if len(found) == len(self.slots) and found else 0

    async def start(self) -> None:
        """Bind, start the first worker, then the others. Raises OSError for an address that is taken, `CannotStart`.

        The first goes ahead so that what is wrong with all is said once.
        """
        plan = self._plan
        try:
            self._lender = Lender(plan.workers)
            self._stack.callback(self._lender.close)
            plain, secure = self._bind(plan.plain), self._bind(plan.secure)
            self._memory = SharedMemory.create(CELLS_BYTES)
            self._stack.callback(self._memory.close)
            self._folder = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="nexus-gateway-"))
            self.port = plain[0].getsockname()[1] if plain[0] is not None else 0
            self.tls_port = secure[0].getsockname()[1] if secure[0] is not None else 0
            self.slots = tuple(Slot(index, plain[index], secure[index]) for index in range(plan.workers))
            await self._start_first(self.slots[0])
        except BaseException:
            await self._end()
            raise
        for slot in self.slots:
            self._own(self._keep(slot), f"place {slot.index}")
        self._own(self._watch(), "watch")

    def _bind(self, address: tuple[str, int] | None) -> tuple[socket.socket | None, ...]:
        """Return a socket for each worker."""
        if address is None:
            return (None,) * self._plan.workers
        made = sockets.bind(*address, self._plan.workers)
        for each in made:
            self._stack.callback(each.close)
        return made

    async def _start_first(self, slot: Slot) -> None:
        first = slot.current = await self._spawn(slot)
        spoke = asyncio.create_task(first.spoke.wait())
        try:
            await asyncio.wait((spoke, first.ended), timeout=self._plan.boot_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            spoke.cancel()
        if first.ended.done():
            raise CannotStart(f"The first worker {_how(first.ended.result())} before it served; its log says why.")
        if not first.spoke.is_set():
            raise CannotStart(f"The first worker did not start within {self._plan.boot_s:g} s.")

    def _own(self, work: Coroutine[object, object, None], name: str) -> None:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _spawn(self, slot: Slot) -> Worker:
        taken = {worker.serial for worker in self._alive}
        while (self._serial % _SERIALS) in taken:
            self._serial += 1
        serial, self._serial = self._serial % _SERIALS, self._serial + 1
        columns = {worker.column for worker in self._alive} | self._starting
        column = next(each for each in range(_SERIALS) if each not in columns)
        given = Handover(
            index=slot.index,
            serial=serial,
            column=column,
            workers=len(self.slots),
            control=-1,
            memory=self._memory.descriptor,
            plain=slot.plain.fileno() if slot.plain is not None else None,
            secure=slot.secure.fileno() if slot.secure is not None else None,
            admin=str(Path(self._folder) / f"{serial}.sock"),
            manifests=self._plan.manifests,
        )
        # Until it is among those alive, which the next one to be spawned may not wait for.
        self._starting.add(column)
        try:
            worker = await Worker.start(
                self._plan.command, self._plan.environ(slot.index), given, self._elect, self._lender
            )
            self._alive.add(worker)
        finally:
            self._starting.discard(column)
        worker.ended.add_done_callback(lambda _: self._alive.discard(worker))
        log.info("worker %d is process %d", slot.index, worker.pid)
        return worker

    async def _keep(self, slot: Slot) -> None:
        """See to it that somebody serves at this place, for ever."""
        while True:
            worker = slot.current
            if worker is None:
                try:
                    spawned = await self._spawn(slot)
                except OSError as error:
                    slot.failures += 1
                    log.error("worker %d cannot be started: %s", slot.index, error)
                    await asyncio.sleep(max(pause_s(slot.failures), 1.0))
                    continue
                if slot.current is None:
                    slot.current = spawned
                else:
                    # A roll was faster and filled the place meanwhile.
                    spawned.leave(handed_over=True)
                worker = slot.current
            await asyncio.wait((worker.ended,))
            if slot.current is not worker or self.draining:
                if self.draining:
                    return
                continue
            slot.current = None
            self._elect()
            now = asyncio.get_running_loop().time()
            slot.failures = 1 if now - worker.started_at >= STEADY_S else slot.failures + 1
            slot.restarts += 1
            wait_s = pause_s(slot.failures)
            log.error(
                "worker %d (process %d) %s; the next one starts in %g s",
                slot.index, worker.pid, _how(worker.ended.result()), wait_s,
            )  # fmt: skip
            await asyncio.sleep(wait_s)

    async def _watch(self) -> None:
        """End workers that stand still; their places are filled like those of the dead."""
        plan = self._plan
        now = asyncio.get_running_loop().time
        while True:
            await asyncio.sleep(min(1.0, plan.silent_s / 3))
            for worker in tuple(self._alive):
                bound_s = plan.silent_s if worker.spoke.is_set() else plan.boot_s
                silent_s = now() - worker.said_at
                if silent_s > bound_s and not worker.ended.done():
                    log.error(
                        "worker %d (process %d) has not answered for %.1f s and is ended",
                        worker.index,
                        worker.pid,
                        silent_s,
                    )
                    worker.kill()

    def _elect(self) -> None:
        """Make one worker the leader: it stays while it serves, then the first that is ready."""
        serving = [worker for worker in self.workers if not worker.leaving and not worker.ended.done()]
        if self._leader in serving:
            return
        former, self._leader = self._leader, next((worker for worker in serving if worker.state.ready), None)
        if former is not None and not former.ended.done():
            former.lead(False)
        if self._leader is not None:
            self._leader.lead(True)

    async def roll(self) -> bool:
        """Replace every worker, one place after the other; return whether all were. A second call waits for the first."""
        async with self._rolling:
            for slot in self.slots:
                if self.draining or not await self._replace(slot):
                    return False
            log.info("every worker was replaced")
            return True

    async def _replace(self, slot: Slot) -> bool:
        try:
            successor = await self._spawn(slot)
        except OSError as error:
            log.error("the roll stops: worker %d has no successor: %s", slot.index, error)
            return False
        ready = asyncio.create_task(successor.ready.wait())
        try:
            await asyncio.wait((ready, successor.ended), timeout=self._plan.boot_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            ready.cancel()
        if not successor.ready.is_set() or successor.ended.done() or self.draining:
            log.error("the roll stops: the successor of worker %d did not become ready; the former stays", slot.index)
            successor.kill()
            await successor.ended
            return False
        predecessor, slot.current = slot.current, successor
        slot.failures = 0
        if predecessor is not None:
            predecessor.leave(handed_over=True)
            self._elect()
            if not await predecessor.gone(self._plan.drain_s + MARGIN_S):
                log.warning("worker %d (process %d) did not end in time and was killed", slot.index, predecessor.pid)
        else:
            self._elect()
        return True

    async def stop(self) -> None:
        """Drain all workers at once, wait for them within their bounds, end what is left, release everything."""
        self.draining = True
        plan = self._plan
        for worker in tuple(self._alive):
            worker.leave(handed_over=False)
        bound_s = plan.drain_delay_s + plan.drain_s + MARGIN_S
        await asyncio.gather(*(worker.gone(bound_s) for worker in tuple(self._alive)))
        await self._end()

    async def _end(self) -> None:
        """Release everything at once; also when a stop was cut short."""
        self.draining = True
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for worker in tuple(self._alive):
            worker.kill()
        await asyncio.gather(*(worker.ended for worker in tuple(self._alive)), return_exceptions=True)
        self._stack.close()

    async def abort(self) -> None:
        """End all workers at once: requests in flight are cut off."""
        await self._end()


def _how(code: int) -> str:
    return f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
