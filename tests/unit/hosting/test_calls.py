"""Coroutines of plugins, driven step by step."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
from nexus_hosting.calls import Held, driven
from nexus_hosting.watching import watch


class Awaitable:
    """One that is no coroutine, and whose iterator is no generator."""

    def __init__(self, future: asyncio.Future[Any]) -> None:
        self.future = future

    def __await__(self) -> Iterator[Any]:
        return iter(self.future.__await__())


async def test_what_it_returns_and_raises_comes_through() -> None:
    async def fine(value: int) -> int:
        assert watch.who == "me"
        await asyncio.sleep(0)
        assert watch.who == "me"
        return value

    async def wrong() -> None:
        await asyncio.sleep(0)
        raise ValueError("no")

    held = Held()
    assert await driven(fine(3), "me", held) == 3
    assert watch.who is None
    assert held.seconds > 0
    with pytest.raises(ValueError, match="no"):
        await driven(wrong(), "me")
    assert watch.who is None
    future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    future.set_result(5)
    assert await driven(Awaitable(future), "me") == 5
    assert await driven(future, "me") == 5


async def test_nobody_is_on_the_watch_while_it_waits() -> None:
    going = asyncio.Event()

    async def wait() -> str:
        await going.wait()
        return str(watch.who)

    task = asyncio.create_task(_as_coroutine(driven(wait(), "me")))
    await asyncio.sleep(0)
    assert watch.who is None
    going.set()
    assert await task == "me"


async def test_a_step_inside_a_step_gives_the_watch_back() -> None:
    async def outer() -> str:
        assert [str(watch.who), await driven(inner(), "inner"), str(watch.who)] == ["outer", "inner", "outer"]
        return "done"

    async def inner() -> str:
        return str(watch.who)

    assert await driven(outer(), "outer") == "done"


async def test_a_cancellation_reaches_it_where_it_waits() -> None:
    seen: list[str] = []

    async def wait() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            seen.append(str(watch.who))
            raise

    task = asyncio.create_task(_as_coroutine(driven(wait(), "me")))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert seen == ["me"]
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await driven(wait(), "me")


async def test_one_that_swallows_its_cancellation_goes_on() -> None:
    async def stubborn() -> int:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await asyncio.sleep(0)
        return 7

    task = asyncio.create_task(_as_coroutine(driven(stubborn(), "me")))
    await asyncio.sleep(0)
    task.cancel()
    assert await task == 7


async def test_closing_it_closes_what_it_drives() -> None:
    seen: list[str] = []

    async def wait() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            seen.append("closed")

    going = _as_coroutine(driven(wait(), "me"))
    going.send(None)
    going.close()
    assert seen == ["closed"]


async def test_what_was_cancelled_leaves_no_circle_behind() -> None:
    """A frozen heap would keep it for ever, and the plugin with it."""

    class Kept:
        pass

    async def wait(kept: Kept) -> None:
        await asyncio.Event().wait()

    kept = Kept()
    gone = weakref.ref(kept)
    task = asyncio.create_task(_as_coroutine(driven(wait(kept), "me")))
    del kept
    await asyncio.sleep(0)
    gc.collect()
    gc.disable()
    try:
        task.cancel()
        await asyncio.wait({task})
        del task
        assert gone() is None
    finally:
        gc.enable()


async def _as_coroutine(work: Any) -> Any:
    return await work
