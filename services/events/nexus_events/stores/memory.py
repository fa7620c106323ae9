"""Events in memory: for tests and for streams that may vanish with the process. The naive reference of the conformance suite."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace

from nexus_events.ports import Extent, Letter, Offer, OnAppended, Receipt, Stored
from nexus_events.subscriptions import Subscription, matches


class MemoryStore:
    """durability `memory`. Nothing is bounded here but by `purge`."""

    durability = "memory"

    def __init__(self) -> None:
        self.id = uuid.uuid4().hex
        self._events: dict[int, tuple[Stored, tuple[str, str]]] = {}
        self._known: dict[tuple[str, str], int] = {}
        self._head = 0
        self._subscriptions: dict[str, Subscription] = {}
        self._letters: dict[str, dict[int, Letter]] = {}
        self._on_appended: OnAppended = lambda _: None

    async def open(self, on_appended: OnAppended) -> None:
        self._on_appended = on_appended

    async def close(self) -> None:
        return None

    async def append(self, offers: Sequence[Offer], now: float) -> tuple[Receipt, ...]:
        receipts, new = [], []
        for offer in offers:
            key = (offer.event.source, offer.event.id)
            if (known := self._known.get(key)) is not None:
                receipts.append(Receipt(known, False))
                continue
            self._head += 1
            stored = Stored(self._head, now, offer.event.type, offer.body, offer.trace)
            self._events[self._head] = (stored, key)
            self._known[key] = self._head
            new.append(stored)
            receipts.append(Receipt(self._head, True))
        if new:
            self._on_appended(new)
        return tuple(receipts)

    async def extent(self) -> Extent:
        return Extent(self._head, next(iter(self._events), self._head + 1))

    async def read(self, after: int, limit: int, pattern: str = "*") -> tuple[tuple[Stored, ...], int]:
        found = [s for o, (s, _) in self._events.items() if o > after and matches(pattern, s.type)][:limit]
        return tuple(found), found[-1].offset if len(found) == limit else max(self._head, after)

    async def purge(self, keep: int, before: float) -> int:
        doomed = [o for o, (s, _) in self._events.items() if o <= self._head - keep or s.received_at < before]
        for offset in doomed:
            _, key = self._events.pop(offset)
            del self._known[key]
        return len(doomed)

    async def put_subscription(self, subscription: Subscription) -> None:
        self._subscriptions[subscription.id] = subscription

    async def subscriptions(self) -> tuple[Subscription, ...]:
        return tuple(self._subscriptions[key] for key in sorted(self._subscriptions))

    async def delete_subscription(self, subscription_id: str) -> bool:
        self._letters.pop(subscription_id, None)
        return self._subscriptions.pop(subscription_id, None) is not None

    async def advance(self, cursors: Mapping[str, tuple[int, int]]) -> None:
        for key, (cursor, skipped) in cursors.items():
            if key in self._subscriptions:
                self._subscriptions[key] = replace(self._subscriptions[key], cursor=cursor, skipped=skipped)

    async def bury(self, subscription_id: str, letter: Letter, cursor: int) -> None:
        if subscription_id in self._subscriptions:
            self._letters.setdefault(subscription_id, {})[letter.event.offset] = letter
            self._subscriptions[subscription_id] = replace(self._subscriptions[subscription_id], cursor=cursor)

    async def letters(
        self, subscription_id: str, after: int, limit: int, *, redriven: bool | None = None
    ) -> tuple[Letter, ...]:
        every = sorted(self._letters.get(subscription_id, {}).items())
        return tuple(x for o, x in every if o > after and redriven in (None, x.is_redriven))[:limit]

    async def redrive(self, subscription_id: str, offsets: Sequence[int] | None) -> int:
        letters = self._letters.get(subscription_id, {})
        chosen = [o for o, x in letters.items() if not x.is_redriven and (offsets is None or o in offsets)]
        for offset in chosen:
            letters[offset] = replace(letters[offset], is_redriven=True)
        return len(chosen)

    async def delete_letters(self, subscription_id: str, offsets: Sequence[int]) -> int:
        letters = self._letters.get(subscription_id, {})
        return sum(letters.pop(offset, None) is not None for offset in offsets)

    async def count_letters(self) -> Mapping[str, int]:
        return {key: len(letters) for key, letters in self._letters.items() if letters}
