"""Header blocks: HPACK, read with the peer's table, written without one of our own.

Source: RFC 7541. A decoder keeps what its owner made of a field (`digest`), not the field: a header that a client sends again
as one byte is neither split, checked nor named again. The encoder writes literals alone (and what the static table has), so the
same line is the same bytes on every connection, and lines and blocks of them can be kept.

Absent: Huffman coding of what we write, and a table of ours: both save bytes on the wire and cost time at every request.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from nexus_wire.http1.fields import is_secret
from nexus_wire.http2 import huffman
from nexus_wire.http2.frames import Code, ConnectionBroken

T = TypeVar("T")

DEFAULT_TABLE = 4096
_OVERHEAD = 32
"""Bytes that a table's entry counts beside its name and value (RFC 7541 section 4.1)."""
_MAX_FIELDS = 1024
"""Fields of one block; a block that holds more is an attack: a byte of it can stand for four kilobytes."""
_MAX_INTEGER = 1 << 28
STATIC: tuple[tuple[bytes, bytes], ...] = (
    (b":authority", b""), (b":method", b"GET"), (b":method", b"POST"), (b":path", b"/"), (b":path", b"/index.html"),
    (b":scheme", b"http"), (b":scheme", b"https"), (b":status", b"200"), (b":status", b"204"), (b":status", b"206"),
    (b":status", b"304"), (b":status", b"400"), (b":status", b"404"), (b":status", b"500"), (b"accept-charset", b""),
    (b"accept-encoding", b"gzip, deflate"), (b"accept-language", b""), (b"accept-ranges", b""), (b"accept", b""),
    (b"access-control-allow-origin", b""), (b"age", b""), (b"allow", b""), (b"authorization", b""), (b"cache-control", b""),
    (b"content-disposition", b""), (b"content-encoding", b""), (b"content-language", b""), (b"content-length", b""),
    (b"content-location", b""), (b"content-range", b""), (b"content-type", b""), (b"cookie", b""), (b"date", b""),
    (b"etag", b""), (b"expect", b""), (b"expires", b""), (b"from", b""), (b"host", b""), (b"if-match", b""),
    (b"if-modified-since", b""), (b"if-none-match", b""), (b"if-range", b""), (b"if-unmodified-since", b""),
    (b"last-modified", b""), (b"link", b""), (b"location", b""), (b"max-forwards", b""), (b"proxy-authenticate", b""),
    (b"proxy-authorization", b""), (b"range", b""), (b"referer", b""), (b"refresh", b""), (b"retry-after", b""),
    (b"server", b""), (b"set-cookie", b""), (b"strict-transport-security", b""), (b"transfer-encoding", b""),
    (b"user-agent", b""), (b"vary", b""), (b"via", b""), (b"www-authenticate", b""),
)  # fmt: skip
"""The static table (appendix A); its first entry has index 1."""
_NAMES: tuple[tuple[bytes, int], ...] = (
    (b"", 0),
    *((name, _OVERHEAD + len(name) + len(value)) for name, value in STATIC),
)
_STATIC_NAMES = {name: index for index, (name, _) in reversed(list(enumerate(STATIC, 1)))}
_STATIC_FIELDS = {field: bytes((0x80 | index,)) for index, field in enumerate(STATIC, 1) if field[1]}
_FIRST_OWN = len(STATIC) + 1
"""Index of a connection's own newest entry."""
EMPTY_TABLE = b"\x20"
"""Before a block's first field: our encoder's table, which was never used, holds nothing from now on. Needed once when the peer
allows less than `DEFAULT_TABLE` (RFC 7541 section 4.2)."""

CONNECTION_SPECIFIC = frozenset({b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"})
"""Header names that HTTP/2 does not know (RFC 9113 section 8.2.2)."""


def _broken(detail: str) -> ConnectionBroken:
    return ConnectionBroken(Code.COMPRESSION_ERROR, detail)


def pair(name: bytes, value: bytes) -> tuple[bytes, bytes]:
    """The plainest digest: the field as it is."""
    return name, value


class Statics(Generic[T]):
    """The static table as a digest makes it. Made once, shared by all decoders that have the same digest."""

    __slots__ = ("digest", "table")

    def __init__(self, digest: Callable[[bytes, bytes], T]) -> None:
        """digest: name, value → what `decode` returns for the field. Its result is kept while the peer's table has the field, and
        nothing it raises is expected: a field that is refused still belongs to the table."""
        self.digest = digest
        self.table: list[T] = [digest(b"", b""), *(digest(name, value) for name, value in STATIC)]


Entries = list[tuple[bytes, int, T]]
"""Names, sizes and digests of what a block put in the table, in order."""


class Decoder(Generic[T]):
    """Reads the header blocks of one connection, all of them, in the order they come.

    neutral: whether the last block left the table as it was, and holds nothing that its sender wants never to be kept: until a
    block that is not, the same bytes mean the same fields. lasting: whether it refers to nothing in the table, and holds no such
    thing: the same bytes mean the same fields for ever, if `again` is told of those that are not decoded anew. entered: what it put
    in the table.
    """

    __slots__ = (
        "_allowed",
        "_digest",
        "_late",
        "_limit",
        "_most_late",
        "_names",
        "_size",
        "_table",
        "entered",
        "lasting",
        "neutral",
    )

    def __init__(self, statics: Statics[T], table_bytes: int = DEFAULT_TABLE) -> None:
        """table_bytes: what our SETTINGS_HEADER_TABLE_SIZE says."""
        self._digest = statics.digest
        # Newest first, behind the static ones: an index of the wire is an index here.
        self._table: list[T] = statics.table.copy()
        self._names: list[tuple[bytes, int]] = list(_NAMES)
        self._size = 0
        self._allowed = self._limit = table_bytes
        self._most_late = table_bytes // _OVERHEAD + 1
        self._late: list[Entries[T]] = []
        self.entered: Entries[T] = []
        self.neutral = self.lasting = True

    def decode(self, block: bytes) -> list[T]:
        """Return a whole block's fields, digested, in order. Raises `ConnectionBroken`: the table is not the peer's any more."""
        if self._late:
            self._catch_up()
        table, names, digest = self._table, self._names, self._digest
        fields: list[T] = []
        entered: Entries[T] = []
        append = fields.append
        at = 0
        size = len(block)
        neutral = lasting = True
        try:
            while at < size:
                byte = block[at]
                at += 1
                if byte > 0x80:
                    if byte < 0xFF:
                        append(table[byte & 0x7F])
                        if byte >= _FIRST_OWN | 0x80:
                            lasting = False
                        continue
                    lasting = False
                    index, at = _integer(block, at, 0x7F)
                    append(table[index])
                elif byte >= 0x40 or byte < 0x20:
                    if byte >= 0x40:
                        if byte == 0x80:
                            raise _broken("A field has index 0.")
                        index, most = byte & 0x3F, 0x3F
                        neutral = False
                    else:
                        index, most = byte & 0x0F, 0x0F
                        if byte >= 0x10:
                            neutral = lasting = False
                    if index:
                        if index == most:
                            index, at = _integer(block, at, most)
                        if index >= _FIRST_OWN:
                            lasting = False
                        name = names[index][0]
                    else:
                        name, at = _string(block, at)
                    # `_string` in place: a value is in every literal.
                    length = block[at]
                    at += 1
                    coded = length >= 0x80
                    length &= 0x7F
                    if length == 0x7F:
                        length, at = _integer(block, at, length)
                    end = at + length
                    if end > size:
                        raise IndexError
                    value = block[at:end]
                    at = end
                    if coded:
                        value = huffman.decode(value)
                    digested = digest(name, value)
                    append(digested)
                    if byte >= 0x40:
                        entry = name, _OVERHEAD + len(name) + len(value), digested
                        self._enter(*entry)
                        entered.append(entry)
                else:
                    if fields:
                        raise _broken("The table's size changes behind a field.")
                    limit, at = _integer(block, at, 0x1F) if byte == 0x3F else (byte & 0x1F, at)
                    if limit > self._allowed:
                        raise _broken("The table's size is larger than allowed.")
                    self._limit = limit
                    self._evict(limit)
                    neutral = lasting = False
        except IndexError:
            raise _broken("A header block ends within a field, or names one that the table does not have.") from None
        except huffman.BadHuffman:
            raise _broken("A string is not Huffman-coded as it says.") from None
        self.neutral, self.lasting, self.entered = neutral, lasting, entered
        if len(fields) > _MAX_FIELDS:
            raise ConnectionBroken(Code.ENHANCE_YOUR_CALM, "A header block holds too many fields.")
        return fields

    def again(self, entered: Entries[T]) -> None:
        """A lasting block came again, and was not decoded. entered: by it, when it was; not empty.

        Peers that make each block anew use their table for nothing: what it would hold is looked at when a block asks for it.
        """
        late = self._late
        late.append(entered)
        if len(late) >= 2 * self._most_late:
            # The last ones alone fill the table: no entry is smaller than `_OVERHEAD`.
            del late[: -self._most_late]

    def _catch_up(self) -> None:
        late, self._late = self._late, []
        for entries in late[-self._most_late :]:
            for entry in entries:
                self._enter(*entry)

    def _enter(self, name: bytes, size: int, digested: T) -> None:
        """Put a field in the table, if it fits; what it pushes out is lost. size: as the table counts it."""
        if self._size + size > self._limit:
            self._evict(self._limit - size)
        if size <= self._limit:
            self._table.insert(_FIRST_OWN, digested)
            self._names.insert(_FIRST_OWN, (name, size))
            self._size += size

    def _evict(self, most: int) -> None:
        """Let the oldest entries go until the others take no more than `most` bytes."""
        names = self._names
        while self._size > most and self._size:
            self._size -= names.pop()[1]
            self._table.pop()


def _integer(block: bytes, at: int, prefix: int) -> tuple[int, int]:
    """Return the number that goes on at `at`, and where it ends. prefix: what the first byte had of it. Raises IndexError."""
    shift = 0
    value = prefix
    while True:
        byte = block[at]
        at += 1
        value += (byte & 0x7F) << shift
        if value > _MAX_INTEGER or shift > 28:
            raise _broken("A number is too large.")
        if byte < 0x80:
            return value, at
        shift += 7


def _string(block: bytes, at: int) -> tuple[bytes, int]:
    """Return the string that begins at `at`, and where it ends. Raises IndexError and `BadHuffman`."""
    byte = block[at]
    at += 1
    length = byte & 0x7F
    if length == 0x7F:
        length, at = _integer(block, at, length)
    end = at + length
    if end > len(block):
        raise IndexError
    return (huffman.decode(block[at:end]) if byte >= 0x80 else block[at:end]), end


PAIRS = Statics(pair)


def decoder(table_bytes: int = DEFAULT_TABLE) -> Decoder[tuple[bytes, bytes]]:
    """Return a decoder of plain `(name, value)` fields."""
    return Decoder(PAIRS, table_bytes)


# ---- writing


def _number(value: int, prefix: int, first: int) -> bytes:
    """Return a number behind the high bits `first`. prefix: the largest one that fits in the first byte."""
    if value < prefix:
        return bytes((first | value,))
    written = bytearray((first | prefix,))
    value -= prefix
    while value >= 0x80:
        written.append(value & 0x7F | 0x80)
        value >>= 7
    written.append(value)
    return bytes(written)


def field(name: bytes, value: bytes) -> bytes:
    """Return one field: indexed in the static table, or a literal that enters no table; a secret says so. name: lower-case."""
    known = _STATIC_FIELDS.get((name, value))
    if known is not None:
        return known
    first = 0x10 if is_secret(name) else 0x00
    index = _STATIC_NAMES.get(name)
    named = _number(index, 0x0F, first) if index else bytes((first,)) + _number(len(name), 0x7F, 0) + name
    return b"%b%b%b" % (named, _number(len(value), 0x7F, 0), value)


class Encoder:
    """Turns header lines as HTTP/1.1 has them into fields. One for all connections: what it keeps is never a secret."""

    __slots__ = ("_fields", "_max_kept", "_max_line")

    def __init__(self, *, max_kept: int = 4096, max_line: int = 256) -> None:
        """max_kept: lines remembered until the next `age`. max_line: bytes of the longest one remembered."""
        self._fields: dict[bytes, bytes] = {}
        self._max_kept = max_kept
        self._max_line = max_line

    def line(self, line: bytes) -> bytes:
        """Return the field of one checked line, without CRLF; nothing for what only HTTP/1.1 says, Host among it."""
        found = self._fields.get(line)
        return found if found is not None else self._encode(line)[0]

    def lines(self, lines: bytes) -> bytes:
        """Return the fields of checked lines, each with its CRLF."""
        return self.block(lines)[0]

    def block(self, lines: bytes) -> tuple[bytes, bool]:
        """Return the fields of checked lines, each with its CRLF, and whether they may be kept: none holds a secret."""
        get = self._fields.get
        fields = []
        keep = True
        for line in lines.split(b"\r\n"):
            if not line:
                continue
            found = get(line)
            if found is None:
                found, plain = self._encode(line)
                keep = keep and plain
            fields.append(found)
        return b"".join(fields), keep

    def _encode(self, line: bytes) -> tuple[bytes, bool]:
        raw_name, _, value = line.partition(b":")
        name = raw_name.lower()
        plain = not is_secret(name)
        encoded = b"" if name in CONNECTION_SPECIFIC or name == b"host" else field(name, value.strip(b" \t"))
        if plain and len(line) <= self._max_line and len(self._fields) < self._max_kept:
            self._fields[line] = encoded
        return encoded, plain

    def age(self) -> None:
        """Begin anew when full. Called once in a while, never within a message."""
        if len(self._fields) >= self._max_kept:
            self._fields.clear()
