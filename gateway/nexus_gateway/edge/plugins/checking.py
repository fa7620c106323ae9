"""Whether what a hook returned can go on: what cannot is the plugin's failure, judged by its failure policy, and never bytes
on a connection that others share. No I/O.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from nexus_core.hooks import Headers, Reply, RequestHead, ResponseHead

from nexus_gateway.telemetry.redactions import is_secret

Pair = tuple[str, str]
_MAX_KNOWN = 1024
_MAX_KNOWN_VALUE = 128
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_UNFIT = re.compile(r"[\x00-\x08\x0a-\x1f\x7f\ud800-\udfff]")
"""Control characters, and halves of a surrogate pair (JSON may bring them), which have no bytes."""
_PATH = re.compile(r"/[!-\"$->@-~]*")
_QUERY = re.compile(r"[!-\"$-~]*")
BODILESS = frozenset({204, 205, 304})
"""Statuses whose response has no body whatever its headers say (RFC 9110 section 6.4.1; 205 must send none)."""


def check_request(result: object, before: RequestHead) -> RequestHead | Reply:
    """Return the result of `on_request`. Raises TypeError or ValueError for what is neither a head nor a reply to send."""
    if isinstance(result, Reply):
        _check_status(result.status)
        if not isinstance(result.body, bytes | bytearray):
            raise TypeError(f"the reply's body is {type(result.body).__name__}, not bytes")
        _check_headers(result.headers, ())
        return result
    if not isinstance(result, RequestHead):
        raise TypeError(f"on_request returned {type(result).__name__}, not RequestHead or Reply")
    for name, pattern, value, old in (
        ("method", _TOKEN, result.method, before.method),
        ("path", _PATH, result.path, before.path),
        ("query", _QUERY, result.query, before.query),
    ):
        if value is not old and not pattern.fullmatch(value):
            raise ValueError(f"on_request returned a {name} that is not one: {value[:100]!r}")
    _check_headers(result.headers, before.headers)
    return result


def check_response(result: object, before: ResponseHead) -> ResponseHead:
    """Return the result of `on_response`. Raises TypeError or ValueError for what is no head to send."""
    if not isinstance(result, ResponseHead):
        raise TypeError(f"on_response returned {type(result).__name__}, not ResponseHead")
    if result.status != before.status:
        _check_status(result.status)
        if result.status in BODILESS or before.status == 101:
            # The body is passed on as it comes: after such a head it would be read as the next response.
            raise ValueError(f"on_response turned {before.status} into {result.status}")
    _check_headers(result.headers, before.headers)
    return result


def _check_status(status: object) -> None:
    if not isinstance(status, int) or not 200 <= status <= 599:
        raise ValueError(f"the status is {status!r}; it must be a number from 200 to 599")


def _check_headers(headers: Headers, before: Headers) -> None:
    if headers is before:
        return
    if not isinstance(headers, tuple):
        raise TypeError(f"the headers are {type(headers).__name__}, not a tuple of pairs")
    count = len(before)
    if headers[:count] == before:
        # What was there is there still (a comparison by identity, in C); only what was added is looked at.
        headers, before = headers[count:], ()
    known = frozenset(before)
    for pair in headers:
        if pair not in known:
            check_pair(pair)


def check_pair(pair: object) -> None:
    """Return for a header that can be sent. Raises TypeError or ValueError."""
    if not isinstance(pair, tuple) or len(pair) != 2:
        raise TypeError("a header is not a pair of name and value")
    name, value = pair
    if not _TOKEN.fullmatch(name):
        raise ValueError(f"a header's name is not one: {name[:100]!r}")
    if _UNFIT.search(value):
        raise ValueError(f"the value of header {name!r} holds a control character or half a surrogate pair")


class KnownPairs:
    """Headers that plugins add again and again: checked and rendered once.

    lines: header pair → its line, empty for one that is left out. Bounded; values that are long or that are kept out of logs are
    never in it.
    """

    __slots__ = ("_left_out", "lines")

    def __init__(self, left_out: frozenset[str] = frozenset()) -> None:
        """left_out: lower-case names that a hook has no say in; what it adds of them is not sent."""
        self._left_out = left_out
        self.lines: dict[Pair, bytes] = {}

    def added(self, pairs: Headers) -> bytes:
        """Return the lines of headers that a hook added. Raises TypeError or ValueError for what cannot be sent."""
        lines = self.lines
        if len(pairs) == 1:
            found = lines.get(pairs[0])
            return found if found is not None else self._learn(pairs[0])
        made = []
        for pair in pairs:
            found = lines.get(pair)
            made.append(found if found is not None else self._learn(pair))
        return b"".join(made)

    def _learn(self, pair: Pair) -> bytes:
        check_pair(pair)
        name, value = pair
        line = f"{name}: {value}\r\n".encode() if name.lower() not in self._left_out else b""
        if len(self.lines) < _MAX_KNOWN and len(value) <= _MAX_KNOWN_VALUE and not is_secret(name):
            self.lines[pair] = line
        return line


def render(pairs: Iterable[Pair]) -> bytes:
    """Return header lines of checked pairs."""
    return b"".join([f"{name}: {value}\r\n".encode() for name, value in pairs])
