"""Makes Snapshots in a process of its own, which ends when nothing changes any more.

Reading manifests takes the model, pydantic, YAML and the parsed world: 70 MB with 5,000 routes, that a process which only serves
would keep for ever. Here it gets the Snapshot in its wire form, as a gateway beside Consul does; and no request waits for a
translation, which would hold the interpreter for 0.3 s in slices. It costs the start of a Python (0.6 s) when the first of a row of
edits is seen; whoever edits once edits again, so the process stays for a while.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import subprocess
import sys
import threading
from pathlib import Path

import msgspec
from nexus_core.snapshot import EMPTY, Snapshot, wire

from nexus_gateway.edge.sources import frames
from nexus_gateway.edge.sources.frames import Ask, Told
from nexus_gateway.edge.sources.making import DEFAULT_CLASS, Fingerprint, Made, MakerGone

log = logging.getLogger("nexus.gateway.files")

LINGER_S = 20.0
"""How long the process stays after a change. Longer than a failed look at a marketplace takes to be repeated (`indexes`)."""
COMMAND = (sys.executable, "-P", "-m", "nexus_gateway.edge.sources.translating")
"""-P: a directory of manifests is no place to import from."""


class Aside:
    """The `Maker` beside this process. Starts one when there is something to make; its pid while there is one."""

    def __init__(self, cache: Path, *, class_name: str = DEFAULT_CLASS, linger_s: float = LINGER_S) -> None:
        """cache: directory for fetched marketplace indexes."""
        self._command = (*COMMAND, class_name, str(cache))
        self._linger_s = linger_s
        self._process: subprocess.Popen[bytes] | None = None
        self._snapshot: Snapshot | None = None
        self._digest = ""
        self._texts: dict[str, bytes] = {}
        self._busy = asyncio.Lock()
        self._turn = threading.Lock()
        self._leaving: asyncio.Task[None] | None = None
        self._closed = False
        self._decoder = msgspec.msgpack.Decoder(Told)

    @property
    def pid(self) -> int | None:
        """The process that makes Snapshots; None while there is none."""
        process = self._process
        return process.pid if process is not None else None

    async def make(self, found: Fingerprint) -> Made:
        """Return what these files say. Raises `MakerGone`."""
        if self._leaving is not None:
            self._leaving.cancel()
        async with self._busy:
            first = self._snapshot is None
            # Blocking reads in a thread: pipes of a process that is started and ended at will, on whichever event loop.
            told = await asyncio.to_thread(self._ask, found)
            for line in told.log:
                logging.getLogger(line.logger).log(line.level, "%s", line.text)
            self._texts.update(told.texts)
            names = {row[0] for row in found}
            self._texts = {name: text for name, text in self._texts.items() if name in names}
            if told.digest != self._digest:
                self._snapshot = await asyncio.to_thread(_decode, told, self._snapshot or EMPTY)
                self._digest = told.digest
            assert self._snapshot is not None
        # Nothing tells that what was just started will be edited, but that a look at a marketplace is due soon is known.
        soon = told.due_in_s is not None and told.due_in_s < self._linger_s
        self._leaving = asyncio.create_task(
            self._leave(0.0 if first and not soon else self._linger_s), name="manifests: leave"
        )
        return Made(self._snapshot, self._digest, told.problems, told.due_in_s)

    def _ask(self, found: Fingerprint) -> Told:
        with self._turn:  # whoever was cancelled waits no more for an answer, but its thread does
            return self._ask_now(found)

    def _ask_now(self, found: Fingerprint) -> Told:
        process = self._process
        if process is not None and process.poll() is not None:
            process = self._process = None
        ask = Ask(found, self._digest)
        if process is None:
            if self._snapshot is not None:
                encoded = wire.encode(self._snapshot)
                ask.previous = (wire.manifest_bytes(encoded, 1), dict(encoded.chunks))
            ask.texts = self._texts
            process = self._start()
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            frames.write(process.stdin, ask)
            return self._decoder.decode(frames.read(process.stdout))
        except (OSError, EOFError, ValueError) as error:
            process.kill()
            code = process.wait()
            _release(process)
            self._process = None
            raise MakerGone(f"the process that reads them ended with code {code}") from error

    def _start(self) -> subprocess.Popen[bytes]:
        if self._closed:
            raise MakerGone("the gateway stops")
        try:
            process = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        except OSError as error:
            raise MakerGone(f"no process can be started to read them: {error.strerror or error}") from error
        self._process = process
        if self._closed:
            process.kill()
        return process

    async def _leave(self, after_s: float) -> None:
        await asyncio.sleep(after_s)
        async with self._busy:
            process, self._process = self._process, None
            if process is not None:
                await asyncio.to_thread(_end, process)

    async def close(self) -> None:
        """End the process, whatever it is at."""
        self._closed = True
        leaving, process = self._leaving, self._process
        if leaving is not None:
            leaving.cancel()
            await asyncio.gather(leaving, return_exceptions=True)
        if process is not None:
            process.kill()  # who waits for its answer in a thread gets the end of it instead
            await asyncio.to_thread(process.wait)
            async with self._busy:
                _release(process)
                self._process = None


def _decode(told: Told, former: Snapshot) -> Snapshot:
    return wire.decode(wire.parse_manifest(told.manifest), told.chunks, former)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Let it end by itself: the end of its orders is the end."""
    _release(process)
    process.wait()


def _release(process: subprocess.Popen[bytes]) -> None:
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            with contextlib.suppress(OSError):  # what was written last may be in the buffer yet, and nobody reads it
                stream.close()
