"""Hooks around one HTTP request. Heads are values: a hook returns a changed copy, it never mutates."""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import Field, dataclass, field
from typing import Any, ClassVar, Protocol

import msgspec

API_VERSION = "1.0"
"""Version of this contract. A plugin names the range it works with; the gateway refuses others."""

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
    """

    method: str
    path: str
    query: str = ""
    host: str = ""
    headers: Headers = ()
    client_ip: str = ""
    route: str = ""

    # A Struct is made in a quarter of the time a frozen dataclass takes; this lets `dataclasses.replace` take it for one.
    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    def header(self, name: str) -> str | None:
        """Return the first value of a header, or None. name: lower-case."""
        for pair in self.headers:
            if pair[0] == name:
                return pair[1]
        return None

    def with_headers(self, headers: Headers) -> RequestHead:
        """Return a copy with these headers."""
        return RequestHead(self.method, self.path, self.query, self.host, headers, self.client_ip, self.route)

    def with_header(self, name: str, value: str) -> RequestHead:
        """Return a copy in which `name` (lower-case) has just this value, at the end."""
        headers = _with(self.headers, name, value)
        return RequestHead(self.method, self.path, self.query, self.host, headers, self.client_ip, self.route)

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


class HttpPlugin(Protocol):
    """One plugin instance. Hooks may be plain functions or coroutines; each call has `timeout_s` and a failure policy."""

    def on_request(self, request: RequestHead) -> RequestHead | Reply | Awaitable[RequestHead | Reply]:
        """Return the head that goes on, or a reply that ends the request. Called after routing, before balancing."""
        ...

    def on_response(self, request: RequestHead, response: ResponseHead) -> ResponseHead | Awaitable[ResponseHead]:
        """Return the head the client gets. request: as this plugin's `on_request` returned it. Runs in reverse order."""
        ...

    async def start(self) -> None:
        """Called once before the first request. Raising keeps the plugin from being used."""
        ...

    async def stop(self) -> None:
        """Called once after the last request."""
        ...
