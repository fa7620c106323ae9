"""`python -m nexus_hosting.hooking CACHE`: runs one plugin's `on_manifest`. Started by `manifesthooks`.

A process of its own: whatever the plugin does to it (it loops, it ends it, it eats its memory), who translates goes on.
"""

from __future__ import annotations

import asyncio
import copy
import signal
import sys
from pathlib import Path
from typing import Any

import msgspec
from nexus_core.hooks.manifests import Manifest
from nexus_core.hooks.refusals import Refusal
from nexus_core.snapshot import PluginInstance
from nexus_marketplace.rejections import PluginRejected

from nexus_hosting import asides
from nexus_hosting.judges import Verifier
from nexus_hosting.running import Running
from nexus_hosting.starting import Starter

LONGEST_S = 60
"""Of one order. Whoever gave it has given up long before; one that died cannot end a process whose plugin loops."""


class Asked(msgspec.Struct):
    """One object, as `Manifest`."""

    kind: str
    namespace: str
    name: str
    spec: dict[str, Any]
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}


class Order(msgspec.Struct):
    """Run these objects through the plugin; with none it is only started."""

    instance: PluginInstance
    manifests: list[Asked] = []


class Answer(msgspec.Struct, omit_defaults=True):
    """What became of one object. error: what the hook raised or returned in place of an answer. reason, message: of a refusal."""

    manifest: Asked | None = None
    reason: str = ""
    message: str = ""
    error: str = ""


class Answers(msgspec.Struct, omit_defaults=True):
    """In the order's order. reason, message: why the plugin could not be started, as in `PluginRejected`."""

    answers: list[Answer] = []
    reason: str = ""
    message: str = ""


class Host:
    """The one plugin of this process."""

    def __init__(self, cache: Path) -> None:
        self._starter = Starter(cache, Verifier())
        self._loop = asyncio.new_event_loop()
        self._running: Running | None = None

    def answer(self, data: bytes) -> bytes:
        """Return the `Answers` to an `Order`."""
        order = msgspec.json.decode(data, type=Order)
        signal.alarm(LONGEST_S)  # what it does by itself is end the process, whatever that is at
        try:
            plugin = self._loop.run_until_complete(self._started(order.instance))
        except PluginRejected as rejected:
            return msgspec.json.encode(Answers(reason=rejected.reason, message=rejected.message))
        else:
            return msgspec.json.encode(Answers([_ask(plugin, asked) for asked in order.manifests]))
        finally:
            signal.alarm(0)

    async def _started(self, instance: PluginInstance) -> Any:
        if self._running is None:
            self._running = await self._starter.start(instance)
            self._running.acquire()
        return self._running.plugin


def _ask(plugin: Any, asked: Asked) -> Answer:
    given = Manifest(asked.kind, asked.namespace, asked.name, asked.spec, asked.labels, asked.annotations)
    try:
        answer = plugin.on_manifest(copy.deepcopy(given))
        if isinstance(answer, Refusal):
            return Answer(reason=str(answer.reason), message=str(answer.message))
        if not isinstance(answer, Manifest):
            return Answer(error=f"it returned {type(answer).__name__}, neither a Manifest nor a Refusal")
        made = Asked(
            answer.kind,
            answer.namespace,
            answer.name,
            dict(answer.spec),
            dict(answer.labels),
            dict(answer.annotations),
        )
        msgspec.json.encode(made)  # what is no JSON fails here, at its object, and not the whole answer
        return Answer(made)
    except Exception as error:
        return Answer(error=f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    sys.exit(asides.serve(Host(Path(sys.argv[1])).answer))
