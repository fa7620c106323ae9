"""Memory that all workers see, and a lock over it.

A memfd: it has no name that could be left behind, and lives as long as a process holds it. The lock is a POSIX record lock on
it: the kernel frees it when its holder dies, however it dies, which no lock inside the memory could promise.
"""

from __future__ import annotations

import fcntl
import mmap
import os
from types import TracebackType
from typing import Self


class Lock:
    """Excludes other processes, not threads of this one. A waiter blocks: hold it for microseconds."""

    __slots__ = ("_descriptor",)

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def __call__(self) -> Self:
        """Return itself: `with memory.lock():`."""
        return self

    def __enter__(self) -> Self:
        """Wait for the lock."""
        fcntl.lockf(self._descriptor, fcntl.LOCK_EX)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Free it."""
        fcntl.lockf(self._descriptor, fcntl.LOCK_UN)


class SharedMemory:
    """A block of bytes, zero at first. buffer: all of it, writable. descriptor: hand it to a child and `SharedMemory` it there."""

    def __init__(self, descriptor: int) -> None:
        """Map the block behind a descriptor, and own the descriptor. Raises OSError."""
        self.descriptor = descriptor
        self._map = mmap.mmap(descriptor, os.fstat(descriptor).st_size)
        self.buffer = memoryview(self._map)
        # Not an open-file-description lock: those belong to the description, which parent and children share.
        self.lock = Lock(descriptor)

    @classmethod
    def create(cls, size: int) -> Self:
        """Return a new block. size: bytes."""
        descriptor = os.memfd_create("nexus-gateway", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(descriptor, size)
        # A process that shrank it would kill all others with SIGBUS.
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
        return cls(descriptor)

    def close(self) -> None:
        """Forget the block; views made of `buffer` must be gone, or BufferError is raised."""
        self.buffer.release()
        self._map.close()
        os.close(self.descriptor)
