"""One exchange at a time on one stream after another of an HTTP/2 connection: the interface of `ClientConnection`, and its meaning.

Nothing of a connection as a whole is known here: frames that name a stream come from `h2client.Carrier`, checked as frames.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nexus_wire.client import Broken, Receiver
from nexus_wire.http1 import Dechunker, ResponseBlock, StatusLine
from nexus_wire.http2 import calls, frames
from nexus_wire.http2.frames import DEFAULT_FRAME, END_HEADERS, HEAD, HEADERS, MAX_WINDOW, Code, StreamBroken
from nexus_wire.pieces import LARGE

if TYPE_CHECKING:
    from nexus_wire.h2client import Carrier

STREAM_WINDOW = 2**18
"""Bytes of a response that may come before its receiver has taken them."""
_MAX_INTERIM = 16
_LAST_STREAM = 0x7FFFFF00

(IDLE, HEAD_COMES, BODY) = range(3)
"""Where an exchange is: none, waiting for a head, within a body."""


class H2Exchange:
    """One place for a stream on a connection: the interface of `ClientConnection`, and its meaning.

    reusable: whether another exchange may follow. begun: 0 until the connection has answered anything, then more: whether it can be
    stale. answered: whether anything came of the peer since the current exchange began. trailers: of the response, when it is over.
    blocked: the peer, or the socket, takes no more for now. content: none; nothing is chunked here. grpc: the status that the last
    response's end told, digits; empty where it told none. It stays until the next response.
    """

    __slots__ = (
        "_chunks", "_end", "_head_only", "_interim", "_left", "_mode", "_out", "_pieces", "_reads", "_response", "_stream", "_tail",
        "_to_send", "_unacked", "_window", "answered", "begun", "blocked", "carrier", "closed", "grpc", "idle_since", "paused",
        "receiver", "reusable", "server_name", "state", "trailers",
    )  # fmt: skip

    content = 0

    def __init__(self, carrier: Carrier) -> None:
        self.carrier = carrier
        self.server_name = carrier.server_name
        self.begun = carrier.answers
        self.closed = False
        self.reusable = True
        self.idle_since = 0
        self.receiver: Receiver | None = None
        self.state = IDLE
        self.trailers = self.grpc = b""
        self.answered = self.blocked = self.paused = False
        self._stream = 0
        self._reads = 0
        self._window = 0  # what the peer takes of this stream
        self._unacked = 0  # what came of it and is not acknowledged
        self._left = -1  # of the response's announced length; -1 for unknown
        self._to_send = 0  # of the request's announced length
        self._mode = 0  # the request's length, as far as it frames the body: -1, -2, or more
        self._end = True  # the request is written, or waits in `_out`, to its end
        self._tail = b""  # the request's trailers, until they are written
        self._out: list[bytes | memoryview] | None = None
        self._pieces: list[bytes] | None = None
        self._response: tuple[StatusLine, ResponseBlock, int] | None = None
        self._chunks: Dechunker | None = None
        self._head_only = False
        self._interim = 0

    @property
    def owner(self) -> Any:
        """The connection's."""
        return self.carrier.owner

    @property
    def transport(self) -> Any:
        """The connection's."""
        return self.carrier.transport

    # ---- sending: what the receiver's side calls

    def begin(
        self, receiver: Receiver, data: bytes, *, head_only: bool = False, upgrade: bytes = b"", raw: bool = False
    ) -> None:
        """Send a request of HTTP/1.1's shape. upgrade: of no meaning here; it stays a request like any other."""
        carrier = self.carrier
        self.receiver = receiver
        self.state = HEAD_COMES
        self.begun = carrier.answers
        self._reads = carrier.reads
        self.answered = False
        self._head_only = head_only
        if self.trailers:
            self.trailers = b""
        self._unacked = 0
        self._stream = stream = carrier.next_stream
        carrier.next_stream = stream + 2
        carrier.streams[stream] = self
        self._window = window = carrier.stream_window
        end = data.find(b"\r\n\r\n")
        block, length = carrier.calls.encode(data[:end])
        if carrier.prefix:
            block, carrier.prefix = carrier.prefix + block, b""
        body = data[end + 4 :]
        if raw:
            length = -2
        self._mode = length
        if not length:
            self._end = True
            body = b""
        elif length > 0:
            self._to_send = left = length - len(body)
            self._end = left <= 0
        elif length == -1:
            self._chunks = Dechunker()
            self._end = False
            body = self._dechunk(body)
        else:
            self._end = False
        size = len(body)
        over = self._end and not self._tail
        if size <= window and size <= carrier.window and size <= DEFAULT_FRAME and len(block) <= DEFAULT_FRAME:
            if size:
                self._window = window - size
                carrier.window -= size
                carrier.write(
                    b"".join((HEAD.pack(len(block) << 8 | HEADERS, END_HEADERS, stream), block,
                              HEAD.pack(size << 8, 1 if over else 0, stream), body))
                )  # fmt: skip
            else:
                carrier.write(HEAD.pack(len(block) << 8 | HEADERS, 5 if over else END_HEADERS, stream) + block)
            if self._end and not over:
                self._send_trailers()
        else:
            carrier.write(frames.headers(stream, block, carrier.max_frame, end=over and not size))
            if size or (self._end and not over):
                self._send(body)
        if stream >= _LAST_STREAM:
            carrier.retire()
        if carrier.blocked and not self._end and not self.blocked:
            self.blocked = True
            receiver.on_upstream_blocked()

    def write(self, data: bytes) -> None:
        """Send more of the request body."""
        if self._end or self.receiver is None:
            return
        mode = self._mode
        if mode > 0:
            left = self._to_send - len(data)
            if left < 0:
                data, left = data[:left], 0
            self._to_send = left
            self._end = not left
        elif mode == -1:
            data = self._dechunk(data)
        if data or self._end:
            self._send(data)

    def finish(self, trailers: bytes = b"") -> None:
        """The raw body is written in full. trailers: lines, each with CRLF."""
        if not self._end and self.receiver is not None:
            self._end = True
            self._tail = trailers
            self._send(b"")

    def _dechunk(self, data: bytes) -> bytes:
        """Return a chunk-framed piece's content; note its end, and the trailers behind it."""
        chunks = self._chunks
        assert chunks is not None
        content, rest = chunks.take(data)  # checked before: it is not refused
        if rest is not None:
            self._end = True
            self._tail = chunks.trailers
            self._chunks = None
        return content

    def _send(self, data: bytes) -> None:
        """Write payload as far as the windows go, and the request's end behind it; keep the rest."""
        if self._out is not None:
            if data:
                self._out.append(data)
            return
        carrier = self.carrier
        size = len(data)
        if not size or (size <= DEFAULT_FRAME and size <= self._window and size <= carrier.window):
            self._window -= size
            carrier.window -= size
            over = self._end and not self._tail
            if size or over:
                carrier.write(HEAD.pack(size << 8, 1 if over else 0, self._stream) + data)
            if self._end and not over:
                self._send_trailers()
            return
        self._out = [data]
        self.flush()
        if self._out is not None and not self.blocked:
            self.blocked = True
            if self.receiver is not None and not self._end:
                self.receiver.on_upstream_blocked()

    def flush(self, share: int = MAX_WINDOW) -> None:
        """Write what waits, as far as the windows go. share: of the connection's, at most."""
        carrier = self.carrier
        out = self._out
        if out is None:
            return
        most = carrier.max_frame
        written: list[bytes | memoryview] = []
        window = self._window
        before = shared = min(carrier.window, share)
        while out:
            piece = out[0]
            size = min(len(piece), window, shared, most)
            if size <= 0:
                break
            window -= size
            shared -= size
            if size == len(piece):
                del out[0]
                over = not out and self._end and not self._tail
            else:
                out[0] = memoryview(piece)[size:]
                piece = piece[:size] if size < LARGE else memoryview(piece)[:size]
                over = False
            written += (HEAD.pack(size << 8, 1 if over else 0, self._stream), piece)
        self._window = window
        carrier.window -= before - shared
        if written:
            carrier.write(b"".join(written))
        if out:
            carrier.waiting[self] = None
            return
        self._out = None
        carrier.waiting.pop(self, None)
        if self._end and self._tail:
            self._send_trailers()
        if self.blocked and not carrier.blocked:
            self.blocked = False
            if self.receiver is not None:
                self.receiver.on_upstream_ready()

    def _send_trailers(self) -> None:
        carrier = self.carrier
        block = calls.encode_trailers(self._tail)
        self._tail = b""
        if block:
            carrier.write(frames.headers(self._stream, block, carrier.max_frame, end=True))
        else:
            carrier.write(HEAD.pack(0, 1, self._stream))

    # ---- receiving: what the receiver's side calls

    def pause(self) -> None:
        """Let no more come than the window allows already."""
        self.paused = True

    def resume(self) -> None:
        """Let more come."""
        self.paused = False
        if self._unacked >= STREAM_WINDOW // 2 and self.state == BODY:
            self._acknowledge()

    def abort(self) -> None:
        """Break off: the exchange is over without a further word to its receiver. The connection goes on."""
        self.receiver = None
        self._leave(Code.CANCEL)
        self.discard()

    def close(self) -> None:
        """Give the place up."""
        self.abort()

    def make_room(self) -> None:
        """Have the connection close as soon as nobody uses it, so that one to another name may be opened."""
        self.abort()
        self.carrier.retire()

    def discard(self) -> None:
        """This place serves no more."""
        if not self.closed:
            self.closed = True
            self.reusable = False
            self.carrier.discarded(self)

    def _leave(self, code: Code | None) -> None:
        """Take the stream off the connection. code: reset it with, unless it is over on both sides already."""
        if self.state == IDLE:
            return
        carrier = self.carrier
        self.state = IDLE
        carrier.streams.pop(self._stream, None)
        if self._out is not None:
            self._out = None
            carrier.waiting.pop(self, None)
        self._pieces = self._response = self._chunks = None
        self._tail = b""
        self.blocked = False
        if code is not None and not carrier.closed:
            carrier.late += max(STREAM_WINDOW - self._unacked, 0)
            carrier.write(frames.reset(self._stream, code))

    # ---- receiving: what the connection calls

    def on_head(self, status: StatusLine, block: ResponseBlock, ended: bool) -> None:
        """Take a response's head, interim or final. Raises `StreamBroken`."""
        code = status.code
        if code < 200:
            self._interim += 1
            if ended or code == 101 or self._interim > _MAX_INTERIM:
                raise self._broken("An interim response ends the stream, switches protocols, or is one of too many.")
            if code != 100 and self.receiver is not None:
                self.receiver.on_interim(status.line + block.unframed().forward + b"\r\n", code)
            return
        self._interim = 0
        self.carrier.answers += 1
        self.answered = True
        length = block.length
        self._left = length if length >= 0 else -1
        if self._head_only or code == 204 or code == 304:
            self._left = length = 0
            if code == 204 and block.framing:
                block = block.unframed()
        if not ended:
            self.state = BODY
            self.grpc = b""
            self._response = (status, block, length)
            self._pieces = []
            self.carrier.fresh.append(self)
            return
        if self._left > 0:
            raise self._broken("The response is shorter than it says.")
        self.grpc = calls.grpc_status(block.forward)
        receiver = self._over()
        if receiver is not None:
            receiver.on_response(self, status, block, length, b"", True)

    def on_payload(self, data: bytes, size: int, ended: bool) -> None:
        """Take a piece of the body. size: of its frame. Raises `StreamBroken`."""
        if self.state != BODY:
            raise self._broken("A response's body comes before its head.")
        self._unacked = unacked = self._unacked + size
        if unacked > STREAM_WINDOW:
            raise StreamBroken(self._stream, Code.FLOW_CONTROL_ERROR, "The server sends more than the window holds.")
        left = self._left
        if left >= 0:
            left -= len(data)
            if left < 0 or (ended and left):
                raise self._broken("The response is longer or shorter than it says.")
            self._left = left
        pieces = self._pieces
        if pieces is not None:
            if data:
                pieces.append(data)
            if ended:
                self._whole()
            return
        receiver = self.receiver
        if data and receiver is not None:
            receiver.on_data(data)
        if ended:
            if self._over() is not None and receiver is not None:
                receiver.on_end(self)
        elif unacked >= STREAM_WINDOW // 2 and not self.paused:
            self._acknowledge()

    def on_trailers(self, trailers: bytes, grpc: bytes, ended: bool) -> None:
        """Take the trailers, and with them the end. grpc: the status they tell. Raises `StreamBroken`."""
        if not ended:
            raise self._broken("A second head comes within a response.")
        if self._left > 0:
            raise self._broken("The response is shorter than it says.")
        if self._left < 0 and self._response is not None:
            # What nearly all answers to gRPC's calls are: the whole of it in one read.
            self.grpc = grpc
            self.trailers = trailers
            self._whole()
            return
        self.deliver()
        self.grpc = grpc
        receiver = self._over()
        if receiver is not None:
            self.trailers = trailers
            receiver.on_end(self)

    def deliver(self) -> None:
        """Hand the head over that was kept back, with what came of its body; more follows."""
        response, pieces = self._response, self._pieces
        self._response = self._pieces = None
        if response is None or pieces is None or self.receiver is None:
            return
        status, block, length = response
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        self.receiver.on_response(self, status, block, length, data, False)
        if self._unacked >= STREAM_WINDOW // 2 and not self.paused and self.state == BODY:
            self._acknowledge()

    def _whole(self) -> None:
        """The response is here to its end, and its head still is."""
        response, pieces = self._response, self._pieces
        assert response is not None
        assert pieces is not None
        status, block, length = response
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        receiver = self._over()
        if receiver is not None:
            receiver.on_response(self, status, block, length, data, True)

    def _over(self) -> Receiver | None:
        """The response is complete: leave the stream. Return who is to be told."""
        receiver, self.receiver = self.receiver, None
        # What is left of the request nobody needs any more.
        self._leave(None if self._end and self._out is None else Code.CANCEL)
        self.reusable = not self.closed
        if self.carrier.retired:
            self.discard()
        return receiver

    def _acknowledge(self) -> None:
        self.carrier.write(frames.window_update(self._stream, self._unacked))
        self._unacked = 0

    def _broken(self, detail: str) -> StreamBroken:
        return StreamBroken(self._stream, Code.PROTOCOL_ERROR, detail)

    def on_broken(self, why: Broken, detail: str, code: Code | None = None) -> None:
        """There will be no (further) response. code: reset the stream with."""
        receiver, self.receiver = self.receiver, None
        self.answered = self.answered or why is Broken.PROTOCOL or self._reads != self.carrier.reads
        self._leave(code)
        self.discard()
        if receiver is not None:
            receiver.on_broken(self, why, detail)
