"""Pushes stored events to subscribers: ordered per subscription, at least once, each subscription on its own.

One task a subscription, one event in flight in each, so a slow subscriber costs nobody else anything. Its position is a
cursor that is written in the background at most every `FLUSH_S`: a crash repeats what was delivered since, never loses.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from nexus_core.hooks import Delivery
from nexus_sdk.logs import Log
from nexus_sdk.tracing import W3C
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import SpanKind, StatusCode

from nexus_events import protocol
from nexus_events.hooks import EventHooks
from nexus_events.ports import Courier, Letter, Outcome, Store, Stored, StoreUnavailable
from nexus_events.subscriptions import Subscription
from nexus_events.tail import Tail
from nexus_events.verdicts import Decision, Verdict, counts, judge

PAGE = 256
FLUSH_S = 0.1
SWEEP_S = 0.5
STORE_WAIT_S = 1.0
OFFSET_HEADER = "nexus-event-offset"
STORE_HEADER = "nexus-event-store"


class Counts(Protocol):
    """What the metrics count."""

    def attempted(self, verdict: Verdict) -> None: ...

    def skipped(self, events: int) -> None: ...


@dataclass(slots=True)
class Lane:
    """One subscription at work. failed, tries: of the event now being tried. retry_at: Unix seconds of the next attempt."""

    subscription: Subscription
    cursor: int
    skipped: int
    task: asyncio.Task[None] | None = None
    failed: int = 0
    tries: int = 0
    retry_at: float | None = None
    last_error: str = ""
    letters: bool = True
    """There may be dead letters to redrive."""


def _is_over(subscription: Subscription, now: float) -> bool:
    return subscription.expires_at is not None and subscription.expires_at <= now


class Dispatcher:
    """Owned by the app: `run` for as long as it lives. clock: Unix seconds. rng: of the jitter."""

    def __init__(
        self, store: Store, courier: Courier, *, tracer: trace.Tracer, log: Log, counted: Counts,
        clock: Callable[[], float], rng: random.Random, hooks: EventHooks,
    ) -> None:  # fmt: skip
        self._store, self._courier, self._tracer, self._log = store, courier, tracer, log
        self._counted, self._clock, self._rng, self._hooks = counted, clock, rng, hooks
        self._tail = Tail()
        self._lanes: dict[str, Lane] = {}
        self._news = asyncio.Event()
        self._changed = asyncio.Event()
        self._dirty: set[str] = set()
        self._turns = asyncio.Lock()
        """Held while a subscription is made or removed: else one removed in the store could live on here, or the reverse."""

    # --- what the API asks --------------------------------------------------------------------------------------------------

    def on_appended(self, events: Sequence[Stored]) -> None:
        """Take events that have just become durable."""
        self._tail.add(events)
        news, self._news = self._news, asyncio.Event()
        news.set()

    @property
    def head(self) -> int:
        return self._tail.head

    async def wait_for_news(self, after: int, timeout_s: float) -> None:
        """Return when there is an event beyond `after`, or the time is up."""
        try:
            async with asyncio.timeout(timeout_s):
                while self._tail.head <= after:
                    await self._news.wait()
        except TimeoutError:
            return

    def lanes(self) -> Mapping[str, Lane]:
        """Every subscription by id, with its live state."""
        return self._lanes

    async def put(self, subscription: Subscription) -> bool:
        """Store it and deliver by it; return whether it is new. An existing one keeps its position."""
        async with self._turns:
            return await self._put(subscription)

    async def _put(self, subscription: Subscription) -> bool:
        known = self._lanes.get(subscription.id)
        if known is not None:
            subscription = replace(
                subscription, cursor=known.cursor, skipped=known.skipped, created_at=known.subscription.created_at
            )
        await self._store.put_subscription(subscription)
        lane = self._lanes.get(subscription.id)
        if lane is None:
            self._lanes[subscription.id] = Lane(subscription, subscription.cursor, subscription.skipped)
        else:
            restart = not lane.subscription.is_same_order(subscription)
            lane.subscription = subscription
            if restart and lane.task is not None:
                lane.task.add_done_callback(lambda _: self._changed.set())  # `run` starts it again, with the new order
                lane.task.cancel()
        self._changed.set()
        return known is None

    async def remove(self, subscription_id: str, *, expired_at: float | None = None) -> bool:
        """Return whether it was there. expired_at: only if it has expired by then (it may be renewed while this waits)."""
        async with self._turns:
            known = self._lanes.get(subscription_id)
            if expired_at is not None and (known is None or not _is_over(known.subscription, expired_at)):
                return False
            return await self._remove(subscription_id)

    async def _remove(self, subscription_id: str) -> bool:
        lane = self._lanes.pop(subscription_id, None)
        if lane is not None and lane.task is not None and lane.task is not asyncio.current_task():
            lane.task.cancel()
        self._dirty.discard(subscription_id)
        return await self._store.delete_subscription(subscription_id) or lane is not None

    def redrive(self, subscription_id: str) -> None:
        """Dead letters were marked for redelivery: look at once."""
        lane = self._lanes.get(subscription_id)
        if lane is not None:
            lane.letters = True
            news, self._news = self._news, asyncio.Event()
            news.set()

    # --- life -----------------------------------------------------------------------------------------------------------------

    async def load(self) -> None:
        """Read head and subscriptions from the opened store. Call before events are taken."""
        self._tail = Tail((await self._store.extent()).head)
        for subscription in await self._store.subscriptions():
            self._lanes[subscription.id] = Lane(subscription, subscription.cursor, subscription.skipped)

    async def run(self) -> None:
        """Deliver until cancelled; the cursors are written at the end."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._flush_for_ever())
                while True:
                    self._changed.clear()
                    await self._sweep()
                    # Lanes are started here and not in `put`: a request's deadline and trace must not cling to them.
                    for lane in list(self._lanes.values()):
                        if lane.task is None or lane.task.done():
                            lane.task = group.create_task(self._keep(lane))
                    try:
                        async with asyncio.timeout(SWEEP_S):
                            await self._changed.wait()
                    except TimeoutError:
                        continue
        finally:
            for lane in self._lanes.values():
                lane.task = None
            try:
                await self._flush()
            except StoreUnavailable as error:
                self._log.warning(
                    "positions not written: deliveries of the last moment will be repeated", detail=str(error)
                )

    async def _sweep(self) -> None:
        now = self._clock()
        for key, lane in list(self._lanes.items()):
            if _is_over(lane.subscription, now):
                try:
                    if await self.remove(key, expired_at=now):
                        self._log.info("subscription expired", subscription=key)
                except StoreUnavailable as error:
                    self._log.warning(
                        "an expired subscription could not be deleted", subscription=key, detail=str(error)
                    )

    async def _flush_for_ever(self) -> None:
        while True:
            await asyncio.sleep(FLUSH_S)
            try:
                await self._flush()
            except StoreUnavailable as error:
                self._log.warning("positions not written, will be tried again", detail=str(error))
                await asyncio.sleep(STORE_WAIT_S)

    async def _flush(self) -> None:
        if not self._dirty:
            return
        keys = [key for key in self._dirty if key in self._lanes]
        self._dirty.clear()
        try:
            await self._store.advance({key: (self._lanes[key].cursor, self._lanes[key].skipped) for key in keys})
        except BaseException:
            self._dirty.update(keys)
            raise

    # --- one subscription -------------------------------------------------------------------------------------------------------

    async def _keep(self, lane: Lane) -> None:
        """Deliver for ever; the failure of one lane, even by a bug, stays in it."""
        key = lane.subscription.id
        while self._lanes.get(key) is lane:
            try:
                await self._deliver(lane)
            except StoreUnavailable as error:
                lane.last_error = str(error)
                self._log.warning("delivery waits for the store", subscription=key, detail=str(error))
            except Exception as error:
                lane.last_error = f"internal error: {type(error).__name__}"
                self._log.exception("delivery failed", subscription=key)
            await asyncio.sleep(STORE_WAIT_S)

    async def _deliver(self, lane: Lane) -> None:
        key = lane.subscription.id
        while self._lanes.get(key) is lane:
            news = self._news  # taken before looking, so that nothing that arrives meanwhile is missed
            if lane.letters:
                lane.letters = False
                try:
                    await self._redeliver(lane)
                except BaseException:  # cancelled by a new order, or the store is away: what is marked stays to be done
                    lane.letters = True
                    raise
            events = self._tail.find(lane.cursor, PAGE)
            if events is None:
                events = await self._read_back(lane)
            for event in events:
                if lane.subscription.wants(event.type) and not await self._until_settled(lane, event):
                    return
                lane.cursor = event.offset
                self._dirty.add(key)
            if not events and not lane.letters:
                await news.wait()

    async def _read_back(self, lane: Lane) -> Sequence[Stored]:
        extent = await self._store.extent()
        if lane.cursor + 1 < extent.oldest:
            lost = extent.oldest - 1 - lane.cursor
            lane.skipped += lost
            lane.cursor = extent.oldest - 1
            self._dirty.add(lane.subscription.id)
            self._counted.skipped(lost)
            self._log.error(
                "retention deleted events before their delivery", subscription=lane.subscription.id, events=lost
            )
        events, looked = await self._store.read(lane.cursor, PAGE)
        if not events:
            lane.cursor = max(lane.cursor, looked)
        return events

    async def _until_settled(self, lane: Lane, event: Stored) -> bool:
        """Try until the event is delivered or a dead letter; False when the subscription is gone."""
        lane.failed = lane.tries = 0
        while True:
            _, decision = await self._attempt(lane, event)
            if decision.verdict is Verdict.DONE:
                lane.last_error = ""
                return True
            lane.last_error = decision.cause
            if decision.verdict is Verdict.GONE:
                self._log.info("subscription removed: its subscriber answered 410", subscription=lane.subscription.id)
                await self.remove(lane.subscription.id)
                return False
            if decision.verdict is Verdict.BURY:
                letter = Letter(event, decision.cause, lane.tries, self._clock())
                await self._store.bury(lane.subscription.id, letter, event.offset)
                self._log.warning(
                    "dead letter", subscription=lane.subscription.id, offset=event.offset, cause=decision.cause
                )
                return True
            lane.retry_at = self._clock() + decision.wait_s
            await asyncio.sleep(decision.wait_s)
            lane.retry_at = None

    async def _redeliver(self, lane: Lane) -> None:
        """Try each marked dead letter once, before the live events; a failure does not hold these up any longer than its attempt."""
        key, after = lane.subscription.id, 0
        while letters := await self._store.letters(key, after, PAGE, redriven=True):
            for letter in letters:
                lane.failed = lane.tries = 0
                after = letter.event.offset
                _, decision = await self._attempt(lane, letter.event)
                if decision.verdict is Verdict.DONE:
                    await self._store.delete_letters(key, [after])
                elif decision.verdict is Verdict.GONE:
                    await self.remove(key)
                    return
                else:
                    dead = replace(
                        letter,
                        cause=decision.cause,
                        attempts=letter.attempts + 1,
                        died_at=self._clock(),
                        is_redriven=False,
                    )
                    await self._store.bury(key, dead, lane.cursor)

    async def _attempt(self, lane: Lane, stored: Stored) -> tuple[Outcome, Decision]:
        try:
            event = protocol.from_json(stored.body)
        except protocol.Refused as error:
            # SQLite notices a torn page, not a flipped bit in a body: it costs this event, not those behind it.
            self._log.error("a stored event is damaged", offset=stored.offset, detail=str(error))
            return Outcome(0), Decision(Verdict.BURY, cause=f"damaged in the store: {error}"[:500])
        headers, body = protocol.to_binary(event)
        parent = W3C.extract({"traceparent": stored.trace} if stored.trace else {}, context=Context())
        lane.tries += 1
        with self._tracer.start_as_current_span(
            f"events deliver {event.type}", context=parent, kind=SpanKind.PRODUCER,
            attributes={
                "messaging.system": "nexus", "messaging.operation.type": "send", "messaging.message.id": event.id,
                "nexus.subscription": lane.subscription.id, "nexus.event.offset": stored.offset, "nexus.attempt": lane.tries,
            },
        ) as span:  # fmt: skip
            W3C.inject(headers)
            headers[OFFSET_HEADER], headers[STORE_HEADER] = str(stored.offset), self._store.id
            subscription = lane.subscription
            began = self._clock()
            outcome = await self._courier.hand_over(subscription.sink, headers, body, subscription.delivery.timeout_s)
            lane.failed += counts(outcome)
            age_s = self._clock() - stored.received_at
            decision = judge(
                outcome, subscription.delivery, failed=lane.failed, tries=lane.tries, age_s=age_s, rng=self._rng
            )
            if decision.verdict is not Verdict.DONE:
                span.set_status(StatusCode.ERROR, decision.cause)
            span.set_attribute("http.response.status_code", outcome.status)
        self._counted.attempted(decision.verdict)
        delivery = Delivery(
            subscription.id, str(subscription.sink), lane.tries, outcome.status, decision.cause, self._clock() - began
        )
        if decision.verdict is Verdict.DONE:
            await self._hooks.delivered(event, delivery)
        elif decision.verdict is Verdict.BURY:
            await self._hooks.dead_lettered(event, delivery)
        return outcome, decision
