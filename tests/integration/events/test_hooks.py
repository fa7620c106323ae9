"""Plugins of the event hub: what they do to events that are accepted, and what they are told."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
from aiohttp import web
from nexus_core.snapshot import Budgets, Permissions, PluginInstance
from nexus_events.app import build
from nexus_hosting.testing import make_instance

MASKING = """
    from nexus_sdk.plugin import Plugin, Refusal

    class Demo(Plugin):
        def on_event_accepted(self, event):
            if event.type == "order.forbidden":
                return Refusal("Forbidden", "Orders of this type are not taken; send order.placed.")
            if event.type == "order.broken":
                return event.with_attribute("Not A Name", 1)
            if event.type == "order.crash":
                raise RuntimeError("boom")
            return event.with_data(event.data.replace(b"secret", b"******")).with_attribute("masked", True)
"""
TELLING = """
    from nexus_sdk.plugin import Plugin

    class Demo(Plugin):
        async def on_event_delivered(self, event, delivery):
            self.context.log.warning(f"delivered {event.id} {delivery.subscription} {delivery.attempts} {delivery.status}")
        def on_event_dead_lettered(self, event, delivery):
            self.context.log.warning(f"dead {event.id} {delivery.attempts} {delivery.error}")
"""
ACCEPTS = {"hooks": ("on_event_accepted",)}


class Hub:
    """A running event service whose plugins the test names."""

    def __init__(self, tmp_path: Path, **more: str) -> None:
        self.file = tmp_path / "plugins.json"
        self.cache = tmp_path / "cache"
        self.url = ""
        self.count = 0
        self.list(())
        environ = {
            "NEXUS_EVENTS_STORE": "memory", "NEXUS_PLUGINS_FILE": str(self.file), "NEXUS_PLUGIN_CACHE": str(self.cache),
        }  # fmt: skip
        environ |= more
        self.app = build(environ)

    def list(self, instances: Sequence[PluginInstance]) -> None:
        fresh = self.file.with_suffix(".new")
        fresh.write_bytes(msgspec.json.encode(tuple(instances)))
        fresh.replace(self.file)

    async def publish(self, type_: str = "order.placed", data: str = "a secret") -> tuple[int, dict[str, Any]]:
        self.count += 1
        event = {
            "specversion": "1.0",
            "id": f"{data[:4]}{self.count}",
            "source": "/shop",
            "type": type_,
            "datacontenttype": "text/plain",
            "data": data,
        }
        headers = {"content-type": "application/cloudevents+json"}
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"{self.url}/events", data=json.dumps(event), headers=headers) as answer,
        ):
            return answer.status, await answer.json(content_type=None)

    async def metric(self, name: str) -> float | None:
        """Return the value of a metric of one series, None without one."""
        async with aiohttp.ClientSession() as session, session.get(f"{self.url}/metrics") as answer:
            found = re.search(rf"^{name}\{{[^}}]*\}} (\S+)$", await answer.text(), re.MULTILINE)
        return float(found[1]) if found is not None else None

    async def stored(self) -> list[dict[str, Any]]:
        async with aiohttp.ClientSession() as session, session.get(f"{self.url}/events") as answer:
            return [each["event"] for each in (await answer.json())["events"]]

    async def until_ready(self) -> None:
        async with aiohttp.ClientSession() as session:
            while True:
                async with session.get(f"{self.url}/readyz") as answer:
                    if answer.status == 200:
                        return
                await asyncio.sleep(0.02)


@pytest.fixture
async def hub(tmp_path: Path) -> AsyncIterator[Hub]:
    made = Hub(tmp_path)
    made.url = (await made.app.start("127.0.0.1", 0)).url
    yield made
    await made.app.stop(drain_s=0, settle_s=0)


async def until(hub: Hub, type_: str, status: int, reason: str = "") -> dict[str, Any]:
    """Publish until the answer has the status, and the reason: lists are followed a moment later."""
    while True:
        got, document = await hub.publish(type_)
        if got == status and reason in ("", document.get("reason")):
            return document
        await asyncio.sleep(0.05)


async def said(caplog: pytest.LogCaptureFixture, text: str) -> None:
    while True:
        if text in caplog.text:
            return
        await asyncio.sleep(0.02)


async def test_events_are_stored_as_plugins_leave_them(hub: Hub) -> None:
    hub.list([make_instance(hub.cache, MASKING, release=ACCEPTS)])
    refused = await until(hub, "order.forbidden", 422)
    assert refused["reason"] == "Forbidden"
    assert "[0]: Orders of this type are not taken; send order.placed." in refused["detail"]
    assert (await hub.publish())[0] == 202
    event = (await hub.stored())[-1]
    assert (event["data"], event["masked"]) == ("a ******", True)


async def test_a_failing_plugin_is_passed_over_or_refuses_as_its_policy_says(hub: Hub) -> None:
    hub.list([make_instance(hub.cache, MASKING, release=ACCEPTS, failure_policy="closed")])
    crashed = await until(hub, "order.crash", 503)
    assert crashed["reason"] == "PluginUnavailable"
    broken = await until(hub, "order.broken", 503)
    assert "a plugin made an event of it that is none" in broken["detail"]
    hub.list([make_instance(hub.cache, MASKING, release=ACCEPTS, failure_policy="open")])
    await until(hub, "order.crash", 202)
    assert (await hub.stored())[-1]["data"] == "a secret"


async def test_a_plugin_that_goes_on_failing_is_disabled_and_metrics_say_so(
    hub: Hub, caplog: pytest.LogCaptureFixture
) -> None:
    budgets = Budgets(min_calls=3, disabled_s=600.0)
    hub.list([make_instance(hub.cache, MASKING, release=ACCEPTS, failure_policy="closed", budgets=budgets)])
    await until(hub, "order.forbidden", 422)
    assert await hub.metric("nexus_plugin_disabled") == 0
    for _ in range(8):
        assert (await hub.publish("order.crash"))[0] == 503
    assert await hub.metric("nexus_plugin_disabled") == 1
    assert (await hub.publish("order.placed"))[0] == 503, "its failure policy is closed"
    assert caplog.text.count("It is not called until") == 1
    hub.list([])
    await until(hub, "order.placed", 202)
    assert await hub.metric("nexus_plugin_disabled") is None


async def test_a_plugin_that_cannot_start_refuses_as_its_policy_says(hub: Hub) -> None:
    hub.list([make_instance(hub.cache, "raise RuntimeError('no')", release=ACCEPTS, failure_policy="closed")])
    await until(hub, "order.placed", 503)
    hub.list([])
    await until(hub, "order.placed", 202)


async def test_a_list_that_cannot_be_read_changes_nothing(hub: Hub, caplog: pytest.LogCaptureFixture) -> None:
    hub.list([make_instance(hub.cache, MASKING, release=ACCEPTS)])
    await until(hub, "order.forbidden", 422)
    hub.file.write_text("[{")
    await said(caplog, "the list of plugins cannot be read")
    assert (await hub.publish("order.forbidden"))[0] == 422


async def test_an_update_replaces_the_version_without_a_restart(hub: Hub) -> None:
    hub.list([make_instance(hub.cache, MASKING, release=ACCEPTS)])
    await until(hub, "order.forbidden", 422)
    newer = MASKING.replace("order.forbidden", "order.banned")
    hub.list([make_instance(hub.cache, newer, release={**ACCEPTS, "version": "1.1.0"})])
    await until(hub, "order.banned", 422)
    assert (await hub.publish("order.forbidden"))[0] == 202


async def test_plugins_are_told_of_deliveries_and_dead_letters(hub: Hub, caplog: pytest.LogCaptureFixture) -> None:
    async def sink(request: web.Request) -> web.Response:
        body = await request.text()
        return web.Response(status=400 if body == "bad" else 204)

    server = web.Application()
    server.router.add_post("/", sink)
    runner = web.AppRunner(server)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    hub.list([make_instance(hub.cache, TELLING, release={"hooks": ("on_event_dead_lettered", "on_event_delivered")})])
    try:
        async with aiohttp.ClientSession() as session:
            order = {"sink": f"http://127.0.0.1:{port}/", "types": ["*"]}
            async with session.put(f"{hub.url}/subscriptions/mail", json=order) as answer:
                assert answer.status == 201, await answer.text()
        while "delivered good" not in caplog.text:  # the list is followed a moment later
            await hub.publish(data="good")
            await asyncio.sleep(0.05)
        await hub.publish(data="bad")
        await said(caplog, f"dead bad{hub.count} 1 status 400")
        assert re.search(r"delivered good\d+ mail 1 204", caplog.text)
    finally:
        await runner.cleanup()


async def test_the_service_is_not_ready_before_it_knows_its_plugins(tmp_path: Path) -> None:
    made = Hub(tmp_path)
    made.file.unlink()
    made.url = (await made.app.start("127.0.0.1", 0)).url
    try:
        async with aiohttp.ClientSession() as session, session.get(f"{made.url}/readyz") as answer:
            assert answer.status == 503
            assert "plugins" in await answer.text()
        made.list(())
        await made.until_ready()
    finally:
        await made.app.stop(drain_s=0, settle_s=0)


CALLING = """
    from nexus_sdk.plugin import Plugin, Refusal

    class Demo(Plugin):
        async def on_config(self, config):
            self.config = config

        async def on_event_accepted(self, event):
            answer = await self.context.call("GET", "nexus://shop/limits/allowed")
            if answer.body != b"yes":
                return Refusal(self.config["reason"], "The limits service says no; ask it why.")
            return event
"""


async def test_a_plugin_calls_services_it_was_granted_and_takes_a_new_configuration(tmp_path: Path) -> None:
    said = [b"no"]

    async def allowed(_: web.Request) -> web.Response:
        return web.Response(body=said[0])

    limits = web.Application()
    limits.router.add_get("/allowed", allowed)
    runner = web.AppRunner(limits)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    endpoint = {"address": "127.0.0.1", "port": runner.addresses[0][1]}
    discovery = tmp_path / "discovery.json"
    discovery.write_text(json.dumps({"services": {"limits.shop": {"endpoints": [endpoint]}}}))
    made = Hub(tmp_path, NEXUS_DISCOVERY_FILE=str(discovery))
    made.url = (await made.app.start("127.0.0.1", 0)).url
    release = {"hooks": ("on_config", "on_event_accepted")}
    granted = Permissions(services=("shop/limits",))
    try:
        made.list([make_instance(made.cache, CALLING, release=release, granted=granted, config={"reason": "No"})])
        assert (await until(made, "order.placed", 422))["reason"] == "No"
        made.list([make_instance(made.cache, CALLING, release=release, granted=granted, config={"reason": "Never"})])
        await until(made, "order.placed", 422, reason="Never")
        said[0] = b"yes"
        await until(made, "order.placed", 202)
    finally:
        await made.app.stop(drain_s=0, settle_s=0)
        await runner.cleanup()
