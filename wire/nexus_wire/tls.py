"""TLS under a server's connections: ciphertext of a plain transport in, plaintext to the application, and back.

A `TlsTransport` is the protocol of the plain transport and the transport of the application's protocol. It owns what
every request passes, and what every idle connection holds:

- OpenSSL is fed whole records alone, so that it never stops in the middle of one; the rest of a record waits here. A
  request in one record costs one feed, one decryption and one call of the application, no exception and no timer.
- The memory buffers between OpenSSL and the transport keep the size they once had for as long as the connection lives;
  nothing larger than two records is put there at a time.
- What OpenSSL has encrypted is written at once, so the plain transport's buffer is the only one, and its limits are
  the application's.

A listener that has a `choose` is shown the ClientHello before OpenSSL is: it says with which context TLS ends here, or that the
connection is passed on as it came, or refused.

Absent: certificates and which of them is shown (`choose`, or the context's `sni_callback`), 0-RTT, renegotiation (the context
refuses it).
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import ssl
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from nexus_wire import client_hello
from nexus_wire.client_hello import NEED_MORE, Hello, NotTls
from nexus_wire.clock import NEVER, Clock, ticks_of
from nexus_wire.pieces import Piece, write_all

HANDSHAKE_S = 10.0
"""A client that has not shaken hands by then is cut off: as long as a slow request head gets."""
CLOSE_S = 2.0
"""A client that was told the end has so long to close its side; closing both at once could cost it the last bytes."""
_HEADER = 5
_MAX_RECORD = 2**14 + 2048
"""RFC 5246 section 6.2.3; TLS 1.3 allows 256 more than the plaintext."""
_PIECE = 2**14
_FATAL = b"\x15\x03\x03\x00\x02\x02%c"
"""A fatal alert in a record of its own."""
_DECODE_ERROR = 50
_MAX_ANSWERS = 2**16
"""Bytes that OpenSSL itself has to say (alerts, key updates) and that the client does not read; then it is cut off."""


class State(enum.IntEnum):
    """Where a connection is."""

    HANDSHAKE = 0
    OPEN = 1
    ENDED = 2  # our side has said its last; the client may still send
    CLOSING = 3  # nothing is read any more but the end
    CLOSED = 4


_HANDSHAKE, _OPEN, _ENDED, _CLOSING, _CLOSED = (int(state) for state in State)


class Failure(enum.StrEnum):
    """Why a connection over TLS broke."""

    HANDSHAKE = "handshake"  # no common version or cipher, no certificate, or it is not TLS at all
    TIMEOUT = "timeout"  # no handshake in time
    CROWD = "crowd"  # more handshakes at once than the listener takes
    NAME = "name"  # it asks for a name that nobody serves here
    RECORD = "record"  # what came after the handshake is not TLS, or was changed on its way


@dataclass(frozen=True, slots=True)
class Ends:
    """TLS ends here. context: of the server: an `ssl.SSLContext`, or what has its `wrap_bio`; with a method `begin` it brings its own
    buffers. factory: makes the application's protocol once hands are shaken; it is given the protocol that ALPN chose, None
    without."""

    context: Any
    factory: Callable[[str | None], asyncio.Protocol]


@dataclass(frozen=True, slots=True)
class PassesOn:
    """The connection goes on as it came. factory: makes the protocol that gets the plain transport, and the bytes so far as
    its first ones."""

    factory: Callable[[], asyncio.Protocol]


@dataclass(frozen=True, slots=True)
class Refuses:
    """The connection ends: with this alert (RFC 8446 section 6), or with none and a reset for who waits for the end alone."""

    alert: int | None = None


Choice = Ends | PassesOn | Refuses
UNRECOGNIZED_NAME = 112
"""The alert for a name that nobody serves (RFC 6066 section 3)."""
INTERNAL_ERROR = 80


@dataclass(slots=True)
class TlsListener:
    """What all connections of a TLS listener share.

    context, factory: see `Ends`; for listeners without `choose`. choose: says for each ClientHello what becomes of it. on_failed: told
    of connections that break over TLS itself, with the peer's address and a few words; called at most once for each. handshake_s:
    seconds. max_handshakes: at once, 0 for any number. handshakes: under way now.
    """

    context: ssl.SSLContext | None
    clock: Clock
    factory: Callable[[str | None], asyncio.Protocol] | None
    on_failed: Callable[[Failure, str, str], None]
    handshake_s: float = HANDSHAKE_S
    max_handshakes: int = 0
    choose: Callable[[Hello], Choice] | None = None
    handshakes: int = field(init=False, default=0)
    handshake_ticks: int = field(init=False)
    close_ticks: int = field(init=False)
    ends: Ends | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        if self.context is not None and self.factory is not None:
            self.ends = Ends(self.context, self.factory)
        self.handshake_ticks = ticks_of(self.handshake_s)
        self.close_ticks = ticks_of(CLOSE_S)

    def __call__(self) -> TlsTransport:
        """Return the protocol of a new connection: a listener is its own protocol factory."""
        return TlsTransport(self)


class TlsTransport(asyncio.Protocol):
    """One client connection over TLS.

    deadline, closed: for the clock, which looks at a connection only within its handshake and its end: closed says that
    there is nothing to look at.
    """

    __slots__ = (
        "_app",
        "_decrypt",
        "_encrypt",
        "_ends",
        "_held",
        "_incoming",
        "_listener",
        "_outgoing",
        "_raw",
        "_ssl",
        "_state",
        "closed",
        "deadline",
    )

    _raw: Any
    _app: Any
    _ssl: Any
    _ends: Any
    _decrypt: Callable[[int], bytes]
    _encrypt: Callable[[bytes | memoryview], int]
    _incoming: ssl.MemoryBIO
    _outgoing: ssl.MemoryBIO

    def __init__(self, listener: TlsListener) -> None:
        self._listener = listener
        self._ends = listener.ends
        self._state = _HANDSHAKE
        self._held = b""
        self._app = None
        self._ssl = None
        self.closed = False
        self.deadline = NEVER

    # ---- the plain transport's side

    def connection_made(self, transport: Any) -> None:
        """Wait for the client's hello; what costs memory is made when it is here."""
        self._raw = transport
        listener = self._listener
        listener.handshakes += 1
        if 0 < listener.max_handshakes < listener.handshakes:
            self._fail(Failure.CROWD, "")
            return
        self.deadline = listener.clock.tick + listener.handshake_ticks
        listener.clock.watch(self)

    def data_received(self, data: bytes) -> None:
        """Decrypt what came and give it to the application."""
        if self._held:
            data = self._held + data
            self._held = b""
        size = len(data)
        if self._state != _OPEN or size <= _HEADER or size != _HEADER + (data[3] << 8 | data[4]):
            if self._state < _CLOSING:
                self._feed(data)
            return
        # The ordinary request: one record, the whole of it. Its plaintext is shorter, so one read takes it all.
        self._incoming.write(data)
        try:
            plain = self._decrypt(size)
        except ssl.SSLError as error:
            self._stopped(error)
            return
        if plain:
            self._app.data_received(plain)
        else:
            self._end()

    def eof_received(self) -> bool:
        """The client closed the connection below TLS: it has left, with or without having said so."""
        return False

    def connection_lost(self, exc: BaseException | None) -> None:
        """The connection is over, whoever closed it."""
        if self._state == _HANDSHAKE and self._ssl is not None:
            # Who leaves after our part of the handshake does not like it; who leaves before his own only knocked.
            self._tell(Failure.HANDSHAKE, "the client left")
        self._shaken()
        self._state = _CLOSED
        self.closed = True
        app, self._app = self._app, None
        self._forget()
        if app is not None:
            app.connection_lost(exc)

    def pause_writing(self) -> None:
        """The socket's buffer is full."""
        if self._state == _OPEN:
            self._app.pause_writing()

    def resume_writing(self) -> None:
        """The socket takes more."""
        if self._state == _OPEN:
            self._app.resume_writing()

    def on_deadline(self) -> None:
        """Cut off who does not shake hands, or does not part, in time."""
        if self._state == _HANDSHAKE:
            self._fail(Failure.TIMEOUT, "")
        elif self._raw.get_write_buffer_size():
            # What is written may take long to be read; how long is for the application, which can abort.
            self.deadline = self._listener.clock.tick + self._listener.close_ticks
        else:
            self._raw.abort()

    # ---- reading

    def _feed(self, data: bytes) -> None:
        """Give OpenSSL the whole records of what came, a few at a time, and the application what they hold."""
        if self._ssl is None and self._listener.choose is not None and not self._chosen(data):
            return
        size = len(data)
        at = 0
        pieces: list[bytes] = []
        stopped: ssl.SSLError | None = None
        more = True
        try:
            while at < size and more and self._state < _CLOSING:
                end = whole_records(data, at)
                if end == at:
                    self._held = data[at:]
                    break
                if self._ssl is None:
                    self._begin()
                self._incoming.write(data if end - at == size else memoryview(data)[at:end])
                at = end
                if self._state == _HANDSHAKE:
                    self._shake()
                if _HANDSHAKE < self._state < _CLOSING:
                    more = self._take(pieces)
        except ssl.SSLError as error:
            stopped = error
        if pieces and self._state < _CLOSING:
            self._app.data_received(pieces[0] if len(pieces) == 1 else b"".join(pieces))
        if self._state >= _CLOSING or self._ssl is None:
            return
        if stopped is not None:
            self._stopped(stopped)
        elif not more:
            self._end()
        else:
            self._answer()

    def _take(self, pieces: list[bytes]) -> bool:
        """Decrypt what OpenSSL has been fed. Return False at the client's end. Raises SSLError."""
        incoming, decrypt = self._incoming, self._decrypt
        while incoming.pending:
            try:
                plain = decrypt(min(incoming.pending, _PIECE))
            except ssl.SSLWantReadError:
                break
            if not plain:
                return False
            pieces.append(plain)
        return True

    def _stopped(self, error: ssl.SSLError) -> None:
        """Go on after a record that held nothing for the application; otherwise it was the last."""
        if isinstance(error, ssl.SSLWantReadError):
            self._answer()
        elif isinstance(error, ssl.SSLZeroReturnError):
            self._end()
        else:
            self._fail(Failure.HANDSHAKE if self._state == _HANDSHAKE else Failure.RECORD, error.reason or str(error))

    def _answer(self) -> None:
        """Send what OpenSSL itself has to say."""
        if self._outgoing.pending:
            self._raw.write(self._outgoing.read())
            if self._raw.get_write_buffer_size() > self._raw.get_write_buffer_limits()[1] + _MAX_ANSWERS:
                self._fail(Failure.RECORD, "it asks without reading the answers")

    def _end(self) -> None:
        """The client has said that it sends no more. It has left, as one that closes a plain connection, unless the application
        has more to say, which it tells as to a plain transport: by returning true."""
        if self._app.eof_received() and self._state == _OPEN:
            # Whatever it sends after its own end is nobody's; unread, it costs no memory.
            self._raw.pause_reading()
            return
        if self._state == _OPEN:
            self._say_goodbye()
        if self._state < _CLOSING:
            # There is nothing more of the client's to wait for.
            self._state = _CLOSING
            self._forget()
            self._raw.close()

    # ---- beginning and end

    def _chosen(self, data: bytes) -> bool:
        """Have the listener choose by the ClientHello. Return whether TLS goes on here with it. data: all that has come."""
        choose = self._listener.choose
        assert choose is not None
        hello = client_hello.parse(data)
        if hello is NEED_MORE:
            self._held = data
            return False
        if isinstance(hello, NotTls):
            self._refuse(Failure.HANDSHAKE, hello.why, _DECODE_ERROR if hello.speaks_tls else None)
            return False
        choice = choose(hello)
        if isinstance(choice, Ends):
            self._ends = choice
            return True
        if isinstance(choice, PassesOn):
            self._shaken()
            self._state = _CLOSED
            self.closed = True
            raw, app = self._raw, choice.factory()
            raw.set_protocol(app)
            app.connection_made(raw)
            app.data_received(data)
            return False
        self._refuse(Failure.NAME, hello.server_name, choice.alert)
        return False

    def _refuse(self, failure: Failure, words: str, alert: int | None) -> None:
        """End a connection that OpenSSL never saw."""
        self._shaken()
        self._tell(failure, words)
        if alert is None:
            self._state = _CLOSING
            self._raw.abort()
        else:
            self._raw.write(_FATAL % alert)
            self._part()

    def _begin(self) -> None:
        context = self._ends.context
        begin = getattr(context, "begin", None)
        if begin is not None:
            self._incoming, self._outgoing, made = begin()
        else:
            self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
            made = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._ssl = made
        # SSLObject's methods are Python around those of the object it holds, which take and return the same: 1,000
        # instructions a request. Where there is no such object any more, they do as well.
        inner: Any = getattr(made, "_sslobj", made)
        self._decrypt, self._encrypt = inner.read, inner.write

    def _shake(self) -> None:
        """Take the next step of the handshake. Raises SSLError."""
        try:
            self._ssl.do_handshake()
        except ssl.SSLWantReadError:
            self._answer()
            return
        self._shaken()
        self._state = _OPEN
        self.closed = True
        app: Any = self._ends.factory(self._ssl.selected_alpn_protocol())
        self._app = app
        # The tickets go before the application's first word: a client may take both in one read.
        self._answer()
        app.connection_made(self)

    def _shaken(self) -> None:
        if self._state == _HANDSHAKE:
            self._listener.handshakes -= 1

    def _tell(self, failure: Failure, words: str) -> None:
        peer = self._raw.get_extra_info("peername")
        self._listener.on_failed(failure, peer[0] if isinstance(peer, tuple) else "", words)

    def _fail(self, failure: Failure, words: str) -> None:
        """Break off, with OpenSSL's alert if there is one to send."""
        alert = self._outgoing.read() if self._ssl is not None else b""
        self._shaken()
        self._tell(failure, words)
        if alert:
            self._raw.write(alert)
            self._part()
        else:
            self._state = _CLOSING
            self._raw.abort()

    def _forget(self) -> None:
        """Let go of OpenSSL's memory."""
        self._held = b""
        if self._ssl is not None:
            self._ssl = None
            del self._decrypt, self._encrypt, self._incoming, self._outgoing

    def _part(self) -> None:
        """Close our side once everything is written, and the connection when the client has closed its own."""
        self._state = _CLOSING
        self._forget()
        self._raw.resume_reading()
        self._raw.write_eof()
        self.closed = False
        clock = self._listener.clock
        self.deadline = clock.tick + self._listener.close_ticks
        clock.watch(self)

    # ---- the application's side: what a transport has

    def write(self, data: bytes) -> None:
        """Encrypt and send. Without effect once the connection is closing."""
        if len(data) > _PIECE:
            self.writelines((data,))
            return
        if self._state != _OPEN:
            return
        try:
            self._encrypt(data)
            self._raw.write(self._outgoing.read())
        except ssl.SSLError as error:
            self._fail(Failure.RECORD, error.reason or str(error))

    def writelines(self, pieces: Iterable[Piece]) -> None:
        """Encrypt and send, each piece in records of its own. Without effect once the connection is closing."""
        if self._state != _OPEN:
            return
        try:
            write_all(self._raw, [record for piece in pieces for record in self._records(memoryview(piece))])
        except ssl.SSLError as error:
            self._fail(Failure.RECORD, error.reason or str(error))

    def _records(self, data: memoryview) -> list[bytes]:
        encrypt, read = self._encrypt, self._outgoing.read
        records = []
        for at in range(0, len(data), _PIECE):
            encrypt(data[at : at + _PIECE])
            records.append(read())
        return records

    def write_eof(self) -> None:
        """Tell the client that nothing more is written. It may go on sending."""
        if self._state == _OPEN:
            self._state = _ENDED
            self._say_goodbye()

    def _say_goodbye(self) -> None:
        # It also looks for the client's own goodbye, which need not be here yet.
        with contextlib.suppress(ssl.SSLError):
            self._ssl.unwrap()
        if self._outgoing.pending:
            self._raw.write(self._outgoing.read())

    def close(self) -> None:
        """Close once everything is written."""
        state = self._state
        if state == _OPEN:
            self._say_goodbye()
        if state < _CLOSING:
            self._part()

    def abort(self) -> None:
        """Close at once."""
        if self._state != _CLOSED:
            self._shaken()
            self._state = _CLOSING
            self._raw.abort()

    def is_closing(self) -> bool:
        """Whether the connection is closing or closed."""
        return self._state >= _CLOSING

    def pause_reading(self) -> None:
        """Read no more for now."""
        if self._state < _CLOSING:
            self._raw.pause_reading()

    def resume_reading(self) -> None:
        """Read on."""
        if self._state < _CLOSING:
            self._raw.resume_reading()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Say when to pause and resume writing, in bytes of ciphertext that the socket has not taken."""
        if self._state < _CLOSING:
            self._raw.set_write_buffer_limits(high, low)

    def get_write_buffer_size(self) -> int:
        """Return the bytes of ciphertext that the socket has not taken."""
        size: int = self._raw.get_write_buffer_size() if self._state != _CLOSED else 0
        return size

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return what is known of the connection: of TLS `ssl_object` and `sslcontext`, else what the socket knows."""
        if name == "ssl_object":
            return self._ssl
        if name == "sslcontext":
            return self._ends.context if self._ends is not None else None
        return self._raw.get_extra_info(name, default)


def whole_records(data: bytes, at: int) -> int:
    """Return where the whole records that begin at `at` end, once they are `_PIECE` bytes; `at` when there is none yet.

    What is no TLS record is whole as it is: OpenSSL refuses it, and says how.
    """
    begin, size = at, len(data)
    while at < size and at - begin < _PIECE:
        if not 20 <= data[at] <= 24:
            return size
        if size - at < _HEADER:
            break
        end = at + _HEADER + (data[at + 3] << 8 | data[at + 4])
        if data[at + 1] != 3 or end - at > _MAX_RECORD + _HEADER:
            return size
        if end > size:
            break
        at = end
    return at
