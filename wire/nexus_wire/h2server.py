"""The server's side of an HTTP/2 connection: frames in, requests as streams out, and what streams write as frames.

Each stream is to the application what an HTTP/1.1 connection is while it serves a request (see `h2streams`). The ordinary request
costs no task, future or timer, and a request that the client's table makes the same bytes of as an earlier one is one dict
probe. What is written within one turn of the loop leaves in one piece.

Source: RFC 9113; RFC 9218's and RFC 7540's priorities are read over. Server push is not offered.
"""

from __future__ import annotations

from secrets import token_bytes
from typing import TYPE_CHECKING

from nexus_wire.clock import ticks_of
from nexus_wire.h2serving import H2Serving
from nexus_wire.h2streams import H2Stream
from nexus_wire.http1 import Refused, RequestBlock, RequestLine, RequestParser
from nexus_wire.http1.refusals import bad_request
from nexus_wire.http2 import frames, requests
from nexus_wire.http2.frames import (
    ACK,
    CONTINUATION,
    DATA,
    DEFAULT_FRAME,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEAD,
    HEAD_BYTES,
    HEADERS,
    MAX_WINDOW,
    PING,
    PREFACE,
    PRIORITISED,
    PRIORITY,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    STREAM_MASK,
    WINDOW_UPDATE,
    Code,
    ConnectionBroken,
    StreamBroken,
)
from nexus_wire.http2.hpack import DEFAULT_TABLE, EMPTY_TABLE
from nexus_wire.http2.limits import Limits
from nexus_wire.http2.requests import Malformed, RequestReader
from nexus_wire.http2.responses import ResponseHeads

if TYPE_CHECKING:
    from nexus_wire.server import ServerOptions

_unpack = HEAD.unpack_from
_TOO_LONG = DEFAULT_FRAME + 1 << 8
_MAX_KNOWN = 32
_MAX_KNOWN_BYTES = 256
_MAX_KNOWN_HEAD = 1024
"""What one connection remembers of its own request heads: so many, that are no longer than that as they came and as they were
read. They may hold a client's secrets, as its table does; nobody else ever sees them."""
_MAX_SKIPPED = 16


class Http2:
    """What all HTTP/2 connections of a listener share: how requests are read, response heads met before, limits."""

    __slots__ = ("greeting", "heads", "limits", "period", "requests")

    def __init__(self, parser: RequestParser, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self.requests = RequestReader(parser, lambda: token_bytes(16))
        self.heads = ResponseHeads()
        self.greeting = self.limits.greeting(parser.max_head_bytes)
        self.period = ticks_of(self.limits.period_s)

    def connection(self, options: ServerOptions) -> H2Connection:
        """Return the protocol of a new connection."""
        return H2Connection(options, self)

    def age(self) -> None:
        """Begin anew where a cache is full. Called once in a while, never within a request."""
        self.heads.age()


class H2Connection(H2Serving):
    """One client connection: its frames."""

    __slots__ = ()

    # ---- reading frames

    def data_received(self, data: bytes) -> None:
        """Take bytes as they come."""
        if self._ended:
            if self._parting is not None:
                self._parting.heard = True
            return
        if self._buffer:
            data = self._buffer + data
            self._buffer = b""
        self._reading = True
        try:
            at = self._read(data)
            if at < len(data):
                self._buffer = data[at:] if at else data
            self._serve_opened()
        except ConnectionBroken as broken:
            self._break(broken.code, broken.detail)
        finally:
            self._reading = False
        if self._out:
            self._flush()

    def _read(self, data: bytes) -> int:
        """Read whole frames. Return where the rest begins. Raises `ConnectionBroken`."""
        at = 0
        size = len(data)
        if not self._greeted:
            at = self._greet(data)
            if not at:
                return 0
        while size - at >= HEAD_BYTES:
            word, flags, number = _unpack(data, at)
            begin = at + HEAD_BYTES
            if word >= _TOO_LONG:
                raise ConnectionBroken(Code.FRAME_SIZE_ERROR, "A frame is longer than allowed.")
            end = begin + (word >> 8)
            if end > size:
                break
            kind = word & 0xFF
            number &= STREAM_MASK
            at = end
            try:
                if kind == HEADERS and flags & ~PRIORITISED == END_STREAM | END_HEADERS and not self._block_stream:
                    if flags & PRIORITISED:
                        self._request(number, frames.fragment(data[begin:end], flags, number), end=True)
                    else:
                        self._request(number, data[begin:end], end=True)
                else:
                    self._frame(kind, flags, number, data[begin:end])
            except StreamBroken as broken:
                self._reset(broken)
            if self._ended:
                return size
        return at

    def _greet(self, data: bytes) -> int:
        """Take the preface, and the settings that follow it. Return where what comes behind them begins; 0 to wait for more."""
        if not PREFACE.startswith(data[: len(PREFACE)]):
            raise ConnectionBroken(Code.PROTOCOL_ERROR, "This is not HTTP/2.")
        begin = len(PREFACE)
        if len(data) < begin + HEAD_BYTES:
            return 0
        word, flags, number = _unpack(data, begin)
        if word & 0xFF != SETTINGS or flags & ACK or number & STREAM_MASK:
            raise ConnectionBroken(Code.PROTOCOL_ERROR, "The first frame is not SETTINGS.")
        self._greeted = True
        return begin

    def _frame(self, kind: int, flags: int, number: int, payload: bytes) -> None:
        """Take any frame. Raises `ConnectionBroken` and `StreamBroken`."""
        if self._block_stream:
            if kind != CONTINUATION or number != self._block_stream:
                raise ConnectionBroken(Code.PROTOCOL_ERROR, "A header block is interrupted by another frame.")
            self._continue(flags, payload)
        elif kind == DATA:
            self._data(flags, number, payload)
        elif kind == HEADERS:
            self._headers(flags, number, payload)
        elif kind == WINDOW_UPDATE:
            self._widen(number, payload)
        elif kind == SETTINGS:
            self._settings(flags, number, payload)
        elif kind == RST_STREAM:
            self._given_up(number, payload)
        elif kind == PING:
            self._ping(flags, number, payload)
        elif kind == PRIORITY:
            self._priority(number, payload)
        elif kind == GOAWAY:
            if number:
                raise ConnectionBroken(Code.PROTOCOL_ERROR, "A GOAWAY frame belongs to a stream.")
            frames.read_goaway(payload)
            self._noise()
        elif kind in (PUSH_PROMISE, CONTINUATION):
            raise ConnectionBroken(Code.PROTOCOL_ERROR, "A frame comes that a client does not send there.")
        else:
            self._noise()  # of an extension (RFC 9113 section 5.5)

    def _noise(self) -> None:
        self.watch.noise(self.options.clock.tick, self._last)

    # ---- requests

    def _headers(self, flags: int, number: int, payload: bytes) -> None:
        if not number:
            raise ConnectionBroken(Code.PROTOCOL_ERROR, "A HEADERS frame belongs to no stream.")
        piece = frames.fragment(payload, flags, number)
        if not flags & END_HEADERS:
            self._block_stream = number
            self._block_flags = flags
            self._block_pieces = [piece]
            self._block_at = self.options.clock.tick
            self._continuations = 0
        else:
            self._request(number, piece, end=bool(flags & END_STREAM))

    def _continue(self, flags: int, payload: bytes) -> None:
        limits = self.shared.limits
        pieces = self._block_pieces
        pieces.append(payload)
        self._continuations += 1
        if self._continuations > limits.max_continuations or sum(map(len, pieces)) > limits.max_block:
            raise ConnectionBroken(Code.ENHANCE_YOUR_CALM, "A header block is too long.")
        if flags & END_HEADERS:
            number, self._block_stream = self._block_stream, 0
            self._block_pieces = []
            self._request(number, b"".join(pieces), end=bool(self._block_flags & END_STREAM))

    def _request(self, number: int, block: bytes, *, end: bool) -> None:
        """Take a whole header block: of a new request, or trailers. Raises `ConnectionBroken` and `StreamBroken`."""
        last = self._last
        if number <= last or not number & 1:
            self._late_headers(number, block, end=end)
            return
        if number > last + 2:
            self._skip(last + 2, number)
        self._last = number
        head = self._known.get(block)
        if head is None:
            head = self._decode(number, block, end=end)
            if head is None:
                return
        streams = self.streams
        if len(streams) >= self.shared.limits.max_streams:
            raise StreamBroken(number, Code.REFUSED_STREAM, "There are too many streams.")
        if self.going:
            self._forget_cut(number)
            return
        line, headers = head
        stream = H2Stream(self, number, line, headers)
        streams[number] = stream
        if headers.upgrade:
            self._tunnel(stream, end=end)
        elif not end:
            stream.expect_body()
        elif headers.length:
            raise StreamBroken(number, Code.PROTOCOL_ERROR, "The body is not as long as its head says.")
        elif not self.blocked:
            stream.served = True
            self.options.on_request(stream)
            return
        self._opened.append(stream)

    def _tunnel(self, stream: H2Stream, *, end: bool) -> None:
        """Take a request for a WebSocket: DATA that follows is the tunnel's."""
        if end:
            raise StreamBroken(stream.number, Code.PROTOCOL_ERROR, "A tunnel ends with its head.")
        stream.tunnel = True

    def _decode(self, number: int, block: bytes, *, end: bool) -> tuple[RequestLine, RequestBlock] | None:
        """Read a header block that is not known. None when its request is answered already."""
        decoder = self._decoder
        fields = decoder.decode(block)
        if not decoder.neutral and self._known:
            self._known.clear()
        try:
            head = self.shared.requests.read(fields)
        except Malformed as malformed:
            # The application counts it; what it would say to the client is HTTP, which the client does not keep to.
            self.options.on_refused(self, bad_request(str(malformed)))
            raise StreamBroken(number, Code.PROTOCOL_ERROR, str(malformed)) from None
        except Refused as refused:
            self._refuse(number, refused, end=end)
            return None
        if decoder.neutral and len(block) <= _MAX_KNOWN_BYTES and not head[1].upgrade:
            if len(self._known) >= _MAX_KNOWN:
                self._known.clear()
            if sum([len(text) for _, text in fields]) <= _MAX_KNOWN_HEAD:
                self._known[block] = head
        return head

    def _refuse(self, number: int, refused: Refused, *, end: bool) -> None:
        """Answer a head that is refused. What the application replies is an HTTP/1.1 response in full."""
        head, _, body = self.options.on_refused(self, refused).partition(b"\r\n\r\n")
        status, _, lines = head.partition(b"\r\n")
        block = self._take_prefix() + self.shared.heads.block(status, lines)
        # Refusals are small, and there is a window for them, or the client has no use for their words.
        body = body if len(body) <= min(self.window, self.first_window, DEFAULT_FRAME) else b""
        self.window -= len(body)
        self.send(frames.headers(number, block, DEFAULT_FRAME, end=not body))
        if body:
            self.send(frames.data(number, body, end=True))
        if not end:
            self._forget_cut(number)
            self.send(frames.reset(number, Code.NO_ERROR))
        self.watch.reset(self.options.clock.tick, self._last)

    def _skip(self, begin: int, end: int) -> None:
        """Remember that the odd numbers from begin to before end were never used, for a client that mixes them up."""
        if len(self._skipped) >= _MAX_SKIPPED:
            del self._skipped[0]
        self._skipped.append((begin, end))

    def _late_headers(self, number: int, block: bytes, *, end: bool) -> None:
        """A header block comes on a stream that is not new: trailers, or nothing good."""
        if not number & 1:
            raise ConnectionBroken(Code.PROTOCOL_ERROR, "A client's streams have odd numbers.")
        fields = self._decoder.decode(block)
        self._known.clear()
        stream = self.streams.get(number)
        if stream is None:
            if number in self._cut:
                return
            if any(begin <= number < after for begin, after in self._skipped):
                raise ConnectionBroken(Code.PROTOCOL_ERROR, "A stream's number is lower than that of an earlier one.")
            raise ConnectionBroken(Code.STREAM_CLOSED, "A header block comes on a stream that is closed.")
        if stream.complete:
            raise StreamBroken(number, Code.STREAM_CLOSED, "A header block comes behind the request's end.")
        if not end:
            raise StreamBroken(number, Code.PROTOCOL_ERROR, "A request has two heads.")
        try:
            lines = requests.read_trailers(fields)
        except Malformed as malformed:
            raise StreamBroken(number, Code.PROTOCOL_ERROR, str(malformed)) from None
        except Refused as refused:
            if stream.requestor is None:
                raise StreamBroken(number, Code.PROTOCOL_ERROR, refused.detail) from None
            stream.complete = True
            stream.requestor.on_refused(refused)
        else:
            stream.take_trailers(lines)

    def _data(self, flags: int, number: int, payload: bytes) -> None:
        size = len(payload)
        self._credit -= size
        if self._credit < 0:
            raise ConnectionBroken(Code.FLOW_CONTROL_ERROR, "The connection's window is not kept.")
        stream = self.streams.get(number)
        if stream is None or (stream.complete and not stream.tunnel):
            if not number or number > self._last:
                raise ConnectionBroken(Code.PROTOCOL_ERROR, "A DATA frame belongs to no stream.")
            self.credit(size)
            self._noise()
            if stream is None and number in self._cut:
                return
            raise StreamBroken(number, Code.STREAM_CLOSED, "A DATA frame comes on a stream that is closed.")
        if flags & frames.PADDED:
            payload = frames.unpadded(payload, flags)
        end = flags & END_STREAM
        if not payload and not end:
            self._noise()
        stream.take(payload, size, end=bool(end))

    # ---- what else clients say

    def _given_up(self, number: int, payload: bytes) -> None:
        frames.read_word(payload, "RST_STREAM")
        if not number or number > self._last:
            raise ConnectionBroken(Code.PROTOCOL_ERROR, "A RST_STREAM frame belongs to no stream.")
        stream = self.streams.pop(number, None)
        if stream is None:
            self._noise()
            return
        self.waiting.pop(number, None)
        stream.gone()
        self.watch.reset(self.options.clock.tick, self._last)
        self._may_go()

    def _widen(self, number: int, payload: bytes) -> None:
        increment = frames.read_word(payload, "WINDOW_UPDATE") & STREAM_MASK
        self._noise()
        if not number:
            if not increment:
                raise ConnectionBroken(Code.PROTOCOL_ERROR, "A window is widened by nothing.")
            self.window += increment
            if self.window > MAX_WINDOW:
                raise ConnectionBroken(Code.FLOW_CONTROL_ERROR, "The connection's window is too large.")
            if self.waiting and not self.blocked:
                self._pump()
            return
        stream = self.streams.get(number)
        if stream is None:
            if number > self._last:
                raise ConnectionBroken(Code.PROTOCOL_ERROR, "A WINDOW_UPDATE frame belongs to no stream.")
            return
        if not increment:
            raise StreamBroken(number, Code.PROTOCOL_ERROR, "A window is widened by nothing.")
        stream.window += increment
        if stream.window > MAX_WINDOW:
            raise StreamBroken(number, Code.FLOW_CONTROL_ERROR, "The stream's window is too large.")
        if number in self.waiting and not self.blocked:
            self._pump()

    def _settings(self, flags: int, number: int, payload: bytes) -> None:
        if number:
            raise ConnectionBroken(Code.PROTOCOL_ERROR, "A SETTINGS frame belongs to a stream.")
        self._noise()
        if flags & ACK:
            if payload:
                raise ConnectionBroken(Code.FRAME_SIZE_ERROR, "A SETTINGS acknowledgement holds settings.")
            return
        for identifier, value in frames.read_settings(payload):
            if identifier == frames.INITIAL_WINDOW_SIZE:
                change = value - self.first_window
                self.first_window = value
                for stream in self.streams.values():
                    stream.window += change
                    if stream.window > MAX_WINDOW:
                        raise ConnectionBroken(Code.FLOW_CONTROL_ERROR, "A stream's window is too large.")
            elif identifier == frames.HEADER_TABLE_SIZE and value < DEFAULT_TABLE:
                self.prefix = EMPTY_TABLE
        self._answer(frames.SETTINGS_ACK)
        if self.waiting and not self.blocked:
            self._pump()

    def _ping(self, flags: int, number: int, payload: bytes) -> None:
        if number:
            raise ConnectionBroken(Code.PROTOCOL_ERROR, "A PING frame belongs to a stream.")
        frames.check_ping(payload)
        self._noise()
        if not flags & ACK:
            self._answer(frames.ping(payload, ack=True))

    def _priority(self, number: int, payload: bytes) -> None:
        if not number:
            raise ConnectionBroken(Code.PROTOCOL_ERROR, "A PRIORITY frame belongs to no stream.")
        self._noise()
        if len(payload) != 5:
            raise ConnectionBroken(Code.FRAME_SIZE_ERROR, "A PRIORITY frame is not five bytes long.")
        frames.check_dependency(payload, number)

    def _reset(self, broken: StreamBroken) -> None:
        """End a stream over its client's fault. Raises `ConnectionBroken`."""
        number = broken.stream
        stream = self.streams.pop(number, None)
        self.waiting.pop(number, None)
        self._forget_cut(number)
        self.send(frames.reset(number, broken.code))
        if stream is not None:
            stream.gone()
        self._may_go()
        self.watch.reset(self.options.clock.tick, self._last)
