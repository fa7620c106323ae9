"""The live endpoints of each upstream: one watch a discovered service, static addresses, and what waits for the first one."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Iterable, Mapping, Sequence

from nexus_core.discovery import Discovery, Endpoint
from nexus_core.snapshot import Discovered, StaticAddresses, Upstream

from nexus_gateway.balance.table import BALANCERS
from nexus_gateway.resilience.budgets import RetryBudget
from nexus_gateway.resilience.endpoints import EndpointRegistry, EndpointState

log = logging.getLogger("nexus.gateway.pools")

_WATCH_AGAIN_S = 1.0


class Pool:
    """One upstream with its live endpoints. Its policies follow the newest Snapshot; requests in flight keep going.

    endpoints: live ones in discovery's order; the same tuple object as long as nothing changed.
    """

    __slots__ = ("_known", "_registry", "_rng", "_waiters", "balancer", "budget", "endpoints", "upstream")

    def __init__(self, upstream: Upstream, registry: EndpointRegistry, rng: random.Random) -> None:
        self.upstream = upstream
        self._registry = registry
        self._rng = rng
        self.balancer = BALANCERS[upstream.balancing.algorithm](rng)
        self.budget = RetryBudget()
        self.endpoints: tuple[EndpointState, ...] = ()
        self._known: tuple[Endpoint, ...] = ()
        self._waiters: set[asyncio.Event] = set()

    def apply(self, upstream: Upstream, now: float) -> None:
        """Take over changed policies; endpoints, budget and breakers stay."""
        if upstream.balancing.algorithm != self.upstream.balancing.algorithm:
            self.balancer = BALANCERS[upstream.balancing.algorithm](self._rng)
        changed = upstream.breaker != self.upstream.breaker
        self.upstream = upstream
        if changed:
            self.endpoints = self._registry.update(upstream.id, self._known, upstream.breaker, now)

    def set(self, endpoints: Iterable[Endpoint], now: float) -> None:
        """Replace the live endpoints and wake whoever waits for one."""
        known = tuple(endpoints)
        if known == self._known and len(self.endpoints) == len(known):
            return
        self._known = known
        self.endpoints = self._registry.update(self.upstream.id, known, self.upstream.breaker, now)
        if self.endpoints:
            for waiter in self._waiters:
                waiter.set()

    async def wait(self, timeout_s: float) -> bool:
        """Return whether there is an endpoint, waiting at most this long for the first one."""
        if self.endpoints or timeout_s <= 0:
            return bool(self.endpoints)
        waiter = asyncio.Event()
        self._waiters.add(waiter)
        try:
            async with asyncio.timeout(timeout_s):
                await waiter.wait()
        except TimeoutError:
            return bool(self.endpoints)
        finally:
            self._waiters.discard(waiter)
        return True


class Pools:
    """The pools of the live Snapshot. A pool whose service stays the same survives a swap, with everything it learned."""

    def __init__(self, discovery: Discovery, registry: EndpointRegistry, rng: random.Random) -> None:
        self._discovery = discovery
        self._registry = registry
        self._rng = rng
        self._pools: dict[str, Pool] = {}
        self._watches: dict[str, asyncio.Task[None]] = {}

    def apply(self, upstreams: Sequence[Upstream], now: float) -> Mapping[str, Pool]:
        """Return the pools of these upstreams by id; watches of others stop, theirs start."""
        pools: dict[str, Pool] = {}
        for upstream in upstreams:
            pool = self._pools.get(upstream.id)
            if pool is None or pool.upstream.endpoints != upstream.endpoints:
                pool = self._open(upstream, pool, now)
            else:
                pool.apply(upstream, now)
            pools[upstream.id] = pool
        for gone in self._pools.keys() - pools.keys():
            self._stop_watch(gone)
        self._pools = pools
        self._registry.forget((state for pool in pools.values() for state in pool.endpoints), now)
        return pools

    def _open(self, upstream: Upstream, former: Pool | None, now: float) -> Pool:
        self._stop_watch(upstream.id)
        pool = Pool(upstream, self._registry, self._rng)
        if former is not None:
            pool.budget = former.budget
        match upstream.endpoints:
            case StaticAddresses(addresses=addresses):
                pool.set((Endpoint(host, port) for host, port in addresses), now)
            case Discovered() as source:
                task = asyncio.create_task(self._watch(pool, source), name=f"watch {source.service}")
                self._watches[upstream.id] = task
        return pool

    async def _watch(self, pool: Pool, source: Discovered) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                async for endpoints in self._discovery.watch(source.service, tag=source.tag):
                    pool.set(endpoints, loop.time())
                return
            except asyncio.CancelledError:
                raise
            except Exception:
                # The port says adapters hold their errors back; one that does not must not cost the upstream its endpoints.
                log.exception("watching %s failed; its last endpoints stay, trying again", source.service)
                await asyncio.sleep(_WATCH_AGAIN_S)

    def _stop_watch(self, upstream: str) -> None:
        task = self._watches.pop(upstream, None)
        if task is not None:
            task.cancel()

    def all(self) -> Mapping[str, Pool]:
        """Return the pools by upstream id."""
        return self._pools

    async def close(self) -> None:
        """Stop all watches."""
        tasks = list(self._watches.values())
        self._watches.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
