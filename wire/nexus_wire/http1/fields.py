"""Header lines: every byte checked, names known, lines that repeat kept.

Source: RFC 9110 section 5, RFC 9112 section 5. Stricter than both: no underscores in request names (many servers fold `x_a`
and `x-a` into one), no empty names, no whitespace around names, no line folding, no bare CR or LF, no control characters.

Nothing unchecked enters a cache, nor does the value of a header that holds a secret. Caches only grow: what is full takes no more
until `age`, because evicting within a request costs more than a miss.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from nexus_wire.http1.refusals import Refused

TOKEN = b"!#$%&'*+-.^`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
"""Bytes of a header name: RFC 9110's tchar without the underscore."""
TEXT = bytes(byte for byte in range(256) if byte == 9 or 32 <= byte < 127 or byte > 127)
"""Bytes that may stand in a header line: visible ones, blanks, and what is beyond ASCII."""
SECRET = frozenset(
    {b"authorization", b"cookie", b"set-cookie", b"proxy-authorization", b"authentication-info", b"x-api-key", b"api-key",
     b"apikey", b"x-auth-token", b"x-access-token", b"x-csrf-token", b"x-xsrf-token", b"x-amz-security-token",
     b"x-goog-api-key", b"x-vault-token", b"x-forwarded-access-token", b"x-nexus-debug"}
)  # fmt: skip
"""Headers whose values are never kept in a cache. Other names that speak of secrets are held back by `is_secret`."""
_SECRET_WORDS = (
    b"secret",
    b"token",
    b"password",
    b"passwd",
    b"api-key",
    b"apikey",
    b"signature",
    b"credential",
    b"session",
)
MAX_CACHED = 4096
MAX_CACHED_LINE = 256
MAX_CACHED_BLOCK = 1024
FORWARD = 0
"""The kind of a header that passes on as it is. All other kinds are the readers' own numbers above it."""
_MAX_NAMES = 2048
_MAX_NAME = 64
_MAX_MISSES = 256
_CRLFS = [b"\r\n" * count for count in range(257)]

Field = tuple[int, bytes, bytes]
"""One header line: what its name means to the reader; the name, lower-case; the value, without blanks around it."""
Refuse = Callable[[str], Refused]


def is_secret(name: bytes) -> bool:
    """Return whether a header's value is kept out of all caches. name: lower-case."""
    return name in SECRET or any(word in name for word in _SECRET_WORDS)


class _Name:
    """A header name met before. kind: of its lines. low: lower-case. left: lines that may still be remembered until the next
    `age`: none of a name that holds a secret."""

    __slots__ = ("kind", "left", "low", "room")

    def __init__(self, kind: int, low: bytes, room: int) -> None:
        self.kind = kind
        self.low = low
        self.room = self.left = room


class Fields:
    """Reads the header lines of one kind of message, and remembers those that come again.

    plain: checked lines that pass on as they are. special: checked lines that mean something to the reader. names: names met before,
    as sent. The readers probe all three themselves, since a call for each line would be dearer than the probe.
    """

    __slots__ = ("_kind_of", "_max_headers", "_refuse", "_refuse_many", "_token", "names", "plain", "special")

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
        self.plain: set[bytes] = set()
        self.special: dict[bytes, Field] = {}
        self.names: dict[bytes, _Name] = {}
        self._kind_of = kind_of
        self._max_headers = max_headers
        self._refuse = refuse
        self._refuse_many = refuse_many

    def split(self, block: bytes) -> list[bytes]:
        """Return the lines of a block, not too many of them; their bytes are for `check` to look at. Raises `Refused`."""
        if not block:
            return []
        lines = block.split(b"\r\n")
        if len(lines) > self._max_headers:
            raise self._refuse_many()
        return lines

    def check(self, block: bytes, breaks: int) -> None:
        """Look at each byte of a block that holds a line not met before. breaks: CRLFs in it. Raises `Refused`.

        What is left when all legal bytes are taken out must be the line breaks: one pass in C finds control characters, NUL,
        bare CR and bare LF alike.
        """
        found = block.translate(None, TEXT)
        if found != (_CRLFS[breaks] if breaks < 257 else b"\r\n" * breaks):
            raise self._refuse("A header holds a control character or a bare line break.")

    def read(self, line: bytes) -> tuple[int, bytes, bytes, bool]:
        """Return a line of a checked block: kind, lower-case name, value, and whether it is remembered. Raises `Refused`."""
        raw_name, colon, value = line.partition(b":")
        name = self.names.get(raw_name) or self._name(raw_name, colon)
        kind = name.kind
        low = name.low
        value = value.strip(b" \t")
        # A name whose lines keep being new ones is not remembered any more: ids and dates would push everything else out.
        if name.left > 0 and len(line) <= MAX_CACHED_LINE:
            name.left -= 1
            if kind:
                if len(self.special) < MAX_CACHED:
                    self.special[line] = (kind, low, value)
                    return kind, low, value, True
            elif len(self.plain) < MAX_CACHED:
                self.plain.add(line)
                return kind, low, value, True
        return kind, low, value, False

    def _name(self, name: bytes, colon: bytes) -> _Name:
        if name[:1] in (b" ", b"\t"):
            raise self._refuse("A header is folded over several lines.")
        if not colon:
            raise self._refuse("A header line has no colon.")
        if not name or name.translate(None, self._token):
            raise self._refuse("A header's name is empty or holds a character that is not allowed there.")
        low = name.lower()
        known = _Name(self._kind_of(low), low, 0 if is_secret(low) else _MAX_MISSES)
        if len(self.names) < _MAX_NAMES and len(name) <= _MAX_NAME:
            self.names[name] = known
        return known

    def age(self) -> None:
        """Begin anew where a cache is full, and let every name be remembered again."""
        if len(self.plain) >= MAX_CACHED:
            self.plain.clear()
        if len(self.special) >= MAX_CACHED:
            self.special.clear()
        if len(self.names) >= _MAX_NAMES:
            self.names.clear()
        for name in self.names.values():
            name.left = name.room


def text_lines(block: bytes) -> list[str]:
    """Return the lines of a checked block as text: UTF-8, or else ISO-8859-1, which HTTP once meant."""
    if not block:
        return []
    try:
        return block.decode().split("\r\n")
    except UnicodeDecodeError:
        return [text(line) for line in block.split(b"\r\n")]


def pairs(block: bytes) -> Iterator[tuple[str, str]]:
    """Yield the headers of a checked block in wire order: lower-case name, and value."""
    for line in text_lines(block):
        name, _, value = line.partition(":")
        yield name.lower(), value.strip(" \t")


def text(line: bytes) -> str:
    """Return a line, or a part of one, as text: UTF-8, or else ISO-8859-1."""
    try:
        return line.decode()
    except UnicodeDecodeError:
        return line.decode("latin-1")


def tokens(value: bytes) -> list[bytes]:
    """Return the lower-case elements of a comma-separated list, empty ones left out."""
    return [token for part in value.lower().split(b",") if (token := part.strip(b" \t"))]


def without(lines: list[bytes], names: frozenset[bytes]) -> list[bytes]:
    """Return the header lines whose lower-case names are not among `names`."""
    return [line for line in lines if line.partition(b":")[0].lower() not in names]
