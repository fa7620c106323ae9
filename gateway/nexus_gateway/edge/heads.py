"""Between aiohttp's messages and our heads: what is read, refused, removed and added on the way through."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address

from aiohttp import HttpVersion11
from aiohttp.web import BaseRequest
from multidict import CIMultiDict
from nexus_core.hooks import Headers, RequestHead
from nexus_sdk import deadlines

from nexus_core.match import hosts, paths
from nexus_gateway.settings import Network

# RFC 9110 section 7.6.1 and what else speaks of one connection only.
HOP_BY_HOP = frozenset(
    {"connection", "keep-alive", "proxy-connection", "proxy-authenticate", "proxy-authorization", "te", "trailer",
     "transfer-encoding", "upgrade", "http2-settings"}
)  # fmt: skip
_FRAMING = HOP_BY_HOP | {"content-length"}
# Listing one of these in Connection asks the next hop not to see it: a known way to make upstreams misjudge a request.
_NOT_CONNECTION_OPTIONS = frozenset(
    {"host", "content-length", "content-type", "authorization", "cookie", "x-request-id", "x-forwarded-for",
     "x-forwarded-proto", "x-forwarded-host", "traceparent", "tracestate"}
)  # fmt: skip
# Made anew for the upstream.
_OURS = frozenset({"host", "forwarded", "x-forwarded-proto", "x-forwarded-host", "x-request-id"})
_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")
_REFUSED_METHODS = frozenset({"CONNECT", "TRACE"})
MAX_HEADERS = 128


class RequestRefused(Exception):
    """The request is not passed on. reason: of `replies.TITLES`."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Inbound:
    """A request as it came in. request: what plugins and filters see: end-to-end headers only.

    headers: for matching; names lower-case, repeats joined by `,`. port: the client's, from Host; 0 for none.
    upgrade: `websocket` when the client asks for it, else empty: other upgrades are not passed on.
    last: whether the connection ends with this request: its server has stopped parsing at an upgrade that is not made.
    """

    request: RequestHead
    headers: Mapping[str, str]
    scheme: str
    port: int
    upgrade: str
    request_id: str
    last: bool


def read(message: BaseRequest, trusted: Sequence[Network], max_head_bytes: int) -> Inbound:
    """Return the request's head, checked and cleaned. Raises `RequestRefused`."""
    method = message.method
    # aiohttp bounds each line and their number; this bounds them together.
    if sum(len(name) + len(value) + 4 for name, value in message.raw_headers) + len(message.raw_path) > max_head_bytes:
        raise RequestRefused("HeadTooLarge", "")
    if method in _REFUSED_METHODS:
        raise RequestRefused("MethodRefused", f"{method} is not passed on.")
    raw: list[tuple[str, str]] = [
        (name.decode("ascii", "replace").lower(), text(value)) for name, value in message.raw_headers
    ]
    host_values = [value for name, value in raw if name == "host"]
    path, query, absolute_host = _split_target(message.raw_path)
    if len(host_values) > 1 or (not host_values and message.version >= HttpVersion11):
        raise RequestRefused("BadRequest", "A request needs exactly one Host header.")
    authority = absolute_host or (host_values[0] if host_values else "")
    try:
        host, port = hosts.parse(authority) if authority else ("", "")
        path = paths.normalise(path)
    except (hosts.HostRefused, paths.PathRefused) as refused:
        raise RequestRefused("BadRequest", str(refused)) from refused
    if any(name == "transfer-encoding" and value.strip().lower() != "chunked" for name, value in raw):
        raise RequestRefused("BadRequest", "The only transfer coding that is taken is chunked.")
    options = connection_options(value for name, value in raw if name == "connection")
    if not options.isdisjoint(_NOT_CONNECTION_OPTIONS):
        raise RequestRefused("BadRequest", "The Connection header names an end-to-end header.")
    upgrade = ""
    if "upgrade" in options and method == "GET" and joined_upgrade(raw) == "websocket":
        # No other protocol: an h2c tunnel, for one, would carry requests that no route, plugin or limit ever sees.
        upgrade = "websocket"
    peer = message.remote or ""
    believed = is_trusted(peer, trusted)
    joined: dict[str, str] = {}
    kept: list[tuple[str, str]] = []
    forwarded_for: list[str] = []
    proto = "https" if message.secure else "http"
    forwarded_host = authority
    for name, value in raw:
        joined[name] = f"{joined[name]},{value}" if name in joined else value
        if name in HOP_BY_HOP or name in options or name == "expect":
            continue
        if name == "x-forwarded-for":
            forwarded_for.append(value)
        elif name in _OURS or (name.startswith("x-forwarded-") and not believed):
            # Also X-Forwarded-Port, -Prefix and whatever else services take for a proxy's word.
            continue
        else:
            kept.append((name, value))
    request_id = joined.get("x-request-id", "")
    if not _REQUEST_ID.fullmatch(request_id):
        request_id = uuid.uuid4().hex
    if believed:
        proto = joined.get("x-forwarded-proto", proto)
        forwarded_host = joined.get("x-forwarded-host", forwarded_host)
        chain = ", ".join((*forwarded_for, peer))
    else:
        chain = peer
    head = RequestHead(
        method=method,
        path=path,
        query=query,
        host=host,
        headers=(
            *((("host", authority),) if authority else ()),
            *kept,
            ("x-forwarded-for", chain),
            ("x-forwarded-proto", proto),
            *((("x-forwarded-host", forwarded_host),) if forwarded_host else ()),
            ("x-request-id", request_id),
        ),
        client_ip=peer,
    )
    return Inbound(
        head,
        joined,
        proto if proto in ("http", "https") else "http",
        int(port or 0),
        upgrade,
        request_id,
        last="upgrade" in options and not upgrade,
    )


def _split_target(target: str) -> tuple[str, str, str]:
    """Return path, query and the authority of an absolute-form target (RFC 9112 section 3.2)."""
    authority = ""
    if not target.startswith("/"):
        scheme, separator, rest = target.partition("://")
        if not separator or scheme.lower() not in ("http", "https"):
            raise RequestRefused("BadRequest", "The request target is neither a path nor an absolute URL.")
        at = min((i for i in (rest.find("/"), rest.find("?")) if i >= 0), default=len(rest))
        authority, target = rest[:at], rest[at:]
        if "@" in authority or not authority:
            raise RequestRefused("BadRequest", "The request target's authority is not a host with an optional port.")
        if not target.startswith("/"):
            target = "/" + target
    path, _, query = target.partition("?")
    if not query.isascii() or not query.isprintable() or " " in query or "#" in query:
        raise RequestRefused("BadRequest", "The query holds a character that must be percent-encoded.")
    return path, query, authority


def joined_upgrade(headers: Iterable[tuple[str, str]]) -> str:
    """Return the one protocol that is asked for, lower-case; empty for none, joined by `,` for several."""
    return ",".join(value.strip().lower() for name, value in headers if name == "upgrade")


def text(value: bytes) -> str:
    """Return a header value as text: UTF-8, else ISO-8859-1, which HTTP once meant. It goes on as UTF-8.

    Not `surrogateescape`: aiohttp's writer drops what that makes of other bytes, in silence.
    """
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


def connection_options(values: Iterable[str]) -> frozenset[str]:
    """Return the tokens of Connection headers, lower-case."""
    return frozenset(token.strip().lower() for value in values for token in value.split(",") if token.strip())


def is_trusted(peer: str, trusted: Sequence[Network]) -> bool:
    """Return whether the peer's forwarding headers are believed."""
    if not trusted:
        return False
    try:
        address = ip_address(peer)
    except ValueError:
        return False
    return any(address in network for network in trusted)


def outbound(headers: Headers, origin: Headers) -> CIMultiDict[str]:
    """Return headers as aiohttp sends them. origin: those of the message that the body belongs to.

    How long a message is follows from the body that comes with it: a Content-Length or Transfer-Encoding of a plugin or
    filter would make the next message on the connection part of this one, or the other way round.
    """
    kept = CIMultiDict((name, value) for name, value in headers if name.lower() not in _FRAMING)
    for name, value in origin:
        if name == "content-length":
            kept[name] = value
    return kept


def from_upstream(raw: Iterable[tuple[bytes, bytes]]) -> Headers:
    """Return an upstream's end-to-end response headers: hop-by-hop and Connection-listed ones are gone."""
    pairs = [(name.decode("ascii", "replace").lower(), text(value)) for name, value in raw]
    options = connection_options(value for name, value in pairs if name == "connection")
    return tuple((name, value) for name, value in pairs if name not in HOP_BY_HOP and name not in options)


DEADLINE = "x-request-timeout"
"""Seconds the caller still waits, decimal; `nexus_sdk.deadlines` speaks the same."""


def client_timeout_s(headers: Mapping[str, str]) -> float | None:
    """Return the caller's deadline in seconds; None without a valid one."""
    text = headers.get(DEADLINE)
    return deadlines.parse(text) if text is not None else None
