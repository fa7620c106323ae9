"""Both services as real processes, found through the discovery file, with the event service killed in between."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from pathlib import Path

import aiohttp
import pytest
from websockets.asyncio.client import connect

HEADERS = {"content-type": "application/cloudevents+json"}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def start(module: str, environ: dict[str, str]) -> asyncio.subprocess.Process:
    keep = {k: v for k, v in os.environ.items() if not k.startswith(("NEXUS_", "OTEL_"))}
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", module, env={**keep, "NEXUS_HOST": "127.0.0.1", "NEXUS_LOG_LEVEL": "WARNING", **environ}
    )


async def until(http: aiohttp.ClientSession, url: str, text: str) -> None:
    async with asyncio.timeout(20):
        while True:
            try:
                async with http.get(url) as reply:
                    if reply.status == 200 and text in await reply.text():
                        return
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.02)


@pytest.mark.timeout(90)
async def test_events_published_around_a_kill_9_reach_the_client_in_order(tmp_path: Path) -> None:
    events_port, socket_port = free_port(), free_port()
    table = tmp_path / "services.json"
    table.write_text(
        json.dumps(
            {
                "services": {
                    "events.default": {"endpoints": [{"address": "127.0.0.1", "port": events_port, "id": "events"}]}
                }
            }
        )
    )
    events_environ = {"PORT": str(events_port), "NEXUS_DATA_DIR": str(tmp_path / "data")}
    url = f"http://127.0.0.1:{events_port}"
    processes = [await start("nexus_events", events_environ)]
    try:
        processes.append(await start("nexus_websocket", {
            "PORT": str(socket_port), "NEXUS_DISCOVERY_FILE": str(table),
            "NEXUS_WEBSOCKET_EVENTS": "order.*=orders", "NEXUS_WEBSOCKET_TTL_SECONDS": "20",
        }))  # fmt: skip
        async with aiohttp.ClientSession() as http:
            await until(http, f"{url}/subscriptions", "websocket.default")
            async with connect(f"ws://127.0.0.1:{socket_port}/ws") as client:
                await client.send('{"subscribe": "orders"}')
                published, number = list[int](), 0
                for life in range(2):
                    for _ in range(30):
                        event = {
                            "specversion": "1.0",
                            "id": str(number),
                            "source": "/s",
                            "type": "order.placed",
                            "data": number,
                        }
                        async with http.post(f"{url}/events", json=event, headers=HEADERS) as reply:
                            assert reply.status == 202
                        published.append(number)
                        number += 1
                    if life == 0:
                        processes[0].send_signal(signal.SIGKILL)
                        await processes[0].wait()
                        processes[0] = await start("nexus_events", events_environ)
                        await until(http, f"{url}/readyz", "ready")
                got = list[int]()
                async with asyncio.timeout(20):
                    while len(got) < len(published):
                        message = json.loads(await client.recv())
                        if "channel" in message:
                            got.append(message["data"])
                assert got == published, "in order, and repeats of the event service are not seen"
                processes[1].send_signal(signal.SIGTERM)
                await asyncio.wait_for(client.wait_closed(), 10)
                assert client.close_code == 1012
            assert await asyncio.wait_for(processes[1].wait(), 15) == 0
            async with http.get(f"{url}/subscriptions") as reply:
                assert (await reply.json())["subscriptions"] == [], "a graceful stop takes the subscription back"
    finally:
        for process in processes:
            if process.returncode is None:
                process.kill()
                await process.wait()
