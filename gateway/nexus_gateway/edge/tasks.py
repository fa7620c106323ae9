"""What a gateway does besides serving requests: tasks with an owner, none of which fails in silence."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine

log = logging.getLogger("nexus.gateway.tasks")

AGAIN_S = 1.0
"""A lasting task that failed starts anew after this."""

Work = Coroutine[object, object, None]


class Tasks:
    """The background tasks of one gateway. failed: called with the name of each one that raised, once for each time."""

    def __init__(self, failed: Callable[[str], None], again_s: float = AGAIN_S) -> None:
        self._failed = failed
        self._again_s = again_s
        self._running: set[asyncio.Task[None]] = set()

    def own(self, work: Work, name: str) -> None:
        """Run this to its end. name: of a few that are in the code; logged and counted under it should it fail."""
        task = asyncio.create_task(work, name=name)
        self._running.add(task)
        task.add_done_callback(self._ended)

    def keep(self, make: Callable[[], Work], name: str) -> None:
        """Run what `make` returns until it returns; make another one whenever it raises."""
        self.own(self._keep(make, name), name)

    async def _keep(self, make: Callable[[], Work], name: str) -> None:
        while True:
            try:
                await make()
                return
            except Exception as error:
                self._tell(name, error, f"it goes on in {self._again_s:g} s")
            await asyncio.sleep(self._again_s)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._tell(task.get_name(), error, "it is over")

    def _tell(self, name: str, error: BaseException, then: str) -> None:
        log.error("background task %r failed; %s", name, then, exc_info=error)
        self._failed(name)

    async def close(self) -> None:
        """Cancel what runs, and return when nothing does."""
        for task in tuple(self._running):
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
