"""Response heads and what connections of HTTP/2 count."""

from __future__ import annotations

import pytest
from nexus_wire.http2 import frames, hpack
from nexus_wire.http2.frames import Code, ConnectionBroken
from nexus_wire.http2.limits import Limits, Watch
from nexus_wire.http2.responses import ResponseHeads


@pytest.mark.parametrize(("status", "indexed"), [(200, True), (404, True), (201, False), (503, False), (100, False)])
def test_a_head_is_status_and_fields(status: int, indexed: bool) -> None:
    heads = ResponseHeads()
    block = heads.block(b"HTTP/1.1 %d Whatever\r\n" % status, b"Content-Type: a\r\ncontent-length: 3\r\n")
    assert (block[0] >= 0x80) is indexed
    assert hpack.decoder().decode(block) == [
        (b":status", b"%d" % status), (b"content-type", b"a"), (b"content-length", b"3"),
    ]  # fmt: skip


def test_a_head_that_comes_again_is_kept_unless_it_holds_a_secret_or_is_large() -> None:
    heads = ResponseHeads()
    for lines in (b"a: b\r\n", b"set-cookie: a=b\r\n", b"a: %b\r\n" % (b"x" * 2000)):
        heads.block(b"HTTP/1.1 200 OK\r\n", lines)
    assert list(heads.kept) == [(b"HTTP/1.1 200 OK\r\n", b"a: b\r\n")]


def test_heads_are_kept_in_a_bounded_number() -> None:
    heads = ResponseHeads()
    for number in range(3000):
        heads.block(b"HTTP/1.1 200 OK\r\n", b"a: %d\r\n" % number)
    assert len(heads.kept) == 1024
    heads.age()
    assert not heads.kept


# ---- limits


def test_frames_that_ask_for_nothing_are_bounded_within_a_period() -> None:
    watch = Watch(Limits(max_noise=10), period=100)
    for _ in range(10):
        watch.noise(500, 1)
    watch.noise(500, 1)  # the period that began with the connection is over: a new one begins
    for _ in range(10):
        watch.noise(500, 1)
    with pytest.raises(ConnectionBroken) as raised:
        watch.noise(599, 1)
    assert raised.value.code is Code.ENHANCE_YOUR_CALM


def test_streams_and_content_pay_for_frames() -> None:
    watch = Watch(Limits(max_noise=10), period=100)
    watch.pay(20)
    for _ in range(10 + 4 * 20 + 21):
        watch.noise(50, 21)
    with pytest.raises(ConnectionBroken):
        watch.noise(50, 21)


def test_resets_are_bounded_when_they_are_most_of_what_comes() -> None:
    watch = Watch(Limits(max_resets=10), period=100)
    for number in range(10):
        watch.reset(50, 2 * number + 1)
    watch.reset(50, 401)  # eleven of two hundred streams
    with pytest.raises(ConnectionBroken):
        watch.reset(50, 23)


def test_the_greeting_says_what_is_taken() -> None:
    greeting = Limits(max_streams=7, window=2**17).greeting(4096)
    word, flags, stream = frames.HEAD.unpack_from(greeting)
    size = word >> 8
    assert (word & 0xFF, flags, stream) == (frames.SETTINGS, 0, 0)
    assert dict(frames.read_settings(greeting[9 : 9 + size])) == {
        frames.MAX_CONCURRENT_STREAMS: 7, frames.MAX_HEADER_LIST_SIZE: 4096, frames.ENABLE_CONNECT_PROTOCOL: 1,
    }  # fmt: skip
    assert greeting[9 + size :] == frames.window_update(0, 2**17 - 65535)


# ---- frames


def test_a_large_block_is_continued_and_a_small_one_is_not() -> None:
    written = frames.headers(3, b"x" * 25, 10, end=True)
    found = []
    while written:
        word, flags, stream = frames.HEAD.unpack_from(written)
        found.append((word & 0xFF, flags, stream, word >> 8))
        written = written[9 + (word >> 8) :]
    assert found == [
        (frames.HEADERS, frames.END_STREAM, 3, 10), (frames.CONTINUATION, 0, 3, 10),
        (frames.CONTINUATION, frames.END_HEADERS, 3, 5),
    ]  # fmt: skip
    assert frames.headers(3, b"x", 10, end=False) == b"\x00\x00\x01\x01\x04\x00\x00\x00\x03x"


@pytest.mark.parametrize(
    ("payload", "code"),
    [
        (b"\x00\x02\x00\x00\x00\x02", Code.PROTOCOL_ERROR),
        (b"\x00\x04\x80\x00\x00\x00", Code.FLOW_CONTROL_ERROR),
        (b"\x00\x05\x00\x00\x3f\xff", Code.PROTOCOL_ERROR),
        (b"\x00\x05\x01\x00\x00\x00", Code.PROTOCOL_ERROR),
        (b"\x00\x05", Code.FRAME_SIZE_ERROR),
    ],
)
def test_settings_out_of_range_are_refused(payload: bytes, code: Code) -> None:
    with pytest.raises(ConnectionBroken) as raised:
        list(frames.read_settings(payload))
    assert raised.value.code is code


@pytest.mark.parametrize("payload", [b"", b"\x01", b"\x05abcd"])
def test_padding_cannot_be_longer_than_its_frame(payload: bytes) -> None:
    with pytest.raises(ConnectionBroken):
        frames.unpadded(payload, frames.PADDED)


def test_padding_and_priority_are_taken_off() -> None:
    assert frames.unpadded(b"\x02abc\x00\x00", frames.PADDED) == b"abc"
    assert frames.fragment(b"\x01\x00\x00\x00\x01\x10block\x00", frames.PADDED | frames.PRIORITISED, 3) == b"block"
