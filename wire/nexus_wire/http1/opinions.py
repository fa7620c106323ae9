"""A second parser's word on heads that were not seen before: llhttp, through httptools.

Two parsers that disagree on a message are how requests are smuggled. Every head that our caches do not know is read by both,
and goes on only when both take it for one complete head with the same request line, and agree on whether a body follows. What
llhttp lets through and we do not is listed in the tests.
"""

from __future__ import annotations

import httptools

from nexus_wire.http1.refusals import bad_request

KNOWN = frozenset(
    {"ACL", "BIND", "CHECKOUT", "CONNECT", "COPY", "DELETE", "GET", "HEAD", "LINK", "LOCK", "M-SEARCH", "MERGE", "MKACTIVITY",
     "MKCALENDAR", "MKCOL", "MOVE", "NOTIFY", "OPTIONS", "PATCH", "POST", "PROPFIND", "PROPPATCH", "PURGE", "PUT", "QUERY",
     "REBIND", "REPORT", "SEARCH", "SOURCE", "SUBSCRIBE", "TRACE", "UNBIND", "UNLINK", "UNLOCK", "UNSUBSCRIBE"}
)  # fmt: skip
"""The methods of llhttp's own table. The HTTP grammar has no such list: a head with another method is asked about as a POST,
which changes nothing in how a request is framed."""


class Opinion:
    """Asks llhttp. One parser reads head after head, as it would on a kept-alive connection, until it has seen one that does not leave
    it as new: a request with a body, a refused one, the last one of a connection."""

    __slots__ = ("_ends", "_heads", "_parser", "_urls", "on_url")

    def __init__(self) -> None:
        self._heads = 0
        self._ends = 0
        self._urls: list[bytes] = []
        # Not a method: one Python frame less on each head that the caches do not know.
        self.on_url = self._urls.append
        self._parser: httptools.HttpRequestParser | None = None

    def on_headers_complete(self) -> None:
        """Called by httptools for each complete head."""
        self._heads += 1

    def on_message_complete(self) -> None:
        """Called by httptools for each complete message."""
        self._ends += 1

    def ask(self, head: bytes, method: str, minor: int, length: int, upgrade: bool, close: bool = False) -> None:
        """Return if llhttp reads the bytes as one request head, the way we read it. Raises `Refused`.

        head: with its empty line and nothing behind it. length: of the body, as we read it: -1 chunked, 0 none. upgrade: whether a
        tunnel is asked for. close: whether it is the connection's last request, after which llhttp takes no other.
        """
        if method not in KNOWN:
            head = b"POST" + head[len(method) :]
            method = "POST"
        parser = self._parser
        self._parser = None
        if parser is None or not self._agrees(parser, head, method, minor, length, upgrade):
            # What it refuses after other heads, it is asked about without them: they may have been another client's, and llhttp
            # may know of a reason that we do not why nothing follows them.
            parser = httptools.HttpRequestParser(self)
            if not self._agrees(parser, head, method, minor, length, upgrade):
                raise bad_request("The message is not valid HTTP.")
        if minor and not (length or upgrade or close):
            self._parser = parser

    def _agrees(
        self, parser: httptools.HttpRequestParser, head: bytes, method: str, minor: int, length: int, upgrade: bool
    ) -> bool:
        urls = self._urls
        self._heads = self._ends = 0
        urls.clear()
        try:
            parser.feed_data(head)
        except httptools.HttpParserUpgrade:
            # Its word for "what follows is not HTTP". With a body it takes that for the tunnel's first bytes; ours passes such a
            # request on as one without an upgrade.
            upgrade = True
        except httptools.HttpParserError:
            return False
        return bool(
            self._heads == 1
            and (upgrade or self._ends == (0 if length else 1))
            and head.startswith(b"%b %b HTTP/1.%d\r\n" % (parser.get_method(), b"".join(urls), minor))
            and parser.get_http_version() == ("1.1" if minor else "1.0")
        )
