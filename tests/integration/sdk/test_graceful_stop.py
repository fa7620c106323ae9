"""SIGTERM to a real process while a request is on its way."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

SERVICE = Path(__file__).with_name("graceful_service.py")


class Process:
    """The service's process and its log lines."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process, self.lines = process, list[dict[str, Any]]()
        self.url = ""

    async def line(self, message: str) -> dict[str, Any]:
        """Wait for a log line with this message."""
        assert self._process.stderr is not None
        async with asyncio.timeout(15):
            while text := await self._process.stderr.readline():
                self.lines.append(json.loads(text))
                if self.lines[-1]["message"] == message:
                    return self.lines[-1]
        raise AssertionError(f"no line {message!r}; the process said {self.lines}")

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    async def wait(self) -> int:
        async with asyncio.timeout(15):
            return await self._process.wait()


@contextlib.asynccontextmanager
async def running(**environ: str) -> AsyncIterator[Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-W", "error", str(SERVICE), stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "PORT": "0", "NEXUS_HOST": "127.0.0.1", **environ},
    )  # fmt: skip
    made = Process(process)
    try:
        made.url = f"http://127.0.0.1:{(await made.line('listening'))['port']}"
        yield made
    finally:
        if process.returncode is None:
            process.kill()
        assert process.stderr is not None
        await process.stderr.read()
        await process.wait()


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20)) as session:
        yield session


async def test_a_request_in_flight_ends_before_the_process_does(http: aiohttp.ClientSession) -> None:
    async with running(NEXUS_SETTLE_SECONDS="5") as service:
        held = asyncio.create_task(http.get(service.url + "/hold"))
        assert (await service.line("holding"))["trace_id"]
        service.send(signal.SIGTERM)
        await service.line("stopping")
        # While balancers still send requests they are taken, told to go elsewhere, and probes see 503.
        async with http.get(service.url + "/readyz") as answer:
            assert (answer.status, "stopping" in await answer.text()) == (503, True)
            assert answer.headers["connection"] == "close"
        async with http.post(service.url + "/release") as answer:
            assert answer.status == 200
        answer = await held
        assert (answer.status, await answer.text()) == (200, "done")
        service.send(signal.SIGTERM)  # a second signal ends the wait for balancers
        await service.line("stopped")
        assert await service.wait() == 0
        assert "stop hook ran" in [line["message"] for line in service.lines]


async def test_an_answer_on_its_way_to_a_slow_client_is_written_to_its_end() -> None:
    async with running() as service:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(service.url.rpartition(":")[2]), limit=1024)
        writer.write(b"GET /large HTTP/1.1\r\nhost: x\r\n\r\n")
        await service.line("answering")
        service.send(signal.SIGTERM)
        await service.line("stopping")
        await asyncio.sleep(0.5)  # the client reads nothing for a while: what is tested
        async with asyncio.timeout(10):
            received = sum([len(chunk) async for chunk in _chunks(reader)])
        assert received > 32_000_000
        writer.close()
        await writer.wait_closed()
        assert await service.wait() == 0


async def _chunks(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    while chunk := await reader.read(1_000_000):
        yield chunk


async def test_the_drain_is_bounded(http: aiohttp.ClientSession) -> None:
    async with running(NEXUS_DRAIN_SECONDS="0.2") as service:
        held = asyncio.create_task(http.get(service.url + "/hold"))
        await service.line("holding")
        service.send(signal.SIGTERM)
        await service.line("drain ended with requests in flight; they are cancelled")
        await service.line("stopped")
        assert await service.wait() == 0
        with pytest.raises(aiohttp.ClientError):
            await held


async def test_an_idle_service_stops_at_once(http: aiohttp.ClientSession) -> None:
    async with running() as service:
        async with http.get(service.url + "/healthz") as answer:  # leaves an idle connection open
            await answer.read()
        service.send(signal.SIGINT)
        async with asyncio.timeout(3):
            assert await service.wait() == 0


async def test_a_taken_port_is_one_line_and_status_1(http: aiohttp.ClientSession) -> None:
    async with running() as first:
        with pytest.raises(AssertionError, match="Stop what uses it, or set PORT and NEXUS_HOST"):
            async with running(PORT=first.url.rpartition(":")[2]):
                pass
