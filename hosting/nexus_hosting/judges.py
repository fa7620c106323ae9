"""Who says whether a plugin may run: this process, or one beside it.

Signatures and JSON schemas take 12 MB of libraries that a gateway needs for a second at its start. What is judged are values (the
release with its digest, the pinned key, the configuration), and what is loaded afterwards are the bytes of that digest, in this process:
nothing that could change in between lies between the two. Secrets of the configuration go along, over a pipe, from memory to memory.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Protocol

import msgspec
from nexus_core.snapshot import PluginInstance
from nexus_marketplace.rejections import PluginRejected

from nexus_hosting.asides import Aside, AsideGone

LINGER_S = 1.0
"""A Snapshot's plugins are judged one after the other by one process."""


class Judge(Protocol):
    """Says of a plugin whether its release and configuration are good."""

    async def judge(self, instance: PluginInstance, secrets: Mapping[str, str] = {}) -> dict[str, Any]:
        """Return the configuration of a plugin that may run, with its defaults and secrets. Raises `PluginRejected`.

        secrets: by their dotted paths in the configuration.
        """
        ...

    async def close(self) -> None:
        """Release everything."""
        ...


class Order(msgspec.Struct):
    """What the process is asked."""

    instance: PluginInstance
    secrets: dict[str, str] = {}


class Verdict(msgspec.Struct):
    """What the process answers. reason, message: as in `PluginRejected`, empty for a plugin that may run, which has a config."""

    reason: str = ""
    message: str = ""
    retryable: bool = False
    config: dict[str, Any] = {}


class Verifier:
    """The judge in this process."""

    async def judge(self, instance: PluginInstance, secrets: Mapping[str, str] = {}) -> dict[str, Any]:
        return await asyncio.to_thread(_verify, instance, secrets)

    async def close(self) -> None:
        """Nothing is held open."""


class RemoteVerifier:
    """The judge in a process that ends soon after."""

    def __init__(self, *, linger_s: float = LINGER_S) -> None:
        self.aside = Aside("nexus_hosting.judging")
        self._linger_s = linger_s

    async def judge(self, instance: PluginInstance, secrets: Mapping[str, str] = {}) -> dict[str, Any]:
        order = msgspec.json.encode(Order(instance, dict(secrets)))
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
        return verdict.config

    async def close(self) -> None:
        await self.aside.close()


def _verify(instance: PluginInstance, secrets: Mapping[str, str]) -> dict[str, Any]:
    from nexus_hosting.configuring import verify  # in the thread: importing it takes 0.2 s

    return verify(instance, secrets)
