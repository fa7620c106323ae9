"""How much a client may ask of a connection, and how it is noticed that it asks for too much.

What costs the server more than the client is counted: control frames that call for nothing, frames without content, streams that
end before they are answered. Each against what the connection does that is of use, within some seconds, so that a busy
connection of a large client is not taken for an attack.
"""

from __future__ import annotations

from dataclasses import dataclass

from nexus_wire.http2 import frames
from nexus_wire.http2.frames import Code, ConnectionBroken


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one connection. Sizes in bytes, times in seconds.

    max_streams: requests at once. window: of the connection, for request bodies nobody has taken yet; a stream has HTTP/2's
    default of 65,535, and `grown_window` once its body is taken as fast as it comes. max_block: of a header block as it comes,
    compressed, with all its CONTINUATIONs. max_noise: control and empty frames within `period_s` that nothing pays for.
    max_resets: streams within `period_s` that the client ended early, or made us end, if they are more than half of all.
    """

    max_streams: int = 128
    window: int = 2**20
    grown_window: int = 2**18
    max_block: int = 2**16
    max_continuations: int = 32
    max_noise: int = 1000
    max_resets: int = 200
    period_s: float = 10.0

    def greeting(self, max_head_bytes: int) -> bytes:
        """Return what a server says first: its settings, and the connection's window."""
        values = {
            frames.MAX_CONCURRENT_STREAMS: self.max_streams,
            frames.MAX_HEADER_LIST_SIZE: max_head_bytes,
            frames.ENABLE_CONNECT_PROTOCOL: 1,
        }
        return frames.settings(values) + frames.window_update(0, self.window - frames.DEFAULT_WINDOW)


class Watch:
    """Counts what one connection's client asks for. All times are ticks of the caller's clock."""

    __slots__ = ("_began", "_noise", "_opened", "_paid", "_period", "_resets", "limits")

    def __init__(self, limits: Limits, period: int) -> None:
        """period: `limits.period_s` in ticks."""
        self.limits = limits
        self._period = period
        self._began = 0
        self._opened = 0
        self._noise = 0
        self._paid = 0
        self._resets = 0

    def pay(self, frames_sent: int) -> None:
        """Content was sent, for which the client may answer with window updates."""
        self._paid += frames_sent

    @property
    def heard(self) -> tuple[int, int]:
        """What is different after any frame that is of no use by itself."""
        return self._began, self._noise

    def noise(self, now: int, last_stream: int) -> None:
        """A frame came that is of no use by itself. last_stream: the highest number so far. Raises `ConnectionBroken`."""
        self._noise += 1
        if self._noise <= self.limits.max_noise or self._renew(now, last_stream):
            return
        # Clients answer DATA with window updates for stream and connection, and measure their way with PINGs. Stream numbers go up
        # by two: a stream pays for two frames.
        if self._noise > self.limits.max_noise + 4 * self._paid + last_stream - self._opened:
            raise ConnectionBroken(Code.ENHANCE_YOUR_CALM, "Too many frames ask for nothing.")

    def reset(self, now: int, last_stream: int) -> None:
        """A stream ended before its answer, by the client or by its fault. Raises `ConnectionBroken`."""
        self._resets += 1
        if self._resets <= self.limits.max_resets or self._renew(now, last_stream):
            return
        if self._resets > (last_stream - self._opened) >> 2:
            raise ConnectionBroken(Code.ENHANCE_YOUR_CALM, "Too many streams are given up.")

    def _renew(self, now: int, last_stream: int) -> bool:
        """Begin a new period if the last one is over."""
        if now - self._began < self._period:
            return False
        self._began = now
        self._opened = last_stream
        self._noise = self._paid = self._resets = 0
        return True
