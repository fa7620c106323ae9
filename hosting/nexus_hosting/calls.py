"""Driving a plugin's coroutines step by step: how long each holds the event loop is measured, and the watchdog sees who does."""

from __future__ import annotations

import types
from collections.abc import Awaitable, Generator
from time import monotonic
from typing import Any, TypeVar

from nexus_hosting.bounds import Exited
from nexus_hosting.watching import watch

T = TypeVar("T")


class Held:
    """Time that a plugin's code held the event loop. seconds: in all steps together."""

    __slots__ = ("seconds",)

    def __init__(self) -> None:
        self.seconds = 0.0


@types.coroutine
def driven(work: Awaitable[T], who: object, held: Held | None = None) -> Generator[Any, Any, T]:
    """Await `work`, with `who` on the watch during each of its steps; return its result.

    held: gets the time of each step added as soon as the step is over. Whatever is thrown in (a cancellation, a timeout) reaches `work`
    at the point where it waits. Raises `Exited` for a GeneratorExit of its own.
    """
    before = watch.who
    watch.since = monotonic()
    watch.who = who
    try:
        steps: Any = work.__await__()  # its own code, of what is no coroutine
    finally:
        watch.who = before
    # An iterator that is no generator has neither.
    send = getattr(steps, "send", None) or (lambda _: next(steps))
    throw = getattr(steps, "throw", None) or _raise
    value: Any = None
    error: BaseException | None = None
    while True:
        before = watch.who
        watch.since = since = monotonic()
        watch.who = who
        try:
            waits_for = send(value) if error is None else throw(error)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]  # what a coroutine returns is not known to its iterator
        except GeneratorExit:
            # Its own: nobody closes it here. It would pass for the end of whoever awaits this.
            raise Exited("GeneratorExit") from None
        finally:
            # What was thrown knows this frame: one that knew it in turn would live until a collection, and the plugin with it.
            value = error = None
            watch.who = before
            if before is not None:  # a step inside a step: the outer one's time goes on
                watch.since = since
            if held is not None:
                held.seconds += monotonic() - since
        try:
            value = yield waits_for
        except GeneratorExit:
            close = getattr(steps, "close", None)
            if close is not None:
                close()
            raise
        except BaseException as thrown:
            error = thrown


def _raise(error: BaseException) -> None:
    try:
        raise error
    finally:
        del error
