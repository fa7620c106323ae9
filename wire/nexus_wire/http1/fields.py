"""Header lines: every byte checked, names known, lines that repeat kept.

Source: RFC 9110 section 5, RFC 9112 section 5. Stricter than both: no underscores in names (many servers fold `x_a` and `x-a`
into one), no empty names, no whitespace around names, no line folding, no bare CR or LF, no control characters.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from nexus_wire.http1.refusals import Refused

TOKEN = b"!#$%&'*+-.^`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
"""Bytes of a header name: RFC 9110's tchar without the underscore."""
_TEXT = bytes(byte for byte in range(256) if byte == 9 or 32 <= byte < 127 or byte > 127)
SECRET = frozenset(
    {b"authorization", b"cookie", b"set-cookie", b"proxy-authorization", b"x-api-key", b"api-key", b"x-auth-token",
     b"x-csrf-token", b"x-amz-security-token", b"x-nexus-debug"}
)  # fmt: skip
"""Headers whose values are never kept in a cache."""
MAX_CACHED = 4096
MAX_CACHED_LINE = 256
MAX_CACHED_BLOCK = 1024
_MAX_NAMES = 2048
_MAX_MISSES = 256

Refuse = Callable[[str], Refused]


class Field(NamedTuple):
    """One header line. kind: what its name means to the block's reader. name: lower-case. value: without blanks around it.
    line: as it goes on, with CRLF."""

    kind: int
    name: bytes
    value: bytes
    line: bytes


class Fields:
    """Reads header blocks line by line, and remembers lines that come again. One for requests, one for responses."""

    __slots__ = ("_kind_of", "_max_headers", "_misses", "_names", "_refuse", "_refuse_many", "_token", "lines")

    def __init__(
        self,
        kind_of: Callable[[bytes], int],
        max_headers: int,
        refuse: Refuse,
        refuse_many: Callable[[], Refused],
        *,
        underscores: bool = False,
    ) -> None:
        """kind_of: lower-case name → kind. refuse, refuse_many: make the refusal of a broken block, and of too many lines.
        underscores: whether names may hold them; in responses nobody is misled."""
        self._token = TOKEN + b"_" if underscores else TOKEN
        self.lines: dict[bytes, Field] = {}
        self._names: dict[bytes, tuple[int, bytes]] = {}
        self._misses: dict[bytes, int] = {}
        self._kind_of = kind_of
        self._max_headers = max_headers
        self._refuse = refuse
        self._refuse_many = refuse_many

    def split(self, block: bytes) -> list[bytes]:
        """Return the lines of a block whose bytes are all legal. Raises `Refused`."""
        if not block:
            return []
        found = block.split(b"\r\n")
        breaks = len(found) - 1
        if breaks >= self._max_headers:
            raise self._refuse_many()
        # What is left when all legal bytes are taken out must be the line breaks: one pass finds control characters, NUL, bare CR
        # and bare LF alike.
        if block.translate(None, _TEXT) != b"\r\n" * breaks:
            raise self._refuse("A header holds a control character or a bare line break.")
        return found

    def read(self, line: bytes) -> Field:
        """Return a line that `split` checked. Raises `Refused`."""
        name, colon, value = line.partition(b":")
        known = self._names.get(name)
        if known is None:
            known = self._name(name, colon)
        kind, low = known
        field = Field(kind, low, value.strip(b" \t"), line + b"\r\n")
        # A name whose lines keep being new ones is not remembered any more: ids and dates would push everything else out.
        if len(line) <= MAX_CACHED_LINE and low not in SECRET and len(self.lines) < MAX_CACHED:
            missed = self._misses.get(low, 0)
            if missed < _MAX_MISSES:
                self._misses[low] = missed + 1
                self.lines[line] = field
        return field

    def _name(self, name: bytes, colon: bytes) -> tuple[int, bytes]:
        if not colon:
            raise self._refuse("A header line has no colon.")
        if not name or name.translate(None, self._token):
            if name[:1] in (b" ", b"\t"):
                raise self._refuse("A header is folded over several lines.")
            raise self._refuse("A header's name is empty or holds a character that is not allowed there.")
        low = name.lower()
        known = (self._kind_of(low), low)
        if len(self._names) < _MAX_NAMES and len(name) <= 64:
            self._names[name] = known
        return known

    def age(self) -> None:
        """Begin anew where a cache is full. Called now and then: evicting on the hot path would cost more than a miss."""
        if len(self.lines) >= MAX_CACHED:
            self.lines.clear()
        if len(self._names) >= _MAX_NAMES:
            self._names.clear()
        self._misses.clear()


def text(value: bytes) -> str:
    """Return a header's value as text: UTF-8, else ISO-8859-1, which HTTP once meant."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


def tokens(value: bytes) -> list[bytes]:
    """Return the lower-case elements of a comma-separated list, empty ones left out."""
    return [token for part in value.lower().split(b",") if (token := part.strip(b" \t"))]
