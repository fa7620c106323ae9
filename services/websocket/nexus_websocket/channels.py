"""Who is subscribed to what, and the last messages of each channel. Pure: knows connections only as keys."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


@dataclass(slots=True)
class _Channel(Generic[K]):
    """floor: every message with a higher number is in the history."""

    floor: int
    last: int
    subscribers: dict[K, None] = field(default_factory=dict)
    history: deque[tuple[int, bytes]] = field(default_factory=deque)
    history_bytes: int = 0


class Channels(Generic[K]):
    """epoch: names this numbering; an id of another epoch cannot be resumed from.

    history: messages kept per channel. max_idle: channels without subscribers whose history is kept; the longest
    unused is forgotten first, so that a stream of invented names does not cost all memory. A forgotten channel starts
    again above every id it ever gave, never below. total_bytes: of the histories of all channels; beyond it the channel
    that was published to longest ago loses its history, with subscribers or without.
    """

    def __init__(
        self,
        epoch: str,
        *,
        history: int = 100,
        history_bytes: int = 1024 * 1024,
        max_idle: int = 1000,
        total_bytes: int = 64 * 1024 * 1024,
    ) -> None:
        self._epoch, self._keep, self._keep_bytes, self._max_idle = epoch, history, history_bytes, max_idle
        self._channels: dict[str, _Channel[K]] = {}
        self._idle: OrderedDict[str, None] = OrderedDict()
        self._counter = 0
        self._total_bytes, self._kept_bytes = total_bytes, 0
        self._written: OrderedDict[str, None] = OrderedDict()
        """Channels with history, the one published to longest ago first."""

    def subscribe(self, name: str, key: K) -> str:
        """Return the id of the channel's newest message."""
        channel = self._find(name)
        channel.subscribers[key] = None
        self._idle.pop(name, None)
        return self._id(channel.last)

    def unsubscribe(self, name: str, key: K) -> bool:
        """Return whether it was subscribed."""
        channel = self._channels.get(name)
        if channel is None or key not in channel.subscribers:
            return False
        del channel.subscribers[key]
        if not channel.subscribers:
            self._rest(name)
        return True

    def next_id(self) -> str:
        """Return the id that the next `publish` gives."""
        return self._id(self._counter + 1)

    def publish(self, name: str, payload: bytes) -> Iterable[K]:
        """Keep the payload under `next_id` and return who gets it, oldest subscriber first."""
        channel = self._find(name)
        # One counter for all channels: ids rise within each, and a channel that was forgotten needs no memory of them.
        self._counter += 1
        channel.last = self._counter
        channel.history.append((channel.last, payload))
        channel.history_bytes += len(payload)
        self._kept_bytes += len(payload)
        self._written[name] = None
        self._written.move_to_end(name)
        while channel.history and (len(channel.history) > self._keep or channel.history_bytes > self._keep_bytes):
            channel.floor, dropped = channel.history.popleft()
            channel.history_bytes -= len(dropped)
            self._kept_bytes -= len(dropped)
        while self._kept_bytes > self._total_bytes:
            self._forget_history(next(iter(self._written)))
        if not channel.subscribers:
            self._rest(name)
        return tuple(channel.subscribers)

    def since(self, name: str, after: str) -> tuple[tuple[bytes, ...], bool]:
        """Return the kept messages after that id, and whether they are all there are."""
        epoch, _, text = after.rpartition("-")
        if epoch != self._epoch or not (text.isascii() and text.isdigit()) or len(text) > 18:
            return (), False
        number = int(text)
        channel = self._channels.get(name)
        if channel is None:
            return (), number >= self._counter
        if number < channel.floor:
            return (), False
        return tuple(payload for n, payload in channel.history if n > number), True

    def count(self, name: str) -> int:
        channel = self._channels.get(name)
        return len(channel.subscribers) if channel is not None else 0

    def __len__(self) -> int:
        return len(self._channels) - len(self._idle)

    def _find(self, name: str) -> _Channel[K]:
        channel = self._channels.get(name)
        if channel is None:
            channel = self._channels[name] = _Channel(self._counter, self._counter)
        return channel

    def _rest(self, name: str) -> None:
        if not self._channels[name].history:
            del self._channels[name]
            self._idle.pop(name, None)
            self._written.pop(name, None)
            return
        self._idle[name] = None
        self._idle.move_to_end(name)
        while len(self._idle) > self._max_idle:
            oldest, _ = self._idle.popitem(last=False)
            self._forget_history(oldest)
            del self._channels[oldest]

    def _forget_history(self, name: str) -> None:
        channel = self._channels[name]
        channel.floor = channel.last
        channel.history.clear()
        self._kept_bytes -= channel.history_bytes
        channel.history_bytes = 0
        self._written.pop(name, None)

    def _id(self, number: int) -> str:
        return f"{self._epoch}-{number}"
