"""Writes statuses: at most one update per object and round, several objects at once."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping
from typing import Any

from nexus_operator.edge.kube import Conflict, KubeApi, KubeAway, KubeError, NotFound
from nexus_operator.metrics import Metrics
from nexus_operator.status.writes import StatusWrite, needed
from nexus_operator.world.inventory import Inventory, Key, Object, key_of
from nexus_operator.world.kinds import BY_NAME

log = logging.getLogger(__name__)
PARALLEL = 8


class StatusWriter:
    """Writes what differs, and tells the inventory what the API server made of it."""

    def __init__(self, kube: KubeApi, inventory: Inventory, metrics: Metrics) -> None:
        self._kube = kube
        self._inventory = inventory
        self._metrics = metrics
        # An older CRD drops fields it does not know: what was written then is never what the object shows.
        self._done: dict[tuple[str, Key], tuple[str, Any]] = {}  # by object: its edition, and what was written

    async def write(self, writes: Iterable[StatusWrite]) -> None:
        """Write all. Raises KubeAway when some could not be written now; all others are."""
        pending = [write for write in needed(writes) if not self._is_done(write)][::-1]
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
            self._done[write.kind, key_of(write.obj)] = (edition(write.obj), _timeless(write.status))
            return
        self._metrics.status_writes_total += 1
        self._inventory.observe(write.kind, written)
        if needed([StatusWrite(write.kind, written, write.status)]):
            self._done[write.kind, key_of(write.obj)] = (edition(written), _timeless(write.status))

    def _is_done(self, write: StatusWrite) -> bool:
        """Whether this very status was written to this very edition of the object before, or was refused by it."""
        known = self._done.get((write.kind, key_of(write.obj)))
        if known is None:
            return False
        if known == (edition(write.obj), _timeless(write.status)):
            return True
        del self._done[write.kind, key_of(write.obj)]
        return False


def _timeless(value: Any) -> Any:
    """Return a status without the times of its conditions: one that is not in the object gets a new time whenever it is built."""
    if isinstance(value, Mapping):
        return {key: _timeless(each) for key, each in value.items() if key != "lastTransitionTime"}
    return [_timeless(each) for each in value] if isinstance(value, list | tuple) else value


def edition(obj: Object) -> str:
    """Return what changes with every change of an object."""
    return f"{obj['metadata'].get('uid')}/{obj['metadata'].get('resourceVersion')}"
