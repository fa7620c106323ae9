"""The end of a connection whose client has not closed its own side yet.

Closing both sides at once can cost a client the last bytes. Whatever it still sends is answered with a reset then, and a reset
throws away what the kernel has not delivered (RFC 9112 section 9.6). HTTP/2 clients do send: they answer DATA with WINDOW_UPDATE.
"""

from __future__ import annotations

import sys
from typing import Any

_LOOK_TICKS = 5
_STALLED_TICKS = 50
"""A client that neither takes anything of what is left nor says anything for so long has gone."""

if sys.platform == "linux":
    from fcntl import ioctl
    from termios import TIOCOUTQ  # for sockets it is SIOCOUTQ

    def _queued(descriptor: int) -> int:
        try:
            return int.from_bytes(ioctl(descriptor, TIOCOUTQ, bytes(4)), sys.byteorder)
        except OSError:
            return 0  # the connection is gone, or is of a kind that keeps no such queue

else:  # pragma: no cover - no other system tells in this way

    def _queued(descriptor: int) -> int:
        return 0


def unacknowledged(transport: Any) -> int:
    """Return how many bytes the client's machine has not acknowledged: those in our buffer, and, on Linux, in the kernel's."""
    size: int = transport.get_write_buffer_size()
    socket = transport.get_extra_info("socket")
    descriptor = socket.fileno() if socket is not None else -1
    return size + (_queued(descriptor) if descriptor >= 0 else 0)


class Parting:
    """Closes our side once everything is written, and says how long to wait for the client to close its own.

    heard: set it when the client sends something, which says that it is there still.
    """

    __slots__ = ("_left", "_linger_ticks", "_moved_at", "_transport", "_until", "heard")

    def __init__(self, transport: Any, tick: int, linger_ticks: int, most_ticks: int) -> None:
        """tick: now. linger_ticks: how long to wait for a client that has got everything. most_ticks: in any case."""
        self._transport = transport
        self._linger_ticks = linger_ticks
        self._moved_at = tick
        self._until = tick + most_ticks
        self._left = -1
        self.heard = False
        try:
            transport.write_eof()
        except (OSError, RuntimeError, NotImplementedError):
            # The client is gone, or the loop's own TLS cannot close one side alone; its time is over in any case.
            return

    def look(self, tick: int) -> int:
        """Return when to look again, in ticks; 0 when the client has had its time."""
        left = unacknowledged(self._transport)
        if left != self._left or self.heard:
            self._left, self._moved_at, self.heard = left, tick, False
        until = self._until
        if not self._transport.get_write_buffer_size():
            until = min(until, self._moved_at + (_STALLED_TICKS if left else self._linger_ticks))
        return min(until, tick + _LOOK_TICKS) if until > tick else 0

    def end(self) -> None:
        """Close, whatever the client does. The kernel may go on delivering what it has."""
        transport = self._transport
        if transport.get_write_buffer_size() or not unacknowledged(transport):
            transport.abort()
        else:
            transport.close()
