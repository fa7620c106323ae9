"""The messages of grpc.health.v1.Health/Check, by hand: one string out, one enumeration back. Pure.

Sources: grpc.github.io/grpc/core/md_doc_health-checking; "gRPC over HTTP2" (length-prefixed messages); Protocol Buffers encoding.
Not the generated classes: they are one more package for twelve bytes.
"""

from __future__ import annotations

PATH = "/grpc.health.v1.Health/Check"
STATUSES = {0: "UNKNOWN", 1: "SERVING", 2: "NOT_SERVING", 3: "SERVICE_UNKNOWN"}
SERVING = 1
MAX_MESSAGE_BYTES = 4096

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


class MessageInvalid(ValueError):
    """The answer is no HealthCheckResponse. The text says why."""


def encode_request(service: str) -> bytes:
    """Return a HealthCheckRequest with its gRPC prefix. service: empty asks for the server as a whole."""
    name = service.encode()
    message = b"\x0a" + _varint(len(name)) + name if name else b""
    return b"\x00" + len(message).to_bytes(4) + message


def decode_status(data: bytes) -> int:
    """Return the serving status of a HealthCheckResponse with its gRPC prefix; 0 when the message does not say.

    data: all the bytes of the answer. Raises `MessageInvalid`.
    """
    if len(data) < 5:
        raise MessageInvalid("the answer ends before its message")
    if data[0]:
        raise MessageInvalid("the message is compressed, though nothing was offered")
    if int.from_bytes(data[1:5]) != len(data) - 5:
        raise MessageInvalid("the message's length is not the one it announces")
    at, status = 5, 0
    while at < len(data):
        key, at = _read_varint(data, at)
        kind = key & 7
        if kind == _VARINT:
            value, at = _read_varint(data, at)
            if key >> 3 == 1:
                status = value
        elif kind == _BYTES:
            length, at = _read_varint(data, at)
            at += length
        elif kind in (_FIXED32, _FIXED64):
            at += 4 if kind == _FIXED32 else 8
        else:
            raise MessageInvalid("the message is not valid protobuf")
    if at != len(data):
        raise MessageInvalid("a field is longer than the message")
    return status


def _varint(value: int) -> bytes:
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    found.append(value)
    return bytes(found)


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise MessageInvalid("a number is not complete")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
