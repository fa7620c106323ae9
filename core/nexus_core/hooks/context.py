"""What a plugin may use of the process it runs in. Everything else is asked for in `plugin.yaml`, and granted by the NexusPlugin."""

from __future__ import annotations

import logging
from collections.abc import Coroutine, Mapping
from typing import Any, Protocol

import msgspec

from nexus_core.hooks.http import Headers


class NotGranted(PermissionError):
    """The plugin used what its NexusPlugin does not grant. The text says what, and which grant it takes."""


class CallFailed(Exception):
    """A call of `Context.call` brought no answer: refused, broken off, too large or out of time. The text says which."""


class Called(msgspec.Struct, frozen=True):
    """The answer of a call. headers: names lower-case."""

    status: int
    headers: Headers = ()
    body: bytes = b""

    def header(self, name: str) -> str | None:
        """Return the first value of a header, or None. name: lower-case."""
        return next((value for each, value in self.headers if each == name), None)


class Context(Protocol):
    """One instance's means. There before `__init__` runs, as `self.context`.

    plugin: `<namespace>/<name>` of the NexusPlugin. version: of the release. workers: processes of this gateway, each with an instance
    of its own, at least 1. secrets: granted ones by the name that `plugin.yaml` gives them. log: lines go to the plugin's log stream.
    """

    plugin: str
    version: str
    workers: int
    secrets: Mapping[str, str]
    log: logging.Logger

    async def call(
        self, method: str, url: str, *, headers: Headers = (), body: bytes = b"", timeout_s: float = 5.0
    ) -> Called:
        """Return the answer to an HTTP request. Redirects are not followed; an answer of any status is an answer.

        url: `http(s)://host[:port]/…` of a host in `permissions.network`, or `nexus://<namespace>/<name>/…` for a NexusService in
        `permissions.services`, one of whose live endpoints is taken. In a gateway such a call is made as a request to the service
        would be: over TLS where a policy says so, and with that policy's trust; in services it is made in clear, and refused where it
        would have to be over TLS. Raises `NotGranted`, `CallFailed`, the latter also for a service that does not prove to be who it
        should be, or does not speak HTTP/1.1.
        """
        ...

    async def redis(self, url: str) -> Any:
        """Return a `redis.asyncio.Redis` for `redis(s)://host:port/db`, the same one for the same url, closed with the plugin.

        The host has to be in `permissions.network`. Raises `NotGranted`.
        """
        ...

    async def consul(self, key: str) -> bytes | None:
        """Return a key's value from Consul's KV, None when there is none. key: below a prefix in `permissions.consul`.

        Raises `NotGranted`, `CallFailed`.
        """
        ...

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        """Run work in the background; it is cancelled when the plugin stops. At most 64 at once, else RuntimeError."""
        ...
