"""A service that says in a real Consul what its plugins do."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

import aiohttp
import msgspec
import pytest
from nexus_core.hooks import Event
from nexus_core.snapshot import Budgets, PluginInstance, PluginReport
from nexus_core.snapshot.service_reports import decode_reports, reports_prefix
from nexus_hosting.testing import make_instance
from nexus_sdk import ServiceApp
from nexus_sdk.consul.connection import Connection, ConsulRefused
from nexus_sdk.consul.reporting import Reporting
from nexus_sdk.plugins import ServicePlugins, Unavailable
from nexus_sdk.testing.consul import LocalConsul
from nexus_testbed import components

pytestmark = [pytest.mark.connected, pytest.mark.timeout(120)]
WITHIN_S = 30.0
LISTED = "nexus/services/shop/events/plugins"
FAILING = """
    from nexus_sdk.plugin import Plugin

    class Demo(Plugin):
        def on_event_accepted(self, event):
            raise RuntimeError("boom")
"""
EVENT = Event(id="1", source="/shop", type="order.placed", data=b"x")
LOADED = {"shop/demo": PluginReport("loaded", "1.0.0")}
Said = Mapping[str, Mapping[str, PluginReport]]


@pytest.fixture
async def consul(tmp_path: Path) -> AsyncIterator[LocalConsul]:
    async with LocalConsul(components.ensure(["consul"])["consul"], tmp_path) as running:
        yield running


async def reports(consul: LocalConsul) -> Said:
    """Return what is said, by key."""
    try:
        found = await consul.request("GET", f"/v1/kv/{reports_prefix()}?recurse")
    except aiohttp.ClientResponseError as error:
        if error.status != 404:
            raise
        return {}
    return {each["Key"]: decode_reports(base64.b64decode(each["Value"])) for each in found}


async def see(consul: LocalConsul, wanted: Callable[[Said], bool]) -> Said:
    """Wait until what is said is as wanted."""
    async with asyncio.timeout(WITHIN_S):
        while True:
            if wanted(found := await reports(consul)):
                return found
            await asyncio.sleep(0.05)


async def until_waited(consul: LocalConsul) -> None:
    """Wait until there are two sessions, of which one waits for the other's key."""
    async with asyncio.timeout(WITHIN_S):
        while True:
            if len(await consul.request("GET", "/v1/session/list")) == 2:
                return
            await asyncio.sleep(0.05)


async def put_list(consul: LocalConsul, *instances: PluginInstance) -> None:
    await consul.request("PUT", f"/v1/kv/{LISTED}", msgspec.to_builtins(instances))


async def test_what_plugins_do_is_said_as_long_as_the_service_runs(consul: LocalConsul, tmp_path: Path) -> None:
    environ = {"NEXUS_CONSUL_URL": consul.url, "NEXUS_NAMESPACE": "shop", "NEXUS_PLUGIN_CACHE": str(tmp_path / "cache")}
    app = ServiceApp("events", environ=environ)
    plugins = ServicePlugins(app)
    await put_list(consul)
    async with app.test_server() as server:
        instance = make_instance(
            tmp_path / "cache",
            FAILING,
            release={"hooks": ("on_event_accepted",)},
            failure_policy="closed",
            budgets=Budgets(min_calls=3, disabled_s=600.0),
        )
        await put_list(consul, instance)
        found = await see(consul, lambda said: LOADED in said.values())
        [key] = found
        assert key.startswith("nexus/service-plugins/shop/events/")
        assert key.endswith(f"-{server.port}")
        for _ in range(3):
            with pytest.raises(Unavailable):
                await plugins.change("on_event_accepted", EVENT, lambda hook, event: hook(event))
        found = await see(consul, lambda said: said.get(key) != LOADED)
        report = found[key]["shop/demo"]
        assert (report.state, report.reason) == ("disabled", "PluginDisabled")
        assert report.message.startswith("3 of its 3 calls failed within 10 s (100 %); its budget is 50 %.")
        await put_list(consul)
        await see(consul, lambda said: not said)
        await put_list(consul, instance)
        await see(consul, lambda said: said == {key: LOADED})
    assert await reports(consul) == {}


async def test_what_was_said_is_said_again_when_consul_lost_it(consul: LocalConsul) -> None:
    changed = asyncio.Event()
    key = f"{reports_prefix()}shop/events/e-1"
    reporting = Reporting(Connection(consul.url), key, lambda: LOADED, changed)
    running = asyncio.create_task(reporting.run())
    await see(consul, lambda said: said == {key: LOADED})
    [session] = await consul.request("GET", "/v1/session/list")
    assert (session["TTL"], session["Behavior"]) == ("15s", "delete")
    await consul.request("PUT", f"/v1/session/destroy/{session['ID']}")
    await see(consul, lambda said: not said)
    changed.set()  # nothing new, and yet an occasion to look
    await see(consul, lambda said: said == {key: LOADED})
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await reporting.close()
    assert await reports(consul) == {}


async def test_a_former_process_of_the_same_name_is_waited_for(consul: LocalConsul) -> None:
    key = f"{reports_prefix()}shop/events/e-1"
    former, later = (Reporting(Connection(consul.url), key, lambda: LOADED, asyncio.Event()) for _ in range(2))
    first = asyncio.create_task(former.run())
    await see(consul, lambda said: said == {key: LOADED})
    second = asyncio.create_task(later.run())
    await until_waited(consul)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    await former.close()
    await see(consul, lambda said: said == {key: LOADED})
    [session] = await consul.request("GET", "/v1/session/list")
    [entry] = await consul.request("GET", f"/v1/kv/{key}")
    assert entry["Session"] == session["ID"]
    second.cancel()
    await asyncio.gather(second, return_exceptions=True)
    await later.close()


async def test_a_consul_that_refuses_is_logged_once_and_asked_again(caplog: pytest.LogCaptureFixture) -> None:
    asked = asyncio.Event()
    times = 0

    class Refusing(Connection):
        async def call(self, work: object, within_s: float = 5.0, what: str = "call") -> object:
            nonlocal times
            work.close()
            times += 1
            if times == 3:
                asked.set()
            raise ConsulRefused("Permission denied")

    reporting = Reporting(Refusing("http://127.0.0.1:9"), "k", lambda: LOADED, asyncio.Event())
    running = asyncio.create_task(reporting.run())
    async with asyncio.timeout(WITHIN_S):
        await asked.wait()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await reporting.close()
    assert caplog.text.count("cannot be told to Consul now") == 1
