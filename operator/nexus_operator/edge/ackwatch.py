"""Follows the gateways' acks by blocking queries."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable

from nexus_core.snapshot import Ack, wire

from nexus_operator.edge.consul import ConsulApi, ConsulAway
from nexus_operator.publication.acks import decode_acks

log = logging.getLogger(__name__)
RETRY_S = (0.25, 0.5, 1.0, 2.0)
BREATH_S = 0.02
"""Least time between two queries, so that a storm of changes is read in few answers."""


class AckWatch:
    """The live acks. fault: why they are not known now, empty while they are."""

    def __init__(
        self, consul: ConsulApi, prefix: str, *, changed: Callable[[], None], returned: Callable[[], None]
    ) -> None:
        """changed: called when the acks are not what they were. returned: called when Consul answers again, or answers
        with an older index than before, which means that its data was lost or restored."""
        self._consul = consul
        self._prefix = wire.ack_prefix(prefix)
        self._changed = changed
        self._returned = returned
        self.acks: tuple[Ack, ...] = ()
        self.fault = ""
        self.known = asyncio.Event()

    async def run(self) -> None:
        """Follow for ever."""
        index, failures = 0, 0
        while True:
            try:
                listing = await self._consul.list(self._prefix, index=index)
            except ConsulAway as err:
                if not failures:
                    self.fault = str(err)
                    log.warning("the gateways' acks are not known now: %s", err)
                    self._changed()
                await asyncio.sleep(RETRY_S[min(failures, len(RETRY_S) - 1)] * (1 + random.random() / 4))
                index, failures = 0, failures + 1
                continue
            if failures or listing.index < index:
                self._returned()
            recovered, failures, self.fault = bool(failures), 0, ""
            # An index that goes back must be forgotten (Consul's documentation of blocking queries).
            index = listing.index if listing.index >= index else 0
            acks, unreadable = decode_acks((entry.key, entry.value) for entry in listing.entries)
            for sentence in unreadable:
                log.warning("an ack cannot be read: %s", sentence)
            if acks != self.acks or recovered or not self.known.is_set():
                self.acks = acks
                self.known.set()
                self._changed()
            await asyncio.sleep(BREATH_S)
