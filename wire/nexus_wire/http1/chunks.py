"""Chunked bodies, checked as they pass. What is not checked yet is held back: a reader behind us never sees it.

Source: RFC 9112 section 7.1. Stricter: sizes of at most 15 digits, no blanks anywhere in a size line outside of quotes, lines of at
most `MAX_LINE`, extensions in proportion to the content, no trailer fields that frame, route or authenticate.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

from nexus_wire.http1.fields import TEXT, TOKEN
from nexus_wire.http1.refusals import bad_request

MAX_LINE = 4096
"""Bytes of a size line with its extensions, or of a trailer line; without CRLF."""
MAX_TRAILERS = 8192
"""Bytes of all trailer lines, CRLFs included."""
MAX_EXCESS = 16384
"""Bytes of extensions beyond what goes with the content: 16 a chunk and two for each byte of it. Signed uploads, which are what
extensions are used for, stay far below; a byte a chunk with kilobytes of extension around it does not."""
_TCHAR = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]"
# Possessive: a line that does not match is given up in one pass.
_SIZE = re.compile(
    rb"([0-9A-Fa-f]{1,15})((?:;" + _TCHAR + rb"++(?:=(?:" + _TCHAR + rb"++"
    rb"|\"(?:[\t !#-\[\]-~\x80-\xff]|\\[\t -~\x80-\xff])*+\"))?+)*+)"
).fullmatch  # fmt: skip
_MAX_COMMON_LINE = 8
_REFUSED_TRAILERS = frozenset(
    {b"content-length", b"transfer-encoding", b"host", b"connection", b"keep-alive", b"proxy-connection", b"content-encoding",
     b"content-type", b"content-range", b"trailer", b"te", b"upgrade", b"authorization", b"proxy-authorization",
     b"proxy-authenticate", b"www-authenticate", b"cookie", b"set-cookie", b"cache-control", b"expect", b"max-forwards",
     b"pragma", b"range", b"age", b"date", b"expires", b"location", b"retry-after", b"vary", b"via", b"warning", b"forwarded",
     b"if-match", b"if-none-match", b"if-modified-since", b"if-unmodified-since", b"if-range", b"origin", b"x-request-id",
     b"x-api-key", b"x-real-ip", b"x-original-url", b"x-rewrite-url", b"x-http-method-override", b"traceparent", b"tracestate",
     b"b3"}
)  # fmt: skip
"""Headers that change how a message is framed, routed, judged or kept (RFC 9110 section 6.5.1): in a trailer they come after all
that has been decided."""
_REFUSED_PREFIXES = (b"x-forwarded-", b"x-b3-", b"x-nexus-", b"proxy-", b"sec-")
_LOWER = b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz"
"""Bytes of a name in HTTP/2 (RFC 9113 section 8.2.1)."""
_LINE, _TRAILER, _END = -1, -2, -3


def _read_size(line: bytes) -> tuple[int, int]:
    match = _SIZE(line) if len(line) <= MAX_LINE else None
    if match is None:
        raise bad_request(
            "A chunk's size is not a hexadecimal number with well-formed extensions, or its line is too long."
        )
    return int(match[1], 16), len(match[2])


@lru_cache(maxsize=1024)
def _common_size(line: bytes) -> int:
    """Return the size in a short line. The same few come in every body; what is refused is not kept."""
    return _read_size(line)[0]


class ChunkScanner:
    """Follows the framing of one body; bytes pass unchanged."""

    __slots__ = ("_excess", "_held", "_left", "_token", "_trailers", "announced")

    def __init__(self, *, underscores: bool = False) -> None:
        """underscores: whether trailer names may hold them; in responses nobody is misled."""
        self._left = _LINE  # bytes of the current chunk still to come, its CRLF included; or what kind of line comes
        self._held = b""
        self._trailers = 0
        self.announced = 0
        self._excess = 0
        self._token = TOKEN + b"_" if underscores else TOKEN

    def take(self, data: bytes) -> tuple[bytes, bytes | None]:
        """Return what may pass, and what follows the body's end; None for that while the body goes on. Raises `Refused`.

        Data that passes whole is returned as it is, not copied.
        """
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
                # The content and its CRLF, whole or what is here of them.
                end = at + left
                if end <= size and left >= 2:
                    if data[end - 2 : end] != b"\r\n":
                        raise bad_request("A chunk is longer or shorter than it says.")
                    if payload is not None and left > 2:
                        payload.append(data[at : end - 2])
                    at = end
                else:
                    at, left = self._part(data, at, left, payload)
                    if left:
                        self._left = left
                        return -1
                left = _LINE
            if left == _END:
                return 0
            # A line that is in full here is never longer than the limit, wherever its break is looked for.
            end = data.find(b"\r\n", at, at + MAX_LINE + 2)
            if end < 0:
                rest = data[at:]
                # Its last byte may be the CR of the break.
                if len(rest) > MAX_LINE + 1 or b"\n" in rest or b"\r" in rest[:-1]:
                    raise bad_request("A line of the chunked body is too long, or not ended by CRLF.")
                self._held = rest
                self._left = left
                return -1
            line = data[at:end]
            at = end + 2
            if left == _LINE:
                # An extension that is as short as that counts for nothing.
                count = _common_size(line) if len(line) <= _MAX_COMMON_LINE else self._long_line(line)
                self.announced += count
                left = count + 2 if count else _TRAILER
            elif not line:
                self._left = _END
                return at
            else:
                self._trailer(line)

    def _part(self, data: bytes, at: int, left: int, payload: list[bytes] | None) -> tuple[int, int]:
        """Go over the part of a chunk that is here. Return where it ends, and what is left of content and CRLF."""
        have = min(max(left - 2, 0), len(data) - at)
        if have:
            if payload is not None:
                payload.append(data[at : at + have])
            at += have
            left -= have
        if left <= 2:
            # The CRLF behind the content, which may come in two pieces.
            found = data[at : at + left]
            if found != b"\r\n"[2 - left : 2 - left + len(found)]:
                raise bad_request("A chunk is longer or shorter than it says.")
            at += len(found)
            left -= len(found)
        return at, left

    def _long_line(self, line: bytes) -> int:
        count, extensions = _read_size(line)
        if extensions:
            self._excess = max(0, self._excess + extensions - 16 - 2 * count)
            if self._excess > MAX_EXCESS:
                raise bad_request("The chunk extensions are out of proportion to the body.")
        return count

    def _trailer(self, line: bytes) -> None:
        self._trailers += len(line) + 2
        if self._trailers > MAX_TRAILERS:
            raise bad_request("The trailers are too large.")
        name, colon, _ = line.partition(b":")
        if not colon or not name or name.translate(None, self._token) or line.translate(None, TEXT):
            raise bad_request("A trailer line is not a header.")
        low = name.lower()
        if low in _REFUSED_TRAILERS or low.startswith(_REFUSED_PREFIXES):
            raise bad_request("A trailer holds a header that only a head may hold.")


def trailer_lines(fields: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return trailers that came in another framing than chunks as lines, each with CRLF. Raises `Refused` for what is no header.

    fields: lower-case names, and values. Those that only a head may hold are left out rather than refused: metadata of RPCs may
    have any name, and a trailer may be discarded (RFC 9110 section 6.5.1).
    """
    lines: list[bytes] = []
    size = 0
    for name, value in fields:
        size += len(name) + len(value) + 4
        if size > MAX_TRAILERS:
            raise bad_request("The trailers are too large.")
        if not name or name.translate(None, _LOWER) or value.translate(None, TEXT):
            raise bad_request("A trailer is not a header.")
        if name not in _REFUSED_TRAILERS and not name.startswith(_REFUSED_PREFIXES):
            lines.append(b"%b: %b\r\n" % (name, value))
    return b"".join(lines)


class Dechunker(ChunkScanner):
    """The same for readers that know no chunks: returns the content alone.

    trailers: those that have come, checked: lines, each with CRLF. For readers that have another place for them.
    """

    __slots__ = ("trailers",)

    def __init__(self, *, underscores: bool = True) -> None:
        """underscores: as for the scanner."""
        super().__init__(underscores=underscores)
        self.trailers = b""

    def _trailer(self, line: bytes) -> None:
        super()._trailer(line)
        self.trailers += line + b"\r\n"

    def take(self, data: bytes) -> tuple[bytes, bytes | None]:
        """Return the content, and what follows the body's end; None for that while the body goes on. Raises `Refused`."""
        if self._held:
            data = self._held + data
            self._held = b""
        payload: list[bytes] = []
        at = self._scan(data, payload)
        return (payload[0] if len(payload) == 1 else b"".join(payload)), (data[at:] if at >= 0 else None)
