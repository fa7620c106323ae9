"""The client's side of an HTTP/1.1 connection, on asyncio's protocols: one exchange at a time, kept for the next one.

The owner makes connections, keeps idle ones and decides everything; this module writes what it is given and tells a
`Receiver` what comes back, head checked, body as framed on the wire, with back-pressure both ways.
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from nexus_wire.http1 import ChunkScanner, Refused, ResponseBlock, ResponseParser, StatusLine
from nexus_wire.pieces import Piece, cut

if TYPE_CHECKING:
    from nexus_wire.h2exchanges import H2Exchange

Upward: TypeAlias = "ClientConnection | H2Exchange"
"""What an exchange with a server goes over, whichever protocol it speaks."""

_BODILESS = frozenset({204, 304})
_MAX_INTERIM = 16
"""Interim responses (1xx) before a final one; more is not an answer."""
CLOSE_S = 2.0
"""What is still to be written when a connection closes gets so long."""
_BIG_BODY = 2**19
_BIG_HIGH_WATER = 2**18


class State(enum.IntEnum):
    """Where a connection is."""

    IDLE = 0  # no exchange; anything that comes now is a protocol error
    HEAD = 1  # waiting for a response head
    SIZED = 2  # reading a body of known length
    CHUNKED = 3  # reading a chunked body
    UNTIL_CLOSE = 4  # reading a body that ends with the connection
    TUNNEL = 5  # upgraded: bytes both ways
    CLOSED = 6


_IDLE, _HEAD, _SIZED, _CHUNKED, _UNTIL_CLOSE, _TUNNEL, _CLOSED = (int(state) for state in State)


class Broken(enum.StrEnum):
    """Why an exchange ended before its response did."""

    CLOSED = "closed"  # the peer closed, or reset, the connection
    PROTOCOL = "protocol"  # what came is not a valid response
    UNSEEN = "unseen"  # the peer promises that it has not looked at the request: it may be sent again, whatever it does


class Receiver(Protocol):
    """Whoever waits for a response."""

    def on_response(
        self,
        connection: Upward,
        status: StatusLine,
        block: ResponseBlock,
        length: int,
        data: Piece,
        complete: bool,
    ) -> None:
        """The final response's head, with the first piece of its body.

        length: of the body that really follows: 0 for HEAD, 204 and 304 whatever the head says; -1 chunked, -2 raw, until
        the end. complete: data is the whole body; the connection is free again (`reusable` says whether for more). A raw one's
        `connection.trailers` are here as well then.
        """
        ...

    def on_data(self, data: bytes) -> None:
        """A further piece of the body."""
        ...

    def on_end(self, connection: Upward) -> None:
        """The body is complete; the connection is free again. `connection.trailers` follow a raw one."""
        ...

    def on_interim(self, head: bytes, code: int) -> None:
        """An interim response other than 100 and 101: its whole head, as it may be passed on."""
        ...

    def on_broken(self, connection: Upward, why: Broken, detail: str) -> None:
        """There will be no (further) response."""
        ...

    def on_upstream_blocked(self) -> None:
        """The peer reads slowly: write no more until `on_upstream_ready`."""
        ...

    def on_upstream_ready(self) -> None:
        """The peer takes more."""
        ...


class ClientConnection(asyncio.Protocol):
    """One connection to a server.

    reusable: whether another exchange may follow the one that just ended. begun: exchanges so far. answered: whether any
    byte of the current exchange's response has come. idle_since: clock tick, set by the owner when it keeps the connection.
    server_name: that its peer was asked for, and verified by, over TLS; set by the owner. trailers,
    grpc: none, ever; chunks bring their own.
    on_lost: called once when the connection is over; the owner forgets it.
    """

    __slots__ = (
        "_buffer", "_head_only", "_interim", "_on_lost", "_parser", "_raw", "_remaining", "_scanner", "_upgrade_asked", "answered",
        "begun", "blocked", "closed", "content", "idle_since", "owner", "paused", "receiver", "reusable",
        "server_name", "state", "transport",
    )  # fmt: skip

    transport: Any
    trailers = grpc = b""

    def __init__(self, parser: ResponseParser, on_lost: Callable[[ClientConnection], None], owner: Any = None) -> None:
        self._parser = parser
        self._on_lost = on_lost
        self.owner = owner
        self.state = _IDLE
        self.receiver: Receiver | None = None
        self.closed = False
        self.blocked = False
        self.paused = False
        self.reusable = True
        self.answered = False
        self.begun = 0
        self.content = 0
        self.idle_since = 0
        self.server_name = ""
        self._buffer = b""
        self._remaining = 0
        self._interim = 0
        self._scanner: ChunkScanner | None = None
        self._head_only = False
        self._raw = False
        self._upgrade_asked = b""

    def begin(
        self, receiver: Receiver, data: bytes, *, head_only: bool = False, upgrade: bytes = b"", raw: bool = False
    ) -> None:
        """Send a request: head, and what of its body is here. head_only: a HEAD request. upgrade: a 101 to this protocol is welcome.

        raw: the head says nothing of a body, and there is one: payload alone, here and in `write`, until `finish`.
        """
        self.receiver = receiver
        self.state = _HEAD
        self.answered = False
        self.begun += 1
        self.content = 0
        self._head_only = head_only
        self._upgrade_asked = upgrade
        if raw:
            self._raw = True
            head, _, body = data.partition(b"\r\n\r\n")
            chunk = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
            data = b"%b\r\ntransfer-encoding: chunked\r\n\r\n%b" % (head, chunk)
        self.transport.write(data)

    def write(self, data: bytes) -> None:
        """Send more of the request body, or of a tunnel."""
        if self._raw:
            if not data:
                return
            data = b"%x\r\n%b\r\n" % (len(data), data)
        self.transport.write(data)

    def finish(self, trailers: bytes = b"") -> None:
        """The raw body is written in full. trailers: lines, each with CRLF."""
        self._raw = False
        self.transport.write(b"0\r\n%b\r\n" % trailers)

    def pause(self) -> None:
        """Read no more for now."""
        self.paused = True
        self.transport.pause_reading()

    def resume(self) -> None:
        """Read on."""
        self.paused = False
        self.transport.resume_reading()

    def abort(self) -> None:
        """Break off: the exchange is over without a further word to its receiver."""
        self.receiver = None
        self.reusable = False
        self.state = _CLOSED
        if not self.closed:
            self.transport.abort()

    def make_room(self) -> None:
        """Break off, so that a connection to another name may be opened."""
        self.abort()

    def close(self) -> None:
        """Close once everything is written, or after `CLOSE_S`: whoever does not read by then keeps no connection."""
        self.receiver = None
        self.reusable = False
        self.state = _CLOSED
        if not self.closed:
            unwritten = self.transport.get_write_buffer_size()
            self.transport.close()
            if unwritten:
                asyncio.get_running_loop().call_later(CLOSE_S, self._cut_off)

    def _cut_off(self) -> None:
        if not self.closed:
            self.transport.abort()

    # ---- asyncio's side

    def connection_made(self, transport: Any) -> None:
        """Take the transport."""
        self.transport = transport

    def connection_lost(self, exc: BaseException | None) -> None:
        """The connection is over."""
        self.closed = True
        self.reusable = False
        state, self.state = self.state, _CLOSED
        receiver, self.receiver = self.receiver, None
        self._on_lost(self)
        if receiver is None:
            return
        if state == _UNTIL_CLOSE and exc is None:
            receiver.on_end(self)
        else:
            receiver.on_broken(self, Broken.CLOSED, str(exc) if exc is not None else "the server closed the connection")

    def eof_received(self) -> bool:
        """The server has said its last; the transport closes."""
        return False

    def pause_writing(self) -> None:
        """The socket's buffer is full."""
        self.blocked = True
        if self.receiver is not None:
            self.receiver.on_upstream_blocked()

    def resume_writing(self) -> None:
        """The socket takes more."""
        self.blocked = False
        if self.receiver is not None:
            self.receiver.on_upstream_ready()

    def data_received(self, data: bytes) -> None:
        """Take bytes as they come."""
        state = self.state
        if state == _HEAD:
            self.answered = True
            self._head(self._buffer + data if self._buffer else data)
            return
        receiver = self.receiver
        if receiver is None:
            # An answer nobody asked for. What else this server says on this connection cannot be believed.
            self.abort()
        elif state == _SIZED:
            remaining = self._remaining
            size = len(data)
            if size < remaining:
                self._remaining = remaining - size
                receiver.on_data(data)
                return
            if size > remaining:
                self.reusable = False
                data = data[:remaining]
            receiver.on_data(data)
            self._end(receiver)
        elif state == _CHUNKED:
            assert self._scanner is not None
            try:
                data, rest = self._scanner.take(data)
            except Refused as refused:
                self._break(refused.detail)
                return
            self.content = self._scanner.announced
            if data:
                receiver.on_data(data)
            if rest is not None:
                self._scanner = None
                if rest:
                    self.reusable = False
                self._end(receiver)
        else:
            receiver.on_data(data)

    def _head(self, data: bytes) -> None:
        parser = self._parser
        while True:
            end = data.find(b"\r\n\r\n")
            if end < 0 or end > parser.max_head_bytes:
                if len(data) > parser.max_head_bytes:
                    self._break("the response head is too large")
                else:
                    self._buffer = data
                return
            at = data.find(b"\r\n")
            raw_line = data[:at]
            raw_block = data[at + 2 : end]
            try:
                status = parser.statuses.get(raw_line) or parser.status(raw_line)
                block = parser.blocks.get(raw_block) or parser.block(raw_block)
            except Refused as refused:
                self._break(refused.detail)
                return
            end += 4
            code = status.code
            if code >= 200:
                break
            if code == 101:
                self._switch(status, block, data[end:])
                return
            self._interim += 1
            if self._interim > _MAX_INTERIM:
                self._break("the server sends interim responses without end")
                return
            if code != 100 and self.receiver is not None:
                # 100 is not passed on: the gateway invites bodies itself, when it wants them.
                # Its hop-by-hop lines end here like any response's, and what frames a body says nothing in it.
                self.receiver.on_interim(status.line + block.unframed().forward + b"\r\n", code)
            data = data[end:]
            if not data:
                self._buffer = b""
                return
        if self._buffer:
            self._buffer = b""
        self._interim = 0
        self._final(status, block, data, end)

    def _final(self, status: StatusLine, block: ResponseBlock, data: bytes, end: int) -> None:
        receiver = self.receiver
        if receiver is None:
            self.abort()
            return
        length = block.length
        if self._head_only or status.code in _BODILESS:
            length = 0
            if status.code == 204 and block.framing:
                # RFC 9110 section 8.6, RFC 9112 section 6.1: a 204 has neither.
                block = block.unframed()
        # HTTP/1.0 knows no chunks: whoever sends them all the same may mean anything by what follows (RFC 9112 section 6.1).
        self.reusable = not block.close and (status.minor == 1 or (block.keep_alive and length != -1))
        have = len(data) - end
        if length >= 0:
            if have >= length:
                if have > length:
                    # More than it announced: whatever it is, it is no answer to a later request.
                    self.reusable = False
                self.state = _IDLE
                self.receiver = None
                receiver.on_response(self, status, block, length, cut(data, end, end + length), True)
                return
            self._remaining = length - have
            self.state = _SIZED
        elif length == -1:
            scanner = ChunkScanner(underscores=True)
            try:
                body, rest = scanner.take(data[end:])
            except Refused as refused:
                self._break(refused.detail)
                return
            self.content = scanner.announced
            if rest is not None:
                if rest:
                    self.reusable = False
                self.state = _IDLE
                self.receiver = None
                receiver.on_response(self, status, block, length, body, True)
                return
            self._scanner = scanner
            self.state = _CHUNKED
            receiver.on_response(self, status, block, length, body, False)
            return
        else:
            self.reusable = False
            self.state = _UNTIL_CLOSE
        receiver.on_response(self, status, block, length, cut(data, end, end + have), False)

    def _switch(self, status: StatusLine, block: ResponseBlock, ahead: bytes) -> None:
        receiver = self.receiver
        self._buffer = b""
        if receiver is None or not block.upgrade or block.upgrade != self._upgrade_asked:
            self._break("the server switches to a protocol that it was not asked for")
            return
        self.reusable = False
        self.state = _TUNNEL
        receiver.on_response(self, status, block, -2, ahead, False)

    def _end(self, receiver: Receiver) -> None:
        self.state = _IDLE
        self.receiver = None
        receiver.on_end(self)

    def _break(self, detail: str) -> None:
        receiver = self.receiver
        self.abort()
        if receiver is not None:
            receiver.on_broken(self, Broken.PROTOCOL, detail)


def grow_writes(connection: Upward, length: int) -> None:
    """Let a large request body be written in fewer, larger pieces."""
    if length > _BIG_BODY:
        connection.transport.set_write_buffer_limits(_BIG_HIGH_WATER)
