"""What the tour's steps talk to: the gateway, the place traces are kept, and the home of the plugins."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import aiohttp

from nexus_cli.plugins.homes import Home

T = TypeVar("T")
WAIT_S = 20.0
"""How long a step waits for what comes by itself: an event, a delivery, a plugin, a trace."""
POLL_S = 0.1


class StepError(Exception):
    """A step did not show what it should. The text says what was seen and where to look."""


@dataclass(frozen=True, slots=True)
class Answer:
    """status, headers (lower-case names), body, text: of a response. request: how to repeat it, a curl line."""

    status: int
    headers: Mapping[str, str]
    text: str
    request: str

    def json(self) -> Any:
        try:
            return json.loads(self.text)
        except ValueError as error:
            raise StepError(f"{self.request} did not answer JSON: {self.text[:200]!r}") from error

    def require(self, status: int) -> Answer:
        """Return self, or raise StepError for another status."""
        if self.status != status:
            raise StepError(f"{self.request} answered {self.status}, not {status}: {self.text[:300]}")
        return self


@dataclass
class World:
    """gateway: base URL. traces: reads one trace as the admin API gives it, None while there is none.

    plugins: None when nobody told where they are kept. found: what earlier steps learned (`item`, `order`, `trace_id`).
    """

    session: aiohttp.ClientSession
    gateway: str
    traces: Callable[[str], Awaitable[dict[str, Any] | None]]
    plugins: Home | None
    api_key: str
    found: dict[str, Any] = field(default_factory=dict)

    async def call(
        self, method: str, path: str, *, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """Send a request through the gateway. Raises StepError when nobody answers."""
        sent = {"content-type": "application/json"} if body is not None else {}
        sent.update(headers or {})
        text = None if body is None else json.dumps(body)
        shown = curl_line(method, self.gateway + path, sent, text)
        try:
            async with self.session.request(method, self.gateway + path, data=text, headers=sent) as reply:
                found = {name.lower(): value for name, value in reply.headers.items()}
                return Answer(reply.status, found, await reply.text(errors="replace"), shown)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            why = str(error) or type(error).__name__
            raise StepError(f"{shown} got no answer ({why}). Is the shop running? `make run` starts it.") from error

    async def eventually(self, look: Callable[[], Awaitable[T | None]], what: str, *, wait_s: float = WAIT_S) -> T:
        """Return what `look` finds, asked again until it finds something. Raises StepError after `wait_s`."""
        deadline = time.monotonic() + wait_s
        while True:
            found = await look()
            if found is not None:
                return found
            if time.monotonic() > deadline:
                raise StepError(f"{what} did not happen within {wait_s:g} s.")
            await asyncio.sleep(POLL_S)


def curl_line(method: str, url: str, headers: Mapping[str, str], body: str | None) -> str:
    """Return the request as a command that can be copied."""
    parts = ["curl"]
    if method != ("GET" if body is None else "POST"):
        parts.append(f"-X {method}")
    parts.append(shlex.quote(url))
    parts.extend(f"-H '{name}: {value}'" for name, value in headers.items())
    if body is not None:
        parts.append(f"-d '{body}'")
    return " ".join(parts)


def new_trace() -> tuple[str, str]:
    """Return (trace id, traceparent), sampled."""
    trace_id = os.urandom(16).hex()
    return trace_id, f"00-{trace_id}-{os.urandom(8).hex()}-01"


class Listener:
    """A WebSocket through the gateway, subscribed to one channel."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse, url: str) -> None:
        self._socket = socket
        self.url = url

    @classmethod
    async def open(cls, world: World, channel: str) -> Listener:
        """Subscribe and wait until it counts. Raises StepError."""
        url = world.gateway.replace("http", "ws", 1) + "/ws"
        try:
            socket = await world.session.ws_connect(url, timeout=aiohttp.ClientWSTimeout(ws_close=5.0))
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise StepError(f"{url} cannot be opened: {error}. Is the websocket service ready?") from error
        self = cls(socket, url)
        await socket.send_json({"subscribe": channel})
        async for message in self.messages():
            if "error" in message:
                raise StepError(f"{url} refused the subscription: {message['error']}")
            if message.get("subscribed") == channel:
                break
        return self

    async def messages(self) -> AsyncIterator[dict[str, Any]]:
        """Yield what arrives within WAIT_S. Raises StepError when the connection ends or the time does."""
        try:
            async with asyncio.timeout(WAIT_S):
                while True:
                    message = await self._socket.receive()
                    if message.type is not aiohttp.WSMsgType.TEXT:
                        raise StepError(f"{self.url} was closed ({self._socket.close_code}).")
                    yield json.loads(message.data)
        except TimeoutError as error:
            raise StepError(f"Nothing of it arrived at {self.url} within {WAIT_S:g} s.") from error

    async def close(self) -> None:
        await self._socket.close()
