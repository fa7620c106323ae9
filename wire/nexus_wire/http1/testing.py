"""For tests: whole messages read from bytes, the way connections do it, without a connection."""

from __future__ import annotations

from dataclasses import dataclass

from nexus_wire.http1.chunks import ChunkScanner
from nexus_wire.http1.refusals import Refused, bad_response
from nexus_wire.http1.requests import RequestBlock, RequestLine, RequestParser
from nexus_wire.http1.responses import ResponseBlock, ResponseParser, StatusLine


class Incomplete(Exception):
    """More bytes have to come before the message is complete or refused."""


@dataclass(frozen=True, slots=True)
class Request:
    """A request in full. body: as framed on the wire. rest: the bytes behind it."""

    line: RequestLine
    block: RequestBlock
    body: bytes
    rest: bytes


@dataclass(frozen=True, slots=True)
class Response:
    """A response in full. body: as framed on the wire; all there is when it ends with the connection. rest: what is behind."""

    status: StatusLine
    block: ResponseBlock
    body: bytes
    rest: bytes


def read_request(parser: RequestParser, data: bytes) -> Request:
    """Return the first request in data. Raises `Refused`, or `Incomplete`."""
    raw_line, raw_block, end = _split(
        data, parser.max_head_bytes, Refused(431, "HeadTooLarge", "The request's head is too large.")
    )
    known = raw_line in parser.lines and raw_block in parser.blocks
    line = parser.lines.get(raw_line) or parser.line(raw_line)
    block = parser.blocks.get(raw_block) or parser.block(raw_block)
    parser.check(line, block, b"" if known else data[:end], missed=not known)
    body, rest = _body(data[end:], block.length, underscores=False)
    return Request(line, block, body, rest)


def read_response(parser: ResponseParser, data: bytes) -> Response:
    """Return the first response in data; one that has a body if its head says so. Raises `Refused`, or `Incomplete`."""
    raw_line, raw_block, end = _split(data, parser.max_head_bytes, bad_response("The response's head is too large."))
    status = parser.statuses.get(raw_line) or parser.status(raw_line)
    block = parser.blocks.get(raw_block) or parser.block(raw_block)
    body, rest = _body(data[end:], block.length, underscores=True)
    return Response(status, block, body, rest)


def _split(data: bytes, max_head_bytes: int, too_large: Refused) -> tuple[bytes, bytes, int]:
    end = data.find(b"\r\n\r\n")
    if end < 0 or end > max_head_bytes:
        if len(data) > max_head_bytes:
            raise too_large
        raise Incomplete
    at = data.find(b"\r\n")
    return data[:at], data[at + 2 : end], end + 4


def _body(data: bytes, length: int, *, underscores: bool) -> tuple[bytes, bytes]:
    if length == -2:
        return data, b""
    if length >= 0:
        if len(data) < length:
            raise Incomplete
        return data[:length], data[length:]
    passed, rest = ChunkScanner(underscores=underscores).take(data)
    if rest is None:
        raise Incomplete
    return passed, rest
