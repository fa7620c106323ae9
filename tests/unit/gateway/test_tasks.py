"""Background tasks: none fails in silence, and those that should last go on."""

from __future__ import annotations

import asyncio
import logging

import pytest
from nexus_gateway.edge.tasks import Tasks
from nexus_gateway.testing import until


async def test_a_task_that_fails_is_logged_and_counted_under_its_name(caplog: pytest.LogCaptureFixture) -> None:
    failed: list[str] = []
    tasks = Tasks(failed.append)

    async def break_down() -> None:
        raise OSError("no such disk")

    tasks.own(break_down(), "retire")
    await until(lambda: failed)
    assert failed == ["retire"]
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert "'retire'" in record.getMessage()
    assert record.exc_info is not None
    assert str(record.exc_info[1]) == "no such disk"
    await tasks.close()


async def test_a_lasting_task_goes_on_after_a_failure() -> None:
    failed: list[str] = []
    tasks = Tasks(failed.append, again_s=0.0)
    begun = 0
    lasting = asyncio.Event()

    async def work() -> None:
        nonlocal begun
        begun += 1
        if begun < 3:
            raise ValueError("not yet")
        lasting.set()
        await asyncio.Event().wait()

    tasks.keep(work, "housekeeping")
    async with asyncio.timeout(5):
        await lasting.wait()
    assert failed == ["housekeeping"] * 2
    await tasks.close()


async def test_tasks_that_are_ended_or_done_have_not_failed(caplog: pytest.LogCaptureFixture) -> None:
    failed: list[str] = []
    tasks = Tasks(failed.append)
    ended = asyncio.Event()

    async def wait() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async def be_done() -> None:
        return

    tasks.keep(wait, "certificates")
    tasks.keep(be_done, "samples")
    await asyncio.sleep(0)
    await tasks.close()
    assert ended.is_set()
    assert not failed
    assert not caplog.records
