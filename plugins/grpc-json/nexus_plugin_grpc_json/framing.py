"""Messages of gRPC on the wire: a flag, four bytes of length, the message. And what its status means over HTTP.

Source: gRPC over HTTP2 ("Length-Prefixed-Message"), google/rpc/code.proto (HTTP mapping).
"""

from __future__ import annotations

import struct
import zlib
from urllib.parse import unquote

_HEAD = struct.Struct(">BI")
_STATUSES = {
    0: ("OK", 200), 1: ("CANCELLED", 499), 2: ("UNKNOWN", 500), 3: ("INVALID_ARGUMENT", 400), 4: ("DEADLINE_EXCEEDED", 504),
    5: ("NOT_FOUND", 404), 6: ("ALREADY_EXISTS", 409), 7: ("PERMISSION_DENIED", 403), 8: ("RESOURCE_EXHAUSTED", 429),
    9: ("FAILED_PRECONDITION", 400), 10: ("ABORTED", 409), 11: ("OUT_OF_RANGE", 400), 12: ("UNIMPLEMENTED", 501), 13: ("INTERNAL", 500),
    14: ("UNAVAILABLE", 503), 15: ("DATA_LOSS", 500), 16: ("UNAUTHENTICATED", 401),
}  # fmt: skip


class NotFramed(ValueError):
    """The bytes are no messages of gRPC; the message says why."""


def frame(message: bytes) -> bytes:
    """Return a message as it is sent, not compressed."""
    return _HEAD.pack(0, len(message)) + message


def messages(body: bytes, encoding: str, max_bytes: int) -> list[bytes]:
    """Return the messages of a body. encoding: `grpc-encoding`. max_bytes: of all of them, unpacked. Raises `NotFramed`."""
    found, at, total = [], 0, 0
    while at < len(body):
        if at + _HEAD.size > len(body):
            raise NotFramed("it breaks off in a message's head")
        packed, size = _HEAD.unpack_from(body, at)
        at += _HEAD.size
        if at + size > len(body):
            raise NotFramed("it breaks off in a message")
        data = body[at : at + size]
        at += size
        if packed not in (0, 1):
            raise NotFramed(f"a message has the flag {packed}")
        if packed:
            data = _unpacked(data, encoding, max_bytes - total)
        total += len(data)
        if total > max_bytes:
            raise NotFramed(f"its messages have more than {max_bytes} bytes")
        found.append(data)
    return found


def status_of(code: str | None) -> tuple[str, int]:
    """Return name and HTTP status of a `grpc-status`; UNKNOWN for what is none."""
    try:
        return _STATUSES.get(int(code or ""), _STATUSES[2])
    except ValueError:
        return _STATUSES[2]


def text_of(message: str | None) -> str:
    """Return a `grpc-message`, decoded and bounded."""
    return unquote(message or "")[:1024]


def _unpacked(data: bytes, encoding: str, left: int) -> bytes:
    if encoding not in ("gzip", "deflate"):
        raise NotFramed(f"it is compressed with {encoding[:40]!r}")
    unpacker = zlib.decompressobj(wbits=31 if encoding == "gzip" else 15)
    try:
        made = unpacker.decompress(data, max(left, 0) + 1)
    except zlib.error as error:
        raise NotFramed("a message cannot be unpacked") from error
    if len(made) > left or not unpacker.eof:
        raise NotFramed("a message is larger than allowed, or breaks off")
    return made
