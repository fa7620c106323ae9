"""Publishes what this replica's plugins do in Consul, under a key that the ack's session holds: it vanishes with the replica."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping

from nexus_core.snapshot import PluginStats
from nexus_core.snapshot.stats import encode_stats, stats_key
from nexus_sdk.consul.connection import Connection, ConsulAway, ConsulRefused

log = logging.getLogger("nexus.gateway.stats")

EVERY_S = 15.0


class StatsPublisher:
    """The publishing side of one replica."""

    def __init__(
        self,
        connection: Connection,
        prefix: str,
        replica: str,
        session: Callable[[], str | None],
        stats: Callable[[], Mapping[str, PluginStats]],
        every_s: float = EVERY_S,
    ) -> None:
        """session: of the ack, None while there is none. stats: by plugin; called on the event loop."""
        self._connection = connection
        self._key = stats_key(replica, prefix)
        self._session = session
        self._stats = stats
        self._every_s = every_s
        self._written: tuple[str, bytes] | None = None

    async def run(self) -> None:
        """Publish for ever."""
        while True:
            await asyncio.sleep(self._every_s)
            try:
                await self.publish()
            except (ConsulAway, ConsulRefused) as error:
                log.info("what plugins do is not published now: %s", error)
                self._written = None

    async def publish(self) -> None:
        """Write the stats where they are others than last time; without plugins there is no key. Raises ConsulAway, ConsulRefused."""
        session, stats = self._session(), self._stats()
        if not stats and self._written is not None:
            self._written = None
            await self._connection.call(self._connection.client.kv.delete(self._key), what="delete what plugins do")
        if session is None or not stats:
            return
        data = encode_stats(stats)
        if self._written == (session, data):
            return
        taken = await self._connection.call(
            self._connection.client.kv.put(self._key, data, acquire=session), what="write what plugins do"
        )
        # A former process with this replica's name may still hold it, for its session's TTL at most.
        self._written = (session, data) if taken else None
