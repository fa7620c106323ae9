"""Requests: fields to the request line and header block that HTTP/1.1 has, by the very same parser and its caches.

Source: RFC 9113 section 8. What is refused there as malformed is `Malformed` here, which costs the stream. Everything else is
put as the lines that an HTTP/1.1 client would have sent, so that one parser judges methods, paths, hosts and headers for both
protocols, with llhttp's second opinion on heads that are new.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable

from nexus_wire.http1 import Refused, RequestBlock, RequestLine, RequestParser, trailer_lines
from nexus_wire.http1.fields import TEXT
from nexus_wire.http1.refusals import bad_request
from nexus_wire.http2.hpack import CONNECTION_SPECIFIC, Statics

_LOWER = b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz"
"""Bytes of a field's name (RFC 9113 section 8.2.1). The parser refuses underscores, politely."""
_SCHEMES = frozenset({b"http", b"https"})

(LINE, METHOD, SCHEME, PATH, AUTHORITY, PROTOCOL, HOST, COOKIE, BAD) = range(9)
_PSEUDO = {b":method": METHOD, b":scheme": SCHEME, b":path": PATH, b":authority": AUTHORITY, b":protocol": PROTOCOL}

Digested = tuple[int, bytes]
"""A field as it is kept in a connection's table: its kind, and a header line, a value, or what is wrong with it."""


class Malformed(Exception):
    """The request breaks HTTP/2's own rules: its stream is reset with PROTOCOL_ERROR."""


def digest(name: bytes, value: bytes) -> Digested:
    """Check a field and put it as a header line."""
    if value.translate(None, TEXT):
        return BAD, b"A field's value holds a control character."
    if value[:1] in (b" ", b"\t") or value[-1:] in (b" ", b"\t"):
        return BAD, b"A field's value begins or ends with a blank."
    if name[:1] == b":":
        kind = _PSEUDO.get(name)
        if kind is None:
            return BAD, b"A pseudo-header is not one of a request's."
        if kind == PATH and value[:1] != b"/" and value != b"*":
            return BAD, b"The path does not begin with a slash."
        return kind, value
    if not name or name.translate(None, _LOWER):
        return BAD, b"A field's name is empty, or holds a character that is not allowed there."
    if name == b"cookie":
        return COOKIE, value
    if name == b"host":
        return HOST, value
    if name in CONNECTION_SPECIFIC or (name == b"te" and value.lower() != b"trailers"):
        return BAD, b"A field belongs to HTTP/1.1 connections."
    return LINE, b"%b: %b" % (name, value)


STATICS = Statics(digest)


class RequestReader:
    """Makes heads of fields. One for all connections of a listener, as its parser is."""

    __slots__ = ("_nonce", "parser")

    def __init__(self, parser: RequestParser, nonce: Callable[[], bytes]) -> None:
        """nonce: makes 16 random bytes, for servers of WebSockets that speak HTTP/1.1 and want a key."""
        self.parser = parser
        self._nonce = nonce

    def read(self, fields: list[Digested]) -> tuple[RequestLine, RequestBlock]:
        """Return a request's line and headers. Raises `Malformed` and `Refused`.

        The block says nothing of a body but what a content-length says; `framed` it where the frames know better.
        """
        method = path = authority = scheme = host = protocol = None
        lines: list[bytes] = []
        cookies: list[bytes] = []
        for kind, text in fields:
            if kind == LINE:
                lines.append(text)
            elif kind == COOKIE:
                cookies.append(text)
            elif kind == HOST:
                if host is not None:
                    raise bad_request("A request needs exactly one Host header.")
                host = text
            elif kind == BAD:
                raise Malformed(text.decode())
            elif lines or cookies or host is not None:
                raise Malformed("A pseudo-header stands behind other fields.")
            elif kind == METHOD and method is None:
                method = text
            elif kind == PATH and path is None:
                path = text
            elif kind == AUTHORITY and authority is None:
                authority = text
            elif kind == SCHEME and scheme is None:
                scheme = text
            elif kind == PROTOCOL and protocol is None:
                protocol = text
            else:
                raise Malformed("A pseudo-header comes twice.")
        if protocol is not None:
            method = self._websocket(method, protocol, lines)
        elif method == b"CONNECT":
            if path is not None or scheme is not None or authority is None:
                raise Malformed("CONNECT has an authority, and neither scheme nor path.")
            raise Refused(405, "MethodRefused", "CONNECT is not passed on.")
        if method is None or path is None or scheme is None:
            raise Malformed("A request needs a method, a scheme and a path.")
        if scheme not in _SCHEMES:
            raise bad_request("The scheme is neither http nor https.")
        if authority is None:
            authority = host
        elif host is not None and host != authority and _entity(host, scheme) != _entity(authority, scheme):
            raise Malformed("The authority and the Host header contradict each other.")
        return self._head(method, path, authority, lines, cookies)

    def _websocket(self, method: bytes | None, protocol: bytes, lines: list[bytes]) -> bytes:
        """Put what asks for a WebSocket (RFC 8441) as HTTP/1.1 asks for one. Return the method."""
        if method != b"CONNECT":
            raise Malformed("Only CONNECT names a protocol.")
        if protocol.lower() != b"websocket":
            raise Refused(405, "MethodRefused", "CONNECT is passed on for WebSockets alone.")
        if any(line.startswith((b"content-length:", b"sec-websocket-key:")) for line in lines):
            raise bad_request("A request for a WebSocket over HTTP/2 has neither a body nor a key.")
        key = b64encode(self._nonce())
        lines += [b"connection: upgrade", b"upgrade: websocket", b"sec-websocket-key: " + key]
        return b"GET"

    def _head(
        self, method: bytes, path: bytes, authority: bytes | None, lines: list[bytes], cookies: list[bytes]
    ) -> tuple[RequestLine, RequestBlock]:
        if cookies:
            # Cut in pieces for the table's sake; everybody else wants one (RFC 9113 section 8.2.3).
            lines.append(b"cookie: " + b"; ".join(cookies))
        if authority is not None:
            lines.insert(0, b"host: " + authority)
        # Names and values were checked for what separates lines, so none of them can pose as two.
        raw_line = b"%b %b HTTP/1.1" % (method, path)
        raw_block = b"\r\n".join(lines)
        parser = self.parser
        if len(raw_line) + len(raw_block) + 2 > parser.max_head_bytes:
            raise Refused(431, "HeadTooLarge", "")
        line = parser.lines.get(raw_line)
        block = parser.blocks.get(raw_block)
        if line is None or block is None:
            line = line or parser.line(raw_line)
            block = block or parser.block(raw_block)
            parser.check(line, block, b"%b\r\n%b\r\n\r\n" % (raw_line, raw_block), missed=True)
        else:
            parser.check(line, block, b"", missed=False)
        return line, block


def read_trailers(fields: list[Digested]) -> bytes:
    """Return a request's trailers as lines, each with CRLF. Raises `Malformed` and `Refused`."""
    pairs: list[tuple[bytes, bytes]] = []
    for kind, text in fields:
        if kind == LINE:
            name, _, value = text.partition(b": ")
            pairs.append((name, value))
        elif kind not in (COOKIE, HOST):  # which only a head may hold, and which are left out like others of that kind
            raise Malformed("A trailer is a pseudo-header, or no field at all.")
    return trailer_lines(pairs)


def _entity(authority: bytes, scheme: bytes) -> bytes:
    """Return what two spellings of one authority have in common (RFC 9113 section 8.3.1): case and the scheme's own port aside."""
    return authority.lower().removesuffix(b":443" if scheme == b"https" else b":80")
