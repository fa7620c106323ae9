"""`python -m nexus_cli.plugins.echo`: the upstream of `nexus plugin dev`. It answers with the request that reached it."""

from __future__ import annotations

import os

from aiohttp import web


async def echo(request: web.Request) -> web.Response:
    """Return the request as JSON. A header `x-echo-status` chooses the answer's status."""
    body = await request.read()
    wanted = request.headers.get("x-echo-status", "")
    return web.json_response(
        {
            "method": request.method,
            "path": request.raw_path,
            "headers": {name.lower(): value for name, value in request.headers.items()},
            "body": body.decode(errors="replace"),
        },
        status=int(wanted) if wanted.isdigit() and 200 <= int(wanted) <= 599 else 200,
    )


def main() -> None:
    """Serve on 127.0.0.1 and the port in PORT until a signal."""
    app = web.Application(client_max_size=64 * 2**20)
    app.router.add_route("*", "/{path:.*}", echo)
    web.run_app(app, host="127.0.0.1", port=int(os.environ["PORT"]), print=None, access_log=None)


if __name__ == "__main__":
    main()
