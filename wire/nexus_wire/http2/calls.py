"""The client's side of heads: requests of HTTP/1.1's shape become header blocks, and header blocks become responses of its shape.

What comes again is kept as it was made: fields of request lines, response blocks by their lines. Secrets never are.
"""

from __future__ import annotations

from http import HTTPStatus

from nexus_wire.http1.fields import MAX_CACHED, MAX_CACHED_LINE, TEXT, is_secret
from nexus_wire.http1.refusals import bad_response
from nexus_wire.http1.responses import ResponseBlock, ResponseParser, StatusLine
from nexus_wire.http2.hpack import CONNECTION_SPECIFIC, Statics, field

_LOWER = b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz"
_NOT_SENT = CONNECTION_SPECIFIC | {b"te", b"http2-settings"}
_UNIQUE = {name: field(name, b"")[:-1] for name in (b"x-request-id", b"traceparent")}
"""Names whose values never come again, as the beginning of a field."""
_TELLS_APART = b"\r\nx-request-id: "
_ID_BYTES = len(_TELLS_APART) - 2
_ID = _UNIQUE[b"x-request-id"]
_TRACE = b"traceparent: "
_TRACE_BYTES = len(_TRACE) + 55
_TRACE_FIELD = _UNIQUE[b"traceparent"] + bytes((55,))
"""A trace context's only length (W3C Trace Context section 3.2)."""
_MAX_BEGINNING = 1024
_TRAILERS = field(b"te", b"trailers")
_MAX_SHORT = 127
"""Lengths below this are one byte."""
_NO_LENGTH, _CHUNKED = 0, -1
_BROKEN = b"\x00"
"""In place of a field that no response may have; the parser refuses it, wherever it stands."""
_STATUS = b":status: "


class Calls:
    """Header blocks of requests to one scheme. They use no table of the peer's, so that all connections share them."""

    __slots__ = ("_beginnings", "_fields", "_hosts", "_lengths", "_scheme")

    def __init__(self, scheme: bytes) -> None:
        self._scheme = field(b":scheme", scheme)
        self._fields: dict[bytes, bytes] = {}
        self._hosts: dict[bytes, bytes] = {}
        self._lengths: dict[bytes, tuple[int, bytes]] = {}
        # Heads up to the first line that is never the same.
        self._beginnings: dict[bytes, tuple[bytes, int]] = {}

    def encode(self, head: bytes) -> tuple[bytes, int]:
        """Return the header block of a request, and the length of its body: -1 chunk-framed, 0 none, or not said.

        head: request line and header lines, checked, without the CRLFs at its end. What speaks of one HTTP/1.1 connection is left out;
        gRPC is told that trailers are taken.
        """
        at = head.find(_TELLS_APART)
        if at > 0:
            found = self._beginnings.get(head[:at])
            if found is not None:
                # What the gateway's own heads end with: the id, and a trace context.
                own, _, trace = head[at + 2 :].partition(b"\r\n")
                size = len(own) - _ID_BYTES
                if len(trace) == _TRACE_BYTES and size < _MAX_SHORT and trace.startswith(_TRACE) and b"\r" not in trace:
                    return b"%b%b%c%b%b%b" % (
                        found[0],
                        _ID,
                        size,
                        own[_ID_BYTES:],
                        _TRACE_FIELD,
                        trace[len(_TRACE) :],
                    ), found[1]
                fields = [found[0]]
                for line in head[at + 2 :].split(b"\r\n"):
                    name, _, value = line.partition(b": ")
                    prefix = _UNIQUE.get(name)
                    if prefix is None or len(value) >= _MAX_SHORT:
                        break
                    fields.append(b"%b%c%b" % (prefix, len(value), value))
                else:
                    return b"".join(fields), found[1]
        lines = head.split(b"\r\n")
        start = lines[0]
        first = self._fields.get(start)
        fields = [first or self._start(start), b""]
        behind = len(lines) if at < 0 else head.count(b"\r\n", 0, at) + 1
        length, known = self._add(lines[1:behind], fields, _NO_LENGTH)
        if at >= 0:
            if known and first is not None and at <= _MAX_BEGINNING and len(self._beginnings) < MAX_CACHED:
                # It came before, each line of it, and so holds no secret.
                self._beginnings[head[:at]] = b"".join(fields), length
            length, _ = self._add(lines[behind:], fields, length)
        return b"".join(fields), length

    def _add(self, lines: list[bytes], fields: list[bytes], length: int) -> tuple[int, bool]:
        """Add the fields of lines; fields[1] is the authority's place. Return the body's length as far as it is known, and whether
        each line came before."""
        get = self._fields.get
        append = fields.append
        known = True
        for line in lines:
            found = get(line)
            if found is not None:
                append(found)
                continue
            name, _, value = line.partition(b": ")
            prefix = _UNIQUE.get(name)
            if prefix is not None and len(value) < _MAX_SHORT:
                append(b"%b%c%b" % (prefix, len(value), value))
                known = False
                continue
            host = self._hosts.get(line)
            if host is not None:
                fields[1] = host
                continue
            sized = self._lengths.get(line)
            if sized is not None:
                length, found = sized
                append(found)
                continue
            known = False
            length, found = self._new(line, length, fields)
            append(found)
        return length, known

    def _start(self, line: bytes) -> bytes:
        method, _, rest = line.partition(b" ")
        path = rest.rpartition(b" ")[0]
        found = b"".join((field(b":method", method), self._scheme, field(b":path", path)))
        self._keep(line, found)
        return found

    def _new(self, line: bytes, length: int, fields: list[bytes]) -> tuple[int, bytes]:
        raw_name, _, value = line.partition(b":")
        name, value = raw_name.lower(), value.strip(b" \t")
        if name == b"host":
            fields[1] = found = field(b":authority", value)
            if len(self._hosts) < MAX_CACHED and len(line) <= MAX_CACHED_LINE:
                self._hosts[line] = found
            return length, b""
        if name == b"content-length":
            found = field(name, value)
            if len(self._lengths) < MAX_CACHED:
                self._lengths[line] = int(value), found
            return int(value), found
        if name == b"transfer-encoding":
            if len(self._lengths) < MAX_CACHED:
                self._lengths[line] = _CHUNKED, b""
            return _CHUNKED, b""
        found = b"" if name in _NOT_SENT else field(name, value)
        if name == b"content-type" and is_grpc(value):
            # gRPC's servers look for it to know that nobody on the way loses trailers.
            found += _TRAILERS
        if not is_secret(name):
            self._keep(line, found)
        return length, found

    def _keep(self, line: bytes, found: bytes) -> None:
        if len(self._fields) < MAX_CACHED and len(line) <= MAX_CACHED_LINE:
            self._fields[line] = found

    def age(self) -> None:
        """Begin anew where a cache is full. Called once in a while, never within a request."""
        for cache in (self._fields, self._hosts, self._lengths, self._beginnings):
            if len(cache) >= MAX_CACHED:
                cache.clear()


def is_grpc(content_type: bytes) -> bool:
    """Return whether a body is gRPC's own framing: not gRPC-Web's, whose trailers are in the body."""
    return content_type[:16].lower() == b"application/grpc" and content_type[16:17] in (b"", b"+", b";", b" ")


def encode_trailers(lines: bytes) -> bytes:
    """Return the header block of trailers. lines: checked, each with CRLF."""
    fields = []
    for line in lines.split(b"\r\n"):
        name, _, value = line.partition(b":")
        name = name.lower()
        if name and name not in _NOT_SENT:
            fields.append(field(name, value.strip(b" \t")))
    return b"".join(fields)


def _digest(name: bytes, value: bytes) -> bytes:
    if name.translate(None, _LOWER) or not name:
        return _STATUS + value if name == b":status" else _BROKEN
    if name in CONNECTION_SPECIFIC or value.translate(None, TEXT):
        return _BROKEN
    return b"%b: %b" % (name, value)


STATICS: Statics[bytes] = Statics(_digest)
"""For the decoders of client connections: their fields are header lines, without CRLF."""


class Answers:
    """Reads response heads of all connections. Its parser's caches are HTTP/2's own: what HTTP/1.1 may say, it may not."""

    __slots__ = ("_parser", "_statuses")

    def __init__(self, parser: ResponseParser) -> None:
        self._parser = parser
        self._statuses: dict[bytes, StatusLine] = {}

    def read(self, fields: list[bytes]) -> tuple[StatusLine, ResponseBlock, bool]:
        """Return status, headers and whether they may be kept. fields: of `STATICS`. Raises `Refused`.

        The block's length is -2 where it says none.
        """
        first = fields[0] if fields else b""
        status = self._statuses.get(first) or self._status(first)
        raw = b"\r\n".join(fields[1:])
        blocks = self._parser.blocks
        block = blocks.get(raw)
        if block is not None:
            return status, block, True
        block = self._parser.block(raw)
        return status, block, raw in blocks

    def _status(self, field: bytes) -> StatusLine:
        value = field.removeprefix(_STATUS)
        if not field.startswith(_STATUS) or len(value) != 3 or not value.isdigit() or value < b"100":
            raise bad_response("A response begins with one status of three digits.")
        code = int(value)
        phrase = HTTPStatus(code).phrase.encode() if code in HTTPStatus._value2member_map_ else b""
        found = self._statuses[field] = StatusLine(code, 1, phrase)
        return found


def pairs_of(fields: list[bytes]) -> list[tuple[bytes, bytes]]:
    """Return header lines of `STATICS` as names and values. One that no message may have has a name that is none."""
    return [(name, value) for name, _, value in (line.partition(b": ") for line in fields)]


def grpc_status(lines: bytes) -> bytes:
    """Return the gRPC status that header lines or trailers tell, digits; empty for none. lines: lower-case names."""
    at = 0 if lines.startswith(b"grpc-status:") else lines.find(b"\r\ngrpc-status:") + 2
    if at == 1 or not lines.startswith(b"grpc-status:", at):
        return b""
    value = lines[at + 12 :].partition(b"\r\n")[0].strip(b" \t")
    return value if value.isdigit() and len(value) <= 3 else b""
