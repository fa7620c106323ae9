"""What a server's connection of HTTP/2 is, whatever its client says: its streams and their turns, what is written, deadlines, ends.

`h2server` reads the frames. The two are one connection, cut where reading ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from nexus_wire.clock import NEVER, ticks_of
from nexus_wire.h2responses import H2Response
from nexus_wire.h2streams import H2Stream
from nexus_wire.http1 import RequestBlock, RequestLine
from nexus_wire.http2 import frames, requests
from nexus_wire.http2.frames import DEFAULT_WINDOW, STREAM_MASK, Code
from nexus_wire.http2.hpack import Decoder
from nexus_wire.http2.limits import Watch
from nexus_wire.http2.requests import Digested
from nexus_wire.parting import Parting, unacknowledged
from nexus_wire.pieces import JOINED, LARGE, Piece, write_all

if TYPE_CHECKING:
    from nexus_wire.h2server import Http2
    from nexus_wire.server import ServerOptions

_LOOK_TICKS = 10
_MAX_CUT = 256
"""Streams that we ended and whose client may not know it yet."""
_MAX_UNREAD = 2**18
"""Bytes that wait in the socket's buffer when answers to control frames are still added to it; then the connection is cut off."""


class H2Serving(asyncio.Protocol):
    """One client connection.

    streams: being served, or with a response that is not written yet, by number. window: what the client takes on the connection now;
    first_window: what it takes of a new stream. waiting: streams whose responses wait for a window, in the order of their turns.
    prefix: has to stand before the next header block. going: no request is served any more that was not before.
    peer, secure, server_name, context: as of `ServerConnection`.
    """

    __slots__ = (
        "_awaited", "_block", "_block_at", "_block_flags", "_block_pieces", "_block_stream", "_blocked_at", "_buffer", "_continuations",
        "_credit", "_cut", "_decoder", "_ended", "_greeted", "_idle_at", "_known", "_last", "_looked", "_opened", "_out", "_parting",
        "_quiet", "_reading", "_shut", "_skipped", "_uncredited", "blocked", "closed", "context", "deadline", "first_window", "going",
        "options", "peer", "prefix", "secure", "server_name", "shared", "streams", "transport", "waiting", "watch", "window",
    )  # fmt: skip

    transport: Any

    def __init__(self, options: ServerOptions, shared: Http2) -> None:
        self.options = options
        self.shared = shared
        self.streams: dict[int, H2Stream] = {}
        self.waiting: dict[int, H2Response] = {}
        self.watch = Watch(shared.limits, shared.period)
        self.window = self.first_window = DEFAULT_WINDOW
        self.prefix = b""
        self.blocked = False
        self.closed = False
        self.context: Any = None
        self.peer = ""
        self.secure = False
        self.server_name = ""
        self.deadline = 0
        self._decoder: Decoder[Digested] = Decoder(requests.STATICS)
        self._known: dict[bytes, tuple[RequestLine, RequestBlock]] = {}
        self._buffer = b""
        self._greeted = False  # the client's preface and settings are here
        self._block_stream = 0  # of the header block that CONTINUATIONs go on with; 0 for none
        self._block_flags = 0
        self._block_pieces: list[bytes] = []
        self._block_at = 0
        self._continuations = 0
        self._last = 0
        self._skipped: list[tuple[int, int]] = []
        self._cut: dict[int, None] = {}
        self._credit = shared.limits.window
        self._uncredited = 0
        self._opened: list[H2Stream] = []
        self._out: list[Piece] = []
        self._reading = False
        self.going = False
        self._ended = False  # nothing that still comes is looked at
        self._shut = False  # nothing more can be written
        self._parting: Parting | None = None
        self._awaited = False  # a stop waits for the client to close its side
        self._quiet: tuple[int, int, int] | None = None  # what an idle client had said when it was asked to go
        self._looked = 0
        self._idle_at = 0
        self._blocked_at = 0

    # ---- asyncio's side

    def connection_made(self, transport: Any) -> None:
        """Take note of the connection, greet the client, and begin to watch deadlines."""
        options = self.options
        self.transport = transport
        peer = transport.get_extra_info("peername")
        self.peer = peer[0] if isinstance(peer, tuple) else ""
        self.secure = transport.get_extra_info("sslcontext") is not None
        clock = options.clock
        self._idle_at = clock.tick
        self.deadline = clock.tick + min(_LOOK_TICKS, options.head_ticks)
        clock.watch(self)
        if not options.on_open(self):
            self.closed = self._ended = self._shut = True
            transport.close()
            return
        transport.write(self.shared.greeting)
        if options.draining:
            self.drain()

    def connection_lost(self, exc: BaseException | None) -> None:
        """The connection is over, whoever closed it."""
        self.closed = self._ended = self._shut = True
        self._buffer = b""
        self.options.on_close(self)
        self._leave()

    def _leave(self) -> None:
        streams = list(self.streams.values())
        self.streams.clear()
        self.waiting.clear()
        self._opened.clear()
        self._known.clear()
        for stream in streams:
            # All of them at once: what one leaves behind may be what another waits for, and that one shall answer nobody.
            stream.closed = True
        for stream in streams:
            try:
                stream.gone()
            except Exception as error:
                # Its requestor's own affair; the others have to be told all the same.
                context = {"message": "the requestor of a stream failed", "exception": error}
                asyncio.get_running_loop().call_exception_handler(context)

    def eof_received(self) -> bool:
        """The client closed its side: it has left."""
        return False

    def pause_writing(self) -> None:
        """The socket's buffer is full."""
        self.blocked = True
        self._blocked_at = self.options.clock.tick
        for stream in list(self.streams.values()):
            stream.block_writing()

    def resume_writing(self) -> None:
        """The socket takes more."""
        self.blocked = False
        self._pump()
        if not self.blocked:
            for stream in list(self.streams.values()):
                stream.unblock()
            self._serve_opened()
        self._flush()

    # ---- windows

    def credit(self, size: int) -> None:
        """Let the client send so many bytes more on the connection; told when it is worth a frame."""
        self._uncredited += size
        if self._uncredited * 2 >= self.shared.limits.window:
            self._credit += self._uncredited
            self.send(frames.window_update(0, self._uncredited))
            self._uncredited = 0

    def _pump(self) -> None:
        """Let the streams that wait write as far as the windows reach, a piece at a time, each in its turn."""
        waiting = self.waiting
        going = True
        while going and waiting and self.window > 0 and not self.blocked:
            going = False
            for number, stream in list(waiting.items()):
                if self.window <= 0:
                    # Whose turn it would be stays the first one.
                    break
                if stream.closed:
                    continue  # over what another one's turn brought about
                if stream.drain():
                    going = True
                if number in waiting:
                    del waiting[number]
                    waiting[number] = stream

    def _serve_opened(self) -> None:
        """Serve the requests of this turn whose bodies were still coming, with what is here now."""
        while self._opened and not self.blocked:
            opened, self._opened = self._opened, []
            for stream in opened:
                if not stream.closed:
                    stream.serve()

    # ---- ends

    def cut(self, stream: H2Response, code: Code) -> None:
        """End a stream that the client does not know to be over."""
        self._forget_cut(stream.number)
        self.send(frames.reset(stream.number, code))
        stream.gone()
        self.forget(stream)

    def _forget_cut(self, number: int) -> None:
        """Remember, for a while, that frames of this stream may still come and mean nothing."""
        if len(self._cut) >= _MAX_CUT:
            del self._cut[next(iter(self._cut))]
        self._cut[number] = None

    def forget(self, stream: H2Response) -> None:
        """A stream is over."""
        self.streams.pop(stream.number, None)
        if self.waiting:
            self.waiting.pop(stream.number, None)
        if self.going:
            self._may_go()

    def _break(self, code: Code, detail: str) -> None:
        """Say why, and close once the client has read it; what it still sends is thrown away for a while."""
        self.send(frames.goaway(self._last, code, detail.encode()))
        self._ended = True
        self._leave()
        self._part(ticks_of(self.options.linger_s))

    def _part(self, most_ticks: int) -> None:
        """Say that nothing more is written, and wait for the client to close its side: what it still sends is thrown away."""
        options = self.options
        clock = options.clock
        self._flush()
        self._ended = self._shut = True
        self._buffer = b""
        self._parting = parting = Parting(self.transport, clock.tick, ticks_of(options.linger_s), most_ticks)
        self.deadline = parting.look(clock.tick) or clock.tick + 1
        clock.soon(self)

    def _may_go(self) -> None:
        """Close when all that was served is written, if the client was told so."""
        if self.going and not self.streams and not self._ended:
            # What nobody asked for and nobody reads is no reason to wait: an idle client may never close.
            self._awaited = self._quiet != self._said
            # What is written may take long to be read; not for ever.
            self._part(self.options.keepalive_ticks)

    def turn_away(self, reply: bytes) -> None:
        """Say that a connection is not served, which is closed now. reply: what HTTP/1.1 clients are told instead."""
        self.transport.write(frames.settings({}) + frames.goaway(0, Code.ENHANCE_YOUR_CALM))

    def drain(self) -> None:
        """Ask the client for no more requests. Those that are on their way are still served (RFC 9113 section 6.8)."""
        if self._ended:
            return
        if not self.streams and self._quiet != self._said and not unacknowledged(self.transport):
            self._quiet = self._said
        self.send(frames.goaway(STREAM_MASK, Code.NO_ERROR))

    def close_idle(self) -> None:
        """Serve no more requests than have come; close now if there is none, else after the last one."""
        if self._ended or self.going:
            return
        self.going = True
        self.send(frames.goaway(self._last, Code.NO_ERROR))
        self._may_go()

    @property
    def _said(self) -> tuple[int, int, int]:
        """What changes with whatever the client says."""
        return (self._last, *self.watch.heard)

    @property
    def busy(self) -> bool:
        """Whether a request is being served, or its response is not written yet."""
        return not self.closed and bool(self.streams)

    @property
    def complete(self) -> bool:
        """Whether no request's body is still coming."""
        return all(stream.complete for stream in self.streams.values())

    def dripping(self) -> Iterator[H2Stream]:
        """Yield the streams whose bodies come slower than the listener accepts."""
        return (stream for stream in list(self.streams.values()) if stream.is_dripping())

    def unwritten(self) -> int:
        """Return how many bytes wait for the client, as far as is known here; at least one while a response is not written, or its
        client may be reading it still."""
        if self._awaited and not self.closed:
            return unacknowledged(self.transport) or 1
        size: int = self.transport.get_write_buffer_size()
        return size + len(self._out) + len(self.waiting)

    # ---- writing

    def send(self, piece: Piece) -> None:
        """Have a frame, or a piece of one, written at the end of this turn, with all others."""
        out = self._out
        if not out and not self._reading:
            asyncio.get_running_loop().call_soon(self._flush)
        out.append(piece)

    def _flush(self) -> None:
        out = self._out
        self._out = []
        if not out or self._shut:
            return
        if len(out) == 1:
            self.transport.write(out[0])
            return
        large = sum(map(len, out)) > JOINED and any(len(piece) >= LARGE for piece in out)
        if large and not self.secure:
            write_all(self.transport, out)
        else:
            self.transport.write(b"".join(out))

    def _answer(self, frame: bytes) -> None:
        """Send what the client asked for, unless it asks without reading."""
        if self.blocked and self.transport.get_write_buffer_size() > _MAX_UNREAD:
            self._ended = True
            self.transport.abort()
            return
        self.send(frame)

    def _take_prefix(self) -> bytes:
        prefix, self.prefix = self.prefix, b""
        return prefix

    # ---- time

    def on_deadline(self) -> None:
        """Look at the streams' deadlines, and at how long nothing happens."""
        options = self.options
        tick = options.clock.tick
        if self._ended:
            self._look_at_end(tick)
            return
        for stream in list(self.streams.values()):
            if stream.deadline <= tick and not stream.closed:
                stream.on_deadline()
        if self.streams or self._last != self._looked:
            self._looked = self._last
            self._idle_at = tick
        elif self._known:
            # An idle connection keeps nothing of its requests that it need not.
            self._known.clear()
        patience = options.keepalive_ticks if self._greeted else options.head_ticks
        if self._block_stream and tick - self._block_at >= options.head_ticks:
            self._break(Code.PROTOCOL_ERROR, "A header block does not end.")
        elif self.blocked and tick - self._blocked_at >= options.keepalive_ticks:
            self.closed = True
            self.transport.abort()
        elif tick - self._idle_at >= patience:
            if self._greeted:
                self.close_idle()
            else:
                self.closed = True
                self.transport.abort()
        else:
            nearest = min([stream.deadline for stream in self.streams.values()], default=NEVER)
            # At least once in a while: streams do not say that they come to have deadlines.
            self.deadline = min(nearest, tick + _LOOK_TICKS, self._idle_at + patience)

    def _look_at_end(self, tick: int) -> None:
        """Close when the client has had its time to read what is written."""
        parting = self._parting
        again = parting.look(tick) if parting is not None else 0
        if again:
            self.deadline = again
        elif not self.closed:
            self.closed = True
            if parting is not None:
                parting.end()
            else:
                self.transport.abort()
