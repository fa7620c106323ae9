"""Responses: status and header lines, as HTTP/1.1 has them, to header blocks. A block that comes again is one dict probe."""

from __future__ import annotations

from nexus_wire.http2.hpack import Encoder, field

_MAX_KEPT = 1024
_MAX_KEPT_LINES = 1024


class ResponseHeads:
    """Makes header blocks. One for all connections: no block depends on any table.

    kept: blocks by `(status line, header lines)`. Nothing in it holds a secret.
    """

    __slots__ = ("_encoder", "_statuses", "kept")

    def __init__(self) -> None:
        self._encoder = Encoder()
        self._statuses: dict[bytes, bytes] = {}
        self.kept: dict[tuple[bytes, bytes], bytes] = {}

    def block(self, status: bytes, lines: bytes) -> bytes:
        """Return the header block of a response that is not kept yet. status: the status line. lines: each with its CRLF."""
        code = status[9:12]
        first = self._statuses.get(code)
        if first is None:
            # Three digits: there are not too many of them.
            first = self._statuses[code] = field(b":status", code)
        fields, keep = self._encoder.block(lines)
        block = first + fields
        if keep and len(lines) <= _MAX_KEPT_LINES and len(self.kept) < _MAX_KEPT:
            self.kept[status, lines] = block
        return block

    def trailers(self, lines: bytes) -> bytes:
        """Return the header block of trailers, which come once and are not kept."""
        return self._encoder.lines(lines)

    def age(self) -> None:
        """Begin anew when full. Called once in a while, never within a response."""
        if len(self.kept) >= _MAX_KEPT:
            self.kept.clear()
        self._encoder.age()
