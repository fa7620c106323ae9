"""Keeps this replica subscribed at the event service, with a TTL, so that every replica gets every event.

The subscription leads to this very process. It is renewed at a third of its TTL; when the event service was away or lost
it, the next PUT makes it anew and says from which offset to go on, so that a gap is filled.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

from nexus_sdk import NexusError, ServiceApp, tracing

from nexus_websocket.settings import SocketSettings

FIRST_WAIT_S, LONGEST_WAIT_S = 0.1, 3.0
PATIENCE_S = 15.0
"""How long a replica that has never been subscribed counts as not ready, and tries again at least every `SOON_S`: a client
that connected earlier would miss events in silence. After that an event service that is away keeps nobody from the rest."""
SOON_S = 0.3
OFFSET_HEADER = "nexus-event-offset"
STORE_HEADER = "nexus-event-store"


class Feeding:
    """Run `run()` as a background task. address: finds `host:port` under which the event service reaches this process."""

    def __init__(
        self, app: ServiceApp, settings: SocketSettings, instance: str, address: Callable[[], str], rng: random.Random
    ) -> None:
        self._app, self._settings, self._address, self._rng = app, settings, address, rng
        self._path = f"/subscriptions/{app.registered_name}.{instance}"
        self._store, self._offset = "", 0
        self._was_made = self._stopped = False
        self._patient_until = float("inf")
        self._error = "not tried yet"

    def note(self, store: str, offset: str) -> None:
        """Remember how far events came: the position of a later subscription."""
        if store and offset.isascii() and offset.isdigit() and len(offset) < 19:
            if store != self._store:
                self._store, self._offset = store, 0
            self._offset = max(self._offset, int(offset))

    async def check(self) -> None:
        """The readiness check: raises RuntimeError while the first subscription is being made, for `PATIENCE_S` at most."""
        if not self._was_made and asyncio.get_running_loop().time() < self._patient_until:
            raise RuntimeError(f"not subscribed yet: {self._error}")

    async def run(self) -> None:
        """Renew for ever; the first failure in a row is logged, and its end."""
        loop = asyncio.get_running_loop()
        self._patient_until = loop.time() + PATIENCE_S
        failures, told = 0, False
        while not self._stopped:
            self._error = error = await self._put()
            if error:
                failures += 1
                starting = not self._was_made and loop.time() < self._patient_until
                # Both services often start at the same moment: the first tries are no news.
                if not told and (failures >= 3 or not starting):
                    told = True
                    self._app.log.warning("not subscribed at the event service, will be tried again", detail=error)
                longest = SOON_S if starting else LONGEST_WAIT_S
                ceiling = min(longest, self._settings.ttl_s / 3, FIRST_WAIT_S * 2.0 ** min(failures, 10))
                await asyncio.sleep(ceiling * self._rng.uniform(0.5, 1))
                continue
            if told:
                self._app.log.info("subscribed at the event service again", failures=failures)
            failures, told = 0, False
            await asyncio.sleep(self._settings.ttl_s / 3 * self._rng.uniform(0.8, 1))

    async def _put(self) -> str:
        """Make or renew the subscription; return why it failed, or an empty text."""
        document: dict[str, object] = {
            "sink": {"url": f"http://{self._address()}/ingest"},
            "types": list(dict.fromkeys(feed.type for feed in self._settings.feeds)),
            "ttlSeconds": self._settings.ttl_s,
            # Live messages: what could not be delivered for the length of a subscription is of no use any more.
            "delivery": {"maxAgeSeconds": max(60.0, self._settings.ttl_s), "timeoutSeconds": 5},
        }
        if self._store:
            document["start"] = {"after": self._offset, "store": self._store}
        try:
            with tracing.untraced():
                answer = await self._app.client.request(
                    "PUT", self._settings.events_service, self._path, json=document, deadline_s=5.0
                )
        except NexusError as err:
            return str(err)
        if answer.status not in (200, 201):
            return f"the event service answered {answer.status}: {answer.text()[:300]}"
        try:
            known = answer.json()
            store, cursor = str(known["store"]), str(known["status"]["cursor"])
        except (NexusError, KeyError, TypeError) as err:
            return f"the event service's answer is not understood ({err!r}); is {self._settings.events_service} an event service?"
        if answer.status == 201 and self._was_made:
            self._app.log.warning(
                "the event service had lost the subscription; it is made anew", subscription=self._path
            )
        if answer.status == 201 and store != self._store:
            self.note(store, cursor)
        self._was_made = True
        return ""

    async def stop(self) -> None:
        """Take the subscription back. Best effort: the TTL does it otherwise."""
        self._stopped = True
        if not self._was_made:
            return
        try:
            await self._app.client.request("DELETE", self._settings.events_service, self._path, deadline_s=1.0)
        except NexusError as err:
            self._app.log.info("subscription not taken back; it ends by its TTL", detail=str(err))
