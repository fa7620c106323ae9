"""Response heads, read as strictly as requests: a server may be hostile, or taken over, and its clients share connections."""

from __future__ import annotations

import re
from collections.abc import Callable

from nexus_wire.http1.fields import FORWARD, MAX_CACHED, MAX_CACHED_BLOCK, Fields, pairs, tokens, without
from nexus_wire.http1.options import OptionsReader
from nexus_wire.http1.refusals import Refused, bad_response

_STATUS = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9][0-9])(?: ([\t -~\x80-\xff]*))?").fullmatch
_MAX_STATUSES = 512
_MAX_CACHED_STATUS = 128
_MAX_LENGTH_DIGITS = 18

(DROP, LENGTH, CODING, CONNECTION, UPGRADE, DATE) = range(1, 7)
_KINDS = {
    b"content-length": LENGTH, b"transfer-encoding": CODING, b"connection": CONNECTION, b"upgrade": UPGRADE, b"date": DATE,
    b"keep-alive": DROP, b"proxy-connection": DROP, b"proxy-authenticate": DROP, b"trailer": DROP, b"te": DROP,
}  # fmt: skip
_END_TO_END = frozenset((FORWARD, DATE, LENGTH))
_FRAMING = frozenset({b"content-length", b"transfer-encoding"})


def _kind_of(name: bytes) -> int:
    return _KINDS.get(name, FORWARD)


def _too_many() -> Refused:
    return bad_response("The response has too many headers.")


class StatusLine:
    """code: 100..999. line: as it goes on, with CRLF. minor: of the HTTP version. reason: phrase, may be empty."""

    __slots__ = ("code", "line", "minor", "reason")

    def __init__(self, code: int, minor: int, reason: bytes) -> None:
        self.code = code
        self.minor = minor
        self.reason = reason
        self.line = b"HTTP/1.1 %d %b\r\n" % (code, reason)


class ResponseBlock:
    """The headers of a response. Shared by all responses that bring the same bytes: nothing in it changes once it is read.

    length: of the body; -1 chunked, -2 until the connection closes. close, keep_alive: of Connection. upgrade: the protocol
    switched to, lower-case, empty for none. forward: end-to-end lines with CRLF, framing included. framing: the framing line
    alone, empty for none.
    """

    __slots__ = (
        "_headers", "_listed", "_raw", "close", "forward", "framing", "has_date", "keep_alive", "length", "upgrade",
    )  # fmt: skip

    def __init__(self, raw: bytes, length: int, framing: bytes, forward: bytes, has_date: bool) -> None:
        self._raw = raw
        self._listed: frozenset[bytes] | None = None
        self._headers: tuple[tuple[str, str], ...] | None = None
        self.length = length
        self.close = False
        self.keep_alive = False
        self.upgrade = b""
        self.has_date = has_date
        self.forward = forward
        self.framing = framing

    @property
    def headers(self) -> tuple[tuple[str, str], ...]:
        """End-to-end headers in wire order, repeats kept, names lower-case; Content-Length once."""
        found = self._headers
        if found is None:
            kind_of: Callable[[bytes], int] = _kind_of
            listed = self._listed or ()
            kept: list[tuple[str, str]] = []
            sized = False
            for pair in pairs(self._raw):
                name = pair[0].encode()
                kind = kind_of(name)
                if kind not in _END_TO_END or name in listed or (kind == LENGTH and sized):
                    continue
                sized = sized or kind == LENGTH
                kept.append(pair)
            found = self._headers = tuple(kept)
        return found

    def unframed(self) -> ResponseBlock:
        """Return the same without a framing line, for a 204: one that says how its body comes has a client wait for it."""
        found = ResponseBlock(self._raw, 0, b"", self.forward.removesuffix(self.framing), self.has_date)
        found.close, found.keep_alive, found._listed = self.close, self.keep_alive, self._listed
        return found


class ResponseParser:
    """Reads response heads. statuses, blocks: what was read before, by its bytes. Nothing that fails a check is ever in them, nor
    any secret."""

    def __init__(self, *, max_head_bytes: int = 65536, max_headers: int = 200) -> None:
        self.statuses: dict[bytes, StatusLine] = {}
        self.blocks: dict[bytes, ResponseBlock] = {}
        self.max_head_bytes = max_head_bytes
        self._fields = Fields(_kind_of, max_headers, bad_response, _too_many, underscores=True)
        self._options = OptionsReader()

    def status(self, raw: bytes) -> StatusLine:
        """Read a status line, without its CRLF. Raises `Refused`."""
        match = _STATUS(raw)
        if match is None:
            raise bad_response("The status line is not one.")
        found = StatusLine(int(match[2]), int(match[1]), match[3] or b"")
        if len(self.statuses) < _MAX_STATUSES and len(raw) <= _MAX_CACHED_STATUS:
            self.statuses[raw] = found
        return found

    def block(self, raw: bytes) -> ResponseBlock:
        """Read a header block, without the CRLFs at its end. Raises `Refused`."""
        size = len(raw)
        if size > self.max_head_bytes:
            raise bad_response("The response's headers are too large.")
        fields = self._fields
        lines = fields.split(raw)
        plain = fields.plain
        special = fields.special.get
        forward: list[bytes] = []
        pass_on = forward.append
        length: int | None = None
        connection: bytes | None = None
        upgrades = b""
        chunked = has_date = checked = False
        keep = size <= MAX_CACHED_BLOCK
        for line in lines:
            if line in plain:
                pass_on(line)
                continue
            field = special(line)
            if field is not None:
                kind, _, value = field
            else:
                if not checked:
                    fields.check(raw, len(lines) - 1)
                    checked = True
                kind, _, value, kept = fields.read(line)
                if not kept:
                    keep = False
                if not kind:
                    pass_on(line)
                    continue
            if kind == DATE:
                has_date = True
                pass_on(line)
            elif kind == LENGTH:
                if not value.isdigit() or len(value) > _MAX_LENGTH_DIGITS:
                    raise bad_response("Content-Length is not a number.")
                # The same length twice is one length (RFC 9110 section 8.6); only one is passed on.
                if length is not None and int(value) != length:
                    raise bad_response("The response has two lengths.")
                length = int(value)
            elif kind == CONNECTION:
                connection = value if connection is None else b"%b,%b" % (connection, value)
            elif kind == CODING:
                if chunked or value.lower() != b"chunked":
                    raise bad_response("The only transfer coding that is taken is chunked, once.")
                chunked = True
            elif kind == UPGRADE:
                upgrades = b"%b,%b" % (upgrades, value) if upgrades else value
        if chunked:
            if length is not None:
                raise bad_response("Content-Length and Transfer-Encoding contradict each other.")
            pass_on(b"transfer-encoding: chunked")
            framing = b"transfer-encoding: chunked\r\n"
            length = -1
        elif length is not None:
            line = b"content-length: %d" % length
            pass_on(line)
            framing = line + b"\r\n"
        else:
            framing = b""
            length = -2
        # The empty line at the end makes the join end with CRLF.
        pass_on(b"")
        block = ResponseBlock(raw, length, framing, b"\r\n".join(forward), has_date)
        if connection is not None:
            options = self._options.read(connection)
            block.close = options.close
            block.keep_alive = options.keep_alive
            listed = options.listed - _FRAMING
            if listed:
                block._listed = listed
                block.has_date = has_date and b"date" not in listed
                block.forward = b"\r\n".join(without(forward, listed))
        if upgrades:
            switched = tokens(upgrades)
            if len(switched) == 1:
                block.upgrade = switched[0]
        if keep and len(self.blocks) < MAX_CACHED:
            self.blocks[raw] = block
        return block

    def age(self) -> None:
        """Begin anew where a cache is full. Called once in a while, never within a response."""
        if len(self.statuses) >= _MAX_STATUSES:
            self.statuses.clear()
        if len(self.blocks) >= MAX_CACHED:
            self.blocks.clear()
        self._options.age()
        self._fields.age()
