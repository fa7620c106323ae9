"""What a TLS client asks for, read from the first bytes of its connection: the server's name (SNI), protocols (ALPN), versions.

No I/O, no cryptography: the bytes are only looked at, so that they can go on as they came. What a ClientHello's extensions mean
beyond these three is for whoever answers it; unknown ones (GREASE, RFC 8701, among them) are stepped over.
Sources: RFC 8446 sections 4.1.2, 4.2.1 and 5.1; RFC 6066 section 3; RFC 7301 section 3.1.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final, Literal

MAX_BYTES = 2**14
"""A ClientHello of more bytes, record headers included, is refused: those of browsers with post-quantum keys take 2 KB."""

MAX_RECORDS = 64
"""Of so many records at most. Each is looked at again whenever more bytes come, so that a client that sends a byte in each, one at
a time, would otherwise cost millions of steps. Clients send one or two."""

MAX_NAME = 255
"""Bytes of a server name; those of DNS have no more (RFC 1035 section 2.3.4)."""

_RECORD_HEADER = 5
_HANDSHAKE = 22
_CLIENT_HELLO = 1
_SERVER_NAME, _ALPN, _SUPPORTED_VERSIONS = 0, 16, 43
_PRINTABLE = frozenset(range(0x21, 0x7F))


class NeedMore(enum.Enum):
    """The type of `NEED_MORE`."""

    NEED_MORE = "need-more"


NEED_MORE: Final = NeedMore.NEED_MORE
"""So far it is the beginning of a ClientHello."""


@dataclass(frozen=True, slots=True)
class Hello:
    """What a client asks for.

    server_name: lower-case, without a dot at its end; empty when the client names none. alpn: in the client's order; empty
    without ALPN. versions: of `supported_versions`, as numbers on the wire (0x0304 is TLS 1.3), GREASE included; empty when the
    client sends none. legacy_version: of the ClientHello itself, which is all that clients up to TLS 1.2 have.
    """

    server_name: str
    alpn: tuple[bytes, ...] = ()
    versions: tuple[int, ...] = ()
    legacy_version: int = 0x0303


@dataclass(frozen=True, slots=True)
class NotTls:
    """Whatever comes will not make these bytes a ClientHello. why: for the log.

    speaks_tls: it began as one, so that a TLS alert says something to the client.
    """

    why: str
    speaks_tls: bool = False


class _Broken(Exception):
    """The message is complete and malformed."""


def parse(data: bytes | bytearray | memoryview) -> Hello | Literal[NeedMore.NEED_MORE] | NotTls:
    """Return what the ClientHello at the beginning of `data` asks for.

    data: all bytes of the connection so far; not kept. What follows the ClientHello is not looked at.
    `NEED_MORE` is never the answer to `MAX_BYTES` bytes or more. Never raises. Cost: some 20 µs for a client's with 500 bytes.
    """
    message = _join(memoryview(data))
    if not isinstance(message, memoryview):
        return message
    try:
        return _read(message)
    except _Broken as error:
        return NotTls(str(error), speaks_tls=True)


def _join(data: memoryview) -> memoryview | Literal[NeedMore.NEED_MORE] | NotTls:
    """Take the handshake message's body out of its records."""
    parts: list[memoryview] = []
    have, want, at = 0, 4, 0
    for _ in range(MAX_RECORDS):
        header = data[at : at + _RECORD_HEADER]
        wrong = _refuse_header(header)
        if wrong:
            return NotTls(wrong, speaks_tls=at > 0)
        if len(header) < _RECORD_HEADER:
            return _more(data)
        size = header[3] << 8 | header[4]
        part = data[at + _RECORD_HEADER : at + _RECORD_HEADER + size]
        at += _RECORD_HEADER + size
        if part:
            parts.append(part)
            have += len(part)
        if have and parts[0][0] != _CLIENT_HELLO:
            return NotTls("the first handshake message is no ClientHello")
        if have >= 4 and want == 4:
            first = parts[0] if len(parts[0]) >= 4 else b"".join(parts)
            want = 4 + (first[1] << 16 | first[2] << 8 | first[3])
            if want > MAX_BYTES - _RECORD_HEADER:
                return NotTls(f"a ClientHello of {want} bytes; {MAX_BYTES} at most", speaks_tls=True)
        if have >= want > 4:
            whole = parts[0] if len(parts) == 1 else memoryview(b"".join(parts))
            return whole[4:want]
        if have >= want:
            return NotTls("an empty ClientHello", speaks_tls=True)
        if len(part) < size:
            return _more(data)
    return NotTls(f"a ClientHello in more than {MAX_RECORDS} records", speaks_tls=True)


def _more(data: memoryview) -> Literal[NeedMore.NEED_MORE] | NotTls:
    if len(data) >= MAX_BYTES:
        return NotTls(f"no whole ClientHello in {MAX_BYTES} bytes", speaks_tls=True)
    return NEED_MORE


def _refuse_header(header: memoryview) -> str:
    """Return what is wrong with a record's header, as far as it is there; empty for nothing."""
    known = len(header)
    if known > 0 and header[0] != _HANDSHAKE:
        return f"the first byte of a record is 0x{header[0]:02x}, not a handshake's 0x16"
    if known > 1 and header[1] != 3:
        return f"a record of version {header[1]}.x"
    if known > 4:
        size = header[3] << 8 | header[4]
        if not size:
            return "an empty handshake record"  # RFC 8446 section 5.1
        if size > 2**14:
            return f"a record of {size} bytes"
    return ""


class _Fields:
    """Reads a message from its beginning. Whatever is not there is `_Broken`."""

    __slots__ = ("_at", "_data")

    def __init__(self, data: memoryview) -> None:
        self._data = data
        self._at = 0

    @property
    def left(self) -> int:
        return len(self._data) - self._at

    def take(self, size: int) -> memoryview:
        if size > self.left:
            raise _Broken(f"the ClientHello ends {size - self.left} bytes too early")
        self._at += size
        return self._data[self._at - size : self._at]

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def vector(self, prefix: int) -> memoryview:
        """Take what a length of `prefix` bytes is in front of."""
        return self.take(self.number(prefix))


def _read(message: memoryview) -> Hello:
    fields = _Fields(message)
    legacy_version = fields.number(2)
    if legacy_version >> 8 != 3:
        raise _Broken(f"a ClientHello of version 0x{legacy_version:04x}")
    fields.take(32)  # random
    if len(fields.vector(1)) > 32:
        raise _Broken("a session id of more than 32 bytes")
    ciphers = fields.vector(2)
    if not ciphers or len(ciphers) % 2:
        raise _Broken("no list of cipher suites")
    if not fields.vector(1):
        raise _Broken("no compression methods")
    name, alpn, versions = "", (), ()  # type: str, tuple[bytes, ...], tuple[int, ...]
    if fields.left:
        extensions = _Fields(fields.vector(2))
        if fields.left:
            raise _Broken("bytes after the extensions")
        seen: set[int] = set()
        while extensions.left:
            kind = extensions.number(2)
            content = extensions.vector(2)
            if kind in seen:
                raise _Broken(f"extension {kind} twice")  # RFC 8446 section 4.2
            seen.add(kind)
            if kind == _SERVER_NAME:
                name = _server_name(content)
            elif kind == _ALPN:
                alpn = _protocols(content)
            elif kind == _SUPPORTED_VERSIONS:
                versions = _versions(content)
    return Hello(name, alpn, versions, legacy_version)


def _only(content: memoryview, prefix: int) -> _Fields:
    """Return the one vector that an extension consists of."""
    fields = _Fields(content)
    inner = fields.vector(prefix)
    if fields.left or not inner:
        raise _Broken("an extension whose length is not that of its list")
    return _Fields(inner)


def _server_name(content: memoryview) -> str:
    entries = _only(content, 2)
    found = ""
    while entries.left:
        kind = entries.number(1)
        raw = bytes(entries.vector(2))
        if kind != 0:
            continue
        if found:
            raise _Broken("two server names")
        if not raw or len(raw) > MAX_NAME or not _PRINTABLE.issuperset(raw):
            raise _Broken("a server name that is none")
        # RFC 6066 has no dot at the end; some clients send it all the same, and mean the same name.
        found = raw.decode("ascii").lower().removesuffix(".")
    return found


def _protocols(content: memoryview) -> tuple[bytes, ...]:
    entries = _only(content, 2)
    found = []
    while entries.left:
        name = bytes(entries.vector(1))
        if not name:
            raise _Broken("an empty protocol name")
        found.append(name)
    return tuple(found)


def _versions(content: memoryview) -> tuple[int, ...]:
    entries = _only(content, 1)
    if entries.left % 2:
        raise _Broken("half a version")
    found = []
    while entries.left:
        found.append(entries.number(2))
    return tuple(found)
