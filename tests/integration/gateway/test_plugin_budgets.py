"""A plugin that goes beyond a budget: it is not called any more, requests go on as its policy says, and it is tried again."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from aiohttp import web
from msgspec.structs import replace
from nexus_core.snapshot import Budgets, Permissions, PluginInstance, PluginReport
from nexus_gateway.testing import Harness, route, rule, snapshot, until, upstream
from nexus_hosting.testing import make_instance

BUDGETS = Budgets(error_percent=50.0, window_s=1.0, min_calls=10, disabled_s=0.5, memory_mb=0)
CODE = """
from time import monotonic
from nexus_sdk.plugin import Plugin
CALLS = []
HELD = []
class Demo(Plugin):
    def on_request(self, request):
        CALLS.append(True)
        {request}
        return request.with_header("x-demo", "yes")
    def on_config(self, config):
        self.context.log.warning("configured: %s", config["n"])
"""


class Bench:
    """A gateway with a plugin."""

    def __init__(self, harness: Harness, port: int) -> None:
        self.harness = harness
        self.port = port
        self.overseer: Any = None

    def plugin(self, request: str, *, budgets: Budgets = BUDGETS, **fields: Any) -> PluginInstance:
        release = {"hooks": ("on_config", "on_request")}
        code = CODE.format(request=request)
        return make_instance(self.harness.tmp_path / "plugins", code, release=release, budgets=budgets, **fields)

    async def publish(self, instance: PluginInstance) -> None:
        rules = rule("shop/orders", plugins=(instance.id,))
        await self.harness.publish(snapshot(route(rules), upstream(self.port), plugins=(instance,)))

    async def ask(self, **headers: str) -> tuple[int, bool]:
        """Return the status of a request, and whether the plugin had a part in it."""
        assert self.harness.client is not None
        async with self.harness.client.get(self.harness.url(), headers=headers) as response:
            body = await response.json()
            return response.status, response.status == 200 and "x-demo" in body

    @property
    def report(self) -> PluginReport:
        return self.harness.source.acks[-1].plugins["shop/demo"]

    @property
    def slot(self) -> Any:
        assert self.harness.gateway is not None
        return self.harness.gateway.runtime.slots["shop/demo"]

    def is_disabled(self) -> bool:
        return self.report.state == "disabled"

    def is_loaded(self) -> bool:
        return self.report.state == "loaded"


async def echo(request: web.Request) -> web.Response:
    return web.json_response({name.lower(): value for name, value in request.headers.items()})


@pytest.fixture
async def bench(harness: Harness) -> Bench:
    port = await harness.upstreams.start(echo)
    await harness.start()
    return Bench(harness, port)


FAILS = "if request.header('x-fail'): raise RuntimeError('x')"


@pytest.mark.parametrize(("policy", "status"), [("open", 200), ("closed", 503)])
async def test_a_plugin_that_fails_too_often_is_disabled_and_tried_again(
    bench: Bench, policy: str, status: int
) -> None:
    await bench.publish(bench.plugin(FAILS, failure_policy=policy))
    calls = type(bench.slot.plugin).on_request.__globals__["CALLS"]
    for _ in range(10):
        assert (await bench.ask(**{"x-fail": "1"}))[0] == status
    await until(bench.is_disabled)
    assert (bench.report.reason, bench.report.version) == ("PluginDisabled", "1.0.0")
    assert bench.report.message.startswith("10 of its 10 calls failed within 1 s (100 %); its budget is 50 %.")
    assert "The last: on_request: RuntimeError: x. It is not called until " in bench.report.message
    assert await bench.ask() == (status, False)
    assert len(calls) == 10, "it is not called"
    (row,) = (await bench.harness.ask("/plugins"))["plugins"]
    assert (row["state"], row["reason"], row["errors"]) == ("disabled", "PluginDisabled", 10)

    async def is_called() -> bool:
        return (await bench.ask())[1]

    await until(is_called)
    for _ in range(5):
        assert await bench.ask() == (200, True)
    await until(bench.is_loaded)
    assert bench.report == PluginReport("loaded", "1.0.0")


async def test_a_plugin_that_still_fails_is_disabled_again(bench: Bench) -> None:
    await bench.publish(bench.plugin("raise RuntimeError('x')"))
    calls = type(bench.slot.plugin).on_request.__globals__["CALLS"]
    acks = bench.harness.source.acks

    def times() -> int:
        states = [ack.plugins["shop/demo"].message for ack in acks if ack.plugins["shop/demo"].state == "disabled"]
        return len([message for message in states if "It is not called until" in message])

    async def asked() -> bool:
        await bench.ask()
        return times() >= 3

    await until(asked)
    assert len(calls) == 10 + 5 + 5, "a few calls decide"


async def test_a_plugin_that_holds_the_loop_too_much_is_disabled(bench: Bench) -> None:
    burns = "ends = monotonic() + 0.02\n        while monotonic() < ends: pass"
    await bench.publish(bench.plugin(burns, budgets=replace(BUDGETS, cpu_percent=20.0, disabled_s=30.0)))

    async def asked() -> bool:
        await bench.ask()
        return bench.is_disabled()

    await until(asked)
    assert "It held the event loop for " in bench.report.message
    assert "its budget is 20 % of one core" in bench.report.message
    assert await bench.ask() == (200, False)


async def test_a_plugin_that_holds_too_much_memory_gives_way_to_a_fresh_one(bench: Bench) -> None:
    grows = "HELD.append(bytearray(3 * 2**20)) if request.header('x-grow') else None"
    await bench.publish(bench.plugin(grows, budgets=replace(BUDGETS, memory_mb=20)))
    former = bench.slot.running
    for _ in range(10):
        assert (await bench.ask(**{"x-grow": "1"})) == (200, True)
    await until(bench.is_disabled, 60.0)
    assert "its budget is 20 MB." in bench.report.message
    assert await bench.ask() == (200, False)
    await until(bench.is_loaded)
    assert bench.slot.running is not former, "what it held is let go of"
    assert await bench.ask() == (200, True)


async def test_a_fresh_one_that_does_not_start_is_not_asked_for_again_at_once(bench: Bench) -> None:
    plugin = bench.plugin("HELD.append(bytearray(30 * 2**20))", budgets=replace(BUDGETS, memory_mb=20, disabled_s=0.5))
    await bench.publish(plugin)
    await bench.ask()
    await until(bench.is_disabled, 60.0)
    # What it is made of is gone: another one cannot be started.
    [artefact] = (bench.harness.tmp_path / "plugins").glob("*.zip")
    artefact.unlink()
    due_at = bench.slot.meter.excess.until
    await until(lambda: bench.slot.meter.excess.until > due_at)
    assert bench.is_disabled()
    assert await bench.ask() == (200, False)


async def test_a_call_that_blocks_the_loop_is_interrupted_and_counts_as_a_failure(bench: Bench) -> None:
    await bench.publish(bench.plugin("while True: pass", budgets=replace(BUDGETS, block_s=0.1, min_calls=2)))
    for _ in range(2):
        assert await bench.ask() == (200, False)
    await until(bench.is_disabled)
    assert bench.report.message.startswith("2 of its 2 calls failed")


async def test_a_disabled_plugin_stays_so_over_snapshots_that_leave_it_alone(bench: Bench) -> None:
    plugin = bench.plugin("raise RuntimeError('x')", budgets=replace(BUDGETS, disabled_s=60.0))
    await bench.publish(plugin)
    for _ in range(10):
        await bench.ask()
    await until(bench.is_disabled)
    await bench.publish(replace(plugin, order=5))
    assert bench.is_disabled()
    assert (await bench.ask()) == (200, False)
    await bench.publish(replace(plugin, budgets=replace(plugin.budgets, error_percent=100.0)))
    assert bench.is_loaded(), "another budget is another judgement"


async def test_a_changed_configuration_needs_no_new_instance(bench: Bench) -> None:
    plugin = bench.plugin("pass", config={"n": 1})
    await bench.publish(plugin)
    before = bench.slot.running
    await bench.ask()
    await bench.publish(replace(plugin, config='{"n": 2}'))
    assert bench.slot.running is before
    assert bench.is_loaded()
    assert bench.slot.meter.calls == 1, "its counts go on"


async def test_what_a_hook_calls_is_in_the_requests_trace(bench: Bench) -> None:
    called: list[str] = []

    async def other(request: web.Request) -> web.Response:
        called.append(request.headers.get("traceparent", ""))
        return web.Response(text="ok")

    port = await bench.harness.upstreams.start(other)
    code = f"""
        from nexus_sdk.plugin import Plugin
        class Demo(Plugin):
            async def on_request(self, request):
                await self.context.call("GET", "http://127.0.0.1:{port}/")
                return request
            async def on_response(self, request, response):
                await self.context.call("GET", "http://127.0.0.1:{port}/", headers=(("traceparent", "mine"),))
                return response
        """
    network = (f"127.0.0.1:{port}",)
    release = {"hooks": ("on_request", "on_response"), "permissions": Permissions(network=network)}
    plugin = make_instance(
        bench.harness.tmp_path / "plugins", code, release=release, granted=Permissions(network=network), timeout_s=5.0
    )
    await bench.publish(plugin)
    parent = f"00-{'ab' * 16}-{'cd' * 8}-01"
    for _ in range(2):
        assert (await bench.ask(traceparent=parent))[0] == 200
    assert [each[:35] for each in called[::2]] == [parent[:35]] * 2
    assert len({each[36:52] for each in called[::2]} | {"cd" * 8}) == 3, "each with a span of its own request"
    assert called[1::2] == ["mine", "mine"]


# ---- what it says


@pytest.fixture
def said() -> Iterator[None]:
    """A gateway's log level, which the plugins' loggers have from it."""
    log = logging.getLogger("nexus.plugin")
    log.setLevel(logging.INFO)
    yield
    log.setLevel(logging.NOTSET)


@pytest.mark.usefixtures("said")
async def test_the_admin_api_streams_what_a_plugin_says(bench: Bench) -> None:
    plugin = bench.plugin("self.context.log.info('seen %s', request.path)", config={"n": 1})
    await bench.publish(plugin)
    await bench.ask()
    client = bench.harness.client
    assert client is not None
    url = bench.harness.admin("/plugins/shop/demo/logs")

    async def lines() -> list[dict[str, Any]]:
        async with client.get(url) as response:
            assert (response.status, response.content_type) == (200, "application/x-ndjson")
            return [json.loads(line) for line in (await response.text()).splitlines()]

    (line,) = await lines()
    assert {**line, "at": ""} == {"at": "", "level": "INFO", "plugin": "shop/demo", "message": "seen /"}
    async with client.get(f"{url}?follow=1") as response:
        assert json.loads(await response.content.readline())["message"] == "seen /"
        await bench.publish(replace(plugin, config='{"n": 2}'))
        async with asyncio.timeout(5):
            assert json.loads(await response.content.readline())["message"] == "configured: 2"
    async with client.get(bench.harness.admin("/plugins/shop/other/logs")) as response:
        assert (response.status, "There is no plugin shop/other" in await response.text()) == (404, True)


async def test_failures_are_among_what_is_said(bench: Bench) -> None:
    await bench.publish(bench.plugin(FAILS))
    await bench.ask(**{"x-fail": "1"})
    assert bench.harness.client is not None
    async with bench.harness.client.get(bench.harness.admin("/plugins/shop/demo/logs")) as response:
        (line,) = [json.loads(line) for line in (await response.text()).splitlines()]
    assert (line["level"], line["message"]) == ("WARNING", "plugin shop/demo failed in on_request: RuntimeError: x")
