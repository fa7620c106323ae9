"""The plainest aiohttp reverse proxy: no routing, no retries, no metrics.

`aiohttp_proxy.py PORT BACKEND_PORT [TLS_PORT CERTIFICATE KEY]`
"""

from __future__ import annotations

import asyncio
import ssl
import sys

import aiohttp
import uvloop
from aiohttp import web

HOP_BY_HOP = {"connection", "keep-alive", "te", "trailers", "transfer-encoding", "upgrade", "content-length"}


async def proxy(request: web.Request) -> web.StreamResponse:
    session: aiohttp.ClientSession = request.app["session"]
    headers = {name: value for name, value in request.headers.items() if name.lower() not in HOP_BY_HOP}
    body = request.content if request.can_read_body else None
    async with session.request(
        request.method, f"{request.app['backend']}{request.path_qs}", headers=headers, data=body, allow_redirects=False
    ) as answer:
        response = web.StreamResponse(status=answer.status)
        for name, value in answer.headers.items():
            if name.lower() not in HOP_BY_HOP:
                response.headers.add(name, value)
        response.content_length = answer.content_length
        await response.prepare(request)
        async for chunk in answer.content.iter_any():
            await response.write(chunk)
        await response.write_eof()
        return response


async def application(backend_port: int) -> web.Application:
    app = web.Application()
    app["backend"] = f"http://127.0.0.1:{backend_port}"
    app["session"] = aiohttp.ClientSession(
        auto_decompress=False, connector=aiohttp.TCPConnector(limit=0), cookie_jar=aiohttp.DummyCookieJar()
    )
    app.router.add_route("*", "/{path:.*}", proxy)
    return app


async def serve(port: int, backend_port: int, tls: list[str]) -> None:
    runner = web.AppRunner(await application(backend_port), access_log=None, keepalive_timeout=600)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, backlog=4096).start()
    if tls:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(tls[1], tls[2])
        await web.TCPSite(runner, "127.0.0.1", int(tls[0]), backlog=4096, ssl_context=context).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]))
