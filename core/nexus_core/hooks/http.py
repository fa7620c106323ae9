"""Hooks around one HTTP request. Heads are values: a hook returns a changed copy, it never mutates."""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import dataclass, replace
from typing import Protocol

API_VERSION = "1.0"
"""Version of this contract. A plugin names the range it works with; the gateway refuses others."""

Headers = tuple[tuple[str, str], ...]
"""Names lower-case, in wire order, repeats kept."""


@dataclass(frozen=True, slots=True)
class RequestHead:
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

    def header(self, name: str) -> str | None:
        """Return the first value of a header, or None. name: lower-case."""
        return next((value for key, value in self.headers if key == name), None)

    def with_header(self, name: str, value: str) -> RequestHead:
        """Return a copy in which `name` (lower-case) has just this value, at the end."""
        return replace(self, headers=(*(h for h in self.headers if h[0] != name), (name, value)))

    def without_header(self, name: str) -> RequestHead:
        """Return a copy without any `name` (lower-case)."""
        return replace(self, headers=tuple(h for h in self.headers if h[0] != name))


@dataclass(frozen=True, slots=True)
class ResponseHead:
    """A response before its body is passed on."""

    status: int
    headers: Headers = ()

    def header(self, name: str) -> str | None:
        """Return the first value of a header, or None. name: lower-case."""
        return next((value for key, value in self.headers if key == name), None)

    def with_header(self, name: str, value: str) -> ResponseHead:
        """Return a copy in which `name` (lower-case) has just this value, at the end."""
        return replace(self, headers=(*(h for h in self.headers if h[0] != name), (name, value)))


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
