"""Wires the catalog: two read-only operations over the assortment."""

from __future__ import annotations

import msgspec
from aiohttp import web
from nexus_sdk import HttpProblem, ServiceApp

from shop_catalog import items
from shop_catalog.openapi import DOCUMENT


def build() -> ServiceApp:
    """Return the service, configured from the environment, not yet running."""
    app = ServiceApp("catalog", version="1.0.0", openapi=DOCUMENT)

    @app.get("/items")
    async def list_items(request: web.Request) -> web.Response:
        return _json(items.find_items(request.query.get("search", "")))

    @app.get("/items/{id}")
    async def get_item(request: web.Request) -> web.Response:
        item_id = request.match_info["id"]
        item = items.find_item(item_id)
        if item is None:
            raise HttpProblem(
                404, "ItemNotFound", f"The shop does not sell {item_id[:80]!r}. GET /items lists what it does."
            )
        return _json(item)

    return app


def _json(value: object) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), content_type="application/json")
