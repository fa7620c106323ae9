"""Wires the orders service: three operations, a SQLite store, and the outbox that announces each order."""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import msgspec
from aiohttp import web
from nexus_sdk import HttpProblem, NexusError, ServiceApp
from opentelemetry import propagate

from shop_orders import orders
from shop_orders.openapi import DOCUMENT
from shop_orders.outbox import Outbox
from shop_orders.store import Store

T = TypeVar("T")
LONGEST_KEY = 200


def build() -> ServiceApp:
    """Return the service, configured from the environment, not yet running. Orders are kept in NEXUS_DATA_DIR (default: .)."""
    app = ServiceApp("orders", version="1.0.0", openapi=DOCUMENT)
    store = Store(Path(os.environ.get("NEXUS_DATA_DIR") or ".") / "orders.sqlite3")
    disk = ThreadPoolExecutor(1, thread_name_prefix="orders-store")

    async def in_thread(call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(disk, call)

    outbox = Outbox(app, store, in_thread)
    app.background(outbox.run, name="outbox")
    app.readiness("store", lambda: in_thread(store.check))

    async def close() -> None:
        await in_thread(store.close)
        disk.shutdown()

    app.on_stop(close)

    @app.get("/orders")
    async def list_orders(request: web.Request) -> web.Response:
        limit = request.query.get("limit", "20")
        if not (limit.isascii() and limit.isdecimal() and len(limit) <= 3 and 1 <= int(limit) <= 100):
            raise HttpProblem(400, "LimitInvalid", f"limit={limit[:20]!r} is not a number from 1 to 100.")
        return _json(await in_thread(lambda: store.latest(int(limit))))

    @app.get("/orders/{id}")
    async def get_order(request: web.Request) -> web.Response:
        order_id = request.match_info["id"]
        order = await in_thread(lambda: store.find(order_id))
        if order is None:
            raise HttpProblem(
                404, "OrderNotFound", f"There is no order {order_id[:80]!r}. GET /orders lists the latest."
            )
        return _json(order)

    @app.post("/orders")
    async def place_order(request: web.Request) -> web.Response:
        key = request.headers.get("Idempotency-Key")
        if key is not None and not (1 <= len(key) <= LONGEST_KEY and key.isascii()):
            raise HttpProblem(400, "KeyInvalid", f"Idempotency-Key must have 1 to {LONGEST_KEY} ASCII characters.")
        try:
            new = orders.parse_new_order(await request.read())
        except ValueError as err:
            raise HttpProblem(400, "OrderInvalid", str(err)) from err
        try:
            order = orders.build_order(
                new, await ask_catalog(new.item), order_id=str(uuid.uuid4()), placed_at=datetime.now(UTC).isoformat()
            )
        except ValueError as err:
            raise HttpProblem(502, "CatalogInvalid", f"The order was not taken: {err}.") from err
        carrier: dict[str, str] = {}
        propagate.inject(carrier)
        event, traceparent = orders.build_event(order), carrier.get("traceparent", "")
        kept = await in_thread(lambda: store.add(order, event, traceparent=traceparent, request_key=key))
        outbox.wake()
        return _json(kept, status=201, headers={"Location": f"/orders/{kept.id}"})

    async def ask_catalog(item: str) -> object:
        try:
            reply = await app.client.request("GET", "catalog", f"/items/{item}", deadline_s=3.0)
            if reply.status == 200:
                return reply.json()
        except NexusError as err:
            detail = f"The order was not taken because the catalog cannot be asked: {err} Try again."
            raise HttpProblem(503, "CatalogAway", detail, headers={"Retry-After": "1"}) from err
        if reply.status == 404:
            raise HttpProblem(
                422, "ItemNotFound", f"The shop does not sell {item!r}. The catalog's GET /items lists what it does."
            )
        detail = f"The order was not taken because the catalog answered {reply.status}. Try again."
        raise HttpProblem(503, "CatalogAway", detail, headers={"Retry-After": "1"})

    return app


def _json(value: object, *, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    return web.Response(
        body=msgspec.json.encode(value), status=status, content_type="application/json", headers=headers
    )
