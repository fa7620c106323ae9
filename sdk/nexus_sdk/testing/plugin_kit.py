"""Drives one plugin as the gateway would, and says where it breaks the contract of `nexus_core.hooks.http`."""

from __future__ import annotations

import asyncio
import inspect
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from nexus_core.hooks import Headers, Plugin, Reply, RequestHead, ResponseHead

T = TypeVar("T")

_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9a-z]+\Z")
_FORBIDDEN = re.compile(r"[\x00\r\n]")


class PluginContractError(AssertionError):
    """The plugin broke the contract: which hook, what it did, what it has to do."""


@dataclass(frozen=True, slots=True)
class Timing:
    """One call of a hook. seconds: wall-clock, awaiting included."""

    hook: str
    seconds: float


class PluginKit:
    """One instance of a plugin between `start` and `stop`: `async with PluginKit(MyPlugin, {"header": "x"}) as kit:`.

    timeout_s: what the gateway allows each hook call. Construction raises what the plugin's `__init__` raises.
    """

    def __init__(
        self,
        plugin: Callable[[Mapping[str, Any]], Plugin],
        config: Mapping[str, Any] | None = None,
        *,
        timeout_s: float = 1.0,
    ) -> None:
        self._name = getattr(plugin, "__name__", str(plugin))
        self._timeout_s = timeout_s
        self.plugin = plugin(dict(config or {}))
        self.timings: list[Timing] = []
        """Every hook call so far, oldest first."""

    async def __aenter__(self) -> PluginKit:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        await self._call("start", self.plugin.start())

    async def stop(self) -> None:
        await self._call("stop", self.plugin.stop())

    async def request(self, head: RequestHead) -> RequestHead | Reply:
        """Run `on_request`. Raises PluginContractError, and whatever the hook raises."""
        before = repr(head)
        result = await self._call("on_request", lambda: self.plugin.on_request(head))
        if repr(head) != before:
            raise self._broken(
                "on_request", "changed the head it was given", "return a changed copy: head.with_header(…)"
            )
        if isinstance(result, RequestHead):
            self._check_headers("on_request", result.headers)
            if not result.path.startswith("/"):
                raise self._broken(
                    "on_request", f"returned the path {result.path!r}", "return one that starts with '/'"
                )
        elif isinstance(result, Reply):
            self._check_headers("on_request", result.headers)
            self._check_status("on_request", result.status)
            if not isinstance(result.body, bytes):
                raise self._broken(
                    "on_request", f"replied with a body of {type(result.body).__name__}", "encode it to bytes"
                )
        else:
            raise self._broken("on_request", f"returned {type(result).__name__}", "return a RequestHead or a Reply")
        return result

    async def response(self, request: RequestHead, head: ResponseHead) -> ResponseHead:
        """Run `on_response`. request: what `request` returned. Raises as `request` does."""
        result = await self._call("on_response", lambda: self.plugin.on_response(request, head))
        if not isinstance(result, ResponseHead):
            raise self._broken("on_response", f"returned {type(result).__name__}", "return a ResponseHead")
        self._check_headers("on_response", result.headers)
        self._check_status("on_response", result.status)
        return result

    async def exchange(
        self, head: RequestHead, upstream: Callable[[RequestHead], ResponseHead] = lambda _: ResponseHead(200)
    ) -> ResponseHead | Reply:
        """Run a request through both hooks; `upstream` answers what `on_request` let pass."""
        passed = await self.request(head)
        return passed if isinstance(passed, Reply) else await self.response(passed, upstream(passed))

    async def _call(self, hook: str, work: Callable[[], T | Awaitable[T]] | Awaitable[T]) -> T:
        loop = asyncio.get_running_loop()
        started = loop.time()
        limit = asyncio.timeout(self._timeout_s)
        try:
            async with limit:
                result = work() if callable(work) else work
                value = await result if inspect.isawaitable(result) else result
        except TimeoutError as error:
            if limit.expired():
                raise self._slow(hook) from error
            raise
        seconds = loop.time() - started
        self.timings.append(Timing(hook, seconds))
        if seconds > self._timeout_s:  # without an await inside, no timeout can interrupt it
            raise self._slow(hook)
        return value

    def _check_headers(self, hook: str, headers: Headers) -> None:
        if not isinstance(headers, tuple):
            raise self._broken(
                hook, f"returned headers as {type(headers).__name__}", "return a tuple of (name, value) pairs"
            )
        for pair in headers:
            if not (isinstance(pair, tuple) and len(pair) == 2 and all(isinstance(part, str) for part in pair)):
                raise self._broken(hook, f"returned the header {pair!r}", "return pairs of text")
            name, value = pair
            if not _NAME.match(name):
                raise self._broken(hook, f"returned the header name {name!r}", "use a lower-case HTTP token")
            if _FORBIDDEN.search(value):
                raise self._broken(
                    hook, f"returned a line break in header {name!r}", "remove it: it would split the message"
                )

    def _check_status(self, hook: str, status: object) -> None:
        if not isinstance(status, int) or not 200 <= status <= 599:
            raise self._broken(hook, f"returned status {status!r}", "return a final status, 200..599")

    def _slow(self, hook: str) -> PluginContractError:
        return self._broken(
            hook,
            f"took longer than {self._timeout_s:g} s",
            "await what is slow with a deadline, and do not block the event loop",
        )

    def _broken(self, hook: str, what: str, fix: str) -> PluginContractError:
        return PluginContractError(f"{self._name}.{hook} {what}; {fix}.")
