"""The end of coroutines that do not let themselves be cancelled: whoever waits for one must not wait for ever."""

from __future__ import annotations

import asyncio
import contextlib
import types
from collections.abc import Generator
from typing import Any, TypeVar

from nexus_hosting.bounds import Stuck

T = TypeVar("T")

GRACE_S = 1.0
"""What a coroutine has to clean up after it was cancelled because its time is over."""


class Press:
    """Ends a coroutine that goes on after its time: call it then. Made in the task that awaits it."""

    __slots__ = ("called", "task")

    def __init__(self) -> None:
        self.called = False
        self.task = asyncio.current_task()

    def __call__(self) -> None:
        """Have the task give it up where it waits now."""
        self.called = True
        if self.task is not None:
            self.task.cancel()


async def in_time(steps: Generator[Any, Any, T], limit_s: float) -> T:
    """Return the result of a coroutine, within its time. Raises TimeoutError, `Stuck` for one that goes on all the same, and what it
    raises itself.

    steps: as `calls.driven` makes them. Most coroutines are over with their first step, and need no clock.
    """
    try:
        waits_for = steps.send(None)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]  # what it returns is not known to who catches its end
    press = Press()
    timer = asyncio.get_running_loop().call_later(limit_s + GRACE_S, press)
    try:
        async with asyncio.timeout(limit_s):
            return await endable(steps, press, waits_for)
    finally:
        timer.cancel()


@types.coroutine
def endable(steps: Generator[Any, Any, T], press: Press, waits_for: Any) -> Generator[Any, Any, T]:
    """Go through the steps of a coroutine; raise `Stuck`, and leave it behind, when `press` was called.

    What was cancelled otherwise may go on for as long as it has to: this alone is no wait for its good will. waits_for: what its first
    step ended with.
    """
    while True:
        value: Any = None
        error: BaseException | None = None
        try:
            value = yield waits_for
        except BaseException as thrown:
            if press.called and press.task is not None:
                press.task.uncancel()
                with contextlib.suppress(
                    Exception, asyncio.CancelledError
                ):  # its last words, such as that it ignores this, too
                    steps.close()
                raise Stuck from None
            error = thrown
        try:
            waits_for = steps.send(value) if error is None else steps.throw(error)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]  # what it returns is not known to who catches its end
        finally:
            # What was thrown knows this frame.
            value = error = None
