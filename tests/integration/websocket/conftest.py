"""Real services in this process, on free ports of the loopback, found by each other through memory discovery."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from nexus_core.discovery import Endpoint
from nexus_events.app import build as build_events
from nexus_sdk.app import RunningService
from nexus_sdk.discovery.memory import MemoryDiscovery
from nexus_websocket.app import build as build_websocket
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter


@dataclass
class Bed:
    directory: Path
    discovery: MemoryDiscovery
    spans: InMemorySpanExporter
    stack: AsyncExitStack
    http: aiohttp.ClientSession

    @asynccontextmanager
    async def running(
        self, build: Callable[..., Any], name: str, environ: dict[str, str]
    ) -> AsyncIterator[RunningService]:
        app = build(environ, discovery=self.discovery, span_processors=[SimpleSpanProcessor(self.spans)])
        async with app.test_server() as server:
            self.discovery.set(f"{name}.default", [Endpoint(server.host, server.port)])
            yield server

    async def events(self, **environ: str) -> RunningService:
        return await self.stack.enter_async_context(
            self.running(build_events, "events", {"NEXUS_DATA_DIR": str(self.directory), **environ})
        )

    async def websocket(self, **environ: str) -> RunningService:
        environ = {"NEXUS_DRAIN_SECONDS": "3", **environ}
        return await self.stack.enter_async_context(self.running(build_websocket, "websocket", environ))


@pytest.fixture
async def bed(tmp_path: Path) -> AsyncIterator[Bed]:
    async with AsyncExitStack() as stack:
        http = await stack.enter_async_context(aiohttp.ClientSession())
        yield Bed(tmp_path, MemoryDiscovery(), InMemorySpanExporter(), stack, http)
