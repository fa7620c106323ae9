"""A value that many tasks wait on: each sees the newest, slow ones skip what was replaced meanwhile. Thread-safe."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator
from typing import Generic, TypeVar

T = TypeVar("T")
Waiters = set[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]]


class Latest(Generic[T]):
    """Holds at most one value, so that no watcher can make it grow."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._version = 0
        self._value: T | None = None
        self._closed = False
        self._waiters = Waiters()

    @property
    def is_set(self) -> bool:
        return self._version > 0

    def set(self, value: T) -> bool:
        """Replace the value and wake the watchers; False (and nobody wakes) if it is equal. From any thread."""
        with self._lock:
            if self._closed or (self._version and value == self._value):
                return False
            self._value = value
            self._version += 1
            waiters, self._waiters = self._waiters, Waiters()
        self._wake(waiters)
        return True

    def close(self) -> None:
        """End all watches."""
        with self._lock:
            self._closed = True
            waiters, self._waiters = self._waiters, Waiters()
        self._wake(waiters)

    @staticmethod
    def _wake(waiters: Waiters) -> None:
        for loop, future in waiters:
            if not loop.is_closed():
                loop.call_soon_threadsafe(_release, future)

    async def watch(self) -> AsyncGenerator[T, None]:
        """Yield the value as soon as there is one, then after each change. Ends with `close`."""
        seen = 0
        while True:
            with self._lock:
                if self._closed:
                    return
                version, value = self._version, self._value
                waiter = None
                if version == seen:
                    loop = asyncio.get_running_loop()
                    waiter = (loop, loop.create_future())
                    self._waiters.add(waiter)
            if waiter is None:
                seen = version
                yield value  # type: ignore[misc]  # a version above 0 has a value
                continue
            try:
                await waiter[1]
            finally:
                with self._lock:
                    self._waiters.discard(waiter)


def _release(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
