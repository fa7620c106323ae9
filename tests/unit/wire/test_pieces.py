"""Pieces: the same bytes, copied only when that is cheaper."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest
import uvloop
from nexus_wire.pieces import LARGE, cut, write_all


@pytest.mark.parametrize("size", [0, 1, LARGE - 1, LARGE, LARGE + 1])
def test_a_piece_is_the_bytes_it_was_cut_from(size: int) -> None:
    data = bytes(n & 255 for n in range(size + 20))
    piece = cut(data, 7, 7 + size)
    assert piece == data[7 : 7 + size]
    assert len(piece) == size


def test_only_small_ones_are_copied() -> None:
    data = b"x" * (LARGE + 1)
    assert isinstance(cut(data, 0, LARGE - 1), bytes)
    large = cut(data, 1, LARGE + 1)
    assert isinstance(large, memoryview)
    assert large.obj is data


@pytest.mark.parametrize("make", [asyncio.SelectorEventLoop, uvloop.new_event_loop])
def test_pieces_are_written_in_their_order(make: Any) -> None:
    """On asyncio's own loop in one `write`, which knows of back-pressure and of ends in every version."""
    calls: list[str] = []

    async def through() -> bytes:
        here, there = socket.socketpair()
        transport, _ = await asyncio.get_running_loop().create_connection(asyncio.Protocol, sock=here)
        reader, writer = await asyncio.open_connection(sock=there)
        if make is asyncio.SelectorEventLoop:
            transport.writelines = lambda pieces: calls.append("writelines")  # type: ignore[method-assign]
        write_all(transport, (b"head ", memoryview(b"-body-")[1:5], b"", b" tail"))
        transport.close()
        got = await reader.read()
        writer.close()
        return got

    with asyncio.Runner(loop_factory=make) as runner:
        assert runner.run(through()) == b"head body tail"
    assert not calls
