"""A stream of an HTTP/2 connection: one request, and what its response is written to.

To the application it is what an HTTP/1.1 connection is while it serves a request. Responses come as HTTP/1.1 has them (status
line, header lines, chunks if the upstream sent chunks) and leave as frames (`h2responses`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nexus_wire.clock import NEVER
from nexus_wire.h2responses import H2Response
from nexus_wire.http1 import RequestBlock, RequestLine
from nexus_wire.http2 import frames
from nexus_wire.http2.frames import DEFAULT_WINDOW, Code, StreamBroken
from nexus_wire.pieces import Piece

if TYPE_CHECKING:
    from nexus_wire.h2server import H2Connection
    from nexus_wire.server import ServerOptions


class H2Stream(H2Response):
    """One request and its response.

    line, block: of the request. body: what of its body came before it was served. complete: whether all of it has come.
    trailers: of the request, lines with CRLF; there once complete is told. content: 0, there are no chunks. number: on the wire.
    window: what the client takes of the response now. deadline: in ticks. closed: nothing can be written any more.
    blocked: write no more; the requestor is told when it changes. tunnel: it asks for a WebSocket (RFC 8441): complete for who serves it,
    and yet its client goes on sending.

    Not slots: nearly all streams leave nearly all attributes as they are, and what is not set costs nothing.
    """

    minor = 1
    content = 0
    keep = True
    body = b""
    trailers = b""
    served = False
    _switched = False
    # Of a tunnel that is not one yet: no part of the request, and nothing that a server without WebSockets may ever see.
    _ahead = b""
    # Of the request's body: bytes still to come by content-length (-1 unknown); taken, but not yet told as window.
    _left = -1
    _untold = 0
    _room = DEFAULT_WINDOW
    _window_in = DEFAULT_WINDOW
    _paused = False
    _received = 0
    _received_at = 0

    def __init__(self, connection: H2Connection, number: int, line: RequestLine, block: RequestBlock) -> None:
        self.connection = connection
        self.number = number
        self.line = line
        self.block = block
        self.window = connection.first_window
        self.context = connection.context

    # ---- what it is part of

    @property
    def options(self) -> ServerOptions:
        """The listener's."""
        return self.connection.options

    @property
    def transport(self) -> Any:
        """The connection's, shared with other streams."""
        return self.connection.transport

    @property
    def peer(self) -> str:
        """The client's address, text."""
        return self.connection.peer

    @property
    def secure(self) -> bool:
        """Whether it came over TLS."""
        return self.connection.secure

    @property
    def server_name(self) -> str:
        """The name that the client asked for in TLS."""
        return self.connection.server_name

    @property
    def closing(self) -> bool:
        """Whether the connection goes after its streams."""
        return self.connection.options.draining

    # ---- the request, from the connection

    def expect_body(self) -> None:
        """More frames follow the head."""
        self.complete = False
        self._received_at = self.connection.options.clock.tick
        block = self.block
        if block.sized:
            self._left = block.length

    def serve(self) -> None:
        """Have the request served, with what of its body has come."""
        self.served = True
        block = self.block
        if self.tunnel:
            self.respond = self._respond_otherwise  # type: ignore[method-assign]
            self.connection.options.on_request(self)
            return
        if block.sized:
            self.trailers = b""  # there is no place for them
        elif not self.complete or self.trailers:
            self.block = block.framed(-2)
        elif self.body:
            self.block = block.framed(len(self.body))
        self.connection.options.on_request(self)
        if self._held and not self._paused:
            self._taken()

    def take(self, payload: bytes, size: int, *, end: bool) -> None:
        """A DATA frame came. size: of the frame, with its padding. Raises `StreamBroken`."""
        self._window_in -= size
        if self._window_in < 0:
            raise StreamBroken(self.number, Code.FLOW_CONTROL_ERROR, "The stream's window is not kept.")
        if self._left >= 0:
            self._left -= len(payload)
            if self._left < 0 or (end and self._left):
                raise StreamBroken(self.number, Code.PROTOCOL_ERROR, "The body is not as long as its head says.")
        self._received += size
        self._held += size
        if self.tunnel:
            self._take_tunnel(payload, end=end)
            return
        if end:
            self.complete = True
        if not self.served:
            self.body = self.body + payload if self.body else payload
            return
        if self.requestor is not None:
            self.requestor.on_body(payload, end)
        if not self._paused or self.requestor is None:
            self._taken()

    def _take_tunnel(self, payload: bytes, *, end: bool) -> None:
        if not self._switched:
            self._ahead += payload
        else:
            if self.requestor is not None and payload:
                self.requestor.on_tunnel(payload)
            if not self._paused or self.requestor is None:
                self._taken()
        if end:
            # A half-closed client cannot be told from one that is gone, as on HTTP/1.1.
            self.tunnel = False
            requestor, self.requestor = self.requestor, None
            if requestor is not None:
                requestor.on_gone()
            if self._switched:
                self.finish()
            elif not self.closed:
                self.abort()

    def take_trailers(self, lines: bytes) -> None:
        """The request ends with trailers. Raises `StreamBroken`."""
        if self._left > 0:
            raise StreamBroken(self.number, Code.PROTOCOL_ERROR, "The body is not as long as its head says.")
        self.complete = True
        if not self.served:
            self.trailers = lines
        elif self.requestor is not None:
            if self.block.length < 0:
                self.trailers = lines
            self.requestor.on_body(b"", True)

    def _taken(self) -> None:
        """What came was taken: let the client send as much again."""
        connection = self.connection
        held, self._held = self._held, 0
        connection.credit(held)
        self._untold = untold = self._untold + held
        if untold * 2 >= self._room and (not self.complete or self.tunnel) and not self.closed:
            limits = connection.shared.limits
            if self._room < limits.grown_window:
                # Its taker keeps up: a larger window costs nothing then, and a distant client needs one.
                untold += limits.grown_window - self._room
                self._room = limits.grown_window
            self._window_in += untold
            self._untold = 0
            connection.send(frames.window_update(self.number, untold))

    def gone(self) -> None:
        """The client has given the stream, or the connection, up."""
        self.closed = True
        self._queue = None
        self._let_go()
        requestor = self.requestor
        if requestor is not None:
            self.requestor = None
            requestor.on_gone()

    def _let_go(self) -> None:
        """What came and nobody took is nobody's any more: it must not narrow the connection's window for ever."""
        held, self._held = self._held, 0
        if held:
            self.connection.credit(held)

    # ---- what else the requestor calls

    def _respond_otherwise(self, status: bytes, lines: bytes, length: int, body: Piece, complete: bool) -> None:
        """Write a response to a client that asked for a WebSocket, and gets none: any 2xx would tell it that it has one (RFC 8441
        section 5, RFC 9110 section 9.3.6)."""
        del self.respond
        if status[9:10] == b"2":
            status = b"HTTP/1.1 502 Bad Gateway\r\n"
        self.respond(status, lines, length, body, complete)

    def invite(self) -> None:
        """Tell a client that waits for `100 Continue` that its body is wanted."""
        if self.block.expects and not self.complete:
            self.inform(b"HTTP/1.1 100 Continue\r\n\r\n")

    def pause(self) -> None:
        """Take no more of the request body for now: its window is not renewed."""
        self._paused = True

    def resume(self) -> None:
        """Take more."""
        self._paused = False
        if self._held and self.served:
            self._taken()

    def switch(self, head: bytes) -> bytes:
        """Answer a client that asked for a WebSocket, and become its tunnel. Return what the client has sent ahead.

        head: HTTP/1.1's 101, whole, with what of the tunnel came behind it. Here the answer is 200, without the proof that the server
        knows of WebSockets: the client was told so by SETTINGS (RFC 8441 section 5).
        """
        head, _, data = head.partition(b"\r\n\r\n")
        lines = b"".join(
            line + b"\r\n" for line in head.split(b"\r\n")[1:] if not line.lower().startswith(b"sec-websocket-accept:")
        )
        self._switched = True
        del self.respond
        ahead, self._ahead = self._ahead, b""
        if self._held and not self._paused:
            self._taken()
        if not self.closed:
            self._send_head(self.connection.shared.heads.block(b"HTTP/1.1 200 OK", lines), end=False)
            if data:
                self.write(data)
        return ahead

    def close_tunnel(self) -> None:
        """Close once everything is written."""
        self.requestor = None
        self.finish()

    # ---- time

    def on_deadline(self) -> None:
        """Cut off whoever is too slow."""
        self.deadline = NEVER
        if self.requestor is not None:
            self.requestor.on_late()
        elif not self.closed:
            self.closed = True
            self._queue = None
            self.connection.cut(self, Code.CANCEL)

    def is_dripping(self) -> bool:
        """Whether the request body comes slower than the listener accepts."""
        options = self.connection.options
        if self.complete or not options.min_body_bytes_per_s or self._paused:
            return False
        passed_s = (options.clock.tick - self._received_at) / 10
        return passed_s > options.head_timeout_s and self._received < options.min_body_bytes_per_s * passed_s
