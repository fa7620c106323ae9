"""Events in one SQLite file: WAL, synchronous=FULL, one writer thread with group commit, one reader thread.

One row an event, UNIQUE(source, id) for idempotence over everything that is held: random ids cost more index writes than
a window of hashes in memory would, but nothing has to be rebuilt at a start and a duplicate is never missed.
A lock file keeps a second process away: two would deliver everything twice.
"""

from __future__ import annotations

import asyncio
import fcntl
import functools
import os
import sqlite3
import uuid
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from nexus_events.ports import Extent, Letter, Offer, OnAppended, Receipt, Stored, StoreUnavailable
from nexus_events.stores.writer import Writer
from nexus_events.subscriptions import Delivery, Sink, Subscription

T = TypeVar("T")
VERSION = 1
LOCK_WAIT_S = 10.0
"""How long to wait for a predecessor to release the directory: a rolling restart overlaps for some seconds."""
PAGE_BYTES = 8 * 1024 * 1024
"""Of the events in one answer: a thousand of the largest ones must not cost the memory of the process."""
SCAN = 2000
"""Rows looked at in one read, so that a filter that matches little does not hold the reader for long."""

SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE events (
    offset INTEGER PRIMARY KEY AUTOINCREMENT,
    source TEXT NOT NULL, id TEXT NOT NULL, type TEXT NOT NULL,
    received_at REAL NOT NULL, trace TEXT NOT NULL, body BLOB NOT NULL,
    UNIQUE (source, id)
);
CREATE TABLE subscriptions (
    id TEXT PRIMARY KEY, document BLOB NOT NULL, cursor INTEGER NOT NULL, skipped INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE letters (
    subscription TEXT NOT NULL REFERENCES subscriptions (id) ON DELETE CASCADE, offset INTEGER NOT NULL,
    type TEXT NOT NULL, received_at REAL NOT NULL, trace TEXT NOT NULL, body BLOB NOT NULL,
    cause TEXT NOT NULL, attempts INTEGER NOT NULL, died_at REAL NOT NULL, redriven INTEGER NOT NULL,
    PRIMARY KEY (subscription, offset)
) WITHOUT ROWID;
"""
EVENT = "offset, received_at, type, body, trace"
LETTER = f"{EVENT}, cause, attempts, died_at, redriven"


class _Document(msgspec.Struct):
    """What `subscriptions.document` holds; new fields need defaults."""

    url: str
    service: str
    path: str
    types: tuple[str, ...]
    max_attempts: int
    max_age_s: float
    timeout_s: float
    ttl_s: float | None
    expires_at: float | None
    created_at: float


class SqliteStore:
    """durability `fsynced`. directory: made if absent. max_bytes: of the database file, None for no bound but the disk."""

    durability = "fsynced"

    def __init__(self, directory: Path, *, max_bytes: int | None = None, lock_wait_s: float = LOCK_WAIT_S) -> None:
        self._directory, self._path = directory, directory / "events.db"
        self._max_bytes, self._lock_wait_s = max_bytes, lock_wait_s
        self._writer = Writer(self._connect_writer, str(self._path))
        self._readers = ThreadPoolExecutor(1, thread_name_prefix="nexus-events-reader")
        self._reader: sqlite3.Connection | None = None
        self._lock: int | None = None
        self._head = 0
        self._on_appended: OnAppended = lambda _: None
        self.id = ""

    # --- life ---------------------------------------------------------------------------------------------------------------

    async def open(self, on_appended: OnAppended) -> None:
        self._on_appended = on_appended
        try:
            await asyncio.to_thread(self._directory.mkdir, parents=True, exist_ok=True)
            await self._take_lock()
            await asyncio.to_thread(self._create)
        except (OSError, sqlite3.Error) as err:
            self._release_lock()
            raise StoreUnavailable(
                f"{self._path} cannot be opened: {err}. Give NEXUS_DATA_DIR a directory on a local disk that this user may "
                "write to; a file that is damaged has to be restored from a backup or moved away."
            ) from err
        self._writer.start()

    async def close(self) -> None:
        await self._writer.stop()
        # Behind every read in the queue, on their thread: one of them may be opening the connection just now.
        await asyncio.get_running_loop().run_in_executor(self._readers, self._close_reader)
        self._readers.shutdown(wait=False)
        self._release_lock()

    def _close_reader(self) -> None:
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    async def _take_lock(self) -> None:
        lock = await asyncio.to_thread(
            os.open, self._directory / "events.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644
        )
        waits = max(1, round(self._lock_wait_s / 0.1))
        for turn in range(waits):
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as err:
                if turn == waits - 1:
                    os.close(lock)
                    raise StoreUnavailable(
                        f"{self._directory} is in use by another event service. "
                        "Run one replica on a directory, or give this one its own NEXUS_DATA_DIR."
                    ) from err
                await asyncio.sleep(0.1)
            except OSError:
                os.close(lock)
                raise
            else:
                self._lock = lock
                return

    def _release_lock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)  # closing releases it
            self._lock = None

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, timeout=5.0, isolation_level=None, check_same_thread=False)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA foreign_keys=ON")
        return connection

    def _connect_writer(self) -> sqlite3.Connection:
        connection = self._connect()
        if self._max_bytes is not None:
            (page_bytes,) = connection.execute("PRAGMA page_size").fetchone()
            connection.execute(f"PRAGMA max_page_count={max(32, self._max_bytes // page_bytes)}")
        return connection

    def _create(self) -> None:
        connection = self._connect()
        try:
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            if version not in (0, VERSION):
                raise sqlite3.DatabaseError(
                    f"it has layout {version}, this release knows {VERSION}; use a release that wrote it"
                )
            if version == 0:
                # One transaction, the id too: a kill in between must not leave a store that can never be opened.
                named = f"INSERT INTO meta VALUES ('id', '{uuid.uuid4().hex}');"
                connection.executescript(f"BEGIN IMMEDIATE; {SCHEMA} {named} PRAGMA user_version={VERSION}; COMMIT;")
            (self.id,) = connection.execute("SELECT value FROM meta WHERE key = 'id'").fetchone()
            self._head = connection.execute(
                "SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'events'"
            ).fetchone()[0]
        finally:
            connection.close()

    async def _read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        def run() -> T:
            if self._reader is None:
                self._reader = self._connect()
                self._reader.execute("PRAGMA query_only=ON")
            return work(self._reader)

        try:
            return await asyncio.get_running_loop().run_in_executor(self._readers, run)
        except (sqlite3.Error, OSError, RuntimeError) as err:
            raise StoreUnavailable(f"{self._path} cannot be read: {err}. Look at the disk, or retry later.") from err

    # --- events -------------------------------------------------------------------------------------------------------------

    async def append(self, offers: Sequence[Offer], now: float) -> tuple[Receipt, ...]:
        def work(connection: sqlite3.Connection) -> tuple[tuple[Receipt, ...], list[Stored]]:
            receipts, new = [], []
            for offer in offers:
                event = offer.event
                found = connection.execute(
                    "SELECT offset FROM events WHERE source = ? AND id = ?", (event.source, event.id)
                ).fetchone()
                if found is not None:
                    receipts.append(Receipt(found[0], False))
                    continue
                row = (event.source, event.id, event.type, now, offer.trace, offer.body)
                offset = connection.execute(
                    "INSERT INTO events (source, id, type, received_at, trace, body) VALUES (?, ?, ?, ?, ?, ?)", row
                ).lastrowid
                assert offset is not None
                receipts.append(Receipt(offset, True))
                new.append(Stored(offset, now, event.type, offer.body, offer.trace))
            return tuple(receipts), new

        size = sum(len(offer.body) for offer in offers)
        receipts, _ = await self._writer.submit(work, size=size, after=self._appended)
        return receipts

    def _appended(self, result: tuple[tuple[Receipt, ...], list[Stored]]) -> None:
        _, new = result
        if new:
            self._head = new[-1].offset
            self._on_appended(new)

    async def extent(self) -> Extent:
        head = self._head
        oldest = await self._read(lambda c: c.execute("SELECT min(offset) FROM events").fetchone()[0])
        return Extent(head, head + 1 if oldest is None else int(oldest))

    async def read(self, after: int, limit: int, pattern: str = "*") -> tuple[tuple[Stored, ...], int]:
        found: list[Stored] = []
        head = self._head
        while after < head:
            page, after = await self._read(
                functools.partial(_scan, after=after, limit=limit - len(found), pattern=pattern, head=head)
            )
            found += page
            if len(found) == limit or sum(len(event.body) for event in found) >= PAGE_BYTES:
                return tuple(found), found[-1].offset
        return tuple(found), after

    async def purge(self, keep: int, before: float) -> int:
        floor = self._head - keep

        def work(connection: sqlite3.Connection) -> int:
            # Oldest first in portions: received_at grows with the offset, so the first young row ends the search.
            limit = connection.execute(
                "SELECT coalesce(min(offset), ?) FROM "
                "(SELECT offset, received_at FROM events ORDER BY offset LIMIT 5000) WHERE received_at >= ?",
                (2**62, before),
            ).fetchone()[0]
            return connection.execute(
                "DELETE FROM events WHERE offset IN (SELECT offset FROM events ORDER BY offset LIMIT 5000) AND (offset <= ? OR offset < ?)",
                (floor, limit),
            ).rowcount

        total = 0
        while True:
            deleted = await self._writer.submit(work)
            total += deleted
            if deleted < 5000:
                return total

    # --- subscriptions ------------------------------------------------------------------------------------------------------

    async def put_subscription(self, subscription: Subscription) -> None:
        s, sink, d = subscription, subscription.sink, subscription.delivery
        document = _Document(
            sink.url,
            sink.service,
            sink.path,
            s.types,
            d.max_attempts,
            d.max_age_s,
            d.timeout_s,
            s.ttl_s,
            s.expires_at,
            s.created_at,
        )
        row = (s.id, msgspec.json.encode(document), s.cursor, s.skipped)
        statement = (
            "INSERT INTO subscriptions VALUES (?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET "
            "document = excluded.document, cursor = excluded.cursor, skipped = excluded.skipped"
        )
        await self._writer.submit(lambda c: c.execute(statement, row).rowcount)

    async def subscriptions(self) -> tuple[Subscription, ...]:
        rows = await self._read(
            lambda c: c.execute("SELECT id, document, cursor, skipped FROM subscriptions ORDER BY id").fetchall()
        )
        return tuple(_subscription(*row) for row in rows)

    async def delete_subscription(self, subscription_id: str) -> bool:
        return bool(
            await self._writer.submit(
                lambda c: c.execute("DELETE FROM subscriptions WHERE id = ?", (subscription_id,)).rowcount
            )
        )

    async def advance(self, cursors: Mapping[str, tuple[int, int]]) -> None:
        rows = [(cursor, skipped, key) for key, (cursor, skipped) in cursors.items()]
        await self._writer.submit(
            lambda c: c.executemany("UPDATE subscriptions SET cursor = ?, skipped = ? WHERE id = ?", rows).rowcount
        )

    # --- dead letters -------------------------------------------------------------------------------------------------------

    async def bury(self, subscription_id: str, letter: Letter, cursor: int) -> None:
        event = letter.event
        row = (subscription_id, event.offset, event.type, event.received_at, event.trace, event.body,
               letter.cause, letter.attempts, letter.died_at, letter.is_redriven)  # fmt: skip

        def work(connection: sqlite3.Connection) -> None:
            updated = connection.execute("UPDATE subscriptions SET cursor = ? WHERE id = ?", (cursor, subscription_id))
            if updated.rowcount:  # else it was deleted meanwhile, and its dead letters with it
                connection.execute("INSERT OR REPLACE INTO letters VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", row)

        await self._writer.submit(work, size=len(event.body))

    async def letters(
        self, subscription_id: str, after: int, limit: int, *, redriven: bool | None = None
    ) -> tuple[Letter, ...]:
        where = "subscription = ? AND offset > ?"
        values: list[str | int] = [subscription_id, after]
        if redriven is not None:
            where, values = f"{where} AND redriven = ?", [*values, redriven]
        query = f"SELECT {LETTER} FROM letters WHERE {where} ORDER BY offset LIMIT ?"
        rows = await self._read(lambda c: _take(c.execute(query, (*values, limit)), body=3))
        return tuple(Letter(Stored(*row[:5]), row[5], row[6], row[7], bool(row[8])) for row in rows)

    async def redrive(self, subscription_id: str, offsets: Sequence[int] | None) -> int:
        statement = "UPDATE letters SET redriven = 1 WHERE subscription = ? AND redriven = 0"
        if offsets is None:
            return await self._writer.submit(lambda c: c.execute(statement, (subscription_id,)).rowcount)
        rows = [(subscription_id, offset) for offset in offsets]
        return (
            await self._writer.submit(lambda c: c.executemany(f"{statement} AND offset = ?", rows).rowcount)
            if rows
            else 0
        )

    async def delete_letters(self, subscription_id: str, offsets: Sequence[int]) -> int:
        rows = [(subscription_id, offset) for offset in offsets]
        statement = "DELETE FROM letters WHERE subscription = ? AND offset = ?"
        return await self._writer.submit(lambda c: c.executemany(statement, rows).rowcount) if rows else 0

    async def count_letters(self) -> Mapping[str, int]:
        return dict(
            await self._read(lambda c: c.execute("SELECT subscription, count(*) FROM letters GROUP BY 1").fetchall())
        )


def _scan(
    connection: sqlite3.Connection, *, after: int, limit: int, pattern: str, head: int
) -> tuple[list[Stored], int]:
    """Return matching events of the next SCAN offsets and where it stopped. head: events beyond are not announced yet."""
    query = f"SELECT {EVENT} FROM events WHERE offset > ? AND offset <= ?"
    last = connection.execute(
        "SELECT max(offset) FROM (SELECT offset FROM events WHERE offset > ? AND offset <= ? ORDER BY offset LIMIT ?)",
        (after, head, SCAN),
    ).fetchone()[0]
    if last is None:
        return [], head
    values: list[int | str] = [after, last]
    if pattern.endswith("*"):
        query, values = f"{query} AND substr(type, 1, ?) = ?", [*values, len(pattern) - 1, pattern[:-1]]
    else:
        query, values = f"{query} AND type = ?", [*values, pattern]
    rows = _take(connection.execute(f"{query} ORDER BY offset LIMIT ?", (*values, limit)), body=3)
    found = [Stored(*row) for row in rows]
    cut = sum(len(event.body) for event in found) >= PAGE_BYTES
    return found, found[-1].offset if cut else last


def _take(rows: sqlite3.Cursor, *, body: int) -> list[tuple[Any, ...]]:
    """Return rows until their bodies, column number `body`, reach PAGE_BYTES; at least one if there is one."""
    taken, size = [], 0
    for row in rows:
        taken.append(row)
        size += len(row[body])
        if size >= PAGE_BYTES:
            break
    return taken


def _subscription(key: str, document: bytes, cursor: int, skipped: int) -> Subscription:
    d = msgspec.json.decode(document, type=_Document)
    return Subscription(
        key, Sink(d.url, d.service, d.path), d.types, Delivery(d.max_attempts, d.max_age_s, d.timeout_s),
        d.ttl_s, d.expires_at, cursor, skipped, d.created_at,
    )  # fmt: skip
