"""`python -m nexus_testbed.kubelet <cluster id>`: the kubelet of the cluster's only node, run inside its network."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys

import uvloop

from nexus_testbed import places
from nexus_testbed.api import Api
from nexus_testbed.kubelet.agent import Kubelet


async def main() -> None:
    where = places.Places(places.parse_id(sys.argv[1]))
    async with Api(where, "node") as api:
        task = asyncio.create_task(Kubelet(where, api).run())
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        with contextlib.suppress(asyncio.CancelledError):
            await task


# uvloop: it reaps children from one SIGCHLD handler, where asyncio 3.11 would keep a thread per container.
with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
    runner.run(main())
