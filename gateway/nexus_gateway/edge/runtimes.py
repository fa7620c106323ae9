"""A Snapshot made runnable: compiled in full before one reference moves to it; old requests finish on the old one."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from nexus_core.snapshot import EMPTY, Published, Retry, Route, Rule, Timeouts

from nexus_gateway.balance.split import Split
from nexus_gateway.edge.plugins.slots import Slot
from nexus_gateway.edge.pools import Pool
from nexus_gateway.filters.place import HeadFilter
from nexus_gateway.filters.table import build_filters
from nexus_core.match.router import Router


@dataclass(frozen=True, slots=True)
class Backend:
    """One backend of a rule. pool: None for a reference that could not be resolved. retry, timeouts: in effect here."""

    pool: Pool | None
    filters: tuple[HeadFilter, ...]
    retry: Retry
    timeouts: Timeouts


@dataclass(frozen=True, slots=True)
class Plan:
    """A rule as requests use it."""

    filters: tuple[HeadFilter, ...]
    backends: tuple[Backend, ...]
    split: Split
    plugins: tuple[Slot, ...]


class Runtime:
    """Everything requests of one generation need. Immutable but for the count of its users."""

    def __init__(self, published: Published, pools: Mapping[str, Pool], slots: Mapping[str, Slot]) -> None:
        self.published = published
        self.slots = slots
        self._pools = pools
        self._upstreams = {upstream.id: upstream for upstream in published.snapshot.upstreams}
        self.router: Router[Plan] = Router(published.snapshot, self._plan)
        self._users = 0
        self._retired = False
        self._idle = asyncio.Event()

    def _plan(self, route: Route, rule: Rule) -> Plan:
        backends = []
        for backend in rule.backends:
            pool = self._pools.get(backend.upstream)
            # Not the pool's: it still has the former Snapshot's policies while this runtime is being built.
            upstream = self._upstreams.get(backend.upstream)
            backends.append(
                Backend(
                    pool,
                    build_filters(backend.filters),
                    rule.retry or (upstream.retry if upstream is not None else Retry()),
                    rule.timeouts or (upstream.timeouts if upstream is not None else Timeouts()),
                )
            )
        return Plan(
            build_filters(rule.filters),
            tuple(backends),
            Split([backend.weight for backend in rule.backends]),
            tuple(self.slots[plugin] for plugin in rule.plugins),
        )

    def enter(self) -> None:
        """Count a request in."""
        self._users += 1

    def leave(self) -> None:
        """Count a request out."""
        self._users -= 1
        if self._retired and self._users == 0:
            self._idle.set()

    def hold_plugins(self) -> None:
        """Count this runtime as a user of its plugins; call before it goes live."""
        for slot in self.slots.values():
            if slot.running is not None:
                slot.running.acquire()

    async def retire(self) -> None:
        """Wait for the last request, then let go of the plugins; call after the reference moved on."""
        self._retired = True
        if self._users:
            await self._idle.wait()
        for slot in self.slots.values():
            if slot.running is not None:
                await slot.running.release()


def empty() -> Runtime:
    """Return the runtime before the first Snapshot: no routes."""
    return Runtime(Published(0, "", EMPTY), {}, {})
