"""Chunked bodies, checked as they pass. What is not checked yet is held back: a reader behind us never sees it.

Source: RFC 9112 section 7.1. Stricter: sizes of at most 15 digits without blanks around them, lines of at most `MAX_LINE`, no trailer
fields that frame, route or authenticate.
"""

from __future__ import annotations

import re

from nexus_wire.http1.fields import TOKEN
from nexus_wire.http1.refusals import bad_request

MAX_LINE = 4096
"""Bytes of a size line with its extensions, or of a trailer line."""
MAX_TRAILERS = 8192
_SIZE = re.compile(
    rb"([0-9A-Fa-f]{1,15})(?:[ \t]*;[ \t]*[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
    rb"(?:[ \t]*=[ \t]*(?:[!#$%&'*+\-.^_`|~0-9A-Za-z]+|\"(?:[^\"\\\x00-\x08\x0a-\x1f\x7f]|\\[\t -~\x80-\xff])*\"))?)*"
)
_TEXT = bytes(byte for byte in range(256) if byte == 9 or 32 <= byte < 127 or byte > 127)
_REFUSED_TRAILERS = frozenset(
    {b"content-length", b"transfer-encoding", b"host", b"connection", b"content-encoding", b"content-type", b"content-range",
     b"trailer", b"te", b"upgrade", b"authorization", b"proxy-authorization", b"cookie", b"set-cookie", b"cache-control",
     b"expect", b"max-forwards", b"age", b"date", b"expires", b"location", b"retry-after", b"vary", b"x-forwarded-for"}
)  # fmt: skip
_LINE, _TRAILER = -1, -2


class ChunkScanner:
    """Follows the framing of one body; bytes pass unchanged."""

    __slots__ = ("_held", "_left", "_trailers")

    def __init__(self) -> None:
        self._left = _LINE  # bytes of the current chunk still to come, its CRLF included; or what kind of line comes
        self._held = b""
        self._trailers = 0

    def take(self, data: bytes) -> tuple[bytes, bytes | None]:
        """Return what may pass, and what follows the body's end; None for that while the body goes on. Raises `Refused`."""
        if self._held:
            data = self._held + data
            self._held = b""
        at = self._scan(data, None)
        if at >= 0:
            return (data, b"") if at == len(data) else (data[:at], data[at:])
        return (data[: -len(self._held)] if self._held else data), None

    def _scan(self, data: bytes, payload: list[bytes] | None) -> int:
        """Return where the body ends in data, -1 when it goes on. payload: gets the chunks' content, if given."""
        size = len(data)
        at = 0
        left = self._left
        while True:
            if left >= 0:
                if left > 2:
                    have = min(left - 2, size - at)
                    if payload is not None and have:
                        payload.append(data[at : at + have])
                    at += have
                    left -= have
                if left <= 2:
                    # The CRLF behind a chunk, which may come in two pieces.
                    end = data[at : at + left]
                    if end != b"\r\n"[2 - left : 2 - left + len(end)]:
                        raise bad_request("A chunk is longer than it says.")
                    at += len(end)
                    left -= len(end)
                if left:
                    self._left = left
                    return -1
                left = _LINE
            end_of_line = data.find(b"\r\n", at)
            if end_of_line < 0:
                rest = data[at:]
                if len(rest) > MAX_LINE or b"\n" in rest:
                    raise bad_request("A line of the chunked body is too long, or not ended by CRLF.")
                self._held = rest
                self._left = left
                return -1
            line = data[at:end_of_line]
            at = end_of_line + 2
            if left == _LINE:
                match = _SIZE.fullmatch(line) if len(line) <= MAX_LINE else None
                if match is None:
                    raise bad_request("A chunk's size is not a hexadecimal number.")
                count = int(match[1], 16)
                left = count + 2 if count else _TRAILER
            elif not line:
                self._left = left
                return at
            else:
                self._trailer(line)

    def _trailer(self, line: bytes) -> None:
        self._trailers += len(line) + 2
        name, colon, _ = line.partition(b":")
        if not colon or not name or name.translate(None, TOKEN + b"_") or line.translate(None, _TEXT):
            raise bad_request("A trailer line is not a header.")
        if name.lower() in _REFUSED_TRAILERS:
            raise bad_request("A trailer holds a header that only a head may hold.")
        if self._trailers > MAX_TRAILERS:
            raise bad_request("The trailers are too large.")


class Dechunker(ChunkScanner):
    """The same for readers that know no chunks: returns the content alone."""

    __slots__ = ()

    def take(self, data: bytes) -> tuple[bytes, bytes | None]:
        """Return the content, and what follows the body's end; None for that while the body goes on. Raises `Refused`."""
        if self._held:
            data = self._held + data
            self._held = b""
        payload: list[bytes] = []
        at = self._scan(data, payload)
        return b"".join(payload), (data[at:] if at >= 0 else None)
