"""Publishes the gateway's sample of requests in Consul while somebody asks for it.

Who asks writes a key; one blocking query waits for it, and is all that this costs while nobody does. The sample lies under
a key of its own that the ack's session holds, so that it vanishes with the replica, and goes as soon as nobody asks.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any

from nexus_core.snapshot.samples import Sample, encode_samples, samples_key, wanted_key
from nexus_sdk.consul.connection import Connection, ConsulAway, ConsulRefused

log = logging.getLogger("nexus.gateway.samples")

EVERY_S = 30.0
"""Least time between two publications."""
WAIT_S = 30
"""Longest blocking query."""
_AGAIN_S = 2.0


class SamplePublisher:
    """The publishing side of one replica."""

    def __init__(
        self,
        connection: Connection,
        prefix: str,
        replica: str,
        session: Callable[[], str | None],
        samples: Callable[[], Sequence[Sample]],
    ) -> None:
        """session: of the ack, None while there is none. samples: what is kept now; called in a thread."""
        self._connection = connection
        self._wanted = wanted_key(prefix)
        self._key = samples_key(replica, prefix)
        self._session = session
        self._samples = samples
        self._written: tuple[str, bytes] | None = None
        self._written_at = 0.0

    async def run(self) -> None:
        """Follow for ever."""
        index = 0
        while True:
            try:
                wanted, index = await self._read_wanted(index)
                done = await self._publish() if wanted else await self._withdraw()
            except (ConsulAway, ConsulRefused) as error:
                log.info("the sample of requests is not published now: %s", error)
                done, self._written = False, None
            if not done:
                index = 0  # ask at once next time
                await asyncio.sleep(_AGAIN_S)

    async def _read_wanted(self, index: int) -> tuple[bool, int]:
        """Return whether the key is there, and the index to wait at; waits for a change after `index`, 0 answers at once."""
        found: tuple[Any, Any] = await self._connection.call(
            self._connection.client.kv.get(
                self._wanted, index=index or None, wait=f"{WAIT_S}s", connections_timeout=WAIT_S + 10
            ),
            WAIT_S + 11,
            "read whether samples are wanted",
        )
        try:
            new = int(found[0] or 0)
        except ValueError as error:
            raise ConsulAway(f"Consul at {self._connection.url}: its index is no number") from error
        # Consul's rules for blocking queries: an index that went back starts again from 0; never wait at 0.
        return found[1] is not None, (0 if new < index else max(new, 1))

    async def _publish(self) -> bool:
        """Write the sample if it is another one and time for it. Return whether there is nothing left to do for now."""
        session = self._session()
        if session is None:
            return False
        now = asyncio.get_running_loop().time()
        written = self._written
        same_session = written is not None and written[0] == session
        if same_session and now - self._written_at < EVERY_S:
            return True
        data, _ = await asyncio.to_thread(lambda: encode_samples(self._samples()))
        if same_session and written is not None and written[1] == data:
            return True
        taken = await self._connection.call(
            self._connection.client.kv.put(self._key, data, acquire=session), what="write the sample of requests"
        )
        if not taken:
            return False  # a former process with this replica's name may hold it, for its session's TTL at most
        self._written, self._written_at = (session, data), now
        return True

    async def _withdraw(self) -> bool:
        if self._written is not None:
            await self._connection.call(
                self._connection.client.kv.delete(self._key), what="delete the sample of requests"
            )
            self._written = None
        return True
