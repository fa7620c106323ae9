"""A Snapshot made runnable: compiled in full before one reference moves to it; old requests finish on the old one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from nexus_core.match.router import Router, freed
from nexus_core.snapshot import (
    EMPTY,
    Fallback,
    Fault,
    Filter,
    Hedge,
    Mirror,
    Published,
    RateLimit,
    Retry,
    Route,
    Rule,
    SizeLimit,
    Timeouts,
    Upstream,
)
from nexus_wire.clock import ticks_of

from nexus_gateway.balance.split import Split
from nexus_gateway.edge.listeners.plans import Site
from nexus_gateway.edge.plugins.chains import Chain
from nexus_gateway.edge.plugins.slots import Slot
from nexus_gateway.edge.pools import Pool
from nexus_gateway.edge.sessions import Sessions
from nexus_gateway.edge.streams.plans import StreamPlans, build_stream_plans
from nexus_gateway.filters.compiled import CompiledRule, compile_rule
from nexus_gateway.filters.cors import CorsFilter
from nexus_gateway.filters.faults import FaultDraw
from nexus_gateway.filters.lanes import Lane
from nexus_gateway.filters.mirrors import MirrorDraw
from nexus_gateway.filters.place import HeadFilter
from nexus_gateway.resilience.rates import Limit
from nexus_gateway.telemetry.red import Red


@dataclass(slots=True)
class Backend:
    """One backend of a rule. pool: None for a reference that could not be resolved. retry, timeouts, hedge: in effect here.

    lane: what the rule's filters and its own do to heads as bytes; None where they need them as values. passes: responses go on as
    they come. plain: nothing about it is a matter of single requests. ticks: of the clock that a first attempt has; idle_ticks: that a
    response may be silent. red: counts of its route and upstream, from the first request on.
    """

    pool: Pool | None
    filters: tuple[HeadFilter, ...]
    lane: Lane | None
    passes: bool
    retry: Retry
    timeouts: Timeouts
    hedge: Hedge | None
    sessions: Sessions | None
    plain: bool
    ticks: int
    idle_ticks: int
    red: Red | None = None


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

    plain: it only routes; nothing looks at its requests before the backend. guarded: whether something looks at them before plugins do.
    only: the one backend of a rule that has just one.
    """

    plain: bool
    guarded: bool
    chain: Chain | None
    filters: tuple[HeadFilter, ...]
    lane: Lane | None
    cors: CorsFilter | None
    backends: tuple[Backend, ...]
    only: Backend | None
    split: Split
    limits: tuple[Limit, ...]
    size: SizeLimit | None
    fault: FaultDraw | None
    mirrors: tuple[MirrorPlan, ...]
    fallback: FallbackPlan | None

    @property
    def plugins(self) -> tuple[Slot, ...]:
        """Those of the rule, in their order."""
        return self.chain.slots if self.chain is not None else ()


@dataclass(frozen=True, slots=True)
class Parts:
    """What of the gateway outlives every runtime. limit: the counters of a rate limit, by its name."""

    limit: Callable[[RateLimit], Limit]
    fault: Callable[[Fault], FaultDraw]
    mirror: Callable[[Mirror], MirrorDraw]
    sessions: Callable[[Upstream], Sessions | None]


class _Shared:
    """What plans have in common while they are made. Equal parts of a decoded Snapshot are one object (`nexus_core.snapshot.sharing`),
    so they are told by identity: 5,000 rules with the same filters have one lane. Nothing of it has a state of its own."""

    def __init__(self, slots: Mapping[str, Slot]) -> None:
        self._slots = slots
        self._compiled: dict[int, CompiledRule] = {}
        self._chains: dict[tuple[str, ...], Chain] = {}
        self._splits: dict[tuple[int, ...], Split] = {}

    def compiled(self, filters: tuple[Filter, ...]) -> CompiledRule:
        found = self._compiled.get(id(filters))
        if found is None:
            found = self._compiled[id(filters)] = compile_rule(filters)
        return found

    def chain(self, names: tuple[str, ...]) -> Chain | None:
        found = self._chains.get(names)
        if found is None and names:
            found = self._chains[names] = Chain([self._slots[name] for name in names])
        return found

    def split(self, weights: Sequence[int]) -> Split:
        """Return the split over one backend, or none: whose turn it is has one answer."""
        key = tuple(weights)
        found = self._splits.get(key)
        if found is None:
            found = self._splits[key] = Split(key)
        return found

    def clear(self) -> None:
        """Forget all: plans hold what they need, and identities mean nothing once the Snapshot is gone."""
        self._compiled.clear()
        self._chains.clear()
        self._splits.clear()


class Routers(dict[str, Router[Plan]]):
    """Routers by the site that a connection came to. One that is no more finds nothing."""

    def __init__(self, nothing: Router[Plan]) -> None:
        super().__init__()
        self._nothing = nothing

    def __missing__(self, site: str) -> Router[Plan]:
        return self._nothing


class Runtime:
    """Everything requests of one generation need. Immutable but for the count of its users.

    router: of all listeners, as if they were on one port: for who explains; routers: for requests, by site (`listeners.plans`).
    streams: routes below HTTP. pools: by upstream id. users: exchanges that run on it. retired: whether another one is live.
    """

    router: Router[Plan]
    routers: Routers
    streams: StreamPlans

    def __init__(
        self,
        published: Published,
        pools: Mapping[str, Pool],
        slots: Mapping[str, Slot],
        parts: Parts | None = None,
        sites: Iterable[Site] = (),
    ) -> None:
        """parts: None only for a Snapshot without rules."""
        for _ in self._prepare(published, pools, slots, parts, None, sites):
            pass

    @classmethod
    def in_slices(
        cls,
        published: Published,
        pools: Mapping[str, Pool],
        slots: Mapping[str, Slot],
        parts: Parts,
        former: Runtime,
        sites: Iterable[Site] = (),
    ) -> Generator[None, None, Runtime]:
        """Build a runtime with pauses: a generator that yields at every few tens of microseconds and returns it.

        sites: where its requests may come. former: the live one. The plans of rules that are the same in both, with what they lead
        to, are taken from it; they go on where they are in their turns.
        """
        runtime = cls.__new__(cls)
        yield from runtime._prepare(published, pools, slots, parts, former, sites)
        return runtime

    def _prepare(
        self,
        published: Published,
        pools: Mapping[str, Pool],
        slots: Mapping[str, Slot],
        parts: Parts | None,
        former: Runtime | None,
        sites: Iterable[Site],
    ) -> Generator[None]:
        self.published = published
        self.slots = slots
        self.pools = pools
        self._parts = parts
        self._upstreams = {upstream.id: upstream for upstream in published.snapshot.upstreams}
        self.users = 0
        self.retired = False
        self.idle = asyncio.Event()
        self._shared = _Shared(slots)
        if former is None:
            self.router = Router(published.snapshot, self._plan)
            yield from self._place(sites)
            self.streams = build_stream_plans(published.snapshot.streams, pools)
            return
        changed = self._changed(former)
        self.router = yield from Router.in_slices(
            published.snapshot,
            self._plan,
            former.router,
            lambda entries: not changed or all(changed.isdisjoint(_needs(entry.rule)) for entry in entries),
        )
        yield from self._place(sites)
        self.streams = build_stream_plans(published.snapshot.streams, pools, former.streams)

    def _place(self, sites: Iterable[Site]) -> Generator[None]:
        self._shared.clear()
        self.routers = Routers(self.router.through(()))
        before: Site | None = None
        for site in sites:
            # Sites of one port come one after the other.
            beside = self.routers[before.key] if before is not None and before.listeners is site.listeners else None
            self.routers[site.key] = self.router.through(site.listeners, site.hostname, beside)
            before = site
            yield

    def _changed(self, former: Runtime) -> set[tuple[str, str]]:
        """Return what plans of the former runtime may have been made of and is another now: `upstream` or `plugin`, and its id."""
        found = {
            ("upstream", name)
            for name in self._upstreams.keys() | former._upstreams.keys()
            if self.pools.get(name) is not former.pools.get(name)
            or self._upstreams.get(name) != former._upstreams.get(name)
        }
        found |= {
            ("plugin", name)
            for name in self.slots.keys() | former.slots.keys()
            if self.slots.get(name) is not former.slots.get(name)
        }
        return found

    def _plan(self, route: Route, rule: Rule) -> Plan:
        parts = self._parts
        assert parts is not None
        shared = self._shared
        compiled = shared.compiled(rule.filters)
        backends = tuple(
            self._backend(rule, weighted.upstream, compiled, shared.compiled(weighted.filters))
            for weighted in rule.backends
        )
        weights = [weighted.weight for weighted in rule.backends]
        chain = shared.chain(rule.plugins)
        limits = tuple(parts.limit(limit) for limit in compiled.limits)
        fallback = compiled.fallback
        guarded = bool(compiled.cors or limits or compiled.size or compiled.fault)
        return Plan(
            plain=not (guarded or chain is not None or compiled.lane is None or compiled.mirrors),
            guarded=guarded,
            chain=chain,
            filters=compiled.head_filters,
            lane=compiled.lane,
            cors=compiled.cors,
            backends=backends,
            only=backends[0] if len(backends) == 1 and weights[0] else None,
            split=Split(weights) if len(weights) > 1 else shared.split(weights),
            limits=limits,
            size=compiled.size,
            fault=parts.fault(compiled.fault) if compiled.fault is not None else None,
            mirrors=tuple(
                MirrorPlan(self.pools.get(mirror.upstream), parts.mirror(mirror).next) for mirror in compiled.mirrors
            ),
            fallback=FallbackPlan(
                self._backend(rule, fallback.upstream, compiled, CompiledRule())
                if fallback.upstream in self.pools
                else None,
                fallback,
            )
            if fallback is not None
            else None,
        )

    def _backend(self, rule: Rule, upstream_id: str, of_rule: CompiledRule, own: CompiledRule) -> Backend:
        # Not the pool's upstream: it still has the former Snapshot's policies while this runtime is being built.
        upstream = self._upstreams.get(upstream_id)
        assert self._parts is not None
        pool = self.pools.get(upstream_id)
        hedge = rule.hedge or (upstream.hedge if upstream is not None else None)
        if pool is not None and hedge is not None:
            pool.watch_latency()
        # Only head filters mean something on a backend; translation refuses others there.
        lane = None
        if of_rule.lane is not None:
            lane = of_rule.lane if not own.head_filters else own.lane and of_rule.lane.then(own.lane)
        sessions = self._parts.sessions(upstream) if upstream is not None else None
        retry = rule.retry or (upstream.retry if upstream is not None else Retry())
        timeouts = rule.timeouts or (upstream.timeouts if upstream is not None else Timeouts())
        first_s = min((s for s in (timeouts.request_s, timeouts.try_s) if s), default=0.0)
        return Backend(
            pool,
            own.head_filters,
            lane,
            lane is not None and lane.response is None and of_rule.size is None,
            retry,
            timeouts,
            hedge,
            sessions,
            plain=hedge is None and sessions is None and not of_rule.mirrors,
            ticks=ticks_of(first_s),
            idle_ticks=ticks_of(timeouts.idle_s),
        )

    def refusal(self, router: Router[Plan], host: str) -> str:
        """Return why a host's request finds nothing. router: of the site where it came."""
        if not self.published.generation:
            return "NotConfigured"
        return "MisdirectedRequest" if router.is_misdirected(host) else "RouteNotFound"

    def hold_plugins(self) -> None:
        """Count this runtime as a user of its plugins; call before it goes live."""
        for slot in self.slots.values():
            if slot.running is not None:
                slot.running.acquire()
            if slot.trial is not None:
                slot.trial.hold()

    def left(self) -> None:
        """One user less."""
        self.users -= 1
        if self.retired and not self.users:
            self.idle.set()

    async def retire(self) -> None:
        """Wait for the last request, then let go of the plugins; call after the reference moved on."""
        await self.unused()
        await self.release_plugins()

    async def unused(self) -> None:
        """Wait for the last request; call after the reference moved on."""
        self.retired = True
        if self.users:
            await self.idle.wait()

    async def release_plugins(self) -> None:
        """Count this runtime as a user of its plugins no more. Once."""
        for slot in self.slots.values():
            if slot.running is not None:
                await slot.running.release()
            if slot.trial is not None:
                await slot.trial.release()


def _needs(rule: Rule) -> Iterator[tuple[str, str]]:
    """Yield what the plan of a rule is made of beside the rule itself; see `Runtime._changed`."""
    for backend in rule.backends:
        yield "upstream", backend.upstream
    for policy in rule.filters:
        if isinstance(policy, Mirror | Fallback):
            yield "upstream", policy.upstream
    for plugin in rule.plugins:
        yield "plugin", plugin


def dismantle(retired: Runtime) -> Generator[None]:
    """Free what a retired runtime does not share with a later one, in small steps; else its last reference frees all at once,
    which takes 10 ms and more with 5,000 rules. It has no routes afterwards, whoever still holds it."""
    routers = [retired.router, *retired.routers.values()]
    retired.router = Router(EMPTY, retired._plan)
    retired.routers = Routers(retired.router)
    return freed(routers)


def empty() -> Runtime:
    """Return the runtime before the first Snapshot: no routes."""
    return Runtime(Published(0, "", EMPTY), {}, {})
