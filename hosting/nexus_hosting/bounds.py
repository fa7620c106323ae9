"""Running a plugin's own code, which may do anything: its exits, hangs and swallowed cancellations end here."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import logging
import threading
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

log = logging.getLogger("nexus.plugins")
T = TypeVar("T")


class Overran(BaseException):
    """The plugin's code held the event loop, or its thread, for too long and was interrupted. No Exception: those it may catch."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else "it ran for too long and was interrupted"


THROWN = (BaseException,)
"""What plugin code can throw at its caller: `sys.exit()` in a task would end the event loop, and the gateway with it."""

_CANCEL_GRACE_S = 1.0
_INTERRUPT_EVERY_S = 0.05
_INTERRUPTS = 200


class Stuck(Exception):
    """The plugin's code did not end in time, not even when it was cancelled. It is left behind."""

    def __str__(self) -> str:
        return "it did not end in time, and does not let itself be stopped"


class Exited(Exception):
    """The plugin's code raised what is not an Exception, such as SystemExit."""


def is_cancelled(error: BaseException) -> bool:
    """Return whether the error is the running task's own cancellation, or its end, and not what a plugin raised."""
    if isinstance(error, GeneratorExit):
        return True  # the coroutine is closed; it may not go on
    task = asyncio.current_task()
    return isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling() > 0


def told(error: BaseException) -> str:
    """Return an error as messages have it: its type, and what it says. What is a plugin's may fail at that, too."""
    kind = type(error).__name__
    try:
        text = str(error)
    except THROWN:
        text = "it cannot say what it is"
    if text:
        return f"{kind}: {text}"
    return f"{kind}: out of time" if isinstance(error, TimeoutError) else kind


async def within(work: Callable[[], Awaitable[object]], limit_s: float) -> None:
    """Await `work()`, for `limit_s` seconds at most. Raises TimeoutError, `Stuck`, `Exited` and what it raises itself.

    In a task of its own: a coroutine that swallows its cancellation would hold its caller for ever.
    """

    async def guarded() -> None:
        try:
            await work()
        except THROWN as error:
            if isinstance(error, Exception) or is_cancelled(error):
                raise
            raise Exited(told(error)) from error

    task = asyncio.create_task(guarded(), name="plugin")
    try:
        done, _ = await asyncio.wait({task}, timeout=limit_s)
        if not done:
            task.cancel()
            done, _ = await asyncio.wait({task}, timeout=_CANCEL_GRACE_S)
            if done:
                raise TimeoutError
            raise Stuck
    finally:
        task.cancel()
    await task


async def in_thread(work: Callable[[], T], limit_s: float) -> T:
    """Return `work()`, run in a thread of its own, for `limit_s` seconds at most. Raises TimeoutError and what it raises.

    Not `asyncio.to_thread`: code that never ends would keep a place of its pool, and the process from exiting.
    """
    loop = asyncio.get_running_loop()
    outcome: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if outcome.done():
            return
        if error is not None:
            outcome.set_exception(error)
        else:
            outcome.set_result(result)  # type: ignore[arg-type]  # T, where there is no error

    def run() -> None:
        result: T | None = None
        failed: BaseException | None = None
        try:
            result = work()
        except Exception as error:
            failed = error
        except BaseException as error:
            failed = Exited(told(error))
        with contextlib.suppress(RuntimeError):  # the loop has been closed meanwhile: nobody waits any more
            loop.call_soon_threadsafe(settle, result, failed)

    thread = threading.Thread(target=run, name="plugin", daemon=True)
    thread.start()
    try:
        async with asyncio.timeout(limit_s):
            return await outcome
    except (TimeoutError, asyncio.CancelledError):
        threading.Thread(target=_interrupt, args=(thread,), name="interrupt a plugin", daemon=True).start()
        raise


def _interrupt(thread: threading.Thread) -> None:
    """Throw `Overran` into a thread until it ends: code that catches it is thrown at again, but not for ever.

    Only its next line of Python sees it: what sleeps in C goes on sleeping, and takes no time of anybody's.
    """
    throw = ctypes.pythonapi.PyThreadState_SetAsyncExc
    for _ in range(_INTERRUPTS):
        if not thread.is_alive():
            return
        throw(ctypes.c_ulong(thread.ident or 0), ctypes.py_object(Overran))
        time.sleep(_INTERRUPT_EVERY_S)
    if thread.is_alive():
        log.warning("a plugin's thread does not let itself be interrupted and is left behind")
