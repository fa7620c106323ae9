"""Frames: what is written, and what of the ones read must hold whatever connection they belong to.

Source: RFC 9113 sections 4 and 6. Both sides of HTTP/2 use this module; it knows no streams and no windows. `HEAD.unpack_from` reads
a frame's head as `(length << 8 | kind, flags, stream)`; readers do that themselves, since a call for each frame would be dearer.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from struct import Struct

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
"""What a client says first (RFC 9113 section 3.4)."""
HEAD = Struct(">IBI")
HEAD_BYTES = 9
STREAM_MASK = 0x7FFFFFFF
"""Takes the reserved bit off a stream's number, and off a window's increment."""
MAX_WINDOW = 0x7FFFFFFF
DEFAULT_WINDOW = 65535
DEFAULT_FRAME = 16384
MAX_FRAME = 0xFFFFFF

(DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION) = range(10)

END_STREAM = ACK = 0x1
END_HEADERS = 0x4
PADDED = 0x8
PRIORITISED = 0x20

(
    HEADER_TABLE_SIZE, ENABLE_PUSH, MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE, MAX_HEADER_LIST_SIZE,
) = range(1, 7)  # fmt: skip
ENABLE_CONNECT_PROTOCOL = 8

_ONE = Struct(">IBII")
_TWO = Struct(">IBIII")
_SETTING = Struct(">HI")
_WORD = Struct(">I")


class Code(enum.IntEnum):
    """Why a stream or a connection ends (RFC 9113 section 7)."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    SETTINGS_TIMEOUT = 4
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    CONNECT_ERROR = 10
    ENHANCE_YOUR_CALM = 11
    INADEQUATE_SECURITY = 12
    HTTP_1_1_REQUIRED = 13


class ConnectionBroken(Exception):
    """The peer broke the protocol so that nothing it says can be believed any more: GOAWAY with the code, and the end."""

    def __init__(self, code: Code, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail


class StreamBroken(Exception):
    """The peer broke the protocol on one stream: RST_STREAM with the code. The others go on."""

    def __init__(self, stream: int, code: Code, detail: str) -> None:
        super().__init__(detail)
        self.stream = stream
        self.code = code
        self.detail = detail


# ---- writing


def data(stream: int, payload: bytes, *, end: bool) -> bytes:
    """Return one DATA frame. payload: not longer than the peer's MAX_FRAME_SIZE."""
    return HEAD.pack(len(payload) << 8, 1 if end else 0, stream) + payload


def headers(stream: int, block: bytes, max_frame: int, *, end: bool) -> bytes:
    """Return a header block as HEADERS, with as many CONTINUATIONs as it takes. end: nothing follows on the stream."""
    if len(block) <= max_frame:
        return HEAD.pack(len(block) << 8 | HEADERS, 5 if end else END_HEADERS, stream) + block
    pieces = [block[at : at + max_frame] for at in range(0, len(block), max_frame)]
    last = len(pieces) - 1
    written = []
    for number, piece in enumerate(pieces):
        kind = CONTINUATION if number else HEADERS
        flags = (END_HEADERS if number == last else 0) | (END_STREAM if end and not number else 0)
        written += [HEAD.pack(len(piece) << 8 | kind, flags, stream), piece]
    return b"".join(written)


def reset(stream: int, code: int) -> bytes:
    """Return a RST_STREAM."""
    return _ONE.pack(4 << 8 | RST_STREAM, 0, stream, code)


def window_update(stream: int, increment: int) -> bytes:
    """Return a WINDOW_UPDATE. stream: 0 for the connection's. increment: bytes, at least one."""
    return _ONE.pack(4 << 8 | WINDOW_UPDATE, 0, stream, increment)


def goaway(last_stream: int, code: int, detail: bytes = b"") -> bytes:
    """Return a GOAWAY. last_stream: the highest one that was, or may still be, served. detail: a few words for people."""
    return _TWO.pack((8 + len(detail)) << 8 | GOAWAY, 0, 0, last_stream, code) + detail


def settings(values: dict[int, int]) -> bytes:
    """Return a SETTINGS. values: by identifier."""
    return HEAD.pack(6 * len(values) << 8 | SETTINGS, 0, 0) + b"".join(_SETTING.pack(*pair) for pair in values.items())


SETTINGS_ACK = HEAD.pack(SETTINGS, ACK, 0)


def ping(opaque: bytes, *, ack: bool) -> bytes:
    """Return a PING. opaque: eight bytes, in an answer those that were asked with."""
    return HEAD.pack(8 << 8 | PING, ACK if ack else 0, 0) + opaque


# ---- reading payloads


def unpadded(payload: bytes, flags: int) -> bytes:
    """Return the payload of a DATA or HEADERS frame without its padding. Raises `ConnectionBroken`."""
    if not flags & PADDED:
        return payload
    if not payload or payload[0] >= len(payload):
        raise ConnectionBroken(Code.PROTOCOL_ERROR, "A frame holds more padding than it is long.")
    return payload[1 : len(payload) - payload[0]]


def fragment(payload: bytes, flags: int, stream: int) -> bytes:
    """Return the piece of a header block that a HEADERS frame holds. Raises `ConnectionBroken`.

    Priorities are read over (RFC 9113 section 5.3.2).
    """
    payload = unpadded(payload, flags)
    if not flags & PRIORITISED:
        return payload
    if len(payload) < 5:
        raise ConnectionBroken(Code.FRAME_SIZE_ERROR, "A HEADERS frame is too short for its priority.")
    check_dependency(payload, stream)
    return payload[5:]


def check_dependency(payload: bytes, stream: int) -> None:
    """Check the first word of a priority. Raises `ConnectionBroken`: what stands in a stream's way need not cost it alone
    (RFC 9113 section 5.4.2), and the stream may be one that does not exist yet."""
    if _WORD.unpack_from(payload)[0] & STREAM_MASK == stream:
        raise ConnectionBroken(Code.PROTOCOL_ERROR, "A stream depends on itself.")


def read_settings(payload: bytes) -> Iterator[tuple[int, int]]:
    """Yield `(identifier, value)` in order, repeats and unknown ones among them. Raises `ConnectionBroken`."""
    if len(payload) % 6:
        raise ConnectionBroken(Code.FRAME_SIZE_ERROR, "A SETTINGS frame ends within a setting.")
    for identifier, value in _SETTING.iter_unpack(payload):
        if identifier == ENABLE_PUSH and value > 1:
            raise ConnectionBroken(Code.PROTOCOL_ERROR, "ENABLE_PUSH is neither 0 nor 1.")
        if identifier == INITIAL_WINDOW_SIZE and value > MAX_WINDOW:
            raise ConnectionBroken(Code.FLOW_CONTROL_ERROR, "INITIAL_WINDOW_SIZE is larger than a window can be.")
        if identifier == MAX_FRAME_SIZE and not DEFAULT_FRAME <= value <= MAX_FRAME:
            raise ConnectionBroken(Code.PROTOCOL_ERROR, "MAX_FRAME_SIZE is out of its range.")
        yield identifier, value


def read_word(payload: bytes, kind: str) -> int:
    """Return the one number that a RST_STREAM or WINDOW_UPDATE holds. Raises `ConnectionBroken`."""
    if len(payload) != 4:
        raise ConnectionBroken(Code.FRAME_SIZE_ERROR, f"A {kind} frame is not four bytes long.")
    return int(_WORD.unpack(payload)[0])


def read_goaway(payload: bytes) -> tuple[int, int, bytes]:
    """Return `(last stream, code, detail)`. Raises `ConnectionBroken`."""
    if len(payload) < 8:
        raise ConnectionBroken(Code.FRAME_SIZE_ERROR, "A GOAWAY frame is too short.")
    return _WORD.unpack_from(payload)[0] & STREAM_MASK, _WORD.unpack_from(payload, 4)[0], payload[8:]


def check_ping(payload: bytes) -> None:
    """Check a PING's length. Raises `ConnectionBroken`."""
    if len(payload) != 8:
        raise ConnectionBroken(Code.FRAME_SIZE_ERROR, "A PING frame is not eight bytes long.")
