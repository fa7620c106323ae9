"""How much memory a plugin has, and what becomes of one that has too much."""

from __future__ import annotations

import asyncio
import re
import sys
from typing import Any

import pytest
from nexus_core.snapshot.plugins import Budgets
from nexus_gateway.testing import until
from nexus_hosting import memory
from nexus_hosting.means import Means
from nexus_hosting.running import Running

from tests.integration.hosting.conftest import HEAD, Host

MB = 2**20


def measured(running: Running) -> int:
    found = memory.measure(running, pause=lambda: True)
    assert found is not None
    return found


HOLDS = {
    "attribute": ("self.x = bytes(5_000_000)", 5_000_000),
    "list": ("self.x = [bytes(1000) for _ in range(3000)]", 3000 * (1000 + 33 + 8)),
    "strings": ("self.x = {str(n) * 5: n + 10**9 for n in range(20000)}", 20000 * (74 + 28 + 29)),
    "objects": ("self.x = [Thing(n) for n in range(10000)]", 10000 * 75),
    "shared": ("self.x = [BIG] * 100", 3_000_000),
    "bytearray": ("self.x = bytearray(4_000_000)", 4_000_000),
    "global": ("KEPT.append(bytes(2_000_000))", 2_000_000),
    "circle": ("self.x = [self, bytes(2_000_000)]\n        self.x.append(self.x)", 2_000_000),
    "closure": ("big = bytes(2_000_000)\n        self.x = lambda: big", 2_000_000),
    "subclass of a list": ("self.x = Liar(range(10**9, 10**9 + 100000))", 100000 * 36),
    "class": ("Thing.big = bytes(2_000_000)", 2_000_000),
    "task": ("self.context.spawn(self.hold(bytes(2_000_000)), 'x')", 2_000_000),
}
CODE = """
import asyncio, collections, json, logging
KEPT = []
BIG = bytes(3_000_000)
class Thing:
    def __init__(self, n):
        self.n = n
class Liar(list):
    def __sizeof__(self):
        raise SystemExit
class Demo(Plugin):
    async def start(self):
        self.others = [json, logging.getLogger(), asyncio, self.context, Plugin, print, json.loads]
    async def hold(self, big):
        await asyncio.Event().wait()
    def take(self):
        {take}
"""


@pytest.mark.parametrize("name", HOLDS)
async def test_what_a_plugin_holds_is_counted(host: Host, name: str) -> None:
    take, size = HOLDS[name]
    code = HEAD + CODE.format(take=take)
    if "BIG" not in take:
        code = code.replace("BIG = bytes(3_000_000)\n", "")
    running = await host.start(code)
    before = measured(running)
    running.plugin.take()
    await asyncio.sleep(0)
    grown = measured(running) - (0 if name == "shared" else before)
    # Small strings and numbers may take each other's place in the count, a few in a hundred.
    assert size * 0.85 < grown < size * 1.6 + 100_000, (before, grown)


async def test_what_is_others_is_not_counted(host: Host) -> None:
    other = await host.start(
        HEAD + "class Demo(Plugin):\n    def __init__(self, config):\n        self.big = bytes(20_000_000)\n",
        id="shop/other",
    )
    running = await host.start(HEAD + CODE.format(take="pass").replace("3_000_000", "3"))
    running.plugin.loop = asyncio.get_running_loop()
    running.plugin.other = other.plugin
    running.plugin.module = sys.modules["asyncio"]
    running.plugin.error = RuntimeError()
    try:
        raise running.plugin.error
    except RuntimeError:
        pass  # its traceback leads here, to the test and all that it knows
    assert measured(running) < 200_000


async def test_a_walk_ends_at_the_budget_or_when_it_is_told(host: Host) -> None:
    code = (
        HEAD
        + "class Demo(Plugin):\n    def __init__(self, config):\n        self.x = [bytes(1000) for _ in range(20000)]\n"
    )
    running = await host.start(code, budgets=Budgets(memory_mb=1))
    assert MB < measured(running) < 20 * MB
    assert memory.measure(running, pause=lambda: False) is None


async def test_one_that_grows_beyond_its_budget_is_reported_on_its_loop(
    host: Host, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(memory, "LOOK_S", 0.0)
    monkeypatch.setattr(memory, "AGAIN_S", 3600.0)
    told: list[tuple[Any, int, Any]] = []

    def over(running: Running, size: int) -> None:
        told.append((running, size, asyncio.get_running_loop()))

    code = (
        HEAD
        + "class Demo(Plugin):\n    kept = []\n    def on_request(self, request):\n        self.kept.append(b'x' * 1_000_000)\n"
    )
    running = await host.start(code, Means(over_memory=over), budgets=Budgets(memory_mb=24))
    await asyncio.sleep(0.2)
    assert told == []
    for _ in range(60):
        running.plugin.on_request(None)
    await until(lambda: bool(told))
    [(who, size, loop), *_] = told
    assert (who, loop) == (running, asyncio.get_running_loop())
    assert size > 24 * MB
    assert running.memory_bytes == size
    assert re.search(r"plugin shop/demo holds \d+ MB of memory; budgets.memoryMegabytes is 24", caplog.text)


async def test_a_plugin_without_a_budget_is_measured_and_left_alone(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "LOOK_S", 0.0)
    monkeypatch.setattr(memory, "AGAIN_S", 0.0)
    told: list[int] = []
    code = HEAD + "class Demo(Plugin):\n    big = bytes(5_000_000)\n"
    running = await host.start(code, Means(over_memory=lambda _, size: told.append(size)), budgets=Budgets(memory_mb=0))
    await until(lambda: running.memory_bytes > 5_000_000)
    assert told == []


def test_rounds_begin_when_the_process_has_grown_or_time_has_passed(monkeypatch: pytest.MonkeyPatch) -> None:
    resident = 100 * MB
    monkeypatch.setattr(memory, "resident_bytes", lambda: resident)
    rounds = memory.Rounds()
    assert [rounds.is_due(now) for now in (100.0, 100.5, 101.1, 129.0, 130.1)] == [True, False, False, False, True]
    resident += 17 * MB
    assert [rounds.is_due(now) for now in (131.2, 132.3)] == [True, False]
