"""From the inventory to a translation: with the marketplaces' indexes, the plugins' locks, and their hooks on manifests."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from nexus_core.certificates.sealing import Sealer
from nexus_core.marketplace.locks import Lock
from nexus_core.model.resources import Resource
from nexus_core.problems import ObjectRef
from nexus_core.snapshot import PluginInstance, Snapshot
from nexus_core.translate import Session, Translation
from nexus_core.translate.hooked import ManifestHook
from nexus_core.translate.plugin_markets import UNLISTED
from nexus_hosting.manifesthooks import ManifestHooks

from nexus_operator.children.gateways import of_deleted_classes
from nexus_operator.edge.indexes import Indexes
from nexus_operator.edge.kube import KubeApi
from nexus_operator.edge.markets import wanted_of
from nexus_operator.edge.named import NamedObjects
from nexus_operator.publication.previews import Held, hold_back
from nexus_operator.settings import Settings
from nexus_operator.world.inventory import Inventory
from nexus_operator.world.reading import Reader


@dataclass(frozen=True, slots=True)
class Translated:
    """held: what is translated, and what is held back of it. candidate: with nothing held back; None where nothing is."""

    held: Held
    translation: Translation
    candidate: Translation | None


class Translator:
    """Remembers one translation for the next. Owns processes and memory of hooks: call `close()`. indexes: closed by who made them."""

    def __init__(
        self,
        settings: Settings,
        kube: KubeApi,
        inventory: Inventory,
        indexes: Indexes,
        obtain: Callable[[PluginInstance], Awaitable[None]] | None = None,
    ) -> None:
        """obtain: see `ManifestHooks`."""
        self._settings = settings
        self._inventory = inventory
        self._indexes = indexes
        self._reader = Reader()
        self._named = NamedObjects(kube, inventory)
        self.hooks = ManifestHooks(Path(settings.state_dir) / "artefacts", obtain)
        # Two, as they follow two worlds: what is served, and what would be with the previewed objects.
        self.session, self._candidates = Session(), Session()
        self._last: Translation | None = None

    async def read_named(self) -> None:
        """Learn what is in the Secrets and ConfigMaps that plugins and marketplaces name. Raises KubeError."""
        await self._named.read(self._reader.read(self._inventory))

    async def translate(
        self,
        applied: Mapping[ObjectRef, Resource],
        *,
        previous: Snapshot | None,
        sealer: Sealer | None,
        locks: Mapping[str, Lock],
    ) -> Translated:
        """Translate everything. applied: as of the last `Held`. previous: what is published. locks: of plugins.

        Whatever raises here leaves nothing behind: the next call begins anew.
        """
        try:
            every = self._reader.read(self._inventory)
            await self._indexes.follow(wanted_of(every, self._inventory))
            held = hold_back(every, applied)
            seen = every if not held.previewed else (*every, *held.world)

            def translated(
                session: Session, resources: tuple[Resource, ...], hooks: tuple[ManifestHook, ...]
            ) -> Translation:
                return session.translate(
                    resources,
                    previous=previous,
                    indexes=self._indexes.current,
                    class_name=self._settings.class_name,
                    standing=of_deleted_classes(self._inventory),
                    sealer=sealer,
                    locks=locks,
                    now_utc=datetime.now(UTC),
                    manifest_hooks=hooks,
                )

            # Which plugins have hooks is known when all is translated: again where they are others than before. No hook changes which
            # plugins there are, so that twice is enough.
            before = self._last.snapshot if self._last is not None else previous
            hooks = await self.hooks.prepare(before, seen)
            translation = translated(self.session, held.world, hooks)
            if not self.hooks.is_current(translation.snapshot):
                hooks = await self.hooks.prepare(translation.snapshot, seen)
                translation = translated(self.session, held.world, hooks)
            candidate = translated(self._candidates, every, hooks) if held.previewed else None
        except Exception:
            self.session, self._candidates = Session(), Session()  # what they remember may be half of a world
            raise
        self._last = translation
        problems = (*translation.problems, *(candidate.problems if candidate is not None else ()))
        self._indexes.doubt(frozenset(problem for problem in problems if problem.reason in UNLISTED))
        return Translated(held, translation, candidate)

    def due_in_s(self) -> float:
        """Seconds until time alone may change the translation: an update window opens, a plugin's hook is tried again. Infinite: never."""
        at = self._last.changes_at_utc if self._last is not None else None
        left_s = max(0.0, (at - datetime.now(UTC)).total_seconds()) if at is not None else math.inf
        return min(left_s, self.hooks.retry_in_s())

    async def close(self) -> None:
        """End what the hooks run in."""
        await self.hooks.close()
