"""Who says whether a plugin may run: this process, or one beside it.

Signatures and JSON schemas take 12 MB of libraries that a gateway needs for a second at its start. What is judged are values (the
release with its digest, the pinned key, the configuration), and what is loaded afterwards are the bytes of that digest, in this process:
nothing that could change in between lies between the two.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any, Protocol

import msgspec
from nexus_core.snapshot import PluginInstance
from nexus_marketplace.rejections import PluginRejected

from nexus_hosting.asides import Aside, AsideGone

LINGER_S = 1.0
"""A Snapshot's plugins are judged one after the other by one process."""


class Judge(Protocol):
    """Says of a plugin whether its release and configuration are good."""

    async def judge(self, instance: PluginInstance) -> dict[str, Any]:
        """Return the configuration of a plugin that may run. Raises `PluginRejected`."""
        ...

    async def close(self) -> None:
        """Release everything."""
        ...


class Verdict(msgspec.Struct):
    """What the process answers. reason, message: as in `PluginRejected`, empty for a plugin that may run."""

    reason: str = ""
    message: str = ""
    retryable: bool = False


class Verifier:
    """The judge in this process."""

    async def judge(self, instance: PluginInstance) -> dict[str, Any]:
        return await asyncio.to_thread(_verify, instance)

    async def close(self) -> None:
        """Nothing is held open."""


class RemoteVerifier:
    """The judge in a process that ends soon after."""

    def __init__(self, *, linger_s: float = LINGER_S) -> None:
        self.aside = Aside("nexus_hosting.judging")
        self._linger_s = linger_s

    async def judge(self, instance: PluginInstance) -> dict[str, Any]:
        order = msgspec.json.encode(instance)
        try:
            answer = await self.aside.call(lambda _: order)
        except AsideGone as error:
            name = f"{instance.release.name} {instance.release.version}"
            raise PluginRejected(
                "PluginLoadFailed", f"{name} could not be verified: {error}.", retryable=True
            ) from error
        finally:
            self.aside.leave(self._linger_s)
        verdict = msgspec.json.decode(answer, type=Verdict)
        if verdict.reason:
            raise PluginRejected(verdict.reason, verdict.message, retryable=verdict.retryable)
        config: dict[str, Any] = json.loads(instance.config)  # an object, as was judged
        return config

    async def close(self) -> None:
        await self.aside.close()


def _verify(instance: PluginInstance) -> dict[str, Any]:
    from nexus_marketplace.verifying import verify  # in the thread: importing it takes 0.2 s

    return verify(instance)
