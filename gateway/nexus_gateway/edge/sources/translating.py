"""`python -m nexus_gateway.edge.sources.translating CLASS CACHE ARTEFACTS`: a workshop for a gateway. Started by `remote`."""

from __future__ import annotations

import asyncio
import logging
import sys
from pathlib import Path

import msgspec
from nexus_core.certificates.sealing import Sealer
from nexus_core.snapshot import Snapshot, wire
from nexus_hosting import asides

from nexus_gateway.edge.sources import orders
from nexus_gateway.edge.sources.orders import Ask, Line, Told
from nexus_gateway.edge.sources.workshop import Workshop


class Lines(logging.Handler):
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


class Packed:
    """`making.Texts` over what the gateway keeps."""

    def __init__(self, kept: dict[str, bytes]) -> None:
        self._kept = kept
        self._fresh: dict[str, bytes] = {}

    def find(self, name: str) -> str | None:
        data = self._kept.get(name)
        return orders.unpack_text(data) if data is not None else None

    def keep(self, name: str, text: str) -> None:
        data = orders.pack_text(text)
        if self._kept.get(name) != data:
            self._kept[name] = self._fresh[name] = data

    def take(self) -> dict[str, bytes]:
        """Return what the gateway does not have yet."""
        fresh, self._fresh = self._fresh, {}
        return fresh


class Service:
    """Answers orders with one workshop, that the first order equips."""

    def __init__(
        self, cache: Path, artefacts: Path | None, class_name: str, runner: asyncio.Runner, lines: Lines
    ) -> None:
        self._cache = cache
        self._artefacts = artefacts
        self._class_name = class_name
        self._runner = runner
        self._lines = lines
        self._texts = Packed({})
        self._workshop: Workshop | None = None

    def answer(self, order: bytes) -> bytes:
        """Return the answer to an `Ask`."""
        ask = msgspec.msgpack.decode(order, type=Ask)
        if self._workshop is None:
            self._texts = Packed(ask.texts)
            self._workshop = Workshop(
                self._cache,
                class_name=self._class_name,
                previous=_previous(ask),
                texts=self._texts,
                sealer=Sealer(ask.seal_key),
                alone=ask.alone,
                artefacts=self._artefacts,
            )
        made = self._runner.run(self._workshop.make(ask.found, ask.locks))
        manifest, chunks = b"", dict[str, bytes]()
        if made.digest != ask.known:
            encoded = wire.encode(made.snapshot)
            manifest, chunks = wire.manifest_bytes(encoded, 1), dict(encoded.chunks)
        told = Told(
            made.digest,
            manifest,
            chunks,
            made.problems,
            made.due_in_s,
            self._texts.take(),
            self._lines.take(),
            dict(made.locks),
        )
        return msgspec.msgpack.encode(told)


def _previous(ask: Ask) -> Snapshot | None:
    if ask.previous is None:
        return None
    manifest, chunks = ask.previous
    return wire.decode(wire.parse_manifest(manifest), chunks)


def main() -> int:
    """Serve on standard input and output; return the exit code."""
    class_name, cache, artefacts = sys.argv[1:]
    lines = Lines()
    logging.basicConfig(handlers=[lines], level=logging.INFO)
    with asyncio.Runner() as runner:
        return asides.serve(
            Service(Path(cache), Path(artefacts) if artefacts else None, class_name, runner, lines).answer
        )


if __name__ == "__main__":
    sys.exit(main())
