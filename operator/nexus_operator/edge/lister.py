"""Full lists of every watched kind: first, again after the API server was away, and now and then.

kopf's watches bring changes fast, but a deletion while a watch is down is never told. Lists close that gap.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable

from nexus_core.translate import features

from nexus_operator.edge.kube import KubeApi, KubeAway, KubeError
from nexus_operator.world.inventory import Inventory
from nexus_operator.world.kinds import GATEWAY_CLASS, GATEWAY_GROUP, NEXUS_GROUP, WATCHED, Kind

log = logging.getLogger(__name__)
SETTLE_S = 0.5
"""Several watches break together: their lists are made once, a moment later."""
RETRY_S = (0.2, 0.5, 1.0, 2.0, 5.0)
LOOK_S = 10.0
CUSTOM = tuple(kind for kind in WATCHED if kind.group in (GATEWAY_GROUP, NEXUS_GROUP))
"""Kinds that come and go with their CustomResourceDefinitions."""


class Lister:
    """Feeds the inventory. complete: set once every kind has been listed; a kind without CRD counts as an empty list."""

    def __init__(
        self,
        kube: KubeApi,
        inventory: Inventory,
        *,
        every_s: float,
        changed: Callable[[str], None],
        kinds_changed: Callable[[], None] = lambda: None,
        look_s: float = LOOK_S,
    ) -> None:
        """changed: called with each kind whose list told something new. kinds_changed: called when kinds have come or gone since the
        first list. look_s: pause between looks at that.
        """
        self._kube = kube
        self._inventory = inventory
        self._every_s, self._look_s = every_s, look_s
        self._kinds_changed = kinds_changed
        self._changed = changed
        self._asked = asyncio.Event()
        self._missing: frozenset[str] = frozenset()
        self.complete = asyncio.Event()

    def list_soon(self) -> None:
        """Ask for a full list; requests of one moment are one."""
        self._asked.set()

    async def run(self) -> None:
        """List for ever."""
        failures = 0
        while True:
            self._asked.clear()
            try:
                await self._list_all()
            except KubeError as err:
                wait_s = RETRY_S[min(failures, len(RETRY_S) - 1)] * (1 + random.random() / 4)
                failures += 1
                log.warning("the cluster could not be listed, next try in %.1f s: %s", wait_s, err)
                await asyncio.sleep(wait_s)
                continue
            failures = 0
            self.complete.set()
            await self._wait()

    async def _wait(self) -> None:
        """Return when it is time for the next list: it was asked for, kinds have come or gone, or the last one is old."""
        loop = asyncio.get_running_loop()
        until = loop.time() + self._every_s
        while (left_s := until - loop.time()) > 0:
            try:
                async with asyncio.timeout(min(left_s, self._look_s)):
                    await self._asked.wait()
            except TimeoutError:
                if await self._have_kinds_changed():
                    return
            else:
                await asyncio.sleep(SETTLE_S)
                return

    async def _have_kinds_changed(self) -> bool:
        """Whether kinds were installed or removed since the last list. A kind that goes ends its watch and is told by nothing else."""
        missing: set[str] = set()
        for version in sorted({(kind.group, kind.version) for kind in CUSTOM}):
            try:
                served = await self._kube.served(*version)
            except KubeError:
                return False  # what is wrong shows in the lists
            missing |= {k.kind for k in CUSTOM if (k.group, k.version) == version and k.plural not in served}
        return missing != self._missing

    async def _list_all(self) -> None:
        missing: set[str] = set()
        for kind in WATCHED:
            if not await self._list(kind):
                missing.add(kind.kind)
        if missing != self._missing:
            log.info("kinds that are not installed: %s", ", ".join(sorted(missing)) or "none")
            self._missing = frozenset(missing)
            self._changed(GATEWAY_CLASS.kind)  # which says what can be done
            if self.complete.is_set():
                self._kinds_changed()
        await self._read_schemas()

    async def _read_schemas(self) -> None:
        """Learn which fields the cluster has of those that not every release of the Gateway API has."""
        found: set[features.Field] = set()
        for plural in sorted({field[0] for field in features.NEEDED_FIELDS.values()}):
            kind = next(kind for kind in WATCHED if kind.plural == plural)
            try:
                found |= features.fields_in(plural, await self._kube.schema_of(kind))
            except KubeAway:
                raise
            except KubeError as err:
                # Without leave to look nothing is claimed that may not be; all else works.
                log.warning("whether %s have every field cannot be told: %s", plural, err)
        if self._inventory.note_fields(frozenset(found)):
            self._changed(GATEWAY_CLASS.kind)

    async def _list(self, kind: Kind) -> bool:
        listed = await self._kube.list_all(kind, self._inventory.keep)
        # Without a CRD nothing of the kind exists: the list is true whatever the version.
        version = listed.version if listed.installed else 0
        if self._inventory.replace(kind.kind, listed.objects, version):
            self._changed(kind.kind)
        return listed.installed
