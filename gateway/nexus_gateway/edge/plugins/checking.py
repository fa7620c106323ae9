"""Whether what a hook returned can go on: what cannot is the plugin's failure, judged by its failure policy, and never bytes
on a connection that others share. No I/O.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from nexus_core.hooks import Headers, Reply, RequestHead, ResponseHead, RouteChoice

from nexus_gateway.telemetry.redactions import is_secret

Pair = tuple[str, str]
MAX_LINE = 65536
MAX_ADDED = 256
"""Characters of one header, and headers that one hook may add. More of it breaks connections that others share, and in their name."""
_MAX_KNOWN = 1024
_MAX_KNOWN_VALUE = 128
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_UNFIT = re.compile(r"[\x00-\x08\x0a-\x1f\x7f\ud800-\udfff]")
"""Control characters, and halves of a surrogate pair (JSON may bring them), which have no bytes."""
_PATH = re.compile(r"/[!-\"$->@-~]*")
_QUERY = re.compile(r"[!-\"$-~]*")
_HOST = re.compile(r"[0-9A-Za-z._~%:\[\]-]*")
_TURNED = frozenset({"HEAD", "CONNECT"})
"""Methods that no other is turned into, and that are turned into no other."""
BODILESS = frozenset({204, 205, 304})
"""Statuses whose response has no body whatever its headers say (RFC 9110 section 6.4.1; 205 must send none)."""


def check_request(result: object, before: RequestHead) -> RequestHead | Reply:
    """Return the result of `on_request`. Raises TypeError or ValueError for what is neither a head nor a reply to send."""
    if isinstance(result, Reply):
        return check_reply(result)
    if not isinstance(result, RequestHead):
        raise TypeError(f"on_request returned {type(result).__name__}, not RequestHead or Reply")
    return _check_head(result, before, "on_request")


def _check_head(result: RequestHead, before: RequestHead, hook: str) -> RequestHead:
    if result is before:
        return before
    if type(result) is not RequestHead or result.notes is not before.notes:
        # Of another class, whatever it is: each field is read once, and what was read is what goes on. Notes are the request's.
        result = RequestHead(
            result.method,
            result.path,
            result.query,
            result.host,
            result.headers,
            result.client_ip,
            result.route,
            before.notes,
        )
    for name, pattern, value, old in (
        ("method", _TOKEN, result.method, before.method),
        ("path", _PATH, result.path, before.path),
        ("query", _QUERY, result.query, before.query),
        ("host", _HOST, result.host, before.host),
        ("client_ip", None, result.client_ip, before.client_ip),
        ("route", None, result.route, before.route),
    ):
        if value is old:
            continue
        _check_text(value, f"the {name}")
        if pattern is not None and not pattern.fullmatch(value):
            raise ValueError(f"{hook} returned a {name} that is not one: {value[:100]!r}")
    if result.method != before.method and not _TURNED.isdisjoint((result.method, before.method)):
        # Whether a body follows the response's head is the client's method to say, on connections that others use next.
        raise ValueError(f"{hook} turned {before.method} into {result.method}")
    _check_headers(result.headers, before.headers)
    return result


def check_reply(reply: Reply) -> Reply:
    """Return a reply that can be sent: of plain values, which nobody changes later. Raises TypeError or ValueError."""
    given, headers, body = reply.status, reply.headers, reply.body
    status = _check_status(given)
    if not isinstance(body, bytes | bytearray):
        raise TypeError(f"the reply's body is {type(body).__name__}, not bytes")
    _check_headers(headers, ())
    if type(reply) is Reply and status is given and type(body) is bytes:
        return reply
    return Reply(status, headers, _plain(body))


def check_response(result: object, before: ResponseHead) -> ResponseHead | Reply:
    """Return the result of `on_response`. Raises TypeError or ValueError for what is neither a head nor a reply to send."""
    if isinstance(result, Reply):
        return check_reply(result)
    if not isinstance(result, ResponseHead):
        raise TypeError(f"on_response returned {type(result).__name__}, not ResponseHead or Reply")
    if result is before:
        return before
    given, headers = result.status, result.headers
    status = _check_status(given) if given is not before.status else given
    if status != before.status and (status in BODILESS or before.status == 101):
        # The body is passed on as it comes: after such a head it would be read as the next response.
        raise ValueError(f"on_response turned {before.status} into {status}")
    _check_headers(headers, before.headers)
    return result if type(result) is ResponseHead and status is given else ResponseHead(status, headers)


def check_request_body(result: object, before: RequestHead) -> tuple[RequestHead, bytes] | Reply:
    """Return the result of `on_request_body`, with the head that goes on. Raises TypeError or ValueError for anything else."""
    if isinstance(result, Reply):
        return check_reply(result)
    head: object = before
    body = result
    if isinstance(result, tuple) and len(result) == 2:
        head, body = result
    if not isinstance(head, RequestHead) or not isinstance(body, bytes | bytearray):
        what = type(result).__name__ if result is body else f"({type(head).__name__}, {type(body).__name__})"
        raise TypeError(f"on_request_body returned {what}, not bytes, (RequestHead, bytes) or Reply")
    return _check_head(head, before, "on_request_body"), _plain(body)


def check_response_body(result: object) -> bytes | Reply:
    """Return the result of `on_response_body`. Raises TypeError or ValueError for anything else."""
    if isinstance(result, Reply):
        return check_reply(result)
    if not isinstance(result, bytes | bytearray):
        raise TypeError(f"on_response_body returned {type(result).__name__}, not bytes or Reply")
    return _plain(result)


def check_choice(result: object, before: RouteChoice) -> RouteChoice | Reply:
    """Return the result of `on_route`. Raises TypeError or ValueError for anything else, as for an upstream of another rule."""
    if isinstance(result, Reply):
        return check_reply(result)
    if not isinstance(result, RouteChoice):
        raise TypeError(f"on_route returned {type(result).__name__}, not RouteChoice or Reply")
    if result.upstream not in before.upstreams:
        raise ValueError(f"on_route chose {result.upstream!r}, which is not one of: {', '.join(before.upstreams)}")
    return result


def check_stream(result: object, hook: str) -> object:
    """Return what a hook gave for a body that passes: None, or what has `feed` and `finish`. Raises TypeError."""
    if result is None or (callable(getattr(result, "feed", None)) and callable(getattr(result, "finish", None))):
        return result
    raise TypeError(f"{hook} returned {type(result).__name__}, which has no feed and finish")


def check_piece(result: object, hook: str) -> bytes:
    """Return a piece of a body that `feed` or `finish` returned. Raises TypeError."""
    if isinstance(result, bytes | bytearray):
        return _plain(result)
    raise TypeError(f"the body stream of {hook} returned {type(result).__name__}, not bytes")


def check_wish(result: object, hook: str) -> bool:
    """Return whether a hook is wanted. Raises TypeError for what is not a bool."""
    if not isinstance(result, bool):
        raise TypeError(f"{hook} returned {type(result).__name__}, not bool")
    return result


def check_nothing(result: object, hook: str) -> None:
    """Return for None. Raises TypeError for anything else."""
    if result is not None:
        raise TypeError(f"{hook} returned {type(result).__name__}, not None")


def _plain(body: bytes | bytearray) -> bytes:
    """Return the bytes as such, whatever a class below theirs makes of them."""
    return body if type(body) is bytes else b"".join((body,))


def _check_status(status: object) -> int:
    """Return a status as a plain number, such as of an `HTTPStatus`."""
    found = int.__add__(status, 0) if isinstance(status, int) else 0
    if not 200 <= found <= 599:
        raise ValueError(f"the status is {status!r}; it must be a number from 200 to 599")
    return status if type(status) is int else found


def _check_text(value: object, what: str) -> None:
    """Raise TypeError for what is no plain text. A class below `str` may say something else each time that it is asked."""
    if type(value) is not str:
        raise TypeError(f"{what} is {type(value).__name__}, not str")


def _check_headers(headers: Headers, before: Headers) -> None:
    if headers is before:
        return
    if not isinstance(headers, tuple):
        raise TypeError(f"the headers are {type(headers).__name__}, not a tuple of pairs")
    count = len(before)
    if headers[:count] == before:
        # What was there is there still (a comparison by identity, in C); only what was added is looked at.
        headers, before = headers[count:], ()
    _check_count(len(headers) - len(before))
    known = frozenset(before)
    for pair in headers:
        if type(pair) is not tuple or len(pair) != 2 or type(pair[0]) is not str or type(pair[1]) is not str:
            check_pair(pair)  # before it is asked what it is equal to
        elif pair not in known:
            check_pair(pair)


def _check_count(added: int) -> None:
    if added > MAX_ADDED:
        raise ValueError(f"it adds {added} headers; at most {MAX_ADDED} can be sent")


def check_pair(pair: object) -> None:
    """Return for a header that can be sent. Raises TypeError or ValueError."""
    if type(pair) is not tuple or len(pair) != 2:
        raise TypeError("a header is not a pair of name and value")
    name, value = pair
    _check_text(name, "a header's name")
    _check_text(value, f"the value of header {name!r}")
    if len(name) + len(value) > MAX_LINE:
        raise ValueError(f"the header {name[:100]!r} has {len(value)} characters; at most {MAX_LINE} can be sent")
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
        _check_count(len(pairs))
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
