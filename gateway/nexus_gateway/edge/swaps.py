"""From one Snapshot to the next: built in full, then one reference moves, then the former one finishes what it began."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from nexus_core.snapshot import Ack, Published, Upstream
from nexus_core.snapshot.narrowing import of_gateway
from nexus_hosting.runtimes import runtime_digest

from nexus_gateway.edge import allocator
from nexus_gateway.edge.listeners.plans import Site
from nexus_gateway.edge.listeners.ports import Ports
from nexus_gateway.edge.measurements import Measurements
from nexus_gateway.edge.plugins.loading import Loader
from nexus_gateway.edge.plugins.overseeing import Overseer
from nexus_gateway.edge.plugins.slots import Slot
from nexus_gateway.edge.pools import Pool, Pools
from nexus_gateway.edge.proxy import Proxy
from nexus_gateway.edge.runtimes import Parts, Runtime, dismantle
from nexus_gateway.edge.slices import START_SLICE_S, run_in_slices
from nexus_gateway.edge.tasks import Tasks
from nexus_gateway.edge.tls.clients import ClientCertificates

log = logging.getLogger("nexus.gateway")

ENDPOINTS_S = 1.0
"""How long an acknowledgement waits for the endpoints of upstreams that are new: `Ready` is to mean that a request is served."""
PORTS_AGAIN_S = 1.0


@dataclass(frozen=True, slots=True)
class Means:
    """What a swap works with. gateway: the one Gateway that is served, empty for all. ack: tells the publisher. follow: told of the
    upstreams that are live now."""

    replica: str
    gateway: str
    proxy: Proxy
    ports: Ports
    clients: ClientCertificates
    pools: Pools
    loader: Loader
    overseer: Overseer
    parts: Parts
    measurements: Measurements
    tasks: Tasks
    ack: Callable[[Ack], Awaitable[None]]
    follow: Callable[[tuple[Upstream, ...]], None]


class Swaps:
    """Swaps, one at a time. calm: see `app.Gateway`."""

    def __init__(self, means: Means) -> None:
        self._means = means
        self._turn = asyncio.Lock()
        self._swapped = asyncio.Condition()
        self._acking: asyncio.Task[None] | None = None
        self._acked = False
        self.calm = False

    @property
    def runtime(self) -> Runtime:
        """What serves new requests."""
        return self._means.proxy.runtime

    async def live(self, generation: int) -> None:
        """Return once this generation, or a later one, serves."""
        async with self._swapped:
            await self._swapped.wait_for(lambda: self.runtime.published.generation >= generation)

    async def take(self, published: Published) -> None:
        """Serve this Snapshot from now on. One that cannot be run costs itself and is logged; the live one stays."""
        try:
            async with self._turn:
                await self._swap(published)
        except Exception:
            # A Snapshot that we cannot run must not cost the one that runs.
            self._means.measurements.swap_failures.inc()
            log.exception(
                "generation %d cannot be run; generation %d stays",
                published.generation,
                self.runtime.published.generation,
            )

    async def reopen(self) -> None:
        """Try ports again that could not be opened, for ever, and acknowledge anew when one could."""
        ports = self._means.ports
        while True:
            await ports.wanting.wait()
            await asyncio.sleep(PORTS_AGAIN_S)
            async with self._turn:
                if await ports.retry() and self._acked:
                    await self._ack()

    async def tell_of_plugins(self) -> None:
        """Acknowledge anew whenever plugins have come to be in another state, for ever."""
        changed = self._means.overseer.changed
        while True:
            await changed.wait()
            async with self._turn:
                changed.clear()
                if self._acked:
                    await self._ack()

    async def renew_plugins(self) -> None:
        """Take the live Snapshot again whenever plugins are to be started anew, for ever."""
        renewing = self._means.overseer.renewing
        while True:
            await renewing.wait()
            await self.take(self.runtime.published)
            renewing.clear()

    async def _swap(self, published: Published) -> None:
        means = self._means
        if means.gateway:
            published = Published(published.generation, published.digest, of_gateway(published.snapshot, means.gateway))
        former = self.runtime
        # The Snapshot may have a candidate take over that is given up while others are loading. What took over must not be stopped: it is
        # judged by its own budgets then.
        trials = [slot.trial for slot in former.slots.values() if slot.trial is not None and not slot.trial.is_over]
        candidates = [trial.candidate.running for trial in trials if trial.candidate.running is not None]
        for running in candidates:
            running.acquire()
        try:
            await self._replace(former, published)
        finally:
            for running in candidates:
                if running.leave():
                    means.tasks.own(running.end(), "stop a candidate")

    async def _replace(self, former: Runtime, published: Published) -> None:
        means = self._means
        clock = asyncio.get_running_loop().time
        snapshot = published.snapshot
        prepared = await means.ports.prepare(snapshot)
        try:
            client = await asyncio.to_thread(means.clients.build, snapshot)
            slots = await means.loader.slots(snapshot.plugins, former.slots)
            staged = means.pools.stage(snapshot.upstreams, clock())
            try:
                runtime = await self._build(published, staged.pools, slots, tuple(prepared.plan.sites.values()))
            except BaseException:
                means.pools.discard(staged)
                # Stops what was started for this Snapshot alone; what the live one uses has another user.
                for slot in slots.values():
                    if slot.running is not None:
                        slot.running.acquire()
                        await slot.running.release()
                    if slot.trial is not None:
                        slot.trial.hold()
                        await slot.trial.release()
                raise
        except BaseException:
            await means.ports.discard(prepared)
            raise
        runtime.hold_plugins()
        means.pools.commit(staged, clock())
        means.proxy.runtime = runtime
        means.overseer.live(slots)
        means.proxy.departures.swapped(former, runtime)
        means.ports.commit(prepared, snapshot)
        if means.clients.use(client):
            means.pools.reconnect()
        means.follow(snapshot.upstreams)
        await means.ports.settle()
        means.tasks.own(self._retire(former), "retire")
        means.measurements.swaps.inc()
        means.measurements.generation.set(published.generation)
        means.measurements.forget(
            {route.id for route in snapshot.routes}, {upstream.id for upstream in snapshot.upstreams}, set(slots)
        )
        log.info("generation %d is live: %d routes, %d upstreams, %d plugins", published.generation, len(snapshot.routes),
                 len(snapshot.upstreams), len(slots))  # fmt: skip
        async with self._swapped:
            self._swapped.notify_all()
        if self._acking is not None:
            self._acking.cancel()
            self._acking = None
        self._acked = False
        waiting = [staged.pools[name] for name in staged.fresh if not staged.pools[name].endpoints]
        if waiting:
            # Not in here: the next Snapshot must not wait for endpoints that this one's services do not have.
            self._acking = asyncio.create_task(self._ack_with_endpoints(waiting), name="ack")
        else:
            await self._ack()
        retry_in_s = means.loader.retry_in_s(clock())
        if retry_in_s is not None:
            means.tasks.own(self._retry_plugins(published, retry_in_s), "retry plugins")

    async def _ack_with_endpoints(self, pools: list[Pool]) -> None:
        found = asyncio.Event()
        left = len(pools)

        def wake() -> None:
            nonlocal left
            left -= 1
            if not left:
                found.set()

        for pool in pools:
            pool.wait(wake)
        try:
            async with asyncio.timeout(ENDPOINTS_S):
                await found.wait()
        except TimeoutError:
            pass
        finally:
            for pool in pools:
                pool.stop_waiting(wake)
        async with self._turn:
            await self._ack()

    async def _ack(self) -> None:
        means = self._means
        runtime = self.runtime
        self._acked = True
        await means.ack(
            Ack(
                means.replica,
                runtime.published.generation,
                runtime.published.digest,
                datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
                {plugin: slot.report for plugin, slot in sorted(runtime.slots.items())},
                means.gateway,
                means.ports.refused,
                runtime_digest(),
            )
        )

    async def _build(
        self, published: Published, pools: Mapping[str, Pool], slots: Mapping[str, Slot], sites: tuple[Site, ...]
    ) -> Runtime:
        """Compile the Snapshot, what changed of it, in slices between requests; the first one in one go, nearly."""
        live = self.runtime
        building = Runtime.in_slices(published, pools, slots, self._means.parts, live, sites)
        first = not live.published.generation
        undisturbed = self.calm and not first
        if undisturbed:
            # What is built must not keep the garbage of before alive with it; none is looked for meanwhile.
            gc.collect(1)
            gc.disable()
        try:
            runtime = await (run_in_slices(building, START_SLICE_S, 0.0) if first else run_in_slices(building))
            if self.calm:
                # It lives as long as it serves: no collection has to walk it. It holds no cycles, so that it is freed with its
                # last request all the same.
                gc.freeze()
        finally:
            if undisturbed:
                gc.enable()
        return runtime

    async def _retire(self, former: Runtime) -> None:
        try:
            await former.unused()
        finally:
            # Also when the gateway stops meanwhile: its requests are cut off by then, and plugins want to be told.
            await former.release_plugins()
        await run_in_slices(dismantle(former))
        if self.calm:
            # What the swap, or the start, took in passing. In a thread: the interpreter is free meanwhile.
            await asyncio.to_thread(allocator.trim)

    async def _retry_plugins(self, published: Published, after_s: float) -> None:
        await asyncio.sleep(after_s)
        if self.runtime.published.generation == published.generation:
            await self.take(published)

    async def close(self) -> None:
        """Acknowledge nothing more."""
        if self._acking is not None:
            self._acking.cancel()
            await asyncio.gather(self._acking, return_exceptions=True)
