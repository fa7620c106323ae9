"""Marketplace indexes for the file source: followed by their signed metadata and kept on disk, so that no start depends on a network.

A marketplace that is slow holds nobody up for long: it is looked at beside the reading of manifests, which wait for a moment and then go
on with what it said last.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from nexus_core.marketplace import Index
from nexus_core.model.plugins import NexusMarketplaceSpec, Source
from nexus_core.model.resources import Resource
from nexus_core.problems import Problem
from nexus_core.translate.market_access import Access, Locked
from nexus_marketplace import background, sources
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
HOLD_S = 3.0
"""How long manifests wait for marketplaces that are being looked at, all together."""
FIRST_HOLD_S = 15.0
"""The same for one of which nothing is known yet: without its index its plugins have no part in any request, those that guard too."""
WAITING_S = 1.0
"""How soon somebody asks again for the answer of one that had not answered by then."""


@dataclass(slots=True)
class _Entry:
    """One marketplace. looked_at: on the event loop's clock. due_in_s: from then, None for never; after a look that went well it is
    fresh_s. look: the one that goes on, if any. recalled: whether what was trusted in an earlier life of the process has been looked for.
    answered: whether it has been followed in this one. access: what its `secretRef` names.
    """

    key: tuple[object, ...]
    followed: Followed | None = None
    index: Index | None = None
    trouble: MarketplaceTrouble | None = None
    looked_at: float = 0.0
    due_in_s: float | None = 0.0
    fresh_s: float | None = FRESH_S
    look: asyncio.Task[None] | None = None
    recalled: bool = False
    answered: bool = False
    access: Access | Locked | None = None

    def hold_until(self) -> float:
        """Return until when somebody waits for the look that goes on."""
        unknown = self.index is None and self.trouble is None
        return self.looked_at + (FIRST_HOLD_S if unknown else HOLD_S)


class Indexes:
    """Reads the index of each NexusMarketplace."""

    def __init__(self, cache: Path) -> None:
        """cache: directory for what was trusted."""
        self._cache = cache
        self._entries: dict[str, _Entry] = {}

    async def read(
        self, marketplaces: Iterable[Resource], accesses: Mapping[str, Access | Locked] = MappingProxyType({})
    ) -> tuple[dict[str, Index], tuple[Problem, ...]]:
        """Return the indexes by marketplace name, and what is wrong with those that cannot be had. accesses: by the same name."""
        entries: dict[str, tuple[_Entry, Resource, NexusMarketplaceSpec]] = {}
        for marketplace in marketplaces:
            spec = marketplace.spec
            if isinstance(spec, NexusMarketplaceSpec):
                name = marketplace.ref.name
                entries[name] = self._entry(name, spec, accesses.get(name)), marketplace, spec
        for name, former in self._entries.items():
            if former.look is not None and (name not in entries or entries[name][0] is not former):
                former.look.cancel()  # it is of no use any more
        self._entries = {name: entry for name, (entry, _, _) in entries.items()}
        for name, (entry, _, spec) in entries.items():
            await self._recall(entry, name, spec)
            self._begin(entry, name)
        await self._hold()
        found: dict[str, Index] = {}
        problems: list[Problem] = []
        for name, (entry, marketplace, spec) in entries.items():
            trouble = _trouble(entry)
            if entry.index is not None:
                found[name] = entry.index
            if trouble is not None:
                kept = " The last good index stays in use." if entry.index is not None else ""
                problems.append(
                    Problem(
                        marketplace.ref,
                        f".spec.source{_place(spec.source)}",
                        trouble.reason,
                        trouble.what,
                        f"{trouble.fix}{kept}",
                    )
                )
        return found, tuple(problems)

    def doubt(self, now: float) -> bool:
        """A release is asked for that no index lists: have those read again that are not quite new. Return whether there are any."""
        found = False
        for entry in self._entries.values():
            quite_new = entry.look is not None or now - entry.looked_at <= ASKED_S
            if entry.due_in_s is not None and entry.looked_at and not quite_new:
                entry.looked_at = 0.0
                found = True
        return found

    def due_in_s(self, now: float) -> float | None:
        """Return when an index should be looked at again, or may have answered; None when none ever is."""
        dues = [
            e.looked_at + e.due_in_s - now for e in self._entries.values() if e.look is None and e.due_in_s is not None
        ]
        dues += [WAITING_S for entry in self._entries.values() if entry.look is not None]
        return max(min(dues), 0.0) if dues else None

    def _entry(self, name: str, spec: NexusMarketplaceSpec, access: Access | Locked | None) -> _Entry:
        key = (spec.source, pins_of(spec))
        entry = self._entries.get(name)
        if entry is None or entry.key != key:
            return _Entry(key, access=access)
        # With another login it is the same marketplace: what it said last stays.
        return entry if entry.access == access else _Entry(key, index=entry.index, access=access)

    async def _recall(self, entry: _Entry, name: str, spec: NexusMarketplaceSpec) -> None:
        """Have what a marketplace said last, before it is looked at for the first time: the process is new, what it trusted is not."""
        if entry.recalled:
            return
        entry.recalled = True
        try:
            source = sources.open(spec.source, access=entry.access)
        except MarketplaceTrouble as trouble:
            entry.trouble, entry.due_in_s = trouble, None  # another spec is another entry
            return
        entry.followed = Followed(source, pins_of(spec), state_of(self._cache, name, spec.source))
        if entry.index is None:
            kept = await asyncio.to_thread(entry.followed.last)
            entry.index = kept[0] if kept is not None else None
        entry.fresh_s = None if spec.source.bundled else FRESH_HERE_S if spec.source.directory else FRESH_S

    def _begin(self, entry: _Entry, name: str) -> None:
        """Begin a look when one is due and none goes on."""
        now = asyncio.get_running_loop().time()
        due = entry.due_in_s is not None and not (entry.looked_at and now < entry.looked_at + entry.due_in_s)
        if due and entry.look is None and entry.followed is not None:
            entry.looked_at = now
            entry.look = asyncio.create_task(_look(entry, entry.followed, name), name=f"marketplace {name}")

    async def _hold(self) -> None:
        """Wait for the looks that go on, each from its beginning; take in those that are done."""
        loop = asyncio.get_running_loop()
        while True:
            going = {entry.look: entry.hold_until() for entry in self._entries.values() if entry.look is not None}
            waited = {look: until for look, until in going.items() if not look.done() and loop.time() < until}
            if not waited:
                break
            await asyncio.wait(waited, timeout=min(waited.values()) - loop.time(), return_when=asyncio.FIRST_COMPLETED)
        for entry in self._entries.values():
            if entry.look is not None and entry.look.done():
                done, entry.look = entry.look, None
                done.result()


async def _look(entry: _Entry, followed: Followed, name: str) -> None:
    try:
        index, _ = await background.run(followed.update, f"marketplace {name}")
    except MarketplaceTrouble as trouble:
        entry.trouble = trouble
        entry.due_in_s = AGAIN_S
        return
    # The same object while it says the same: what was made of it can be taken over.
    if entry.index != index:
        entry.index = index
    entry.trouble = None
    entry.answered = True
    entry.due_in_s = entry.fresh_s


def _trouble(entry: _Entry) -> MarketplaceTrouble | None:
    """Return what is to be said of a marketplace now."""
    # One that has been followed by this process and is looked at again is well until it says something else.
    if entry.look is None or entry.trouble is not None or entry.answered or entry.followed is None:
        return entry.trouble
    return MarketplaceTrouble(
        "MarketplaceUnreachable",
        f"{entry.followed.for_people} has not answered yet.",
        "It is waited for; see whether its server is slow if this stays.",
        retryable=True,
    )


def state_of(cache: Path, name: str, source: Source) -> Path:
    """Return the directory of what was trusted. A marketplace that has moved is followed anew: its versions may begin with 1 there."""
    # Not by its login: whoever asks, it is the same marketplace.
    digest = hashlib.sha256(source.model_dump_json(exclude={"secret_ref"}).encode()).hexdigest()[:16]
    return cache / f"{name}-{digest}"


def _place(source: Source) -> str:
    for field, shown in (("url", "url"), ("oci", "oci"), ("directory", "directory"), ("config_map", "configMap")):
        if getattr(source, field) is not None:
            return f".{shown}"
    return ".bundled"
