"""Where lines go beside the plugin's log: in batches over HTTP, or to a Redis stream. What a sink does not take is kept and tried again."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from nexus_sdk.plugin import CallFailed, Context, NotGranted

FIRST_WAIT_S = 0.5
LONGEST_WAIT_S = 30.0


class SinkFailed(Exception):
    """The sink did not take a batch. for_good: whether it would not take it later either."""

    def __init__(self, why: str, *, for_good: bool = False) -> None:
        super().__init__(why)
        self.for_good = for_good


class Sink(Protocol):
    """Takes batches of lines, each whole or not at all."""

    async def take(self, lines: Sequence[str]) -> None:
        """Keep the lines. Raises `SinkFailed`."""
        ...


class HttpSink:
    """Posts lines as newline-delimited JSON."""

    def __init__(self, context: Context, config: Mapping[str, Any], token: str) -> None:
        """token: for `Authorization: Bearer`, empty for none."""
        self._context = context
        self._url = str(config["url"])
        self._timeout_s = float(config.get("timeoutSeconds", 5.0))
        self._headers: tuple[tuple[str, str], ...] = (("content-type", "application/x-ndjson"),)
        if token:
            self._headers = (*self._headers, ("authorization", f"Bearer {token}"))

    async def take(self, lines: Sequence[str]) -> None:
        """As `Sink`: answered 2xx."""
        body = "".join(f"{line}\n" for line in lines).encode()
        try:
            called = await self._context.call(
                "POST", self._url, headers=self._headers, body=body, timeout_s=self._timeout_s
            )
        except (CallFailed, NotGranted) as error:
            raise SinkFailed(str(error)) from error
        if not 200 <= called.status < 300:
            for_good = 400 <= called.status < 500 and called.status not in (401, 403, 408, 425, 429)
            raise SinkFailed(f"it answered {called.status}", for_good=for_good)


class RedisSink:
    """Adds lines to a stream, as the field `line`."""

    def __init__(self, context: Context, config: Mapping[str, Any]) -> None:
        self._context = context
        self._url = str(config["url"])
        self._stream = str(config.get("stream", "nexus:audit"))
        self._max_length = int(config.get("maxLength", 0)) or None

    async def take(self, lines: Sequence[str]) -> None:
        """As `Sink`: in one transaction."""
        try:
            client = await self._context.redis(self._url)
            async with client.pipeline(transaction=True) as pipeline:
                for line in lines:
                    pipeline.xadd(self._stream, {"line": line}, maxlen=self._max_length, approximate=True)
                await pipeline.execute()
        except Exception as error:  # the client is the host's: its exceptions have no name here
            raise SinkFailed(f"{type(error).__name__}: {error}") from error


class Buffer:
    """Lines on their way to one sink, oldest first. lost: how many found no place, or were not taken for good."""

    def __init__(self, name: str, sink: Sink, context: Context, size: int, batch: int) -> None:
        self.lost = 0
        self.sleep = asyncio.sleep
        self._name = name
        self._sink = sink
        self._context = context
        self._size = size
        self._batch = batch
        self._waiting: deque[str] = deque()
        self._sending = False

    @property
    def is_full(self) -> bool:
        """Whether the next line would find no place."""
        return len(self._waiting) >= self._size

    def put(self, line: str) -> None:
        """Send a line in the background. One that finds no place goes to the plugin's log, so that it is not gone."""
        if self.is_full:
            self.lost += 1
            if self.lost & (self.lost - 1) == 0:  # at 1, 2, 4, 8, …
                self._context.log.error("%s: no room; %d lines did not go there, but here", self._name, self.lost)
            self._context.log.info("%s", line)
            return
        self._waiting.append(line)
        if not self._sending:
            self._sending = True
            self._context.spawn(self._send(), f"audit {self._name}")

    async def close(self, limit_s: float) -> None:
        """Send what waits, within the time; what is left goes to the plugin's log."""
        try:
            async with asyncio.timeout(limit_s):
                while self._waiting:
                    await self._one()
        except (TimeoutError, SinkFailed):
            self._context.log.error(
                "%s: %d lines did not go there before the end, but here", self._name, len(self._waiting)
            )
            while self._waiting:
                self._context.log.info("%s", self._waiting.popleft())

    async def _send(self) -> None:
        wait_s = FIRST_WAIT_S
        try:
            while self._waiting:
                try:
                    await self._one()
                    wait_s = FIRST_WAIT_S
                except SinkFailed as error:
                    self._context.log.warning("%s: %s; tried again in %g s", self._name, error, wait_s)
                    await self.sleep(wait_s)
                    wait_s = min(wait_s * 2, LONGEST_WAIT_S)
        finally:
            self._sending = False

    async def _one(self) -> None:
        """Send one batch. Raises `SinkFailed` for one that is tried again."""
        lines = [self._waiting[index] for index in range(min(self._batch, len(self._waiting)))]
        try:
            await self._sink.take(lines)
        except SinkFailed as error:
            if not error.for_good:
                raise
            self.lost += len(lines)
            self._context.log.error("%s: %s; %d lines do not go there, but here", self._name, error, len(lines))
            for line in lines:
                self._context.log.info("%s", line)
        for _ in lines:
            self._waiting.popleft()
