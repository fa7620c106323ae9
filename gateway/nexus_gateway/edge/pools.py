"""The live endpoints of each upstream: one watch a discovered service, static addresses, and what waits for the first one."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

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


@dataclass(frozen=True, slots=True)
class Staged:
    """Pools of a Snapshot that is being built. fresh: the new ones, with their watches (None for static addresses)."""

    upstreams: tuple[Upstream, ...]
    pools: Mapping[str, Pool]
    fresh: Mapping[str, asyncio.Task[None] | None]


class Pools:
    """The pools of the live Snapshot. A pool whose service stays the same survives a swap, with everything it learned."""

    def __init__(self, discovery: Discovery, registry: EndpointRegistry, rng: random.Random) -> None:
        self._discovery = discovery
        self._registry = registry
        self._rng = rng
        self._pools: dict[str, Pool] = {}
        self._watches: dict[str, asyncio.Task[None]] = {}

    def stage(self, upstreams: Sequence[Upstream], now: float) -> Staged:
        """Return the pools for these upstreams; the live ones go on unchanged until `commit`, or `discard` undoes it."""
        pools: dict[str, Pool] = {}
        fresh: dict[str, asyncio.Task[None] | None] = {}
        for upstream in upstreams:
            pool = self._pools.get(upstream.id)
            if pool is None or pool.upstream.endpoints != upstream.endpoints:
                pool = Pool(upstream, self._registry, self._rng)
                fresh[upstream.id] = self._feed(pool, now)
            pools[upstream.id] = pool
        return Staged(tuple(upstreams), pools, fresh)

    def commit(self, staged: Staged, now: float) -> None:
        """Make the staged pools the live ones: their policies hold, watches of others stop."""
        for upstream in staged.upstreams:
            if upstream.id not in staged.fresh:
                staged.pools[upstream.id].apply(upstream, now)
        for gone in self._pools.keys() - staged.pools.keys() | staged.fresh.keys():
            self._stop_watch(gone)
        self._watches.update({upstream: task for upstream, task in staged.fresh.items() if task is not None})
        self._pools = dict(staged.pools)

    def forget(self, now: float) -> None:
        """Let go of the state of endpoints that are long gone; called now and then."""
        self._registry.forget((state for pool in self._pools.values() for state in pool.endpoints), now)

    def discard(self, staged: Staged) -> None:
        """Let go of pools that will not be used."""
        for task in staged.fresh.values():
            if task is not None:
                task.cancel()

    def _feed(self, pool: Pool, now: float) -> asyncio.Task[None] | None:
        match pool.upstream.endpoints:
            case StaticAddresses(addresses=addresses):
                pool.set((Endpoint(host, port) for host, port in addresses), now)
                return None
            case Discovered() as source:
                return asyncio.create_task(self._watch(pool, source), name=f"watch {source.service}")

    async def _watch(self, pool: Pool, source: Discovered) -> None:
        loop = asyncio.get_running_loop()
        while True:
            watch = self._discovery.watch(source.service, tag=source.tag)
            try:
                async for endpoints in watch:
                    pool.set(endpoints, loop.time())
                return
            except Exception:
                # The port says adapters hold their errors back; one that does not must not cost the upstream its endpoints.
                log.exception("watching %s failed; its last endpoints stay, trying again", source.service)
                await asyncio.sleep(_WATCH_AGAIN_S)
            finally:
                # Not left to the garbage collector: the adapter's query behind it ends with the watch.
                close = getattr(watch, "aclose", None)
                if close is not None:
                    await close()

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
