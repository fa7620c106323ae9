"""Whether what a hook returned can go on: what cannot is the plugin's failure, judged by its failure policy, and never bytes
on a connection that others share. No I/O.
"""

from __future__ import annotations

import re

from nexus_core.hooks import Headers, Reply, RequestHead, ResponseHead

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
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
    known = frozenset(before)
    for pair in headers:
        if not isinstance(pair, tuple) or len(pair) != 2:
            raise TypeError("a header is not a pair of name and value")
        if pair in known:
            continue
        name, value = pair
        if not _TOKEN.fullmatch(name):
            raise ValueError(f"a header's name is not one: {name[:100]!r}")
        if _CONTROL.search(value):
            raise ValueError(f"the value of header {name!r} holds a control character")
