"""The contract of Snapshot sources, and the one source that needs nothing: a Snapshot made in code."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Protocol, runtime_checkable

from nexus_core.problems import Problem
from nexus_core.snapshot import Ack, PluginStats, Published, Snapshot
from nexus_core.snapshot.samples import Sample


class SnapshotSource(Protocol):
    """Hands Snapshots to one gateway and takes its acknowledgements."""

    @property
    def problems(self) -> tuple[Problem, ...]:
        """What is wrong with the manifests now; empty where someone else (the operator) tells the user."""
        ...

    def watch(self) -> AsyncIterator[Published]:
        """Yield the Snapshot as soon as there is one, then each new one. Never ends by itself, never raises for a bad
        or unreachable source: the last good one holds."""
        ...

    async def ack(self, ack: Ack) -> None:
        """Tell the publisher what this replica runs. Never raises for an unreachable publisher: it is told later."""
        ...

    async def close(self) -> None:
        """Release everything; the watch ends."""
        ...


@runtime_checkable
class TakesSamples(Protocol):
    """A source whose publisher may ask for a sample of requests."""

    async def publish_samples(self, samples: Callable[[], Sequence[Sample]]) -> None:
        """Publish it whenever somebody asks; never returns. samples: what is kept now; called in a thread."""
        ...


@runtime_checkable
class TakesStats(Protocol):
    """A source whose publisher shows what plugins do."""

    async def publish_stats(self, stats: Callable[[], Mapping[str, PluginStats]]) -> None:
        """Publish it every few seconds; never returns. stats: by plugin; called on the event loop."""
        ...


class StaticSource:
    """Snapshots given by the program: for embedding and tests. `publish` hands out the next one."""

    def __init__(self, snapshot: Snapshot | None = None) -> None:
        self._latest: Published | None = None
        self._changed = asyncio.Condition()
        self._closed = False
        self.acks: list[Ack] = []
        if snapshot is not None:
            self._latest = Published(1, "static-1", snapshot)

    @property
    def problems(self) -> tuple[Problem, ...]:
        """None: there are no manifests."""
        return ()

    async def publish(self, snapshot: Snapshot) -> int:
        """Hand out a Snapshot and return its generation."""
        async with self._changed:
            generation = (self._latest.generation if self._latest is not None else 0) + 1
            self._latest = Published(generation, f"static-{generation}", snapshot)
            self._changed.notify_all()
        return generation

    async def watch(self) -> AsyncIterator[Published]:
        """Yield the latest Snapshot and each new one; in-between ones may be skipped."""
        seen = 0
        while True:
            async with self._changed:
                while not (self._closed or self._newer(seen)):
                    await self._changed.wait()
                if self._closed or self._latest is None:
                    return
                latest = self._latest
            seen = latest.generation
            yield latest

    def _newer(self, seen: int) -> bool:
        return self._latest is not None and self._latest.generation > seen

    async def acked(self, generation: int) -> Ack:
        """Return the first acknowledgement of this generation or a later one."""
        async with self._changed:
            await self._changed.wait_for(lambda: any(ack.generation >= generation for ack in self.acks))
        return next(ack for ack in self.acks if ack.generation >= generation)

    async def ack(self, ack: Ack) -> None:
        """Keep it in `acks`."""
        async with self._changed:
            self.acks.append(ack)
            self._changed.notify_all()

    async def close(self) -> None:
        """End the watch."""
        async with self._changed:
            self._closed = True
            self._changed.notify_all()
