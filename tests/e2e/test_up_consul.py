"""`nexus up --consul`: a real Consul finds the services, and forgets them when they stop."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from nexus_sdk.testing.consul import LocalConsul
from nexus_testbed import components

pytestmark = [pytest.mark.connected, pytest.mark.timeout(180)]


async def test_the_shop_runs_on_consul(
    start: Callable[..., Any], shop_copy: Path, wait_for: Callable[..., Any], tmp_path: Path
) -> None:
    async with LocalConsul(components.ensure(["consul"])["consul"], tmp_path) as consul:

        async def passing(service: str) -> set[int]:
            found = await consul.request("GET", f"/v1/health/service/{service}?passing")
            return {entry["Service"]["Port"] for entry in found}

        running = await asyncio.to_thread(lambda: start(shop_copy, "--consul", consul.url).wait_started())
        assert running.report["ready"], running.report
        async with asyncio.timeout(20):
            while len(await passing("catalog.shop")) < 2 or not await passing("orders.shop"):  # noqa: ASYNC110 - Consul's clock, not ours
                await asyncio.sleep(0.1)

        def tour() -> Any:
            where = ("--gateway", running.gateway, "--admin", running.admin, "-f", str(shop_copy))
            return running.nexus("tour", *where, "-o", "json")

        done = await asyncio.to_thread(tour)
        assert done.returncode == 0, done.stdout

        before = await passing("orders.shop")
        os.kill(running.pid_listening_for("orders"), signal.SIGKILL)
        async with asyncio.timeout(20):
            while not (after := await passing("orders.shop")) or after & before:  # noqa: ASYNC110 - likewise
                await asyncio.sleep(0.05)

        assert await asyncio.to_thread(running.stop) == 0
        assert await passing("catalog.shop") == set()
        assert await consul.request("GET", "/v1/catalog/service/catalog.shop") == []
