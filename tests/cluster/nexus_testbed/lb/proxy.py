"""A TCP proxy in user space: one listener per address and port, spread over the endpoints that are ready right now.

Bytes are never held beyond one read per direction: the slower side sets the pace. Each side's end of stream is passed
on alone (half-close); a reset is passed on as a reset.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
from collections.abc import Callable, Sequence

CONNECT_TIMEOUT_S = 2.0
CHUNK_BYTES = 64 * 1024
RESET = struct.pack("ii", 1, 0)
"""SO_LINGER value that makes close() send RST, as a node without endpoints answers."""

Address = tuple[str, int]


def _reset(writer: asyncio.StreamWriter) -> None:
    if (sock := writer.get_extra_info("socket")) is not None:
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    writer.transport.abort()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(CHUNK_BYTES):
        writer.write(data)
        await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()


async def splice(
    left: tuple[asyncio.StreamReader, asyncio.StreamWriter], right: tuple[asyncio.StreamReader, asyncio.StreamWriter]
) -> None:
    """Copy both ways until both directions have ended; close both connections then."""
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(_copy(left[0], right[1]))
            group.create_task(_copy(right[0], left[1]))
    except* OSError:
        _reset(left[1])
        _reset(right[1])
    finally:
        left[1].close()
        right[1].close()


async def connect_any(endpoints: Sequence[Address]) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
    """Connect to one of the endpoints, tried in random order, each once; None if nobody accepts."""
    for host, port in random.sample(list(endpoints), len(endpoints)):
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                return await asyncio.open_connection(host, port, limit=CHUNK_BYTES)
        except (OSError, TimeoutError):
            continue
    return None


class Listener:
    """Accepts on one address and hands each connection to a ready endpoint. Connections outlive a change of endpoints."""

    def __init__(self, find_endpoints: Callable[[], Sequence[Address]]) -> None:
        self._find_endpoints = find_endpoints
        self._server: asyncio.Server | None = None

    async def open(self, address: Address) -> None:
        """Start to listen. Raises OSError."""
        self._server = await asyncio.start_server(self._serve, *address, limit=CHUNK_BYTES, backlog=1024)

    def close(self) -> None:
        """Stop to accept; connections that are open go on."""
        if self._server is not None:
            self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            upstream = await connect_any(self._find_endpoints())
            if upstream is None:
                _reset(writer)
                return
            await splice((reader, writer), upstream)
        except asyncio.CancelledError:
            _reset(writer)
