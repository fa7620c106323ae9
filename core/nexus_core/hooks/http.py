"""What hooks around one HTTP request see. Heads are values: a hook returns a changed copy, it never mutates."""

from __future__ import annotations

from dataclasses import Field, dataclass, field
from typing import Any, ClassVar, Protocol

import msgspec

API_VERSION = "1.1"
"""Version of this contract. A plugin names the range it works with; whoever runs plugins refuses others."""

Headers = tuple[tuple[str, str], ...]
"""Names lower-case, in wire order, repeats kept."""


def _with(headers: Headers, name: str, value: str) -> Headers:
    """Return the headers in which `name` has just this value, at the end; what is before it stays the same pairs."""
    for pair in headers:
        if pair[0] == name:
            return (*[each for each in headers if each[0] != name], (name, value))
    return (*headers, (name, value))


class RequestHead(msgspec.Struct, frozen=True):
    """A request as the client sent it.

    path: percent-encoded, without query. query: without `?`, empty for none. host: lower-case, without port.
    client_ip: the peer's address. route: `Route.id` that was chosen.
    notes: what plugins keep of this one request for their later hooks, under their own names (`request.notes[self.context.plugin] = …`).
    The one thing of a head that is changed in place: all copies of it share them, and they end with the request, or its WebSocket.
    """

    method: str
    path: str
    query: str = ""
    host: str = ""
    headers: Headers = ()
    client_ip: str = ""
    route: str = ""
    notes: dict[str, Any] = {}

    # A Struct is made in a quarter of the time a frozen dataclass takes; this lets `dataclasses.replace` take it for one.
    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    def __hash__(self) -> int:
        return hash((self.method, self.path, self.query, self.host, self.headers, self.client_ip, self.route))

    def header(self, name: str) -> str | None:
        """Return the first value of a header, or None. name: lower-case."""
        for pair in self.headers:
            if pair[0] == name:
                return pair[1]
        return None

    def with_headers(self, headers: Headers) -> RequestHead:
        """Return a copy with these headers."""
        return RequestHead(
            self.method, self.path, self.query, self.host, headers, self.client_ip, self.route, self.notes
        )

    def with_header(self, name: str, value: str) -> RequestHead:
        """Return a copy in which `name` (lower-case) has just this value, at the end."""
        headers = self.headers
        for pair in headers:
            if pair[0] == name:
                headers = _with(headers, name, value)
                break
        else:
            headers = (*headers, (name, value))
        return RequestHead(
            self.method, self.path, self.query, self.host, headers, self.client_ip, self.route, self.notes
        )

    def without_header(self, name: str) -> RequestHead:
        """Return a copy without any `name` (lower-case)."""
        return self.with_headers(tuple([pair for pair in self.headers if pair[0] != name]))


class ResponseHead(msgspec.Struct, frozen=True):
    """A response before its body is passed on."""

    status: int
    headers: Headers = ()

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    def header(self, name: str) -> str | None:
        """Return the first value of a header, or None. name: lower-case."""
        for pair in self.headers:
            if pair[0] == name:
                return pair[1]
        return None

    def with_headers(self, headers: Headers) -> ResponseHead:
        """Return a copy with these headers."""
        return ResponseHead(self.status, headers)

    def with_header(self, name: str, value: str) -> ResponseHead:
        """Return a copy in which `name` (lower-case) has just this value, at the end."""
        return ResponseHead(self.status, _with(self.headers, name, value))


def _fields_of(head: type[msgspec.Struct]) -> dict[str, Field[Any]]:
    """Return what `dataclasses.replace` looks for on a type: its fields, all of them arguments of its constructor."""

    @dataclass
    class Twin:
        pass

    for name in head.__struct_fields__:
        Twin.__annotations__[name] = object
        setattr(Twin, name, field(default=None))
    return dict(dataclass(Twin).__dataclass_fields__)


for _head in (RequestHead, ResponseHead):
    _head.__dataclass_fields__ = _fields_of(_head)


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer made by the gateway or a plugin; the upstream is not called."""

    status: int
    headers: Headers = ()
    body: bytes = b""


class RouteChoice(msgspec.Struct, frozen=True):
    """Where a request is about to go.

    route: `Route.id`. rule: the rule's id in it. upstream: the one that was chosen by weight. upstreams: all of the rule, in its order.
    """

    route: str
    rule: str
    upstream: str
    upstreams: tuple[str, ...] = ()

    def with_upstream(self, upstream: str) -> RouteChoice:
        """Return the choice with another of `upstreams`."""
        return RouteChoice(self.route, self.rule, upstream, self.upstreams)


class Endpoint(msgspec.Struct, frozen=True):
    """Where one attempt goes. authority: `host:port`. upstream: whose endpoint it is. attempt: 1 for the first."""

    authority: str
    upstream: str
    attempt: int = 1


class BodyStream(Protocol):
    """Changes a body while it passes, piece by piece. One object for each body; it holds no more than it must."""

    def feed(self, data: bytes) -> bytes:
        """Return what goes on now; empty while more is needed. data: never empty."""
        ...

    def finish(self) -> bytes:
        """Return what is left at the body's end. Called once, and not when the body breaks off."""
        ...


class Done(msgspec.Struct, frozen=True):
    """A request that is over.

    status: what the client got, 499 when it left before. reason: why the gateway answered itself or broke off, empty otherwise.
    upstream, endpoint: empty when none was reached. seconds: from the request's head to the response's last byte.
    bytes_in, bytes_out: of the bodies. trace_id: 32 hex digits. at_unix_s: when the request came.
    """

    status: int
    reason: str = ""
    route: str = ""
    upstream: str = ""
    endpoint: str = ""
    attempts: int = 0
    seconds: float = 0.0
    bytes_in: int = 0
    bytes_out: int = 0
    trace_id: str = ""
    request_id: str = ""
    at_unix_s: float = 0.0
