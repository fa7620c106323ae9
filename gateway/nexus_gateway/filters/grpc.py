"""gRPC's statuses and HTTP's: what a gRPC client is told when the gateway answers itself, where a page for people would be lost
on it, and what a service means that answers a call.

Source: gRPC over HTTP/2, "Responses" (Trailers-Only), and gRPC's "HTTP to gRPC Status Code Mapping". The other direction has no
mapping of gRPC's own; it is the one of Google's APIs (`google.rpc.Code`), which transcoders and other proxies use.
"""

from __future__ import annotations

import json
from http import HTTPStatus

from nexus_core.hooks import Reply
from nexus_wire.http2.calls import is_grpc

DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED, INTERNAL, UNAVAILABLE = 4, 8, 13, 14
UNKNOWN = 2
_BY_STATUS = {400: 13, 401: 16, 403: 7, 404: 12, 429: 14, 502: 14, 503: 14, 504: 14}
_BY_REASON = {
    "RequestTimeout": DEADLINE_EXCEEDED, "BodyTooLarge": RESOURCE_EXHAUSTED, "ResponseTooLarge": RESOURCE_EXHAUSTED,
    "HeadTooLarge": RESOURCE_EXHAUSTED, "InternalError": INTERNAL, "BackendNotFound": UNAVAILABLE, "NoBackends": UNAVAILABLE,
}  # fmt: skip
"""Where the reason says more than its status. The last two: what the Gateway API asks of a GRPCRoute without a valid backend."""
_HTTP = {
    0: 200, 1: 499, 2: 500, 3: 400, 4: 504, 5: 404, 6: 409, 7: 403, 8: 429, 9: 400, 10: 409, 11: 400, 12: 404, 13: 500, 14: 503,
    15: 500, 16: 401,
}  # fmt: skip
"""`UNIMPLEMENTED` is 404, the status that means it in the other direction, and not 501: it is clients who choose the method's name,
and asking for one that is not there must not count against an endpoint.
"""
_LEFT_OUT = frozenset({"content-type", "content-length", "cache-control"})
_MAX_MESSAGE = 1024
_PLAIN = frozenset(range(0x20, 0x7F)) - {0x25}


def is_call(content_type: str | None) -> bool:
    """Return whether a request is a gRPC call. content_type: its header, None without one."""
    return content_type is not None and is_grpc(content_type.encode("latin-1", "replace"))


def status_of(status: int, reason: str) -> int:
    """Return the gRPC status that says what an HTTP status does. reason: the gateway's own, empty for somebody else's answer."""
    return _BY_REASON.get(reason) or _BY_STATUS.get(status, UNKNOWN)


def http_status_of(code: int) -> int:
    """Return the HTTP status that says what a gRPC status does. One that gRPC does not know means `UNKNOWN`, as to its clients."""
    return _HTTP.get(code, 500)


def build_reply(reply: Reply, code: int) -> Reply:
    """Return an error as gRPC's clients read it: status and message in the head, and no body. code: gRPC's."""
    kept = tuple(pair for pair in reply.headers if pair[0].lower() not in _LEFT_OUT)
    said = (
        ("content-type", "application/grpc"),
        ("grpc-status", str(code)),
        ("grpc-message", escape(_message(reply))),
    )
    return Reply(200, (*said, *kept), b"")


def escape(message: str) -> str:
    """Return a message as `grpc-message` has it: UTF-8, percent-encoded but for visible ASCII."""
    data = message.encode("utf-8", "replace")[:_MAX_MESSAGE]
    return "".join(chr(byte) if byte in _PLAIN else f"%{byte:02X}" for byte in data)


def _message(reply: Reply) -> str:
    """Return what a problem's page says in a sentence or two; else what its status means."""
    if any(name.lower() == "content-type" and "json" in value for name, value in reply.headers):
        try:
            said = json.loads(bytes(reply.body))
        except ValueError:
            said = None
        if isinstance(said, dict) and isinstance(said.get("title"), str):
            detail = said.get("detail")
            return f"{said['title']}: {detail}" if isinstance(detail, str) and detail else str(said["title"])
    known = reply.status in HTTPStatus._value2member_map_
    return HTTPStatus(reply.status).phrase if known else f"HTTP status {reply.status}"
