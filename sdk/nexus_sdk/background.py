"""Owned background tasks: a crash is logged and the task is started again with backoff; all are cancelled on stop."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable

from nexus_sdk.logs import Log

Work = Callable[[], Awaitable[None]]

FIRST_WAIT_S = 0.25
LONGEST_WAIT_S = 30.0
CALM_S = 60.0
"""A task that ran this long before it crashed starts again with the first wait."""


def backoff_s(
    failures: int, rng: random.Random, *, first_s: float = FIRST_WAIT_S, cap_s: float = LONGEST_WAIT_S
) -> float:
    """Return the wait after the n-th failure in a row (1, 2, …): doubling, capped, jittered over its upper half.

    Half and not full jitter: a crashing task must never spin.
    """
    ceiling = min(cap_s, first_s * 2.0 ** min(failures - 1, 30))
    return ceiling * (0.5 + 0.5 * rng.random())


class Background:
    """The tasks of one app."""

    def __init__(self, log: Log, on_crash: Callable[[str], None], rng: random.Random | None = None) -> None:
        self._log, self._on_crash, self._rng = log, on_crash, rng or random.Random()
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def start(self, name: str, work: Work) -> None:
        self._tasks[name] = asyncio.create_task(self._keep(name, work), name=f"nexus-{name}")

    async def _keep(self, name: str, work: Work) -> None:
        loop, failures = asyncio.get_running_loop(), 0
        while True:
            started = loop.time()
            try:
                await work()
            except Exception:
                failures = 1 if loop.time() - started > CALM_S else failures + 1
                wait_s = backoff_s(failures, self._rng)
                self._on_crash(name)
                self._log.exception("background task crashed", task=name, restart_in_s=round(wait_s, 3))
                await asyncio.sleep(wait_s)
            else:
                return  # it is done; a task that shall run for ever does not return

    async def stop(self, within_s: float) -> None:
        """Cancel all and wait. A task that is not gone in time is named in the log and left."""
        tasks = [t for t in self._tasks.values() if not t.done()]
        for task in tasks:
            task.cancel()
        if tasks:
            _, stuck = await asyncio.wait(tasks, timeout=within_s)
            for task in stuck:
                self._log.error("background task does not end", task=task.get_name(), waited_s=within_s)
        self._tasks.clear()
