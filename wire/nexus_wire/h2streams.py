"""A stream of an HTTP/2 connection: one request, and what its response is written to.

To the application it is what an HTTP/1.1 connection is while it serves a request. Responses come as HTTP/1.1 has them (status
line, header lines, chunks if the upstream sent chunks) and leave as frames, as far as the client's windows reach; the rest waits
here, and the application is told to wait as well.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from nexus_wire.clock import NEVER
from nexus_wire.http1 import Dechunker, RequestBlock, RequestLine
from nexus_wire.http2 import frames
from nexus_wire.http2.frames import DEFAULT_FRAME, DEFAULT_WINDOW, HEAD, HEADERS, Code, StreamBroken
from nexus_wire.pieces import LARGE, Piece

if TYPE_CHECKING:
    from nexus_wire.h2server import H2Connection
    from nexus_wire.server import Requestor, ServerOptions

_pack = HEAD.pack
_TURN = 2**16
"""Bytes that a stream which waited may write before the next one's turn."""


class H2Stream:
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
    blocked = False
    closed = False
    complete = True
    served = False
    tunnel = False
    deadline = NEVER
    requestor: Requestor | None = None
    _dechunker: Dechunker | None = None
    _queue: deque[Piece] | None = None
    _finished = False
    _last_words = b""
    _switched = False
    # Of a tunnel that is not one yet: no part of the request, and nothing that a server without WebSockets may ever see.
    _ahead = b""
    # Of the request's body: bytes still to come by content-length (-1 unknown); come, but taken by nobody; taken, but not yet told as
    # window.
    _left = -1
    _held = 0
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
        if untold * 2 >= self._room and not self.complete and not self.closed:
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

    # ---- the response: what the requestor calls

    def respond(self, status: bytes, lines: bytes, length: int, body: Piece, complete: bool) -> None:
        """Write a response's head and the first piece of its body.

        As on a `ServerConnection`: lines may frame the body as HTTP/1.1 does, which is left out; length -1 brings chunks, which are
        taken apart.
        """
        connection = self.connection
        if self.closed:
            return
        heads = connection.shared.heads
        head = heads.kept.get((status, lines)) or heads.block(status, lines)
        trailers = b""
        if length == -1:
            dechunker = Dechunker()
            body = dechunker.take(bytes(body))[0]
            if complete:
                trailers = dechunker.trailers
            else:
                self._dechunker = dechunker
        size = len(body)
        number = self.number
        if (
            complete
            and size < LARGE
            and size <= self.window
            and size <= connection.window
            and len(head) <= DEFAULT_FRAME
            and not trailers
            and not connection.prefix
        ):
            # What nearly all responses are: head and body in one piece.
            if size:
                connection.window -= size
                head = b"".join((_pack(len(head) << 8 | HEADERS, 4, number), head, _pack(size << 8, 1, number), body))
            else:
                head = _pack(len(head) << 8 | HEADERS, 5, number) + head
            connection.send(head)
            if self.complete and not self.tunnel and not connection.going and not self._held:
                # `_over` in place.
                self.requestor = None
                self.closed = True
                del connection.streams[number]
            else:
                self._over()
            return
        end = complete and not trailers
        if complete:
            # It waits for nothing that its requestor could hold up.
            self.requestor = None
        self._send_head(head, end=end and not size)
        if connection.blocked:
            self.blocked = True
        if size:
            self._write(body, end=end)
        elif end:
            self._over()
        if complete and trailers:
            self.finish(trailers)

    def respond_whole(self, status: bytes, lines: bytes, body: Piece, trailers: bytes) -> None:
        """Write a response that ends with trailers: lines, each with CRLF."""
        if self.closed:
            return
        connection = self.connection
        heads = connection.shared.heads
        head = heads.kept.get((status, lines)) or heads.block(status, lines)
        tail = heads.trailers(trailers)
        size = len(body)
        if (
            self.tunnel
            or not 0 < size < LARGE
            or size > self.window
            or size > connection.window
            or len(head) > DEFAULT_FRAME
            or len(tail) > DEFAULT_FRAME
            or connection.prefix
        ):
            self.requestor = None
            self.respond(status, lines, -2, body, False)
            self.finish(trailers)
            return
        connection.window -= size
        number = self.number
        connection.send(
            b"".join((_pack(len(head) << 8 | HEADERS, 4, number), head, _pack(size << 8, 0, number), body,
                      _pack(len(tail) << 8 | HEADERS, 5, number), tail))
        )  # fmt: skip
        self._over()

    def _respond_otherwise(self, status: bytes, lines: bytes, length: int, body: Piece, complete: bool) -> None:
        """Write a response to a client that asked for a WebSocket, and gets none: any 2xx would tell it that it has one (RFC 8441
        section 5, RFC 9110 section 9.3.6)."""
        del self.respond
        if status[9:10] == b"2":
            status = b"HTTP/1.1 502 Bad Gateway\r\n"
        self.respond(status, lines, length, body, complete)

    def _send_head(self, head: bytes, *, end: bool) -> None:
        connection = self.connection
        if connection.prefix:
            head = connection.prefix + head
            connection.prefix = b""
        connection.send(frames.headers(self.number, head, DEFAULT_FRAME, end=end))

    def write(self, data: Piece) -> None:
        """Write a further piece of the body."""
        if self._dechunker is not None:
            data = self._dechunker.take(bytes(data))[0]
        if data and not self.closed:
            self._write(data, end=False)

    def _write(self, data: Piece, *, end: bool) -> None:
        """Send or queue a piece. end: it is the last, and no trailers follow."""
        queue = self._queue
        if queue is not None:
            queue.append(data)
        else:
            sent = self._frames(data, len(data), end=end)
            if sent == len(data):
                if end:
                    self._over()
                return
            self._queue = deque((memoryview(data)[sent:],))
            self.connection.waiting[self.number] = self
            self.block_writing()
        if end:
            self._finish_later(b"")

    def _frames(self, data: Piece, turn: int, *, end: bool) -> int:
        """Send as much of data as the windows take, `turn` bytes at most. Return how much that was. end: no more follows it."""
        connection = self.connection
        most = min(len(data), turn, self.window, connection.window)
        if most <= 0:
            return 0
        self.window -= most
        connection.window -= most
        number = self.number
        send = connection.send
        last = 1 if end and most == len(data) else 0
        if most < LARGE:
            send(b"".join((_pack(most << 8, last, number), data if most == len(data) else data[:most])))
            connection.watch.pay(1)
            return most
        view = memoryview(data)
        for at in range(0, most, DEFAULT_FRAME):
            size = min(DEFAULT_FRAME, most - at)
            send(_pack(size << 8, last if at + size == most else 0, number))
            send(view[at : at + size])
        connection.watch.pay(1 + most // DEFAULT_FRAME)
        return most

    def drain(self) -> bool:
        """Send of what waits, a turn's worth at most. Return whether more could be sent in another turn."""
        queue = self._queue
        turn = _TURN
        while queue and turn > 0:
            piece = queue[0]
            end = self._finished and not self._last_words and len(queue) == 1
            sent = self._frames(piece, turn, end=end)
            if not sent:
                return False
            turn -= sent
            if sent < len(piece):
                queue[0] = memoryview(piece)[sent:]
                continue
            queue.popleft()
            if end:
                self._over()
                return False
        if self._finished:
            # The client takes it, if slowly.
            self._wait_for_reader()
        if queue:
            return self.window > 0
        self._queue = None
        del self.connection.waiting[self.number]
        if self._finished:
            self._end(self._last_words)
        elif not self.connection.blocked:
            self.unblock()
        return False

    def block_writing(self) -> None:
        """The connection's socket is full."""
        if not self.blocked:
            self.blocked = True
            if self.requestor is not None:
                self.requestor.on_blocked()

    def unblock(self) -> None:
        """The client takes more, unless something still waits for its window."""
        if self.blocked and self._queue is None:
            self.blocked = False
            if self.requestor is not None:
                self.requestor.on_ready()

    def finish(self, trailers: bytes = b"") -> None:
        """The body is written in full. trailers: lines, each with CRLF; those of chunks are known here."""
        if self.closed:
            return
        if self._dechunker is not None:
            trailers = self._dechunker.trailers
        if self._queue is not None:
            self._finish_later(trailers)
        else:
            self._end(trailers)

    def _finish_later(self, trailers: bytes) -> None:
        self._finished = True
        self._last_words = trailers
        self.requestor = None
        self._wait_for_reader()

    def _wait_for_reader(self) -> None:
        # What is written may take long to be read; not for ever.
        options = self.connection.options
        self.deadline = options.clock.tick + options.keepalive_ticks

    def _end(self, trailers: bytes) -> None:
        if trailers:
            self._send_head(self.connection.shared.heads.trailers(trailers), end=True)
        else:
            self.connection.send(_pack(0, 1, self.number))
        self._over()

    def _over(self) -> None:
        """The response is written. A request that still comes is not wanted any more (RFC 9113 section 8.1)."""
        self.requestor = None
        self.closed = True
        connection = self.connection
        if not self.complete or self.tunnel:
            connection.cut(self, Code.NO_ERROR)
        else:
            self._let_go()
            connection.forget(self)

    def abort(self) -> None:
        """Break the stream off: the only honest end of a response that cannot be finished."""
        self.requestor = None
        if not self.closed:
            self.closed = True
            self._queue = None
            self.connection.cut(self, Code.INTERNAL_ERROR)

    def inform(self, head: bytes) -> None:
        """Pass an interim response (1xx) on, whole head with its empty line."""
        if self.closed:
            return
        status, _, lines = head.partition(b"\r\n")
        self._send_head(self.connection.shared.heads.block(status, lines.removesuffix(b"\r\n")), end=False)

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
