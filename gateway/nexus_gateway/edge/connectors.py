"""Connections to endpoints: opened when none is idle, kept while they are worth it, closed when nobody wants them.

An endpoint's idle connections are a stack: the warmest is taken first, the coldest ages out. The connector remembers by
itself which endpoints it has connections to: one that no Snapshot names any more is looked after like the others.

Over TLS a connection serves the name that its endpoint was asked for and verified by. Without a name in the policy that is the
request's host, which a stranger may have made up: a handshake that fails over it says nothing of the endpoint, unless an endpoint
of that upstream has proved the name before.

A connection of HTTP/2 (a `Carrier`) is shared: its exchanges are kept and taken like connections, and whoever finds none idle gets a
new one where there is room. While one is being opened, those that come gather for it.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Protocol

from nexus_core.snapshot import UpstreamTls
from nexus_wire.client import ClientConnection, Upward
from nexus_wire.clock import TICK_S, Clock
from nexus_wire.h2client import MAX_STREAMS, Carrier, Heads, NotSpoken
from nexus_wire.http1 import ResponseParser

from nexus_gateway.edge.tls.origination import ResumingContext, TlsInvalid, server_name
from nexus_gateway.resilience.endpoints import EndpointState

log = logging.getLogger("nexus.gateway.connections")

IDLE_CONNECTION_S = 4.0
"""Idle upstream connections are closed after this: below the 5 s of common servers (uvicorn, Node), because a request
sent while the server closes is lost, and one that is not idempotent cannot be sent again."""
_SWEEP_S = 1.0
_IDLE_TICKS = int((IDLE_CONNECTION_S - _SWEEP_S) / TICK_S)
"""What is kept from one sweep to the next must not grow older than that meanwhile."""
_MAX_QUEUED = 1024
TICKETS_AFTER_S = 0.5
_MAX_TOLD = 256
_MAX_PROVED = 4096
"""Names that are remembered as proved, of all upstreams together; by whom a wildcard is proved, a stranger may choose more."""


class Waiting(Protocol):
    """An attempt that needs a connection."""

    def on_connection(self, connection: Upward) -> None:
        """Here it is."""
        ...

    def on_no_connection(self, timed_out: bool, detail: str) -> None:
        """It could not be had; nothing was sent."""
        ...


class _Left:
    """Owner of a connection that was in use when its endpoint left: whoever gives it back sees that it is not to be kept."""

    __slots__ = ("endpoint",)
    gone_at = 1.0

    def __init__(self, endpoint: EndpointState) -> None:
        self.endpoint = endpoint


class _Gathering:
    """Those that wait for one connection of HTTP/2, which is being opened."""

    __slots__ = ("connect_s", "host", "limit", "name", "tls", "waiting")

    def __init__(self, name: str, tls: UpstreamTls | None, host: str, connect_s: float, limit: int) -> None:
        self.name = name
        self.tls = tls
        self.host = host
        self.connect_s = connect_s
        self.limit = limit
        self.waiting: list[Waiting] = []

    def on_no_connection(self, timed_out: bool, detail: str) -> None:
        """Tell all of them."""
        for each in self.waiting:
            each.on_no_connection(timed_out, detail)


class Connector:
    """Opens and keeps the upstream connections of one gateway."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        clock: Clock,
        parser: ResponseParser,
        contexts: Callable[[UpstreamTls, str], ssl.SSLContext],
    ) -> None:
        """contexts: returns the TLS context for a policy and a protocol; kept by value."""
        self._loop = loop
        self._clock = clock
        self._parser = parser
        self._contexts = contexts
        self._queues: dict[EndpointState, deque[tuple[Waiting, str]]] = {}
        """Those that wait, each with the server name that its connection has to have."""
        self._opening: dict[asyncio.Task[None], EndpointState] = {}
        self._outdated: set[asyncio.Task[None]] = set()
        self._open: dict[EndpointState, set[ClientConnection | Carrier]] = {}
        self._shared: dict[EndpointState, list[Carrier]] = {}
        self._gatherings: dict[tuple[EndpointState, str], _Gathering] = {}
        self._heads = Heads()
        clock.every_second.append(self._heads.age)
        self._told: set[str] = set()
        """Endpoints of which the log says that they do not speak HTTP/2."""
        self._proved: OrderedDict[tuple[str, str], None] = OrderedDict()
        """Upstreams and server names."""
        self.opened = 0

    @property
    def open_connections(self) -> int:
        """How many connections there are, idle ones included."""
        return sum(map(len, self._open.values()))

    def take(self, endpoint: EndpointState, tls: UpstreamTls | None, host: str) -> Upward | None:
        """Return the warmest idle connection that may serve the host's requests; None for none."""
        name = _name(tls, host, endpoint)
        idle: list[Upward] = endpoint.idle
        for at in range(len(idle) - 1, -1, -1):
            connection = idle[at]
            if connection.closed:
                del idle[at]
            elif connection.server_name == name:
                del idle[at]
                return connection
        if self._shared:
            for carrier in self._shared.get(endpoint, ()):
                if carrier.server_name == name and carrier.has_room:
                    return carrier.exchange()
        return None

    def open(
        self,
        waiting: Waiting,
        endpoint: EndpointState,
        tls: UpstreamTls | None,
        host: str,
        connect_s: float,
        limit: int,
        protocol: str = "http",
    ) -> None:
        """Get `waiting` a new connection, or a place in the endpoint's queue for the next one that gets free.

        host: the request's, for SNI when the policy names none. limit: connections to the endpoint at most, 0 for any number.
        protocol: of the upstream, `http` or `h2`.
        """
        gathering = None
        if protocol == "h2":
            name = _name(tls, host, endpoint)
            gathering = self._gatherings.get((endpoint, name))
            if gathering is not None and len(gathering.waiting) < MAX_STREAMS:
                gathering.waiting.append(waiting)
                return
            gathering = _Gathering(name, tls, host, connect_s, limit)
        if limit and endpoint.connections >= limit:
            queue = self._queues.setdefault(endpoint, deque())
            if len(queue) >= _MAX_QUEUED:
                waiting.on_no_connection(False, "too many requests wait for a connection")
                return
            queue.append((waiting, _name(tls, host, endpoint)))
            if endpoint.idle:
                endpoint.idle.pop(0).make_room()  # they serve other names: the coldest goes
            return
        endpoint.connections += 1
        if gathering is not None:
            gathering.waiting.append(waiting)
            self._gatherings[endpoint, gathering.name] = gathering
        task = self._loop.create_task(self._connect(gathering or waiting, endpoint, tls, host, connect_s))
        self._opening[task] = endpoint
        task.add_done_callback(self._settled)

    def _settled(self, task: asyncio.Task[None]) -> None:
        del self._opening[task]
        self._outdated.discard(task)

    async def _connect(
        self,
        waiting: Waiting | _Gathering,
        endpoint: EndpointState,
        tls: UpstreamTls | None,
        host: str,
        connect_s: float,
    ) -> None:
        address = endpoint.endpoint
        name = _name(tls, host, endpoint)
        gathering = waiting if isinstance(waiting, _Gathering) else None
        make: Callable[[], ClientConnection | Carrier] = (
            self._plain(endpoint) if gathering is None else self._carrier(endpoint, name)
        )
        connection: ClientConnection | Carrier | None = None
        try:
            context = self._contexts(tls, "http" if gathering is None else "h2") if tls is not None else None
            # As `ssl` does; on a name that is none it would leave asyncio's socket open.
            name.encode("idna")
            async with asyncio.timeout(connect_s or None):
                _, connection = await self._loop.create_connection(
                    make, address.address, address.port, ssl=context, server_hostname=name or None
                )
                if isinstance(connection, Carrier):
                    await connection.ready
        except TimeoutError:
            self._in_vain(gathering, connection, endpoint)
            waiting.on_no_connection(True, "no connection in time")
        except NotSpoken as error:
            self._in_vain(gathering, connection, endpoint)
            if endpoint.authority not in self._told and len(self._told) < _MAX_TOLD:
                self._told.add(endpoint.authority)
                log.warning("%s (%s) is to be asked over HTTP/2, and %s", endpoint.authority, endpoint.upstream, error)
            waiting.on_no_connection(False, str(error))
        except (OSError, ssl.SSLError, TlsInvalid, ValueError) as error:
            self._in_vain(gathering, connection, endpoint)
            if tls is not None and not tls.server_name and host and self._is_over_the_name(error, endpoint, name):
                log.info("%s (%s) does not prove to be %s: %s", endpoint.authority, endpoint.upstream, name, error)
                waiting.on_no_connection(False, NOT_PROVED)
            else:
                waiting.on_no_connection(False, f"{type(error).__name__}: {error}")
        except BaseException:
            endpoint.connections -= 1
            if connection is not None:
                connection.abort()
            raise
        else:
            assert connection is not None
            if connection.closed:
                self._in_vain(gathering, None, endpoint)
                waiting.on_no_connection(False, "the connection broke as soon as it was open")
                return
            self.opened += 1
            connection.server_name = name
            if name:
                self._proved[endpoint.upstream, name] = None
                self._proved.move_to_end((endpoint.upstream, name))
                if len(self._proved) > _MAX_PROVED:
                    self._proved.popitem(last=False)
            self._open.setdefault(endpoint, set()).add(connection)
            outdated = asyncio.current_task() in self._outdated
            if outdated:
                connection.owner = _Left(endpoint)
            if isinstance(context, ResumingContext):
                # TLS 1.3 sends its tickets after the handshake: kept when the first response is there.
                self._loop.call_later(TICKETS_AFTER_S, self._remember, context, connection)
            if isinstance(connection, Carrier):
                assert gathering is not None
                self._hand_out(gathering, connection, endpoint, outdated=outdated)
            elif not isinstance(waiting, _Gathering):
                waiting.on_connection(connection)

    def _plain(self, endpoint: EndpointState) -> Callable[[], ClientConnection]:
        return lambda: ClientConnection(self._parser, self._lost, endpoint)

    def _carrier(self, endpoint: EndpointState, name: str) -> Callable[[], Carrier]:
        return lambda: Carrier(self._heads, self._clock, self._lost_carrier, self._has_room, endpoint, name)

    def _in_vain(
        self, gathering: _Gathering | None, connection: ClientConnection | Carrier | None, endpoint: EndpointState
    ) -> None:
        """A connection could not be had: nobody gathers for it any more, and its place is free."""
        if gathering is not None and self._gatherings.get((endpoint, gathering.name)) is gathering:
            del self._gatherings[endpoint, gathering.name]
        if connection is not None:
            connection.abort()
        self._freed(endpoint)

    def _hand_out(self, gathering: _Gathering, carrier: Carrier, endpoint: EndpointState, *, outdated: bool) -> None:
        """Give everybody who gathered an exchange; another connection is opened for those that do not fit."""
        if self._gatherings.get((endpoint, gathering.name)) is gathering:
            del self._gatherings[endpoint, gathering.name]
        if not outdated:
            self._shared.setdefault(endpoint, []).append(carrier)
        some = carrier.has_room
        for each in gathering.waiting:
            if carrier.has_room:
                each.on_connection(carrier.exchange())
            elif some:
                tls, host, connect_s, limit = gathering.tls, gathering.host, gathering.connect_s, gathering.limit
                self.open(each, endpoint, tls, host, connect_s, limit, "h2")
            else:
                each.on_no_connection(False, "the server takes no requests on a new connection")
        if outdated:
            carrier.retire()
        else:
            self._has_room(carrier)

    def _has_room(self, carrier: Carrier) -> None:
        """Give those that wait in the endpoint's queue the exchanges that fit on the connection."""
        while carrier.has_room and (queue := self._queues.get(carrier.owner)) is not None:
            waiting, name = queue[0]
            if name != carrier.server_name:
                return
            queue.popleft()
            if not queue:
                del self._queues[carrier.owner]
            waiting.on_connection(carrier.exchange())

    def _is_over_the_name(self, error: Exception, endpoint: EndpointState, name: str) -> bool:
        """Return whether a handshake may have failed for the name alone. Servers differ in what they do with one that they do not
        know: another certificate, an alert, or they hang up."""
        if (endpoint.upstream, name) in self._proved:
            return False
        return isinstance(error, ssl.SSLError | ValueError | ConnectionError) and not isinstance(
            error, ConnectionRefusedError
        )

    def _remember(self, context: ResumingContext, connection: ClientConnection | Carrier) -> None:
        if not connection.closed:
            context.remember(connection.transport.get_extra_info("ssl_object"))

    def keep(self, connection: Upward) -> None:
        """Take a connection back whose exchange is over: for whoever waits for one, else for later."""
        endpoint = connection.owner
        if self._queues:
            queue = self._queues.get(endpoint)
            if queue:
                waiting, name = queue[0]
                if connection.server_name != name:
                    connection.make_room()
                    return
                queue.popleft()
                if not queue:
                    del self._queues[endpoint]
                waiting.on_connection(connection)
                return
        if endpoint.gone_at:
            # It left while this was in use: should the endpoint come back, it may be about to close this.
            connection.close()
            return
        connection.idle_since = self._clock.tick
        endpoint.idle.append(connection)

    def waits(self, waiting: Waiting, endpoint: EndpointState) -> bool:
        """Return whether it is in the endpoint's queue."""
        return any(place[0] is waiting for place in self._queues.get(endpoint, ()))

    def leave(self, waiting: Waiting, endpoint: EndpointState) -> None:
        """Give a place in the queue up, if there is one."""
        queue = self._queues.get(endpoint)
        if queue is None:
            return
        for place in queue:
            if place[0] is waiting:
                queue.remove(place)
                break
        if not queue:
            del self._queues[endpoint]

    def _lost(self, connection: ClientConnection) -> None:
        owner = connection.owner
        endpoint: EndpointState = owner.endpoint if isinstance(owner, _Left) else owner
        found = self._open.get(endpoint)
        if found is None or connection not in found:
            return  # it broke while it was being opened, which `_connect` is told of as well
        found.discard(connection)
        if not found:
            del self._open[endpoint]
        if connection.receiver is None and connection in endpoint.idle:
            endpoint.idle.remove(connection)
        self._freed(endpoint)

    def _lost_carrier(self, carrier: Carrier) -> None:
        owner = carrier.owner
        endpoint: EndpointState = owner.endpoint if isinstance(owner, _Left) else owner
        shared = self._shared.get(endpoint)
        if shared is not None and carrier in shared:
            shared.remove(carrier)
            if not shared:
                del self._shared[endpoint]
        found = self._open.get(endpoint)
        if found is None or carrier not in found:
            return
        found.discard(carrier)
        if not found:
            del self._open[endpoint]
        endpoint.idle = [each for each in endpoint.idle if getattr(each, "carrier", None) is not carrier]
        self._freed(endpoint)

    def _freed(self, endpoint: EndpointState) -> None:
        """One connection less, open or being opened."""
        endpoint.connections -= 1
        queue = self._queues.get(endpoint)
        if queue:
            # A place got free: the first in the queue opens its own connection.
            waiting, _ = queue.popleft()
            if not queue:
                del self._queues[endpoint]
            waiting.on_no_connection(False, RETRY_OPEN)

    def retire(self, endpoint: EndpointState) -> None:
        """Keep none of the endpoint's connections: it left, or TLS to it is another now. Idle ones are closed at once, those in
        use or being opened once they are given back."""
        self.flush(endpoint)
        for connection in self._open.get(endpoint, ()):
            if connection.owner is endpoint:
                connection.owner = _Left(endpoint)
            if isinstance(connection, Carrier):
                connection.retire()
        self._outdated.update(task for task, of in self._opening.items() if of is endpoint)

    def flush(self, endpoint: EndpointState) -> None:
        """Close the endpoint's idle connections: one of them proved stale."""
        idle, endpoint.idle = endpoint.idle, []
        for connection in idle:
            connection.close()

    def sweep(self) -> None:
        """Close connections before they have been idle for `IDLE_CONNECTION_S`. Called once in `_SWEEP_S`."""
        oldest = self._clock.tick - _IDLE_TICKS
        for endpoint in tuple(self._open):
            idle = endpoint.idle
            if idle and idle[0].idle_since < oldest:
                count = 0
                while count < len(idle) and idle[count].idle_since < oldest:
                    count += 1
                cold = idle[:count]
                del idle[:count]
                for connection in cold:
                    connection.close()
                    carrier = getattr(connection, "carrier", None)
                    if carrier is not None and not carrier.exchanges:
                        carrier.retire()
        for carriers in tuple(self._shared.values()):
            for carrier in tuple(carriers):
                if not carrier.exchanges and carrier.idle_since < oldest:
                    carrier.retire()

    async def close(self) -> None:
        """Close everything."""
        for task in tuple(self._opening):
            task.cancel()
        await asyncio.gather(*self._opening, return_exceptions=True)
        for connection in [each for found in self._open.values() for each in found]:
            connection.abort()
        self._queues.clear()


RETRY_OPEN = "a place for a connection got free"
"""Detail of `on_no_connection` that asks to call `open` again."""
NOT_PROVED = "the endpoint did not prove the name that the client gave"
"""Detail of `on_no_connection` that says nothing of the endpoint."""


def _name(tls: UpstreamTls | None, host: str, endpoint: EndpointState) -> str:
    """Return the name to ask for and to verify; empty without TLS."""
    return server_name(tls, host, endpoint.endpoint.address) if tls is not None else ""
