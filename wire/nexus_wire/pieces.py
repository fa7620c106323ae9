"""Pieces of bodies on their way from one connection to another."""

from __future__ import annotations

Piece = bytes | memoryview
"""What came, or a view of it. What it is a view of lives as long as the piece does."""

LARGE = 2**13
"""Bytes from which on a piece is not copied: below, a view costs more than the copy, and two buffers more than one to a socket."""


def cut(data: bytes, begin: int, end: int) -> Piece:
    """Return `data[begin:end]`, copied only if it is small."""
    return data[begin:end] if end - begin < LARGE else memoryview(data)[begin:end]
