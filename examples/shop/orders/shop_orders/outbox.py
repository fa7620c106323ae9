"""Sends committed events to the event service until it confirms them."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Protocol, TypeVar

from nexus_sdk import NexusError, ServiceApp
from opentelemetry import context, propagate, trace

from shop_orders.store import Store, Waiting

PAGE = 100
"""Events read from the store at a time."""
IDLE_S = 5.0
"""How long to rest without news. Then the store is looked at again, for events of a replica that died on the same file."""
FIRST_WAIT_S, LONGEST_WAIT_S = 0.1, 5.0
"""Pause after a failure: doubled each time, with jitter, up to the longest."""

HOPELESS = frozenset({400, 413, 415, 422, 431})
"""Answers that speak of this very event. All others (401 and 403 too) speak of the way to the event service: they may mend."""

T = TypeVar("T")


class InThread(Protocol):
    """Runs a blocking call in the store's thread."""

    async def __call__(self, call: Callable[[], T], /) -> T: ...


class Away(Exception):
    """The event service cannot take the event now. Try again later."""


class Outbox:
    """Run `run()` as a background task; call `wake()` after each commit. One event at a time, in the order of the commits."""

    def __init__(self, app: ServiceApp, store: Store, in_thread: InThread) -> None:
        self._app = app
        self._store = store
        self._in_thread = in_thread
        self._news = asyncio.Event()

    def wake(self) -> None:
        """There is something to send."""
        self._news.set()

    async def run(self) -> None:
        """Send for ever. The first failure in a row is logged, and its end."""
        failures = 0
        while True:
            self._news.clear()
            try:
                sent = await self._send_page()
            except Away as err:
                failures += 1
                if failures == 1:
                    self._app.log.warning("orders wait in the outbox", detail=str(err))
                await asyncio.sleep(min(LONGEST_WAIT_S, FIRST_WAIT_S * 2 ** min(failures, 10)) * random.uniform(0.5, 1))
                continue
            if failures and sent:
                self._app.log.info("the event service is back: the outbox is being sent")
                failures = 0
            if sent < PAGE:
                try:
                    async with asyncio.timeout(IDLE_S):
                        await self._news.wait()
                except TimeoutError:
                    continue

    async def _send_page(self) -> int:
        """Send what waits, at most a page. Returns how many are done with. Raises Away."""
        waiting = await self._in_thread(lambda: self._store.waiting(PAGE))
        for entry in waiting:
            await self._send(entry)
        return len(waiting)

    async def _send(self, entry: Waiting) -> None:
        # The span belongs to the trace of the request that placed the order, however long ago that was.
        parent = propagate.extract({"traceparent": entry.traceparent} if entry.traceparent else {})
        token = context.attach(parent)
        try:
            with self._app.tracer.start_as_current_span(
                "publish order.placed",
                kind=trace.SpanKind.PRODUCER,
                attributes={"messaging.system": "nexus", "messaging.message.id": str(entry.event["id"])},
                record_exception=False,
            ):
                reply = await self._app.client.request(
                    "POST",
                    "events",
                    "/events",
                    json=entry.event,
                    headers={"content-type": "application/cloudevents+json"},
                    deadline_s=5.0,
                    idempotent=True,  # the event service knows an event by source and id
                )
        except NexusError as err:
            raise Away(str(err)) from err
        finally:
            context.detach(token)
        if reply.status in (200, 202):
            await self._in_thread(lambda: self._store.confirmed(entry.number))
        elif reply.status in HOPELESS:
            why = f"{reply.status} {reply.body[:500].decode(errors='replace')}"
            self._app.log.error("the event service refused an event for good", order=entry.event["id"], detail=why)
            await self._in_thread(lambda: self._store.refused(entry.number, why))
        else:
            raise Away(f"the event service answered {reply.status}")
