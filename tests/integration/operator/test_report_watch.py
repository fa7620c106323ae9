"""What services say of their plugins, followed in a real Consul."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

import pytest
from nexus_core.snapshot import PluginReport
from nexus_core.snapshot.service_reports import encode_reports, reports_key
from nexus_operator.edge.consul import ConsulApi
from nexus_operator.edge.reportwatch import ReportWatch

from tests.integration.operator.test_catalog_and_acks import put

pytestmark = pytest.mark.connected
SAID = {"shop/a": PluginReport("loaded", "1.0")}
WORSE = {"shop/a": PluginReport("disabled", "1.0", "PluginDisabled", "Why.")}


class Watched:
    """A ReportWatch that runs."""

    def __init__(self, consul: ConsulApi, prefix: str) -> None:
        self.changed = asyncio.Event()
        self.watch = ReportWatch(consul, prefix, changed=self.changed.set)
        self.task = asyncio.create_task(self.watch.run())

    async def until(self, wanted: Any) -> None:
        async with asyncio.timeout(30):
            while self.watch.current != wanted:
                self.changed.clear()
                await self.changed.wait()

    async def stop(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


async def test_reports_come_change_and_go_with_their_instances(
    consul: ConsulApi, shared_consul: Any, caplog: pytest.LogCaptureFixture
) -> None:
    watched = Watched(consul, "w-reports")
    settings = json.dumps({"TTL": "10s", "Behavior": "delete", "LockDelay": "0s"}).encode()
    session = (await asyncio.to_thread(put, shared_consul, "/v1/session/create", settings))["ID"]
    key = reports_key("shop/events", "e-1", "w-reports")

    async def say(reports: dict[str, PluginReport]) -> None:
        path = f"/v1/kv/{key}?acquire={session}"
        assert await asyncio.to_thread(put, shared_consul, path, encode_reports(reports))

    await say(SAID)
    await watched.until({"shop/events": {"e-1": SAID}})
    with caplog.at_level(logging.WARNING):
        await consul.put(reports_key("shop/events", "e-2", "w-reports"), b"{")
        await say(WORSE)
        await watched.until({"shop/events": {"e-1": WORSE}})
    assert "what a service says of its plugins cannot be read" in caplog.text
    await asyncio.to_thread(put, shared_consul, f"/v1/session/destroy/{session}", b"")
    await watched.until({})
    await watched.stop()


async def test_the_last_reports_stay_while_consul_is_away(fragile_consul: ConsulApi, own_consul: Any) -> None:
    key = reports_key("shop/events", "e-1", "w-away")
    await fragile_consul.put(key, encode_reports(SAID))
    watched = Watched(fragile_consul, "w-away")
    await watched.until({"shop/events": {"e-1": SAID}})
    await asyncio.to_thread(own_consul.stop)
    assert watched.watch.current == {"shop/events": {"e-1": SAID}}
    await asyncio.to_thread(own_consul.start)
    await fragile_consul.put(key, encode_reports(WORSE))
    await watched.until({"shop/events": {"e-1": WORSE}})
    await watched.stop()
