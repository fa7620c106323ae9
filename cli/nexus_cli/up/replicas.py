"""One supervised process: started, asked for its health, started again when it ends, stopped in order."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from nexus_core.discovery import Endpoint

from nexus_cli.up import health, plugins, ports
from nexus_cli.up.backoff import Backoff
from nexus_cli.up.logs import MAX_LINE, ServiceLog, Terminal
from nexus_cli.up.plans import SCHEMES, ServicePlan

HOST = "127.0.0.1"
STARTING_POLL_S = 0.05
UNHEALTHY_POLL_S = 0.5
SILENT_LIMIT = 2
"""Health checks without an answer, in a row, after which an instance gets no requests. One lost answer is no verdict."""
GRACE_S = 12.0
"""From SIGTERM to SIGKILL: the SDK's 10 s drain and a little."""
LAUNCHER = str(Path(__file__).with_name("launcher.py"))

State = Literal["starting", "ready", "unhealthy", "restarting", "crash loop", "stopping", "stopped"]


@dataclass(frozen=True, slots=True)
class House:
    """What all replicas share. environment: of every child, before the service's own. watch/forget: process groups."""

    environment: Mapping[str, str]
    data_dir: Path
    terminal: Terminal
    watch: Callable[[int], None]
    forget: Callable[[int], None]


class Replica:
    """name: `orders-1`. changed: awaited after each change of `state`."""

    def __init__(self, plan: ServicePlan, name: str, house: House, changed: Callable[[], Awaitable[None]]) -> None:
        self.plan = plan
        self.name = name
        self.state: State = "starting"
        self.why = ""
        self.port = 0
        self.pid = 0
        self.restarts = 0
        self.was_ready = asyncio.Event()
        self.log = ServiceLog(name, house.data_dir / "logs" / f"{plan.namespace}-{name}.log", house.terminal)
        self._house = house
        self._changed = changed
        self._backoff = Backoff(random.Random())
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = False
        self._task: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        return f"{SCHEMES.get(self.plan.kind, 'http')}://{HOST}:{self.port}" if self.port and self.pid else ""

    @property
    def endpoint(self) -> Endpoint | None:
        """Where it takes requests now, or None."""
        return Endpoint(HOST, self.port, f"{self.plan.registered}-{self.name}") if self.state == "ready" else None

    @property
    def looping(self) -> bool:
        """Whether its last starts all ended quickly."""
        return self._backoff.is_loop

    def start(self) -> None:
        self._task = asyncio.create_task(self._supervise(), name=f"replica {self.name}")

    async def _supervise(self) -> None:
        loop = asyncio.get_running_loop()
        while not self._stopping:
            began = loop.time()
            try:
                process = await self._spawn()
            except OSError as error:
                ended = f"could not be started: {error.strerror or error}"
            else:
                ended = await self._attend(process)
            self.pid = 0
            if self._stopping:
                break
            pause_s = self._backoff.ended(loop.time() - began)
            self.restarts += 1
            await self._set("crash loop" if self._backoff.is_loop else "restarting", ended)
            self._house.terminal.say(self._report(ended, pause_s))
            await asyncio.sleep(pause_s)
        await self._set("stopped", "")
        self.log.close()

    def _report(self, ended: str, pause_s: float) -> str:
        text = f"{self.name} {ended}; it starts again in {pause_s:.1f} s."
        if self._backoff.is_loop:
            last = "\n".join(f"    {line}" for line in list(self.log.tail)[-6:]) or "    (it wrote nothing)"
            text += f" Crash loop ({self._backoff.quick_ends} in a row), its last lines ({self.log.path}):\n{last}"
        return text

    async def _spawn(self) -> asyncio.subprocess.Process:
        plan = self.plan
        self.port = plan.port or ports.find_free(HOST, udp=plan.probe == "udp")
        data_dir = self._house.data_dir / "data" / plan.namespace / plan.name
        data_dir.mkdir(parents=True, exist_ok=True)
        environment = {
            **self._house.environment,
            "NEXUS_SERVICE_NAME": plan.name,
            "NEXUS_NAMESPACE": plan.namespace,
            "NEXUS_HOST": HOST,
            "NEXUS_ADVERTISE_ADDRESS": HOST,
            "NEXUS_DATA_DIR": str(data_dir),
            "PORT": str(self.port),
            **plugins.environment(self._house.data_dir, plan.kind, plan.namespace, plan.name),
            **plan.env,
        }
        await self._set("starting", "")
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-S", LAUNCHER, str(os.getpid()), *resolve(plan.command)),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=plan.directory,
            env=environment,
            start_new_session=True,  # Ctrl-C in the terminal reaches `nexus up` alone, which then stops them in order
            limit=MAX_LINE,
        )
        self._house.watch(process.pid)
        self._process = process
        self.pid = process.pid
        return process

    async def _attend(self, process: asyncio.subprocess.Process) -> str:
        """Return how the process ended. Its whole group is gone then, too."""
        reading = asyncio.create_task(self._read(process), name=f"log of {self.name}")
        asking = asyncio.create_task(self._ask(), name=f"health of {self.name}")
        try:
            status = await process.wait()
        finally:
            asking.cancel()
            self._kill(signal.SIGKILL)
            self._house.forget(process.pid)
            self._process = None
            with contextlib.suppress(asyncio.CancelledError):
                await asking
        # What it wrote last is in the pipe. A grandchild that left the group may hold it open, so not for long.
        await asyncio.wait([reading], timeout=0.5)
        reading.cancel()
        return f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        while True:
            try:
                line = await process.stdout.readline()
            except ValueError:
                continue  # a line longer than MAX_LINE: the reader has dropped it
            if not line:
                return
            self.log.take(line)

    async def _ask(self) -> None:
        silent = 0
        while True:
            found = await health.ask_by(self.plan.probe, HOST, self.port, self.plan.health_path)
            silent = 0 if found.definite else silent + 1
            if found.ok:
                self.was_ready.set()
                await self._set("ready", "")
            elif self.state == "starting":
                self.why = found.why
            elif found.definite or silent >= SILENT_LIMIT:
                await self._set("unhealthy", found.why)
            starting = STARTING_POLL_S if self.state == "starting" else UNHEALTHY_POLL_S
            await asyncio.sleep(self.plan.interval_s if self.state == "ready" else min(starting, self.plan.interval_s))

    async def _set(self, state: State, why: str) -> None:
        self.why = why
        if self.state != state and not (self._stopping and state not in ("stopping", "stopped")):
            self.state = state
            await self._changed()

    def _kill(self, number: signal.Signals) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, number)

    async def stop(self, grace_s: float = GRACE_S) -> None:
        """Take it out of discovery, then SIGTERM; SIGKILL what is left after `grace_s` seconds."""
        if self._task is None or self._task.done():
            return
        self._stopping = True
        await self._set("stopping", "")
        deadline = time.monotonic() + grace_s
        if self._process is None:
            self._task.cancel()  # it rests between two starts
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self.state = "stopped"
            self.log.close()
            return
        self._kill(signal.SIGTERM)
        await asyncio.wait([self._task], timeout=max(0.0, deadline - time.monotonic()))
        if not self._task.done():
            self._house.terminal.say(f"{self.name} did not stop within {grace_s:g} s and is killed.")
            self._kill(signal.SIGKILL)
            await asyncio.wait([self._task], timeout=2.0)

    def kill(self) -> None:
        """SIGKILL at once."""
        self._stopping = True
        self._kill(signal.SIGKILL)


def resolve(command: tuple[str, ...]) -> tuple[str, ...]:
    """Return the command with `python` and `nexus` as those that run now, whatever PATH says."""
    program, *rest = command
    if program in ("python", "python3"):
        return (sys.executable, *rest)
    if program == "nexus":
        return (sys.executable, "-m", "nexus_cli", *rest)
    return command
