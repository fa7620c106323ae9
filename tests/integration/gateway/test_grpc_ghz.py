"""gRPC's Go client, as the load generator ghz has it: another implementation than grpcio's, and many calls at once."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from nexus_gateway.testing import Harness, simple
from nexus_testbed import components

from tests.integration.gateway.grpc_peers import Echo, Service

pytestmark = [pytest.mark.connected, pytest.mark.timeout(300)]

PROTO = """
syntax = "proto3";
package shop;
message Text { string text = 1; }
service Echo {
  rpc Unary(Text) returns (Text);
  rpc Collect(stream Text) returns (Text);
  rpc Spread(Text) returns (stream Text);
  rpc Talk(stream Text) returns (stream Text);
}
"""
CALLS = 200


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    made = Service(Echo())
    yield made
    await made.stop()  # a server that is left behind breaks the tests after it


async def run(folder: Path, port: int, method: str, data: Any, metadata: dict[str, str], *more: str) -> dict[str, int]:
    """Make the calls; return how many ended with which status."""
    program = (await asyncio.to_thread(components.ensure, ["ghz"]))["ghz"]
    proto = folder / "echo.proto"
    proto.write_text(PROTO)
    process = await asyncio.create_subprocess_exec(
        program, "--insecure", "--proto", str(proto), "--call", f"shop.Echo.{method}", "-d", json.dumps(data),
        "-m", json.dumps(metadata), "-n", str(CALLS), "-c", "20", "--connections", "4", "-O", "json", *more,
        f"127.0.0.1:{port}", stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        async with asyncio.timeout(60):
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, err.decode()
    report = json.loads(out)
    return {**report["statusCodeDistribution"]}


@pytest.mark.parametrize(
    ("method", "data", "metadata"),
    [
        ("Unary", {"text": "hello"}, {"x-same": "1"}),
        ("Collect", [{"text": "a"}, {"text": "b"}, {"text": "c"}], {"x-join": ""}),
        ("Spread", {"text": "hello"}, {"x-count": "10", "x-size": "0"}),
        ("Talk", [{"text": "a"}, {"text": "b"}, {"text": "c"}], {}),
    ],
)
async def test_calls_of_every_kind_succeed(
    harness: Harness, service: Service, tmp_path: Path, method: str, data: Any, metadata: dict[str, str]
) -> None:
    gateway = await harness.start(simple(await service.start(), protocol="h2"))
    assert await run(tmp_path, gateway.port, method, data, metadata) == {"OK": CALLS}
    assert len(service.echo.seen) == CALLS


async def test_deadlines_end_calls(harness: Harness, service: Service, tmp_path: Path) -> None:
    gateway = await harness.start(simple(await service.start(), protocol="h2"))
    metadata = {"x-same": "1", "x-sleep": "20"}
    found = await run(tmp_path, gateway.port, "Unary", {"text": "x"}, metadata, "-t", "200ms")
    assert found == {"DeadlineExceeded": CALLS}


async def test_the_gateways_errors_are_statuses(harness: Harness, tmp_path: Path, unused_tcp_port: int) -> None:
    gateway = await harness.start(simple(unused_tcp_port, protocol="h2"))
    assert await run(tmp_path, gateway.port, "Unary", {"text": "x"}, {}) == {"Unavailable": CALLS}
