"""Upgraded connections (WebSocket): after the 101, bytes pass both ways untouched, with back-pressure.

Nothing of the protocol is interpreted, so subprotocols, extensions, pings, close codes and message sizes are the two
ends' business alone. When one side closes, what it sent is delivered before the other side is closed; when it breaks
off, the other side is broken off.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

from aiohttp import ClientResponse
from aiohttp.web import BaseRequest, StreamResponse
from nexus_core.hooks import Headers

_HIGH_WATER = 2**17
_REASON = {101: "Switching Protocols"}


class _Inlet:
    """One side's received bytes. Stands where aiohttp puts its WebSocket parser."""

    def __init__(self, protocol: Any) -> None:
        self._protocol = protocol
        self._chunks: deque[bytes] = deque()
        self._size = 0
        self._wake = asyncio.Event()
        self._paused = False
        self.ended = False
        self.received_at = asyncio.get_running_loop().time()

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        """Take bytes from the socket; stop reading it while too much waits."""
        if data:
            self.received_at = asyncio.get_running_loop().time()
            self._chunks.append(bytes(data))
            self._size += len(data)
            self._wake.set()
            if self._size > _HIGH_WATER and not self._paused and self._protocol.transport is not None:
                self._paused = True
                self._protocol.transport.pause_reading()
        return False, b""

    def feed_eof(self) -> None:
        """The socket is closed."""
        self.ended = True
        self._wake.set()

    def set_exception(self, error: BaseException, cause: BaseException | None = None) -> None:
        """The socket broke; the client protocol says so here."""
        self.feed_eof()

    async def take(self) -> bytes:
        """Return what has come, empty at the end."""
        while not self._chunks:
            if self.ended:
                return b""
            self._wake.clear()
            await self._wake.wait()
        data = b"".join(self._chunks)
        self._chunks.clear()
        self._size = 0
        return data

    def resume(self) -> None:
        """Read on, once what was taken is written."""
        if self._paused and self._protocol.transport is not None:
            self._paused = False
            self._protocol.transport.resume_reading()


class Tunnel:
    """One upgraded exchange."""

    def __init__(self, message: BaseRequest, upstream: ClientResponse, idle_s: float) -> None:
        """upstream: the 101 response. idle_s: both sides silent this long ends the tunnel, 0 for never."""
        self._message = message
        self._upstream = upstream
        self._idle_s = idle_s
        self.bytes_out = 0

    async def run(self, headers: Headers) -> StreamResponse:
        """Answer the client with 101 and pass bytes until one side is done. headers: of the 101, hop-by-hop ones included."""
        connection = self._upstream.connection
        if connection is None or connection.protocol is None:
            raise ConnectionResetError("the upstream closed right after switching protocols")
        client: Any = self._message.protocol
        server: Any = connection.protocol
        head = "".join(f"{name}: {value}\r\n" for name, value in headers)
        status = self._upstream.status
        client.transport.write(f"HTTP/1.1 {status} {_REASON[status]}\r\n{head}\r\n".encode())
        from_client, from_server = _Inlet(client), _Inlet(server)
        client.set_parser(from_client)
        server.set_parser(from_server, from_server)
        if server.transport is None:
            from_server.feed_eof()
        pumps = [
            asyncio.create_task(self._pump(from_client, server), name="tunnel up"),
            asyncio.create_task(self._pump(from_server, client, count=True), name="tunnel down"),
        ]
        try:
            while True:
                done, _ = await asyncio.wait(pumps, timeout=self._idle_s or None, return_when=asyncio.FIRST_COMPLETED)
                if done:
                    break
                silent_s = asyncio.get_running_loop().time() - max(from_client.received_at, from_server.received_at)
                if silent_s >= self._idle_s:
                    break
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            # What is written is flushed before either socket closes: `close` waits for its buffer, `abort` would not.
            if server.transport is not None:
                server.transport.close()
            self._upstream.close()
            if client.transport is not None:
                client.force_close()
        return _Finished(status=101)

    async def _pump(self, inlet: _Inlet, target: Any, *, count: bool = False) -> None:
        while data := await inlet.take():
            if target.transport is None:
                return
            target.transport.write(data)
            if count:
                self.bytes_out += len(data)
            await target._drain_helper()
            inlet.resume()


class _Finished(StreamResponse):
    """Stands for the tunnel's answer when it is over: everything is already sent."""

    async def prepare(self, request: BaseRequest) -> None:
        """Send nothing."""

    async def write_eof(self, data: bytes = b"") -> None:
        """Send nothing."""
