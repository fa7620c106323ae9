"""Workers are started, replaced, rolled and stopped, and no connection is lost over it. Real processes, real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientError, ClientSession, ClientTimeout, TCPConnector, UnixConnector
from nexus_gateway.edge.workers.supervisor import CannotStart, Supervisor, pause_s


async def ask(port: int, path: str = "/") -> dict[str, Any]:
    """One request on a connection of its own."""
    async with (
        ClientSession(connector=TCPConnector(force_close=True), timeout=ClientTimeout(total=20)) as client,
        client.get(f"http://127.0.0.1:{port}{path}") as response,
    ):
        found: dict[str, Any] = await response.json()
        return found


async def until(check: Any, timeout_s: float = 20.0) -> None:
    async with asyncio.timeout(timeout_s):
        while True:
            if check():
                return
            await asyncio.sleep(0.01)


async def all_ready(supervisor: Supervisor) -> None:
    await until(lambda: supervisor.not_ready is None)


async def test_all_workers_take_connections_on_one_port(supervised: Any) -> None:
    supervisor = await supervised(workers=2)
    await all_ready(supervisor)
    assert supervisor.generation == 4, "what the slowest serves"
    answers = [await ask(supervisor.port) for _ in range(40)]
    assert {each["pid"] for each in answers} == {worker.pid for worker in supervisor.workers}


async def test_workers_share_memory_and_lose_no_count_under_the_lock(supervised: Any) -> None:
    supervisor = await supervised(workers=2)
    await all_ready(supervisor)
    await asyncio.gather(*(ask(supervisor.port, "/count") for _ in range(20)))
    assert (await ask(supervisor.port, "/count"))["count"] == 21_000


async def test_what_the_memory_holds_outlives_every_worker(supervised: Any) -> None:
    supervisor = await supervised(workers=1)
    await all_ready(supervisor)
    await ask(supervisor.port, "/count")
    assert await supervisor.roll()
    assert (await ask(supervisor.port, "/count"))["count"] == 2_000


async def test_a_killed_worker_is_replaced_and_connections_in_its_queue_are_answered_by_the_next(
    supervised: Any,
) -> None:
    supervisor = await supervised(workers=1)
    await all_ready(supervisor)
    former = supervisor.workers[0].pid
    os.kill(former, signal.SIGSTOP)
    # The stopped worker accepts nothing: these wait in the queue of the socket when it dies.
    waiting = [asyncio.create_task(ask(supervisor.port)) for _ in range(10)]
    await asyncio.sleep(0.1)
    os.kill(former, signal.SIGKILL)
    answers = await asyncio.gather(*waiting)
    assert {each["pid"] for each in answers} == {supervisor.workers[0].pid}
    assert supervisor.workers[0].pid != former
    assert supervisor.slots[0].restarts == 1


async def test_the_other_worker_serves_on_while_one_is_replaced(supervised: Any) -> None:
    supervisor = await supervised(workers=2)
    await all_ready(supervisor)
    survivor = supervisor.workers[1]
    os.kill(supervisor.workers[0].pid, signal.SIGKILL)
    await until(lambda: supervisor.not_ready is not None)
    assert "being replaced" in str(supervisor.not_ready) or "starting" in str(supervisor.not_ready)
    await all_ready(supervisor)
    assert supervisor.workers[1] is survivor


async def test_a_worker_that_stands_still_is_replaced(supervised: Any) -> None:
    supervisor = await supervised(workers=1, silent_s=0.6)
    await all_ready(supervisor)
    former = supervisor.workers[0].pid
    with contextlib.suppress(ClientError):
        await ask(supervisor.port, "/hang")  # its event loop blocks; nobody answers this one
    await until(lambda: bool(supervisor.workers) and supervisor.workers[0].pid != former)
    await all_ready(supervisor)
    assert (await ask(supervisor.port))["pid"] == supervisor.workers[0].pid


async def test_a_worker_that_talks_nonsense_is_replaced_and_nothing_breaks(supervised: Any) -> None:
    with pytest.raises(CannotStart, match="signal 9"):
        await supervised(workers=1, trouble="nonsense")


async def load(port: int, stop: asyncio.Event, outcomes: Counter[str], pids: set[int], keep_alive: bool) -> None:
    """A closed loop: one request after the other, reusing its connection or not. What fails is counted, never retried."""
    connector = TCPConnector(limit=1, force_close=not keep_alive)
    async with ClientSession(connector=connector, timeout=ClientTimeout(total=20)) as client:
        client._retry_connection = False  # a request on a connection that the server closed counts as lost
        while not stop.is_set():
            try:
                async with client.get(f"http://127.0.0.1:{port}/") as response:
                    pids.add((await response.json())["pid"])
                    outcomes[str(response.status)] += 1
            except ClientError as error:
                outcomes[type(error).__name__] += 1


async def test_a_roll_replaces_every_worker_and_loses_no_request(supervised: Any) -> None:
    supervisor = await supervised(workers=2)
    await all_ready(supervisor)
    before = {worker.pid for worker in supervisor.workers}
    stop, outcomes, pids = asyncio.Event(), Counter[str](), set[int]()
    clients = [
        asyncio.create_task(load(supervisor.port, stop, outcomes, pids, keep_alive=number % 2 == 0))
        for number in range(8)
    ]
    assert await supervisor.roll()
    after = {worker.pid for worker in supervisor.workers}
    stop.set()
    await asyncio.gather(*clients)
    assert not before & after
    assert set(outcomes) == {"200"}, outcomes
    assert outcomes["200"] > 100
    assert pids & before, "the former served"
    assert pids & after, "so did the next"
    for pid in before:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


async def test_requests_in_flight_finish_on_the_predecessor(supervised: Any) -> None:
    supervisor = await supervised(workers=1)
    await all_ready(supervisor)
    former = supervisor.workers[0].pid
    slow = asyncio.create_task(ask(supervisor.port, "/slow"))
    rolling = asyncio.create_task(supervisor.roll())
    assert (await slow)["pid"] == former
    assert await rolling


async def test_a_successor_that_does_not_start_stops_the_roll_and_the_former_serves_on(
    supervised: Any, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    supervisor = await supervised(workers=2, environ={"STUB_FAILS_AFTER": str(broken)})
    await all_ready(supervisor)
    before = [worker.pid for worker in supervisor.workers]
    broken.touch()
    assert not await supervisor.roll()
    assert [worker.pid for worker in supervisor.workers] == before
    assert supervisor.not_ready is None
    assert (await ask(supervisor.port))["pid"] in before


async def test_a_predecessor_that_does_not_drain_is_ended(supervised: Any) -> None:
    supervisor = await supervised(workers=1, trouble="deaf", drain_s=-4.5)  # 0.5 s with the margin
    await all_ready(supervisor)
    former = supervisor.workers[0].pid
    assert await supervisor.roll()
    with pytest.raises(ProcessLookupError):
        os.kill(former, 0)


async def test_a_first_worker_that_cannot_start_is_told_and_leaves_nothing_behind(supervised: Any) -> None:
    with pytest.raises(CannotStart, match="ended with exit code 7"):
        await supervised(workers=2, trouble="exit")


async def test_a_stop_drains_all_and_closes_the_port(supervised: Any) -> None:
    supervisor = await supervised(workers=2)
    await all_ready(supervisor)
    port, workers = supervisor.port, supervisor.workers
    async with ClientSession(timeout=ClientTimeout(total=20)) as client:

        async def get(path: str) -> int:
            async with client.get(f"http://127.0.0.1:{port}{path}") as response:
                return int((await response.json())["pid"])

        accepted = await get("/")  # so that the next request, on the same connection, waits for no accept
        slow = asyncio.create_task(get("/slow"))
        await asyncio.sleep(0.1)
        await supervisor.stop()
        assert await slow == accepted
    assert accepted in {worker.pid for worker in workers}
    assert [worker.ended.result() for worker in workers] == [0, 0]
    with pytest.raises(OSError, match="Connect call failed"):
        await asyncio.open_connection("127.0.0.1", port)


async def leads(supervisor: Supervisor, at: int) -> bool:
    async with (
        ClientSession(connector=UnixConnector(supervisor.workers[at].admin)) as client,
        client.get("http://worker/leads") as response,
    ):
        return bool((await response.json())["leads"])


async def test_one_worker_leads_and_another_takes_over(supervised: Any) -> None:
    supervisor = await supervised(workers=2)
    await all_ready(supervisor)
    assert [await leads(supervisor, at) for at in (0, 1)] == [True, False]
    os.kill(supervisor.workers[0].pid, signal.SIGKILL)
    await until(lambda: supervisor.not_ready is not None)
    await all_ready(supervisor)
    assert [await leads(supervisor, at) for at in (0, 1)] == [False, True]
    assert await supervisor.roll()
    assert sum([await leads(supervisor, at) for at in (0, 1)]) == 1


async def test_workers_without_a_supervisor_end(tmp_path: Path) -> None:
    """A supervisor that is killed leaves none behind that would share the next one's port."""
    program = f"""
import asyncio, os, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from nexus_gateway.edge.workers.supervisor import Plan, Supervisor
async def main():
    plan = Plan(command=(sys.executable, {str(Path(__file__).parent / "stub.py")!r}), environ=lambda _: os.environ,
                workers=2, plain=("127.0.0.1", 0))
    supervisor = Supervisor(plan)
    await supervisor.start()
    while supervisor.not_ready is not None:
        await asyncio.sleep(0.01)
    print(*(worker.pid for worker in supervisor.workers), flush=True)
    await asyncio.sleep(60)
asyncio.run(main())
"""
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", program, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    pids = [int(each) for each in (await process.stdout.readline()).split()]
    assert len(pids) == 2
    process.kill()
    await process.wait()

    def is_gone(pid: int) -> bool:
        try:
            return not Path(f"/proc/{pid}/cmdline").read_bytes()  # nothing: it ended and waits to be reaped
        except OSError:
            return True

    await until(lambda: all(is_gone(pid) for pid in pids))


def test_an_address_that_is_taken_is_refused_even_by_who_would_share_it() -> None:
    from nexus_gateway.edge.workers import sockets

    first = sockets.bind("127.0.0.1", 0, 2)
    try:
        port = first[0].getsockname()[1]
        assert [each.getsockname()[1] for each in first] == [port, port]
        with pytest.raises(OSError, match="Address already in use"):
            sockets.bind("127.0.0.1", port, 1)
    finally:
        for each in first:
            each.close()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", port))


@pytest.mark.parametrize(("failures", "expected"), [(0, 0.0), (1, 0.0), (2, 0.1), (3, 0.5), (6, 5.0), (60, 5.0)])
def test_the_first_death_costs_no_pause_and_a_crash_loop_seconds(failures: int, expected: float) -> None:
    assert pause_s(failures) == expected


async def test_those_alive_have_the_least_columns_that_are_free_and_no_two_the_same(supervised: Any) -> None:
    """Serials go on and on; columns are places in shared memory, of which there are few."""
    supervisor = await supervised(workers=2)
    await all_ready(supervisor)
    assert sorted(worker.column for worker in supervisor.workers) == [0, 1]
    killed = supervisor.workers[0]
    os.kill(killed.pid, signal.SIGKILL)
    await until(lambda: supervisor.workers and supervisor.workers[0] is not killed)
    await all_ready(supervisor)
    assert [worker.column for worker in supervisor.workers] == [killed.column, 1 - killed.column]
    assert supervisor.workers[0].serial != killed.serial
    for _ in range(2):
        assert await supervisor.roll()
        columns = [worker.column for worker in supervisor.workers]
        assert len(set(columns)) == 2
        assert max(columns) <= 2, "a predecessor has its own until it is gone"
