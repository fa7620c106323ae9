"""kill -9 of the real service process: what was acknowledged is stored, and delivered at least once."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import socket
import sys
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

HEADERS = {"content-type": "application/cloudevents+json"}


class Sink:
    """A subscriber that counts what it got, and in which order."""

    def __init__(self) -> None:
        self.got: list[str] = []
        self.port = 0

    async def take(self, request: web.Request) -> web.Response:
        await request.read()
        self.got.append(request.headers["ce-id"])
        return web.Response(status=204)


@pytest.fixture
async def sink() -> AsyncIterator[Sink]:
    made, application = Sink(), web.Application()
    application.router.add_post("/in", made.take)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    made.port = runner.addresses[0][1]
    yield made
    await runner.cleanup()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def start(directory: Path, port: int) -> asyncio.subprocess.Process:
    keep = {k: v for k, v in os.environ.items() if not k.startswith(("NEXUS_", "OTEL_"))}
    environ = {
        **keep,
        "NEXUS_DATA_DIR": str(directory),
        "PORT": str(port),
        "NEXUS_HOST": "127.0.0.1",
        "NEXUS_LOG_LEVEL": "WARNING",
    }
    return await asyncio.create_subprocess_exec(sys.executable, "-m", "nexus_events", env=environ)


async def until_ready(session: aiohttp.ClientSession, url: str) -> None:
    async with asyncio.timeout(20):
        while True:
            try:
                async with session.get(f"{url}/readyz") as reply:
                    if reply.status == 200:
                        return
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.02)


async def publish(session: aiohttp.ClientSession, url: str, name: str, acked: list[str], until: asyncio.Event) -> None:
    number = 0
    while not until.is_set():
        event = {
            "specversion": "1.0",
            "id": f"{name}-{number}",
            "source": "/crash",
            "type": "crash.test",
            "data": {"n": number},
        }
        try:
            async with session.post(f"{url}/events", json=event, headers=HEADERS) as reply:
                if reply.status == 202:
                    acked.append(event["id"])
        except aiohttp.ClientError:
            await asyncio.sleep(0.005)
        number += 1


def tear_wal(directory: Path, rng: random.Random) -> None:
    """Leave half a frame of rubbish at the end of the write-ahead log, as a torn write would."""
    with (directory / "events.db-wal").open("ab") as wal:
        wal.write(rng.randbytes(3000))


@pytest.mark.timeout(120)
async def test_what_was_acknowledged_survives_kill_9_and_is_delivered(tmp_path: Path, sink: Sink) -> None:
    rng, port, acked = random.Random(7), free_port(), list[str]()
    url = f"http://127.0.0.1:{port}"
    process = await start(tmp_path, port)
    try:
        async with aiohttp.ClientSession() as session:
            await until_ready(session, url)
            order = {"sink": f"http://127.0.0.1:{sink.port}/in", "types": ["crash.*"]}
            async with session.put(f"{url}/subscriptions/crash", json=order) as reply:
                assert reply.status == 201
            done = asyncio.Event()
            publishers = [asyncio.create_task(publish(session, url, f"p{n}", acked, done)) for n in range(8)]
            for life in range(5):
                before = len(acked)
                async with asyncio.timeout(20):
                    while len(acked) < before + 50:  # noqa: ASYNC110 - the other side is another process
                        await asyncio.sleep(0.005)
                await asyncio.sleep(rng.random() * 0.1)  # a random point in the work; nothing is waited for
                process.send_signal(signal.SIGKILL)
                await process.wait()
                if life % 2:
                    tear_wal(tmp_path, rng)
                process = await start(tmp_path, port)
                await until_ready(session, url)
            done.set()
            await asyncio.gather(*publishers)
            stored, after = [], 0
            while True:
                async with session.get(f"{url}/events", params={"after": str(after), "limit": "1000"}) as reply:
                    page = await reply.json()
                if not page["events"]:
                    break
                stored += [entry["event"]["id"] for entry in page["events"]]
                after = page["next"]
            assert len(acked) >= 250
            assert not set(acked) - set(stored), "acknowledged but not stored"
            assert max(Counter(stored).values()) == 1
            async with asyncio.timeout(30):
                while set(stored) - set(sink.got):  # noqa: ASYNC110 - the other side is another process
                    await asyncio.sleep(0.02)
            first = list(dict.fromkeys(sink.got))
            assert first == stored, "first deliveries are in the order of acceptance"
            process.send_signal(signal.SIGTERM)
            assert await asyncio.wait_for(process.wait(), 15) == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
