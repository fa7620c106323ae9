"""WebSocket frames to messages and back, checked against the RFC's own examples and a foreign implementation."""

import contextlib
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nexus_wire.websocket import BINARY, CLOSE, PING, PONG, TEXT, Broken, Frame, MessageReader, frame, mask_of
from websockets.frames import Frame as ForeignFrame
from websockets.frames import Opcode

KEY = bytes.fromhex("37fa213d")


def read(*pieces: bytes, masked: bool = False, limit: int = 1 << 20) -> list[Frame]:
    reader = MessageReader(masked=masked, limit=limit)
    found: list[Frame] = []
    for piece in pieces:
        reader.feed(piece)
        found += reader.frames()
    return found


def test_the_examples_of_the_rfc() -> None:  # section 5.7
    assert frame(TEXT, b"Hello") == bytes.fromhex("810548656c6c6f")
    assert frame(TEXT, b"Hello", KEY) == bytes.fromhex("818537fa213d7f9f4d5158")
    assert read(bytes.fromhex("810548656c6c6f")) == [Frame(TEXT, b"Hello")]
    assert read(bytes.fromhex("818537fa213d7f9f4d5158"), masked=True) == [Frame(TEXT, b"Hello")]
    assert read(bytes.fromhex("010348656c"), bytes.fromhex("80026c6f")) == [Frame(TEXT, b"Hello")]
    assert read(bytes.fromhex("890548656c6c6f")) == [Frame(PING, b"Hello")]
    assert frame(BINARY, bytes(256))[:4] == bytes.fromhex("827e0100")
    assert frame(BINARY, bytes(65536))[:10] == bytes.fromhex("827f0000000000010000")


def test_control_frames_come_between_the_pieces_of_a_message() -> None:
    begin, end = bytes.fromhex("010348656c"), bytes.fromhex("80026c6f")
    assert read(begin + frame(PING, b"x") + end) == [Frame(PING, b"x"), Frame(TEXT, b"Hello")]


def test_pieces_of_nothing_take_nothing() -> None:
    """A message may have any number of them; its limit is on its bytes."""
    reader = MessageReader(masked=False, limit=16)
    begin, more, end = bytes.fromhex("0100"), bytes.fromhex("0000"), bytes.fromhex("800178")
    reader.feed(begin)
    assert list(reader.frames()) == []
    tracemalloc.start()
    try:
        for _ in range(100):
            reader.feed(more * 1000)
            assert list(reader.frames()) == []
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 20_000
    reader.feed(end)
    assert list(reader.frames()) == [Frame(TEXT, b"x")]


def test_nothing_counts_after_a_close() -> None:
    assert read(frame(CLOSE, b"\x03\xe8") + frame(TEXT, b"late") + b"\xff\xff") == [Frame(CLOSE, b"\x03\xe8")]


@given(
    st.lists(st.tuples(st.sampled_from([TEXT, BINARY, PING, PONG]), st.text(max_size=200)), max_size=6),
    st.booleans(),
    st.integers(1, 50),
)
def test_what_is_written_is_read_however_it_is_cut(said: list[tuple[int, str]], masked: bool, step: int) -> None:
    frames = [Frame(kind, text.encode()[: 125 if kind >= CLOSE else None]) for kind, text in said]
    wire = b"".join(frame(kind, payload, KEY if masked else b"") for kind, payload in frames)
    assert read(*(wire[i : i + step] for i in range(0, len(wire), step)), masked=masked) == frames


@given(st.sampled_from([TEXT, BINARY]), st.binary(max_size=70000), st.booleans())
def test_a_foreign_implementation_writes_the_same(kind: int, payload: bytes, masked: bool) -> None:
    theirs = ForeignFrame(Opcode(kind), payload).serialize(mask=masked)
    if not masked:
        assert frame(kind, payload) == theirs
    if kind == BINARY:
        assert read(theirs, masked=masked) == [Frame(kind, payload)]


@given(st.binary(max_size=64), st.binary(min_size=4, max_size=4))
def test_masking_twice_changes_nothing(payload: bytes, key: bytes) -> None:
    assert mask_of(mask_of(payload, key), key) == payload
    assert mask_of(payload, key) == bytes(b ^ key[i % 4] for i, b in enumerate(payload))


@pytest.mark.parametrize(
    ("wire", "masked", "code", "said"),
    [
        (bytes.fromhex("810548656c6c6f"), True, 1002, "not masked"),
        (bytes.fromhex("818537fa213d7f9f4d5158"), False, 1002, "is masked"),
        (bytes.fromhex("c100"), False, 1002, "extension"),
        (bytes.fromhex("8300"), False, 1002, "opcode 3"),
        (bytes.fromhex("0900"), False, 1002, "control frame"),
        (bytes.fromhex("897e007e") + bytes(126), False, 1002, "control frame"),
        (bytes.fromhex("8000"), False, 1002, "never began"),
        (bytes.fromhex("010161") + bytes.fromhex("810162"), False, 1002, "in the middle"),
        (bytes.fromhex("817e0005"), False, 1002, "shortest"),
        (bytes.fromhex("827f00000000000000ff"), False, 1002, "shortest"),
        (bytes.fromhex("827f8000000000000000"), False, 1002, "first bit"),
        (bytes.fromhex("8101ff"), False, 1007, "UTF-8"),
        (bytes.fromhex("827e0401"), False, 1009, "larger than 1024"),
        (bytes.fromhex("027e0400") + bytes(1024) + bytes.fromhex("800161"), False, 1009, "larger than 1024"),
    ],
)
def test_what_is_no_websocket_is_refused(wire: bytes, masked: bool, code: int, said: str) -> None:
    with pytest.raises(Broken, match=said) as broken:
        read(wire, masked=masked, limit=1024)
    assert broken.value.code == code


@given(st.binary(max_size=100), st.booleans())
def test_any_bytes_give_frames_or_broken(wire: bytes, masked: bool) -> None:
    with contextlib.suppress(Broken):
        read(wire, masked=masked, limit=64)
