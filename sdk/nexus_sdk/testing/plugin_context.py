"""The context of a plugin under test: what is granted is said by the test, and what is called is answered by it."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from nexus_core.hooks import Called, CallFailed, Headers, NotGranted

_MAX_TASKS = 64


@dataclass(frozen=True, slots=True)
class Call:
    """One call that the plugin made."""

    method: str
    url: str
    headers: Headers = ()
    body: bytes = b""
    timeout_s: float = 5.0

    def header(self, name: str) -> str | None:
        """Return the first value of a header, or None. name: lower-case."""
        return next((value for each, value in self.headers if each == name), None)


Answer = Callable[[Call], Called | Awaitable[Called]]


class FakeContext:
    """A `nexus_core.hooks.Context` without a gateway.

    hosts: what `call` and `redis` may reach, as `host` or `host:port`; None for anything. services: `<namespace>/<name>`s; None for any.
    answer: what calls get; without it a call fails as one to a host that is down. keys: Consul's. calls: made so far, oldest first.
    """

    def __init__(
        self,
        *,
        plugin: str = "default/plugin",
        version: str = "0",
        workers: int = 1,
        secrets: Mapping[str, str] | None = None,
        hosts: frozenset[str] | None = None,
        services: frozenset[str] | None = None,
        answer: Answer | None = None,
        keys: Mapping[str, bytes] | None = None,
    ) -> None:
        self.plugin = plugin
        self.version = version
        self.workers = workers
        self.secrets: Mapping[str, str] = dict(secrets or {})
        self.log = logging.getLogger(f"nexus.plugin.{plugin.replace('/', '.')}")
        self.calls: list[Call] = []
        self.tasks: set[asyncio.Task[None]] = set()
        self._hosts = hosts
        self._services = services
        self._answer = answer
        self._keys = dict(keys or {})
        self._redis: dict[str, Any] = {}

    async def call(
        self, method: str, url: str, *, headers: Headers = (), body: bytes = b"", timeout_s: float = 5.0
    ) -> Called:
        """As `Context.call`: answered by the test."""
        self._check(url)
        made = Call(method, url, headers, body, timeout_s)
        self.calls.append(made)
        if self._answer is None:
            raise CallFailed(f"{url} did not answer: the test has no answer for it.")
        try:
            async with asyncio.timeout(timeout_s):
                answered = self._answer(made)
                return await answered if inspect.isawaitable(answered) else answered
        except TimeoutError as error:
            raise CallFailed(f"{url} did not answer within {timeout_s:g} s.") from error

    async def redis(self, url: str) -> Any:
        """As `Context.redis`: a real client."""
        self._check(url)
        if url not in self._redis:
            from redis.asyncio import Redis

            self._redis[url] = Redis.from_url(url)
        return self._redis[url]

    async def consul(self, key: str) -> bytes | None:
        """As `Context.consul`: from the test's keys."""
        return self._keys.get(key)

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        """As `Context.spawn`."""
        if len(self.tasks) >= _MAX_TASKS:
            work.close()
            raise RuntimeError(f"{self.plugin} has {_MAX_TASKS} background tasks already.")
        task = asyncio.get_running_loop().create_task(work, name=name)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def settle(self) -> None:
        """Wait until all background work is done; raises what it raised."""
        while self.tasks:
            await asyncio.gather(*self.tasks)

    async def close(self) -> None:
        """Cancel background work and close connections, as a gateway does when the plugin stops."""
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        for client in self._redis.values():
            await client.aclose()
        self._redis.clear()

    def _check(self, url: str) -> None:
        parts = urlsplit(url)
        host = (parts.hostname or "").rstrip(".").lower()
        if parts.scheme == "nexus":
            name = f"{host}/{parts.path.lstrip('/').split('/', 1)[0]}"
            if self._services is not None and name not in self._services and "*" not in self._services:
                raise NotGranted(f"{self.plugin} may not call the NexusService {name}; permissions.services lacks it.")
            return
        if self._hosts is None or host in self._hosts or f"{host}:{parts.port}" in self._hosts:
            return
        raise NotGranted(f"{self.plugin} may not reach {host}; permissions.network lacks it.")
