"""One frame: its head, its mask, its payload. Source: RFC 6455 section 5."""

from __future__ import annotations

from typing import NamedTuple

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
KNOWN = frozenset({CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG})
MAX_CONTROL = 125
MASK_BYTES = 4

_FINAL, _MASKED = 0x80, 0x80
_SHORT, _MEDIUM, _LONG = 125, 126, 127


class Broken(Exception):
    """What came is no WebSocket, or more than is taken. code: of the Close that says so (RFC 6455 section 7.4.1)."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


class Frame(NamedTuple):
    """A whole message (TEXT or BINARY) or a control frame (CLOSE, PING, PONG), unmasked."""

    opcode: int
    payload: bytes


def mask_of(payload: bytes, key: bytes) -> bytes:
    """Return the payload masked, or unmasked: the same. key: four bytes. One XOR of big numbers: a megabyte takes a few ms."""
    count = len(payload)
    if not count:
        return b""
    stream = (key * (count // MASK_BYTES + 1))[:count]
    return (int.from_bytes(payload, "little") ^ int.from_bytes(stream, "little")).to_bytes(count, "little")


def frame(opcode: int, payload: bytes, key: bytes = b"") -> bytes:
    """Return a final frame. key: four random bytes, from a client; a server masks nothing."""
    count = len(payload)
    bit = _MASKED if key else 0
    first = _FINAL | opcode
    if count <= _SHORT:
        head = bytes((first, bit | count))
    elif count < 1 << 16:
        head = bytes((first, bit | _MEDIUM)) + count.to_bytes(2, "big")
    else:
        head = bytes((first, bit | _LONG)) + count.to_bytes(8, "big")
    return head + key + mask_of(payload, key) if key else head + payload


def length_of(head: bytes | bytearray) -> tuple[int, int] | None:
    """Return (bytes of the head without the mask, payload's length) once enough of the frame is there."""
    if len(head) < 2:
        return None
    count = head[1] & 0x7F
    if count <= _SHORT:
        return 2, count
    width = 2 if count == _MEDIUM else 8
    if len(head) < 2 + width:
        return None
    count = int.from_bytes(head[2 : 2 + width], "big")
    if count >> 63:
        raise Broken(1002, "A frame's length has its first bit set.")
    if count <= _SHORT or (width == 8 and count < 1 << 16):
        raise Broken(1002, "A frame's length is not written in the shortest way.")
    return 2 + width, count
