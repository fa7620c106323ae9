"""Keeps Consul's catalog what the cluster's endpoints are."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import TypeVar

from nexus_operator.edge.consul import ConsulApi, ConsulAway
from nexus_operator.mirror.registrations import Difference, Registration, diff

log = logging.getLogger(__name__)
T = TypeVar("T")
PARALLEL = 8


class Catalog:
    """The catalog's entries under one virtual node. The operator alone writes them; after anything unusual they are read again."""

    def __init__(self, consul: ConsulApi, node: str) -> None:
        self._consul = consul
        self._node = node
        self._held: dict[str, Registration] | None = None

    def forget(self) -> None:
        """Read the catalog again before the next write: it may have lost its data, or somebody may have edited it."""
        self._held = None

    async def sync(self, wanted: Mapping[str, Registration]) -> Difference:
        """Write what is different and return it. Raises ConsulAway; what was written until then stays."""
        if self._held is None:
            self._held = await self._consul.registrations(self._node)
        difference = diff(wanted, self._held)
        try:
            await _each(self._register, difference.register)
            await _each(self._deregister, difference.deregister)
        except ConsulAway:
            self._held = None
            raise
        if difference:
            log.info(
                "catalog: %d registered or changed, %d removed", len(difference.register), len(difference.deregister)
            )
        return difference

    async def _register(self, entry: Registration) -> None:
        await self._consul.register(self._node, entry)
        if self._held is not None:
            self._held[entry.id] = entry

    async def _deregister(self, service_id: str) -> None:
        await self._consul.deregister(self._node, service_id)
        if self._held is not None:
            self._held.pop(service_id, None)


async def _each(call: Callable[[T], Awaitable[None]], items: Iterable[T]) -> None:
    """Call for each item, a few at a time; the first ConsulAway ends the others."""
    pending = list(items)

    async def worker() -> None:
        while pending:
            await call(pending.pop())

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(PARALLEL, len(pending))):
                group.create_task(worker())
    except* ConsulAway as errors:
        raise errors.exceptions[0] from None
