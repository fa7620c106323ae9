"""Cells: slots found by key, shared between processes over a real mapping, bounded, reclaimed by one owner."""

from __future__ import annotations

import fcntl
import mmap
import multiprocessing
import multiprocessing.synchronize
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nexus_gateway.resilience.cells import Cells, private

FORK = multiprocessing.get_context("fork")  # the workers below need no import of this file, which is in no package


def test_the_same_key_and_size_is_the_same_slot_and_slots_do_not_overlap() -> None:
    cells = Cells(bytearray(1 << 16))
    first, second = cells.slot("a", 3), cells.slot("b", 12)
    assert cells.slot("a", 3).at == first.at
    assert cells.slot("a", 4).at != first.at, "another size is another slot"
    first.view[first.at + 2] = 2.5
    second.view[second.at] = 7.0
    assert (cells.slot("a", 3).view[first.at + 2], cells.slot("b", 12).view[second.at]) == (2.5, 7.0)
    assert second.at - first.at >= 8 or first.at - second.at >= 16
    assert first.at % 8 == second.at % 8 == 0, "lines of 64 bytes"


@given(st.lists(st.tuples(st.sampled_from("abcdefghij"), st.integers(1, 40)), max_size=60), st.data())
def test_any_order_of_slots_touches_and_sweeps_keeps_live_slots_apart(
    keys: list[tuple[str, int]], data: st.DataObject
) -> None:
    cells = Cells(bytearray(1 << 13))
    held: dict[tuple[str, int], float] = {}
    for now, (key, size) in enumerate(keys):
        slot = cells.slot(key, size, float(now + 1))
        if slot.shared:
            held[key, size] = mark = float(now + 1) + 0.5
            for at in range(slot.at, slot.at + size):
                slot.view[at] = mark
        if data.draw(st.booleans()):
            keep = data.draw(st.sets(st.sampled_from(sorted(held)))) if held else set()
            cells.touch([cells.slot(*each, float(now + 1)) for each in keep], float(now + 1))
            cells.sweep(float(now + 1) + 1.0, 0.5 + len(keys), limit=10_000)
        for (key_, size_), mark_ in held.items():
            kept = cells.slot(key_, size_, float(now + 1))
            assert set(kept.view[kept.at : kept.at + size_]) <= {mark_}


def test_a_full_buffer_hands_out_private_slots_and_says_so_once() -> None:
    told: list[str] = []
    cells = Cells(bytearray(4096), on_full=told.append)
    slots = [cells.slot(f"key {n}", 8) for n in range(200)]
    shared = [slot for slot in slots if slot.shared]
    assert 0 < len(shared) < len(slots)
    assert told == [slots[len(shared)].key]
    assert len({slot.at for slot in shared}) == len(shared)
    spare = slots[-1]
    spare.view[spare.at + 7] = 1.0
    assert cells.touch(slots, 1.0) == ()


def test_swept_slots_come_back_as_zeros_and_those_touched_stay() -> None:
    cells = Cells(bytearray(4096))
    old, kept = cells.slot("old", 8, now=1.0), cells.slot("kept", 8, now=1.0)
    old.view[old.at] = kept.view[kept.at] = 5.0
    cells.touch([kept], 90.0)
    assert cells.sweep(100.0, 50.0) == 1
    assert cells.sweep(100.0, 50.0) == 0
    fresh = cells.slot("fresh", 8, now=100.0)
    assert (fresh.at, fresh.view[fresh.at]) == (old.at, 0.0), "the room of the old one, cleared"
    assert kept.view[cells.slot("kept", 8).at] == 5.0


def test_a_slot_made_without_a_time_is_as_old_as_the_first_sweep_that_sees_it() -> None:
    cells = Cells(bytearray(4096))
    cells.slot("timeless", 8)
    assert [cells.sweep(now, 50.0) for now in (1000.0, 1049.0, 1051.0)] == [0, 0, 1]


def test_freed_lines_are_split_when_there_are_no_others() -> None:
    cells = Cells(bytearray(4096))
    whole = cells.slot("whole", 8 * (cells.usage()[1] - 1), now=1.0)
    assert whole.shared
    cells.sweep(100.0, 1.0)
    parts = [cells.slot(f"part {n}", 16, now=100.0) for n in range(4)]
    assert all(part.shared for part in parts)
    assert len({part.at // 16 for part in parts}) == 4


def test_a_holder_that_slept_through_a_sweep_learns_that_its_slot_moved() -> None:
    cells = Cells(bytearray(4096))
    slot, other = cells.slot("sleeper", 8, now=1.0), cells.slot("other", 8, now=1.0)
    before = slot.at
    cells.touch([other], 99.0)
    cells.sweep(100.0, 50.0)
    thief = cells.slot("thief", 8, now=100.0)
    assert thief.at == before
    assert cells.touch([slot, other, private(1)], 101.0) == (slot,)
    assert slot.at not in (thief.at, other.at)
    assert cells.touch([slot], 102.0) == ()


def test_each_mark_of_any_worker_is_a_value_that_was_not_there_before() -> None:
    buffer = bytearray(4096)
    workers = [Cells(buffer, worker=worker) for worker in (0, 1, 1023)]
    seen = {workers[0].changes}
    for turn in range(300):
        workers[turn * 7 % 3].mark()
        assert workers[0].changes not in seen
        seen.add(workers[0].changes)


@pytest.mark.parametrize("size", [0, 64, 4095])
def test_too_small_a_buffer_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match="too few"):
        Cells(bytearray(size))


def test_a_buffer_of_another_layout_or_size_is_refused() -> None:
    buffer = bytearray(16384)
    Cells(buffer)
    with pytest.raises(ValueError, match="something else"):
        Cells(memoryview(buffer)[:8192])
    with pytest.raises(ValueError, match="something else"):
        Cells(bytearray(b"x" * 8192))
    with pytest.raises(ValueError, match="worker"):
        Cells(buffer, worker=1024)


class Mapped:
    """What the gateway's edge does: a file mapped shared, and its lock, which falls free with the process."""

    def __init__(self, path: Path, worker: int) -> None:
        self._file = os.open(path, os.O_RDWR)
        self.cells = Cells(memoryview(mmap.mmap(self._file, 0)), lock=self._locked, worker=worker)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        fcntl.lockf(self._file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.lockf(self._file, fcntl.LOCK_UN)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = tmp_path / "cells"
    made.write_bytes(bytes(1 << 18))
    return made


def _allocate(path: Path, worker: int, start: multiprocessing.synchronize.Barrier) -> None:
    cells = Mapped(path, worker).cells
    start.wait(20)
    for n in range(300):
        slot = cells.slot(f"key {n if worker else 299 - n}", 2)
        slot.view[slot.at + worker] += 1.0


def test_processes_that_allocate_the_same_keys_at_once_agree_on_every_slot(path: Path) -> None:
    start = FORK.Barrier(2)
    workers = [FORK.Process(target=_allocate, args=(path, worker, start)) for worker in (0, 1)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(30)
        assert worker.exitcode == 0
    cells = Mapped(path, 2).cells
    found = [cells.slot(f"key {n}", 2) for n in range(300)]
    assert [list(slot.view[slot.at : slot.at + 2]) for slot in found] == [[1.0, 1.0]] * 300
    assert len({slot.at for slot in found}) == 300
    assert cells.usage()[0] == 300


def _write(path: Path, start: multiprocessing.synchronize.Barrier) -> None:
    cells = Mapped(path, 1).cells
    slot, done = cells.slot("value", 1), cells.slot("done", 1)
    view, at = slot.view, slot.at
    start.wait(20)
    while not done.view[done.at]:
        view[at] = -1.0
        view[at] = 1.2345678901234567e300


def test_a_reader_sees_the_old_value_or_the_new_one_and_never_a_torn_one(path: Path) -> None:
    start = FORK.Barrier(2)
    cells = Mapped(path, 0).cells
    slot, done = cells.slot("value", 1), cells.slot("done", 1)
    view, at = slot.view, slot.at
    writer = FORK.Process(target=_write, args=(path, start))
    writer.start()
    start.wait(20)
    try:
        seen = {view[at] for _ in range(300_000)}
        ends_at = time.monotonic() + 20.0
        while len(seen) < 2 and time.monotonic() < ends_at:  # the writer may get its core later
            seen.add(view[at])
    finally:
        done.view[done.at] = 1.0
    writer.join(30)
    assert writer.exitcode == 0
    assert seen <= {0.0, -1.0, 1.2345678901234567e300}
    assert len(seen) > 1, "the two ran at the same time"


def _die_holding_the_lock(path: Path) -> None:
    mapped = Mapped(path, 1)
    with mapped._locked():
        os._exit(9)


def test_a_worker_killed_with_the_lock_in_hand_blocks_nobody(path: Path) -> None:
    Mapped(path, 0).cells.slot("a", 1)
    killed = FORK.Process(target=_die_holding_the_lock, args=(path,))
    killed.start()
    killed.join(30)
    assert killed.exitcode == 9
    assert Mapped(path, 0).cells.slot("b", 1).shared
