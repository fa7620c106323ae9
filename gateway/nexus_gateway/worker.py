"""`python -m nexus_gateway.worker`: one worker of a gateway with several. Started by the supervisor, never by hand.

A whole gateway: it follows the Snapshot, finds endpoints, measures and traces by itself. From the supervisor it has its sockets,
the shared memory, and orders. Signals of a terminal are for the supervisor; SIGTERM sent to a worker alone drains it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from nexus_hosting.judges import RemoteVerifier
from nexus_sdk import logs

from nexus_gateway import app
from nexus_gateway.edge import allocator
from nexus_gateway.edge.workers import handover
from nexus_gateway.edge.workers.attendant import Attendant
from nexus_gateway.edge.workers.channel import State
from nexus_gateway.edge.workers.handover import Handover, NotAWorker
from nexus_gateway.edge.workers.places import Place
from nexus_gateway.settings import GatewaySettings, SettingInvalid

log = logging.getLogger("nexus.gateway.worker")


async def serve(settings: GatewaySettings, given: Handover) -> None:
    """Serve until the supervisor, its end, or SIGTERM says to drain; return when drained."""
    place = Place.inherited(given)
    source = app.build_source(settings, Path(given.manifests) if given.manifests else None, given.index, given.workers)
    discovery = app.build_discovery(settings)
    gateway = app.Gateway(settings, source, discovery, place, RemoteVerifier())

    def state() -> State:
        why = gateway.not_ready()
        return State(why is None, why or "", gateway.runtime.published.generation)

    loop = asyncio.get_running_loop()
    attendant = Attendant(given.control, state, on_lead=gateway.lead)
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    loop.add_signal_handler(signal.SIGTERM, attendant.drain.set)
    try:
        await gateway.start()
        app.calm_collector(gateway)
        attending = asyncio.create_task(attendant.run(), name="attend")
        following = asyncio.create_task(_tell_generations(gateway, attendant.changed), name="tell generations")
        try:
            await attendant.drain.wait()
            await gateway.stop(handed_over=attendant.handed_over)
        finally:
            # Attended until the end: a supervisor hears of a drain that takes long, and not of a worker that fell silent.
            for task in (attending, following):
                task.cancel()
            await asyncio.gather(attending, following, return_exceptions=True)
    finally:
        await discovery.close()


async def _tell_generations(gateway: app.Gateway, changed: Callable[[], None]) -> None:
    generation = 0
    while True:
        await gateway.live(generation + 1)
        await gateway.listening.wait()
        generation = gateway.runtime.published.generation
        changed()


def main() -> int:
    """Run; return the exit code: 0 drained, 1 it could not start, 2 it was not started by a supervisor or a setting is wrong."""
    allocator.settle()
    try:
        given = handover.take()
        settings = GatewaySettings.from_env(os.environ)
    except (NotAWorker, SettingInvalid) as error:
        sys.stderr.write(f"nexus: {error}\n")
        return 2
    logs.install(
        settings.log_level,
        {"service": "nexus-gateway", "replica": settings.replica, "worker": str(given.index)},
    )
    try:
        with asyncio.Runner(loop_factory=app.loop_factory()) as runner:
            runner.run(serve(settings, given))
    except SettingInvalid as error:
        log.error("the worker cannot run: %s", error)
        return 2
    except (app.NothingToServe, OSError) as error:
        log.error("the worker cannot run: %s", error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
