"""Wires the page: one static document. Everything it shows it fetches through the gateway it was loaded from."""

from __future__ import annotations

import hashlib
from importlib import resources

from aiohttp import web
from nexus_sdk import ServiceApp

POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self' ws: wss:; img-src data:"
"""Content-Security-Policy: the page loads nothing from anywhere else. `ws:` because not every browser takes 'self' for it."""


def build() -> ServiceApp:
    """Return the service, configured from the environment, not yet running."""
    app = ServiceApp("web", version="1.0.0", openapi=None)
    page = resources.files("shop_web").joinpath("index.html").read_bytes()
    etag = f'"{hashlib.sha256(page).hexdigest()[:20]}"'
    headers = {"ETag": etag, "Cache-Control": "no-cache", "Content-Security-Policy": POLICY}

    @app.get("/")
    async def index(request: web.Request) -> web.Response:
        if request.headers.get("If-None-Match") == etag:
            return web.Response(status=304, headers=headers)
        return web.Response(body=page, content_type="text/html", charset="utf-8", headers=headers)

    return app
