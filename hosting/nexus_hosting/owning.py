"""The tasks of one plugin: whatever it starts is its own, watched while it runs, and ends with it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Coroutine
from typing import Any, TypeVar

from nexus_hosting.calls import driven

T = TypeVar("T")

MAX_SPAWNED = 64
MAX_TASKS = 4096
_GRACE_S = 1.0


class Owned:
    """Tasks that one plugin started. who: what the watchdog sees while they run. log: where failures of spawned work go."""

    def __init__(self, who: object, log: logging.Logger) -> None:
        self._who: object | None = who
        self._log = log
        self._spawned: set[asyncio.Task[Any]] = set()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closed = False

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        """Run work in the background, at most `MAX_SPAWNED` at once; what it raises is logged. Raises RuntimeError."""
        if self._closed or len(self._spawned) >= MAX_SPAWNED:
            work.close()
            why = "the plugin has stopped" if self._closed else f"{MAX_SPAWNED} pieces of work run already"
            raise RuntimeError(f"{name} is not started: {why}.")
        task = asyncio.create_task(self._run(work), name=name)
        self._spawned.add(task)
        task.add_done_callback(self._spawned_ended)

    def create(self, work: Awaitable[T], name: str | None = None, **options: Any) -> asyncio.Task[T]:
        """Return a task of the plugin's that runs work. Raises RuntimeError for one too many, or after the plugin's end."""
        self.check(work)
        return self.adopt(asyncio.create_task(self._run(work), name=name, **options))

    def check(self, work: object) -> None:
        """Raise RuntimeError, and let go of the work, where no other task may start."""
        if self._closed or len(self._tasks) >= MAX_TASKS:
            close = getattr(work, "close", None)
            if close is not None:
                close()
            why = "the plugin has stopped" if self._closed else f"it has {MAX_TASKS} tasks already"
            raise RuntimeError(f"no task is started: {why}.")

    def adopt(self, task: asyncio.Task[T]) -> asyncio.Task[T]:
        """Own a task that was just made."""
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def watched(self, work: Awaitable[T]) -> Coroutine[Any, Any, T]:
        """Return a coroutine of the work that the watchdog sees."""
        return self._run(work)

    def current(self) -> asyncio.Task[Any] | None:
        """Return the task that runs now, None for one that is not the plugin's."""
        task = asyncio.current_task()
        return task if task in self._tasks or task in self._spawned else None

    def running(self) -> list[asyncio.Task[Any]]:
        """Return the tasks that run now."""
        return [*self._tasks, *self._spawned]

    async def close(self) -> int:
        """Cancel what still runs; return how many tasks were left over that `spawn` has not started.

        One that does not let itself be cancelled is left behind, and said so.
        """
        self._closed = True
        left = {task for task in self._tasks if not task.done()}
        ending = left | {task for task in self._spawned if not task.done()}
        for task in ending:
            task.cancel()
        if ending:
            _, stuck = await asyncio.wait(ending, timeout=_GRACE_S)
            for task in stuck:
                self._log.warning("its task %s does not let itself be cancelled and is left behind", task.get_name())
        if left:
            self._log.warning(
                "%d tasks still ran when it had stopped, such as %s, and were cancelled. Cancel them in `stop`.",
                len(left),
                min(task.get_name() for task in left),
            )
        self._tasks.clear()
        self._spawned.clear()
        self._who = None  # who has this, too: a circle
        return len(left)

    async def _run(self, work: Awaitable[T]) -> T:
        return await driven(work, self._who)

    def _spawned_ended(self, task: asyncio.Task[Any]) -> None:
        self._spawned.discard(task)
        if task.cancelled():
            return
        error = task.exception()
        if error is not None:
            self._log.warning("%s failed: %s: %s", task.get_name(), type(error).__name__, error)
