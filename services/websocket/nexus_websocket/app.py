"""Wires the WebSocket service."""

from __future__ import annotations

import os
import random
import uuid
from collections.abc import Mapping
from typing import Any

import msgspec
from aiohttp import web
from nexus_sdk import HttpProblem, ServiceApp, SettingsError
from nexus_sdk.tracing import W3C
from opentelemetry.context import Context

from nexus_websocket import cloudevents, protocol
from nexus_websocket import settings as socket_settings
from nexus_websocket.addresses import find_address
from nexus_websocket.feeding import OFFSET_HEADER, STORE_HEADER, Feeding
from nexus_websocket.hub import Hub
from nexus_websocket.metrics import SocketMetrics
from nexus_websocket.openapi import DOCUMENT

VERSION = "0.1.0"


class _Posted(msgspec.Struct, forbid_unknown_fields=True):
    channel: str
    data: msgspec.Raw = msgspec.Raw(b"null")


def build(environ: Mapping[str, str] | None = None, **options: Any) -> ServiceApp:
    """Return the service, ready to start. options: for ServiceApp (tests hand in discovery and span processors).

    Raises SettingsError.
    """
    environ = os.environ if environ is None else environ
    settings = socket_settings.parse(environ)
    app = ServiceApp(
        "websocket", version=VERSION, openapi=DOCUMENT, environ=environ, meta={"nexus-type": "websocket"}, **options
    )
    instance = uuid.uuid4().hex[:12]
    metrics = SocketMetrics(app.metrics)
    hub = Hub(settings, instance, app.tracer, metrics, app.log)

    def address() -> str:
        host = app.settings.advertise_address or find_address(app.settings.host, app.settings.consul.url)
        return f"[{host}]:{app.port}" if ":" in host else f"{host}:{app.port}"

    feeding = Feeding(app, settings, instance, address, random.Random())

    @app.get("/ws")
    async def connect(request: web.Request) -> web.StreamResponse:
        return await hub.connect(request)

    @app.post("/publish")
    async def publish(request: web.Request) -> web.Response:
        try:
            posted = msgspec.json.decode(await request.read(), type=_Posted)
            channel, data = protocol.check_channel(posted.channel), protocol.check_data(posted.data)
        except (msgspec.DecodeError, RecursionError, UnicodeError) as err:
            raise HttpProblem(400, "MessageInvalid", f'{err}. Send {{"channel": "orders", "data": …}}.') from err
        except protocol.Refused as err:
            raise HttpProblem(400, "MessageInvalid", err.text) from err
        sent = hub.deliver(channel, data, origin="post")
        return web.json_response({"id": sent.id, "receivers": sent.receivers})

    @app.post("/ingest")
    async def ingest(request: web.Request) -> web.Response:
        """Take pushed events: 204 once they are queued for every subscriber; an event of no channel is taken and dropped."""
        try:
            events = cloudevents.parse(request.headers, await request.read())
        except cloudevents.NotAnEvent as err:
            raise HttpProblem(400, "EventInvalid", str(err)) from err
        for event in events:
            if not hub.is_new(event.source, event.id):
                metrics.duplicate()
                continue
            parent = None
            if event.traceparent and "traceparent" not in request.headers:
                parent = W3C.extract({"traceparent": event.traceparent}, context=Context())
            for channel in settings.channels_of(event.type):
                hub.deliver(channel, event.data, origin="event", parent=parent)
        feeding.note(request.headers.get(STORE_HEADER, ""), request.headers.get(OFFSET_HEADER, ""))
        return web.Response(status=204)

    async def check_address() -> None:
        try:
            address()
        except OSError as err:
            raise SettingsError(
                f"No address for the event service to push to ({err}). Set NEXUS_ADVERTISE_ADDRESS."
            ) from err

    app.on_drain(hub.drain)
    if settings.feeds:
        app.on_start(check_address)
        app.on_drain(feeding.stop)
        app.background(feeding.run, name="feeding")
        app.readiness("events", feeding.check)
    return app


def run() -> None:
    """Serve until SIGTERM: what `nexus websocket` and `python -m nexus_websocket` do."""
    build().run()
