"""Numbers that several worker processes share: doubles in one buffer, found by stable keys.

The buffer is a `bytearray` for one process, a shared mapping (`mmap`) for several; this module is handed it and maps
nothing itself. What workers must agree on lives here: circuits and their counts, ejections, rate counters. What each may
hold for itself (budgets, percentiles, counts of running attempts) does not.

Layout, in 8-byte words: header, index (open addressing, linear probing), lines of 8 doubles. A slot begins on a line of
its own, so that two workers writing to different slots do not pull the same cache line back and forth.

Reads and writes of a slot take no lock: CPython's memoryview stores an aligned double with one 8-byte move, so a reader sees the
old value or the new one, never half of each. Read-modify-write (`view[at] += 1`) is *not* atomic between processes: of
two at the same instant (a window of some 100 ns) one is lost. What that costs, each user says where it writes; as a rule
a count that is one short. Memory order between two cells is not promised on every processor, so no user relies on it.

Allocation, touching and sweeping hold the lock that is handed in. It must fall free when its holder is killed (`flock`, `lockf`:
yes; a semaphore: no). A holder killed half-way leaks at most the lines it was about to name; nothing points at them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext

_MAGIC = 0x4E58_4345_4C4C_0001  # "NXCELL", layout 1
_HEADER = 16
_ENTRY = 4
_LINE = 8
_H_MAGIC, _H_ENTRIES, _H_LINES, _H_NEXT, _H_FREED, CHANGES, _H_SEED = range(7)
_E_HASH, _E_AT, _E_LINES, _E_SEEN = range(4)
_EMPTY, _FREED = 0, 1  # an entry's hash; any other value is a key's

_WORKER_BITS = 10

Lock = Callable[[], AbstractContextManager[object]]


class Slot:
    """`size` doubles in a row, all zero at first: `view[at]` … `view[at + size - 1]`.

    Hot paths copy `view` and `at` into their own attributes and copy them again when `Cells.touch` says that the slot
    moved. shared: False when the buffer was full and these doubles are this process's alone.
    """

    __slots__ = ("_entry", "_hash", "at", "key", "shared", "size", "view")  # fmt: skip

    def __init__(self, key: str, size: int, view: memoryview[float], at: int, *, entry: int, hashed: int) -> None:
        self.key = key
        self.size = size
        self.view = view
        self.at = at
        self.shared = entry >= 0
        self._entry = entry
        self._hash = hashed


class Cells:
    """The slots of one buffer.

    words: the whole buffer as unsigned 64-bit integers; `words[CHANGES]` is a value that never was there before each time a worker
    calls `mark`: whoever remembers the last one it saw learns for ~35 ns whether anything that it mirrors changed.
    """

    __slots__ = (
        "_cursor",
        "_doubles",
        "_entries",
        "_first",
        "_lines",
        "_lock",
        "_on_full",
        "_told",
        "_worker",
        "words",
    )

    def __init__(
        self,
        buffer: bytearray | memoryview,
        *,
        lock: Lock = nullcontext,
        worker: int = 0,
        seed: int = 0,
        on_full: Callable[[str], None] | None = None,
    ) -> None:
        """buffer: writable, zeroed when new, 4 KiB or more, the same bytes in every worker (an `mmap` as `memoryview(m)`).

        worker: this process's number, 0..1023, no two alive with the same one. seed: 64 random bits; the first worker's hold for
        all. on_full: called once, with the first key
        that found no room; that slot and all later ones without room are private. Raises `ValueError` for a buffer that is too small
        or holds something else.
        """
        if not 0 <= worker < 1 << _WORKER_BITS:
            raise ValueError(f"worker {worker} is not in 0..{(1 << _WORKER_BITS) - 1}")
        flat = memoryview(buffer).cast("B")
        usable = flat[: len(flat) // 64 * 64]
        self.words: memoryview[int] = usable.cast("Q")
        self._doubles: memoryview[float] = usable.cast("d")
        total = len(self.words)
        if total < 512:
            raise ValueError(f"{len(flat)} bytes are too few for cells: 4096 at least")
        # An entry for two lines at least: most slots are two lines, rate tables hundreds.
        self._entries = 1 << ((total // (_ENTRY + 2 * _LINE)).bit_length() - 1)
        self._first = _HEADER + self._entries * _ENTRY
        self._lines = (total - self._first) // _LINE
        self._lock = lock
        self._worker = worker
        self._on_full = on_full
        self._told = False
        self._cursor = 0
        with lock():
            self._open(seed)

    def _open(self, seed: int) -> None:
        words = self.words
        if words[_H_MAGIC] == 0:
            words[_H_ENTRIES], words[_H_LINES], words[_H_NEXT] = self._entries, self._lines, 0
            words[_H_SEED] = seed
            words[_H_MAGIC] = _MAGIC
        found = (words[_H_MAGIC], words[_H_ENTRIES], words[_H_LINES])
        if found != (_MAGIC, self._entries, self._lines):
            raise ValueError("the buffer holds something else, or cells of another size or version")

    def slot(self, key: str, size: int, now: float = 0.0) -> Slot:
        """Return the slot of this key and size, a new one (zeros) when no worker has it yet. For set-up, not for each request.

        now: 0.0 when it is not at hand. key: any text; the same key with another size is another slot. Two keys share a slot
        when their 64-bit hashes are equal: for 10,000 keys one chance in 3·10¹¹.
        """
        hashed = _hash(key, size)
        with self._lock():
            entry = self._find(hashed, -(-size // _LINE))
            if entry >= 0:
                self._doubles[_HEADER + entry * _ENTRY + _E_SEEN] = now
                return self._slot(key, size, entry, hashed)
        if not self._told:
            self._told = True
            if self._on_full is not None:
                self._on_full(key)
        return private(size, key)

    def _slot(self, key: str, size: int, entry: int, hashed: int) -> Slot:
        at = self._first + self.words[_HEADER + entry * _ENTRY + _E_AT] * _LINE
        return Slot(key, size, self._doubles, at, entry=entry, hashed=hashed)

    def _find(self, hashed: int, lines: int) -> int:
        """Return the entry of this hash, made if need be; -1 when there is no room. Under the lock."""
        words, mask = self.words, self._entries - 1
        place = -1
        for step in range(self._entries):
            entry = (hashed + step) & mask
            base = _HEADER + entry * _ENTRY
            held = words[base]
            if held == hashed:
                return entry
            if held == _EMPTY:
                place = entry if place < 0 else place
                break
            if held == _FREED and place < 0 and words[base + _E_LINES] in (0, lines):
                place = entry  # with no lines of its own, or with lines of the right number
        if place < 0:
            return -1
        base = _HEADER + place * _ENTRY
        at = self._split(base, lines) if words[base] == _FREED and words[base + _E_LINES] else self._lines_for(lines)
        return -1 if at < 0 else self._name(place, hashed, at, lines)

    def _name(self, entry: int, hashed: int, at: int, lines: int) -> int:
        begin = self._first + at * _LINE
        for cell in range(begin, begin + lines * _LINE):
            self._doubles[cell] = 0.0
        base = _HEADER + entry * _ENTRY
        self.words[base + _E_AT], self.words[base + _E_LINES] = at, lines
        self.words[base] = hashed  # last: a killed holder leaves no name on a half-made slot
        return entry

    def _lines_for(self, lines: int) -> int:
        """Return the first of so many free lines: freed ones of that size, else never used ones, else a part of freed ones;
        -1 for none."""
        words = self.words
        larger = -1
        if words[_H_FREED] >= lines:
            for base in range(_HEADER, self._first, _ENTRY):
                if words[base] == _FREED and words[base + _E_LINES] >= lines:
                    larger = base
                    if words[base + _E_LINES] == lines:
                        return self._split(base, lines)
        at = words[_H_NEXT]
        if at + lines <= self._lines:
            words[_H_NEXT] = at + lines
            return at
        return -1 if larger < 0 else self._split(larger, lines)

    def _split(self, base: int, lines: int) -> int:
        """Take lines from the front of a freed entry, and return the first of them."""
        words = self.words
        at = words[base + _E_AT]
        words[base + _E_AT] = at + lines
        words[base + _E_LINES] -= lines
        words[_H_FREED] -= lines
        return at

    def touch(self, slots: Iterable[Slot], now: float) -> tuple[Slot, ...]:
        """Say that these slots are in use, and return those that moved.

        A slot moves only when a sweep took it meanwhile: a worker was stopped for longer than the sweep waits. It then has zeros
        (or what other workers wrote since), and its holder copies `view` and `at` again.
        """
        moved = []
        with self._lock():
            for slot in slots:
                if not slot.shared:
                    continue
                base = _HEADER + slot._entry * _ENTRY
                if self.words[base] != slot._hash:
                    self._move(slot)
                    moved.append(slot)
                    base = _HEADER + slot._entry * _ENTRY
                if slot.shared:
                    self._doubles[base + _E_SEEN] = now
        return tuple(moved)

    def _move(self, slot: Slot) -> None:
        entry = self._find(slot._hash, -(-slot.size // _LINE))
        fresh = private(slot.size, slot.key) if entry < 0 else self._slot(slot.key, slot.size, entry, slot._hash)
        slot.view, slot.at, slot.shared, slot._entry = fresh.view, fresh.at, fresh.shared, fresh._entry

    def sweep(self, now: float, older_s: float, limit: int = 1024) -> int:
        """Free slots that no worker touched for so long, and return how many. One owner calls it (the supervisor, or worker 0).

        older_s: several times the pause between two `touch` of a worker. A worker that is stopped for longer writes into
        lines that may be another key's by then, until it touches again: some wrong counts, nothing worse. limit: entries
        looked at in one call; the next call goes on behind them, so the lock is never held for long.
        """
        freed = 0
        with self._lock():
            for _ in range(min(limit, self._entries)):
                base = _HEADER + self._cursor * _ENTRY
                self._cursor = (self._cursor + 1) & (self._entries - 1)
                if self.words[base] <= _FREED:
                    continue
                seen = self._doubles[base + _E_SEEN]
                if seen == 0.0:
                    self._doubles[base + _E_SEEN] = now  # made by somebody who knew no time: its time begins here
                elif now - seen > older_s:
                    self.words[base] = _FREED
                    self.words[_H_FREED] += self.words[base + _E_LINES]
                    freed += 1
        return freed

    @property
    def seed(self) -> int:
        """What hashes of clients' words are keyed with, so that no client can choose words that collide."""
        return self.words[_H_SEED]

    @property
    def changes(self) -> int:
        """A number that differs from each earlier one after each `mark` of any worker."""
        return self.words[CHANGES]

    def mark(self) -> None:
        """Tell all workers that something they mirror (a circuit, an ejection) changed.

        The new value is one higher than any seen, with the worker's number below: of two at the same instant one may overwrite
        the other, but either way the value is new to whoever looks afterwards, so no change goes unnoticed.
        """
        self.words[CHANGES] = ((self.words[CHANGES] >> _WORKER_BITS) + 1 << _WORKER_BITS) | self._worker

    def usage(self) -> tuple[int, int]:
        """Return (lines ever given out, lines there are). Freed lines count as given out."""
        return self.words[_H_NEXT], self._lines


def private(size: int, key: str = "") -> Slot:
    """Return a slot of this process alone."""
    return Slot(key, size, memoryview(bytearray(8 * size)).cast("d"), 0, entry=-1, hashed=0)


def _hash(key: str, size: int) -> int:
    digest = hashlib.blake2b(f"{size}\n{key}".encode(), digest_size=8).digest()
    return max(int.from_bytes(digest, "little"), _FREED + 1)
