"""Request heads. Whole lines and blocks that come again are one dict probe; what is new is read strictly, by two parsers."""

from __future__ import annotations

import re
from collections.abc import Collection

from nexus_wire.http1 import opinions, targets
from nexus_wire.http1.fields import (
    MAX_CACHED,
    MAX_CACHED_BLOCK,
    MAX_CACHED_LINE,
    Fields,
    text,
    tokens,
)
from nexus_wire.http1.refusals import Refused, bad_request

_METHOD = re.compile(rb"[A-Z][A-Z-]{0,31}")
_VERSION = re.compile(rb"HTTP/[0-9]\.[0-9]")
_MAX_LENGTH_DIGITS = 18

(FORWARD, DROP, ASIDE, HOST, LENGTH, CODING, CONNECTION, UPGRADE, EXPECT, TE) = range(10)
_KINDS = {
    b"host": HOST, b"content-length": LENGTH, b"transfer-encoding": CODING, b"connection": CONNECTION, b"upgrade": UPGRADE,
    b"expect": EXPECT, b"te": TE, b"keep-alive": DROP, b"proxy-connection": DROP, b"proxy-authenticate": DROP,
    b"proxy-authorization": DROP, b"trailer": DROP, b"http2-settings": DROP,
}  # fmt: skip
_NOT_OPTIONS = frozenset(
    {b"host", b"content-length", b"content-type", b"content-encoding", b"authorization", b"cookie", b"x-request-id",
     b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host", b"forwarded", b"traceparent", b"tracestate", b"expect"}
)  # fmt: skip
"""Listing one of these in Connection asks the next hop not to see it: a known way to make upstreams misjudge a request."""
_OPTIONS = frozenset({b"close", b"keep-alive", b"upgrade", b"te", b"http2-settings", b"trailer", b"transfer-encoding"})
_CHUNKED = b"transfer-encoding: chunked\r\n"


class RequestLine:
    """A request line. method: upper-case. path: in normal form. query: without `?`, as sent. authority: of a target in absolute
    form, else empty. minor: of the HTTP version, 0 or 1. start: the line as it goes on, with CRLF."""

    __slots__ = ("authority", "method", "minor", "path", "query", "start")

    def __init__(self, method: str, path: str, query: str, authority: bytes, minor: int, start: bytes) -> None:
        self.method = method
        self.path = path
        self.query = query
        self.authority = authority
        self.minor = minor
        self.start = start


class RequestBlock:
    """The headers of a request.

    host: lower-case, without port or dot at its end, empty for none; port: 0 for none; authority: the Host header as sent.
    length: of the body; -1 chunked, 0 none. sized: whether it was given in numbers. close, keep_alive: of Connection.
    upgrade: the protocols asked for, lower-case, joined by `,`; empty for none. expects: it waits for `100 Continue`.
    forward: end-to-end lines with CRLF, framing included, without what is kept aside. aside: values of the headers that the
    parser was told to keep aside, repeats joined by `, `; None for none of them.
    """

    __slots__ = (
        "_fields", "_headers", "_joined", "aside", "authority", "close", "expects", "forward", "has_host", "host", "keep_alive", "length",
        "port", "sized", "trailers", "upgrade",
    )  # fmt: skip

    def __init__(self, fields: tuple[tuple[int, bytes, bytes], ...]) -> None:
        self._fields = fields
        self._headers: tuple[tuple[str, str], ...] | None = None
        self._joined: dict[str, str] | None = None
        self.has_host = False
        self.host = ""
        self.port = 0
        self.authority = b""
        self.length = 0
        self.sized = False
        self.close = False
        self.keep_alive = False
        self.upgrade = b""
        self.expects = False
        self.trailers = False
        self.forward = b""
        self.aside: dict[bytes, bytes] | None = None

    @property
    def headers(self) -> tuple[tuple[str, str], ...]:
        """End-to-end headers in wire order, repeats kept: names lower-case; Host and what is kept aside among them."""
        found = self._headers
        if found is None:
            found = self._headers = tuple(
                (name.decode(), text(value))
                for kind, name, value in self._fields
                if kind in (FORWARD, ASIDE, HOST, LENGTH)
            )
        return found

    @property
    def joined(self) -> dict[str, str]:
        """All headers as received, by lower-case name; repeats joined by `,`."""
        found = self._joined
        if found is None:
            found = {}
            for _, name, value in self._fields:
                key, said = name.decode(), text(value)
                found[key] = f"{found[key]},{said}" if key in found else said
            self._joined = found
        return found

    def get(self, name: str) -> str | None:
        """Return one header of `joined`."""
        return self.joined.get(name)


class RequestParser:
    """Reads request heads. One for all connections of a listener; its caches only grow until `age`.

    lines, blocks: what was read before, by its bytes. Nothing that fails a check is ever in them, nor any secret.
    """

    def __init__(
        self,
        *,
        aside: Collection[bytes] = (),
        aside_prefixes: tuple[bytes, ...] = (),
        drop: Collection[bytes] = (),
        max_head_bytes: int = 32768,
        max_headers: int = 100,
        second_opinion: bool = True,
    ) -> None:
        """aside, drop: lower-case names of headers that are kept out of `forward`, to be read or to be lost. aside_prefixes:
        the same for all names that begin so."""
        self.lines: dict[bytes, RequestLine] = {}
        self.blocks: dict[bytes, RequestBlock] = {}
        self.max_head_bytes = max_head_bytes
        self._second_opinion = second_opinion
        kinds = {**dict.fromkeys(aside, ASIDE), **dict.fromkeys(drop, DROP), **_KINDS}

        def kind_of(name: bytes) -> int:
            kind = kinds.get(name)
            if kind is None:
                kind = ASIDE if aside_prefixes and name.startswith(aside_prefixes) else FORWARD
            return kind

        self._fields = Fields(
            kind_of, max_headers, bad_request, lambda: Refused(431, "HeadTooLarge", "The request has too many headers.")
        )
        self._hosts: dict[bytes, tuple[str, int]] = {}

    def line(self, raw: bytes) -> RequestLine:
        """Read a request line, without its CRLF. Raises `Refused`."""
        parts = raw.split(b" ")
        if len(parts) != 3:
            raise bad_request("The request line is not a method, a target and a version.")
        method, target, version = parts
        if not _METHOD.fullmatch(method):
            raise bad_request("The method is not one.")
        if version == b"HTTP/1.1":
            minor = 1
        elif version == b"HTTP/1.0":
            minor = 0
        elif _VERSION.fullmatch(version):
            raise Refused(505, "BadVersion", "Versions 1.1 and 1.0 are spoken here.")
        else:
            raise bad_request("The HTTP version is not one.")
        if method in (b"CONNECT", b"TRACE"):
            raise Refused(405, "MethodRefused", f"{method.decode()} is not passed on.")
        authority, path, query = targets.split(target, method)
        plain = targets.normalise(path)
        if plain is path and not authority and minor:
            start = raw + b"\r\n"
        else:
            start = b"%b %b%b%b HTTP/1.1\r\n" % (method, plain, b"?" if query else b"", query)
        if target == b"*":
            start = b"OPTIONS * HTTP/1.1\r\n"
        found = RequestLine(method.decode(), plain.decode(), query.decode(), authority, minor, start)
        if len(raw) <= MAX_CACHED_LINE and len(self.lines) < MAX_CACHED:
            self.lines[raw] = found
        return found

    def block(self, raw: bytes) -> RequestBlock:
        """Read a header block, without the CRLFs at its end. Raises `Refused`."""
        fields = self._fields
        get = fields.lines.get
        forward: list[bytes] = []
        found: list[tuple[int, bytes, bytes]] = []
        aside: dict[bytes, bytes] | None = None
        options: list[bytes] = []
        upgrades: list[bytes] = []
        host: bytes | None = None
        length = coding = None
        expects = trailers = False
        keep = len(raw) <= MAX_CACHED_BLOCK
        for line in fields.split(raw):
            field = get(line)
            if field is None:
                field = fields.read(line)
                if line not in fields.lines:
                    keep = False
            kind, name, value, whole = field
            found.append((kind, name, value))
            if kind == FORWARD:
                forward.append(whole)
            elif kind == ASIDE:
                if aside is None:
                    aside = {}
                aside[name] = b"%b, %b" % (aside[name], value) if name in aside else value
            elif kind == HOST:
                if host is not None:
                    raise bad_request("A request needs exactly one Host header.")
                host = value
            elif kind == LENGTH:
                if length is not None or not value.isdigit() or len(value) > _MAX_LENGTH_DIGITS:
                    raise bad_request("Content-Length is not one number.")
                length = int(value)
            elif kind == CODING:
                if coding is not None or value.lower() != b"chunked":
                    raise bad_request("The only transfer coding that is taken is chunked, once.")
                coding = value
            elif kind == CONNECTION:
                options += tokens(value)
            elif kind == UPGRADE:
                upgrades += tokens(value)
            elif kind == EXPECT:
                if value.lower() != b"100-continue":
                    raise Refused(417, "ExpectationFailed", "The only expectation that is met is 100-continue.")
                expects = True
            elif kind == TE:
                trailers = b"trailers" in tokens(value)
        if coding is not None and length is not None:
            raise bad_request("Content-Length and Transfer-Encoding contradict each other.")
        block = RequestBlock(tuple(found))
        if host is not None:
            block.has_host = True
            block.authority = host
            if host:
                block.host, block.port = self._hosts.get(host) or self._host(host)
        if length is not None:
            block.length, block.sized = length, True
            forward.append(b"content-length: %d\r\n" % length)
        elif coding is not None:
            block.length = -1
            forward.append(_CHUNKED)
        if options:
            if not _NOT_OPTIONS.isdisjoint(options):
                raise bad_request("The Connection header names an end-to-end header.")
            block.close = b"close" in options
            block.keep_alive = b"keep-alive" in options
            if b"upgrade" in options:
                block.upgrade = b",".join(upgrades)
            listed = set(options) - _OPTIONS
            if listed:
                forward = [line for line in forward if line.partition(b":")[0].lower() not in listed]
                if aside is not None:
                    aside = {name: value for name, value in aside.items() if name not in listed} or None
                block._fields = tuple(field for field in found if field[1] not in listed)
        block.expects = expects
        block.trailers = trailers
        block.aside = aside
        block.forward = b"".join(forward)
        if keep and len(self.blocks) < MAX_CACHED:
            self.blocks[raw] = block
        return block

    def _host(self, value: bytes) -> tuple[str, int]:
        found = targets.parse_host(value)
        if len(self._hosts) < MAX_CACHED:
            self._hosts[value] = found
        return found

    def check(self, line: RequestLine, block: RequestBlock, raw_head: bytes, *, missed: bool) -> None:
        """Check what needs both line and block; for a head that was not known, also ask the second parser.

        raw_head: the whole head with its empty line, for `missed`. Raises `Refused`.
        """
        if line.minor:
            if not block.has_host:
                raise bad_request("A request needs exactly one Host header.")
        elif block.length < 0:
            raise bad_request("HTTP/1.0 knows no transfer codings.")
        if missed and self._second_opinion:
            opinions.ask(raw_head)

    def age(self) -> None:
        """Begin anew where a cache is full. Called once in a while, never within a request."""
        if len(self.lines) >= MAX_CACHED:
            self.lines.clear()
        if len(self.blocks) >= MAX_CACHED:
            self.blocks.clear()
        if len(self._hosts) >= MAX_CACHED:
            self._hosts.clear()
        self._fields.age()

