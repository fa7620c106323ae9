"""A store in a worker's memory: bounded in bytes, what was not used for longest goes first."""

from __future__ import annotations

from collections import OrderedDict

from nexus_sdk.plugin import RequestHead

from .entries import Entry

_VARIANTS = 64
"""Of one URL. More means that it varies by something that nearly every client has its own of."""


class Memory:
    """Entries by URL and tag. capacity_bytes: of all of them."""

    __slots__ = ("_by_tag", "_by_url", "_capacity_bytes", "_entries", "size_bytes")

    def __init__(self, capacity_bytes: int) -> None:
        self._capacity_bytes = capacity_bytes
        self._entries: OrderedDict[str, Entry] = OrderedDict()
        self._by_url: dict[str, dict[str, None]] = {}
        self._by_tag: dict[str, dict[str, None]] = {}
        self.size_bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    def find(self, url: str, request: RequestHead, now: float) -> Entry | None:
        """Return the newest response that the request chooses, fresh or stale, None when there is none."""
        best: Entry | None = None
        key = ""
        for each in tuple(self._by_url.get(url, ())):
            entry = self._entries[each]
            if now - entry.at > entry.kept_s:
                self._remove(each)
            elif entry.is_for(request) and (best is None or entry.at > best.at):
                best, key = entry, each
        if best is not None:
            self._entries.move_to_end(key)
        return best

    def put(self, entry: Entry) -> None:
        """Store an entry in place of the one for the same requests."""
        key = entry.id
        self._remove(key)
        if entry.size_bytes > self._capacity_bytes:
            return
        of_url = self._by_url.get(entry.url, {})
        if len(of_url) >= _VARIANTS:
            self._remove(next(iter(of_url)))
        self._entries[key] = entry
        self._by_url.setdefault(entry.url, {})[key] = None
        for tag in entry.tags:
            self._by_tag.setdefault(tag, {})[key] = None
        self.size_bytes += entry.size_bytes
        while self.size_bytes > self._capacity_bytes:
            self._remove(next(iter(self._entries)))

    def drop_url(self, url: str) -> int:
        """Remove all responses of a URL; return how many there were."""
        return sum([self._remove(each) for each in tuple(self._by_url.get(url, ()))])

    def drop_tag(self, tag: str) -> int:
        """Remove all responses with a tag; return how many there were."""
        return sum([self._remove(each) for each in tuple(self._by_tag.get(tag, ()))])

    def drop_all(self) -> int:
        """Remove everything; return how much there was."""
        return sum([self._remove(each) for each in tuple(self._entries)])

    def _remove(self, key: str) -> int:
        entry = self._entries.pop(key, None)
        if entry is None:
            return 0
        self.size_bytes -= entry.size_bytes
        for index, name in ((self._by_url, entry.url), *[(self._by_tag, tag) for tag in entry.tags]):
            keys = index[name]
            del keys[key]
            if not keys:
                del index[name]
        return 1
