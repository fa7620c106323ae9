"""The connection to an endpoint that a client's is spliced to."""

from __future__ import annotations

import asyncio
from typing import Any, Protocol


class Near(Protocol):
    """The client's side."""

    transport: Any

    def has(self, far: Far) -> bool:
        """Return whether this is the connection that it is spliced to."""
        ...

    def answers(self) -> None:
        """The endpoint has shown that it serves."""
        ...

    def far_ended(self) -> None:
        """The endpoint's direction has ended."""
        ...

    def far_lost(self, exc: BaseException | None) -> None:
        """The endpoint's side is closed."""
        ...

    def pause(self) -> None:
        """Read no more from the client: the endpoint reads slowly."""
        ...

    def resume(self) -> None:
        """Read on."""
        ...


class Side(asyncio.Protocol):
    """One side of a splice. eof: it sends no more."""

    __slots__ = ("_paused", "eof", "transport")

    transport: Any

    def __init__(self) -> None:
        self._paused = False
        self.eof = False

    def pause(self) -> None:
        """Read no more from it: the other side reads slowly."""
        # After its end there is nothing to read; asyncio would tell of it again.
        if not self._paused and not self.eof and not self.transport.is_closing():
            self._paused = True
            self.transport.pause_reading()

    def resume(self) -> None:
        """Read on."""
        if self._paused:
            self._paused = False
            if not self.transport.is_closing():
                self.transport.resume_reading()


class Far(Side):
    """The side of the endpoint. received: bytes. lost: it is closed. blocked: it reads slowly.

    write: takes what comes, on the client's transport.
    """

    __slots__ = ("_near", "_tls", "blocked", "lost", "received", "write")

    def __init__(self, near: Near, *, tls: bool) -> None:
        super().__init__()
        self._near: Near | None = near
        self._tls = tls
        self.transport = None
        self.write = near.transport.write
        self.received = 0
        self.lost = False
        self.blocked = False

    def detach(self) -> None:
        """Nobody wants it any more."""
        self._near = None
        self.write = ignore
        if self.transport is not None and not self.lost:
            self.transport.abort()

    def connection_made(self, transport: Any) -> None:
        """Take the transport."""
        self.transport = transport
        if self._near is None:
            transport.abort()

    def data_received(self, data: bytes) -> None:
        """Pass on what the endpoint sends."""
        if not self.received and self._near is not None:
            self._near.answers()
        self.received += len(data)
        self.write(data)

    def eof_received(self) -> bool:
        """The endpoint sends no more; it may still read."""
        first, self.eof = not self.eof, True
        if first and self._near is not None:
            self._near.far_ended()
        return not self._tls  # asyncio's TLS closes both directions

    def connection_lost(self, exc: BaseException | None) -> None:
        """It is closed."""
        self.lost = True
        near = self._near
        if near is not None and near.has(self):
            near.far_lost(exc)

    def pause_writing(self) -> None:
        """The endpoint reads slowly."""
        self.blocked = True
        if self._near is not None:
            self._near.pause()

    def resume_writing(self) -> None:
        """The endpoint takes more."""
        self.blocked = False
        if self._near is not None:
            self._near.resume()


def ignore(data: bytes) -> None:
    """Nobody takes it any more."""
