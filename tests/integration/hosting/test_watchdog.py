"""Plugins that hold the event loop are interrupted; nothing else ever is."""

from __future__ import annotations

import asyncio
import random
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import uvloop
from nexus_core.snapshot.plugins import Budgets
from nexus_gateway.testing import until
from nexus_hosting.bounds import Overran
from nexus_hosting.calls import Held, driven
from nexus_hosting.watchdog import SIGNAL, find_place, watchdog
from nexus_hosting.watching import watch

from tests.integration.hosting.conftest import HEAD, Host

IN = "\n" + " " * 8
SWALLOWS = f"while True:{IN}    try:{IN}        time.sleep(60){IN}    except {{}}:{IN}        pass"
BLOCKS = {
    "loops": f"while True:{IN}    pass",
    "sleeps": "time.sleep(60)",
    "backtracks": "re.match('(a+)+$', 'a' * 60 + 'b')",
    "catches Exception": SWALLOWS.format("Exception"),
    "catches everything": SWALLOWS.format("BaseException"),
    "catches everything twice": SWALLOWS.format("BaseException").replace(
        "time.sleep(60)",
        f"try:{IN}            while True:{IN}                pass{IN}        except BaseException:{IN}            pass",
    ),
}
CODE = """
import re, time
class Demo(Plugin):
    def on_request(self, request):
        {block}
    async def on_response(self, request, response):
        {block}
"""
BUDGETS = Budgets(block_s=0.1)


def call(who: Any, hook: Callable[[], object]) -> object:
    """Call a hook as a gateway does."""
    watch.since = time.monotonic()
    watch.who = who
    try:
        return hook()
    finally:
        watch.who = None


@pytest.mark.parametrize("name", BLOCKS)
async def test_what_holds_the_loop_is_interrupted(host: Host, name: str) -> None:
    running = await host.start(HEAD + CODE.format(block=BLOCKS[name]), budgets=BUDGETS)
    with pytest.raises(Overran) as caught:
        call(running, lambda: running.plugin.on_request(None))
    if "everything" not in name:
        assert "it held the event loop for 0." in str(caught.value)
        assert "demo/plugin.py line " in str(caught.value)
        assert "budgets.blockSeconds is 0.1" in str(caught.value)
    with pytest.raises(Overran):
        await driven(running.plugin.on_response(None, None), running)
    assert watch.who is None
    await asyncio.sleep(0.1)  # nothing comes after it


@pytest.mark.parametrize("factory", [uvloop.new_event_loop, asyncio.new_event_loop])
def test_every_event_loop_goes_on_afterwards(tmp_path: Any, factory: Callable[[], asyncio.AbstractEventLoop]) -> None:
    async def run() -> None:
        host = Host(tmp_path)
        running = await host.start(HEAD + CODE.format(block=BLOCKS["loops"]), budgets=BUDGETS)
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                await asyncio.sleep(0.01)
                ticks += 1

        ticking = asyncio.create_task(tick())
        for _ in range(2):
            with pytest.raises(Overran):
                call(running, lambda: running.plugin.on_request(None))
            with pytest.raises(Overran):
                await driven(running.plugin.on_response(None, None), running)
            seen = ticks
            await until(lambda: ticks > seen + 3)  # noqa: B023  # awaited here
        ticking.cancel()
        await host.stop(running)

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(run())


async def test_work_in_the_background_is_watched_too(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    code = HEAD + (
        "import asyncio, time\nclass Demo(Plugin):\n    async def block(self):\n        await asyncio.sleep(0)\n        time.sleep(60)\n"
        "    def begin(self):\n        return asyncio.create_task(self.block())\n"
    )
    running = await host.start(code, budgets=BUDGETS)
    running.context.spawn(running.plugin.block(), "blocking")
    task = running.plugin.begin()
    with pytest.raises(Overran):
        await task
    assert "blocking failed: Overran: it held the event loop" in caplog.text


async def test_what_takes_its_time_is_left_alone(host: Host) -> None:
    """Just below the limit, and waiting for long without the loop."""
    code = HEAD + (
        "import asyncio, time\nclass Demo(Plugin):\n    def on_request(self, request):\n        time.sleep(0.05)\n        return 1\n"
        "    async def on_response(self, request, response):\n        await asyncio.sleep(0.4)\n        return 2\n"
    )
    running = await host.start(code, budgets=Budgets(block_s=0.3))
    held = Held()
    assert call(running, lambda: running.plugin.on_request(None)) == 1
    assert await driven(running.plugin.on_response(None, None), running, held) == 2
    assert held.seconds < 0.3, "waiting is not holding"


STRESS = """
class Demo(Plugin):
    def on_request(self, rounds):
        total = 0
        for number in range(rounds):
            total += len(str(number)) + self.inner(number)
        return total
    def inner(self, number):
        return sum([each for each in range(number % 7)])
"""


async def test_nothing_but_plugin_code_is_ever_interrupted(host: Host) -> None:
    """Signals all the time, no time allowed at all: whatever is interrupted is a plugin's, and so is all that is in between."""
    running = await host.start(HEAD + STRESS, budgets=Budgets(block_s=0.0))
    stop = threading.Event()
    main = threading.main_thread().ident
    assert main is not None
    chance = random.Random(6)

    def fire() -> None:
        while not stop.is_set():
            signal.pthread_kill(main, SIGNAL)
            time.sleep(chance.random() / 2000)

    thread = threading.Thread(target=fire)
    outside = interrupted = 0
    thread.start()
    try:
        end = time.monotonic() + 3
        while time.monotonic() < end:
            # Whatever stands between a gateway and a hook: it must never see the error but out of the hook.
            watch.since = time.monotonic()
            watch.who = running
            started = list(range(20))
            try:
                running.plugin.on_request(len(started) * 5)
            except Overran as error:
                traceback = error.__traceback__
                while traceback is not None and traceback.tb_next is not None:
                    if traceback.tb_frame.f_code.co_filename.startswith("<_nexus_plugin_"):
                        break
                    traceback = traceback.tb_next
                assert traceback is not None
                assert traceback.tb_frame.f_code.co_filename.startswith("<_nexus_plugin_")
                interrupted += 1
            outside += sum(started) and 1
            watch.who = None
    finally:
        watch.who = None
        stop.set()
        thread.join()
    assert interrupted > 50
    assert outside > interrupted / 2


async def test_code_of_ours_that_a_plugin_called_is_not_interrupted(host: Host) -> None:
    """It may hold a lock, as logging does."""
    seen: list[str | None] = []

    class Probe:
        def __str__(self) -> str:
            import sys

            seen.append(find_place(sys._getframe()))
            return "x"

    code = (
        HEAD
        + "class Demo(Plugin):\n    def on_request(self, probe):\n        str(probe)\n        self.context.log.error('%s', probe)\n"
    )
    running = await host.start(code)
    running.plugin.on_request(Probe())
    assert seen[0] == "demo/plugin.py line 4"
    assert set(seen[1:]) == {None}


async def test_it_runs_only_while_plugins_do(host: Host) -> None:
    def runs() -> bool:
        return any(thread.name == "plugin watchdog" for thread in threading.enumerate())

    running = await host.start(HEAD + "class Demo(Plugin):\n    pass")
    assert runs()
    await host.stop(running)
    await until(lambda: not runs())
    assert signal.getitimer(signal.ITIMER_VIRTUAL) == (0.0, 0.0)
    signal.raise_signal(SIGNAL)  # one on its way ends nothing


def test_a_loop_outside_of_the_main_thread_is_reported_and_not_interrupted(
    tmp_path: Any, caplog: pytest.LogCaptureFixture
) -> None:
    code = (
        HEAD
        + "import time\nclass Demo(Plugin):\n    def on_request(self, request):\n        time.sleep(0.5)\n        return 1\n"
    )
    found: list[object] = []

    async def run() -> None:
        host = Host(tmp_path)
        running = await host.start(code, budgets=BUDGETS)
        found.append(call(running, lambda: running.plugin.on_request(None)))
        await host.stop(running)

    thread = threading.Thread(target=lambda: asyncio.run(run()))
    thread.start()
    thread.join()
    assert found == [1]
    assert "plugin shop/demo holds the event loop for 0." in caplog.text
    assert watchdog.interrupts >= 0
