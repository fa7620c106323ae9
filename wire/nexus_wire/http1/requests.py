"""Request heads. Whole lines and blocks that come again are one dict probe; what is new is read strictly, by two parsers."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping

from nexus_wire.http1 import opinions, targets
from nexus_wire.http1.fields import (
    FORWARD,
    MAX_CACHED,
    MAX_CACHED_BLOCK,
    MAX_CACHED_LINE,
    Fields,
    pairs,
    text,
    text_lines,
    tokens,
    without,
)
from nexus_wire.http1.options import OptionsReader
from nexus_wire.http1.refusals import Refused, bad_request

# The ordinary request line by one expression: a path of plain characters, a query without a fragment. What does not match is
# read step by step, to be refused for the right reason.
_ORDINARY = re.compile(
    rb"([A-Z][A-Z-]{0,31}) (/[A-Za-z0-9._~!$&'()*+,=:@/-]*)(?:\?([!-\"$-~]*))? HTTP/1\.([01])"
).fullmatch
_METHOD = re.compile(rb"[A-Z][A-Z-]{0,31}")
_VERSION = re.compile(rb"HTTP/[0-9]\.[0-9]")
_NOT_PASSED_ON = frozenset({b"CONNECT", b"TRACE"})
_MAX_LENGTH_DIGITS = 18
_MAX_CACHED_QUERY = 64
"""Longer queries hardly come again, and are where tokens and signatures stand in URLs."""

(DROP, ASIDE, HOST, LENGTH, CODING, CONNECTION, UPGRADE, EXPECT, TE) = range(1, 10)
_KINDS = {
    b"host": HOST, b"content-length": LENGTH, b"transfer-encoding": CODING, b"connection": CONNECTION, b"upgrade": UPGRADE,
    b"expect": EXPECT, b"te": TE, b"keep-alive": DROP, b"proxy-connection": DROP, b"proxy-authenticate": DROP,
    b"proxy-authorization": DROP, b"trailer": DROP, b"http2-settings": DROP,
}  # fmt: skip
_END_TO_END = frozenset((FORWARD, ASIDE, HOST, LENGTH))
_PASSED = frozenset({FORWARD, LENGTH})
_MAX_NAMES = 2048
_MAX_NAME = 64
_NOT_OPTIONS = frozenset(
    {b"content-type", b"content-encoding", b"content-range", b"authorization", b"cookie", b"cache-control", b"origin",
     b"range", b"x-request-id", b"forwarded", b"traceparent", b"tracestate", b"via", b"x-real-ip"}
)  # fmt: skip
"""Listing one of these in Connection asks the next hop not to see it: a known way to make upstreams misjudge a request. The
headers that the parser reads itself or keeps aside are refused there, too."""
_NEVER_OPTIONS = frozenset((HOST, LENGTH, CODING, EXPECT, ASIDE))


class RequestLine:
    """A request line. method: upper-case. path: in normal form. query: without `?`, as sent. authority: of a target in absolute
    form, else empty. minor: of the HTTP version, 0 or 1. start: the line as it goes on, always HTTP/1.1, with CRLF."""

    __slots__ = ("authority", "method", "minor", "path", "query", "start")

    def __init__(self, method: str, path: str, query: str, authority: bytes, minor: int, start: bytes) -> None:
        self.method = method
        self.path = path
        self.query = query
        self.authority = authority
        self.minor = minor
        self.start = start


class _Names:
    """Header names as text, met before. known: name as sent → lower-case name and kind."""

    __slots__ = ("_kind_of", "known")

    def __init__(self, kind_of: Callable[[bytes], int]) -> None:
        self.known: dict[str, tuple[str, int]] = {}
        self._kind_of = kind_of

    def learn(self, name: str) -> tuple[str, int]:
        """Return a name that is not known yet; keep it, while there is room."""
        low = name.lower()
        found = (low, self._kind_of(low.encode()))
        if len(self.known) < _MAX_NAMES and len(name) <= _MAX_NAME:
            self.known[name] = found
        return found


class RequestBlock:
    """The headers of a request. Shared by all requests that bring the same bytes: nothing in it changes once it is read.

    host: lower-case, without port or dot at its end, empty for none; port: 0 for none; authority: the Host header as sent.
    length: of the body; -1 chunked, -2 raw (payload alone, as HTTP/2 brings it), 0 none. sized: whether it was given in numbers.
    close, keep_alive: of Connection.
    upgrade: the protocol asked for, lower-case, several joined by a comma; empty for none, and when a body comes. expects: it
    waits for `100 Continue`. trailers: it takes trailers. forward: end-to-end lines with CRLF, framing included, without Host and what
    is kept aside. aside: values of the headers that the parser was told to keep aside, repeats joined by `, `; None for none.
    read: what `passed` is, None while nobody has asked for it. lower: all of the head in lower case, empty while nobody has.
    """

    __slots__ = (
        "_headers", "_joined", "_listed", "_names", "_raw", "_unframed", "aside", "authority", "close", "expects", "forward",
        "has_host", "host", "keep_alive", "length", "lower", "port", "read", "sized", "trailers", "upgrade",
    )  # fmt: skip

    def __init__(
        self,
        raw: bytes,
        names: _Names,
        host: str,
        port: int,
        authority: bytes | None,
        length: int,
        sized: bool,
        forward: bytes,
        aside: dict[bytes, bytes] | None,
    ) -> None:
        self._raw = raw
        self._names = names
        self._listed: frozenset[bytes] | None = None
        self._headers: tuple[tuple[str, str], ...] | None = None
        self._joined: dict[str, str] | None = None
        self.read: tuple[tuple[str, str], ...] | None = None
        self.lower = ""
        self.has_host = authority is not None
        self.host = host
        self.port = port
        self.authority = authority or b""
        self.length = length
        self.sized = sized
        self.close = False
        self.keep_alive = False
        self.upgrade = b""
        self.expects = False
        self.trailers = False
        self.forward = forward
        self.aside: Mapping[bytes, bytes] | None = aside
        self._unframed: RequestBlock | None = None

    def framed(self, length: int) -> RequestBlock:
        """Return the same for a body that no header speaks of. length: in bytes, told from now on; -2 raw, when it is not known.

        For protocols whose frames say where a body ends; the block itself has no body.
        """
        found = self._unframed
        if found is None:
            found = self._unframed = self._copy(-2, self.forward)
        return found if length < 0 else self._copy(length, b"%bcontent-length: %d\r\n" % (self.forward, length))

    def reframed(self, length: int) -> RequestBlock:
        """Return the same for another body than the one that came. length: in bytes, or -2 raw, when it is not known."""
        framing = b""
        if self.length == -1:
            framing = b"transfer-encoding: chunked\r\n"
        elif self.sized:
            framing = b"content-length: %d\r\n" % self.length
        bare = self.forward.removesuffix(framing)  # the last line, wherever it stood as it came
        return self._copy(length, bare if length < 0 else b"%bcontent-length: %d\r\n" % (bare, length))

    def _copy(self, length: int, forward: bytes) -> RequestBlock:
        copy = RequestBlock(
            self._raw, self._names, self.host, self.port, self.authority if self.has_host else None, length, length >= 0,
            forward, None,
        )  # fmt: skip
        copy.aside = self.aside
        copy._listed = self._listed
        copy.close, copy.keep_alive = self.close, self.keep_alive
        copy.expects, copy.trailers, copy.upgrade = self.expects, self.trailers, self.upgrade
        return copy

    @property
    def headers(self) -> tuple[tuple[str, str], ...]:
        """End-to-end headers in wire order, repeats kept: names lower-case; Host and what is kept aside among them."""
        if self._headers is None:
            self._read()
        assert self._headers is not None
        return self._headers

    @property
    def passed(self) -> tuple[tuple[str, str], ...]:
        """The same headers without Host and what is kept aside: those of `forward`."""
        if self.read is None:
            self._read()
        assert self.read is not None
        return self.read

    def lowered(self) -> str:
        """Return `lower`, made now."""
        self.lower = found = self._raw.lower().decode("latin-1")
        return found

    def first(self, name: str) -> str | None:
        """Return the first value of one header of `passed`, without reading the others. name: lower-case."""
        names = self._names
        listed = self._listed
        sought = name.encode("latin-1", "replace")
        kind = (names.known.get(name) or names.learn(name))[1]
        if kind not in _PASSED or b":" in sought or (listed is not None and sought in listed):
            return None
        raw = self._raw
        lower = raw.lower()
        if lower.startswith(sought + b":"):
            at = len(sought) + 1
        else:
            at = lower.find(b"\r\n" + sought + b":")
            if at < 0:
                return None
            at += len(sought) + 3
        end = raw.find(b"\r\n", at)
        return text(raw[at:] if end < 0 else raw[at:end]).strip(" \t")

    def _read(self) -> None:
        names = self._names
        known = names.known
        listed = self._listed
        every: list[tuple[str, str]] = []
        passed: list[tuple[str, str]] = []
        for line in text_lines(self._raw):
            raw_name, _, value = line.partition(":")
            name, kind = known.get(raw_name) or names.learn(raw_name)
            if kind not in _END_TO_END or (listed is not None and name.encode() in listed):
                continue
            pair = (name, value.strip(" \t"))
            every.append(pair)
            if kind in _PASSED:
                passed.append(pair)
        self._headers = tuple(every)
        self.read = tuple(passed)

    @property
    def joined(self) -> Mapping[str, str]:
        """All headers as received, by lower-case name; repeats joined by `,`. Without those that Connection lists."""
        found = self._joined
        if found is None:
            found = {}
            for name, value in pairs(self._raw):
                found[name] = f"{found[name]},{value}" if name in found else value
            for listed in self._listed or ():
                found.pop(listed.decode("latin-1"), None)
            self._joined = found
        return found

    def get(self, name: str) -> str | None:
        """Return one header of `joined`; the others are not read for it."""
        if self._joined is None and self._listed is None:
            name_sent = b"\r\n%b:" % name.encode("latin-1", "replace")
            lower = b"\r\n" + self._raw.lower()
            at = lower.find(name_sent)
            if at < 0:
                return None
            if lower.find(name_sent, at + 1) < 0 and ":" not in name:
                raw = self._raw
                at += len(name_sent) - 2
                end = raw.find(b"\r\n", at)
                return text(raw[at:] if end < 0 else raw[at:end]).strip(" \t")
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
        self._opinion = opinions.Opinion()
        kinds = {**dict.fromkeys(aside, ASIDE), **dict.fromkeys(drop, DROP), **_KINDS}

        def kind_of(name: bytes) -> int:
            kind = kinds.get(name)
            if kind is None:
                kind = ASIDE if aside_prefixes and name.startswith(aside_prefixes) else FORWARD
            return kind

        self._kind_of = kind_of
        self._texts = _Names(kind_of)
        self._fields = Fields(
            kind_of, max_headers, bad_request, lambda: Refused(431, "HeadTooLarge", "The request has too many headers.")
        )
        self._options = OptionsReader()
        self._hosts: dict[bytes, tuple[str, int]] = {}
        self._methods: dict[bytes, str] = {}

    # ---- request lines

    def line(self, raw: bytes) -> RequestLine:
        """Read a request line, without its CRLF. Raises `Refused`."""
        match = _ORDINARY(raw)
        if match is None:
            return self._uncommon(raw)
        method, sent, query, digit = match.groups()
        path = sent.decode()
        if "//" in path or "/." in path:
            return self._uncommon(raw)
        name = self._methods.get(method) or self._method(method)
        found = RequestLine(
            name,
            path,
            query.decode() if query else "",
            b"",
            1 if digit == b"1" else 0,
            raw + b"\r\n" if digit == b"1" else raw[:-1] + b"1\r\n",
        )
        if (
            len(raw) <= MAX_CACHED_LINE
            and len(self.lines) < MAX_CACHED
            and (not query or len(query) <= _MAX_CACHED_QUERY)
        ):
            self.lines[raw] = found
        return found

    def _method(self, method: bytes) -> str:
        if method in _NOT_PASSED_ON:
            raise Refused(405, "MethodRefused", f"{method.decode()} is not passed on.")
        name = method.decode()
        if len(self._methods) < 64:
            self._methods[method] = name
        return name

    def _uncommon(self, raw: bytes) -> RequestLine:
        """Read a line step by step: absolute form, asterisk, escapes, paths to be put in normal form; or find what is wrong."""
        if len(raw) > self.max_head_bytes:
            raise Refused(431, "HeadTooLarge", "The request line is too long.")
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
            raise Refused(505, "BadVersion", "HTTP/1.1 and HTTP/1.0 are spoken here.")
        else:
            raise bad_request("The HTTP version is not one.")
        name = self._method(method)
        authority, path, query = targets.split(target, method)
        plain = targets.normalise(path)
        sent = target if target == b"*" else plain
        start = b"%b %b%b%b HTTP/1.1\r\n" % (method, sent, b"?" if query else b"", query)
        found = RequestLine(name, plain.decode(), query.decode(), authority, minor, start)
        if len(raw) <= MAX_CACHED_LINE and len(self.lines) < MAX_CACHED and len(query) <= _MAX_CACHED_QUERY:
            self.lines[raw] = found
        return found

    # ---- header blocks

    def block(self, raw: bytes) -> RequestBlock:
        """Read a header block, without the CRLFs at its end. Raises `Refused`."""
        size = len(raw)
        if size > self.max_head_bytes:
            raise Refused(431, "HeadTooLarge", "The request's headers are too large.")
        fields = self._fields
        lines = fields.split(raw)
        plain = fields.plain
        special = fields.special.get
        names = fields.names.get
        forward: list[bytes] = []
        pass_on = forward.append
        aside: dict[bytes, bytes] | None = None
        host: bytes | None = None
        length: int | None = None
        connection: bytes | None = None
        upgrades = te = b""
        chunked = expects = checked = False
        keep = size <= MAX_CACHED_BLOCK
        for line in lines:
            if line in plain:
                pass_on(line)
                continue
            field = special(line)
            if field is not None:
                kind, name, value = field
            else:
                if not checked:
                    fields.check(raw, len(lines) - 1)
                    checked = True
                raw_name, _, value = line.partition(b":")
                known = names(raw_name)
                if known is not None and not known.left:
                    # Its lines are new ones each time, or secret: nothing to remember.
                    keep = False
                    kind, name = known.kind, known.low
                    if kind:
                        value = value.strip(b" \t")
                else:
                    kind, name, value, kept = fields.read(line)
                    if not kept:
                        keep = False
                if not kind:
                    pass_on(line)
                    continue
            if kind == HOST:
                if host is not None:
                    raise bad_request("A request needs exactly one Host header.")
                host = value
            elif kind == CONNECTION:
                connection = value if connection is None else b"%b,%b" % (connection, value)
            elif kind == ASIDE:
                if aside is None:
                    aside = {name: value}
                else:
                    aside[name] = b"%b, %b" % (aside[name], value) if name in aside else value
            elif kind == LENGTH:
                if length is not None or not value.isdigit() or len(value) > _MAX_LENGTH_DIGITS:
                    raise bad_request("Content-Length is not one number.")
                length = int(value)
            elif kind == CODING:
                if chunked or value.lower() != b"chunked":
                    raise bad_request("The only transfer coding that is taken is chunked, once.")
                chunked = True
            elif kind == UPGRADE:
                upgrades = b"%b,%b" % (upgrades, value) if upgrades else value
            elif kind == EXPECT:
                if value.lower() != b"100-continue":
                    raise Refused(417, "ExpectationFailed", "The only expectation that is met is 100-continue.")
                expects = True
            elif kind == TE:
                te = b"%b,%b" % (te, value) if te else value
        if chunked:
            if length is not None:
                raise bad_request("Content-Length and Transfer-Encoding contradict each other.")
            pass_on(b"transfer-encoding: chunked")
        elif length is not None:
            pass_on(b"content-length: %d" % length)
        # The empty line at the end makes the join end with CRLF.
        pass_on(b"")
        name_of_host, port = (self._hosts.get(host) or self._host(host)) if host is not None else ("", 0)
        block = RequestBlock(
            raw, self._texts, name_of_host, port, host, -1 if chunked else (length or 0), length is not None,
            b"\r\n".join(forward), aside,
        )  # fmt: skip
        if connection is not None:
            self._connection(block, connection, upgrades, forward)
        if expects:
            block.expects = True
        if te:
            block.trailers = b"trailers" in tokens(te)
        if keep and len(self.blocks) < MAX_CACHED:
            self.blocks[raw] = block
        return block

    def _connection(self, block: RequestBlock, value: bytes, upgrades: bytes, forward: list[bytes]) -> None:
        options = self._options.read(value)
        block.close = options.close
        block.keep_alive = options.keep_alive
        if options.upgrade and upgrades:
            if block.length:
                # Where the body ends and the tunnel begins, parsers disagree on (llhttp sees no body then). An upgrade may be
                # ignored (RFC 9110 section 7.8); nothing that follows on the connection is believed.
                block.close = True
            else:
                block.upgrade = b",".join(tokens(upgrades))
        listed = options.listed
        if listed:
            if not _NOT_OPTIONS.isdisjoint(listed) or any(self._kind_of(name) in _NEVER_OPTIONS for name in listed):
                raise bad_request("The Connection header names an end-to-end header.")
            block._listed = listed
            # What frames the message is never listed, so it stays.
            block.forward = b"\r\n".join(without(forward, listed))

    def _host(self, value: bytes) -> tuple[str, int]:
        found = targets.parse_host(value)
        if len(self._hosts) < MAX_CACHED:
            self._hosts[value] = found
        return found

    # ---- heads

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
            self._opinion.ask(raw_head, line.method, line.minor, block.length, bool(block.upgrade), block.close)

    def age(self) -> None:
        """Begin anew where a cache is full. Called once in a while, never within a request."""
        if len(self.lines) >= MAX_CACHED:
            self.lines.clear()
        if len(self.blocks) >= MAX_CACHED:
            self.blocks.clear()
        if len(self._hosts) >= MAX_CACHED:
            self._hosts.clear()
        if len(self._methods) >= 64:
            self._methods.clear()
        if len(self._texts.known) >= _MAX_NAMES:
            self._texts.known.clear()
        self._options.age()
        self._fields.age()
