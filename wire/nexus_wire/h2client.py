"""The client's side of HTTP/2 connections, on asyncio's protocols: many exchanges at once on each.

A `Carrier` is the connection; its `H2Exchange`s are used like `ClientConnection`s, one exchange at a time and kept for the next one:
whoever sends requests sees no difference. They share the socket, and nothing else: each has its own windows, so that one whose
receiver is slow holds nobody up, and holds `STREAM_WINDOW` bytes at most that nobody has asked for.

Source: RFC 9113. The peer may be hostile: what it makes us keep, decode or answer is bounded (`_MAX_*`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from nexus_wire.client import CLOSE_S, Broken
from nexus_wire.clock import NEVER, Clock, ticks_of
from nexus_wire.h2blocks import Blocks
from nexus_wire.h2exchanges import HEAD_COMES, STREAM_WINDOW, H2Exchange
from nexus_wire.http1 import Refused, ResponseParser
from nexus_wire.http2 import frames
from nexus_wire.http2.calls import Answers, Calls
from nexus_wire.http2.frames import (
    DATA,
    DEFAULT_FRAME,
    DEFAULT_WINDOW,
    END_HEADERS,
    END_STREAM,
    HEAD,
    HEADERS,
    MAX_WINDOW,
    STREAM_MASK,
    Code,
    ConnectionBroken,
    StreamBroken,
)
from nexus_wire.http2.hpack import DEFAULT_TABLE, EMPTY_TABLE
from nexus_wire.pieces import JOINED, write_all

CONNECTION_WINDOW = 2**24
MAX_STREAMS = 100
"""Exchanges of one connection; others go on another one. What RFC 9113 (section 6.5.2) says no server should go below."""
KEEPALIVE_S = 310.0
"""A connection with exchanges that is silent for so long is asked for a sign of life. gRPC's servers take more than one such question
in five minutes for an attack."""
ANSWER_S = 20.0
"""How long the sign may take."""
_MAX_BLOCK = 65536
_MAX_NUISANCES = 1000
"""Frames in a second that bring nothing forward: pings, settings, empty data, and those of streams that are over; beside those that
what we send gives reason for."""
_PAYS_BYTES = 8
"""Of what we send so many bytes pay for one such frame: gRPC's servers measure their way by a PING for what comes, which may be a
message of a few bytes."""
_LEAST_SHARE = 1024
_ODD = frames.END_HEADERS | frames.PADDED | frames.PRIORITISED
_FRAME = 2**16
"""Bytes of the largest frames we write, if the peer takes them: others want their turn."""
_HELLO = (
    frames.PREFACE
    + frames.settings(
        {frames.ENABLE_PUSH: 0, frames.INITIAL_WINDOW_SIZE: STREAM_WINDOW, frames.MAX_HEADER_LIST_SIZE: _MAX_BLOCK}
    )
    + frames.window_update(0, CONNECTION_WINDOW - DEFAULT_WINDOW)
)


class NotSpoken(Exception):
    """The peer does not speak HTTP/2. The text is a sentence without its subject."""


class Heads:
    """What all connections of one owner keep of heads. Call `age` once in a while, never within a message."""

    def __init__(self, parser: ResponseParser | None = None) -> None:
        self._parser = parser or ResponseParser()
        self.answers = Answers(self._parser)
        self.http = Calls(b"http")
        self.https = Calls(b"https")

    def age(self) -> None:
        """Begin anew where a cache is full."""
        self._parser.age()
        self.http.age()
        self.https.age()


class Carrier(asyncio.Protocol):
    """One HTTP/2 connection to a server.

    ready: done when the server has said its settings; fails with `NotSpoken` where it speaks another protocol, or with
    `ConnectionError`. retired: no new exchanges; it closes after its last one. answers, reads: responses, and reads, so far.
    server_name: as of a `ClientConnection`. window, stream_window, max_frame: what the peer takes. fresh: exchanges whose head is not
    handed over yet. waiting: those with something to send. late: bytes that may still come of streams that we broke off. on_lost:
    called once when the connection is over. on_room: called when an exchange was given up.
    """

    __slots__ = (
        "_asked", "_block", "_block_flags", "_block_frames", "_block_stream", "_blocks", "_buffer", "_granted", "_greeted", "_heads",
        "_known", "_most", "_nuisances", "_nuisances_from", "_on_lost", "_on_room", "_out", "_paid_from", "_parted", "_plain",
        "_seen_reads", "_unacked", "answers", "blocked", "calls", "clock", "closed", "deadline", "exchanges", "fresh", "idle_since",
        "late", "max_frame", "next_stream", "owner", "prefix", "reads", "ready", "retired", "server_name", "stream_window", "streams",
        "transport", "waiting", "window",
    )  # fmt: skip

    transport: Any
    calls: Calls

    def __init__(
        self,
        heads: Heads,
        clock: Clock,
        on_lost: Callable[[Carrier], None],
        on_room: Callable[[Carrier], None] = lambda carrier: None,
        owner: Any = None,
        server_name: str = "",
    ) -> None:
        self._heads = heads
        self.clock = clock
        self._on_lost = on_lost
        self._on_room = on_room
        self.owner = owner
        self.server_name = server_name
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.closed = self.retired = self.blocked = False
        self.exchanges: set[H2Exchange] = set()
        self.streams: dict[int, H2Exchange] = {}
        self.fresh: list[H2Exchange] = []
        self.waiting: dict[H2Exchange, None] = {}
        self.next_stream = 1
        self.answers = 0
        self.reads = 0
        self.window = self.stream_window = DEFAULT_WINDOW
        self.max_frame = DEFAULT_FRAME
        self.prefix = b""
        self.idle_since = clock.tick
        self.deadline = NEVER
        self._most = MAX_STREAMS
        self._blocks = Blocks(heads.answers)
        self._known = self._blocks.known
        self._buffer = b""
        self._out: list[bytes] = []
        self._block: list[bytes] | None = None  # of a head that goes on in CONTINUATION frames
        self._block_stream = self._block_flags = self._block_frames = 0
        self._unacked = 0
        self._nuisances = 0
        self._nuisances_from = 0
        self._granted = DEFAULT_WINDOW  # what the peer ever let us send
        self._paid_from = 1
        self.late = 0
        self._seen_reads = -1
        self._asked = self._parted = self._greeted = False
        self._plain = False  # settings have come, and no header block goes on: what is ordinary may come

    # ---- what the owner calls

    @property
    def has_room(self) -> bool:
        """Whether one more exchange fits."""
        return len(self.exchanges) < self._most and not self.retired and not self.closed

    def exchange(self) -> H2Exchange:
        """Return a new place for exchanges. For a connection that has room."""
        made = H2Exchange(self)
        self.exchanges.add(made)
        return made

    def discarded(self, exchange: H2Exchange) -> None:
        """An exchange gave its place up."""
        self.exchanges.discard(exchange)
        if not self.exchanges:
            self.idle_since = self.clock.tick
        if self.retired:
            if not self.streams:
                self.close()
        else:
            self._on_room(self)

    def retire(self) -> None:
        """Take no new exchanges, and close after the last one."""
        if self.retired:
            return
        self._take_no_more()
        if not self.streams:
            self.close()

    def _take_no_more(self) -> None:
        """Nobody begins anything here any more, those neither that have a place."""
        self.retired = True
        for exchange in tuple(self.exchanges):
            if exchange.receiver is None:
                exchange.discard()
            else:
                exchange.reusable = False

    def close(self) -> None:
        """Say good-bye and close once everything is written, or after `CLOSE_S`."""
        self._part(frames.goaway(0, Code.NO_ERROR))

    def _part(self, words: bytes) -> None:
        self.retired = True
        if self._parted or self.closed:
            return
        self._flush()
        self._parted = True
        self.transport.write(words)
        unwritten = self.transport.get_write_buffer_size()
        self.transport.close()
        if unwritten:
            asyncio.get_running_loop().call_later(CLOSE_S, self._cut_off)

    def _cut_off(self) -> None:
        if not self.closed:
            self.transport.abort()

    def abort(self) -> None:
        """Break off at once; the exchanges' receivers are told."""
        self._parted = True
        self.transport.abort()
        self._take_no_more()

    def write(self, data: bytes) -> None:
        """Have frames written at the end of this turn, with those of all other exchanges: the socket's call costs more than they do."""
        out = self._out
        if not out:
            asyncio.get_running_loop().call_soon(self._flush)
        out.append(data)

    def _flush(self) -> None:
        out = self._out
        if not out or self.closed or self._parted:
            return
        self._out = []
        if len(out) == 1:
            self.transport.write(out[0])
        elif sum(map(len, out)) <= JOINED:
            self.transport.write(b"".join(out))
        else:
            write_all(self.transport, out)

    # ---- asyncio's side

    def connection_made(self, transport: Any) -> None:
        """Say hello, if the server chose the protocol or is known to speak it."""
        self.transport = transport
        tls = transport.get_extra_info("ssl_object")
        self.calls = self._heads.https if tls is not None else self._heads.http
        if tls is not None and tls.selected_alpn_protocol() != "h2":
            self._unready(NotSpoken("did not choose h2 in the TLS handshake (ALPN)"))
            transport.abort()
            return
        transport.write(_HELLO)
        self.deadline = self.clock.tick + ticks_of(KEEPALIVE_S)
        self.clock.watch(self)

    def connection_lost(self, exc: BaseException | None) -> None:
        """The connection is over."""
        self.closed = self.retired = True
        self._unready(ConnectionResetError("the server closed the connection before it said its settings"))
        self._on_lost(self)
        detail = str(exc) if exc is not None else "the server closed the connection"
        self._break_all(Broken.CLOSED, detail)
        for exchange in tuple(self.exchanges):
            exchange.discard()

    def _break_all(self, why: Broken, detail: str) -> None:
        for exchange in tuple(self.streams.values()):
            try:
                exchange.on_broken(why, detail)
            except Exception as error:
                self._failed(exchange, error)

    def _unready(self, error: Exception) -> None:
        if not self.ready.done():
            self.ready.set_exception(error)
            self.ready.exception()  # nobody may be left to ask for it

    def eof_received(self) -> bool:
        """The server has said its last; the transport closes."""
        return False

    def pause_writing(self) -> None:
        """The socket's buffer is full."""
        self.blocked = True
        for exchange in tuple(self.streams.values()):
            if not exchange.blocked and not exchange._end:
                exchange.blocked = True
                if exchange.receiver is not None:
                    exchange.receiver.on_upstream_blocked()

    def resume_writing(self) -> None:
        """The socket takes more."""
        self.blocked = False
        for exchange in tuple(self.streams.values()):
            if exchange.blocked and exchange._out is None:
                exchange.blocked = False
                if exchange.receiver is not None:
                    exchange.receiver.on_upstream_ready()

    def data_received(self, data: bytes) -> None:
        """Take frames as they come. Heads are handed over with what came behind them in the same read."""
        if self._buffer:
            data = self._buffer + data
        self.reads += 1
        at = 0
        size = len(data)
        read = HEAD.unpack_from
        try:
            while size - at >= 9:
                word, flags, stream = read(data, at)
                end = at + 9 + (word >> 8)
                kind = word & 0xFF
                if word >> 8 > DEFAULT_FRAME:
                    raise ConnectionBroken(Code.FRAME_SIZE_ERROR, "A frame is larger than allowed.")
                if end > size:
                    break
                payload = data[at + 9 : end]
                at = end
                if self._plain and kind == DATA:
                    self._data(stream & STREAM_MASK, flags, payload)
                elif self._plain and kind == HEADERS and flags & _ODD == END_HEADERS:
                    self._head(stream & STREAM_MASK, flags & END_STREAM, payload)
                else:
                    self._frame(kind, flags, stream & STREAM_MASK, payload)
                if self.closed:
                    return
        except ConnectionBroken as broken:
            self._give_up(broken)
            return
        self._buffer = data[at:] if at < size else b""
        if self.fresh:
            fresh, self.fresh = self.fresh, []
            for exchange in fresh:
                try:
                    exchange.deliver()
                except Exception as error:
                    self._failed(exchange, error)

    # ---- frames

    def _data(self, stream: int, flags: int, payload: bytes) -> None:
        size = len(payload)
        unacked = self._unacked + size
        if unacked >= CONNECTION_WINDOW >> 1:
            # Said as it comes, not as it is taken: a slow receiver holds up its own stream, and no other.
            if unacked > CONNECTION_WINDOW:
                raise ConnectionBroken(Code.FLOW_CONTROL_ERROR, "The server sends more than the window holds.")
            self.write(frames.window_update(0, unacked))
            unacked = 0
        self._unacked = unacked
        exchange = self.streams.get(stream)
        if exchange is None:
            if 0 < size <= self.late and stream < self.next_stream:
                self.late -= size
            else:
                self._stray(stream)
            return
        if flags & frames.PADDED:
            payload = frames.unpadded(payload, flags)
        ended = flags & frames.END_STREAM
        if not payload and not ended:
            self._nuisance()
        try:
            exchange.on_payload(payload, size, bool(ended))
        except StreamBroken as broken:
            exchange.on_broken(Broken.PROTOCOL, broken.detail, broken.code)
        except Exception as error:
            self._failed(exchange, error)

    def _frame(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if self._block is not None and (kind != frames.CONTINUATION or stream != self._block_stream):
            raise ConnectionBroken(Code.PROTOCOL_ERROR, "A header block is interrupted.")
        if not self._greeted and (kind != frames.SETTINGS or flags & frames.ACK):
            raise ConnectionBroken(Code.PROTOCOL_ERROR, "The server does not begin with its settings.")
        if kind == frames.HEADERS:
            self._headers(stream, flags, payload)
        elif kind == frames.WINDOW_UPDATE:
            self._window_update(stream, frames.read_word(payload, "WINDOW_UPDATE") & STREAM_MASK)
        elif kind == frames.RST_STREAM:
            self._reset(stream, frames.read_word(payload, "RST_STREAM"))
        elif kind == frames.SETTINGS:
            self._settings(stream, flags, payload)
        elif kind == frames.PING:
            frames.check_ping(payload)
            if stream:
                raise ConnectionBroken(Code.PROTOCOL_ERROR, "A PING names a stream.")
            if not flags & frames.ACK:
                self._nuisance()
                self.write(frames.ping(payload, ack=True))
        elif kind == frames.GOAWAY:
            if stream:
                raise ConnectionBroken(Code.PROTOCOL_ERROR, "A GOAWAY names a stream.")
            self._goaway(*frames.read_goaway(payload))
        elif kind == frames.CONTINUATION:
            self._continuation(flags, payload)
        elif kind == frames.PUSH_PROMISE:
            raise ConnectionBroken(Code.PROTOCOL_ERROR, "The server pushes, though it was told not to.")
        else:
            if kind == frames.PRIORITY and len(payload) != 5:
                raise ConnectionBroken(Code.FRAME_SIZE_ERROR, "A PRIORITY frame is not five bytes long.")
            self._nuisance()  # unknown kinds are ignored (RFC 9113 section 5.5)

    def _headers(self, stream: int, flags: int, payload: bytes) -> None:
        try:
            payload = frames.fragment(payload, flags, stream)
        except StreamBroken as broken:
            # Its block would have to be read all the same; whoever writes such a thing is not worth it.
            raise ConnectionBroken(broken.code, broken.detail) from broken
        if flags & frames.END_HEADERS:
            self._head(stream, flags & frames.END_STREAM, payload)
        else:
            self._block = [payload]
            self._plain = False
            self._block_stream, self._block_flags = stream, flags
            self._block_frames = 0

    def _continuation(self, flags: int, payload: bytes) -> None:
        block = self._block
        if block is None:
            raise ConnectionBroken(Code.PROTOCOL_ERROR, "A CONTINUATION follows no head.")
        block.append(payload)
        self._block_frames += 1
        if self._block_frames > 16 or sum(map(len, block)) > _MAX_BLOCK:
            raise ConnectionBroken(Code.ENHANCE_YOUR_CALM, "A header block is too large, or in too many pieces.")
        if flags & frames.END_HEADERS:
            self._block = None
            self._plain = True
            self._head(self._block_stream, self._block_flags & frames.END_STREAM, b"".join(block))

    def _head(self, stream: int, ended: int, payload: bytes) -> None:
        exchange = self.streams.get(stream)
        if exchange is None:
            self._blocks.pass_over(payload)
            self._stray(stream)
            return
        key = exchange.state == HEAD_COMES, payload
        try:
            status, block, trailers, grpc = self._known.get(key) or self._blocks.read(key)
        except Refused as refused:
            exchange.on_broken(Broken.PROTOCOL, refused.detail, Code.PROTOCOL_ERROR)
            return
        try:
            if status is not None and block is not None:
                exchange.on_head(status, block, bool(ended))
            else:
                exchange.on_trailers(trailers, grpc, bool(ended))
        except StreamBroken as broken:
            exchange.on_broken(Broken.PROTOCOL, broken.detail, broken.code)
        except Exception as error:
            self._failed(exchange, error)

    def _failed(self, exchange: H2Exchange, error: Exception) -> None:
        """A receiver raised. That is its own affair, and not that of those it shares the connection with."""
        context = {"message": "the receiver of a response failed", "exception": error}
        asyncio.get_running_loop().call_exception_handler(context)
        exchange.abort()

    def _window_update(self, stream: int, increment: int) -> None:
        if not stream:
            self.window += increment
            self._granted += increment
            if not increment or self.window > MAX_WINDOW:
                raise ConnectionBroken(
                    Code.FLOW_CONTROL_ERROR, "The connection's window grows by nothing, or too much."
                )
            self._share_out()
            return
        exchange_ = self.streams.get(stream)
        if exchange_ is None:
            self._stray(stream)
            return
        exchange_._window += increment
        if not increment or exchange_._window > MAX_WINDOW:
            exchange_.on_broken(
                Broken.PROTOCOL, "The stream's window grows by nothing, or too much.", Code.FLOW_CONTROL_ERROR
            )
        else:
            exchange_.flush()

    def _share_out(self) -> None:
        """Give those that wait their parts of the connection's window, until it is used up or nobody can use it."""
        while self.waiting and self.window > 0:
            before = self.window
            share = max(before // len(self.waiting), _LEAST_SHARE)
            for exchange in tuple(self.waiting):
                exchange.flush(share)
            if self.window == before:
                return

    def _reset(self, stream: int, code: int) -> None:
        exchange = self.streams.get(stream)
        if exchange is None:
            self._stray(stream)
        elif code == Code.REFUSED_STREAM and exchange.state == HEAD_COMES:
            exchange.on_broken(Broken.UNSEEN, "the server refused the stream")
        else:
            exchange.answered = True
            exchange.on_broken(Broken.CLOSED, f"the server reset the stream ({_name(code)})")

    def _settings(self, stream: int, flags: int, payload: bytes) -> None:
        if stream or (flags & frames.ACK and payload):
            raise ConnectionBroken(
                Code.FRAME_SIZE_ERROR if flags & frames.ACK else Code.PROTOCOL_ERROR, "A SETTINGS frame is not one."
            )
        if flags & frames.ACK:
            return
        self._nuisance()
        for identifier, value in frames.read_settings(payload):
            if identifier == frames.MAX_CONCURRENT_STREAMS:
                self._most = min(value, MAX_STREAMS)
            elif identifier == frames.INITIAL_WINDOW_SIZE:
                more = value - self.stream_window
                self.stream_window = value
                for exchange in tuple(self.streams.values()):
                    exchange._window += more
                    if exchange._window > MAX_WINDOW:
                        raise ConnectionBroken(Code.FLOW_CONTROL_ERROR, "A stream's window grows too much.")
                    if more > 0:
                        exchange.flush()
            elif identifier == frames.MAX_FRAME_SIZE:
                self.max_frame = min(value, _FRAME)
            elif identifier == frames.HEADER_TABLE_SIZE and value < DEFAULT_TABLE:
                self.prefix = EMPTY_TABLE
            elif identifier == frames.ENABLE_PUSH and value:
                raise ConnectionBroken(Code.PROTOCOL_ERROR, "A server asks for pushes.")
        self.write(frames.SETTINGS_ACK)
        if not self._greeted:
            self._greeted = self._plain = True
            if not self.ready.done():
                self.ready.set_result(None)
        for exchange in tuple(self.exchanges):
            if len(self.exchanges) <= self._most:
                break
            if exchange.receiver is None:
                exchange.discard()

    def _goaway(self, last: int, code: int, detail: bytes) -> None:
        told = f"the server goes away ({_name(code)})"
        unseen = [exchange for stream, exchange in self.streams.items() if stream > last]
        # First of all no new ones, or those that are sent again would come back here.
        self._take_no_more()
        for exchange in unseen:
            exchange.on_broken(Broken.UNSEEN, told)
        if not self.streams:
            self.close()

    def _stray(self, stream: int) -> None:
        """A frame of a stream that is over is read over; of one that never was, nobody sends any."""
        if not stream & 1 or stream >= self.next_stream:
            raise ConnectionBroken(Code.PROTOCOL_ERROR, "A frame is for a stream that never was.")
        self._nuisance()

    def _nuisance(self) -> None:
        tick = self.clock.tick
        if tick - self._nuisances_from > 10:
            self._nuisances_from = tick
            self._nuisances = 0
            self._paid_from = self._paid
        self._nuisances += 1
        if self._nuisances > _MAX_NUISANCES and self._nuisances > _MAX_NUISANCES + self._paid - self._paid_from:
            raise ConnectionBroken(Code.ENHANCE_YOUR_CALM, "Too many frames bring nothing forward.")

    @property
    def _paid(self) -> int:
        """How many frames there was reason for ever. Stream numbers go up by two: a stream pays for four."""
        return 2 * self.next_stream + (self._granted - self.window) // _PAYS_BYTES

    def _give_up(self, broken: ConnectionBroken) -> None:
        """The peer is not to be believed any more."""
        spoken = self._greeted
        self._unready(NotSpoken(f"does not speak HTTP/2 ({broken.detail})"))
        self._part(frames.goaway(0, broken.code) if spoken else b"")
        self._take_no_more()
        self._break_all(Broken.PROTOCOL, broken.detail)

    # ---- time

    def on_deadline(self) -> None:
        """Ask a silent connection that is used for a sign of life; break off one that gave none."""
        if self._asked and self.reads == self._seen_reads and self.streams:
            self._break_all(Broken.CLOSED, "the server gives no sign of life")
            self.abort()
        elif self.reads == self._seen_reads and self.streams:
            self._asked = True
            self.write(frames.ping(b"nexus\x00\x00\x00", ack=False))
            self.deadline = self.clock.tick + ticks_of(ANSWER_S)
            return
        self._asked = False
        self._seen_reads = self.reads
        self.deadline = self.clock.tick + ticks_of(KEEPALIVE_S)


def _name(code: int) -> str:
    return Code(code).name if code in Code._value2member_map_ else str(code)
