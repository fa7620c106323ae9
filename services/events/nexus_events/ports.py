"""What the event service needs from the outside: a durable store, and a way to hand one event to a subscriber."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from nexus_events.protocol import CloudEvent
from nexus_events.subscriptions import Sink, Subscription


@dataclass(frozen=True, slots=True)
class Offer:
    """An event to be stored. trace: W3C traceparent of its publication, or empty. body: its structured form."""

    event: CloudEvent
    body: bytes
    trace: str = ""


@dataclass(frozen=True, slots=True)
class Stored:
    """An event in the store. offset: 1, 2, …, in the order of acceptance. received_at: Unix seconds."""

    offset: int
    received_at: float
    type: str
    body: bytes
    trace: str = ""


@dataclass(frozen=True, slots=True)
class Receipt:
    """The answer to one Offer. is_new: False when (source, id) was stored already; `offset` is then that event's."""

    offset: int
    is_new: bool


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead letter: an event that a subscription did not take, kept with the cause. died_at: Unix seconds.

    The event is a copy, so retention of the log does not touch it.
    """

    event: Stored
    cause: str
    attempts: int
    died_at: float
    is_redriven: bool = False


@dataclass(frozen=True, slots=True)
class Extent:
    """What the log holds. head: offset of the newest event ever stored, 0 for none. oldest: of the oldest still held, head + 1 for none."""

    head: int
    oldest: int


class StoreUnavailable(Exception):
    """The store cannot take or give data now: disk full, I/O error, too much waiting. Nothing of the call was stored.

    Environment's, retryable. retry_after_s: when a further try makes sense.
    """

    def __init__(self, text: str, retry_after_s: float = 1.0) -> None:
        super().__init__(text)
        self.retry_after_s = retry_after_s


OnAppended = Callable[[Sequence[Stored]], None]
"""Called in the event loop once per commit, before the appenders are answered, with the new events in offset order."""


class Store(Protocol):
    """Keeps events, subscriptions, cursors and dead letters. One owner; its methods may be called from many tasks at once.

    Every method raises StoreUnavailable. What has returned is as durable as `durability` says.
    `tests/conformance/events` runs against every implementation.
    """

    @property
    def durability(self) -> str:
        """`fsynced`: on the disk when the method returns. `memory`: gone with the process."""
        ...

    @property
    def id(self) -> str:
        """Names this log: offsets of another id mean nothing here. Known after `open`."""
        ...

    async def open(self, on_appended: OnAppended) -> None:
        """Recover and take the store for this process alone. Raises StoreUnavailable: which file, why, how to fix."""
        ...

    async def close(self) -> None:
        """Finish what was submitted and release the store. Idempotent."""
        ...

    async def append(self, offers: Sequence[Offer], now: float) -> tuple[Receipt, ...]:
        """Store all or none; idempotent by (source, id). now: Unix seconds."""
        ...

    async def extent(self) -> Extent: ...

    async def read(self, after: int, limit: int, pattern: str = "*") -> tuple[tuple[Stored, ...], int]:
        """Return events with offset > after, in order, whose type matches; and the offset up to which was looked.

        With `limit` events, or fewer because they are large (a store may end a page at some megabytes), the second value
        is the last one's offset; else it is the head: nothing further matches.
        """
        ...

    async def purge(self, keep: int, before: float) -> int:
        """Delete the oldest events beyond the newest `keep`, and those received before `before`; return how many.

        Offsets are never used again.
        """
        ...

    async def put_subscription(self, subscription: Subscription) -> None:
        """Store it whole, replacing one of the same id."""
        ...

    async def subscriptions(self) -> tuple[Subscription, ...]:
        """All, by id."""
        ...

    async def delete_subscription(self, subscription_id: str) -> bool:
        """Delete it with its dead letters; return whether it was there."""
        ...

    async def advance(self, cursors: Mapping[str, tuple[int, int]]) -> None:
        """Set (cursor, skipped) of subscriptions; ids that are gone are ignored."""
        ...

    async def bury(self, subscription_id: str, letter: Letter, cursor: int) -> None:
        """Add the dead letter (replacing one of the same offset) and set the cursor, in one step."""
        ...

    async def letters(
        self, subscription_id: str, after: int, limit: int, *, redriven: bool | None = None
    ) -> tuple[Letter, ...]:
        """Return dead letters with offset > after, in order; at most `limit`, fewer if they are large.

        redriven: only those that are, or are not, marked for redelivery.
        """
        ...

    async def redrive(self, subscription_id: str, offsets: Sequence[int] | None) -> int:
        """Mark dead letters for redelivery (None: all) and return how many newly are."""
        ...

    async def delete_letters(self, subscription_id: str, offsets: Sequence[int]) -> int:
        """Delete dead letters and return how many there were."""
        ...

    async def count_letters(self) -> Mapping[str, int]:
        """Dead letters by subscription id; ids without any may be absent."""
        ...


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one attempt. status: the HTTP answer's, 0 for none. error: why there was none; empty otherwise.

    retry_after_s: as the subscriber asked for, None if it did not.
    """

    status: int
    error: str = ""
    retry_after_s: float | None = None


class Courier(Protocol):
    """Hands one event to one sink: HTTP today; other transports are other couriers."""

    async def hand_over(self, sink: Sink, headers: Mapping[str, str], body: bytes, timeout_s: float) -> Outcome:
        """Make one attempt within `timeout_s`. Raises nothing but CancelledError: what goes wrong is an Outcome."""
        ...

    async def close(self) -> None: ...
