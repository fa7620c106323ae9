"""Request bodies on their way upstream: none, held in memory so that they can be sent again, or streamed once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from aiohttp import HttpVersion11
from aiohttp.web import BaseRequest

from nexus_gateway.edge.heads import RequestRefused

_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class RequestBody:
    """The body of one request.

    refused: why the client's part of the exchange went wrong while the body streamed; None while it is fine.
    waiting: whether the next piece is the client's to send: time that passes then is not the upstream's.
    """

    __slots__ = ("_expects", "_held", "_idle_s", "_message", "_present", "_started", "refused", "waiting")

    def __init__(self, message: BaseRequest, idle_s: float) -> None:
        """idle_s: longest pause between two pieces of the body, 0 for any."""
        self._message = message
        self._present = message.body_exists
        self._held: bytes | None = None
        self._started = False
        self._idle_s = idle_s or None
        self._expects = message.version >= HttpVersion11 and message.headers.get("Expect", "").lower() == "100-continue"
        self.refused: RequestRefused | None = None
        self.waiting = False

    @property
    def replayable(self) -> bool:
        """Whether the request can be sent (again) from its first byte."""
        return not self._present or self._held is not None or not self._started

    async def hold(self, limit: int, deadline_at: float | None) -> None:
        """Read a sized body of at most `limit` bytes into memory, until the deadline; leave others to stream.

        Raises `RequestRefused`.
        """
        length = self._message.content_length
        if not self._present or length is None or length > limit:
            return
        held = bytearray()
        try:
            async with asyncio.timeout_at(deadline_at):
                async for chunk in self._read():
                    held += chunk
        except TimeoutError as error:
            raise RequestRefused("BodyTimeout", "The request body did not come within the request's time.") from error
        self._held = bytes(held)

    def data(self) -> bytes | AsyncIterator[bytes] | None:
        """Return the body as aiohttp's client takes it."""
        if not self._present:
            return None
        return self._held if self._held is not None else self._read()

    async def _read(self) -> AsyncIterator[bytes]:
        self._started = True
        if self._expects:
            # Only now does anyone want the body: an early answer (404, 401) spares the client sending it.
            self._expects = False
            transport = self._message.transport
            if transport is not None:
                transport.write(_CONTINUE)
        content = self._message.content
        try:
            while True:
                self.waiting = True
                async with asyncio.timeout(self._idle_s):
                    chunk = await content.readany()
                self.waiting = False
                if not chunk:
                    return
                yield chunk
        except TimeoutError as error:
            self.refused = RequestRefused("BodyTimeout", "No piece of the request body came in time.")
            raise self.refused from error
        except Exception as error:
            # aiohttp reports a broken chunk or length through the stream.
            self.refused = RequestRefused("BadRequest", "The request body is not valid HTTP.")
            raise self.refused from error
