"""Messages between supervisor and worker: JSON objects, a line each, over a pair of Unix sockets.

Worker to supervisor: `State`, at each change and every `BEAT_S` seconds, from the event loop that serves: silence means that it
stands still. Supervisor to worker: `Order`. The end of the stream is a message, too: whoever reads it is alone.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass, fields
from typing import Any, TypeVar

BEAT_S = 1.0
MAX_LINE_BYTES = 65536


@dataclass(frozen=True, slots=True)
class State:
    """How a worker is. reason: why it is not ready; empty when it is. generation: of the live Snapshot, 0 for none."""

    ready: bool
    reason: str
    generation: int


@dataclass(frozen=True, slots=True)
class Order:
    """What a worker is to do.

    drain: stop. handed_over: another process has the sockets already: no wait for load balancers, only for what is open.
    lead: do what one worker does for all, such as active health checks; None leaves it as it is.
    """

    drain: bool = False
    handed_over: bool = False
    lead: bool | None = None


Message = TypeVar("Message", State, Order)


class Channel:
    """One end. A line that is no message raises ValueError or TypeError: it is a bug of the peer's."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, sock: socket.socket) -> Channel:
        """Return the channel over one socket of a pair; it owns the socket."""
        sock.setblocking(False)
        return cls(*await asyncio.open_unix_connection(sock=sock, limit=MAX_LINE_BYTES))

    def send(self, message: State | Order) -> None:
        """Send without waiting: messages are small and few. A peer that is gone is noticed by who reads."""
        self._writer.write(json.dumps(asdict(message)).encode() + b"\n")

    async def messages(self, kind: type[Message]) -> AsyncIterator[Message]:
        """Yield the peer's messages until it is gone. Fields that this version does not know are left out: during a rolling
        restart the two may be of different versions."""
        known = {each.name for each in fields(kind)}
        while True:
            try:
                line = await self._reader.readline()
            except ConnectionError:
                return
            if not line.endswith(b"\n"):
                return
            found: Any = json.loads(line)
            if not isinstance(found, dict):
                raise ValueError(f"{line[:80]!r} is no message")
            yield kind(**{name: value for name, value in found.items() if name in known})

    def close(self) -> None:
        """Close this end."""
        self._writer.close()
