"""How many series a gateway shows when every one of thousands of routes has served."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

import yaml

START_S = 60.0
AT_ONCE = 16


def measure(routes: int) -> dict[str, float]:
    """Return the number of series after one request to each route, and what the scrape weighs."""
    with tempfile.TemporaryDirectory() as folder:
        port, admin, backend = _free(), _free(), _free()
        document = yaml.safe_dump_all(
            {
                "apiVersion": "nexus.dev/v1alpha1",
                "kind": "NexusService",
                "metadata": {"name": f"s{number}", "namespace": "bench"},
                "spec": {
                    "backend": {"addresses": [f"127.0.0.1:{backend}"]},
                    "expose": {"path": f"/r{number}"},
                },
            }
            for number in range(routes)
        )
        (Path(folder) / "all.yaml").write_text(document)
        gateway = subprocess.Popen(
            [str(Path(sys.executable).parent / "nexus"), "gateway", "-f", folder,
             "--listen", f"127.0.0.1:{port}", "--admin", f"127.0.0.1:{admin}"],
            env={**_environment(), "NEXUS_ACCESS_LOG": "false", "NEXUS_LOG_LEVEL": "ERROR"},
            stdout=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            _wait(f"http://127.0.0.1:{admin}/readyz")
            asyncio.run(_ask_all(port, backend, routes))
            at = time.perf_counter()
            with urllib.request.urlopen(f"http://127.0.0.1:{admin}/metrics") as answer:
                body = answer.read()
            took_ms = 1000 * (time.perf_counter() - at)
        finally:
            gateway.terminate()
            gateway.wait(30)
    lines = [line for line in body.decode().splitlines() if line and not line.startswith("#")]
    counted = sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith("nexus_gateway_requests_total"))
    if counted < routes:
        raise SystemExit(f"{routes} requests were sent and {counted:g} counted: the sums are wrong.")
    return {
        "routes": routes,
        "series": len(lines),
        "scrape_kb": round(len(body) / 1024, 1),
        "scrape_ms": round(took_ms, 1),
    }


class _Backend(asyncio.Protocol):
    """Answers 204 to every request; the gateway sends each in one piece."""

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._transport.write(b"HTTP/1.1 204 No Content\r\n\r\n" * data.count(b"\r\n\r\n"))


async def _ask_all(port: int, backend: int, routes: int) -> None:
    async def client(first: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for number in range(first, routes, AT_ONCE):
            writer.write(b"GET /r%d HTTP/1.1\r\nhost: bench\r\n\r\n" % number)
            head = await reader.readuntil(b"\r\n\r\n")
            if not head.startswith(b"HTTP/1.1 204"):
                raise SystemExit(f"Route {number} answered {head[:60]!r}.")
        writer.close()

    server = await asyncio.get_running_loop().create_server(_Backend, "127.0.0.1", backend)
    async with server:
        await asyncio.gather(*(client(first) for first in range(AT_ONCE)))


def _wait(url: str) -> None:
    end = time.monotonic() + START_S
    while True:
        try:
            with urllib.request.urlopen(url) as answer:
                if answer.status == 200:
                    return
        except OSError:
            if time.monotonic() > end:
                raise
        time.sleep(0.05)


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("NEXUS_")}


def _free() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
