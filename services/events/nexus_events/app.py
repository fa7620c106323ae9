"""Wires the event service."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nexus_sdk import ServiceApp
from nexus_sdk.plugins import ServicePlugins

from nexus_events import settings as event_settings
from nexus_events.api import Api
from nexus_events.couriers import HttpCourier
from nexus_events.delivery import Dispatcher
from nexus_events.hooks import EventHooks
from nexus_events.metrics import EventMetrics
from nexus_events.openapi import DOCUMENT
from nexus_events.ports import Store, StoreUnavailable
from nexus_events.stores.memory import MemoryStore
from nexus_events.stores.sqlite import SqliteStore
from nexus_events.verdicts import Verdict

VERSION = "0.1.0"
PURGE_EVERY_S = 10.0


def build(environ: Mapping[str, str] | None = None, **options: Any) -> ServiceApp:
    """Return the service, ready to start. options: for ServiceApp (tests hand in discovery and span processors).

    Raises SettingsError.
    """
    environ = os.environ if environ is None else environ
    settings = event_settings.parse(environ)
    app = ServiceApp(
        "events", version=VERSION, openapi=DOCUMENT, environ=environ, max_body_bytes=settings.max_body_bytes,
        meta={"nexus-type": "events"}, **options,
    )  # fmt: skip
    store: Store = (
        MemoryStore() if settings.store == "memory"
        else SqliteStore(Path(app.settings.data_dir or event_settings.DEFAULT_DIRECTORY), max_bytes=settings.max_store_bytes)
    )  # fmt: skip
    courier = HttpCourier(app.client, settings.sinks, time.time)
    counted = _Counted()
    hooks = EventHooks(ServicePlugins(app), settings.limits)
    dispatcher = Dispatcher(
        store,
        courier,
        tracer=app.tracer,
        log=app.log,
        counted=counted,
        clock=time.time,
        rng=random.Random(),
        hooks=hooks,
    )
    metrics = counted.metrics = EventMetrics(
        app.metrics,
        head=lambda: dispatcher.head,
        subscriptions=lambda: len(dispatcher.lanes()),
        lag=lambda: max((dispatcher.head - lane.cursor for lane in dispatcher.lanes().values()), default=0),
    )
    api = Api(store, dispatcher, settings, metrics, time.time, hooks)
    api.attach(app)

    async def start() -> None:
        await store.open(dispatcher.on_appended)
        await dispatcher.load()
        app.log.info(
            "store opened", durability=store.durability, head=dispatcher.head, subscriptions=len(dispatcher.lanes())
        )

    async def purge() -> None:
        while True:
            try:
                metrics.purged(await store.purge(settings.keep_events, time.time() - settings.keep_s))
            except StoreUnavailable as error:
                app.log.warning("retention could not delete, will be tried again", detail=str(error))
            await asyncio.sleep(PURGE_EVERY_S)

    app.on_start(start)
    app.on_drain(api.drain)
    app.on_stop(store.close)
    app.on_stop(courier.close)
    app.background(dispatcher.run, name="deliveries")
    app.background(purge, name="retention")
    app.readiness("store", store.extent)
    return app


class _Counted:
    """Breaks the ring: the metrics ask the dispatcher, the dispatcher counts in the metrics."""

    metrics: EventMetrics

    def attempted(self, verdict: Verdict) -> None:
        self.metrics.attempted(verdict)

    def skipped(self, events: int) -> None:
        self.metrics.skipped(events)


def run() -> None:
    """Serve until SIGTERM: what `nexus events` and `python -m nexus_events` do."""
    build().run()
