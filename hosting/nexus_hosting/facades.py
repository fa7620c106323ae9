"""asyncio as a plugin sees it: its tasks are its own and end with it; no sockets, processes, threads or event loops."""

from __future__ import annotations

import asyncio
import types
from collections.abc import Coroutine
from typing import Any

from nexus_hosting.owning import Owned

_AS_THEY_ARE = [
    "ALL_COMPLETED",
    "Barrier",
    "BoundedSemaphore",
    "BrokenBarrierError",
    "CancelledError",
    "Condition",
    "Event",
    "FIRST_COMPLETED",
    "FIRST_EXCEPTION",
    "Future",
    "InvalidStateError",
    "LifoQueue",
    "Lock",
    "PriorityQueue",
    "Queue",
    "QueueEmpty",
    "QueueFull",
    "QueueShutDown",
    "Semaphore",
    "Task",
    "Timeout",
    "TimeoutError",
    "iscoroutine",
    "iscoroutinefunction",
    "isfuture",
    "sleep",
    "timeout",
    "timeout_at",
]


class Clock:
    """What a plugin gets for an event loop."""

    def time(self) -> float:
        """Return the loop's time, in seconds."""
        return asyncio.get_running_loop().time()

    def create_future(self) -> asyncio.Future[Any]:
        """Return a future of the loop."""
        return asyncio.get_running_loop().create_future()

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(
            f"the event loop is the gateway's: a plugin has time() and create_future() of it, not {name}. "
            "Use asyncio.create_task, asyncio.sleep, or self.context"
        )


class OwnedTaskGroup(asyncio.TaskGroup):
    """A group whose tasks are the plugin's."""

    def __init__(self, owned: Owned) -> None:
        super().__init__()
        self._owned = owned

    def create_task(self, coro: Any, *, name: str | None = None, context: Any = None) -> asyncio.Task[Any]:
        """Return a task of the group."""
        self._owned.check(coro)
        return self._owned.adopt(super().create_task(self._owned.watched(coro), name=name, context=context))


def make_asyncio(owned: Owned) -> types.ModuleType:
    """Return the module for one plugin. Whatever makes a task in it makes one that `owned` watches and cancels."""

    def own(work: Any) -> Any:
        return work if asyncio.isfuture(work) else owned.create(work)

    def own_all(works: Any) -> list[Any]:
        # One coroutine given twice is one task.
        kept = list(works)
        made = {id(work): own(work) for work in kept}
        return [made[id(work)] for work in kept]

    def create_task(
        coro: Coroutine[Any, Any, Any], *, name: str | None = None, context: Any = None
    ) -> asyncio.Task[Any]:
        return owned.create(coro, name, context=context)

    def ensure_future(work: Any, *, loop: object = None) -> Any:
        return own(work)

    def gather(*works: Any, return_exceptions: bool = False) -> Any:
        return asyncio.gather(*own_all(works), return_exceptions=return_exceptions)

    def shield(work: Any) -> Any:
        return asyncio.shield(own(work))

    def as_completed(works: Any, *, timeout: float | None = None) -> Any:
        return asyncio.as_completed(own_all(works), timeout=timeout)

    async def wait(works: Any, *, timeout: float | None = None, return_when: str = asyncio.ALL_COMPLETED) -> Any:
        return await asyncio.wait(own_all(works), timeout=timeout, return_when=return_when)

    async def wait_for(work: Any, timeout: float | None) -> Any:
        return await asyncio.wait_for(own(work), timeout)

    def current_task() -> asyncio.Task[Any] | None:
        # Hooks run in tasks of the gateway's: whoever cancels one of these leaves a request without an answer.
        return owned.current()

    def TaskGroup() -> OwnedTaskGroup:  # noqa: N802  # a class in asyncio; one made here would outlive the plugin, as classes do
        return OwnedTaskGroup(owned)

    clock = Clock()

    def get_running_loop() -> Clock:
        asyncio.get_running_loop()  # raises where there is none, as it does
        return clock

    module = types.ModuleType("asyncio", asyncio.__doc__)
    for name in _AS_THEY_ARE:
        if hasattr(asyncio, name):
            setattr(module, name, getattr(asyncio, name))
    made = (
        create_task,
        ensure_future,
        gather,
        shield,
        as_completed,
        wait,
        wait_for,
        current_task,
        TaskGroup,
        get_running_loop,
    )
    for each in made:
        setattr(module, each.__name__, each)
    module.get_event_loop = get_running_loop  # type: ignore[attr-defined]
    module.__dict__["__all__"] = sorted(name for name in module.__dict__ if not name.startswith("_"))
    return module
