"""UDP: a client's datagrams go to one endpoint as long as it keeps sending, and the endpoint's come back to it.

A *session* is a client address at a listener, with a socket of its own towards the endpoint: what comes back there is for that client.
Rules of the file:
- Nothing is queued here: a datagram that a socket does not take now is dropped and counted, as any router would. Only while an
  endpoint's host name is looked up, a few wait.
- Sessions end when they were silent for a while, when there are too many (the one that is silent longest goes), when their endpoint
  leaves, and when their route leads elsewhere.
- An endpoint that refuses (ICMP) is told so, and the client's next datagram goes to another one.
- A client whose share of a route goes to a backend that could not be resolved has a session too, in which all is dropped: its next
  datagram must not have better luck.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import Callable
from ipaddress import ip_address
from time import monotonic
from typing import Any

from nexus_wire.clock import ticks_of

from nexus_gateway.edge.streams.plans import StreamPlan
from nexus_gateway.edge.streams.service import Streams
from nexus_gateway.edge.streams.visits import Admission, Client, Refused, Visit, enter
from nexus_gateway.resilience.attempts import Outcome
from nexus_gateway.telemetry import names
from nexus_gateway.telemetry.streams import FinishedStream

log = logging.getLogger("nexus.gateway.streams")

MAX_BYTES = 65535
BURST = 64
"""Datagrams read from a socket before others get their turn."""
MAX_WAITING = 16
"""Datagrams of a session that wait for a host name to be looked up,"""
MAX_WAITING_BYTES = 65536
"""and their bytes."""
MAX_VISITS = 8
"""Endpoints of a session that its log line tells of."""

Address = Any
"""What a socket says of a peer."""


class UdpListener:
    """One bound UDP socket, and the sessions of its clients.

    plan: says where new clients go now; read for each datagram, so that it follows the Snapshot by itself.
    """

    def __init__(
        self, streams: Streams, bound: socket.socket, plan: Callable[[], StreamPlan | None], listener: str = ""
    ) -> None:
        """bound: owned from now on. With several workers it has SO_REUSEPORT, which gives one client's datagrams to one of them.
        listener: its id, for the log."""
        self.streams = streams
        self.plan = plan
        self.listener = listener
        self.sessions: dict[Address, Session] = {}
        self._buffer = memoryview(bytearray(MAX_BYTES))
        self._socket = bound
        bound.setblocking(False)
        streams.loop.add_reader(bound.fileno(), self._readable)
        self.closed = False

    def close(self) -> None:
        """Take and send nothing any more; sessions end."""
        if self.closed:
            return
        self.closed = True
        for session in tuple(self.sessions.values()):
            session.end("")
        self.streams.loop.remove_reader(self._socket.fileno())
        self._socket.close()

    def dropped(self, reason: str) -> None:
        """Count a datagram that goes nowhere."""
        self.streams.measurements.tally(names.DATAGRAMS_DROPPED, reason).value += 1

    def send(self, data: memoryview, client: Address) -> bool:
        """Send a client a datagram; return whether its way was free."""
        try:
            self._socket.sendto(data, client)
        except BlockingIOError:
            self.dropped("ClientBacklog")
            return False
        except OSError as error:
            # Its address cannot be reached, or the datagram is too long for the way: its loss alone.
            log.debug("a datagram to %s was not sent: %s", client, error)
            self.dropped("ClientUnreachable")
            return False
        return True

    def _readable(self) -> None:
        buffer, bound = self._buffer, self._socket
        for _ in range(BURST):
            try:
                size, client = bound.recvfrom_into(buffer)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                log.debug("a datagram to %s was not read: %s", self.listener, error)
                return
            try:
                self._take(buffer[:size], client)
            except Exception:
                # One odd datagram must not cost the others their listener.
                log.exception("the gateway failed on a datagram")
                self.dropped("InternalError")
            if self.closed:
                return

    def _take(self, data: memoryview, client: Address) -> None:
        plan = self.plan()
        session = self.sessions.get(client)
        if session is not None and plan is not session.plan and not session.goes_on_with(plan):
            session.end("RouteChanged")
            session = None
        if session is None:
            if plan is None:
                self.dropped("RouteNotFound")
                return
            session = Session(self, client, plan)
            self.streams.make_room()
            self.sessions[client] = session
            self.streams.sessions[session] = None
        session.send(data)


class Session:
    """A client of a listener. last: tick of the clock at which something went either way."""

    __slots__ = (
        "_admission", "_context", "_listener", "_pool", "_reason", "_socket", "_started_at", "_task", "_tried", "_upstream", "_visits",
        "_waiting", "bytes_in", "bytes_out", "client", "closed", "last", "plan",
    )  # fmt: skip

    def __init__(self, listener: UdpListener, client: Address, plan: StreamPlan) -> None:
        self._listener = listener
        self.client = client
        self.plan = plan
        self.bytes_in = self.bytes_out = 0
        self.closed = False
        streams = listener.streams
        self.last = streams.clock.tick
        self._context = streams.means.contexts.start(None)
        self._started_at = monotonic()
        self._admission: Admission | None = None
        self._visits: list[Visit] = []
        self._socket: socket.socket | None = None
        self._task: asyncio.Task[None] | None = None
        self._tried: set[str] = set()
        self._waiting: list[bytes] = []
        self._reason = ""
        turn = plan.next()
        self._upstream, self._pool = turn if turn is not None else ("", None)
        if turn is None:
            self._reason = "NoBackends"
        elif self._pool is None:
            self._reason = "BackendNotFound"
        streams.started(plan.route.id, self._upstream)

    def goes_on_with(self, plan: StreamPlan | None) -> bool:
        """Return whether the session is the same under another plan, which it has from now on then."""
        if plan is None or self._pool is None or plan.route.id != self.plan.route.id or not plan.leads_to(self._pool):
            return False
        self.plan = plan
        return True

    @property
    def idle_ticks(self) -> int:
        """After how many silent ticks it ends."""
        settings_s = self._listener.streams.settings.udp_idle_s
        own_s = self._pool.upstream.timeouts.idle_s if self._pool is not None else 0.0
        return ticks_of(min(filter(None, (settings_s, own_s)), default=0.0))

    # ---- to the endpoint

    def send(self, data: memoryview) -> None:
        """Pass on what the client sends."""
        streams = self._listener.streams
        self.last = streams.clock.tick
        streams.sessions.move_to_end(self)
        if self._reason:
            self._listener.dropped(self._reason)
            return
        if self._socket is not None and self._visits[-1].endpoint.gone_at:
            self._part()
        if self._task is not None:
            self._wait(data)
            return
        # A send may only bring the refusal of the one before: then this datagram is the first at another endpoint.
        for _ in range(2):
            if self._socket is None and not self._enter(data):
                return
            if self._task is not None or self._try_to_send(data):
                return

    def _try_to_send(self, data: memoryview) -> bool:
        """Return whether that was all there was to do with the datagram."""
        assert self._socket is not None
        try:
            self._socket.send(data)
        except BlockingIOError:
            self._listener.dropped("UpstreamBacklog")
        except OSError as error:
            if error.errno == errno.EMSGSIZE:
                self._listener.dropped("TooLong")
                return True
            self._refused(error)
            return False
        else:
            self.bytes_in += len(data)
        return True

    def _enter(self, data: memoryview) -> bool:
        """Find an endpoint; return False when there is none for this datagram."""
        assert self._pool is not None
        streams = self._listener.streams
        try:
            if self._admission is None:
                admission = Admission(self._pool, monotonic())
                try:
                    admission.take()
                except Refused:
                    admission.leave()
                    raise
                self._admission = admission
            key = self._pool.key(Client(self.client[0])) if self._pool.key is not None else b""
            visit = enter(self._admission, self._tried, key, streams.measurements)
        except Refused as refused:
            self._listener.dropped(refused.reason)
            return False
        if len(self._visits) == MAX_VISITS:
            del self._visits[0]
        self._visits.append(visit)
        address = visit.endpoint.endpoint
        if is_address(address.address):
            return self._connect(address.address, address.port)
        self._task = streams.spawn(self._look_up(address.address, address.port))
        self._wait(data)
        return True

    def _connect(self, host: str, port: int) -> bool:
        """Make the socket; return whether there is one."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        streams = self._listener.streams
        made = None
        try:
            made = streams.open_socket(family)
            made.setblocking(False)
            made.connect((host, port))
        except OSError as error:
            if made is not None:
                made.close()
            self._refused(error, local=error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS))
            self._listener.dropped("NoSocket")
            return False
        self._socket = made
        self._visits[-1].connected(monotonic())
        streams.loop.add_reader(made.fileno(), self._readable)
        return True

    async def _look_up(self, host: str, port: int) -> None:
        """Connect to an endpoint that has a name, and send what waited for it."""
        try:
            async with asyncio.timeout(self._visits[-1].pool.upstream.timeouts.connect_s or None):
                found = await self._listener.streams.loop.getaddrinfo(host, port, type=socket.SOCK_DGRAM)
        except OSError as error:  # TimeoutError is one
            self._refused(error)
            found = []
        finally:
            self._task = None
        waiting, self._waiting = self._waiting, []
        if self.closed or not found or not self._connect(*found[0][4][:2]):
            return
        for data in waiting:
            if self._socket is None or not self._try_to_send(memoryview(data)):
                self._listener.dropped("UpstreamRefused")

    def _wait(self, data: memoryview) -> None:
        if len(self._waiting) < MAX_WAITING and sum(map(len, self._waiting)) + len(data) <= MAX_WAITING_BYTES:
            self._waiting.append(bytes(data))
        else:
            self._listener.dropped("UpstreamBacklog")

    # ---- from the endpoint

    def _readable(self) -> None:
        listener = self._listener
        streams = listener.streams
        buffer = streams.buffer
        for _ in range(BURST):
            if self._socket is None:
                return
            try:
                size = self._socket.recv_into(buffer)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                self._refused(error)
                return
            self.last = streams.clock.tick
            visit = self._visits[-1]
            if not visit.judged:
                self._tried.clear()
                visit.succeeded(monotonic())
            if listener.send(buffer[:size], self.client):
                self.bytes_out += size
        streams.sessions.move_to_end(self)

    def _refused(self, error: OSError, *, local: bool = False) -> None:
        """The endpoint is not there: the next datagram goes to another one. local: it is this machine that is out of something."""
        visit = self._visits[-1]
        if not local:
            self._tried.add(visit.endpoint.authority)
            if len(self._tried) >= len(visit.pool.live):
                self._tried = {visit.endpoint.authority}
            visit.unsettle()
            visit.failed(Outcome.CONNECT_FAILURE, monotonic())
            log.debug("%s (%s) refuses datagrams: %s", visit.endpoint.authority, self._upstream, error)
        self._part()

    def _part(self) -> None:
        """Give the endpoint back."""
        made, self._socket = self._socket, None
        if made is not None:
            self._listener.streams.loop.remove_reader(made.fileno())
            made.close()
        if self._visits:
            self._visits[-1].leave()

    # ---- the end

    def cut_off(self, reason: str) -> None:
        """End at once."""
        self.end(reason)

    def end(self, reason: str) -> None:
        """The session is over; once. reason: one word, empty for one that was silent long enough."""
        if self.closed:
            return
        self.closed = True
        listener, now = self._listener, monotonic()
        if listener.sessions.get(self.client) is self:
            del listener.sessions[self.client]
        if self._task is not None:
            self._task.cancel()
        self._part()
        if self._admission is not None:
            self._admission.leave()
        streams, route = listener.streams, self.plan.route.id
        streams.moved(route, self._upstream, self.bytes_in, self.bytes_out)
        visits = self._visits
        done = FinishedStream(
            "udp",
            str(self.client[0]),
            self._context,
            self._started_at,
            now,
            bool(visits and visits[-1].outcome == "answered") or self.bytes_in > 0,
            self._reason or reason,
            route,
            self._upstream,
            "",
            listener.listener,
            tuple(visit.tried(now, self._context) for visit in visits),
            self.bytes_in,
            self.bytes_out,
        )
        streams.ended(self, done, 0.0)


def is_address(host: str) -> bool:
    """Return whether a host needs no looking up."""
    try:
        ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True


def bind_udp(host: str, port: int, *, shared: bool = False) -> socket.socket:
    """Return a bound UDP socket. shared: other workers bind the same port. Raises OSError when the address cannot be bound."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    made = socket.socket(family, socket.SOCK_DGRAM)
    try:
        if shared:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        made.setblocking(False)
        made.bind((host, port))
    except OSError:
        made.close()
        raise
    return made
