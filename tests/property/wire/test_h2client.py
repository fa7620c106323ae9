"""What a server may send: whatever it is, every exchange has one end, and where reads are cut makes no difference."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

from hpack import Encoder
from hypothesis import given
from hypothesis import strategies as st
from nexus_wire.client import Broken, Upward
from nexus_wire.h2client import Carrier, Heads
from nexus_wire.http1 import ResponseBlock, StatusLine
from nexus_wire.http2 import frames
from nexus_wire.pieces import Piece

EXCHANGES = 4


class Transport:
    """Takes everything, and closes when told."""

    def __init__(self) -> None:
        self.gone = False

    def write(self, data: bytes) -> None:
        pass

    def get_extra_info(self, name: str) -> None:
        return None

    def get_write_buffer_size(self) -> int:
        return 0

    def close(self) -> None:
        self.gone = True

    abort = close


class Told:
    """What came of an exchange."""

    def __init__(self) -> None:
        self.status = 0
        self.body = b""
        self.trailers = b""
        self.end = ""

    @property
    def whole(self) -> tuple[int, bytes, bytes, str]:
        return self.status, self.body, self.trailers, self.end

    def on_response(
        self, connection: Upward, status: StatusLine, block: ResponseBlock, length: int, data: Piece, complete: bool
    ) -> None:
        assert not self.status
        assert not self.end
        self.status = status.code
        self.body += bytes(data)
        if complete:
            self.end = "complete"
            self.trailers = connection.trailers

    def on_data(self, data: bytes) -> None:
        assert self.status
        assert not self.end
        self.body += data

    def on_end(self, connection: Upward) -> None:
        assert self.status
        assert not self.end
        self.end = "complete"
        self.trailers = connection.trailers

    def on_interim(self, head: bytes, code: int) -> None:
        assert not self.status
        assert 100 < code < 200

    def on_broken(self, connection: Upward, why: Broken, detail: str) -> None:
        assert not self.end
        self.end = "broken"

    def on_upstream_blocked(self) -> None:
        pass

    def on_upstream_ready(self) -> None:
        pass


def play(pieces: list[bytes]) -> list[Told]:
    """Hand a connection with some requests what the server sends, and then its end."""

    async def run() -> list[Told]:
        clock: Any = SimpleNamespace(tick=0, watch=lambda timed: None)
        carrier = Carrier(Heads(), clock, lambda _: None)
        transport = Transport()
        carrier.connection_made(transport)
        carrier.data_received(frames.settings({}))
        told = [Told() for _ in range(EXCHANGES)]
        for number, each in enumerate(told):
            carrier.exchange().begin(each, b"GET /%d HTTP/1.1\r\nhost: x\r\n\r\n" % number)
        for piece in pieces:
            if transport.gone:
                break
            carrier.data_received(piece)
        carrier.connection_lost(None)
        assert not carrier.streams
        assert not carrier.exchanges
        assert not carrier.waiting
        return told

    return asyncio.run(run())


def framed(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return frames.HEAD.pack(len(payload) << 8 | kind, flags, stream) + payload


def block(pairs: list[tuple[str, str]]) -> bytes:
    return Encoder().encode(pairs)


fields = st.sampled_from(
    [(":status", "200"), (":status", "103"), (":status", "204"), (":status", "x"), ("content-length", "3"), ("content-length", "0"),
     ("grpc-status", "0"), ("X", "1"), ("a", "b\r\nc: d"), ("connection", "close"), ("date", "x"), ("", "")]
)  # fmt: skip
blocks = st.one_of(
    st.just([(":status", "200")]).map(block),
    st.lists(fields, max_size=4).map(lambda more: block([(":status", "200"), *more])),
    st.lists(fields, max_size=4).map(block),
    st.binary(max_size=12),
)
streams = st.sampled_from([1, 3, 5, 7, 1, 3, 5, 7, 0, 2, 9])
any_frame = st.one_of(
    st.builds(framed, st.just(frames.HEADERS), st.sampled_from([4, 5, 4, 5, 0, 1, 0x2C, 0x0C]), streams, blocks),
    st.builds(framed, st.just(frames.CONTINUATION), st.sampled_from([0, 4]), streams, blocks),
    st.builds(framed, st.just(frames.DATA), st.sampled_from([0, 1, 0, 1, 8]), streams, st.binary(max_size=6)),
    st.builds(framed, st.just(frames.RST_STREAM), st.just(0), streams, st.sampled_from([bytes(4), b"\0\0\0\7", b"\0\0\0\x08", b"x"])),
    st.builds(framed, st.just(frames.WINDOW_UPDATE), st.just(0), streams, st.sampled_from([bytes(4), b"\0\0\1\0", b"\x7f\xff\xff\xff"])),
    st.builds(framed, st.just(frames.GOAWAY), st.just(0), st.sampled_from([0, 0, 1]),
              st.sampled_from([b"\0\0\0\3" + bytes(4), b"\x7f\xff\xff\xff" + bytes(4), bytes(8), b"x"])),
    st.builds(lambda pairs: frames.settings(dict(pairs)),
              st.lists(st.tuples(st.integers(1, 9), st.sampled_from([0, 1, 100, 16384, 65535, 1 << 31])), max_size=3)),
    st.builds(framed, st.integers(0, 12), st.integers(0, 255), streams, st.binary(max_size=20)),
)  # fmt: skip

ours = st.sampled_from([1, 3, 5, 7])
aside_frame = st.one_of(
    st.builds(frames.reset, ours, st.sampled_from([0, 7, 8])),
    st.builds(frames.window_update, st.sampled_from([0, 1, 3]), st.integers(1, 1000)),
    st.builds(frames.ping, st.just(bytes(8)), ack=st.booleans()),
    st.builds(lambda window: frames.settings({frames.INITIAL_WINDOW_SIZE: window}), st.integers(0, 1 << 20)),
    st.builds(framed, st.just(12), st.just(0), ours, st.binary(max_size=5)),
)


@st.composite
def lawful(draw: st.DrawFn) -> list[bytes]:
    """Whole responses, of all exchanges at once, with what else may come between their frames."""
    scripts: dict[int, list[bytes]] = {}
    for stream in (1, 3, 5, 7):
        script = [frames.headers(stream, block([(":status", "103")]), 99, end=False)] * draw(st.integers(0, 2))
        bodies = draw(st.lists(st.sampled_from([b"abc", b"de", b""]), max_size=4))
        end = draw(st.sampled_from(["data", "trailers", "head"]))
        sized = [("content-length", str(sum(map(len, bodies))))] if end != "head" and draw(st.booleans()) else []
        script.append(frames.headers(stream, block([(":status", "200"), *sized]), 99, end=end == "head"))
        if end != "head":
            script += [frames.data(stream, body, end=False) for body in bodies]
            last = block([("grpc-status", "0"), ("x", str(stream))])
            script.append(
                frames.headers(stream, last, 99, end=True) if end == "trailers" else frames.data(stream, b"", end=True)
            )
        scripts[stream] = script
    order = draw(st.permutations([stream for stream, script in scripts.items() for _ in script]))
    merged = [scripts[stream].pop(0) for stream in order]
    for each in draw(st.lists(aside_frame, max_size=3)):
        merged.insert(draw(st.integers(0, len(merged))), each)
    return merged


@given(st.lists(any_frame, max_size=4), lawful())
def test_whatever_comes_every_exchange_has_one_end(some: list[bytes], others: list[bytes]) -> None:
    sent = others[:5] + some + others[5:]
    for each in play([b"".join(sent)]):
        assert each.end in ("complete", "broken")


@given(st.binary(max_size=200))
def test_bytes_of_any_kind_end_every_exchange_too(sent: bytes) -> None:
    for each in play([sent]):
        assert each.end == "broken"


@given(st.one_of(lawful(), st.lists(any_frame, max_size=8)), st.data())
def test_where_reads_are_cut_makes_no_difference(sent: list[bytes], data: st.DataObject) -> None:
    whole = b"".join(sent)
    at = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=4)))
    pieces = [whole[begin:end] for begin, end in zip([0, *at], [*at, len(whole)], strict=True) if begin < end]
    one, other = play([whole] if whole else []), play(pieces)
    for first, second in zip(one, other, strict=True):
        # What came of a response before its connection broke is told when it is read, or not at all.
        if "broken" not in (first.end, second.end):
            assert first.whole == second.whole
        assert first.end == second.end


@given(lawful())
def test_lawful_responses_are_told_whole(sent: list[bytes]) -> None:
    resets = [frame for frame in sent if frame[3] == frames.RST_STREAM]
    broken = sum(each.end == "broken" for each in play([b"".join(sent)]))
    assert broken <= len(resets)
