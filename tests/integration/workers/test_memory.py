"""Shared memory and its lock, between processes."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from collections.abc import Iterator

import pytest
from nexus_gateway.edge.workers.memory import SharedMemory
from nexus_gateway.resilience.cells import Cells

HOLD = """
import sys
from nexus_gateway.edge.workers.memory import SharedMemory
memory = SharedMemory(int(sys.argv[1]))
with memory.lock():
    memory.buffer[0] = 7
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def memory() -> Iterator[SharedMemory]:
    made = SharedMemory.create(2**16)
    yield made
    made.close()


def started(memory: SharedMemory) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", HOLD, str(memory.descriptor)],
        pass_fds=[memory.descriptor], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip


def said(process: subprocess.Popen[bytes], within_s: float) -> bytes:
    """Return what it wrote in that time, empty for nothing."""
    assert process.stdout is not None
    readable, _, _ = select.select([process.stdout], [], [], within_s)
    return process.stdout.readline() if readable else b""


def end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.communicate(timeout=10)


def test_a_child_sees_the_same_bytes_and_excludes_the_others(memory: SharedMemory) -> None:
    first = started(memory)
    assert said(first, 20) == b"held\n"
    assert memory.buffer[0] == 7
    second = started(memory)
    try:
        assert said(second, 1.0) == b"", "it waits for the first"
        first.communicate(b"", timeout=10)
        assert said(second, 20) == b"held\n"
    finally:
        end(first)
        end(second)


def test_the_lock_of_a_killed_process_is_free(memory: SharedMemory) -> None:
    process = started(memory)
    assert said(process, 20) == b"held\n"
    end(process)
    with memory.lock():
        assert memory.buffer[0] == 7


def test_nobody_can_take_the_memory_away_from_the_others(memory: SharedMemory) -> None:
    with pytest.raises(PermissionError):
        os.ftruncate(memory.descriptor, 1)


def test_cells_live_in_it(memory: SharedMemory) -> None:
    """The same key is the same slot for whoever maps the memory."""
    mine = Cells(memory.buffer, lock=memory.lock, worker=1)
    other = SharedMemory(os.dup(memory.descriptor))
    theirs = Cells(other.buffer, lock=other.lock, worker=2)
    slot, same = mine.slot("shop/orders 10.0.0.1:80", 4), theirs.slot("shop/orders 10.0.0.1:80", 4)
    slot.view[slot.at] = 42.0
    assert same.view[same.at] == 42.0
    assert same.shared
