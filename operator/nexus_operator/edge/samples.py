"""Asks the gateways for their samples of requests, by a key in Consul, and reads what they answer."""

from __future__ import annotations

import logging

from nexus_core.snapshot.samples import Sample, samples_prefix, wanted_key

from nexus_operator.edge.consul import ConsulApi
from nexus_operator.publication.previews import read_samples

log = logging.getLogger(__name__)


class SampleFeed:
    """The asking side of one installation; its leader's."""

    def __init__(self, consul: ConsulApi, prefix: str) -> None:
        self._consul = consul
        self._prefix = prefix
        self._asking: bool | None = None  # not known yet: another leader may have asked
        self._held: tuple[tuple[str, int], ...] = ()
        self._samples: tuple[Sample, ...] = ()

    async def stop(self) -> None:
        """Ask no more; once. Raises ConsulAway."""
        if self._asking is not False:
            await self._consul.delete(wanted_key(self._prefix))
            self._asking = False
            self._held, self._samples = (), ()

    async def read(self) -> tuple[Sample, ...]:
        """Ask, and return what the gateways published so far; the same object while that is the same. Raises ConsulAway."""
        if not self._asking or await self._consul.get(wanted_key(self._prefix)) is None:
            await self._consul.put(wanted_key(self._prefix), b"1")
            self._asking = True
        listing = await self._consul.list(samples_prefix(self._prefix))
        held = tuple((entry.key, entry.modify_index) for entry in listing.entries)
        if held != self._held:
            self._held = held
            self._samples, unreadable = read_samples((entry.key, entry.value) for entry in listing.entries)
            for sentence in unreadable:
                log.warning("a sample cannot be read: %s", sentence)
        return self._samples
