"""What all connections and datagrams below HTTP share, and the counting of their ends."""

from __future__ import annotations

import asyncio
import errno
import logging
import random
import resource
import socket
import ssl
from collections import Counter, OrderedDict
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from typing import Protocol

from nexus_core.snapshot import UpstreamTls
from nexus_wire.clock import Clock

from nexus_gateway.edge.accesslogs import AccessLog
from nexus_gateway.edge.measurements import Measurements
from nexus_gateway.edge.recording import Recorder
from nexus_gateway.settings import GatewaySettings
from nexus_gateway.telemetry import names
from nexus_gateway.telemetry.contexts import Contexts
from nexus_gateway.telemetry.decisions import LOG, TRACE, Decisions
from nexus_gateway.telemetry.streams import FinishedStream

log = logging.getLogger("nexus.gateway.streams")

_FILES = 2
"""Of the files that the process may open, sessions of UDP take one in so many at most: anybody can begin one with one datagram from
whatever address, and TCP needs files as well."""
_BUFFER = 65535
"""No datagram is longer."""


class Running(Protocol):
    """A connection, or the session of a UDP client."""

    def cut_off(self, reason: str) -> None:
        """Break off at once."""
        ...


class Session(Running, Protocol):
    """The session of a UDP client. last: tick at which something went either way; idle_ticks: after how many silent ones it ends."""

    last: int

    @property
    def idle_ticks(self) -> int: ...

    def end(self, reason: str) -> None:
        """Be over. reason: one word, empty for one that was silent long enough."""
        ...


@dataclass(frozen=True, slots=True)
class Means:
    """What the service works with, all of it the gateway's.

    tls: the context for an upstream's policy. others: client connections that are open elsewhere and share the limit.
    """

    settings: GatewaySettings
    clock: Clock
    rng: random.Random
    measurements: Measurements
    contexts: Contexts
    decisions: Decisions
    access_log: AccessLog
    recorder: Recorder
    tls: Callable[[UpstreamTls], ssl.SSLContext]
    others: Callable[[], int] = lambda: 0


class Streams:
    """Serves connections and datagrams of all listeners, each with the plan that it is given.

    connections: of TCP clients that are not over; sessions: of UDP clients, the one that is silent longest first. buffer: for
    datagrams that come back, one at a time.
    """

    def __init__(self, means: Means) -> None:
        self.means = means
        self.settings = means.settings
        self.clock = means.clock
        self.measurements = means.measurements
        self.loop = asyncio.get_running_loop()
        self.connections: set[Running] = set()
        self.sessions: OrderedDict[Session, None] = OrderedDict()
        self.buffer = memoryview(bytearray(_BUFFER))
        self._most_sessions = _most_sessions(means.settings.max_udp_sessions)
        self._active: Counter[tuple[str, str]] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()
        self._idle = asyncio.Event()
        self.measurements.watch(names.STREAMS_ACTIVE, self._read_active)
        self.clock.every_second.append(self._expire)

    # ---- beginning

    def has_room(self) -> bool:
        """Return whether one more client connection may be open."""
        limit = self.settings.max_connections
        return not limit or len(self.connections) + self.means.others() < limit

    def started(self, route: str, upstream: str) -> None:
        """Count one that is on its way to an upstream."""
        self._active[route, upstream] += 1

    def spawn(self, work: Coroutine[object, object, None]) -> asyncio.Task[None]:
        """Run the asynchronous part of a connection; owned here, ended with the gateway."""
        task = self.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended_task)
        return task

    def _ended_task(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("the gateway failed on a connection", exc_info=error)

    # ---- sessions of UDP clients

    def make_room(self) -> None:
        """End the session that is silent longest if there are as many as there may be."""
        limit = self._most_sessions
        while limit and len(self.sessions) >= limit:
            next(iter(self.sessions)).end("Evicted")

    def open_socket(self, family: int) -> socket.socket:
        """Return a UDP socket. When this process has too many files open, the session that is silent longest makes room. Raises OSError."""
        try:
            return socket.socket(family, socket.SOCK_DGRAM)
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE) or len(self.sessions) < 2:
                raise
            next(iter(self.sessions)).end("Evicted")
            return socket.socket(family, socket.SOCK_DGRAM)

    def _expire(self) -> None:
        """End sessions that are silent. Called once a second."""
        tick = self.clock.tick
        for session in [each for each in self.sessions if tick - each.last >= each.idle_ticks]:
            session.end("")

    # ---- ends

    def moved(self, route: str, upstream: str, bytes_in: int, bytes_out: int) -> None:
        """Count bytes that went through since the last time."""
        if bytes_in:
            self.measurements.tally(names.STREAM_BYTES, route, upstream, "in").value += bytes_in
        if bytes_out:
            self.measurements.tally(names.STREAM_BYTES, route, upstream, "out").value += bytes_out

    def ended(self, one: Running, done: FinishedStream, connect_s: float) -> None:
        """Count, log and record what is over; called once for each. connect_s: until an endpoint took it, or none did."""
        self.connections.discard(one)
        self.sessions.pop(one, None)  # type: ignore[call-overload]  # a connection is never in there
        if not self.connections:
            self._idle.set()
        key = (done.route, done.upstream)
        if self._active[key] > 0:
            self._active[key] -= 1
            if not self._active[key]:
                del self._active[key]
        self.measurements.tally(names.STREAMS, *key, done.reason or "ended").value += 1
        self.measurements.stream_spread(*key).observe(done.ended_at - done.started_at)
        # Connections may last: what is slow about one is its beginning.
        status = 200 if done.connected else 503
        wanted = self.means.decisions.end(done.lines, status, connect_s, len(done.tried), done.reason)
        if wanted & LOG:
            self.means.access_log.write(done)
        if wanted & TRACE:
            self.means.recorder.record(done)

    async def drained(self) -> None:
        """Return when no TCP connection is open. Nobody is asked to leave: there is no word for it below HTTP. Whoever calls this
        bounds it, and calls `cut_off` then."""
        while self.connections:
            self._idle.clear()
            await self._idle.wait()

    async def cut_off(self) -> None:
        """Break off everything that runs."""
        for one in (*self.connections, *self.sessions):
            one.cut_off("Draining")
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _read_active(self) -> Iterator[tuple[tuple[str, str], float]]:
        return ((key, float(count)) for key, count in tuple(self._active.items()))


def _most_sessions(limit: int) -> int:
    """Return how many sessions of UDP clients there may be at once, 0 for any number. limit: by the settings, 0 for none."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    share = files // _FILES if files != resource.RLIM_INFINITY else 0
    return min(filter(None, (limit, share)), default=0)
