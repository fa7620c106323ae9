"""What one worker does for all is done by the one that the supervisor names, whatever its place."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

from aiohttp import web
from nexus_core.snapshot import HealthCheck
from nexus_gateway.app import Gateway
from nexus_gateway.edge.sources.port import StaticSource
from nexus_gateway.edge.workers.places import CELLS_BYTES, Place
from nexus_gateway.resilience.cells import Cells
from nexus_gateway.resilience.endpoints import SWEEP_AFTER_S
from nexus_gateway.settings import GatewaySettings
from nexus_gateway.testing import Harness, simple, until
from nexus_sdk.discovery.memory import MemoryDiscovery

SWEEPS = 64
"""Each looks at 1,024 entries; there are fewer than 64 times that."""


async def test_the_leader_probes_and_sweeps_and_no_other_worker(harness: Harness, tmp_path: Path) -> None:
    probes = 0

    async def serve(request: web.Request) -> web.StreamResponse:
        nonlocal probes
        probes += request.path == "/healthz"
        return web.Response()

    port = await harness.upstreams.start(serve)
    source, cells = StaticSource(), bytearray(CELLS_BYTES)
    shared = Cells(cells)
    settings = GatewaySettings(admin="127.0.0.1:0", plugin_cache=tmp_path, access_log=False)
    with socket.create_server(("127.0.0.1", 0)) as plain:
        place = Place(plain, None, ("127.0.0.1", 0), cells, worker=7, index=1, workers=2)
        gateway = Gateway(settings, source, MemoryDiscovery(), place)
        await gateway.start()
        try:
            await source.publish(simple(port, health=HealthCheck(interval_s=0.05, jitter_ratio=0.0)))
            await gateway.live()
            now = asyncio.get_running_loop().time()
            left = shared.slot("left behind", 1, now)
            later = now + 2 * SWEEP_AFTER_S
            for _ in range(SWEEPS):
                gateway.tidy(later)
            assert not shared.touch((left,), now), "swept by one that does not lead"
            assert probes == 0
            gateway.lead(True)
            await until(lambda: probes)
            for _ in range(SWEEPS):
                gateway.tidy(later)
            assert shared.touch((left,), now) == (left,)
        finally:
            await gateway.stop(0.1)


async def test_a_gateway_of_one_process_leads(harness: Harness) -> None:
    gateway = await harness.start()
    assert gateway.leads
