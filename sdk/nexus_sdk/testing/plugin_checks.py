"""What the results of hooks have to be. Each check returns what is wrong and how to mend it; None for a good one."""

from __future__ import annotations

import re
from typing import Any

from nexus_core.hooks import (
    Close,
    Event,
    Headers,
    Manifest,
    Message,
    Operation,
    Refusal,
    Reply,
    RequestHead,
    Resolved,
    ResponseHead,
    RouteChoice,
)

Fault = tuple[str, str]
"""What the hook did, and what it has to do."""

_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9a-z]+\Z")
_FORBIDDEN = re.compile(r"[\x00\r\n]")
_MAX_CLOSE_REASON = 123


def check_headers(headers: Headers) -> Fault | None:
    """Check names and values."""
    if not isinstance(headers, tuple):
        return f"returned headers as {type(headers).__name__}", "return a tuple of (name, value) pairs"
    for pair in headers:
        if not (type(pair) is tuple and len(pair) == 2 and all(type(part) is str for part in pair)):
            return f"returned the header {pair!r}", "return pairs of plain text (`str(value)` of a StrEnum, for one)"
        name, value = pair
        if not _NAME.match(name):
            return f"returned the header name {name!r}", "use a lower-case HTTP token"
        if _FORBIDDEN.search(value):
            return f"returned a line break in header {name!r}", "remove it: it would split the message"
    return None


def check_status(status: object) -> Fault | None:
    """Check that it is a final one."""
    if not isinstance(status, int) or not 200 <= status <= 599:
        return f"returned status {status!r}", "return a final status, 200..599"
    return None


def check_reply(reply: Reply) -> Fault | None:
    """Check a reply's parts."""
    if not isinstance(reply.body, bytes):
        return f"replied with a body of {type(reply.body).__name__}", "encode it to bytes"
    return check_headers(reply.headers) or check_status(reply.status)


def check_request(result: object) -> Fault | None:
    """Of `on_request`."""
    if isinstance(result, Reply):
        return check_reply(result)
    if not isinstance(result, RequestHead):
        return f"returned {type(result).__name__}", "return a RequestHead or a Reply"
    if not result.path.startswith("/"):
        return f"returned the path {result.path!r}", "return one that starts with '/'"
    return check_headers(result.headers)


def check_request_body(result: object) -> Fault | None:
    """Of `on_request_body`."""
    if isinstance(result, Reply):
        return check_reply(result)
    if isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], bytes):
        return check_request(result[0]) if isinstance(result[0], RequestHead) else ("returned no head", "return one")
    if isinstance(result, bytes):
        return None
    return f"returned {type(result).__name__}", "return bytes, (RequestHead, bytes) or a Reply"


def check_response(result: object) -> Fault | None:
    """Of `on_response`."""
    if isinstance(result, Reply):
        return check_reply(result)
    if not isinstance(result, ResponseHead):
        return f"returned {type(result).__name__}", "return a ResponseHead or a Reply"
    return check_headers(result.headers) or check_status(result.status)


def check_response_body(result: object) -> Fault | None:
    """Of `on_response_body`."""
    if isinstance(result, Reply):
        return check_reply(result)
    return None if isinstance(result, bytes) else (f"returned {type(result).__name__}", "return bytes or a Reply")


def check_choice(result: object, upstreams: tuple[str, ...]) -> Fault | None:
    """Of `on_route`."""
    if isinstance(result, Reply):
        return check_reply(result)
    if not isinstance(result, RouteChoice):
        return f"returned {type(result).__name__}", "return a RouteChoice or a Reply"
    if result.upstream not in upstreams:
        return f"chose the upstream {result.upstream!r}", f"choose one of {', '.join(upstreams)}"
    return None


def check_piece(result: object) -> Fault | None:
    """Of a `BodyStream`'s methods."""
    return None if isinstance(result, bytes) else (f"returned {type(result).__name__}", "return bytes")


def check_message(result: object) -> Fault | None:
    """Of the hooks on WebSocket messages."""
    if isinstance(result, Close):
        code, reason = result.code, result.reason
        if code not in {1000, 1001, 1003, *range(1007, 1014)} and not 3000 <= code <= 4999:
            return f"closed with {code}", "use 1000, 1001, 1003, 1007 to 1013, or 3000 to 4999"
        if len(reason.encode()) > _MAX_CLOSE_REASON:
            return "closed with a reason that is too long", f"use at most {_MAX_CLOSE_REASON} bytes"
        return None
    if result is None or (isinstance(result, Message) and isinstance(result.data, str | bytes)):
        return None
    return f"returned {type(result).__name__}", "return a Message, None or Close"


def check_type(result: object, *wanted: type[Any]) -> Fault | None:
    """Of hooks whose result is a value of its own."""
    if isinstance(result, Refusal) and Refusal in wanted:
        ok = bool(result.reason) and bool(result.message)
        return None if ok else ("refused without saying why", "give a reason and a message")
    if isinstance(result, wanted):
        return None
    names = " or ".join("None" if kind is type(None) else kind.__name__ for kind in wanted)
    return f"returned {type(result).__name__}", f"return {names}"


EVENT, OPERATION, RESOLVED, MANIFEST = (Event, Refusal), (Operation, Refusal), (Resolved,), (Manifest, Refusal)
