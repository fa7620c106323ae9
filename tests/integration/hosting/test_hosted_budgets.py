"""Plugins of a service beyond their budgets: not called for a while, then tried again; and nobody waits for those that leave."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator

import pytest
from nexus_core.hooks import Event
from nexus_core.snapshot import Budgets, PluginInstance
from nexus_hosting.hosted import Hosted, Unavailable
from nexus_hosting.meters import REASON, TRY_CALLS

from tests.integration.hosting.conftest import HEAD, Host

GOOD = Event(id="1", source="/shop", type="order.placed", data=b"x")
BAD = Event(id="2", source="/shop", type="order.bad", data=b"x")
CODE = (
    f"{HEAD}"
    "class Demo(Plugin):\n"
    "    def __init__(self, config):\n"
    "        self.calls = 0\n"
    "    def on_event_accepted(self, event):\n"
    "        self.calls += 1\n"
    "        if event.type == 'order.bad':\n"
    "            raise RuntimeError('x')\n"
    "        return event\n"
)
BUDGETS = Budgets(error_percent=50.0, window_s=10.0, min_calls=4, disabled_s=30.0)


class Bench:
    """The plugins of a service, and their clock."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.now = 1000.0
        self.hosted = Hosted(host.starter(), clock=lambda: self.now)

    def instance(self, **fields: object) -> PluginInstance:
        fields = {"budgets": BUDGETS, "release": {"hooks": ("on_event_accepted",)}, **fields}
        return self.host.instance(CODE, **fields)

    def plugin(self) -> object:
        running = self.hosted._seats[0].running
        assert running is not None
        return running.plugin

    async def call(self, event: Event, count: int = 1) -> Event:
        for _ in range(count):
            found = await self.hosted.change("on_event_accepted", event, lambda hook, event: hook(event))
            assert isinstance(found, Event)
        return found


@pytest.fixture
async def bench(host: Host) -> AsyncIterator[Bench]:
    made = Bench(host)
    yield made
    await made.hosted.close()


async def test_one_that_fails_too_often_is_not_called_until_its_time_is_over(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    assert await bench.hosted.take([bench.instance()])
    assert bench.hosted.reports()["shop/demo"].state == "loaded"
    bench.hosted.changed.clear()
    with caplog.at_level(logging.INFO, "nexus.plugins"):
        await bench.call(BAD, 10)
        assert bench.plugin().calls == 4, "the fourth failure was one too many"
        assert bench.hosted.changed.is_set()
        assert bench.hosted.disabled == {"shop/demo": True}
        report = bench.hosted.reports()["shop/demo"]
        assert (report.state, report.version, report.reason) == ("disabled", "1.0.0", REASON)
        assert report.message.startswith(
            "4 of its 4 calls failed within 10 s (100 %); its budget is 50 %. The last: on_event_accepted: "
        )

        bench.now += 29
        assert not bench.hosted.tick()
        await bench.call(GOOD)
        assert bench.plugin().calls == 4
        bench.now += 2
        bench.hosted.tick()
        assert bench.hosted.disabled == {"shop/demo": False}
        assert "its next calls decide" in bench.hosted.reports()["shop/demo"].message
        await bench.call(GOOD, TRY_CALLS)
        bench.hosted.tick()
    assert bench.plugin().calls == 4 + TRY_CALLS
    assert bench.hosted.reports()["shop/demo"].state == "loaded"
    said = [each.getMessage() for each in caplog.records if "failed in" not in each.getMessage()]
    assert len(said) == 3, said
    assert "It is not called until" in said[0]
    assert "has been tried again" in said[1]
    assert said[2] == "plugin shop/demo goes on"


async def test_one_that_fails_again_when_it_is_tried_is_disabled_again(bench: Bench) -> None:
    await bench.hosted.take([bench.instance()])
    await bench.call(BAD, 4)
    bench.now += 31
    bench.hosted.tick()
    await bench.call(BAD, 10)
    assert bench.plugin().calls == 8
    assert "since it was tried again" in bench.hosted.reports()["shop/demo"].message


async def test_its_failure_policy_decides_meanwhile(bench: Bench) -> None:
    await bench.hosted.take([bench.instance(failure_policy="closed")])
    for _ in range(4):
        with pytest.raises(Unavailable):
            await bench.call(BAD)
    with pytest.raises(Unavailable):
        await bench.call(GOOD)
    assert bench.plugin().calls == 4


async def test_a_client_that_leaves_is_no_failure(bench: Bench) -> None:
    waiting = "    async def on_event_accepted(self, event):\n        await asyncio.Event().wait()\n"
    code = f"{HEAD}import asyncio\nclass Demo(Plugin):\n{waiting}"
    instance = bench.host.instance(code, budgets=BUDGETS, release={"hooks": ("on_event_accepted",)})
    await bench.hosted.take([instance])
    for _ in range(5):
        asking = asyncio.create_task(bench.call(GOOD))
        await asyncio.sleep(0)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
    assert bench.hosted.disabled == {"shop/demo": False}


async def test_another_configuration_begins_anew_and_one_that_is_refused_does_not(bench: Bench) -> None:
    instance = bench.instance()
    await bench.hosted.take([instance])
    await bench.call(BAD, 4)
    broken = bench.host.instance("def", budgets=BUDGETS, release={"hooks": ("on_event_accepted",), "version": "1.0.1"})
    assert not await bench.hosted.take([broken])
    assert bench.hosted.disabled == {"shop/demo": True}, "what goes on of it is what was disabled"
    assert await bench.hosted.take([bench.instance(config={"mended": True})])
    assert bench.hosted.disabled == {"shop/demo": False}
    assert (await bench.call(GOOD)) is GOOD


async def test_what_cannot_be_loaded_is_reported(bench: Bench) -> None:
    broken = bench.host.instance("def", release={"hooks": ("on_event_accepted",)})
    assert not await bench.hosted.take([broken])
    report = bench.hosted.reports()["shop/demo"]
    assert (report.state, report.version) == ("failed", "")
    assert report.reason
    assert await bench.hosted.take([bench.instance()])
    assert not await bench.hosted.take([broken])
    assert bench.hosted.reports()["shop/demo"].state == "previous"


async def test_one_that_holds_too_much_memory_is_started_anew(bench: Bench) -> None:
    instance = bench.instance(budgets=Budgets(memory_mb=1, disabled_s=30.0))
    await bench.hosted.take([instance])
    first = bench.plugin()
    running = bench.hosted._seats[0].running
    assert running is not None
    running.memory_bytes = 2 * 2**20
    assert not bench.hosted.tick()
    assert bench.hosted.disabled == {"shop/demo": True}
    assert bench.hosted.reports()["shop/demo"].message.startswith("It holds 2 MB; its budget is 1 MB.")
    bench.now += 31
    assert bench.hosted.tick()
    assert not bench.hosted.tick(), "once"
    assert await bench.hosted.take([instance])
    assert bench.plugin() is not first
    assert bench.hosted.disabled == {"shop/demo": False}


async def test_nobody_who_asked_something_waits_for_the_end_of_a_plugin_that_was_replaced(bench: Bench) -> None:
    code = (
        f"{HEAD}import asyncio\n"
        "class Demo(Plugin):\n"
        "    def __init__(self, config):\n"
        "        self.go, self.end = asyncio.Event(), asyncio.Event()\n"
        "    async def on_event_accepted(self, event):\n"
        "        await self.go.wait()\n"
        "        return event\n"
        "    async def stop(self):\n"
        "        await self.end.wait()\n"
    )
    instance = bench.host.instance(code, timeout_s=5.0, release={"hooks": ("on_event_accepted",)})
    await bench.hosted.take([instance])
    plugin = bench.plugin()
    asking = asyncio.create_task(bench.call(GOOD))
    await asyncio.sleep(0)
    await bench.hosted.take(())
    plugin.go.set()
    async with asyncio.timeout(2):
        assert await asking is GOOD
    [stopping] = bench.hosted._retiring
    assert not stopping.done()
    plugin.end.set()
    await bench.hosted.close()
    assert stopping.done()
