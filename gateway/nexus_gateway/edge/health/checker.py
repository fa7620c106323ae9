"""Probes the endpoints of every upstream that asks for it, and tells the pools when one is in or out.

One task owns each upstream: it knows which endpoint is due, never runs more than `MAX_RUNNING` probes at once, and ends, with
all its probes, when the upstream goes or the checker is closed. What is decided is in `states`; how to ask, in `probes`.

With several workers one probes (`active`), so that endpoints see one gateway and not each of its processes; `publish` hands
verdicts to the others.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
import random
import ssl
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Protocol

from nexus_core.discovery import Endpoint
from nexus_core.snapshot import HealthCheck, Upstream, UpstreamTls

from nexus_gateway.edge.health import probes
from nexus_gateway.edge.health.probes import Outcome, Probe, Target
from nexus_gateway.edge.health.states import ProbeState, first_at, next_at
from nexus_gateway.edge.tls import origination

log = logging.getLogger("nexus.gateway.health")

MAX_RUNNING = 32
"""Probes of one upstream at once. More endpoints than can be asked in an interval are asked later, in turn."""
LOOK_S = 0.5
"""How soon a new endpoint is noticed."""


class Checked(Protocol):
    """What probes need of an endpoint; `resilience.endpoints.EndpointState` has it."""

    endpoint: Endpoint
    healthy: bool

    @property
    def authority(self) -> str: ...


class CheckedPool(Protocol):
    """The endpoints of one upstream; a new tuple whenever they change."""

    @property
    def endpoints(self) -> Sequence[Checked]: ...


class CheckedPools(Protocol):
    """The pools of the live Snapshot."""

    def all(self) -> Mapping[str, CheckedPool]:
        """Return the pools by upstream id."""
        ...

    def changed(self, upstream: str) -> None:
        """Called after `healthy` of one of the upstream's endpoints changed."""
        ...


Publish = Callable[[str, Checked, bool], None]
"""Called with upstream id, endpoint and verdict at each change, for the other workers."""


class Checker:
    """Owns the probing of one gateway process."""

    def __init__(
        self,
        pools: CheckedPools,
        *,
        active: bool = True,
        tls: Callable[[UpstreamTls], ssl.SSLContext],
        publish: Publish | None = None,
        rng: random.Random | None = None,
    ) -> None:
        """tls: the contexts that requests use. active: whether this process probes; see `lead`."""
        self._pools = pools
        self._active = active
        self._tls = tls
        self._publish = publish
        self._rng = rng or random.Random()
        self._upstreams: dict[str, Upstream] = {}
        self._watches: dict[str, _Watch] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._h2_contexts = origination.Originations()
        self._building = asyncio.Lock()

    def follow(self, upstreams: Iterable[Upstream]) -> None:
        """Probe these from now on; call after the pools are the new Snapshot's.

        An unchanged check goes on with its counts; a changed one begins anew, and the last verdicts hold until it has its own.
        """
        given = {upstream.id: upstream for upstream in upstreams}
        self._upstreams = {name: upstream for name, upstream in given.items() if upstream.health is not None}
        for gone in self._watches.keys() - self._upstreams.keys():
            self._stop(gone)
        for name in given.keys() - self._upstreams.keys():
            self._release(name)
        if self._active:
            for upstream in self._upstreams.values():
                watch = self._watches.get(upstream.id)
                if watch is None:
                    self._start(upstream)
                else:
                    watch.apply(upstream)

    def lead(self, active: bool = True) -> None:
        """Begin or stop to probe: another worker took over, or left its place to this one. Verdicts stay."""
        if active == self._active:
            return
        self._active = active
        if active:
            for upstream in self._upstreams.values():
                self._start(upstream)
        else:
            for name in list(self._watches):
                self._stop(name)

    def verdicts(self) -> Iterator[tuple[str, str, ProbeState]]:
        """Yield upstream id, authority and what is known of each probed endpoint, in that order."""
        for name in sorted(self._watches):
            yield from ((name, authority, state) for authority, state in self._watches[name].verdicts())

    async def close(self) -> None:
        """Stop all probes; return when none runs any more."""
        self._active = False
        for name in list(self._watches):
            self._stop(name)
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _start(self, upstream: Upstream) -> None:
        assert upstream.health is not None
        watch = _Watch(self, upstream, upstream.health)
        self._watches[upstream.id] = watch
        watch.task = task = asyncio.create_task(watch.run(), name=f"probe {upstream.id}")
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error(
                "%s ended by a fault of its own; its last verdicts hold", task.get_name(), exc_info=task.exception()
            )

    def _stop(self, name: str) -> None:
        task = self._watches.pop(name).task
        assert task is not None
        task.cancel()

    def _release(self, name: str) -> None:
        """No check, no verdict: what an old one said must not keep an endpoint out for ever."""
        pool = self._pools.all().get(name)
        for state in pool.endpoints if pool is not None else ():
            self.judge(name, state, True)

    # ---- for the watches

    def endpoints(self, name: str) -> Sequence[Checked]:
        """Return the upstream's endpoints as they are now."""
        pool = self._pools.all().get(name)
        return pool.endpoints if pool is not None else ()

    def judge(self, name: str, state: Checked, healthy: bool) -> None:
        """Put a verdict into effect."""
        if state.healthy is not healthy:
            state.healthy = healthy
            self._pools.changed(name)
            if self._publish is not None:
                self._publish(name, state, healthy)

    async def target(self, endpoint: Endpoint, upstream: Upstream, policy: HealthCheck) -> Target:
        """Return where a probe goes. Raises `origination.TlsInvalid`."""
        port = policy.port or endpoint.port
        tls = upstream.tls
        if tls is None:
            return Target(endpoint.address, port)
        name = origination.server_name(tls, policy.host, endpoint.address)
        if policy.kind != "grpc":
            return Target(endpoint.address, port, self._tls(tls), name)
        # Not the requests' contexts: those would then offer HTTP/2 to everyone.
        async with self._building:
            context = await asyncio.to_thread(self._h2_contexts.context, tls)
            context.set_alpn_protocols(["h2"])
        return Target(endpoint.address, port, context, name)

    @property
    def rng(self) -> random.Random:
        """Chance, for pauses."""
        return self._rng


class _Entry:
    """One endpoint. task: its probe that is on its way. gone: discovery no longer lists it."""

    __slots__ = ("gone", "probe", "state", "task")

    def __init__(self, state: Checked) -> None:
        self.state = state
        self.probe = ProbeState(state.healthy)
        self.task: asyncio.Task[None] | None = None
        self.gone = False

    def call_off(self) -> None:
        """Cancel the probe that is on its way: nobody wants its outcome any more."""
        if self.task is not None:
            self.task.cancel()
            self.task = None


class _Watch:
    """One upstream. Its task starts probes as they come due; everything else happens between two of its steps."""

    def __init__(self, checker: Checker, upstream: Upstream, policy: HealthCheck) -> None:
        self.task: asyncio.Task[None] | None = None
        self._checker = checker
        self._upstream = upstream
        self._policy = policy
        self._seen: Sequence[Checked] = ()
        self._entries: dict[str, _Entry] = {}
        self._due: list[tuple[float, int, _Entry]] = []
        self._count = 0
        self._running = 0
        self._wake = asyncio.Event()
        self._sleeps_until = 0.0

    def verdicts(self) -> list[tuple[str, ProbeState]]:
        """Return the states by authority."""
        return [(authority, self._entries[authority].probe) for authority in sorted(self._entries)]

    def apply(self, upstream: Upstream) -> None:
        """Take over a changed check."""
        policy = upstream.health
        assert policy is not None
        same = policy == self._policy and upstream.tls == self._upstream.tls
        self._upstream, self._policy = upstream, policy
        if same:
            return
        self._due.clear()
        now = asyncio.get_running_loop().time()
        for entry in self._entries.values():
            entry.probe.begin_anew()
            entry.call_off()
            self._push(first_at(now, policy, len(self._entries), self._checker.rng), entry)
        self._wake.set()

    async def run(self) -> None:
        """Probe until cancelled."""
        loop = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as group:
            while True:
                now = loop.time()
                self._look(now)
                while self._due and self._due[0][0] <= now and self._running < MAX_RUNNING:
                    entry = heapq.heappop(self._due)[2]
                    if not entry.gone:
                        self._running += 1
                        name = f"probe {entry.state.authority}"
                        entry.task = task = group.create_task(self._probe(entry, now), name=name)
                        task.add_done_callback(self._done)
                await self._sleep(now)

    async def _sleep(self, now: float) -> None:
        self._sleeps_until = until = now + LOOK_S
        if self._due and self._running < MAX_RUNNING:
            self._sleeps_until = until = min(until, self._due[0][0])
        self._wake.clear()
        try:
            async with asyncio.timeout_at(until):
                await self._wake.wait()
        except TimeoutError:
            pass

    def _push(self, at: float, entry: _Entry) -> None:
        self._count += 1
        heapq.heappush(self._due, (at, self._count, entry))
        if at < self._sleeps_until:
            self._wake.set()

    def _look(self, now: float) -> None:
        """Take over which endpoints there are."""
        seen = self._checker.endpoints(self._upstream.id)
        if seen is self._seen:
            return
        self._seen = seen
        known, self._entries = self._entries, {}
        fresh = []
        for state in seen:
            entry = known.pop(state.authority, None)
            if entry is None:
                entry = _Entry(state)
                fresh.append(entry)
            elif entry.state is not state:
                entry.state = state
                self._checker.judge(self._upstream.id, state, entry.probe.healthy)
            self._entries[state.authority] = entry
        for gone in known.values():
            gone.gone = True
            gone.call_off()
        for entry in fresh:
            self._push(first_at(now, self._policy, len(fresh), self._checker.rng), entry)

    async def _probe(self, entry: _Entry, began: float) -> None:
        policy = self._policy
        try:
            self._took(entry, await self._ask(entry, policy))
        except Exception:
            # A fault of ours says nothing about the endpoint, and must not end the other probes.
            log.exception("probing %s of %s failed", entry.state.authority, self._upstream.id)
        entry.task = None
        now = asyncio.get_running_loop().time()
        self._push(max(now, next_at(began, policy, self._checker.rng, known=entry.probe.known)), entry)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._running -= 1
        if self._running == MAX_RUNNING - 1:
            self._wake.set()

    async def _ask(self, entry: _Entry, policy: HealthCheck) -> Outcome:
        try:
            target = await self._checker.target(entry.state.endpoint, self._upstream, policy)
        except origination.TlsInvalid as invalid:
            return Outcome(False, str(invalid))
        return await _find_probe(policy.kind)(target, policy)

    def _took(self, entry: _Entry, outcome: Outcome) -> None:
        probe = entry.probe
        if probe.record(outcome.good, self._policy, outcome.detail):
            if probe.healthy:
                log.info("%s of %s is healthy again", entry.state.authority, self._upstream.id)
            else:
                log.warning("%s of %s is unhealthy: %s", entry.state.authority, self._upstream.id, outcome.detail)
        self._checker.judge(self._upstream.id, entry.state, probe.healthy)


def _find_probe(kind: str) -> Probe:
    if kind == "grpc":
        # Here and not above: most gateways probe no gRPC service, and h2 takes 1.3 MB.
        from nexus_gateway.edge.health.grpc_probes import grpc

        return grpc
    return probes.tcp if kind == "tcp" else probes.http
