"""Container logs: one file per run of a container, each line with its time, read back as the kubelet API promises.

A line on disk is `<RFC 3339 time, nanoseconds> <text>\\n`. Standard output and error are one stream.
"""

from __future__ import annotations

import asyncio
import datetime
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

MAX_FILE_BYTES = 64 * 2**20
MAX_LINE_BYTES = 256 * 2**10
TIME_LENGTH = len("2026-01-01T00:00:00.000000000Z")


def timestamp(at_utc: datetime.datetime | None = None) -> str:
    """Return a time as log lines carry it; text order is time order."""
    at_utc = at_utc or datetime.datetime.now(datetime.UTC)
    return at_utc.astimezone(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%f") + "000Z"


class LogFile:
    """The log of one run of a container; one writer, any number of followers."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self.closed = False
        self._file: BinaryIO = path.open("ab", buffering=0)
        self._size = 0
        self._news = asyncio.Event()

    async def fill_from(self, stream: asyncio.StreamReader) -> None:
        """Copy lines until the stream ends. A line longer than MAX_LINE_BYTES is cut into several."""
        while True:
            try:
                line = await stream.readuntil(b"\n")
            except asyncio.IncompleteReadError as err:
                if err.partial:
                    self.write(err.partial)
                return
            except asyncio.LimitOverrunError:
                line = await stream.read(MAX_LINE_BYTES)
            self.write(line)

    def write(self, line: bytes) -> None:
        """Append one line now. Past MAX_FILE_BYTES the file starts anew: a chatty test must not fill the disk."""
        data = timestamp().encode() + b" " + line.removesuffix(b"\n") + b"\n"
        if self._size + len(data) > MAX_FILE_BYTES:
            self._file.truncate(0)
            note = b"(the log grew over %d MiB; what was before is gone)\n" % (MAX_FILE_BYTES >> 20)
            data = timestamp().encode() + b" " + note + data
            self._size = 0
        self._file.write(data)
        self._size += len(data)
        self._notify()

    def _notify(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    def close(self) -> None:
        """Tell followers that no more will come."""
        self.closed = True
        self._file.close()
        self._notify()

    async def wait_for_news(self) -> None:
        await self._news.wait()

    def tail(self, lines: int) -> str:
        """Return the last lines without their times (for termination messages)."""
        with self.path.open("rb") as file:
            last = deque(file, lines)
        return b"".join(line[TIME_LENGTH + 1 :] for line in last).decode(errors="replace")


@dataclass(frozen=True, slots=True)
class Query:
    """What part of a log is wanted: the parameters of `GET /containerLogs`."""

    since_utc: datetime.datetime | None = None
    tail_lines: int | None = None
    limit_bytes: int | None = None
    timestamps: bool = False
    follow: bool = False


async def read(log: LogFile, query: Query) -> AsyncIterator[bytes]:
    """Yield the wanted lines of a log in chunks; with `follow`, until the container's run ends."""
    since = timestamp(query.since_utc).encode() if query.since_utc else b""
    left = query.limit_bytes

    def select(lines: list[bytes]) -> bytes:
        nonlocal left
        start = 0 if query.timestamps else TIME_LENGTH + 1
        data = b"".join(line[start:] for line in lines if line[:TIME_LENGTH] >= since)
        if left is not None:
            data = data[:left]
            left -= len(data)
        return data

    with log.path.open("rb") as file:
        lines = file.readlines() if query.tail_lines is None else list(deque(file, query.tail_lines))
        if data := select(lines):
            yield data
        while query.follow and left != 0:
            waiter = asyncio.ensure_future(log.wait_for_news())
            try:
                if file.tell() > log.path.stat().st_size:
                    file.seek(0)
                if lines := file.readlines():
                    if data := select(lines):
                        yield data
                elif log.closed:
                    return
                else:
                    await waiter
            finally:
                waiter.cancel()
