"""Says in Consul what the plugins of one instance of a service do, under a key that a session of its own holds.

The session has a TTL, so that what a dead instance said vanishes with it. Nothing here takes the service down: while Consul is away, or
refuses, it is tried again. An instance without plugins has neither key nor session.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping

from nexus_core.snapshot import PluginReport
from nexus_core.snapshot.service_reports import encode_reports

from nexus_sdk import logs
from nexus_sdk.background import backoff_s
from nexus_sdk.consul.connection import Connection, ConsulAway, ConsulRefused

SESSION_TTL_S = 15
"""Consul lets a session live up to twice this after its last renewal; renewed three times within it."""
HELD_S = 1.0
"""Until the next try, where a former process of this instance's name still holds the key: for its session's TTL at most."""
CLOSE_S = 2.0


class Reporting:
    """Of one instance. `run` it as long as the service runs, then `close` it."""

    def __init__(
        self,
        connection: Connection,
        key: str,
        reports: Callable[[], Mapping[str, PluginReport]],
        changed: asyncio.Event,
        rng: random.Random | None = None,
    ) -> None:
        """connection: closed by `close`. reports: by plugin, called on the event loop. changed: set when they are others; cleared here."""
        self._connection = connection
        self._key = key
        self._reports = reports
        self._changed = changed
        self._rng = rng or random.Random()
        self._log = logs.make("plugin reports")
        self._session: str | None = None
        self._written: Mapping[str, PluginReport] = {}
        self._wanted: Mapping[str, PluginReport] = {}

    async def run(self) -> None:
        """Keep the key for ever."""
        failures = 0
        self._changed.set()
        while True:
            if self._changed.is_set():
                # Not at each renewal: a time in a message may come out a second later, and would be news to all who watch.
                self._changed.clear()
                self._wanted = dict(self._reports())
            try:
                await self._keep()
                if failures:
                    self._log.info("what plugins do is told again", tries=failures)
                failures = 0
                wait_s = SESSION_TTL_S / 3 if self._written == self._wanted else HELD_S
            except (ConsulAway, ConsulRefused) as error:
                if not failures:
                    self._log.warning("what plugins do cannot be told to Consul now", key=self._key, detail=str(error))
                if isinstance(error, ConsulRefused):
                    self._forget()  # its TTL ran out while we were cut off, or Consul lost its data
                failures += 1
                wait_s = backoff_s(failures, self._rng, cap_s=SESSION_TTL_S)
            await self._pause(wait_s, wakes=not failures)

    async def _pause(self, wait_s: float, *, wakes: bool) -> None:
        """Wait. wakes: whether news end it; they must not, where each try fails."""
        if not wakes:
            await asyncio.sleep(wait_s)
            return
        try:
            async with asyncio.timeout(wait_s):
                await self._changed.wait()
        except TimeoutError:
            return

    async def _keep(self) -> None:
        """Bring session and key up to date. Raises ConsulAway, ConsulRefused."""
        client = self._connection.client
        if not self._wanted:
            await self._withdraw()
            return
        if self._session is None:
            self._session = await self._connection.call(
                client.session.create(name=f"nexus {self._key}", ttl=SESSION_TTL_S, behavior="delete", lock_delay=0),
                what="create the session",
            )
        else:
            await self._connection.call(client.session.renew(self._session), what="renew the session")
        if self._written == self._wanted:
            return
        writing = client.kv.put(self._key, encode_reports(self._wanted), acquire=self._session)
        if await self._connection.call(writing, what="tell what plugins do"):
            self._written = self._wanted

    async def _withdraw(self) -> None:
        """End the session, and with it the key. Raises ConsulAway, ConsulRefused."""
        if self._session is not None:
            await self._connection.call(
                self._connection.client.session.destroy(self._session), CLOSE_S, "end the session"
            )
        self._forget()

    def _forget(self) -> None:
        self._session, self._written = None, {}

    async def close(self) -> None:
        """Take back what was said, bounded; never raises for a Consul that is away."""
        try:
            await self._withdraw()
        except (ConsulAway, ConsulRefused) as error:
            self._log.info("what plugins do is told until the session's TTL ends", detail=str(error))
        await self._connection.close()
