"""Writes statuses: at most one update per object and round, several objects at once."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable

from nexus_operator.edge.kube import Conflict, KubeApi, KubeAway, KubeError, NotFound
from nexus_operator.metrics import Metrics
from nexus_operator.status.writes import StatusWrite, needed
from nexus_operator.world.inventory import Inventory
from nexus_operator.world.kinds import BY_NAME

log = logging.getLogger(__name__)
PARALLEL = 8


class StatusWriter:
    """Writes what differs, and tells the inventory what the API server made of it."""

    def __init__(self, kube: KubeApi, inventory: Inventory, metrics: Metrics) -> None:
        self._kube = kube
        self._inventory = inventory
        self._metrics = metrics

    async def write(self, writes: Iterable[StatusWrite]) -> None:
        """Write all. Raises KubeAway when some could not be written now; all others are."""
        pending = list(needed(writes))[::-1]
        late: list[KubeError] = []

        async def worker() -> None:
            while pending:
                write = pending.pop()
                try:
                    await self._write(write)
                except (KubeAway, Conflict) as err:
                    late.append(err)
                    if isinstance(err, KubeAway):
                        return

        async with asyncio.TaskGroup() as group:
            for _ in range(min(PARALLEL, len(pending))):
                group.create_task(worker())
        if late:
            raise KubeAway(f"{len(late)} statuses are written later: {late[0]}")

    async def _write(self, write: StatusWrite) -> None:
        try:
            written = await self._kube.write_status(BY_NAME[write.kind], write.obj, write.status)
        except NotFound:
            return  # deleted meanwhile
        except (KubeAway, Conflict):
            raise
        except KubeError as err:
            log.error("the status of %s %s was refused: %s", write.kind, write.obj["metadata"].get("name"), err)
            return
        self._metrics.status_writes_total += 1
        self._inventory.observe(write.kind, written)
