"""What a gateway and its maker of Snapshots say to each other, as frames on a pair of pipes: four bytes of length, then msgpack."""

from __future__ import annotations

import zlib
from typing import BinaryIO

import msgspec
from nexus_core.problems import Problem

from nexus_gateway.edge.sources.making import Fingerprint

_LENGTH_BYTES = 4


class Ask(msgspec.Struct):
    """One order. found: the files as they are now.

    The first one of a process also says what is to be remembered. previous: the live Snapshot's manifest and chunks, None
    before the first. texts: each file as it last was readable, packed.
    """

    found: Fingerprint
    known: str = ""
    """Digest of the Snapshot that need not be sent again."""
    previous: tuple[bytes, dict[str, bytes]] | None = None
    texts: dict[str, bytes] = {}


class Line(msgspec.Struct):
    """A line of log, written by the gateway in its own form."""

    logger: str
    level: int
    text: str


class Told(msgspec.Struct):
    """What came of it. manifest, chunks: the Snapshot's wire form, empty when its digest is the known one. texts: files that were
    read anew and are good, packed."""

    digest: str
    manifest: bytes
    chunks: dict[str, bytes]
    problems: tuple[Problem, ...]
    due_in_s: float | None
    texts: dict[str, bytes]
    log: tuple[Line, ...] = ()


def write(stream: BinaryIO, message: Ask | Told) -> None:
    """Send one message. Raises OSError."""
    body = msgspec.msgpack.encode(message)
    stream.write(len(body).to_bytes(_LENGTH_BYTES, "big"))
    stream.write(body)
    stream.flush()


def read(stream: BinaryIO) -> bytes:
    """Return the next message's bytes; blocks. Raises EOFError when the other side is gone, OSError."""
    length = stream.read(_LENGTH_BYTES)
    if len(length) < _LENGTH_BYTES:
        raise EOFError
    size = int.from_bytes(length, "big")
    body = stream.read(size)
    if len(body) < size:
        raise EOFError
    return body


def pack_text(text: str) -> bytes:
    """Return the text as it is kept: manifests repeat themselves, so that little remains (1 MB of routes: 60 KB)."""
    return zlib.compress(text.encode(), 1)


def unpack_text(data: bytes) -> str:
    """Return what was packed."""
    return zlib.decompress(data).decode()
