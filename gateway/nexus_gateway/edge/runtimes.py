"""A Snapshot made runnable: compiled in full before one reference moves to it; old requests finish on the old one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from nexus_core.match.router import Router
from nexus_core.snapshot import (
    EMPTY,
    Fallback,
    Fault,
    Hedge,
    Mirror,
    Published,
    RateLimit,
    Retry,
    Route,
    Rule,
    SizeLimit,
    Snapshot,
    Timeouts,
    Upstream,
)

from nexus_gateway.balance.split import Split
from nexus_gateway.edge.plugins.slots import Slot
from nexus_gateway.edge.pools import Pool
from nexus_gateway.edge.sessions import Sessions
from nexus_gateway.filters.compiled import CompiledRule, compile_rule
from nexus_gateway.filters.faults import FaultDraw
from nexus_gateway.filters.mirrors import MirrorDraw
from nexus_gateway.filters.place import HeadFilter
from nexus_gateway.resilience.rates import Limit


@dataclass(frozen=True, slots=True)
class Backend:
    """One backend of a rule. pool: None for a reference that could not be resolved. retry, timeouts, hedge: in effect here."""

    pool: Pool | None
    filters: tuple[HeadFilter, ...]
    retry: Retry
    timeouts: Timeouts
    hedge: Hedge | None
    sessions: Sessions | None


@dataclass(frozen=True, slots=True)
class MirrorPlan:
    """Where copies go. draw: whether the next request is copied."""

    pool: Pool | None
    draw: Callable[[], bool]


@dataclass(frozen=True, slots=True)
class FallbackPlan:
    """What is tried when nothing else answered."""

    backend: Backend | None
    policy: Fallback


@dataclass(frozen=True, slots=True)
class Plan:
    """A rule as requests use it.

    plain: it only routes; nothing looks at its requests before the backend. only: the one backend of a rule that has just one.
    """

    plain: bool
    plugins: tuple[Slot, ...]
    filters: tuple[HeadFilter, ...]
    backends: tuple[Backend, ...]
    only: Backend | None
    split: Split
    limits: tuple[Limit, ...]
    size: SizeLimit | None
    fault: FaultDraw | None
    mirrors: tuple[MirrorPlan, ...]
    fallback: FallbackPlan | None


@dataclass(frozen=True, slots=True)
class Parts:
    """What of the gateway outlives every runtime. limit: the counters of a rate limit, by its name."""

    limit: Callable[[RateLimit], Limit]
    fault: Callable[[Fault], FaultDraw]
    mirror: Callable[[Mirror], MirrorDraw]
    sessions: Callable[[Upstream], Sessions | None]


class Runtime:
    """Everything requests of one generation need. Immutable but for the count of its users."""

    def __init__(
        self, published: Published, pools: Mapping[str, Pool], slots: Mapping[str, Slot], parts: Parts | None = None
    ) -> None:
        """parts: None only for a Snapshot without rules."""
        self.published = published
        self.slots = slots
        self._pools = pools
        self._parts = parts
        self._upstreams = {upstream.id: upstream for upstream in published.snapshot.upstreams}
        self._compiled: dict[int, CompiledRule] = {}
        self.users = 0
        self.retired = False
        self.idle = asyncio.Event()
        self.router: Router[Plan] = Router(published.snapshot, self._plan)

    def pools(self) -> Iterable[Pool]:
        """Return the pools this runtime sends requests to."""
        return self._pools.values()

    def _plan(self, route: Route, rule: Rule) -> Plan:
        parts = self._parts
        assert parts is not None
        compiled = compile_rule(rule.filters)
        backends = tuple(
            self._backend(rule, weighted.upstream, compile_rule(weighted.filters).head_filters)
            for weighted in rule.backends
        )
        weights = [weighted.weight for weighted in rule.backends]
        plugins = tuple(self.slots[plugin] for plugin in rule.plugins)
        limits = tuple(parts.limit(limit) for limit in compiled.limits)
        fallback = compiled.fallback
        return Plan(
            plain=not (plugins or compiled.head_filters or limits or compiled.size or compiled.fault),
            plugins=plugins,
            filters=compiled.head_filters,
            backends=backends,
            only=backends[0] if len(backends) == 1 and weights[0] else None,
            split=Split(weights),
            limits=limits,
            size=compiled.size,
            fault=parts.fault(compiled.fault) if compiled.fault is not None else None,
            mirrors=tuple(
                MirrorPlan(self._pools.get(mirror.upstream), parts.mirror(mirror).next) for mirror in compiled.mirrors
            ),
            fallback=FallbackPlan(
                self._backend(rule, fallback.upstream, ()) if fallback.upstream in self._pools else None, fallback
            )
            if fallback is not None
            else None,
        )

    def _backend(self, rule: Rule, upstream_id: str, filters: tuple[HeadFilter, ...]) -> Backend:
        # Not the pool's upstream: it still has the former Snapshot's policies while this runtime is being built.
        upstream = self._upstreams.get(upstream_id)
        assert self._parts is not None
        pool = self._pools.get(upstream_id)
        hedge = rule.hedge or (upstream.hedge if upstream is not None else None)
        if pool is not None and hedge is not None:
            pool.hedged = True
        return Backend(
            pool,
            filters,
            rule.retry or (upstream.retry if upstream is not None else Retry()),
            rule.timeouts or (upstream.timeouts if upstream is not None else Timeouts()),
            hedge,
            self._parts.sessions(upstream) if upstream is not None else None,
        )

    def hold_plugins(self) -> None:
        """Count this runtime as a user of its plugins; call before it goes live."""
        for slot in self.slots.values():
            if slot.running is not None:
                slot.running.acquire()

    async def retire(self) -> None:
        """Wait for the last request, then let go of the plugins; call after the reference moved on."""
        self.retired = True
        if self.users:
            await self.idle.wait()
        for slot in self.slots.values():
            if slot.running is not None:
                await slot.running.release()


def empty() -> Runtime:
    """Return the runtime before the first Snapshot: no routes."""
    return Runtime(Published(0, "", EMPTY), {}, {})


