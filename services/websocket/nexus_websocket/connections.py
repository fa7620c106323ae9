"""One connected client: what waits for it, and the one task that writes to it."""

from __future__ import annotations

import asyncio
import collections
import uuid
from collections.abc import Callable, Sequence

from aiohttp import WSMsgType, web

from nexus_websocket import protocol

CLOSE_S = 3.0
"""How long a client that is being closed may take to read what was sent before; then the connection is cut."""
OVERHEAD_BYTES = 64
"""Counted for each waiting message beside its bytes: a million empty messages are memory as well."""


class Connection:
    """`send` never waits: a broadcast costs each client an append. The queue is bounded by bytes; beyond it the client is closed."""

    __slots__ = (
        "_closing",
        "_cut",
        "_queue",
        "_queue_bytes",
        "_socket",
        "_waiting",
        "_wake",
        "channels",
        "errors",
        "id",
    )

    def __init__(self, socket: web.WebSocketResponse, queue_bytes: int, cut: Callable[[], None]) -> None:
        """cut: ends the TCP connection at once."""
        self.id = uuid.uuid4().hex[:16]
        self.channels: set[str] = set()
        self.errors = 0
        self._socket, self._queue_bytes, self._cut = socket, queue_bytes, cut
        self._queue: collections.deque[bytes] = collections.deque()
        self._waiting = 0
        self._wake = asyncio.Event()
        self._closing: tuple[int, bytes] | None = None

    def send(self, payload: bytes) -> bool:
        """Queue the payload, which is shared and not copied. False: the client is too slow and is being closed, or is closing."""
        if self._closing is not None:
            return False
        if self._waiting + len(payload) > self._queue_bytes and self._waiting:
            self._queue.clear()
            self.close(protocol.CLOSE_SLOW, b"too slow: reconnect and resume")
            return False
        self._queue.append(payload)
        self._waiting += len(payload) + OVERHEAD_BYTES
        self._wake.set()
        return True

    def has_room(self, payloads: Sequence[bytes]) -> bool:
        """Whether `send` would take all of them now, one after the other."""
        return self._waiting + sum(len(p) + OVERHEAD_BYTES for p in payloads) <= self._queue_bytes

    def close(self, code: int, reason: bytes) -> None:
        """Close once what was queued before is sent. reason: at most 123 bytes. The first close wins."""
        if self._closing is None:
            self._closing = (code, reason)
            self._wake.set()
            # The writer may be stuck in a send that the client does not read: only cutting gets it out of there.
            asyncio.get_running_loop().call_later(CLOSE_S, self._cut)

    @property
    def closing_code(self) -> int | None:
        """The code the server closes with, None while it does not."""
        return self._closing[0] if self._closing is not None else None

    async def write(self) -> None:
        """Send what is queued until `close`; then close. Run it as the connection's one writing task."""
        try:
            while self._closing is None:
                await self._wake.wait()
                self._wake.clear()
                while self._queue:
                    payload = self._queue.popleft()
                    self._waiting -= len(payload) + OVERHEAD_BYTES
                    await self._socket.send_frame(payload, WSMsgType.TEXT)
            code, reason = self._closing
            await self._socket.close(code=code, message=reason)
        except (ConnectionError, RuntimeError):
            return  # the client is gone, or was cut off; the reader sees it too and cleans up
