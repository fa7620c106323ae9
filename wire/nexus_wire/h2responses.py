"""The response's side of a stream: what the application writes, as frames, as far as the client's windows reach; the rest waits here."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from nexus_wire.clock import NEVER
from nexus_wire.http1 import Dechunker
from nexus_wire.http2 import frames
from nexus_wire.http2.frames import DEFAULT_FRAME, HEAD, HEADERS, Code
from nexus_wire.pieces import LARGE, Piece

if TYPE_CHECKING:
    from nexus_wire.h2server import H2Connection
    from nexus_wire.server import Requestor

_pack = HEAD.pack
_TURN = 2**16
"""Bytes that a stream which waited may write before the next one's turn."""


class H2Response:
    """A response on its way to the client.

    number: of the stream, on the wire. window: what the client takes of it now. complete: whether all of the request has come.
    deadline: in ticks. closed: nothing can be written any more. blocked: write no more; the requestor is told when it changes.
    tunnel: the client goes on sending though its request is complete.
    """

    connection: H2Connection
    number: int
    window: int
    blocked = False
    closed = False
    complete = True
    tunnel = False
    deadline = NEVER
    requestor: Requestor | None = None
    _dechunker: Dechunker | None = None
    _queue: deque[Piece] | None = None
    _finished = False
    _last_words = b""
    _held = 0
    """Bytes of the request's body that came, and were taken by nobody."""

    def gone(self) -> None:
        """The client has given the stream, or the connection, up."""
        raise NotImplementedError

    def _let_go(self) -> None:
        """Nobody takes the rest of the request's body any more."""
        raise NotImplementedError

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
