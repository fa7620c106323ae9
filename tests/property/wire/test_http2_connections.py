"""A connection of HTTP/2 under any frames, in any pieces, with an application that does anything: what it sends is always in order."""

from __future__ import annotations

import asyncio
import random

import pytest
from nexus_wire.clock import Clock
from nexus_wire.h2server import H2Connection, Http2
from nexus_wire.h2streams import H2Stream
from nexus_wire.http1 import Refused, RequestParser
from nexus_wire.http2 import frames, hpack
from nexus_wire.server import ServerOptions

HEAD = b"".join(
    hpack.field(*pair)
    for pair in ((b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/a"), (b":authority", b"a.example"))
)
OK = b"HTTP/1.1 200 OK\r\n"


class Judge:
    """A transport that reads what is written, as a strict client does.

    window, windows: what the client takes, as it has told the server; more than that is wrong. told: first windows of streams, which
    hold from their acknowledgement on.
    """

    def __init__(self) -> None:
        self.rest = b""
        self.window = 65535
        self.first = 65535
        self.windows: dict[int, int] = {}
        self.told: list[int] = [self.first]
        self.begun: set[int] = set()
        self.over: set[int] = set()
        self.ended = False

    def write(self, data: bytes) -> None:
        assert not self.ended
        self.rest += data
        while len(self.rest) >= 9:
            word, flags, number = frames.HEAD.unpack_from(self.rest)
            end = 9 + (word >> 8)
            if len(self.rest) < end:
                break
            self.judge(word & 0xFF, flags, number, self.rest[9:end])
            self.rest = self.rest[end:]

    def writelines(self, pieces: list[bytes]) -> None:
        self.write(b"".join(pieces))

    def judge(self, kind: int, flags: int, number: int, payload: bytes) -> None:
        assert len(payload) <= frames.DEFAULT_FRAME
        if kind in (frames.DATA, frames.HEADERS):
            assert number not in self.over, "nothing follows a stream's end"
        if kind == frames.HEADERS:
            assert (number not in self.begun) or flags & frames.END_STREAM, "one head, and trailers at the end"
            self.begun.add(number)
        elif kind == frames.DATA:
            assert number in self.begun, "the head comes first"
            self.window -= len(payload)
            left = self.windows.setdefault(number, self.first) - len(payload)
            self.windows[number] = left
            assert not payload or (self.window >= 0 and left >= 0), "windows are kept"
        elif kind == frames.RST_STREAM:
            self.over.add(number)
        elif kind == frames.SETTINGS and flags & frames.ACK:
            first = self.told.pop(0)
            self.windows = {each: window + first - self.first for each, window in self.windows.items()}
            self.first = first
        if kind in (frames.DATA, frames.HEADERS) and flags & frames.END_STREAM:
            self.over.add(number)

    def get_extra_info(self, name: str) -> None:
        return None

    def get_write_buffer_size(self) -> int:
        return 0

    def write_eof(self) -> None:
        assert not self.rest, "no frame is cut"
        self.ended = True

    def close(self) -> None:
        self.ended = True

    abort = close


class Application:
    """Does anything that a requestor may do, and is told of each stream's end at most once."""

    def __init__(self, stream: H2Stream, draw: random.Random) -> None:
        self.stream = stream
        self.draw = draw
        self.gone = False
        self.complete = stream.complete
        stream.requestor = self  # type: ignore[assignment] - `on_tunnel` is not for these requests

    def on_body(self, data: bytes, complete: bool) -> None:
        assert not self.complete
        self.complete = complete
        assert complete is self.stream.complete

    def on_gone(self) -> None:
        assert not self.gone
        self.gone = True

    def on_refused(self, refused: Refused) -> None:
        self.stream.respond(b"HTTP/1.1 400 Bad Request\r\n", b"", 0, b"", True)

    def on_blocked(self) -> None:
        assert self.stream.blocked

    def on_ready(self) -> None:
        assert not self.stream.blocked

    def on_late(self) -> None:
        raise AssertionError

    def act(self) -> bool:
        """Return whether there is more to do."""
        stream, draw = self.stream, self.draw
        if stream.closed or self.gone:
            return False
        chosen = draw.randrange(12)
        size = draw.choice([0, 1, 5000, 20000, 100_000])
        if chosen == 0:
            stream.requestor = None
            stream.respond(OK, b"a: b\r\n", size, bytes(size), True)
        elif chosen == 1:
            stream.requestor = None
            stream.respond(OK, b"transfer-encoding: chunked\r\n", -1, b"3\r\nabc\r\n0\r\nx: y\r\n\r\n", True)
        elif chosen in (2, 3):
            stream.respond(OK, b"", -2, bytes(size), False)
            for _ in range(draw.randrange(3)):
                stream.write(bytes(draw.choice([1, 30000])))
            stream.requestor = None
            draw.choice([stream.abort, stream.finish, lambda: stream.finish(b"x: y\r\n")])()
        elif chosen == 4:
            stream.pause()
        elif chosen == 5:
            stream.resume()
        elif chosen == 6:
            stream.invite()
        return stream.requestor is self


def any_frame(draw: random.Random, judge: Judge, numbers: list[int]) -> bytes:
    """Return a frame that means something, or hardly. The judge learns which windows it grants."""
    number = draw.choice([*numbers[-4:], numbers[-1] + 2, draw.randrange(numbers[-1] + 3)])
    kind = draw.randrange(14)
    if kind < 5:
        block = HEAD
        if draw.random() < 0.2:
            block += hpack.field(b"content-length", b"%d" % draw.randrange(10))
        if draw.random() < 0.05:
            block += draw.randbytes(3)
        numbers.append(numbers[-1] + 2)
        return frames.headers(numbers[-1], block, draw.choice([5, 16384]), end=draw.random() < 0.5)
    if kind < 8:
        return frames.data(number, bytes(draw.choice([0, 1, 5, 9, 9000])), end=draw.random() < 0.3)
    if kind == 8:
        which, increment = draw.choice([0, number]), draw.choice([1, 1000, 100_000])
        if which:
            judge.windows[which] = judge.windows.get(which, judge.first) + increment
        else:
            judge.window += increment
        return frames.window_update(which, increment)
    if kind == 9:
        return frames.reset(number, 8)
    if kind == 10:
        return frames.headers(number, hpack.field(b"x", b"y"), 16384, end=True)
    if kind == 11:
        first = draw.choice([0, 1, 30000, 65535, 200_000])
        judge.told.append(first)
        return frames.settings({frames.INITIAL_WINDOW_SIZE: first, draw.choice([1, 3, 99]): draw.randrange(9000)})
    if kind == 12:
        return frames.ping(b"12345678", ack=draw.random() < 0.5)
    if draw.random() < 0.2:
        return frames.HEAD.pack(9 << 8 | draw.randrange(12), draw.randrange(256), number) + draw.randbytes(9)
    return frames.HEAD.pack(5 << 8 | frames.PRIORITY, 0, max(number, 1)) + bytes(4) + b"\x10"


@pytest.mark.parametrize("seed", range(60))
async def test_what_is_sent_is_in_order_whatever_comes(seed: int) -> None:
    clock = Clock(asyncio.get_running_loop())
    try:
        for number in range(20):
            await one_connection(random.Random(seed * 1000 + number), clock)
    finally:
        clock.stop()


async def one_connection(draw: random.Random, clock: Clock) -> None:
    working: list[Application] = []
    parser = RequestParser()
    options = ServerOptions(
        parser, clock, lambda stream: working.append(Application(stream, draw)),  # type: ignore[arg-type] - of HTTP/2 alone
        lambda _, refused: b"HTTP/1.1 %d Refused\r\na: b\r\n\r\nbody" % refused.status, lambda _: True, lambda _: None,
        http2=Http2(parser),
    )  # fmt: skip
    connection = options.connection("h2")
    assert isinstance(connection, H2Connection)
    judge = Judge()
    connection.connection_made(judge)
    connection.data_received(frames.PREFACE + frames.settings({}))
    numbers = [1]
    for _ in range(draw.randrange(5, 80)):
        data = any_frame(draw, judge, numbers)
        at = draw.randrange(len(data)) if draw.random() < 0.3 else 0
        for piece in (data[:at], data[at:]):
            if piece:
                connection.data_received(piece)
        working = [each for each in working if each.act()]
        if draw.random() < 0.1:
            connection.pause_writing()
        elif connection.blocked:
            connection.resume_writing()
        if draw.random() < 0.3:
            await asyncio.sleep(0)
        assert not any(stream.closed for stream in connection.streams.values())
        assert connection.waiting.keys() <= connection.streams.keys()
    await asyncio.sleep(0)
    connection.connection_lost(None)
    assert not connection.streams
    assert not connection.waiting
