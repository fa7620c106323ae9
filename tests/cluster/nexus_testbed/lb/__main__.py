"""`python -m nexus_testbed.lb <cluster id>`: the Service proxy of the cluster, run inside its network."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys

import uvloop

from nexus_testbed import places
from nexus_testbed.api import Api
from nexus_testbed.lb.controller import Controller


async def main() -> None:
    async with Api(places.Places(places.parse_id(sys.argv[1])), "lb") as api:
        task = asyncio.create_task(Controller(api).run())
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        with contextlib.suppress(asyncio.CancelledError):
            await task


with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
    runner.run(main())
