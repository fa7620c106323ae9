"""`nexus gateway --workers 2`, the real processes: rolled, killed and stopped under load; what they share."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientConnectionError, ClientError, ClientSession, ClientTimeout, TCPConnector, web
from nexus_gateway.testing import Upstreams, until

MANIFEST = """
apiVersion: nexus.dev/v1alpha1
kind: NexusService
metadata: {name: orders, namespace: shop}
spec:
  type: http
  backend: {addresses: ["127.0.0.1:PORT"]}
  expose: {path: /}
  policy: {circuitBreaker: {failures: 4, resetSeconds: 60}}
"""


@dataclass
class Running:
    """A gateway with two workers."""

    process: asyncio.subprocess.Process
    port: int
    admin: int

    async def ask(self, path: str) -> tuple[int, Any]:
        async with ClientSession() as client, client.get(f"http://127.0.0.1:{self.admin}{path}") as response:
            json = "json" in response.content_type
            return response.status, await (response.json() if json else response.text())

    async def ready(self) -> bool:
        with contextlib.suppress(ClientConnectionError):
            return (await self.ask("/readyz"))[0] == 200
        assert self.process.returncode is None, "the gateway ended"
        return False

    async def pids(self) -> list[int]:
        return [row["pid"] for row in (await self.ask("/workers"))[1]["workers"]]


Start = Callable[[int], Awaitable[Running]]


@pytest.fixture
async def upstreams() -> AsyncIterator[Upstreams]:
    made = Upstreams()
    yield made
    await made.close()


@pytest.fixture
async def start(tmp_path: Path, unused_tcp_port_factory: Callable[[], int]) -> AsyncIterator[Start]:
    started: list[asyncio.subprocess.Process] = []

    async def run(upstream: int) -> Running:
        (tmp_path / "manifests").mkdir()
        (tmp_path / "manifests" / "orders.yaml").write_text(MANIFEST.replace("PORT", str(upstream)))
        port, admin = unused_tcp_port_factory(), unused_tcp_port_factory()
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "nexus_cli", "gateway", "-f", str(tmp_path / "manifests"), "--workers", "2",
            "--listen", f"127.0.0.1:{port}", "--admin", f"127.0.0.1:{admin}",
            env={**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache"), "NEXUS_ACCESS_LOG": "false"},
        )  # fmt: skip
        started.append(process)
        running = Running(process, port, admin)
        await until(running.ready, 40)
        return running

    yield run
    for process in started:
        if process.returncode is None:
            process.terminate()
            await process.wait()


async def load(running: Running, stop: asyncio.Event, outcomes: Counter[str], keep_alive: bool) -> None:
    """A closed loop of POSTs, which nobody may repeat: what is lost shows."""
    connector = TCPConnector(limit=1, force_close=not keep_alive)
    async with ClientSession(connector=connector, timeout=ClientTimeout(total=20)) as client:
        while not stop.is_set():
            try:
                async with client.post(f"http://127.0.0.1:{running.port}/orders", data=b"x" * 100) as response:
                    await response.read()
                    outcomes[str(response.status)] += 1
            except ClientError as error:
                outcomes[repr(error)] += 1


@contextlib.asynccontextmanager
async def loaded(running: Running, clients: int = 6) -> AsyncIterator[Counter[str]]:
    stop, outcomes = asyncio.Event(), Counter[str]()
    tasks = [asyncio.create_task(load(running, stop, outcomes, number % 2 == 0)) for number in range(clients)]
    try:
        await until(lambda: outcomes.total() > 50)
        yield outcomes
    finally:
        stop.set()
        await asyncio.gather(*tasks)


async def answer(request: web.Request) -> web.Response:
    await request.read()
    return web.Response(text="stored")


async def test_a_rolling_restart_replaces_both_workers_and_loses_no_request(upstreams: Upstreams, start: Start) -> None:
    running = await start(await upstreams.start(answer))
    before = await running.pids()
    async with loaded(running) as outcomes:
        running.process.send_signal(signal.SIGHUP)

        async def replaced() -> bool:
            return not set(before) & set(await running.pids())

        await until(replaced, 40)
        assert await running.ready()
    assert set(outcomes) == {"200"}, outcomes


async def test_a_killed_worker_costs_what_it_had_in_hand_and_nothing_else(upstreams: Upstreams, start: Start) -> None:
    running = await start(await upstreams.start(answer))
    before = await running.pids()
    async with loaded(running, clients=6) as outcomes:
        os.kill(before[0], signal.SIGKILL)

        async def replaced() -> bool:
            pids = await running.pids()
            return None not in pids and before[0] not in pids and await running.ready()

        await until(replaced, 40)
        assert (await running.pids())[1] == before[1]
    lost = outcomes.total() - outcomes["200"]
    assert lost <= 6, outcomes  # one a client, at most


async def test_a_stop_answers_what_is_in_flight_and_ends_with_zero(upstreams: Upstreams, start: Start) -> None:
    arrived = asyncio.Event()

    async def slow(request: web.Request) -> web.Response:
        arrived.set()
        await asyncio.sleep(0.5)
        return web.Response(text="stored")

    running = await start(await upstreams.start(slow))
    async with ClientSession() as client:
        asking = asyncio.create_task(client.get(f"http://127.0.0.1:{running.port}/"))
        await arrived.wait()
        running.process.terminate()
        response = await asking
        assert (response.status, response.headers.get("Connection", "").lower()) == (200, "close")
        response.release()
    assert await running.process.wait() == 0


async def test_workers_agree_on_a_circuit_and_metrics_are_of_both(upstreams: Upstreams, start: Start) -> None:
    calls = 0

    async def failing(request: web.Request) -> web.Response:
        nonlocal calls
        calls += 1
        return web.Response(status=503)

    running = await start(await upstreams.start(failing))
    async with ClientSession(connector=TCPConnector(force_close=True)) as client:

        async def status() -> int:
            async with client.get(f"http://127.0.0.1:{running.port}/") as response:
                return response.status

        statuses = [await status() for _ in range(60)]
    assert statuses[-1] == 503
    # Four failures open it for both. A worker that counted for itself would have let eight through.
    assert calls <= 5, calls
    assert (await running.ask("/breakers"))[1]["breakers"][0]["state"] == "open"
    metrics = (await running.ask("/metrics"))[1]
    counted = sum(
        float(line.rpartition(" ")[2])
        for line in metrics.splitlines()
        if line.startswith("nexus_gateway_requests_total{")
    )
    assert counted == 60
