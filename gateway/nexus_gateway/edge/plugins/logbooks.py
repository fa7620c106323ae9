"""What plugins say, and what is said of them: the last lines of each, and a stream for whoever follows.

A handler of the logging library, below which plugins' own loggers are. It may be called in any thread; queues are filled on the event
loop. Nothing waits for a follower: one that is slow loses lines, and is told how many.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncGenerator, Callable
from datetime import UTC, datetime
from typing import Any

NDJSON = "application/x-ndjson"
"""How lines are sent: an object on each; an empty line now and then, where there is nothing to say."""
KEPT = 200
"""Lines of each plugin."""
QUEUED = 500
"""Lines that wait for one follower."""
MAX_TEXT = 4096
MAX_FOLLOWERS = 64
BEAT_S = 5.0
"""How long a follower hears nothing: a peer that has left is noticed by what it is sent."""
MAX_PLUGINS = 500
"""Whose lines are kept: ids come from the Snapshot, but handlers may be called for what is gone since."""
OWN = "nexus.plugin."
"""Plugins' loggers: with the namespace and the name of the NexusPlugin behind it, dots between."""
OF_THEM = ("nexus.gateway.plugins", "nexus.plugins")
"""Loggers that speak of plugins, with the id as the first argument of a line."""

Line = dict[str, Any]
"""at: RFC 3339. level: in capitals. plugin: its id. message. dropped: lines that this follower has missed before this one."""


class _Follower:
    __slots__ = ("dropped", "lines", "woken")

    def __init__(self) -> None:
        self.lines: deque[Line] = deque()
        self.dropped = 0
        self.woken = asyncio.Event()

    def add(self, line: Line) -> None:
        if len(self.lines) >= QUEUED:
            self.dropped += 1
            return
        self.lines.append({**line, "dropped": self.dropped} if self.dropped else line)
        self.dropped = 0
        self.woken.set()


class Logbook(logging.Handler):
    """The lines of all plugins of one process."""

    def __init__(self, known: Callable[[str], bool]) -> None:
        """known: whether a plugin of this id is there; asked on the event loop. To be made in the loop that serves."""
        super().__init__(logging.DEBUG)
        self._known = known
        self._loop = asyncio.get_running_loop()
        self._kept: dict[str, deque[Line]] = {}
        self._followers: dict[str, set[_Follower]] = {}

    def open(self) -> None:
        """Take lines from here on."""
        for name in (OWN.rstrip("."), *OF_THEM):
            logging.getLogger(name).addHandler(self)

    def close(self) -> None:
        """Take no more."""
        for name in (OWN.rstrip("."), *OF_THEM):
            logging.getLogger(name).removeHandler(self)
        super().close()

    def emit(self, record: logging.LogRecord) -> None:
        """Take a line; in the thread that wrote it."""
        plugin = plugin_of(record)
        if plugin is None:
            return
        try:
            message = record.getMessage()
            if record.exc_info and record.exc_info[1] is not None:
                error = record.exc_info[1]
                message = f"{message} ({type(error).__name__}: {error})"
        except Exception as error:
            # Arguments that do not fit their text, or whose own text fails: the plugin's mistake, told where it looks.
            message = f"{str(record.msg)[:200]!r} could not be written: {type(error).__name__}"
        line: Line = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname,
            "plugin": plugin,
            "message": message[:MAX_TEXT],
        }
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._take, line)

    def _take(self, line: Line) -> None:
        plugin = line["plugin"]
        kept = self._kept.get(plugin)
        if kept is None:
            if not self._known(plugin):
                return
            for gone in [each for each in self._kept if not self._known(each)]:
                del self._kept[gone]
            if len(self._kept) >= MAX_PLUGINS:
                return
            kept = self._kept[plugin] = deque(maxlen=KEPT)
        kept.append(line)
        for follower in self._followers.get(plugin, ()):
            follower.add(line)

    def last(self, plugin: str) -> tuple[Line, ...]:
        """Return the lines that are kept, the oldest first."""
        return tuple(self._kept.get(plugin, ()))

    @property
    def is_full(self) -> bool:
        """Whether nobody more may follow."""
        return sum(map(len, self._followers.values())) >= MAX_FOLLOWERS

    async def follow(self, plugin: str) -> AsyncGenerator[Line | None]:
        """Yield the lines that are kept, then each new one; None when there was none for `BEAT_S`."""
        follower = _Follower()
        followers = self._followers.setdefault(plugin, set())
        followers.add(follower)
        try:
            for line in self.last(plugin):
                yield line
            while True:
                while follower.lines:
                    yield follower.lines.popleft()
                follower.woken.clear()
                try:
                    async with asyncio.timeout(BEAT_S):
                        await follower.woken.wait()
                except TimeoutError:
                    yield None
        finally:
            followers.discard(follower)
            if not followers:
                self._followers.pop(plugin, None)


def plugin_of(record: logging.LogRecord) -> str | None:
    """Return the id of the plugin that a line is from or of; None for another."""
    if record.name.startswith(OWN):
        namespace, _, name = record.name.removeprefix(OWN).partition(".")
        return f"{namespace}/{name}" if name else None
    first = record.args[0] if isinstance(record.args, tuple) and record.args else None
    return first if isinstance(first, str) and first.count("/") == 1 else None
