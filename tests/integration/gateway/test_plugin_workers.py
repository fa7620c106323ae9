"""A candidate in a gateway with two workers, real processes over a real Consul: each worker tries it, and all of them say one thing."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientError, ClientSession, ClientTimeout, TCPConnector, web
from msgspec.structs import replace
from nexus_core.snapshot import Ack, Candidate, PluginInstance, wire
from nexus_core.snapshot.stats import decode_stats, stats_prefix
from nexus_gateway.testing import Upstreams, route, rule, snapshot, until, upstream
from nexus_hosting.testing import make_instance
from nexus_sdk.testing.consul import LocalConsul
from nexus_testbed import components

pytestmark = [pytest.mark.connected, pytest.mark.timeout(120)]
CODE = """
from nexus_sdk.plugin import Plugin
class Demo(Plugin):
    def on_request(self, request):
        {request}
        return request
    def on_response(self, request, response):
        return response.with_header("x-demo", "{version}")
"""


@dataclass
class Gateway:
    """Two workers that follow Consul."""

    consul: LocalConsul
    cache: Path
    backend: int
    port: int
    admin: int
    process: asyncio.subprocess.Process | None = None
    generation: int = 0

    def version(self, version: str, request: str = "pass", **fields: Any) -> PluginInstance:
        code = CODE.format(version=version, request=request)
        return make_instance(self.cache, code, release={"version": version}, **fields)

    async def publish(self, instance: PluginInstance) -> None:
        content = snapshot(
            route(rule("shop/orders", plugins=(instance.id,))), upstream(self.backend), plugins=(instance,)
        )
        encoded = wire.encode(content)
        self.generation += 1
        async with ClientSession() as session:
            for key, value in (
                *((wire.chunk_key(digest), chunk) for digest, chunk in encoded.chunks.items()),
                (wire.manifest_key(), wire.manifest_bytes(encoded, self.generation)),
            ):
                async with session.put(f"{self.consul.url}/v1/kv/{key}", data=value) as response:
                    assert response.status == 200

    async def read(self, prefix: str) -> dict[str, bytes]:
        """Return what is below a prefix of Consul's, by the rest of the key."""
        async with ClientSession() as session, session.get(f"{self.consul.url}/v1/kv/{prefix}?recurse=1") as response:
            rows = await response.json() if response.status == 200 else []
        return {row["Key"].removeprefix(prefix): base64.b64decode(row["Value"]) for row in rows}

    async def acks(self) -> dict[str, Ack]:
        found = {name: wire.decode_ack(data) for name, data in (await self.read(wire.ack_prefix())).items()}
        return {name: ack for name, ack in found.items() if ack.generation == self.generation}

    async def candidates(self) -> list[str]:
        """Return how the candidate does in each worker that has acknowledged the last Snapshot."""
        reports = [ack.plugins["shop/demo"].candidate for ack in (await self.acks()).values()]
        return [report.state for report in reports if report is not None]

    async def ask(self, path: str) -> Any:
        async with ClientSession() as client, client.get(f"http://127.0.0.1:{self.admin}{path}") as response:
            text = await response.text()
            return response, json.loads(text) if response.content_type == "application/json" else text

    async def ask_both(self, path: str) -> Any:
        """Return what the workers say together; on a busy machine one of them may be too late for the first question."""
        found: list[Any] = []

        async def said() -> bool:
            response, body = await self.ask(path)
            found[:] = [body]
            return response.headers.get("Nexus-Workers") == "2/2"

        await until(said)
        return found[0]

    async def is_ready(self) -> bool:
        with contextlib.suppress(ClientError):
            return (await self.ask("/readyz"))[0].status == 200
        assert self.process is not None
        assert self.process.returncode is None, "the gateway ended"
        return False


@pytest.fixture
async def gateway(tmp_path: Path, unused_tcp_port_factory: Callable[[], int]) -> AsyncIterator[Gateway]:
    async def answer(request: web.Request) -> web.Response:
        return web.Response(text="ok")

    upstreams = Upstreams()
    async with LocalConsul(components.ensure(["consul"])["consul"], tmp_path) as consul:
        backend = await upstreams.start(answer)
        port, admin = unused_tcp_port_factory(), unused_tcp_port_factory()
        made = Gateway(consul, tmp_path / "plugins", backend, port, admin)
        await made.publish(made.version("1.0"))
        made.process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "nexus_cli", "gateway", "--workers", "2",
            "--listen", f"127.0.0.1:{port}", "--admin", f"127.0.0.1:{admin}",
            env={
                **os.environ, "NEXUS_PLUGIN_CACHE": str(made.cache), "NEXUS_ACCESS_LOG": "false", "NEXUS_CONSUL_URL": consul.url,
                "NEXUS_GATEWAY_REPLICA": "edge",
            },
        )  # fmt: skip
        try:
            await until(made.is_ready, 40)
            yield made
        finally:
            if made.process.returncode is None:
                made.process.terminate()
                await made.process.wait()
            await upstreams.close()


@contextlib.asynccontextmanager
async def loaded(gateway: Gateway, clients: int = 6) -> AsyncIterator[Counter[tuple[str, str]]]:
    """Have clients ask, each request on a connection of its own, so that both workers get some."""
    stop, outcomes = asyncio.Event(), Counter[tuple[str, str]]()

    async def load() -> None:
        async with ClientSession(connector=TCPConnector(force_close=True), timeout=ClientTimeout(total=20)) as client:
            while not stop.is_set():
                try:
                    async with client.get(f"http://127.0.0.1:{gateway.port}/") as response:
                        await response.read()
                        outcomes[str(response.status), response.headers.get("x-demo", "")] += 1
                except ClientError as error:
                    outcomes[type(error).__name__, ""] += 1

    tasks = [asyncio.create_task(load()) for _ in range(clients)]
    try:
        yield outcomes
    finally:
        stop.set()
        await asyncio.gather(*tasks)


async def test_a_candidate_passes_in_both_workers_although_one_is_killed_meanwhile(gateway: Gateway) -> None:
    one, two = gateway.version("1.0"), gateway.version("2.0")
    async with loaded(gateway) as outcomes:
        await gateway.publish(replace(one, candidate=Candidate(instance=two, percent=50.0, seconds=3.0, min_calls=10)))

        async def tried() -> bool:
            return await gateway.candidates() == ["running", "running"]

        await until(tried, 30)
        _, found = await gateway.ask("/workers")
        os.kill(found["workers"][0]["pid"], signal.SIGKILL)

        async def passed() -> bool:
            return await gateway.candidates() == ["passed", "passed"]

        await until(passed, 60)
        assert await gateway.is_ready()
    errors = {outcome: count for outcome, count in outcomes.items() if outcome[0] != "200"}
    assert sum(errors.values()) <= 6, errors  # what the killed one had in hand
    assert outcomes["200", "2.0"] > 0
    found = await gateway.ask_both("/plugins")
    assert (found["plugins"][0]["state"], found["plugins"][0]["candidate"]["state"]) == ("loaded", "passed")
    await gateway.publish(two)

    async def taken_over() -> bool:
        acks = (await gateway.acks()).values()
        return [ack.plugins["shop/demo"].version for ack in acks] == ["2.0", "2.0"]

    await until(taken_over, 30)
    async with loaded(gateway) as outcomes:
        await until(lambda: outcomes.total() > 50)
    assert set(outcomes) == {("200", "2.0")}

    async def told() -> bool:
        stats = {name: decode_stats(data) for name, data in (await gateway.read(stats_prefix())).items()}
        return set(stats) == {"edge~0", "edge~1"} and all(each["shop/demo"].calls > 0 for each in stats.values())

    await until(told, 40)


async def test_a_bad_candidate_is_refused_and_its_lines_come_from_all_workers(gateway: Gateway) -> None:
    one = gateway.version("1.0")
    two = gateway.version("2.0", "raise RuntimeError('x')", failure_policy="closed")
    async with loaded(gateway) as outcomes:
        await gateway.publish(replace(one, candidate=Candidate(instance=two, percent=20.0, seconds=60.0, min_calls=10)))

        async def refused() -> bool:
            return await gateway.candidates() == ["refused", "refused"]

        await until(refused, 60)
    assert set(outcomes) <= {("200", "1.0"), ("503", "")}
    assert outcomes["503", ""] <= 2 * 10 + 2 * 6, "of each worker those that show it, and those on their way"
    found = await gateway.ask_both("/plugins")
    candidate = found["plugins"][0]["candidate"]
    assert (candidate["state"], candidate["reason"]) == ("refused", "PluginRolledBack")
    text = await gateway.ask_both("/plugins/shop/demo/logs")
    lines = [json.loads(line) for line in text.splitlines()]
    assert {line["worker"] for line in lines} == {0, 1}
    assert [line["at"] for line in lines] == sorted(line["at"] for line in lines)
    async with (
        ClientSession() as client,
        client.get(f"http://127.0.0.1:{gateway.admin}/plugins/shop/demo/logs?follow=1") as response,
    ):
        streamed = [json.loads(await response.content.readline()) for _ in lines]
    assert sorted(map(str, streamed)) == sorted(map(str, lines))
    async with loaded(gateway) as outcomes:
        await until(lambda: outcomes.total() > 50)
    assert set(outcomes) == {("200", "1.0")}
