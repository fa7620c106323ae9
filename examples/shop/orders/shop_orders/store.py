"""Orders and their outbox in one SQLite file.

An order and the event that announces it are committed together, so an acknowledged order always has its event: sent
already, or waiting here for the event service to come back. Calls block for a disk write: run them in a thread.
"""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from shop_orders.orders import Order

_SCHEMA = """
CREATE TABLE IF NOT EXISTS orders (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    request_key TEXT UNIQUE,
    body BLOB NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS outbox (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    event BLOB NOT NULL,
    traceparent TEXT NOT NULL,
    refused TEXT NOT NULL DEFAULT ''
) STRICT;
CREATE INDEX IF NOT EXISTS outbox_waiting ON outbox (number) WHERE refused = '';
"""


class Waiting(NamedTuple):
    """An event that the event service has not confirmed. traceparent: of the request that placed the order, or empty."""

    number: int
    event: dict[str, Any]
    traceparent: str


class Store:
    """path: of the database file; several processes on one machine may share it."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._db = sqlite3.connect(path, timeout=5.0, isolation_level=None, check_same_thread=False)
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = FULL")  # a commit is on the disk before the customer reads 201
        self._db.executescript(_SCHEMA)

    def add(self, order: Order, event: dict[str, Any], *, traceparent: str, request_key: str | None) -> Order:
        """Commit the order with its event and return it; for a `request_key` seen before, return that order instead."""
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                if request_key is not None:
                    row = self._db.execute("SELECT body FROM orders WHERE request_key = ?", (request_key,)).fetchone()
                    if row is not None:
                        self._db.execute("ROLLBACK")
                        return msgspec.json.decode(row[0], type=Order)
                self._db.execute(
                    "INSERT INTO orders (id, request_key, body) VALUES (?, ?, ?)",
                    (order.id, request_key, msgspec.json.encode(order)),
                )
                self._db.execute(
                    "INSERT INTO outbox (event, traceparent) VALUES (?, ?)", (msgspec.json.encode(event), traceparent)
                )
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise
        return order

    def find(self, order_id: str) -> Order | None:
        """Return one order, or None."""
        with self._lock:
            row = self._db.execute("SELECT body FROM orders WHERE id = ?", (order_id,)).fetchone()
        return msgspec.json.decode(row[0], type=Order) if row else None

    def latest(self, limit: int) -> tuple[Order, ...]:
        """Return the newest orders, newest first."""
        with self._lock:
            rows = self._db.execute("SELECT body FROM orders ORDER BY number DESC LIMIT ?", (limit,)).fetchall()
        return tuple(msgspec.json.decode(row[0], type=Order) for row in rows)

    def waiting(self, limit: int) -> tuple[Waiting, ...]:
        """Return unconfirmed events, oldest first."""
        with self._lock:
            rows = self._db.execute(
                "SELECT number, event, traceparent FROM outbox WHERE refused = '' ORDER BY number LIMIT ?", (limit,)
            ).fetchall()
        return tuple(Waiting(number, msgspec.json.decode(event), traceparent) for number, event, traceparent in rows)

    def confirmed(self, number: int) -> None:
        """Forget an event that the event service has stored."""
        with self._lock:
            self._db.execute("DELETE FROM outbox WHERE number = ?", (number,))

    def refused(self, number: int, why: str) -> None:
        """Set an event aside that the event service will never take, so that it does not block the others. It is kept."""
        with self._lock:
            self._db.execute("UPDATE outbox SET refused = ? WHERE number = ?", (why[:1000], number))

    def check(self) -> None:
        """Raise sqlite3.Error when the database cannot be read."""
        with self._lock:
            self._db.execute("SELECT 1 FROM orders LIMIT 1").fetchone()

    def close(self) -> None:
        with self._lock:
            self._db.close()
