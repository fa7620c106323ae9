"""The admin API of a gateway with workers: asked once, answered for all."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import ClientSession, web
from nexus_gateway.edge.workers.admin import MergedAdmin
from nexus_gateway.edge.workers.supervisor import Supervisor


def render(states: Sequence[bytes], accept: str) -> tuple[bytes, str]:
    return b"+".join(sorted(states)), "text/plain"


@asynccontextmanager
async def served(supervisor: Supervisor) -> AsyncIterator[Any]:
    """Yields `ask(path) -> (status, body, Nexus-Workers)`."""
    runner = web.AppRunner(MergedAdmin(supervisor, "pod-1", render, traces=False).application(), access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    port = runner.addresses[0][1]
    try:
        async with ClientSession() as client:

            async def ask(path: str) -> tuple[int, Any, str]:
                async with client.get(f"http://127.0.0.1:{port}{path}") as response:
                    body = await (response.json() if "json" in response.content_type else response.read())
                    return response.status, body, response.headers.get("Nexus-Workers", "")

            yield ask
    finally:
        await runner.cleanup()


async def all_ready(supervisor: Supervisor) -> None:
    async with asyncio.timeout(20):
        while True:
            if supervisor.not_ready is None:
                return
            await asyncio.sleep(0.01)


async def test_answers_are_of_all_workers(supervised: Any) -> None:
    supervisor = await supervised(workers=2)
    async with served(supervisor) as ask:
        await all_ready(supervisor)
        assert await ask("/readyz") == (200, {"status": "ready", "generation": 4}, "")
        assert await ask("/metrics") == (200, b"0+1", "2/2")
        status, body, count = await ask("/problems")
        assert (status, body, count) == (200, {"problems": [{"worker": 0}, {"worker": 1}]}, "2/2")
        status, body, _ = await ask("/workers")
        assert [(row["worker"], row["pid"], row["ready"]) for row in body["workers"]] == [
            (0, supervisor.workers[0].pid, True),
            (1, supervisor.workers[1].pid, True),
        ]
        status, body, _ = await ask("/leads")
        assert (status, body["leads"]) == (200, True), "what is unknown here is asked of the first worker"
        assert (await ask("/nothing"))[0] == 404


async def test_a_worker_that_does_not_answer_is_left_out_and_counted(supervised: Any) -> None:
    supervisor = await supervised(workers=2)
    async with served(supervisor) as ask:
        await all_ready(supervisor)
        os.kill(supervisor.workers[1].pid, signal.SIGKILL)
        async with asyncio.timeout(20):
            while (await ask("/readyz"))[0] == 200:
                pass  # each question takes its time
        status, body, count = await ask("/problems")
        assert status == 200
        assert body["problems"][0] == {"worker": 0}
        assert count in ("1/2", "2/2"), "the next worker may be there already"


async def test_it_is_not_ready_while_one_worker_is_not(supervised: Any) -> None:
    supervisor = await supervised(workers=2, trouble="never-ready")
    async with served(supervisor) as ask:
        status, body, _ = await ask("/readyz")
        assert (status, body["reason"]) == (503, "worker 0: never")
        assert (await ask("/healthz"))[0] == 200
