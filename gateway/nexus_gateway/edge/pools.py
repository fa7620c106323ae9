"""The live endpoints of each upstream: one watch a discovered service, static addresses, and what waits for the first one.

A `Pool` joins what the pure rooms keep of one upstream: its endpoints' states, its balancer, budgets, limits and breaker.
Which endpoints take requests (`live`) is worked out when something changes or a time comes, never for each request.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from nexus_core.discovery import Discovery, Endpoint
from nexus_core.snapshot import Discovered, StaticAddresses, Upstream

from nexus_gateway.balance import latency
from nexus_gateway.balance.availability import available
from nexus_gateway.balance.keys import build_key
from nexus_gateway.balance.table import BALANCERS
from nexus_gateway.edge.measurements import Tally
from nexus_gateway.resilience.budgets import HedgeBudget, RetryBudget
from nexus_gateway.resilience.bulkheads import Bulkheads
from nexus_gateway.resilience.concurrency import Limiter
from nexus_gateway.resilience.endpoints import EndpointRegistry, EndpointState
from nexus_gateway.resilience.latencies import Latencies
from nexus_gateway.resilience.outliers import Outliers

log = logging.getLogger("nexus.gateway.pools")

_WATCH_AGAIN_S = 1.0


class Pool:
    """One upstream with its endpoints. Its policies follow the newest Snapshot; requests in flight keep going.

    endpoints: all that discovery lists, in its order. live: those that take requests now; the same tuple object as long as nothing
    changed. look_again_at: monotonic seconds at which `live` may change by itself. hedged: some rule's requests to it are hedged,
    so that response times have to be known. plain: none of its policies looks at single requests while all is well; neither does
    TLS, whose connections otherwise serve one host each.
    """

    __slots__ = (
        "_bulkheads", "_known", "_on_gone", "_registry", "_rng", "_shares", "_waiters", "_zone", "answered", "balancer", "budget",
        "endpoints", "hedge_budget", "hedged", "key", "latencies", "limiter", "live", "look_again_at", "observe", "outliers",
        "pick", "plain", "service_breaker", "upstream",
    )  # fmt: skip

    def __init__(
        self,
        upstream: Upstream,
        registry: EndpointRegistry,
        rng: random.Random,
        zone: str,
        on_gone: Callable[[EndpointState], None],
        answered: Tally,
        bulkheads: Bulkheads,
    ) -> None:
        """zone: the gateway's own. on_gone: told of each endpoint that takes no more requests; its idle connections are closed.
        answered: counts attempts that were."""
        self._registry = registry
        self._bulkheads = bulkheads
        self._rng = rng
        self._zone = zone
        self._on_gone = on_gone
        self.answered = answered
        self._known: tuple[Endpoint, ...] = ()
        self._waiters: list[Callable[[], None]] = []
        self.endpoints: tuple[EndpointState, ...] = ()
        self.live: tuple[EndpointState, ...] = ()
        self._shares: list[float] = []
        self.look_again_at = math.inf
        self.budget = RetryBudget()
        self.hedge_budget = HedgeBudget(self.budget)
        self.latencies = Latencies()
        self.hedged = False
        self.upstream = upstream
        self.limiter: Limiter | None = None
        self._equip(None, 0.0)

    def _equip(self, before: Upstream | None, now: float) -> None:
        """Make the parts that follow from the upstream's policies; what is unchanged keeps what it has learned."""
        new = self.upstream
        if before is None or before.balancing != new.balancing:
            self.balancer = BALANCERS[new.balancing.algorithm](self._rng)
            self.pick = self.balancer.pick
            self.observe = latency.observe if new.balancing.algorithm == "peak-ewma" else None
            self.key = build_key(new.balancing.hash_on) if new.balancing.hash_on else None
        if before is None or before.concurrency != new.concurrency:
            limits = new.concurrency
            if not limits.max_requests and not limits.adaptive:
                if self.limiter is not None:
                    self.limiter.apply(limits, now)  # lets those in who wait
                self.limiter = None
            elif before is not None and self.limiter is not None:
                self.limiter.apply(limits, now)
            else:
                self.limiter = self._bulkheads.limiter(new.id, limits, now)
        if before is None or before.service_breaker != new.service_breaker:
            self.service_breaker = (
                self._registry.service_breaker(new.id, new.service_breaker, now)
                if new.service_breaker is not None
                else None
            )
        if before is None or before.outlier != new.outlier:
            self.outliers = Outliers(new.outlier) if new.outlier is not None else None
        self.plain = (
            self.service_breaker is None
            and self.key is None
            and self.observe is None
            and not self.hedged
            and (new.tls is None or bool(new.tls.server_name))
        )

    def watch_latency(self) -> None:
        """Keep response times from now on: some rule's requests are hedged."""
        self.hedged = True
        self.plain = False

    def apply(self, upstream: Upstream, now: float) -> None:
        """Take over changed policies; endpoints, budgets and breakers stay."""
        before, self.upstream = self.upstream, upstream
        if before == upstream:
            return
        self._equip(before, now)
        if before.tls != upstream.tls or before.protocol != upstream.protocol:
            for state in self.endpoints:
                self._on_gone(state)
        if before.breaker != upstream.breaker:
            self.endpoints = self._registry.update(upstream.id, self._known, upstream.breaker, now)
        self.refresh(now)

    def set(self, endpoints: Iterable[Endpoint], now: float) -> None:
        """Replace the known endpoints and wake whoever waits for one."""
        known = tuple(endpoints)
        if known == self._known and len(self.endpoints) == len(known):
            return
        before = self.endpoints
        self._known = known
        self.endpoints = self._registry.update(self.upstream.id, known, self.upstream.breaker, now)
        serving = {state for state in self.endpoints if not state.draining}
        for state in before:
            if state not in serving:
                # It is about to stop: a request sent on a connection that it closes at that moment would be lost.
                self._on_gone(state)
        for state in self.endpoints:
            if state.draining:
                self._on_gone(state)
        self.refresh(now)

    def refresh(self, now: float) -> None:
        """Work out anew which endpoints take requests."""
        live, self.look_again_at = available(self.endpoints, self.upstream.balancing, self._zone, now)
        shares = [state.share for state in live]
        if live != self.live or shares != self._shares:
            self.live, self._shares = live, shares
            if live:
                # Tables of hashing balancers are built here and not within a request.
                self.balancer.prepare(live)
        if live and self._waiters:
            waiters, self._waiters = self._waiters, []
            for wake in waiters:
                wake()

    def dirty(self) -> None:
        """Have `live` worked out anew by the next request: an endpoint's state changed."""
        self.look_again_at = 0.0

    def wait(self, wake: Callable[[], None]) -> None:
        """Call `wake` once there is a live endpoint."""
        self._waiters.append(wake)

    def stop_waiting(self, wake: Callable[[], None]) -> None:
        """Forget a waiter."""
        if wake in self._waiters:
            self._waiters.remove(wake)


@dataclass(frozen=True, slots=True)
class Staged:
    """Pools of a Snapshot that is being built. fresh: the new ones, with their watches (None for static addresses)."""

    upstreams: tuple[Upstream, ...]
    pools: Mapping[str, Pool]
    fresh: Mapping[str, asyncio.Task[None] | None]


class Pools:
    """The pools of the live Snapshot. A pool whose service stays the same survives a swap, with everything it learned."""

    def __init__(
        self,
        discovery: Discovery,
        registry: EndpointRegistry,
        rng: random.Random,
        zone: str = "",
        on_gone: Callable[[EndpointState], None] = lambda state: None,
        answered: Callable[[str], Tally] = lambda upstream: Tally(),
        bulkheads: Bulkheads | None = None,
    ) -> None:
        """answered: returns the counter of an upstream's answered attempts. bulkheads: None for a gateway of one process."""
        self._bulkheads = bulkheads or Bulkheads(registry.cells, 0.0)
        self._discovery = discovery
        self._registry = registry
        self._rng = rng
        self._zone = zone
        self.on_gone = on_gone
        self._answered = answered
        self._pools: dict[str, Pool] = {}
        self._watches: dict[str, asyncio.Task[None]] = {}

    def stage(self, upstreams: Sequence[Upstream], now: float) -> Staged:
        """Return the pools for these upstreams; the live ones go on unchanged until `commit`, or `discard` undoes it."""
        pools: dict[str, Pool] = {}
        fresh: dict[str, asyncio.Task[None] | None] = {}
        for upstream in upstreams:
            pool = self._pools.get(upstream.id)
            if pool is None or pool.upstream.endpoints != upstream.endpoints:
                pool = Pool(
                    upstream,
                    self._registry,
                    self._rng,
                    self._zone,
                    self._gone,
                    self._answered(upstream.id),
                    self._bulkheads,
                )
                fresh[upstream.id] = self._feed(pool, now)
            pools[upstream.id] = pool
        return Staged(tuple(upstreams), pools, fresh)

    def _gone(self, state: EndpointState) -> None:
        self.on_gone(state)

    def commit(self, staged: Staged, now: float) -> None:
        """Make the staged pools the live ones: their policies hold, watches of others stop."""
        for upstream in staged.upstreams:
            if upstream.id not in staged.fresh:
                staged.pools[upstream.id].apply(upstream, now)
        for gone in self._pools.keys() - staged.pools.keys() | staged.fresh.keys():
            self._stop_watch(gone)
        for upstream_id, pool in self._pools.items():
            if staged.pools.get(upstream_id) is not pool:
                still = set(staged.pools[upstream_id].endpoints) if upstream_id in staged.pools else set()
                for state in pool.endpoints:
                    if state not in still:
                        self._gone(state)
        self._watches.update({upstream: task for upstream, task in staged.fresh.items() if task is not None})
        self._pools = dict(staged.pools)

    def reconnect(self) -> None:
        """Keep no connection over TLS: what this gateway shows to upstreams is another certificate now."""
        for pool in self._pools.values():
            if pool.upstream.tls is not None:
                for state in pool.endpoints:
                    self._gone(state)

    def forget(self, now: float) -> None:
        """Let go of the state of endpoints that are long gone; called now and then."""
        self._registry.forget((state for pool in self._pools.values() for state in pool.endpoints), now)

    def changed(self, upstream: str) -> None:
        """Take note that an endpoint of the upstream changed its state: circuit, ejection or health."""
        pool = self._pools.get(upstream)
        if pool is not None:
            pool.dirty()

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
