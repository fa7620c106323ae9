"""Long work on the event loop leaves room for what else is to be done."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from time import perf_counter

import pytest
from nexus_gateway.edge.slices import run_in_slices
from nexus_gateway.testing import turns_while


def work(steps: int, step_s: float, ended: list[str]) -> Generator[None, None, str]:
    try:
        for _ in range(steps):
            ends_at = perf_counter() + step_s
            while perf_counter() < ends_at:
                pass
            yield
    finally:
        ended.append("ended")
    return "done"


async def test_others_run_between_slices() -> None:
    ended: list[str] = []
    done, turns = await turns_while(run_in_slices(work(100, 0.0001, ended), slice_s=0.001, pause_s=0.0))
    assert done == "done"
    # Ten milliseconds of work in slices of one; steps are at most a tenth longer than meant, on a machine that has time.
    assert 2 <= turns <= 100
    assert ended == ["ended"]


async def test_a_failure_comes_through() -> None:
    def failing() -> Generator[None, None, str]:
        yield
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await run_in_slices(failing())


async def test_cancelled_work_is_closed() -> None:
    ended: list[str] = []
    task = asyncio.create_task(run_in_slices(work(10_000, 0.0001, ended), slice_s=0.0005, pause_s=0.001))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended == ["ended"]
