"""The life of plugins as the leader sees it: locks, figures, events. What follows from them is decided in pure rooms."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

from nexus_core.marketplace.locks import Lock
from nexus_core.snapshot import Ack, Published
from nexus_core.snapshot.stats import stats_prefix

from nexus_operator.edge.consul import ConsulApi
from nexus_operator.edge.eventwriter import EventWriter
from nexus_operator.edge.kube import KubeApi, KubeAway, KubeError, NotFound
from nexus_operator.publication.figures import Figure, Figures, read_stats
from nexus_operator.publication.locks import Locks, show_lock
from nexus_operator.status.happenings import happenings_of
from nexus_operator.status.writes import StatusWrite
from nexus_operator.world.inventory import Inventory
from nexus_operator.world.kinds import NEXUS_PLUGIN

log = logging.getLogger(__name__)


class PluginLife:
    """Of one term of one leader."""

    def __init__(self, kube: KubeApi, consul: ConsulApi, inventory: Inventory, prefix: str) -> None:
        self._kube = kube
        self._consul = consul
        self._inventory = inventory
        self._prefix = prefix
        self._locks = Locks()
        self._figures = Figures()
        self._events = EventWriter(kube)

    @property
    def locks(self) -> Mapping[str, Lock]:
        """The locks, by `<namespace>/<name>`: each is in its object's status."""
        return self._locks.current

    @property
    def figures(self) -> Mapping[str, Figure]:
        """What statuses show of traffic, by `<namespace>/<name>`."""
        return self._figures.shown

    async def settle(self, published: Published | None, acks: Iterable[Ack]) -> bool:
        """Move the locks by what the gateways say; return whether any moved, so that another Snapshot may follow.

        A lock is in its object's status before it is in `locks`: whoever takes over, or this process after it was killed, does not
        know less than what a Snapshot was made of. Raises KubeError when one could not be written; it is tried again, and counts as
        unmoved. All others are written.
        """
        self._locks.take(self._inventory.all(NEXUS_PLUGIN.kind))
        moved, fault = False, None
        for plugin, before, lock in tuple(self._locks.settled(published, acks, datetime.now(UTC))):
            obj = self._inventory.get(NEXUS_PLUGIN.kind, *plugin.split("/", 1))
            if obj is None:
                continue
            try:
                written = await self._kube.write_status(NEXUS_PLUGIN, obj, {"lock": show_lock(lock)})
            except NotFound:
                continue  # deleted meanwhile
            except KubeError as err:
                fault = err
                continue
            self._inventory.observe(NEXUS_PLUGIN.kind, written)
            self._locks.put(plugin, lock)
            moved = True
            for each in lock.refused:
                if each in before.refused:
                    continue  # when others are forgiven, it is no news
                log.warning("plugin %s: %s was taken back: %s %s", plugin, each.version, each.reason, each.message)
            if lock.version != before.version:
                log.info("plugin %s: locked to %s", plugin, lock.version)
        if fault is not None:
            raise fault
        return moved

    async def read_figures(self) -> None:
        """Read what the gateways' plugins do, now and then. Raises ConsulAway."""
        now = time.monotonic()
        if not self._figures.is_due(now):
            return
        listing = await self._consul.list(stats_prefix(self._prefix))
        stats, unreadable = read_stats((entry.key, entry.value) for entry in listing.entries)
        for sentence in unreadable:
            log.warning("stats cannot be read: %s", sentence)
        self._figures.take(stats, now)

    async def tell(self, writes: Iterable[StatusWrite]) -> None:
        """Write the events of these statuses, which are to be written next. An API server that is away is left to the statuses."""
        try:
            await self._events.tell(happening for write in writes for happening in happenings_of(write))
        except KubeAway as err:
            log.warning("events are told later: %s", err)
