"""Pieces of bodies on their way from one connection to another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Piece = bytes | memoryview
"""What came, or a view of it. What it is a view of lives as long as the piece does."""

LARGE = 2**13
"""Bytes from which on a piece is not copied: below, a view costs more than the copy, and two buffers more than one to a socket."""

JOINED = 2**16
"""Bytes up to which pieces for one write are copied into one: the socket's call costs more."""


def cut(data: bytes, begin: int, end: int) -> Piece:
    """Return `data[begin:end]`, copied only if it is small. Otherwise all of data lives as long as the piece."""
    return data[begin:end] if end - begin < LARGE else memoryview(data)[begin:end]


def write_all(transport: Any, pieces: Sequence[Piece]) -> None:
    """Write pieces one after the other, in as few system calls as the transport can.

    asyncio's own transports get one piece: their `writelines` neither pauses its protocol (CVE-2024-12254) nor minds that the
    connection was aborted, in Python 3.12 and 3.13 before they were mended.
    """
    if type(transport).__module__ == "asyncio.selector_events":
        transport.write(b"".join(pieces))
    else:
        transport.writelines(pieces)
