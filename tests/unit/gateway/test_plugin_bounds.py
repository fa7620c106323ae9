"""Code of plugins that hangs, exits, or does not let itself be cancelled."""

from __future__ import annotations

import asyncio
import threading

import pytest
from nexus_hosting.bounds import Exited, Stuck, in_thread, within


async def test_what_ends_in_time_is_awaited_and_what_it_raises_is_raised() -> None:
    ran: list[int] = []

    async def fine() -> None:
        ran.append(1)

    async def wrong() -> None:
        raise ValueError("no")

    await within(fine, 5)
    assert ran == [1]
    with pytest.raises(ValueError, match="no"):
        await within(wrong, 5)
    with pytest.raises(TimeoutError):
        await within(asyncio.Event().wait, 0.01)


@pytest.mark.parametrize("thrown", [SystemExit, KeyboardInterrupt, asyncio.CancelledError])
async def test_an_exit_ends_nothing_but_the_plugin(thrown: type[BaseException]) -> None:
    async def leave() -> None:
        raise thrown

    with pytest.raises(Exited, match=thrown.__name__):
        await within(leave, 5)

    def leave_now() -> None:
        raise thrown

    with pytest.raises(Exited, match=thrown.__name__):
        await in_thread(leave_now, 5)


async def test_what_swallows_its_cancellation_is_left_behind() -> None:
    released = asyncio.Event()

    async def stubborn() -> None:
        while not released.is_set():
            try:
                await released.wait()
            except asyncio.CancelledError:
                continue

    async with asyncio.timeout(5):
        with pytest.raises(Stuck):
            await within(stubborn, 0.01)
    released.set()


async def test_the_callers_own_cancellation_goes_through() -> None:
    async def wait() -> None:
        await asyncio.Event().wait()

    task = asyncio.create_task(within(wait, 60))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_thread_that_never_ends_holds_neither_its_caller_nor_the_process() -> None:
    released = threading.Event()
    with pytest.raises(TimeoutError):
        await in_thread(released.wait, 0.01)
    [left] = [thread for thread in threading.enumerate() if thread.name == "plugin"]
    assert left.daemon
    released.set()
    left.join(5)
    assert await in_thread(lambda: 7, 5) == 7
