"""Marketplace indexes for the file source: followed by their signed metadata and kept on disk, so that no start depends on a network."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from nexus_core.marketplace import Index
from nexus_core.model.plugins import NexusMarketplaceSpec, Source
from nexus_core.model.resources import Resource
from nexus_core.problems import Problem
from nexus_marketplace import sources
from nexus_marketplace.troubles import MarketplaceTrouble
from nexus_marketplace.trust import Followed, pins_of

FRESH_S = 300.0
"""An index is taken as it is for this long."""
FRESH_HERE_S = 60.0
"""One in a directory: somebody may be at work on it, and looking costs no network."""
ASKED_S = 2.0
"""How old it may be when a plugin asks for a release that it does not list: perhaps it was published just now."""
AGAIN_S = 15.0
"""How soon a marketplace is looked at again that could not be followed."""


@dataclass(slots=True)
class _Entry:
    """One marketplace. looked_at: on the event loop's clock. due_in_s: from then, None for never."""

    key: tuple[object, ...]
    followed: Followed | None = None
    index: Index | None = None
    trouble: MarketplaceTrouble | None = None
    looked_at: float = 0.0
    due_in_s: float | None = 0.0


class Indexes:
    """Reads the index of each NexusMarketplace."""

    def __init__(self, cache: Path) -> None:
        """cache: directory for what was trusted."""
        self._cache = cache
        self._entries: dict[str, _Entry] = {}

    async def read(self, marketplaces: Iterable[Resource]) -> tuple[dict[str, Index], tuple[Problem, ...]]:
        """Return the indexes by marketplace name, and what is wrong with those that cannot be had."""
        found: dict[str, Index] = {}
        problems: list[Problem] = []
        entries: dict[str, _Entry] = {}
        for marketplace in marketplaces:
            spec = marketplace.spec
            if not isinstance(spec, NexusMarketplaceSpec):
                continue
            name = marketplace.ref.name
            entry = entries[name] = self._entry(name, spec)
            await self._look(entry, name, spec)
            if entry.index is not None:
                found[name] = entry.index
            if entry.trouble is not None:
                kept = " The last good index stays in use." if entry.index is not None else ""
                problems.append(
                    Problem(
                        marketplace.ref,
                        f".spec.source{_place(spec.source)}",
                        entry.trouble.reason,
                        entry.trouble.what,
                        f"{entry.trouble.fix}{kept}",
                    )
                )
        self._entries = entries
        return found, tuple(problems)

    def doubt(self, now: float) -> bool:
        """A release is asked for that no index lists: have those read again that are not quite new. Return whether there are any."""
        found = False
        for entry in self._entries.values():
            if entry.due_in_s is not None and entry.looked_at and now - entry.looked_at > ASKED_S:
                entry.looked_at = 0.0
                found = True
        return found

    def due_in_s(self, now: float) -> float | None:
        """Return when an index should be looked at again; None when none ever is."""
        dues = [e.looked_at + e.due_in_s - now for e in self._entries.values() if e.due_in_s is not None]
        return max(min(dues), 0.0) if dues else None

    def _entry(self, name: str, spec: NexusMarketplaceSpec) -> _Entry:
        key = (spec.source, pins_of(spec))
        entry = self._entries.get(name)
        return entry if entry is not None and entry.key == key else _Entry(key)

    async def _look(self, entry: _Entry, name: str, spec: NexusMarketplaceSpec) -> None:
        now = asyncio.get_running_loop().time()
        if entry.due_in_s is None or (entry.looked_at and now < entry.looked_at + entry.due_in_s):
            return
        entry.looked_at = now
        try:
            if entry.followed is None:
                entry.followed = Followed(
                    sources.open(spec.source), pins_of(spec), state_of(self._cache, name, spec.source)
                )
            index, _ = await asyncio.to_thread(entry.followed.update)
        except MarketplaceTrouble as trouble:
            entry.trouble = trouble
            entry.due_in_s = AGAIN_S
            if entry.index is None and entry.followed is not None:
                # The process is new, what it trusted is not.
                kept = await asyncio.to_thread(entry.followed.last)
                entry.index = kept[0] if kept is not None else None
            return
        # The same object while it says the same: what was made of it can be taken over.
        if entry.index != index:
            entry.index = index
        entry.trouble = None
        entry.due_in_s = None if spec.source.bundled else FRESH_HERE_S if spec.source.directory else FRESH_S


def state_of(cache: Path, name: str, source: Source) -> Path:
    """Return the directory of what was trusted. A marketplace that has moved is followed anew: its versions may begin with 1 there."""
    digest = hashlib.sha256(source.model_dump_json().encode()).hexdigest()[:16]
    return cache / f"{name}-{digest}"


def _place(source: Source) -> str:
    for field, shown in (("url", "url"), ("oci", "oci"), ("directory", "directory"), ("config_map", "configMap")):
        if getattr(source, field) is not None:
            return f".{shown}"
    return ".bundled"
