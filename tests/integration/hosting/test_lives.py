"""What a plugin does at its start, at its end and with a new configuration ends in time, and is told."""

from __future__ import annotations

import asyncio
import json

import pytest
from nexus_core.snapshot.plugins import Budgets
from nexus_hosting import bounds, running, starting
from nexus_marketplace.rejections import PluginRejected

from tests.integration.hosting.conftest import HEAD, Host

STAYS = "while True:\n            try: await asyncio.sleep(3600)\n            except asyncio.CancelledError: pass"
CATCHES = "while True:\n            try:\n                while True: pass\n            except BaseException: pass"
WAYS = {
    "leaves": ("raise GeneratorExit", "Exited: GeneratorExit"),
    "cancels": ("raise asyncio.CancelledError", "Exited: CancelledError"),
    "cancels its caller": ("asyncio.current_task().cancel()", "AttributeError"),
    "exits": ("raise SystemExit(3)", "Exited: SystemExit: 3"),
    "loops": ("while True: pass", "Overran: it held the event loop"),
    "catches all": (CATCHES, "Overran"),
    "never ends": ("await asyncio.Event().wait()", "out of time"),
    "never lets go": (STAYS, "does not let itself be stopped"),
}
ways = pytest.mark.parametrize("way", WAYS)


@pytest.fixture(autouse=True)
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(starting, "LOAD_S", 0.5)
    monkeypatch.setattr(running, "STOP_S", 0.5)
    monkeypatch.setattr(bounds, "_CANCEL_GRACE_S", 0.1)


def code(hook: str, line: str) -> str:
    return f"{HEAD}import asyncio\nclass Demo(Plugin):\n    async def {hook}:\n        {line}\n"


@ways
async def test_a_start_ends(host: Host, way: str) -> None:
    line, text = WAYS[way]
    async with asyncio.timeout(5):
        reason, message = await host.refused(code("start(self)", line), budgets=Budgets(block_s=0.1))
    assert (reason, text in message) == ("PluginStartFailed", True), message


@ways
async def test_a_stop_ends(host: Host, way: str, caplog: pytest.LogCaptureFixture) -> None:
    line, text = WAYS[way]
    live = await host.start(code("stop(self)", line), budgets=Budgets(block_s=0.1))
    async with asyncio.timeout(5):
        await host.stop(live)
    assert "plugin shop/demo failed in stop" in caplog.text
    assert text in caplog.text


@ways
async def test_a_change_of_configuration_ends_and_the_former_one_stays(host: Host, way: str) -> None:
    line, text = WAYS[way]
    changing = code("on_config(self, config)", line)
    live = await host.start(changing, budgets=Budgets(block_s=0.1), config={"n": 1})
    changed = host.instance(changing, budgets=Budgets(block_s=0.1), config={"n": 2})
    with pytest.raises(PluginRejected) as caught:
        async with asyncio.timeout(5):
            await host.starter().reconfigure(live, changed)
    assert caught.value.reason == "PluginConfigInvalid"
    assert text in caught.value.message
    assert "The former one stays in use." in caught.value.message
    assert json.loads(live.instance.config) == {"n": 1}
