"""Discovery through Consul's health API: one blocking query per (service, tag), shared by all who watch it.

While Consul is away watches yield nothing, so the last endpoints hold; see `nexus_sdk.consul.blocking` for what is
believed afterwards.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncGenerator, Mapping

from nexus_core.discovery import Endpoint, ServiceEntry

from nexus_sdk import logs
from nexus_sdk.background import backoff_s
from nexus_sdk.consul.blocking import HOLD_S, Cursor, parse_instances, parse_names
from nexus_sdk.consul.connection import Answer, Connection, ConsulAway
from nexus_sdk.discovery.latest import Latest

Endpoints = tuple[Endpoint, ...]

LONGEST_BACKOFF_S = 5.0
SHORTEST_CYCLE_S = 0.05
"""Least time between two queries of one watch: a service that changes all the time must not make a busy loop."""
PARALLEL_READS = 8


class _Feed:
    """One query that runs as long as somebody watches."""

    def __init__(self) -> None:
        self.latest: Latest[Endpoints] = Latest()
        self.watchers = 0
        self.task: asyncio.Task[None] | None = None


class ConsulDiscovery:
    """The `Discovery` port over one Consul agent.

    Reads are `stale`: any server answers, also without a leader. Not so where an answer could wrongly take away what is known.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        installation: str = "",
        hold_s: float = HOLD_S,
        rng: random.Random | None = None,
    ) -> None:
        """url: `http(s)://host:port`. hold_s: how long an empty answer is not believed after Consul was away or reset.

        installation: whose instances are found, beside those that no operator registered; empty: everybody's.
        """
        self._connection = Connection(url, token)
        self._installation = installation
        self._hold_s = hold_s
        self._rng = rng or random.Random()
        self._log = logs.make("discovery")
        self._feeds: dict[tuple[str, str], _Feed] = {}
        self._ending: set[asyncio.Task[None]] = set()
        self._closed = False

    async def watch(self, service: str, *, tag: str = "") -> AsyncGenerator[Endpoints, None]:
        if self._closed:
            return
        key = (service, tag)
        feed = self._feeds.get(key)
        if feed is None:
            feed = self._feeds[key] = _Feed()
            feed.task = asyncio.create_task(self._follow(feed, service, tag), name=f"nexus-consul-watch-{service}")
        feed.watchers += 1
        try:
            async with contextlib.aclosing(feed.latest.watch()) as changes:
                async for endpoints in changes:
                    yield endpoints
        finally:
            feed.watchers -= 1
            if not feed.watchers and feed.task is not None:
                feed.task.cancel()
                self._ending.add(feed.task)
                feed.task.add_done_callback(self._ending.discard)
                if self._feeds.get(key) is feed:
                    del self._feeds[key]

    async def _follow(self, feed: _Feed, service: str, tag: str) -> None:
        loop, cursor, failures = asyncio.get_running_loop(), Cursor(self._hold_s), 0
        while True:
            started = loop.time()
            try:
                answer = await self._read_health(
                    service, tag, cursor.index, cursor.wait_s(started), of_leader=cursor.asks_leader
                )
                endpoints, _ = self._understand(answer, service)
                shown = cursor.note_answer(answer.index, answer.known_leader, endpoints, loop.time())
                if shown is not None:
                    feed.latest.set(shown)
                if failures:
                    self._log.info("Consul is back", service=service, tries=failures)
                failures = 0
            except ConnectionError as error:
                if not failures:
                    self._log.warning("discovery waits for Consul; what was known holds", detail=str(error))
                failures += 1
                cursor.note_away()
                await asyncio.sleep(backoff_s(failures, self._rng, cap_s=LONGEST_BACKOFF_S))
            except Exception:
                # A bug must not end the watch: the endpoints would stay as they are for ever.
                self._log.exception("discovery failed", service=service)
                failures += 1
                cursor.note_away()
                await asyncio.sleep(backoff_s(failures, self._rng, cap_s=LONGEST_BACKOFF_S))
            else:
                left_s = SHORTEST_CYCLE_S - (loop.time() - started)
                if left_s > 0 or cursor.index == 0:
                    await asyncio.sleep(max(left_s, 0.01))

    async def _read_health(
        self, service: str, tag: str, index: int, wait_s: float, *, of_leader: bool = False
    ) -> Answer:
        # Not `passing`: what is in maintenance mode drains, and must not vanish at once.
        params = {"consistent" if of_leader else "stale": ""}
        if tag:
            params["tag"] = tag
        within_s = 5.0
        if index:
            # Spread, so that the watches of a fleet that started together do not return together.
            wait_s *= 0.9 + 0.1 * self._rng.random()
            params |= {"index": str(index), "wait": f"{max(1, round(wait_s * 1000))}ms"}
            within_s = wait_s * 17 / 16 + 5.0  # Consul adds up to a sixteenth
        return await self._connection.read(f"/v1/health/service/{service}", params, within_s)

    async def resolve(self, service: str, *, tag: str = "") -> Endpoints:
        return self._understand(await self._read_health(service, tag, 0, 0), service)[0]

    async def services(self) -> Mapping[str, ServiceEntry]:
        answer = await self._connection.read("/v1/catalog/services", {"stale": ""})
        try:
            names = parse_names(answer.document)
        except ValueError as error:
            raise ConsulAway(f"Consul at {self._connection.url}: /v1/catalog/services: {error}") from error
        parallel = asyncio.Semaphore(PARALLEL_READS)

        async def read(name: str) -> ServiceEntry:
            async with parallel:
                # Also those that are not passing: a service keeps its meta while none of its instances is up.
                health = await self._connection.read(f"/v1/health/service/{name}", {"stale": ""})
            endpoints, meta = self._understand(health, name)
            return ServiceEntry(name, endpoints, meta)

        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(read(name)) for name in names]
        except* ConnectionError as errors:
            raise errors.exceptions[0] from None
        return {task.result().name: task.result() for task in tasks}

    def _understand(self, answer: Answer, service: str) -> tuple[Endpoints, Mapping[str, str]]:
        try:
            return parse_instances(answer.document, self._installation)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ConsulAway(f"Consul's health of {service!r} cannot be understood: {error}") from error

    async def close(self) -> None:
        self._closed = True
        feeds = list(self._feeds.values())
        self._feeds.clear()
        tasks = {*self._ending, *(feed.task for feed in feeds if feed.task is not None)}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        for feed in feeds:
            feed.latest.close()
        await self._connection.close()
