"""Response heads, read as strictly as requests: a server may be hostile, or taken over, and its clients share connections."""

from __future__ import annotations

import re

from nexus_wire.http1.fields import MAX_CACHED, MAX_CACHED_BLOCK, Fields, text, tokens
from nexus_wire.http1.refusals import Refused, bad_response

_STATUS = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9][0-9])(?: ([\t -~\x80-\xff]*))?")
_MAX_STATUSES = 512
_MAX_LENGTH_DIGITS = 18

FORWARD, DROP, LENGTH, CODING, CONNECTION, UPGRADE, DATE = range(7)
_KINDS = {
    b"content-length": LENGTH, b"transfer-encoding": CODING, b"connection": CONNECTION, b"upgrade": UPGRADE, b"date": DATE,
    b"keep-alive": DROP, b"proxy-connection": DROP, b"proxy-authenticate": DROP, b"trailer": DROP, b"te": DROP,
}  # fmt: skip
_CHUNKED = b"transfer-encoding: chunked\r\n"


class StatusLine:
    """code: 100..999. line: as it goes on, with CRLF. minor: of the HTTP version. reason: phrase, may be empty."""

    __slots__ = ("code", "line", "minor", "reason")

    def __init__(self, code: int, minor: int, reason: bytes) -> None:
        self.code = code
        self.minor = minor
        self.reason = reason
        self.line = b"HTTP/1.1 %d %b\r\n" % (code, reason)


class ResponseBlock:
    """The headers of a response.

    length: of the body; -1 chunked, -2 until the connection closes. close, keep_alive: of Connection. upgrade: the protocol
    switched to, empty for none. forward: end-to-end lines with CRLF, framing included. framing: the framing line alone.
    """

    __slots__ = ("_fields", "_headers", "close", "forward", "framing", "has_date", "keep_alive", "length", "upgrade")

    def __init__(self, fields: tuple[tuple[int, bytes, bytes], ...]) -> None:
        self._fields = fields
        self._headers: tuple[tuple[str, str], ...] | None = None
        self.length = -2
        self.close = False
        self.keep_alive = False
        self.upgrade = b""
        self.has_date = False
        self.forward = b""
        self.framing = b""

    @property
    def headers(self) -> tuple[tuple[str, str], ...]:
        """End-to-end headers in wire order, repeats kept, names lower-case."""
        found = self._headers
        if found is None:
            found = self._headers = tuple(
                (name.decode(), text(value)) for kind, name, value in self._fields if kind in (FORWARD, DATE, LENGTH)
            )
        return found


class ResponseParser:
    """Reads response heads. statuses, blocks: what was read before, by its bytes."""

    def __init__(self, *, max_head_bytes: int = 65536, max_headers: int = 200) -> None:
        self.statuses: dict[bytes, StatusLine] = {}
        self.blocks: dict[bytes, ResponseBlock] = {}
        self.max_head_bytes = max_head_bytes
        self._fields = Fields(
            lambda name: _KINDS.get(name, FORWARD),
            max_headers,
            bad_response,
            lambda: Refused(502, "UpstreamProtocolError", "The response has too many headers."),
            underscores=True,
        )

    def status(self, raw: bytes) -> StatusLine:
        """Read a status line, without its CRLF. Raises `Refused`."""
        match = _STATUS.fullmatch(raw)
        if match is None:
            raise bad_response("The status line is not one.")
        found = StatusLine(int(match[2]), int(match[1]), match[3] or b"")
        if len(self.statuses) < _MAX_STATUSES and len(raw) <= 128:
            self.statuses[raw] = found
        return found

    def block(self, raw: bytes) -> ResponseBlock:
        """Read a header block, without the CRLFs at its end. Raises `Refused`."""
        fields = self._fields
        get = fields.lines.get
        forward: list[bytes] = []
        found: list[tuple[int, bytes, bytes]] = []
        options: list[bytes] = []
        upgrade = b""
        length = None
        chunked = has_date = False
        keep = len(raw) <= MAX_CACHED_BLOCK
        for line in fields.split(raw):
            field = get(line)
            if field is None:
                field = fields.read(line)
                if line not in fields.lines:
                    keep = False
            kind, name, value, whole = field
            if kind == LENGTH and length is not None:
                if not value.isdigit() or int(value) != length:
                    raise bad_response("The response has two lengths.")
                continue
            found.append((kind, name, value))
            if kind == FORWARD:
                forward.append(whole)
            elif kind == DATE:
                has_date = True
                forward.append(whole)
            elif kind == LENGTH:
                if not value.isdigit() or len(value) > _MAX_LENGTH_DIGITS:
                    raise bad_response("Content-Length is not a number.")
                length = int(value)
            elif kind == CODING:
                if chunked or value.lower() != b"chunked":
                    raise bad_response("The only transfer coding that is taken is chunked, once.")
                chunked = True
            elif kind == CONNECTION:
                options += tokens(value)
            elif kind == UPGRADE:
                upgrade = value.lower()
        if chunked and length is not None:
            raise bad_response("Content-Length and Transfer-Encoding contradict each other.")
        block = ResponseBlock(tuple(found))
        if options:
            block.close = b"close" in options
            block.keep_alive = b"keep-alive" in options
            listed = set(options) - {b"close", b"keep-alive", b"upgrade", b"content-length"}
            if listed:
                forward = [line for line in forward if line.partition(b":")[0].lower() not in listed]
                block._fields = tuple(field for field in found if field[1] not in listed)
        if length is not None:
            block.length = length
            block.framing = b"content-length: %d\r\n" % length
        elif chunked:
            block.length = -1
            block.framing = _CHUNKED
        block.upgrade = upgrade
        block.has_date = has_date
        block.forward = b"".join(forward) + block.framing
        if keep and len(self.blocks) < MAX_CACHED:
            self.blocks[raw] = block
        return block

    def age(self) -> None:
        """Begin anew where a cache is full."""
        if len(self.blocks) >= MAX_CACHED:
            self.blocks.clear()
        self._fields.age()
