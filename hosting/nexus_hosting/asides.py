"""A process beside this one for work that needs much memory and is seldom: it starts when there is something to do, stays for a
while, and ends.

What a library takes when it is imported is never given back. A gateway serves for months and reads manifests or verifies plugins for
seconds, so these do not happen in it. Frames go over a pair of pipes: four bytes of length, then the message; an answer for each order.
The end of its standard input is the end of the process: one whose gateway dies dies, too.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import IO

_LENGTH_BYTES = 4
_NICE = 5
"""Requests go first: on a machine of one core the process gets what they leave, and at least a quarter."""


class AsideGone(Exception):
    """The process ended, or could not be started. The text says which, as the end of a sentence."""


class Aside:
    """One process at most, for orders one after the other."""

    def __init__(self, module: str, *arguments: str) -> None:
        """module: run as `python -m`; its `main` calls `serve`."""
        # -P: the directory a gateway is started in, perhaps one of manifests, is no place to import from.
        self._command = (sys.executable, "-P", "-m", module, *arguments)
        self._process: subprocess.Popen[bytes] | None = None
        self._one = asyncio.Lock()
        self._turn = threading.Lock()
        self._leaving: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def pid(self) -> int | None:
        """The process; None while there is none."""
        process = self._process
        return process.pid if process is not None else None

    async def call(self, order: Callable[[bool], bytes]) -> bytes:
        """Return the answer. order: called in a thread with whether the process has just been started. Raises `AsideGone`."""
        if self._leaving is not None:
            self._leaving.cancel()
            self._leaving = None
        # Blocking reads in a thread, not the event loop's own processes: those differ from loop to loop.
        async with self._one:
            return await asyncio.to_thread(self._call, order)

    def leave(self, after_s: float) -> None:
        """Let the process end when no order came for so long."""
        if self._leaving is not None:
            self._leaving.cancel()
        self._leaving = asyncio.create_task(self._leave(after_s), name=f"leave {self._command[3]}")

    async def close(self) -> None:
        """End the process, whatever it is at."""
        self._closed = True
        if self._leaving is not None:
            self._leaving.cancel()
            await asyncio.gather(self._leaving, return_exceptions=True)
        process = self._process
        if process is not None:
            process.kill()  # who waits for its answer in a thread gets the end of it instead
            await asyncio.to_thread(self._end)

    def _call(self, order: Callable[[bool], bytes]) -> bytes:
        # Whoever was cancelled waits no more for an answer, but its thread does: the next order is not mixed with it.
        with self._turn:
            process = self._process
            fresh = process is None or process.poll() is not None
            body = order(fresh)
            if process is None or fresh:
                process = self._start()
            assert process.stdin is not None
            assert process.stdout is not None
            try:
                write(process.stdin, body)
                return read(process.stdout)
            except (OSError, EOFError) as error:
                process.kill()
                self._process = None
                code = process.wait()
                _release(process)
                raise AsideGone(f"the process for it ended with code {code}") from error

    def _start(self) -> subprocess.Popen[bytes]:
        if self._closed:
            raise AsideGone("the gateway stops")
        try:
            process = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        except OSError as error:
            raise AsideGone(f"no process can be started for it: {error.strerror or error}") from error
        self._process = process
        if self._closed:  # meanwhile; `close` has not seen it
            process.kill()
        return process

    async def _leave(self, after_s: float) -> None:
        await asyncio.sleep(after_s)
        await asyncio.to_thread(self._end)

    def _end(self) -> None:
        """Let it end: the end of its orders is what it waits for."""
        with self._turn:
            process, self._process = self._process, None
            if process is not None:
                _release(process)
                process.wait()


def write(stream: IO[bytes], body: bytes) -> None:
    """Send one message. Raises OSError."""
    stream.write(len(body).to_bytes(_LENGTH_BYTES, "big"))
    stream.write(body)
    stream.flush()


def read(stream: IO[bytes]) -> bytes:
    """Return the next message; blocks. Raises EOFError when the other side is gone, OSError."""
    length = stream.read(_LENGTH_BYTES)
    if len(length) < _LENGTH_BYTES:
        raise EOFError
    size = int.from_bytes(length, "big")
    body = stream.read(size)
    if len(body) < size:
        raise EOFError
    return body


def serve(answer: Callable[[bytes], bytes]) -> int:
    """Answer the orders on standard input until that ends; return the exit code. For the process itself.

    Standard output carries answers alone: whatever else would write there goes to standard error.
    """
    # Both come to whole process groups. Who asked for this process ends it.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    os.nice(_NICE)
    # Reading manifests makes a great many objects and few cycles: without collections on the way it takes a fifth less time.
    gc.disable()
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    with contextlib.suppress(EOFError, BrokenPipeError), answers:
        while True:
            write(answers, answer(read(sys.stdin.buffer)))
            gc.collect()  # between two orders, when nobody waits for it
    return 0


def _release(process: subprocess.Popen[bytes]) -> None:
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            with contextlib.suppress(OSError):  # what was written last may be in the buffer yet, and nobody reads it
                stream.close()
