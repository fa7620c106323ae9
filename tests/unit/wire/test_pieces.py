"""Pieces: the same bytes, copied only when that is cheaper."""

from __future__ import annotations

import pytest
from nexus_wire.pieces import LARGE, cut


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
