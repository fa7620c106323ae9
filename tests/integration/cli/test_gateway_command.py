"""`nexus gateway`, the real process."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
from pathlib import Path

import pytest
from aiohttp import ClientSession, web
from nexus_gateway.testing import Upstreams

MANIFEST = """
apiVersion: nexus.dev/v1alpha1
kind: NexusService
metadata: {name: orders, namespace: shop}
spec: {type: http, process: {command: [unused]}, expose: {path: /}}
"""


async def test_services_are_found_in_the_discovery_file(tmp_path: Path) -> None:
    """The file is the one `nexus up` writes for services; it holds over NEXUS_CONSUL_URL."""

    async def answer(request: web.Request) -> web.Response:
        return web.Response(text="found")

    upstreams = Upstreams()
    endpoint = {"address": "127.0.0.1", "port": await upstreams.start(answer), "id": "orders-0"}
    found = tmp_path / "discovery.json"
    found.write_text(json.dumps({"services": {"orders.shop": {"endpoints": [endpoint]}}}))
    manifests = tmp_path / "manifests"
    manifests.mkdir()
    (manifests / "orders.yaml").write_text(MANIFEST)
    # Port 0 is refused by no check and bound by nobody else; the log names what was bound. Port 1 is no Consul.
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "nexus_cli", "gateway", "-f", str(manifests), "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0",
        env={**os.environ, "NEXUS_DISCOVERY_FILE": str(found), "NEXUS_CONSUL_URL": "http://127.0.0.1:1",
             "XDG_CACHE_HOME": str(tmp_path / "cache")},
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stderr is not None
    try:
        async with asyncio.timeout(20), ClientSession() as client:
            port, line = 0, b""
            while not port or b"is live" not in line:
                line = await process.stderr.readline()
                assert line, "the gateway ended"
                if (listening := re.search(rb"listening on [^:]+:(\d+)", line)) is not None:
                    port = int(listening[1])
            async with client.get(f"http://127.0.0.1:{port}/") as response:
                assert (response.status, await response.text()) == (200, "found")
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        await upstreams.close()


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize(
    ("variable", "text"),
    [("OTEL_EXPORTER_OTLP_ENDPOINT", "jaeger:4318"), ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/nowhere/ca.pem")],
)
async def test_a_collector_that_cannot_be_used_is_refused_at_the_start(
    tmp_path: Path, workers: str, variable: str, text: str
) -> None:
    environ = {**os.environ, "OTEL_EXPORTER_OTLP_ENDPOINT": "https://127.0.0.1:1", variable: text}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "nexus_cli", "gateway", "-f", str(tmp_path), "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0",
        "--workers", workers, env={**environ, "XDG_CACHE_HOME": str(tmp_path / "cache")},
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        async with asyncio.timeout(20):
            _, said = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 2
    assert f"{variable}={text!r} cannot be used" in said.decode()
    assert "Traceback" not in said.decode()
