"""The server's side of an HTTP/1.1 connection, on asyncio's protocols: requests in, responses out, back-pressure both ways.

A connection serves one request at a time and is that request's *stream*: what the application writes its response to. What
the application is told about its request, it is told as `Requestor`. Another protocol version brings its own streams; the
application sees no difference.

The ordinary request (head in one piece, body in one piece or none, response in one piece) costs no task, future or timer.
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

from nexus_wire.clock import NEVER, Clock, ticks_of
from nexus_wire.h2server import Http2
from nexus_wire.h2serving import H2Serving
from nexus_wire.h2streams import H2Stream
from nexus_wire.http1 import (
    ChunkScanner,
    Dechunker,
    Refused,
    RequestBlock,
    RequestLine,
    RequestParser,
)
from nexus_wire.pieces import LARGE, Piece, write_all

_H2C = b"PRI * HTTP/2.0"
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_CLOSE = b"connection: close\r\n\r\n"
_CHUNKED_LINE = b"transfer-encoding: chunked\r\n"
_LAST_CHUNK = b"0\r\n\r\n"
_MAX_AHEAD = 65536
"""Beyond so many bytes of pipelined requests, reading stops while one is served. They are held with the read that brought them,
256 KiB at most with asyncio's own loop and with uvloop."""
_BIG_BODY = 2**19
_BIG_HIGH_WATER = 2**18


class State(enum.IntEnum):
    """Where a connection is. The numbers are compared on the hot path; the names are for people."""

    HEAD = 0  # between requests, or within a head
    SIZED = 1  # reading a body of known length
    CHUNKED = 2  # reading a chunked body
    WAIT = 3  # the request is here in full; its response is not
    TUNNEL = 4  # upgraded: bytes both ways
    LINGER = 5  # answered before the request was read in full: what still comes is thrown away
    CLOSED = 6


_HEAD, _SIZED, _CHUNKED, _WAIT, _TUNNEL, _LINGER, _CLOSED = (int(state) for state in State)


class Requestor(Protocol):
    """Whoever serves a request, told of what its client does."""

    def on_body(self, data: bytes, complete: bool) -> None:
        """More of the request body: as framed on the wire when it is chunked. data may be empty at the end."""
        ...

    def on_gone(self) -> None:
        """The client has left; nothing can be written any more."""
        ...

    def on_refused(self, refused: Refused) -> None:
        """The body is not valid HTTP. The stream can still be answered, and closes then."""
        ...

    def on_blocked(self) -> None:
        """The client reads slowly: write no more until `on_ready`."""
        ...

    def on_ready(self) -> None:
        """The client takes more."""
        ...

    def on_late(self) -> None:
        """The stream's deadline is over."""
        ...

    def on_tunnel(self, data: bytes) -> None:
        """Bytes of an upgraded connection."""
        ...


@dataclass(slots=True)
class ServerOptions:
    """What all connections of a listener share. Times in seconds, sizes in bytes.

    on_request: called with each stream whose head is read; sets `stream.requestor` or answers at once.
    on_refused: returns the whole reply to a head that is refused; the connection closes after it.
    on_open, on_close: told of each connection; on_open returns False to have it closed at once.
    """

    parser: RequestParser
    clock: Clock
    on_request: Callable[[Stream], None]
    on_refused: Callable[[AnyConnection, Refused], bytes]
    on_open: Callable[[AnyConnection], bool]
    on_close: Callable[[AnyConnection], None]
    head_timeout_s: float = 10.0
    keepalive_s: float = 75.0
    linger_s: float = 2.0
    min_body_bytes_per_s: int = 0
    """Request bodies that come slower than this, on average after the first `head_timeout_s`, are the client's fault. 0: any pace."""
    http2: Http2 | None = None
    """What HTTP/2 connections share; None to speak HTTP/1.1 alone."""
    draining: bool = False
    paused: set[ServerConnection] = field(init=False, default_factory=set)
    """Connections that are not read from while a request is served; see `presence`."""
    head_ticks: int = field(init=False, default=0)
    keepalive_ticks: int = field(init=False, default=0)

    def connection(self, protocol: str | None = None) -> AnyConnection:
        """Return the protocol of a new connection. protocol: what ALPN chose."""
        if protocol == "h2" and self.http2 is not None:
            return self.http2.connection(self)
        return ServerConnection(self)

    def __post_init__(self) -> None:
        self.head_ticks = ticks_of(self.head_timeout_s)
        self.keepalive_ticks = ticks_of(self.keepalive_s)


class ServerConnection(asyncio.Protocol):
    """One client connection, and the stream of the request it serves.

    line, block: of the request being served; there are none between requests. body: what of its body came with the head.
    complete: whether all of it has come. content: bytes that the chunks so far hold or announce, of a chunked body. peer: the
    client's address, text. secure: whether it came over TLS. deadline: in ticks of the clock; none while a request is served,
    unless its requestor sets one. minor: of the client's HTTP version.
    """

    __slots__ = (
        "_buffer", "_chunking", "_dechunker", "_head_only", "_idle", "_received", "_received_at", "_remaining",
        "_scanner", "_served", "block", "blocked", "body", "closed", "complete", "content", "context", "deadline", "keep", "line",
        "minor", "options", "peer", "requestor", "secure", "server_name", "state", "transport",
    )  # fmt: skip

    line: RequestLine
    block: RequestBlock
    transport: Any
    trailers = b""
    """Those of a raw request, of which HTTP/1.1 has none: chunks bring their own."""

    def __init__(self, options: ServerOptions) -> None:
        self.options = options
        self.state = _HEAD
        self.closed = False
        self.blocked = False
        self.requestor: Requestor | None = None
        self.context: Any = None  # the owner's: whatever it knows of this connection
        self.keep = True
        self.complete = True
        self.minor = 1
        self.body = b""
        self.content = 0
        self._buffer = b""
        self._idle = True
        self._remaining = 0
        self._scanner: ChunkScanner | None = None
        self._chunking = False
        self._dechunker: Dechunker | None = None
        self._head_only = False
        self._served = 0
        self._received = 0
        self._received_at = 0
        self.peer = ""
        self.secure = False
        self.server_name = ""
        self.deadline = 0

    # ---- asyncio's side

    def connection_made(self, transport: Any) -> None:
        """Take note of the connection and begin to watch its deadline."""
        self.transport = transport
        peer = transport.get_extra_info("peername")
        self.peer = peer[0] if isinstance(peer, tuple) else ""
        self.secure = transport.get_extra_info("sslcontext") is not None
        options = self.options
        # The first request has the head's time, not a kept connection's: who connects and says nothing holds a place.
        self.deadline = options.clock.tick + options.head_ticks
        options.clock.watch(self)
        if not options.on_open(self):
            self.closed = True
            self.state = _CLOSED
            transport.close()

    def connection_lost(self, exc: BaseException | None) -> None:
        """The connection is over, whoever closed it."""
        self.closed = True
        self.state = _CLOSED
        requestor = self.requestor
        self._buffer = b""
        self.options.paused.discard(self)
        self.options.on_close(self)
        if requestor is not None:
            self.requestor = None
            requestor.on_gone()

    def eof_received(self) -> bool:
        """The client closed its side: it has left. A half-closed client cannot be told from one that is gone."""
        return False

    def pause_writing(self) -> None:
        """The socket's buffer is full."""
        self.blocked = True
        if self.requestor is not None:
            self.requestor.on_blocked()

    def resume_writing(self) -> None:
        """The socket takes more."""
        self.blocked = False
        if self.requestor is not None:
            self.requestor.on_ready()
        elif self.state == _HEAD and not self.closed:
            self.transport.resume_reading()
            if self._buffer:
                asyncio.get_running_loop().call_soon(self._next)

    def data_received(self, data: bytes) -> None:
        """Take bytes as they come."""
        state = self.state
        if state == _HEAD:
            self._head(self._buffer + data if self._buffer else data)
        elif state == _SIZED:
            self._sized(data)
        elif state == _CHUNKED:
            self._chunked(data)
        elif state == _WAIT:
            self._buffer += data
            if len(self._buffer) > _MAX_AHEAD:
                self.pause()
        elif state == _TUNNEL and self.requestor is not None:
            self.requestor.on_tunnel(data)

    # ---- reading requests

    def _head(self, data: bytes) -> None:
        options = self.options
        parser = options.parser
        end = data.find(b"\r\n\r\n")
        if end < 0 or end > parser.max_head_bytes:
            self._partial(data)
            return
        at = data.find(b"\r\n")
        if at == 0:
            # RFC 9112 section 2.2: an empty line before a request is ignored. One, not any number.
            data = data[2:]
            end = data.find(b"\r\n\r\n")
            at = data.find(b"\r\n")
            if end < 0 or at == 0:
                self._partial(data, stray=at == 0)
                return
        raw_line = data[:at]
        raw_block = data[at + 2 : end]
        line = parser.lines.get(raw_line)
        block = parser.blocks.get(raw_block)
        try:
            if line is None or block is None:
                line = line or parser.line(raw_line)
                block = block or parser.block(raw_block)
                parser.check(line, block, data[: end + 4], missed=True)
            else:
                parser.check(line, block, b"", missed=False)
        except Refused as refused:
            if (
                not raw_block
                and not self._served
                and options.http2 is not None
                and self._speaks_otherwise(raw_line, data)
            ):
                return
            self._refuse(refused)
            return
        self.line = line
        self.block = block
        self.minor = minor = line.minor
        self.keep = not block.close and (minor == 1 or block.keep_alive)
        self._idle = False
        self._served += 1
        end += 4
        length = block.length
        if not length:
            self.body = b""
            self.complete = True
            self.state = _WAIT
            if len(data) > end:
                self._buffer = data[end:]
                if len(data) - end > _MAX_AHEAD:
                    self.pause()
            else:
                self._buffer = b""
        elif length > 0:
            have = len(data) - end
            if have >= length:
                self.body = data[end : end + length]
                self._buffer = data[end + length :]
                self.complete = True
                self.state = _WAIT
                if have - length > _MAX_AHEAD:
                    self.pause()
            else:
                self.body = data[end:]
                self._buffer = b""
                self._remaining = length - have
                self._begin_body(_SIZED, have)
        else:
            scanner = ChunkScanner()
            try:
                self.body, rest = scanner.take(data[end:])
            except Refused as refused:
                self._refuse(refused)
                return
            self.content = scanner.announced
            if rest is not None:
                self._buffer = rest
                self.complete = True
                self.state = _WAIT
                if len(rest) > _MAX_AHEAD:
                    self.pause()
            else:
                self._buffer = b""
                self._scanner = scanner
                self._begin_body(_CHUNKED, len(self.body))
        # The head's time is over with the head, and says nothing of how long its request may take: that is for who serves it.
        self.deadline = NEVER
        options.on_request(self)

    def _speaks_otherwise(self, raw_line: bytes, data: bytes) -> bool:
        """Take a connection's first line that is none of HTTP/1. Return whether that is settled.

        HTTP/2 without having asked (RFC 9113 section 3.3) gets it; over TLS it would have been agreed on there. Another preface is
        somebody's who would not understand an HTTP/1.1 response (section 3.4).
        """
        http2 = self.options.http2
        words = raw_line.split(b" ")
        if http2 is None or self.secure or len(words) != 3 or words[2].startswith(b"HTTP/1"):
            return False
        if raw_line != _H2C:
            if words[2].startswith(b"HTTP/"):
                return False
            self.closed = True
            self.state = _CLOSED
            self.transport.close()
            return True
        successor = http2.connection(self.options)
        self.closed = True
        self.state = _CLOSED
        self._buffer = b""
        self.options.on_close(self)
        self.transport.set_protocol(successor)
        successor.connection_made(self.transport)
        successor.data_received(data)
        return True

    def _begin_body(self, state: int, have: int) -> None:
        self.complete = False
        self.state = state
        self._received = have
        self._received_at = self.options.clock.tick

    def _partial(self, data: bytes, *, stray: bool = False) -> None:
        """Wait for the rest of a head, within its time and size."""
        if len(data) > self.options.parser.max_head_bytes:
            self._refuse(Refused(431, "HeadTooLarge", ""))
        elif stray:
            self._refuse(Refused(400, "BadRequest", "Empty lines stand where a request should begin."))
        else:
            if self._idle and data:
                # Measured from a head's first byte: a kept connection may have been silent for long.
                self._idle = False
                clock = self.options.clock
                self.deadline = clock.tick + self.options.head_ticks
                clock.soon(self)
            self._buffer = data

    def _refuse(self, refused: Refused) -> None:
        self.keep = False
        self._buffer = b""
        self.transport.write(self.options.on_refused(self, refused))
        # The refused message's rest may still be coming; closing now would reset the connection over the reply.
        self._linger()

    def _sized(self, data: bytes) -> None:
        size = len(data)
        remaining = self._remaining
        self._received += size
        requestor = self.requestor
        if size < remaining:
            self._remaining = remaining - size
            if requestor is not None:
                requestor.on_body(data, False)
            return
        self.complete = True
        self.state = _WAIT
        if size > remaining:
            self._buffer = data[remaining:]
            data = data[:remaining]
            if size - remaining > _MAX_AHEAD:
                self.pause()
        if requestor is not None:
            requestor.on_body(data, True)

    def _chunked(self, data: bytes) -> None:
        scanner = self._scanner
        requestor = self.requestor
        assert scanner is not None
        self._received += len(data)
        try:
            data, rest = scanner.take(data)
        except Refused as refused:
            self.keep = False
            self.state = _WAIT
            self.transport.pause_reading()
            if requestor is not None:
                requestor.on_refused(refused)
            return
        self.content = scanner.announced
        if rest is None:
            if data and requestor is not None:
                requestor.on_body(data, False)
            return
        self._buffer = rest
        self._scanner = None
        self.complete = True
        self.state = _WAIT
        if len(rest) > _MAX_AHEAD:
            self.pause()
        if requestor is not None:
            requestor.on_body(data, True)

    def _linger(self) -> None:
        """Close once the client has read the answer: throw away what it still sends, for a while."""
        self.requestor = None
        if self.closed:
            return
        self.state = _LINGER
        clock = self.options.clock
        self.deadline = clock.at(self.options.linger_s)
        clock.soon(self)
        try:
            self.resume()
            self.transport.write_eof()
        except (OSError, RuntimeError, NotImplementedError):
            # The client is gone, or a loop's own TLS cannot close one side alone; the deadline comes in any case.
            return

    # ---- answering them: what the requestor calls

    @property
    def closing(self) -> bool:
        """Whether the connection closes after the current response."""
        return not self.keep or self.options.draining

    def respond(self, status: bytes, lines: bytes, length: int, body: Piece, complete: bool) -> None:
        """Write a response's head and the first piece of its body.

        status: the status line with CRLF. lines: header lines, each with CRLF, framing included: none for `length` -2.
        length: of the body; -1 chunked (the pieces are framed already), -2 raw, until the end, which `complete` or `finish` says.
        complete: body is all of it; the stream is over then, and may already serve the next request on return.
        """
        keep = self.keep and not self.options.draining
        if not complete:
            if length == -2:
                if self.minor:
                    lines += _CHUNKED_LINE
                    self._chunking = True
                    if body:
                        body = b"%x\r\n%b\r\n" % (len(body), bytes(body))
                else:
                    keep = False
            elif length == -1 and not self.minor:
                keep = False
                lines, body = self._for_http_1_0(lines, body)
            elif length > _BIG_BODY:
                # Fewer, larger writes; for small bodies the smaller buffer stays in the processor's cache.
                self.transport.set_write_buffer_limits(_BIG_HIGH_WATER)
        elif length < 0:
            if length == -2:
                lines += b"content-length: %d\r\n" % len(body)
            elif not self.minor:
                keep = False
                lines, body = self._for_http_1_0(lines, body)
                self._dechunker = None
        if keep and self.complete:
            if self.minor:
                if len(body) < LARGE:
                    self.transport.write(b"".join((status, lines, b"\r\n", body)))
                else:
                    write_all(self.transport, (b"".join((status, lines, b"\r\n")), body))
            else:
                if not length:
                    lines = lines.replace(_CHUNKED_LINE, b"")
                self.transport.write(b"".join((status, lines, b"connection: keep-alive\r\n\r\n", body)))
        else:
            self.keep = keep and self.complete
            if not self.minor and not length:
                # Nor of a body that does not follow (HEAD, 304) may HTTP/1.0 be told how it would be framed.
                lines = lines.replace(_CHUNKED_LINE, b"")
            self.transport.write(b"".join((status, lines, _CLOSE, body)))
        if complete:
            self._over()

    def respond_whole(self, status: bytes, lines: bytes, body: Piece, trailers: bytes) -> None:
        """Write a response that ends with trailers: lines, each with CRLF. lines: as for a raw one."""
        self.respond(status, lines, -2, body, False)
        self.finish(trailers)

    def _for_http_1_0(self, lines: bytes, body: Piece) -> tuple[bytes, bytes]:
        """HTTP/1.0 knows no chunks: the connection's end is the body's."""
        self._dechunker = Dechunker()
        return lines.replace(_CHUNKED_LINE, b""), self._dechunker.take(bytes(body))[0]

    def write(self, data: bytes) -> None:
        """Write a further piece of the body."""
        if self._chunking:
            if data:
                self.transport.write(b"%x\r\n%b\r\n" % (len(data), data))
        elif self._dechunker is not None:
            data, _ = self._dechunker.take(data)
            if data:
                self.transport.write(data)
        else:
            self.transport.write(data)

    def finish(self, trailers: bytes = b"") -> None:
        """The body is written in full. trailers: lines, each with CRLF, that follow a raw one; HTTP/1.0 clients get none."""
        if self._chunking:
            self._chunking = False
            self.transport.write(b"0\r\n%b\r\n" % trailers if trailers else _LAST_CHUNK)
        self._dechunker = None
        self._over()

    def abort(self) -> None:
        """Break the connection off: the only honest end of a response that cannot be finished."""
        self.requestor = None
        self.keep = False
        self.state = _CLOSED
        self.closed = True
        self.transport.abort()

    def inform(self, head: bytes) -> None:
        """Pass an interim response (1xx) on, whole head with its empty line; HTTP/1.0 clients know none."""
        if self.minor:
            self.transport.write(head)

    def invite(self) -> None:
        """Tell a client that waits for `100 Continue` that its body is wanted."""
        if self.minor and self.block.expects and not self.complete:
            self.transport.write(_CONTINUE)

    def pause(self) -> None:
        """Read no more of the request body for now."""
        self.options.paused.add(self)
        self.transport.pause_reading()

    def resume(self) -> None:
        """Read on: whatever stopped it is over. What has come ahead stops it until its turn."""
        if self.state == _WAIT and len(self._buffer) > _MAX_AHEAD:
            return
        self.options.paused.discard(self)
        self.transport.resume_reading()

    def switch(self, head: bytes) -> bytes:
        """Answer with 101 and become a tunnel. Return what the client has sent ahead."""
        self.state = _TUNNEL
        self.transport.write(head)
        ahead, self._buffer = self._buffer, b""
        if len(ahead) > _MAX_AHEAD:
            self.resume()
        return ahead

    def close_tunnel(self) -> None:
        """Close once everything is written."""
        self.requestor = None
        self.transport.close()

    def close_idle(self) -> None:
        """Close now, if no request is being served or coming."""
        if self.state == _HEAD and not self._buffer:
            self.transport.close()

    def drain(self) -> None:
        """Ask the client for no more requests: an answer is where that is said."""

    def turn_away(self, reply: bytes) -> None:
        """Say why a connection is not served that is closed now. reply: a response in full."""
        self.transport.write(reply)

    def dripping(self) -> Iterable[ServerConnection]:
        """Return the streams whose bodies come slower than the listener accepts."""
        return (self,) if self.is_dripping() else ()

    def unwritten(self) -> int:
        """Return how many bytes wait for the client, as far as is known here."""
        size: int = self.transport.get_write_buffer_size()
        return size

    @property
    def busy(self) -> bool:
        """Whether a request is being served or has begun to come."""
        return not self.closed and (self.state != _HEAD or bool(self._buffer))

    def _over(self) -> None:
        self.requestor = None
        if not self.keep:
            if self.complete:
                self.state = _CLOSED
                # What is written may take long to be read; not for ever.
                self.deadline = self.options.clock.tick + self.options.keepalive_ticks
                self.transport.close()
            else:
                self._linger()
            return
        self.state = _HEAD
        self._idle = True
        # An idle connection keeps nothing of its last request: clients choose how large that is, and leave thousands idle.
        del self.line, self.block
        self.body = b""
        options = self.options
        self.deadline = options.clock.tick + options.keepalive_ticks
        if self.blocked:
            # Answers that nobody reads must not pile up: the next request waits until this one's is on its way.
            self.transport.pause_reading()
        elif self._buffer:
            asyncio.get_running_loop().call_soon(self._next)

    def _next(self) -> None:
        """Serve the request that came ahead. Not from within the former one: a thousand pipelined ones would nest."""
        if self.state == _HEAD and self._buffer and not self.closed:
            data, self._buffer = self._buffer, b""
            self.resume()
            self._head(data)

    def on_deadline(self) -> None:
        """Cut off whoever is too slow."""
        state = self.state
        if state in (_WAIT, _SIZED, _CHUNKED, _TUNNEL) and self.requestor is not None:
            self.deadline = NEVER
            self.requestor.on_late()
        elif state == _HEAD and not self.blocked and (self._buffer or not self._idle):
            self._refuse(Refused(408, "HeadTimeout", ""))
        elif not self.closed:
            self.closed = True
            if state == _HEAD and not self.transport.get_write_buffer_size():
                self.transport.close()
            else:
                # Not `close`, which waits for as long as the client does not read.
                self.transport.abort()

    def is_dripping(self) -> bool:
        """Whether the request body comes slower than the listener accepts."""
        options = self.options
        if self.complete or not options.min_body_bytes_per_s or self.state not in (_SIZED, _CHUNKED):
            return False
        passed_s = (options.clock.tick - self._received_at) / 10
        return passed_s > options.head_timeout_s and self._received < options.min_body_bytes_per_s * passed_s


Stream = ServerConnection | H2Stream
"""What a request comes by, and its response goes by."""
AnyConnection = ServerConnection | H2Serving
