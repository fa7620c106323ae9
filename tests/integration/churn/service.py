"""The upstream of the churn suite: a ServiceApp that writes down every request it executes, before it answers.

`CHURN_LEDGER` names a file to append to: one line `METHOD ID` for each execution, in one write, so that a SIGKILL loses none.
A request takes `SERVICE_S`, one whose id ends in `-slow` takes `SLOW_S`. The port goes into `<ledger>.port` once the service listens.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from aiohttp import web
from nexus_sdk import ServiceApp

LEDGER = Path(os.environ["CHURN_LEDGER"])
SERVICE_S = 0.005
SLOW_S = 0.2

app = ServiceApp("orders")
ledger = os.open(LEDGER, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)


@app.route("*", "/load/{id}")
async def execute(request: web.Request) -> web.Response:
    await request.read()
    given = request.match_info["id"]
    os.write(ledger, f"{request.method} {given}\n".encode())
    await asyncio.sleep(SLOW_S if given.endswith("-slow") else SERVICE_S)
    return web.Response(text=given)


async def tell_port() -> None:
    """Say where the service listens; the file appears whole."""
    path = LEDGER.with_suffix(".port")
    await asyncio.to_thread(path.with_suffix(".new").write_text, str(app.port))
    await asyncio.to_thread(path.with_suffix(".new").rename, path)


app.background(tell_port, name="tell-port")

if __name__ == "__main__":
    app.run()
