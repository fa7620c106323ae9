"""Ports that come and go with two workers, as real processes: lent by the supervisor, and kept while workers are replaced."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from aiohttp import ClientConnectionError, ClientError, ClientSession, ClientTimeout, TCPConnector, web
from nexus_gateway.testing import Upstreams, until

LISTENERS = """
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: main, namespace: shop}
spec:
  gatewayClassName: nexus
  listeners: [LISTENERS]
"""
SERVICE = """
apiVersion: nexus.dev/v1alpha1
kind: NexusService
metadata: {name: orders, namespace: shop}
spec:
  type: http
  backend: {addresses: ["127.0.0.1:PORT"]}
  expose: {path: /}
"""


def declare(folder: Path, *ports: int) -> None:
    listeners = ", ".join(f"{{name: p{port}, port: {port}, protocol: HTTP}}" for port in ports)
    fresh = folder.parent / "gateway.yaml"
    fresh.write_text(LISTENERS.replace("LISTENERS", listeners))
    fresh.rename(folder / "gateway.yaml")


async def serves(port: int) -> int:
    """Return the status of a request to a port, 0 where nobody listens."""
    try:
        async with ClientSession() as client, client.get(f"http://127.0.0.1:{port}/") as response:
            return response.status
    except ClientConnectionError:
        return 0


@pytest.fixture
async def upstreams() -> AsyncIterator[Upstreams]:
    made = Upstreams()
    yield made
    await made.close()


@pytest.mark.timeout(200)
@pytest.mark.parametrize("ports", ["local", "declared"])
async def test_ports_come_and_go_with_workers_and_stay_open_while_these_are_replaced(
    upstreams: Upstreams, tmp_path: Path, unused_tcp_port_factory: Callable[[], int], ports: str
) -> None:
    async def answer(request: web.Request) -> web.Response:
        return web.Response(text="a")

    folder = tmp_path / "manifests"
    folder.mkdir()
    (folder / "orders.yaml").write_text(SERVICE.replace("PORT", str(await upstreams.start(answer))))
    listen, admin = unused_tcp_port_factory(), unused_tcp_port_factory()
    # The lower one is where the settings say.
    one, two = sorted((unused_tcp_port_factory(), unused_tcp_port_factory()))
    first = listen if ports == "local" else one
    declare(folder, one)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "nexus_cli", "gateway", "-f", str(folder), "--workers", "2",
        "--listen", f"127.0.0.1:{listen}", "--admin", f"127.0.0.1:{admin}",
        env={
            **os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache"), "NEXUS_ACCESS_LOG": "false", "NEXUS_PORTS": ports,
        },
    )  # fmt: skip

    async def status(port: int, expected: int) -> bool:
        assert process.returncode is None, "the gateway ended"
        return await serves(port) == expected

    async def asked(path: str) -> object:
        async with ClientSession() as client, client.get(f"http://127.0.0.1:{admin}{path}") as response:
            return await response.json()

    try:
        await until(lambda: status(first, 200), 40)
        declare(folder, one, two)
        await until(lambda: status(two, 200))
        # Both workers replaced while requests go to the port that settings do not name.
        outcomes: Counter[str] = Counter()
        over = asyncio.Event()

        async def load() -> None:
            connector = TCPConnector(limit=1, force_close=True)
            async with ClientSession(connector=connector, timeout=ClientTimeout(total=20)) as client:
                while not over.is_set():
                    try:
                        async with client.post(f"http://127.0.0.1:{two}/orders", data=b"x") as response:
                            outcomes[str(response.status)] += 1
                    except ClientError as error:
                        outcomes[repr(error)] += 1

        def pids() -> object:
            return asked("/workers")

        before = {row["pid"] for row in (await asked("/workers"))["workers"]}  # type: ignore[index]
        loads = [asyncio.create_task(load()) for _ in range(4)]
        process.send_signal(signal.SIGHUP)

        async def replaced() -> bool:
            rows = (await asked("/workers"))["workers"]  # type: ignore[index]
            return len(rows) == 2 and before.isdisjoint(row["pid"] for row in rows)

        await until(replaced, 40)
        over.set()
        await asyncio.gather(*loads)
        assert set(outcomes) == {"200"}, outcomes
        declare(folder, one)
        await until(lambda: status(two, 0))
        assert await status(first, 200)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()
