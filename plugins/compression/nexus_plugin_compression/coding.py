"""Bodies compressed while they pass. One object for each body; nothing is held back that a flush would send."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Protocol

import brotli
import zstandard

_BROTLI_WINDOW = 19
"""Bits: 512 KiB. The default of 4 MiB is memory that each response in progress would hold."""
_ZSTD_WINDOW = 23
"""Bits: 8 MiB, the most that browsers take (RFC 9659)."""


class _Steps(Protocol):
    """What the three libraries have in common, once they are dressed alike."""

    def take(self, data: bytes) -> bytes: ...
    def flush(self) -> bytes: ...
    def end(self) -> bytes: ...


class _Gzip:
    __slots__ = ("_made",)

    def __init__(self, level: int) -> None:
        self._made = zlib.compressobj(level, zlib.DEFLATED, 31)

    def take(self, data: bytes) -> bytes:
        return self._made.compress(data)

    def flush(self) -> bytes:
        return self._made.flush(zlib.Z_SYNC_FLUSH)

    def end(self) -> bytes:
        return self._made.flush()


class _Brotli:
    __slots__ = ("_made",)

    def __init__(self, level: int) -> None:
        self._made = brotli.Compressor(quality=level, lgwin=_BROTLI_WINDOW)

    def take(self, data: bytes) -> bytes:
        return bytes(self._made.process(data))

    def flush(self) -> bytes:
        return bytes(self._made.flush())

    def end(self) -> bytes:
        return bytes(self._made.finish())


class _Zstd:
    __slots__ = ("_made",)

    def __init__(self, level: int) -> None:
        parameters = zstandard.ZstdCompressionParameters.from_level(level)
        if parameters.window_log > _ZSTD_WINDOW:
            parameters = zstandard.ZstdCompressionParameters.from_level(level, window_log=_ZSTD_WINDOW)
        self._made = zstandard.ZstdCompressor(compression_params=parameters).compressobj()

    def take(self, data: bytes) -> bytes:
        return self._made.compress(data)

    def flush(self) -> bytes:
        return self._made.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)

    def end(self) -> bytes:
        return self._made.flush(zstandard.COMPRESSOBJ_FLUSH_FINISH)


CODINGS: dict[str, Callable[[int], _Steps]] = {"gzip": _Gzip, "br": _Brotli, "zstd": _Zstd}


class Compressed:
    """A body in one coding. each: whether every piece can be read as soon as it is there, as events have to be."""

    __slots__ = ("_each", "_steps")

    def __init__(self, coding: str, level: int, *, each: bool) -> None:
        self._steps = CODINGS[coding](level)
        self._each = each

    def feed(self, data: bytes) -> bytes:
        """Return what goes on now; empty while the coding still collects."""
        made = self._steps.take(data)
        return made + self._steps.flush() if self._each else made

    def finish(self) -> bytes:
        """Return what is left."""
        return self._steps.end()
