"""One thread that writes to one SQLite file, with group commit: what arrives while a commit syncs shares the next one.

No timer and nothing to tune: alone, a write is committed at once; under load groups grow by themselves. A failed group
is rolled back as a whole, each of its callers gets StoreUnavailable, and the connection is opened anew, because after
a failed fsync nobody knows what the old one still holds.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import sqlite3
import threading
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from nexus_events.ports import StoreUnavailable

T = TypeVar("T")
MAX_GROUP = 1024
"""Operations in one commit: bounds the wait of the first one."""
MAX_WAITING_BYTES = 64 * 1024 * 1024
"""Of operations that wait for a commit; beyond it new ones are refused, so that a slow disk does not cost all memory."""


class _Write(Generic[T]):
    __slots__ = ("after", "future", "result", "size", "work")

    def __init__(
        self,
        work: Callable[[sqlite3.Connection], T],
        size: int,
        after: Callable[[T], None] | None,
        future: asyncio.Future[T],
    ) -> None:
        self.work, self.size, self.after, self.future = work, size, after, future
        self.result: Any = None


class Writer:
    """Owned by a store. connect: opens a connection that is ready to write; called in the thread."""

    def __init__(self, connect: Callable[[], sqlite3.Connection], where: str) -> None:
        self._connect, self._where = connect, where
        self._queue: queue.SimpleQueue[_Write[Any] | None] = queue.SimpleQueue()
        self._waiting_bytes = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._ended = asyncio.Event()
        self.groups = 0
        """Commits made."""

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        # A daemon: a disk that hangs must not keep the process from ending; what was not committed was not acknowledged.
        self._thread = threading.Thread(target=self._run, name="nexus-events-writer", daemon=True)
        self._thread.start()

    async def submit(
        self, work: Callable[[sqlite3.Connection], T], *, size: int = 0, after: Callable[[T], None] | None = None
    ) -> T:
        """Return what `work` returned, once it is committed.

        after: called in the loop with the result, in commit order, even if the caller was cancelled.
        size: bytes that wait with it. Raises StoreUnavailable; any other exception of `work` as it is.
        """
        if self._loop is None or self._ended.is_set():
            raise StoreUnavailable(f"{self._where} is closed. Retry against the next instance.")
        if self._waiting_bytes + size > MAX_WAITING_BYTES and self._waiting_bytes:
            raise StoreUnavailable(
                f"{self._where}: {MAX_WAITING_BYTES >> 20} MiB wait for the disk already. Publish slower."
            )
        self._waiting_bytes += size
        write = _Write(work, size, after, self._loop.create_future())
        self._queue.put(write)
        result: T = await write.future
        return result

    async def stop(self) -> None:
        """Commit what was submitted, then end the thread."""
        if self._thread is None or self._ended.is_set():
            return
        self._queue.put(None)
        await self._ended.wait()

    # --- in the thread ----------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        assert self._loop is not None
        connection: sqlite3.Connection | None = None
        running = True
        try:
            while running:
                group, running = self._take()
                if not group:
                    continue
                error: Exception | None = None
                try:
                    if connection is None:
                        connection = self._connect()
                    connection.execute("BEGIN IMMEDIATE")
                    for write in group:
                        write.result = write.work(connection)
                    connection.execute("COMMIT")
                except Exception as err:
                    error = err
                    _abandon(connection)
                    connection = None
                self._loop.call_soon_threadsafe(self._answer, group, error)
        finally:
            if connection is not None:
                connection.close()
            with contextlib.suppress(RuntimeError):  # the loop has ended without waiting for us
                self._loop.call_soon_threadsafe(self._ended.set)

    def _take(self) -> tuple[list[_Write[Any]], bool]:
        group: list[_Write[Any]] = []
        item = self._queue.get()
        while item is not None:
            group.append(item)
            if len(group) >= MAX_GROUP:
                return group, True
            try:
                item = self._queue.get_nowait()
            except queue.Empty:
                return group, True
        return group, False

    # --- in the loop ------------------------------------------------------------------------------------------------------

    def _answer(self, group: list[_Write[Any]], error: Exception | None) -> None:
        self._waiting_bytes -= sum(write.size for write in group)
        if error is None:
            self.groups += 1
            for write in group:
                if write.after is not None:
                    write.after(write.result)
        for write in group:
            if write.future.done():
                continue  # its caller has given up; the write stands
            if error is None:
                write.future.set_result(write.result)
            else:
                failure = StoreUnavailable(
                    f"{self._where}: {error}. Nothing of this was stored. Free the disk, or retry later.", 2.0
                )
                failure.__cause__ = error
                write.future.set_exception(failure if isinstance(error, sqlite3.Error | OSError) else error)


def _abandon(connection: sqlite3.Connection | None) -> None:
    if connection is None:
        return
    try:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
    except sqlite3.Error:
        pass  # closing ends the transaction as well; the first error is the one that is reported
    finally:
        connection.close()
