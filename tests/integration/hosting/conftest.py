"""Plugins that run in the test's own process, by themselves."""

from __future__ import annotations

import gc
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from nexus_core.snapshot import PluginInstance
from nexus_hosting.judges import Verifier
from nexus_hosting.means import Means
from nexus_hosting.running import Running
from nexus_hosting.starting import Starter
from nexus_hosting.testing import make_instance
from nexus_marketplace.rejections import PluginRejected

HEAD = "from nexus_sdk.plugin import Plugin\n"


class Host:
    """Starts plugins, and stops them with the test."""

    def __init__(self, cache: Path) -> None:
        self.cache = cache
        self.started: list[Running] = []

    def starter(self, **means: Any) -> Starter:
        return Starter(self.cache, Verifier(), Means(**means))

    def instance(self, code: str, **fields: Any) -> PluginInstance:
        return make_instance(self.cache, code, **fields)

    async def start(self, code: str | PluginInstance, means: Means | None = None, **fields: Any) -> Running:
        instance = code if isinstance(code, PluginInstance) else self.instance(code, **fields)
        running = await Starter(self.cache, Verifier(), means).start(instance)
        running.acquire()
        self.started.append(running)
        return running

    async def stop(self, running: Running) -> None:
        self.started.remove(running)
        await running.release()

    async def refused(self, code: str | PluginInstance, **fields: Any) -> tuple[str, str]:
        """Return why a plugin is not started: the reason and the text."""
        with pytest.raises(PluginRejected) as caught:
            await self.start(code, **fields)
        return caught.value.reason, caught.value.message


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[Host]:
    made = Host(tmp_path / "plugins")
    yield made
    for running in list(made.started):
        await made.stop(running)
    gc.collect()
    assert [name for name in sys.modules if name.startswith("_nexus_plugin_")] == []
    assert [each for each in sys.meta_path if type(each).__name__ == "PluginCode"] == []


Serve = Callable[[Any], Awaitable[Any]]
