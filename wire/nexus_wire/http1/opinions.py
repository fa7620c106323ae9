"""A second parser's word on heads that were not seen before: llhttp, through httptools.

Two parsers that disagree on a message are how requests are smuggled. Every head that our caches do not know is read by both, and
goes on only when both take it for one complete head. What llhttp lets through and we do not is listed in the tests.
"""

from __future__ import annotations

import httptools

from nexus_wire.http1.refusals import bad_request


class _Heard:
    """Takes httptools' callbacks. heads: complete ones."""

    __slots__ = ("heads",)

    def __init__(self) -> None:
        self.heads = 0

    def on_headers_complete(self) -> None:
        self.heads += 1


def ask(head: bytes) -> None:
    """Return if llhttp takes the bytes for exactly one request head. Raises `Refused`."""
    heard = _Heard()
    parser = httptools.HttpRequestParser(heard)
    try:
        parser.feed_data(head)
    except httptools.HttpParserUpgrade:
        # Its word for "what follows is not HTTP"; whether it is passed on is decided elsewhere.
        return
    except httptools.HttpParserError as error:
        raise bad_request("The message is not valid HTTP.") from error
    if heard.heads != 1:
        raise bad_request("The message is not valid HTTP.")
