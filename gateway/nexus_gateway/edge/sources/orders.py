"""What a gateway and the process that reads its manifests say to each other."""

from __future__ import annotations

import zlib

import msgspec
from nexus_core.marketplace.locks import Lock
from nexus_core.problems import Problem

from nexus_gateway.edge.sources.making import Fingerprint


class Ask(msgspec.Struct):
    """One order. found: the files as they are now. known: digest of the Snapshot that need not be sent again. locks: of plugins.

    The first one to a process also says what it has to remember. previous: the live Snapshot's manifest and chunks, None
    before the first. texts: each file as it last was readable, packed. seal_key: of private keys in the Snapshot. alone: as in
    `workshop.Workshop`.
    """

    found: Fingerprint
    known: str
    previous: tuple[bytes, dict[str, bytes]] | None = None
    texts: dict[str, bytes] = {}
    seal_key: bytes = b""
    alone: bool = False
    locks: dict[str, Lock] = {}


class Line(msgspec.Struct):
    """A line of log, written by the gateway in its own form."""

    logger: str
    level: int
    text: str


class Told(msgspec.Struct):
    """What came of it. manifest, chunks: the Snapshot's wire form, empty when its digest is the known one. texts: files that were
    read anew and are good, packed. due_in_s, locks: as in `making.Made`."""

    digest: str
    manifest: bytes
    chunks: dict[str, bytes]
    problems: tuple[Problem, ...]
    due_in_s: float | None
    texts: dict[str, bytes]
    log: tuple[Line, ...]
    locks: dict[str, Lock] = {}


def pack_text(text: str) -> bytes:
    """Return the text as it is kept: manifests repeat themselves, so that little remains (1 MB of routes: 60 KB)."""
    return zlib.compress(text.encode(), 1)


def unpack_text(data: bytes) -> str:
    """Return what was packed."""
    return zlib.decompress(data).decode()
