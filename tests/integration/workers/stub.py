"""A worker without a gateway: answers who it is, counts in the shared memory, and misbehaves when told to.

Paths: / (pid, serial), /slow (after 0.3 s), /count (adds 1 a thousand times under the lock), /unsafe, /exit, /hang.
STUB_TROUBLE in the environment: `exit` ends at once, `never-ready` never is, `nonsense` sends what is no message,
`deaf` never drains. STUB_FAILS_AFTER names a file; while it is there, new workers end at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import struct
import sys
import time
from pathlib import Path

from aiohttp import web
from nexus_gateway.edge.workers import handover
from nexus_gateway.edge.workers.attendant import Attendant
from nexus_gateway.edge.workers.channel import State
from nexus_gateway.edge.workers.places import Place

TROUBLE = os.environ.get("STUB_TROUBLE", "")
LAST_REQUEST_S = 3.0
"""The longest a drain waits for clients to close their connections; below what the supervisor gives a drain."""


async def main() -> None:
    given = handover.take()
    fails = os.environ.get("STUB_FAILS_AFTER")
    if TROUBLE == "exit" or (fails and Path(fails).exists()):
        os._exit(7)
    if TROUBLE == "nonsense":
        os.write(given.control, b"[1, 2]\n")
        await asyncio.sleep(60)
    place = Place.inherited(given)
    draining = False

    async def who(request: web.Request) -> web.Response:
        return answer({"pid": os.getpid(), "serial": given.serial, "index": given.index})

    async def slow(request: web.Request) -> web.Response:
        await asyncio.sleep(0.3)
        return answer({"pid": os.getpid(), "serial": given.serial, "index": given.index})

    async def count(request: web.Request) -> web.Response:
        for _ in range(1000):
            with place.lock():
                [value] = struct.unpack_from("d", place.cells, 0)
                struct.pack_into("d", place.cells, 0, value + 1)
        return answer({"count": struct.unpack_from("d", place.cells, 0)[0]})

    async def leave(request: web.Request) -> web.Response:
        os._exit(9)

    async def hang(request: web.Request) -> web.Response:
        time.sleep(60)  # noqa: ASYNC251 - the very fault
        return answer({})

    def answer(value: object) -> web.Response:
        response = web.json_response(value)
        if draining:
            response.force_close()
        return response

    app = web.Application()
    app.add_routes([web.get("/", who), web.get("/slow", slow), web.get("/count", count)])
    app.add_routes([web.get("/exit", leave), web.get("/hang", hang)])
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=5.0)
    await runner.setup()
    assert runner.server is not None
    assert place.plain is not None
    listener = await asyncio.get_running_loop().create_server(runner.server, sock=place.plain, backlog=1024)
    own = web.Application()

    async def leads(request: web.Request) -> web.Response:
        return web.json_response({"leads": attendant.leads, "problems": [{"worker": given.index}]})

    async def measurements(request: web.Request) -> web.Response:
        return web.Response(body=b"%d" % given.index)

    own.add_routes([web.get("/leads", leads), web.get("/problems", leads), web.get("/measurements", measurements)])
    admin = web.AppRunner(own, access_log=None)
    await admin.setup()
    await place.serve_admin(admin)
    ready = TROUBLE != "never-ready"
    attendant = Attendant(
        given.control, lambda: State(ready and not draining, "" if ready else "never", 4 + given.index), beat_s=0.05
    )
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, attendant.drain.set)
    attending = asyncio.create_task(attendant.run())
    await attendant.drain.wait()
    if TROUBLE == "deaf":
        await asyncio.sleep(60)
    draining = True
    # asyncio forgets a connection whose accept is not over when its server is closed: first no more of them, then two turns.
    for each in listener.sockets:
        asyncio.get_running_loop().remove_reader(each.fileno())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    listener.close()
    # Keep-alive connections ask once more, and are told to close then. One that has nothing to ask is closed with the rest.
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(LAST_REQUEST_S):
            while runner.server.connections:  # noqa: ASYNC110 - aiohttp has no event for it
                await asyncio.sleep(0.01)
    await runner.cleanup()
    await admin.cleanup()
    attending.cancel()


if __name__ == "__main__":
    asyncio.run(main())
    sys.exit(0)
