"""The HTTP side: requests in, protocol and store asked, answers out. Decides nothing that a table of inputs could decide."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import msgspec
from aiohttp import web
from nexus_sdk import HttpProblem, ServiceApp
from nexus_sdk.tracing import W3C
from opentelemetry import trace

from nexus_events import protocol, subscriptions
from nexus_events.delivery import Dispatcher, Lane
from nexus_events.hooks import EventHooks
from nexus_events.metrics import EventMetrics
from nexus_events.ports import Offer, Store, Stored, StoreUnavailable
from nexus_events.settings import EventSettings
from nexus_events.verdicts import to_text

MAX_PAGE = 1000
MAX_WAIT_S = 60.0


class Api:
    """clock: Unix seconds."""

    def __init__(
        self,
        store: Store,
        dispatcher: Dispatcher,
        settings: EventSettings,
        metrics: EventMetrics,
        clock: Callable[[], float],
        hooks: EventHooks,
    ) -> None:
        self._store, self._dispatcher, self._settings, self._hooks = store, dispatcher, settings, hooks
        self._metrics, self._clock = metrics, clock
        self._draining = False

    def attach(self, app: ServiceApp) -> None:
        app.post("/events")(self.publish)
        app.get("/events")(self.read)
        app.get("/subscriptions")(self.list_subscriptions)
        app.put("/subscriptions/{id}")(self.put_subscription)
        app.get("/subscriptions/{id}")(self.get_subscription)
        app.delete("/subscriptions/{id}")(self.delete_subscription)
        app.get("/subscriptions/{id}/dead-letters")(self.list_letters)
        app.delete("/subscriptions/{id}/dead-letters")(self.delete_letters)
        app.post("/subscriptions/{id}/dead-letters/redrive")(self.redrive)

    # --- events -------------------------------------------------------------------------------------------------------------

    async def publish(self, request: web.Request) -> web.Response:
        """Answer 202 once every event of the request is durable."""
        try:
            events = protocol.parse(request.headers.items(), await request.read(), self._settings.limits)
        except protocol.Refused as error:
            self._metrics.refused("invalid")
            raise _refusal(error, "EventInvalid") from error
        try:
            events = await self._hooks.accepted(events)
        except HttpProblem:
            self._metrics.refused("plugin")
            raise
        current: dict[str, str] = {}
        W3C.inject(current)
        offers = [
            _offer(event, current.get("traceparent", ""), has_caller="traceparent" in request.headers)
            for event in events
        ]
        try:
            receipts = await self._store.append(offers, self._clock()) if offers else ()
        except StoreUnavailable as error:
            self._metrics.refused("store")
            raise _unavailable(error) from error
        new = sum(receipt.is_new for receipt in receipts)
        self._metrics.accepted(new, len(receipts) - new)
        span = trace.get_current_span()
        span.set_attribute("nexus.events", len(receipts))
        if len(events) == 1:
            span.set_attribute("messaging.message.id", events[0].id)
        return web.json_response(
            {
                "accepted": len(receipts), "duplicates": len(receipts) - new, "durability": self._store.durability,
                "offsets": [receipt.offset for receipt in receipts],
            },
            status=202,
        )  # fmt: skip

    async def read(self, request: web.Request) -> web.Response:
        """A page of the log; with `wait`, answers as soon as there is something or the time is up."""
        after, limit = _whole(request, "after", 0, 0, 2**62), _whole(request, "limit", 100, 1, MAX_PAGE)
        wait_s = min(float(_whole(request, "wait", 0, 0, int(MAX_WAIT_S))), MAX_WAIT_S)
        pattern = request.query.get("type", "*")
        if not pattern or "*" in pattern[:-1]:
            raise HttpProblem(
                400,
                "QueryInvalid",
                f"type={pattern[:80]!r}: a * may stand at the end only. Use such as order.* or order.placed.",
            )
        ends_at = self._clock() + wait_s
        position = after
        while True:
            found, position = await _kept(self._store.read(position, limit, pattern))
            left = min(ends_at - self._clock(), wait_s)
            if found or left <= 0 or self._draining:
                break
            await self._dispatcher.wait_for_news(position, left)
            if self._dispatcher.head <= position:
                break
        extent = await _kept(self._store.extent())
        document = {
            "events": [_entry(stored) for stored in found], "next": position, "head": extent.head, "oldest": extent.oldest,
            "store": self._store.id, "truncated": after + 1 < extent.oldest,
        }  # fmt: skip
        return web.Response(body=msgspec.json.encode(document), content_type="application/json")

    async def drain(self) -> None:
        """End long polls: the service is stopping."""
        self._draining = True
        self._dispatcher.on_appended(())

    # --- subscriptions ------------------------------------------------------------------------------------------------------

    async def put_subscription(self, request: web.Request) -> web.Response:
        key = request.match_info["id"]
        try:
            asked, start = subscriptions.parse(key, await _document(request), self._settings.sinks, now=self._clock())
        except protocol.Refused as error:
            raise _refusal(error, "SubscriptionInvalid") from error
        lanes = self._dispatcher.lanes()
        if key not in lanes:
            if len(lanes) >= self._settings.max_subscriptions:
                detail = (
                    f"There are {len(lanes)} subscriptions already. Delete some, use one with several types, "
                    "or raise NEXUS_EVENTS_MAX_SUBSCRIPTIONS."
                )
                raise HttpProblem(429, "TooManySubscriptions", detail, headers={"retry-after": "30"})
            head = self._dispatcher.head
            wanted = start.after if start.after is not None and start.store in ("", self._store.id) else head
            asked = replace(asked, cursor=min(wanted, head))
        is_new = await _kept(self._dispatcher.put(asked))
        lane = self._dispatcher.lanes().get(key)
        document = subscriptions.to_document(asked) if lane is None else await self._show(lane)
        return web.json_response(document, status=201 if is_new else 200)

    async def list_subscriptions(self, _request: web.Request) -> web.Response:
        letters = await _kept(self._store.count_letters())  # once: counting for each would cost their product
        lanes = self._dispatcher.lanes()
        return web.json_response({"subscriptions": [self._describe(lanes[key], letters) for key in sorted(lanes)]})

    async def get_subscription(self, request: web.Request) -> web.Response:
        return web.json_response(await self._show(self._lane(request)))

    async def delete_subscription(self, request: web.Request) -> web.Response:
        """204 also when there was none: deleting twice is no error."""
        await _kept(self._dispatcher.remove(request.match_info["id"]))
        return web.Response(status=204)

    async def _show(self, lane: Lane) -> dict[str, Any]:
        return self._describe(lane, await _kept(self._store.count_letters()))

    def _describe(self, lane: Lane, letters: Mapping[str, int]) -> dict[str, Any]:
        """letters: dead letters by subscription."""
        return {
            **subscriptions.to_document(lane.subscription),
            "store": self._store.id,
            "expiresAt": to_text(lane.subscription.expires_at),
            "status": {
                "cursor": lane.cursor, "lag": max(0, self._dispatcher.head - lane.cursor), "skipped": lane.skipped,
                "deadLetters": letters.get(lane.subscription.id, 0), "attempts": lane.tries, "lastError": lane.last_error,
                "nextAttemptAt": to_text(lane.retry_at),
            },
        }  # fmt: skip

    # --- dead letters -------------------------------------------------------------------------------------------------------

    async def list_letters(self, request: web.Request) -> web.Response:
        lane = self._lane(request)
        after, limit = _whole(request, "after", 0, 0, 2**62), _whole(request, "limit", 100, 1, MAX_PAGE)
        letters = await _kept(self._store.letters(lane.subscription.id, after, limit))
        document = {
            "deadLetters": [
                {
                    **_entry(letter.event), "cause": letter.cause, "attempts": letter.attempts,
                    "diedAt": to_text(letter.died_at), "redriven": letter.is_redriven,
                }
                for letter in letters
            ],
            "next": letters[-1].event.offset if letters else after,
        }  # fmt: skip
        return web.Response(body=msgspec.json.encode(document), content_type="application/json")

    async def redrive(self, request: web.Request) -> web.Response:
        """Try dead letters again, once each: all of them, or the offsets in the body."""
        lane = self._lane(request)
        offsets = await _offsets(request)
        marked = await _kept(self._store.redrive(lane.subscription.id, offsets))
        self._dispatcher.redrive(lane.subscription.id)
        return web.json_response({"redriven": marked}, status=202)

    async def delete_letters(self, request: web.Request) -> web.Response:
        lane = self._lane(request)
        offsets = await _offsets(request)
        if offsets is None:
            raise HttpProblem(400, "BodyInvalid", 'Name what to delete: {"offsets": [1, 2]}.')
        return web.json_response({"deleted": await _kept(self._store.delete_letters(lane.subscription.id, offsets))})

    def _lane(self, request: web.Request) -> Lane:
        key = request.match_info["id"]
        lane = self._dispatcher.lanes().get(key)
        if lane is None:
            raise HttpProblem(
                404,
                "SubscriptionNotFound",
                f"There is no subscription {key[:130]!r}. PUT /subscriptions/{{id}} makes one; GET /subscriptions lists them.",
            )
        return lane


def _offer(event: protocol.CloudEvent, current: str, *, has_caller: bool) -> Offer:
    """Return what is stored. The trace is the publishing request's, unless only the event itself knows one.

    An event's own traceparent extension is left as it is: it tells of its origin (distributed tracing extension).
    """
    own = event.attributes.get("traceparent")
    known = own if isinstance(own, str) else ""
    chosen = current if current and (has_caller or not known) else known
    if not known and chosen:
        event = event.with_attribute("traceparent", chosen)
    return Offer(event, protocol.to_json(event), chosen)


def _entry(stored: Stored) -> dict[str, Any]:
    entry: dict[str, Any] = {"offset": stored.offset, "receivedAt": to_text(stored.received_at)}
    try:
        msgspec.json.decode(stored.body)
    except (msgspec.DecodeError, UnicodeError, RecursionError):  # a flipped bit must not cost the whole page its syntax
        return {**entry, "event": None, "damaged": base64.b64encode(stored.body).decode()}
    return {**entry, "event": msgspec.Raw(stored.body)}


def _refusal(error: protocol.Refused, reason: str) -> HttpProblem:
    problems = [{"where": p.where, "what": p.what, "fix": p.fix} for p in error.problems]
    return HttpProblem(error.status, reason, "; ".join(map(str, error.problems[:3])), problems=problems)


def _unavailable(error: StoreUnavailable) -> HttpProblem:
    return HttpProblem(
        503, "StoreUnavailable", str(error), headers={"retry-after": f"{max(1, round(error.retry_after_s))}"}
    )


async def _kept(answer: Any) -> Any:
    try:
        return await answer
    except StoreUnavailable as error:
        raise _unavailable(error) from error


def _whole(request: web.Request, name: str, default: int, low: int, high: int) -> int:
    text = request.query.get(name, "")
    if not text:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 20 and low <= int(text) <= high):
        raise HttpProblem(400, "QueryInvalid", f"{name}={text[:40]!r}: use a whole number from {low} to {high}.")
    return int(text)


async def _document(request: web.Request) -> Any:
    try:
        return json.loads(await request.read())
    except (ValueError, RecursionError) as error:
        raise HttpProblem(
            400, "BodyInvalid", f"The body is not JSON ({error}). Send a JSON object in UTF-8."
        ) from error


async def _offsets(request: web.Request) -> Sequence[int] | None:
    if not await request.read():
        return None
    document = await _document(request)
    offsets = document.get("offsets") if isinstance(document, dict) else ()
    if offsets is None:
        return None
    if not isinstance(offsets, list) or not all(
        isinstance(o, int) and not isinstance(o, bool) and 0 < o < 2**62 for o in offsets
    ):
        raise HttpProblem(400, "BodyInvalid", 'Send {"offsets": [1, 2]}, or no body for all.')
    return offsets
