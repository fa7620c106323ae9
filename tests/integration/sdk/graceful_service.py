"""The service that `test_graceful_stop` runs in its own process: one request that lasts until it is told to end."""

from __future__ import annotations

import asyncio

from aiohttp import web
from nexus_sdk import ServiceApp

app = ServiceApp("orders")
released = asyncio.Event()


@app.get("/hold")
async def hold(request: web.Request) -> web.Response:
    app.log.info("holding")
    await released.wait()
    return web.Response(text="done")


@app.post("/release")
async def release(request: web.Request) -> web.Response:
    released.set()
    return web.Response()


@app.get("/large")
async def large(request: web.Request) -> web.Response:
    app.log.info("answering")
    return web.Response(body=bytearray(32_000_000))


@app.on_stop
async def stop() -> None:
    app.log.info("stop hook ran")


if __name__ == "__main__":
    app.run()
