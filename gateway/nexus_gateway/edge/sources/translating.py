"""`python -m nexus_gateway.edge.sources.translating CLASS CACHE`: a maker of Snapshots. Started by `aside`, never by hand.

Answers orders on standard input, one at a time, until that ends: a gateway that dies takes its maker along. Standard output
carries the answers alone; whatever else would write there goes to standard error.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import sys
from pathlib import Path
from typing import BinaryIO

import msgspec
from nexus_core.snapshot import wire

from nexus_gateway.edge.sources import frames
from nexus_gateway.edge.sources.frames import Ask, Line, Told
from nexus_gateway.edge.sources.workshop import Workshop

_NICE = 5
"""Requests go first: on a machine of one core, an edit of the manifests is read in what they leave."""


class _Lines(logging.Handler):
    """Keeps what is logged, for the gateway to write."""

    def __init__(self) -> None:
        super().__init__()
        self._lines: list[Line] = []

    def emit(self, record: logging.LogRecord) -> None:
        self._lines.append(Line(record.name, record.levelno, record.getMessage()))

    def take(self) -> tuple[Line, ...]:
        """Return what came since."""
        lines, self._lines = tuple(self._lines), []
        return lines


class _Packed:
    """`Texts` over what the gateway keeps. fresh: what it does not have yet."""

    def __init__(self, kept: dict[str, bytes]) -> None:
        self._kept = kept
        self.fresh: dict[str, bytes] = {}

    def find(self, name: str) -> str | None:
        data = self._kept.get(name)
        return frames.unpack_text(data) if data is not None else None

    def keep(self, name: str, text: str) -> None:
        data = frames.pack_text(text)
        if self._kept.get(name) != data:
            self._kept[name] = self.fresh[name] = data

    def take(self) -> dict[str, bytes]:
        """Return what came since."""
        fresh, self.fresh = self.fresh, {}
        return fresh


async def _answer(workshop: Workshop, texts: _Packed, lines: _Lines, ask: Ask) -> Told:
    made = await workshop.make(ask.found)
    manifest, chunks = b"", dict[str, bytes]()
    if made.digest != ask.known:
        encoded = wire.encode(made.snapshot)
        manifest, chunks = wire.manifest_bytes(encoded, 1), dict(encoded.chunks)
    return Told(made.digest, manifest, chunks, made.problems, made.due_in_s, texts.take(), lines.take())


def serve(asks: BinaryIO, answers: BinaryIO, class_name: str, cache: Path) -> None:
    """Answer until `asks` ends."""
    lines = _Lines()
    logging.basicConfig(handlers=[lines], level=logging.INFO)
    decoder = msgspec.msgpack.Decoder(Ask)
    workshop: Workshop | None = None
    texts = _Packed({})
    with asyncio.Runner() as runner:
        while True:
            try:
                ask = decoder.decode(frames.read(asks))
            except EOFError:
                return
            if workshop is None:
                previous = None
                if ask.previous is not None:
                    manifest, chunks = ask.previous
                    previous = wire.decode(wire.parse_manifest(manifest), chunks)
                texts = _Packed(ask.texts)
                workshop = Workshop(cache, class_name=class_name, previous=previous, texts=texts)
            try:
                frames.write(answers, runner.run(_answer(workshop, texts, lines, ask)))
            except BrokenPipeError:
                return
            # Between two orders, when nobody waits for it.
            gc.collect()


def main() -> int:
    """Serve on standard input and output; return the exit code."""
    class_name, cache = sys.argv[1:]
    # Both come to whole process groups. Who asked for this process ends it.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    os.nice(_NICE)
    # Parsing makes a great many objects and no cycles to speak of: without collections it takes a fifth less time.
    gc.disable()
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    try:
        serve(sys.stdin.buffer, answers, class_name, Path(cache))
    finally:
        try:
            answers.close()
        except BrokenPipeError:
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
