"""Follows what services say of their plugins, by blocking queries."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable

from nexus_core.snapshot.service_reports import reports_prefix

from nexus_operator.edge.ackwatch import BREATH_S, RETRY_S
from nexus_operator.edge.consul import ConsulApi, ConsulAway
from nexus_operator.publication.servicereports import ServiceReports, read_reports

log = logging.getLogger(__name__)


class ReportWatch:
    """The live reports. While Consul is away the last ones stay; that it is, the acks' watch tells."""

    def __init__(self, consul: ConsulApi, prefix: str, *, changed: Callable[[], None]) -> None:
        """changed: called when the reports are not what they were."""
        self._consul = consul
        self._prefix = prefix
        self._changed = changed
        self.current: ServiceReports = {}

    async def run(self) -> None:
        """Follow for ever."""
        index, failures = 0, 0
        told: tuple[str, ...] = ()
        while True:
            try:
                listing = await self._consul.list(reports_prefix(self._prefix), index=index)
            except ConsulAway:
                await asyncio.sleep(RETRY_S[min(failures, len(RETRY_S) - 1)] * (1 + random.random() / 4))
                index, failures = 0, failures + 1
                continue
            failures = 0
            # An index that goes back must be forgotten (Consul's documentation of blocking queries).
            index = listing.index if listing.index >= index else 0
            reports, unreadable = read_reports(((entry.key, entry.value) for entry in listing.entries), self._prefix)
            if unreadable != told:
                for sentence in unreadable:
                    log.warning("what a service says of its plugins cannot be read: %s", sentence)
                told = unreadable
            if reports != self.current:
                self.current = reports
                self._changed()
            await asyncio.sleep(BREATH_S)
