"""Plugins of a service that call other services."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
from aiohttp import ClientSession, web
from nexus_core.discovery import TLS_META, Endpoint
from nexus_core.hooks import Event
from nexus_core.snapshot import Permissions
from nexus_hosting.testing import make_instance
from nexus_sdk import ServiceApp
from nexus_sdk.discovery.memory import MemoryDiscovery
from nexus_sdk.plugins import ServicePlugins

ASKS = """
from nexus_sdk.plugin import Plugin
class Demo(Plugin):
    async def on_event_accepted(self, event):
        try:
            answer = await self.context.call("GET", f"nexus://lab/{event.type}/rate")
            return event.with_data(answer.body)
        except Exception as error:
            return event.with_data(str(error).encode())
"""


async def test_a_service_that_is_spoken_to_over_tls_is_not_called_in_clear(tmp_path: Path) -> None:
    asked = []

    async def rate(request: web.Request) -> web.Response:
        asked.append(request.path)
        return web.Response(text="19")

    runner = web.AppRunner(application := web.Application(), access_log=None)
    application.router.add_get("/rate", rate)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    port = runner.addresses[0][1]
    granted = Permissions(services=("lab/open", "lab/secure"))
    release = {"hooks": ("on_event_accepted",), "permissions": granted}
    instance = make_instance(tmp_path / "plugins", ASKS, release=release, granted=granted)
    (tmp_path / "list.json").write_bytes(msgspec.json.encode([instance]))
    discovery = MemoryDiscovery()
    discovery.set("open.lab", (Endpoint("127.0.0.1", port),))
    discovery.set("secure.lab", (Endpoint("127.0.0.1", port, meta=((TLS_META, "true"),)),))
    environ = {
        "NEXUS_NAMESPACE": "lab",
        "NEXUS_PLUGINS_FILE": str(tmp_path / "list.json"),
        "NEXUS_PLUGIN_CACHE": str(tmp_path / "plugins"),
    }
    app = ServiceApp("hub", environ=environ, discovery=discovery)
    plugins = ServicePlugins(app)

    async def said(name: str) -> str:
        event = Event(id="1", source="/lab", type=name, data=b"")
        result = await plugins.change("on_event_accepted", event, lambda hook, each: hook(each))
        assert isinstance(result, Event)
        return result.data.decode()

    try:
        async with app.test_server() as server, asyncio.timeout(30), ClientSession() as client:
            while True:
                async with client.get(f"{server.url}/readyz") as response:
                    if response.status == 200:
                        break
                await asyncio.sleep(0.02)
            while (found := await said("open")) != "19":
                assert "no live endpoint" in found, found
                await asyncio.sleep(0.02)
            assert (await said("secure")).startswith("The NexusService lab/secure is spoken to over TLS")
            assert asked == ["/rate"]
    finally:
        await discovery.close()
        await runner.cleanup()
