"""Reads, parses and translates manifests. The only module of the gateway that knows the model; see `making` for why that matters."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType

from nexus_core.certificates.sealing import Sealer
from nexus_core.marketplace import Index
from nexus_core.marketplace.locks import Lock
from nexus_core.model import load
from nexus_core.model.plugins import NexusMarketplaceSpec
from nexus_core.model.resources import Resource
from nexus_core.problems import ObjectRef, Problem, sort_problems
from nexus_core.snapshot import Snapshot, wire
from nexus_core.translate import translate
from nexus_core.translate.endpoint_slices import find_unfounded
from nexus_core.translate.hooked import ManifestHook
from nexus_core.translate.market_access import find_accesses, find_ways
from nexus_core.translate.plugin_markets import UNLISTED
from nexus_core.translate.translation import Translation
from nexus_hosting.manifesthooks import ManifestHooks

from nexus_gateway.edge.sources import prefetching
from nexus_gateway.edge.sources.indexes import AGAIN_S, Indexes
from nexus_gateway.edge.sources.making import DEFAULT_CLASS, Fingerprint, Made, NoTexts, Texts
from nexus_gateway.edge.sources.prefetching import Prefetcher
from nexus_gateway.edge.sources.refusals import find_taken_back

MAX_FILE_BYTES = 4 * 2**20

Stamp = tuple[int, int, int]
_AGAIN: Stamp = (0, 0, 0)
"""No file has it: the next look reads the file again."""


class Workshop:
    """The `Maker` in this process."""

    def __init__(
        self,
        cache: Path,
        *,
        class_name: str = DEFAULT_CLASS,
        previous: Snapshot | None = None,
        texts: Texts | None = None,
        sealer: Sealer | None = None,
        alone: bool = False,
        artefacts: Path | None = None,
    ) -> None:
        """cache: directory for what is known of marketplaces. previous: the Snapshot that broken objects keep their last good
        version from. texts: asked for files that are broken and that this workshop has not seen whole.
        sealer: of private keys; None takes this process's. alone: whether nobody but the manifests tells endpoints of Kubernetes
        Services; then those without any are a problem. artefacts: the gateway's cache of plugins, for those with hooks on
        manifests; None keeps them below `cache`."""
        self._indexes = Indexes(cache)
        self._class_name = class_name
        self._texts = texts or NoTexts()
        self._sealer = sealer
        self._alone = alone
        self._files = Prefetcher(artefacts or cache / "artefacts")
        self._hooks = ManifestHooks(artefacts or cache / "artefacts", self._files.obtain)
        self._read: dict[str, tuple[Stamp, tuple[Resource, ...]]] = {}
        self._snapshot = previous
        self._digest = ""

    async def make(self, found: Fingerprint, locks: Mapping[str, Lock] = MappingProxyType({})) -> Made:
        """See `making.Maker`; unchanged files are not read again."""
        resources, troubles = await asyncio.to_thread(self._parse, found)
        marketplaces = [each for each in resources if each.ref.kind == "NexusMarketplace"]
        accesses = find_accesses(resources)
        self._files.ways = find_ways(
            (each.spec.source, accesses.get(each.ref.name))
            for each in marketplaces
            if isinstance(each.spec, NexusMarketplaceSpec)
        )
        indexes, unavailable = await self._indexes.read(marketplaces, accesses)
        now_utc = datetime.now(UTC)
        translation = await self._translate(resources, indexes, locks, now_utc)
        unlisted = any(problem.reason in UNLISTED for problem in translation.problems)
        if unlisted and self._indexes.doubt(asyncio.get_running_loop().time()):
            indexes, unavailable = await self._indexes.read(marketplaces, accesses)
            translation = await self._translate(resources, indexes, locks, now_utc)
        if translation.snapshot != self._snapshot or not self._digest:
            self._snapshot = translation.snapshot
            self._digest = (await asyncio.to_thread(wire.encode, self._snapshot)).digest
        unfetched = await self._files.fetch(self._snapshot)
        unfounded = find_unfounded(translation.mirrors) if self._alone else ()
        refused = find_taken_back(resources, translation.plugins, locks)
        problems = sort_problems(
            (*troubles, *unavailable, *translation.problems, *self._hooks.problems, *unfetched, *unfounded, *refused)
        )
        due_in_s = self._indexes.due_in_s(asyncio.get_running_loop().time())
        if unlisted and due_in_s is not None:
            due_in_s = min(due_in_s, AGAIN_S)  # perhaps it is being published
        if unfetched:
            due_in_s = min(due_in_s, prefetching.AGAIN_S) if due_in_s is not None else prefetching.AGAIN_S
        if translation.changes_at_utc is not None:
            opens_in_s = (translation.changes_at_utc - now_utc).total_seconds()
            due_in_s = min(due_in_s, opens_in_s) if due_in_s is not None else opens_in_s
        retry_in_s = self._hooks.retry_in_s()
        if math.isfinite(retry_in_s):
            due_in_s = min(due_in_s, retry_in_s) if due_in_s is not None else retry_in_s
        known = {f"{s.ref.namespace}/{s.ref.name}": s.lock for s in translation.plugins if s.lock is not None}
        assert self._snapshot is not None
        return Made(self._snapshot, self._digest, problems, due_in_s, known)

    async def _translate(
        self, resources: Sequence[Resource], indexes: Mapping[str, Index], locks: Mapping[str, Lock], now_utc: datetime
    ) -> Translation:
        """Translate, with the hooks of the plugins that this leads to."""

        async def translated(hooks: tuple[ManifestHook, ...]) -> Translation:
            return await asyncio.to_thread(
                translate,
                resources,
                previous=self._snapshot,
                indexes=indexes,
                class_name=self._class_name,
                sealer=self._sealer,
                locks=locks,
                now_utc=now_utc,
                manifest_hooks=hooks,
            )

        # No hook changes which plugins there are, so that twice is enough.
        translation = await translated(await self._hooks.prepare(self._snapshot, resources))
        if not self._hooks.is_current(translation.snapshot):
            translation = await translated(await self._hooks.prepare(translation.snapshot, resources))
        return translation

    async def close(self) -> None:
        """End what hooks run in."""
        await self._hooks.close()

    def _parse(self, found: Fingerprint) -> tuple[tuple[Resource, ...], tuple[Problem, ...]]:
        """Return the resources of all files, unchanged ones as they were read before."""
        resources: list[Resource] = []
        troubles: list[Problem] = []
        read: dict[str, tuple[Stamp, tuple[Resource, ...]]] = {}
        for name, *stamp_parts in found:
            stamp = (stamp_parts[0], stamp_parts[1], stamp_parts[2])
            former = self._read.get(name)
            if former is not None and former[0] == stamp:
                read[name] = former
                resources.extend(former[1])
                continue
            parsed, wrong = self._parse_file(name, stamp[2])
            if wrong:
                parsed = self._as_it_was(name, former, parsed)
            read[name] = (stamp if not wrong else _AGAIN, parsed)
            resources.extend(parsed)
            troubles.extend(wrong)
        self._read = read
        return tuple(resources), tuple(troubles)

    def _as_it_was(
        self, name: str, former: tuple[Stamp, tuple[Resource, ...]] | None, parsed: tuple[Resource, ...]
    ) -> tuple[Resource, ...]:
        if former is not None:
            return former[1]
        text = self._texts.find(name)
        return load.parse_text(text, name)[0] if text is not None else parsed

    def _parse_file(self, name: str, size: int) -> tuple[tuple[Resource, ...], tuple[Problem, ...]]:
        where = ObjectRef("File", "", name)
        if size > MAX_FILE_BYTES:
            fix = f"Split it: files of up to {MAX_FILE_BYTES // 2**20} MiB are read."
            return (), (Problem(where, ".", "InvalidManifest", f"The file has {size} bytes.", fix),)
        try:
            text = Path(name).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            return (), (
                Problem(
                    where, ".", "InvalidManifest", f"The file cannot be read: {error}.", "Make it readable UTF-8 text."
                ),
            )
        parsed, wrong = load.parse_text(text, name)
        if not wrong:
            self._texts.keep(name, text)
        return parsed, wrong
