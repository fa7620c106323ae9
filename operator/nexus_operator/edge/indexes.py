"""Marketplace indexes: followed in the background by their signed metadata, kept while their place is away.

An unreachable, expired, rolled back or broken marketplace costs nothing but news: the last good index stays in use, and the problem is
shown on the NexusMarketplace. What an index means is `nexus_core.marketplace`'s business, whom to trust `nexus_marketplace.trust`'s.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from nexus_core.marketplace import Index
from nexus_core.model.plugins import NexusMarketplaceSpec
from nexus_core.problems import Problem
from nexus_core.translate.market_access import Access, Locked, Way, find_ways
from nexus_marketplace import background, sources
from nexus_marketplace.sources import ReadConfigMap, SourcePort
from nexus_marketplace.troubles import MarketplaceTrouble
from nexus_marketplace.trust import Followed, Versions, pins_of

from nexus_operator.status.view import Trouble
from nexus_operator.world.kinds import NEXUS_GROUP

log = logging.getLogger(__name__)
FIRST_WAIT_S = 1.0
"""How long a reconciliation waits for the first answer of a new marketplace, so that its plugins need no second round."""
RETRY_S = 15.0
ASKED_S = 2.0
"""How old an index may be when a plugin asks for a release that it does not list: perhaps it was published just now."""
AGAIN_S = 15.0
"""How soon it is looked at again while a plugin asks for such a release; this often:"""
LOOKS = 10
"""Then as usual: what is not there by then may never be."""
TRUST_ANEW = f"{NEXUS_GROUP}/trust-anew"
"""Annotation: with another value, whatever it is, a marketplace is trusted as if it had never been seen. Removed, nothing changes."""
ROLES = ("root", "timestamp", "snapshot", "targets")


@dataclass(frozen=True, slots=True)
class Wanted:
    """A NexusMarketplace. uid: of the object; one that is made anew is trusted anew. refresh: whatever changes when it is to be looked at
    now. anew: digest of what changes when what was seen before is to be forgotten, empty at first. floor: the versions that its status
    holds, of this `anew`. access: what its `secretRef` names.
    """

    spec: NexusMarketplaceSpec
    uid: str = ""
    refresh: str = ""
    anew: str = ""
    floor: Versions | None = None
    access: Access | Locked | None = None

    @property
    def place(self) -> tuple[object, ...]:
        """What it is followed by: another one is another marketplace."""
        return self.uid, self.spec.source, pins_of(self.spec)

    @property
    def state(self) -> str:
        """Name of the directory for what was trusted of it."""
        # By uid: an object that was deleted and applied again is how its owner says that the marketplace was made anew, too.
        name = self.uid or "unnamed"
        return f"{name}-{self.anew}" if self.anew else name


@dataclass(slots=True)
class _Entry:
    """looked_at: on the event loop's clock, when the last look began. doubts: how many looks are still to come sooner than usual."""

    wanted: Wanted
    task: asyncio.Task[None]
    index: Index | None = None
    versions: Versions | None = None
    trouble: Trouble | None = None
    again: asyncio.Event = field(default_factory=asyncio.Event)
    looked_at: float = 0.0
    doubts: int = 0


class Indexes:
    """The indexes of all marketplaces. Owns one task for each; call `close()`."""

    def __init__(
        self, *, ttl_s: float, state: Path, changed: Callable[[], None], configmap: ReadConfigMap | None = None
    ) -> None:
        """ttl_s: between two looks. state: directory for what was trusted. changed: called after an index, or the trouble with it, has
        changed. configmap: called in a thread.
        """
        self._ttl_s = ttl_s
        self._state = state
        self._changed = changed
        self._configmap = configmap
        self._entries: dict[str, _Entry] = {}
        self._unlisted: frozenset[Problem] = frozenset()

    @property
    def current(self) -> Mapping[str, Index]:
        """The last good index of each marketplace that has one, by its name."""
        return MappingProxyType({name: e.index for name, e in self._entries.items() if e.index is not None})

    @property
    def troubles(self) -> Mapping[str, Trouble]:
        """What is wrong with the indexes now, by marketplace name."""
        return MappingProxyType({name: e.trouble for name, e in self._entries.items() if e.trouble is not None})

    @property
    def versions(self) -> Mapping[str, Versions]:
        """What was trusted last, by marketplace name; of those that are signed."""
        found = {name: e.versions for name, e in self._entries.items() if e.versions is not None and e.versions.root}
        return MappingProxyType(found)

    @property
    def metadata(self) -> Mapping[str, Mapping[str, int | str]]:
        """The same, as it is written into statuses."""
        return {name: show_versions(each, self._entries[name].wanted.anew) for name, each in self.versions.items()}

    def open_at(self, base_url: str) -> SourcePort | None:
        """Return the place of the marketplace that is at an address, to read other files of it; None when none of them is."""
        for entry in tuple(self._entries.values()):
            try:
                source = sources.open(entry.wanted.spec.source, self._configmap, entry.wanted.access)
            except MarketplaceTrouble:
                continue  # told by the one who follows it
            if source.base_url == base_url:
                return source
        return None

    @property
    def ways(self) -> Mapping[str, Way]:
        """How to fetch from marketplaces that ask for a login, by the address that Snapshots have of them."""
        return find_ways((entry.wanted.spec.source, entry.wanted.access) for entry in self._entries.values())

    async def follow(self, wanted: Mapping[str, Wanted]) -> None:
        """Follow exactly these marketplaces, by name.

        Waits a moment for the first answer of new ones; a marketplace that does not answer is left to its task.
        """
        kept: dict[str, Index | None] = {}
        for name in list(self._entries):
            now, former = wanted.get(name), self._entries[name].wanted
            if now is None or (now.place, now.anew, now.access) != (former.place, former.anew, former.access):
                gone = self._entries.pop(name)
                gone.task.cancel()
                if now is not None and now.place == former.place:
                    kept[name] = gone.index  # until it is trusted anew, or has opened to the new login
        fresh: list[asyncio.Event] = []
        for name, each in wanted.items():
            entry = self._entries.get(name)
            if entry is None:
                answered = asyncio.Event()
                fresh.append(answered)
                task = asyncio.create_task(self._follow(name, answered), name=f"marketplace {name}")
                self._entries[name] = _Entry(each, task, kept.get(name))
                continue
            if entry.wanted.refresh != each.refresh:
                entry.again.set()
            entry.wanted = each
        if fresh:
            waiting = [asyncio.create_task(e.wait()) for e in fresh]
            await asyncio.wait(waiting, timeout=FIRST_WAIT_S)
            for answered in fresh:
                answered.set()  # from now on a first answer is news like any other

    def doubt(self, unlisted: frozenset[Problem]) -> None:
        """Plugins ask for what no index lists: have all looked at as soon as they are not quite new, and `LOOKS` times in all.

        unlisted: these problems, of the newest translation. Those that were there before begin nothing anew.
        """
        begun = unlisted - self._unlisted
        self._unlisted = unlisted
        loop = asyncio.get_running_loop()
        for entry in self._entries.values():
            if not unlisted:
                entry.doubts = 0
            elif begun and not entry.wanted.spec.source.bundled:
                entry.doubts = LOOKS
                loop.call_later(max(entry.looked_at + ASKED_S - loop.time(), 0.0), entry.again.set)

    async def close(self) -> None:
        """Stop following, until `follow` is called again."""
        tasks = [entry.task for entry in self._entries.values()]
        self._entries.clear()
        self._unlisted = frozenset()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _follow(self, name: str, answered: asyncio.Event) -> None:
        await asyncio.sleep(0)  # let `follow` store the entry
        entry = self._entries[name]
        followed: Followed | None = None
        while True:
            entry.again.clear()
            entry.looked_at = asyncio.get_running_loop().time()
            entry.doubts = max(entry.doubts - 1, 0)
            before = (entry.index, entry.trouble, entry.versions)
            try:
                if followed is None:
                    followed = self._followed(name, entry.wanted)
                index, versions = await background.run(followed.update, f"marketplace {name}")
                if entry.index is None or (index.origin, index.releases) != (entry.index.origin, entry.index.releases):
                    entry.index = index
                entry.versions, entry.trouble = versions, None
            except MarketplaceTrouble as err:
                if entry.index is None and followed is not None:
                    # The process is new, what it trusted is not.
                    kept = await asyncio.to_thread(followed.last)
                    if kept is not None:
                        entry.index, entry.versions = kept
                entry.trouble = Trouble(err.reason, err.what, err.fix, entry.index is not None)
            if (entry.index, entry.trouble, entry.versions) != before:
                if entry.trouble is not None:
                    log.warning("marketplace %s: %s", name, entry.trouble.what)
                if answered.is_set():
                    self._changed()
            answered.set()
            try:
                async with asyncio.timeout(self._wait_s(entry)):
                    await entry.again.wait()
            except TimeoutError:
                continue

    def _wait_s(self, entry: _Entry) -> float:
        if entry.trouble is not None:
            return RETRY_S
        return min(AGAIN_S, self._ttl_s) if entry.doubts else self._ttl_s

    def _followed(self, name: str, wanted: Wanted) -> Followed:
        """Raises `MarketplaceTrouble`."""
        source = sources.open(wanted.spec.source, self._configmap, wanted.access)
        forget = f'say so: kubectl annotate nexusmarketplace {name} {TRUST_ANEW}="$(date +%s)" --overwrite'
        return Followed(source, pins_of(wanted.spec), self._state / wanted.state, wanted.floor, forget=forget)


def parse_versions(value: object) -> Versions:
    """Return the versions in a status; what cannot be read of them counts as none."""
    if not isinstance(value, Mapping):
        return Versions()
    numbers = {role: value.get(role) for role in ROLES}
    known = {role: n for role, n in numbers.items() if isinstance(n, int) and not isinstance(n, bool) and n >= 0}
    return Versions(**known, expires_utc=str(value.get("expires") or ""))


def show_versions(versions: Versions, anew: str = "") -> dict[str, int | str]:
    """Return the versions as they are written into a status. anew: as in `Wanted`."""
    shown: dict[str, int | str] = {role: getattr(versions, role) for role in ROLES}
    return {**shown, "expires": versions.expires_utc, **({"anew": anew} if anew else {})}
