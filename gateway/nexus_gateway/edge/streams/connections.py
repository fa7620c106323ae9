"""One TCP connection of a client, and the one to an endpoint that it is spliced to.

Rules of the file:
- Bytes go on as they come, piece by piece, never joined. Who cannot write stops the other side's reading; what is held is one
  read before the endpoint is there, and a transport's buffer afterwards.
- The end of one direction is passed on and leaves the other alone; a reset is passed on as a reset, and so is whatever the
  gateway itself does not serve: no client may take less for the whole.
- Whatever happens, `_finish` runs exactly once, when both sides are closed.

Knows nothing of TLS towards the client: over a `TlsTransport` it is an application like any other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from math import inf
from time import monotonic
from typing import Any, Literal

from nexus_wire.clock import NEVER, ticks_of

from nexus_gateway.edge.streams.dialling import Dial
from nexus_gateway.edge.streams.fars import Far, Side, ignore
from nexus_gateway.edge.streams.plans import StreamPlan
from nexus_gateway.edge.streams.service import Streams
from nexus_gateway.edge.streams.sockets import keep_alive, reset
from nexus_gateway.edge.streams.visits import Admission, Refused, Visit
from nexus_gateway.resilience.attempts import Outcome
from nexus_gateway.telemetry.streams import FinishedStream

SETTLED_S = 1.0
"""An endpoint that has not reset a connection by then serves, even if it is the client's turn to speak: before, what forwards for
it may have taken a connection that it does not."""
LOOK_S = 10.0
"""Open connections are looked at this often: what went through is counted, and whether anything did."""
LINGER_S = 5.0
"""How long an endpoint may go on answering in silence a client that has ended its direction, where that cannot be passed on: TLS
to the endpoint has no half-closed state here."""


class TcpConnection(Side):
    """A client's connection. plan: where it goes, None for nowhere. peer: the client's address. bytes_in: from the client.

    deadline, closed: for the clock.
    """

    __slots__ = (
        "_admission", "_blocked", "_context", "_counted", "_far", "_held", "_linger", "_lost", "_moved",
        "_plan", "_reason", "_send", "_server_name", "_silent_since", "_started_at", "_task", "_upstream", "_visits", "bytes_in",
        "closed", "deadline", "listener", "peer", "protocol", "streams",
    )  # fmt: skip

    def __init__(
        self,
        streams: Streams,
        plan: StreamPlan | None,
        listener: str = "",
        *,
        protocol: Literal["tcp", "tls"] = "tcp",
        server_name: str = "",
    ) -> None:
        """listener: its id. protocol, server_name: what the client speaks and asked for, for the log."""
        super().__init__()
        self.streams = streams
        self.listener = listener
        self.protocol = protocol
        self.peer = ""
        self.bytes_in = 0
        self.closed = False
        self.deadline = NEVER
        self._plan = plan
        self._server_name = server_name
        self._upstream = ""
        self._context = b""
        self._started_at = 0.0
        self._reason = ""
        self._admission: Admission | None = None
        self._visits: list[Visit] = []
        self._task: asyncio.Task[None] | None = None
        self._far: Far | None = None
        self._send: Callable[[bytes], None] = self._hold
        self._held: list[bytes] = []
        self._lost = False
        self._blocked = False
        self._linger = False
        self._counted = (0, 0)
        self._moved: tuple[int, ...] = ()
        self._silent_since = 0

    # ---- the client's side

    def connection_made(self, transport: Any) -> None:
        """Look for an endpoint: the client need not speak first."""
        self.transport = transport
        peer = transport.get_extra_info("peername")
        self.peer = peer[0] if isinstance(peer, tuple) else ""
        self._started_at = monotonic()
        streams = self.streams
        room = streams.has_room()
        streams.connections.add(self)
        self._context = streams.means.contexts.start(None)
        if not room:
            streams.measurements.shed("TooManyConnections")
            self._refuse("TooManyConnections")
            return
        keep_alive(transport)
        self._task = streams.spawn(self._open())

    def take(self, transport: Any, ahead: bytes = b"") -> None:
        """Go on with a connection that another protocol had, from which `ahead` has come already."""
        transport.set_protocol(self)
        self.connection_made(transport)
        if ahead:
            self.data_received(ahead)

    def data_received(self, data: bytes) -> None:
        """Pass on what the client sends."""
        self.bytes_in += len(data)
        self._send(data)

    def _hold(self, data: bytes) -> None:
        """Keep what comes before the endpoint is there: one piece, then nothing is read."""
        self._held.append(data)
        if not self._paused:
            self._paused = True
            self.transport.pause_reading()

    def eof_received(self) -> bool:
        """The client sends no more; it may still wait for an answer."""
        first, self.eof = not self.eof, True
        if first and self._far is not None:
            self._pass_eof(self._far)
        return True

    def pause_writing(self) -> None:
        """The client reads slowly: so does the gateway, from the endpoint."""
        self._blocked = True
        if self._far is not None:
            self._far.pause()

    def resume_writing(self) -> None:
        """The client takes more."""
        self._blocked = False
        if self._far is not None:
            self._far.resume()

    def connection_lost(self, exc: BaseException | None) -> None:
        """The client's side is closed."""
        self._lost = True
        self._send = ignore
        far = self._far
        if self._task is not None:
            self._task.cancel()
        if far is None or far.lost:
            self._finish()
            return
        far.write = ignore
        if exc is not None:
            self._break("ClientReset")
        elif not far.transport.is_closing():
            far.transport.close()

    # ---- on the way to an endpoint

    async def _open(self) -> None:
        try:
            await self._find()
        except Refused as refused:
            self._refuse(refused.reason)
        except Exception:
            self._refuse("InternalError")
            raise
        finally:
            self._task = None

    async def _find(self) -> None:
        """Choose a backend and connect to an endpoint of it. Raises `Refused`."""
        turn = self._plan.next() if self._plan is not None else None
        if self._plan is None or turn is None:
            raise Refused("RouteNotFound" if self._plan is None else "NoBackends")
        upstream, pool = turn
        if pool is None:
            raise Refused("BackendNotFound")
        self._upstream = upstream
        self.streams.started(self._plan.route.id, upstream)
        self._admission = admission = Admission(pool, monotonic())
        speaks_tls = self.protocol == "tls"
        dial = Dial(self.streams, self, admission, self._visits, self._started_at, speaks_tls=speaks_tls)
        far = await dial.run(self.peer, self._server_name)
        self._splice(far, self._visits[-1])
        if far.lost:
            self.far_lost(None)

    # ---- both sides

    def _splice(self, far: Far, visit: Visit) -> None:
        """Let bytes through."""
        now = monotonic()
        visit.connected(now)
        keep_alive(far.transport)
        self._far = far
        self._send = far.transport.write
        held, self._held = self._held, []
        for data in held:
            self._send(data)
        if self._blocked:
            far.pause()
        if not far.blocked:
            self.resume()
        if self.eof:
            self._pass_eof(far)
        clock = self.streams.clock
        self._silent_since = clock.tick
        self.deadline = clock.at(SETTLED_S)
        clock.watch(self)

    def _pass_eof(self, far: Far) -> None:
        """The client's direction has ended."""
        if far.eof:
            self._part()
        elif far.transport.can_write_eof():
            if not far.transport.is_closing():
                far.transport.write_eof()
        else:
            self._linger = True
            self.deadline = self.streams.clock.at(LINGER_S)

    def far_ended(self) -> None:
        """The endpoint's direction has ended."""
        self.answers()
        if self.eof:
            self._part()
        elif not self.transport.is_closing():
            self.transport.write_eof()

    def _part(self) -> None:
        """Both directions have ended: close both sides once everything is written."""
        far = self._far
        self.transport.close()
        if far is not None:
            far.transport.close()

    def far_lost(self, exc: BaseException | None) -> None:
        """The endpoint's side is closed."""
        self._send = ignore
        if exc is not None and not self._reason:
            self._visits[-1].failed(Outcome.RESET, monotonic())
        if self._lost:
            self._finish()
        elif exc is not None:
            self._break("UpstreamReset")
        elif not self.transport.is_closing():
            self.answers()
            self.transport.close()

    def has(self, far: Far) -> bool:
        """Return whether this is the connection that it is spliced to."""
        return self._far is far

    def answers(self) -> None:
        """The endpoint has shown that it serves."""
        visit = self._visits[-1]
        if not visit.judged:
            visit.succeeded(monotonic())

    # ---- time

    def on_deadline(self) -> None:
        """Count what went through, and cut off what is silent."""
        far = self._far
        if self.closed or far is None:
            return
        self.answers()
        self._count()
        clock = self.streams.clock
        moved = (self.bytes_in, far.received, _unwritten(self.transport), _unwritten(far.transport))
        if moved != self._moved:
            self._moved = moved
            self._silent_since = clock.tick
        idle_s = self._visits[-1].pool.upstream.timeouts.idle_s
        if self._linger:
            idle_s = min(idle_s or inf, LINGER_S)
        if idle_s and clock.tick - self._silent_since >= ticks_of(idle_s):
            self._break("IdleTimeout")
            return
        self.deadline = clock.at(min(idle_s / 4 or inf, LOOK_S))

    def _count(self) -> None:
        far = self._far
        counts = (self.bytes_in, far.received if far is not None else 0)
        before, self._counted = self._counted, counts
        if self._plan is not None and self._upstream:
            self.streams.moved(self._plan.route.id, self._upstream, counts[0] - before[0], counts[1] - before[1])

    # ---- the end

    def cut_off(self, reason: str) -> None:
        """Break off at once. reason: one word."""
        if self._far is None:
            if self._task is not None:
                self._task.cancel()
            self._refuse(reason)
        else:
            self._break(reason)

    def _refuse(self, reason: str) -> None:
        """There is no endpoint for it."""
        self._reason = self._reason or reason
        self._held.clear()
        if not self._lost:
            reset(self.transport)

    def _break(self, reason: str) -> None:
        """Reset whatever side is still there."""
        self._reason = self._reason or reason
        far = self._far
        if far is not None and not far.lost:
            reset(far.transport)
        if not self._lost:
            reset(self.transport)

    def _finish(self) -> None:
        """Settle everything; both sides are closed."""
        if self.closed:
            return
        self.closed = True
        now = monotonic()
        far, visits, plan = self._far, self._visits, self._plan
        if far is not None and not self._reason and far.received:
            self.answers()
        self._count()
        for visit in visits:
            visit.leave()
        if self._admission is not None:
            self._admission.leave()
        connected = far is not None
        done = FinishedStream(
            self.protocol,
            self.peer,
            self._context,
            self._started_at,
            now,
            connected,
            self._reason or ("" if connected else "ClientClosed"),
            plan.route.id if plan is not None else "",
            self._upstream,
            self._server_name,
            self.listener,
            tuple(visit.tried(now, self._context) for visit in visits),
            self.bytes_in,
            far.received if far is not None else 0,
        )
        ready_at = visits[-1].ended_at if visits else 0.0
        self.streams.ended(self, done, (ready_at or now) - self._started_at)
        # The two sides point at each other: without this they would be left to the garbage collector.
        if far is not None:
            far.detach()
        self._far = None


def _unwritten(transport: Any) -> int:
    size: int = transport.get_write_buffer_size()
    return size
