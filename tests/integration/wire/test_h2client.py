"""HTTP/2 connections to servers: to the `h2` package's state machine, which minds the protocol, and to bare frames, which do not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from h2.errors import ErrorCodes
from h2.settings import SettingCodes
from hpack import Encoder
from nexus_wire.client import Broken
from nexus_wire.clock import Clock
from nexus_wire.h2client import Carrier, Heads, NotSpoken
from nexus_wire.h2exchanges import STREAM_WINDOW, H2Exchange
from nexus_wire.http2 import frames
from nexus_wire.testing import Answer

from tests.integration.h2_servers import OK, Call, Peer, Server

GET = b"GET /%b HTTP/1.1\r\nhost: x\r\n\r\n"
POST = b"POST /%b HTTP/1.1\r\nhost: x\r\ncontent-type: application/grpc\r\n"
Connect = Callable[..., Awaitable[Carrier]]


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    made = Server()
    async with made.listening():
        yield made
    await asyncio.sleep(0.01)


@pytest.fixture
async def connect(clock: Clock) -> AsyncIterator[Connect]:
    """Opens a connection and waits for its settings."""
    carriers: list[Carrier] = []
    heads = Heads()

    async def begin(port: int, *, wait: bool = True) -> Carrier:
        loop = asyncio.get_running_loop()
        _, carrier = await loop.create_connection(lambda: Carrier(heads, clock, lambda _: None), "127.0.0.1", port)
        carriers.append(carrier)
        if wait:
            await asyncio.wait_for(asyncio.shield(carrier.ready), 5)
        return carrier

    yield begin
    for carrier in carriers:
        carrier.abort()
    await asyncio.sleep(0.01)


async def until(check: Callable[[], object]) -> None:
    async with asyncio.timeout(5):
        while not check():  # noqa: ASYNC110 - what is waited for sends no event
            await asyncio.sleep(0.005)


async def done(answer: Answer) -> Answer:
    await asyncio.wait_for(answer.done.wait(), 5)
    return answer


def begin(exchange: H2Exchange, data: bytes, **options: Any) -> Answer:
    answer = Answer()
    exchange.begin(answer, data, **options)
    return answer


# ---- requests and responses


async def test_many_exchanges_share_a_connection_and_each_serves_again(server: Server, connect: Connect) -> None:
    carrier = await connect(server.port)
    places = [carrier.exchange() for _ in range(20)]
    for number in range(3):
        answers = [begin(place, GET % b"%d-%d" % (number, at)) for at, place in enumerate(places)]
        for at, answer in enumerate(answers):
            assert (await done(answer)).body == b"/%d-%d " % (number, at)
            assert answer.status == 200
            assert answer.length == -2
        assert all(place.reusable and place.receiver is None for place in places)
    assert len(server.peers) == 1
    assert not carrier.streams


async def test_what_is_sent_in_one_turn_leaves_in_one_write(
    server: Server, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    carrier = await connect(server.port)
    written: list[int] = []

    class Counting:
        def __init__(self, transport: Any) -> None:
            self._transport = transport

        def __getattr__(self, name: str) -> Any:
            return getattr(self._transport, name)

        def write(self, data: bytes) -> None:
            written.append(len(data))
            self._transport.write(data)

    monkeypatch.setattr(carrier, "transport", Counting(carrier.transport))
    small = [begin(carrier.exchange(), GET % b"%d" % number) for number in range(20)]
    assert not written
    for answer in small:
        await done(answer)
    assert len(written) == 1
    large = [begin(carrier.exchange(), POST % b"l" + b"content-length: 16000\r\n\r\n" + bytes(16000)) for _ in range(3)]
    for answer in large:
        await done(answer)
    assert [len(call.body) for call in server.calls[20:]] == [16000] * 3


async def test_what_waits_to_be_written_leaves_before_the_good_bye(server: Server, connect: Connect) -> None:
    server.on_call = lambda peer, call, what: None
    carrier = await connect(server.port)
    exchange = carrier.exchange()
    begin(exchange, GET % b"last")
    exchange.abort()
    carrier.close()
    await until(lambda: server.peers[0].terminated)
    assert [call.header(b":path") for call in server.calls] == [b"/last"]


async def test_a_head_becomes_fields_and_what_is_of_http_1_stays_out(server: Server, connect: Connect) -> None:
    carrier = await connect(server.port)
    head = (
        b"POST /a?b=c HTTP/1.1\r\nhost: shop.example\r\nX-Forwarded-For: ::1\r\ncookie: a=b\r\nconnection: upgrade\r\n"
        b"upgrade: websocket\r\nte: gzip\r\ncontent-type: application/grpc+proto\r\nx-request-id: 1234\r\ncontent-length: 4\r\n\r\nbody"
    )
    for _ in range(2):
        await done(begin(carrier.exchange(), head))
        assert sorted(server.calls[-1].headers[:4]) == [
            (b":authority", b"shop.example"), (b":method", b"POST"), (b":path", b"/a?b=c"), (b":scheme", b"http"),
        ]  # fmt: skip
        assert sorted(server.calls[-1].headers[4:]) == [
            (b"content-length", b"4"), (b"content-type", b"application/grpc+proto"), (b"cookie", b"a=b"), (b"te", b"trailers"),
            (b"x-forwarded-for", b"::1"), (b"x-request-id", b"1234"),
        ]  # fmt: skip
        assert server.calls[-1].body == b"body"


@pytest.mark.parametrize("framing", ["sized", "chunked", "raw"])
async def test_bodies_go_as_payload_whatever_framed_them(server: Server, connect: Connect, framing: str) -> None:
    exchange = (await connect(server.port)).exchange()
    pieces = [b"first ", b"second ", b"third"]
    body = b"".join(pieces)
    if framing == "sized":
        head, sent = b"content-length: %d\r\n\r\n" % len(body), pieces
    elif framing == "chunked":
        head = b"transfer-encoding: chunked\r\n\r\n"
        sent = [b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces] + [b"0\r\nx-sum: 3\r\n\r\n"]
    else:
        head, sent = b"\r\n", pieces
    answer = begin(exchange, POST % b"x" + head + sent[0], raw=framing == "raw")
    for piece in sent[1:]:
        exchange.write(piece)
        await asyncio.sleep(0)
    if framing == "raw":
        exchange.finish(b"x-sum: 3\r\n")
    assert (await done(answer)).body == b"/x " + body
    assert server.calls[0].trailers == (None if framing == "sized" else [(b"x-sum", b"3")])


async def test_trailers_come_with_the_end(server: Server, connect: Connect) -> None:
    server.on_call = lambda peer, call, what: (
        peer.answer(call, b"x", [("grpc-status", "5"), ("grpc-message", "no"), ("x-request-id", "kept out")])
        if what == "end"
        else None
    )
    exchange = (await connect(server.port)).exchange()
    answer = await done(begin(exchange, GET % b""))
    assert (answer.body, exchange.trailers, exchange.grpc) == (b"x", b"grpc-status: 5\r\ngrpc-message: no\r\n", b"5")
    assert (answer.length, answer.trailers) == (-2, exchange.trailers)


@pytest.mark.parametrize("sized", [True, False])
async def test_trailers_that_come_later_come_with_the_end(server: Server, connect: Connect, sized: bool) -> None:
    head = [*OK, ("content-length", "4")] if sized else OK

    def on_call(peer: Peer, call: Call, what: str) -> None:
        if what == "end":
            peer.h2.send_headers(call.stream, head)
            peer.h2.send_data(call.stream, b"body")

    server.on_call = on_call
    carrier = await connect(server.port)
    exchange = carrier.exchange()
    for code in (b"0", b"7"):
        answer = begin(exchange, GET % b"")
        await asyncio.wait_for(answer.begun.wait(), 5)
        assert (answer.length, bytes(answer.body), answer.done.is_set()) == (4 if sized else -2, b"body", False)
        peer = server.peers[0]
        peer.h2.send_headers(server.calls[-1].stream, [("grpc-status", code.decode())], end_stream=True)
        peer.flush()
        await done(answer)
        assert (answer.trailers, exchange.grpc) == (b"grpc-status: %b\r\n" % code, code)


async def test_a_response_of_trailers_alone_tells_its_grpc_status(server: Server, connect: Connect) -> None:
    head = [(":status", "200"), ("content-type", "application/grpc"), ("grpc-status", "12")]
    server.on_call = lambda peer, call, what: (
        peer.h2.send_headers(call.stream, head, end_stream=True) if what == "end" else None
    )
    exchange = (await connect(server.port)).exchange()
    answer = await done(begin(exchange, GET % b""))
    assert answer.block is not None
    assert answer.block.forward == b"content-type: application/grpc\r\ngrpc-status: 12\r\n"
    assert (exchange.grpc, exchange.trailers, answer.body) == (b"12", b"", b"")


async def test_heads_without_bodies_and_interim_ones(server: Server, connect: Connect) -> None:
    def on_call(peer: Peer, call: Call, what: str) -> None:
        if what != "end":
            return
        path = call.header(b":path")
        if path == b"/204":
            peer.h2.send_headers(call.stream, [(":status", "204")], end_stream=True)
        elif path == b"/head":
            peer.h2.send_headers(call.stream, [*OK, ("content-length", "10")], end_stream=True)
        else:
            peer.h2.send_headers(call.stream, [(":status", "100")])
            peer.h2.send_headers(call.stream, [(":status", "103"), ("link", "</a>")])
            peer.answer(call, b"late")

    server.on_call = on_call
    exchange = (await connect(server.port)).exchange()
    answer = await done(begin(exchange, GET % b"204"))
    assert (answer.status, answer.length, answer.body) == (204, 0, b"")
    answer = await done(begin(exchange, (GET % b"head").replace(b"GET", b"HEAD"), head_only=True))
    assert (answer.status, answer.length, answer.body) == (200, 0, b"")
    answer = await done(begin(exchange, GET % b"hints"))
    assert (answer.status, answer.interim, answer.body) == (200, [103], b"late")


async def test_an_answer_may_begin_and_end_before_the_request_does(server: Server, connect: Connect) -> None:
    server.on_call = lambda peer, call, what: peer.answer(call, b"enough") if what == "head" else None
    carrier = await connect(server.port)
    exchange = carrier.exchange()
    answer = await done(begin(exchange, POST % b"x" + b"\r\nfirst", raw=True))
    assert answer.body == b"enough"
    exchange.write(b"nobody takes it")
    exchange.finish()
    await until(lambda: server.calls[0].reset == ErrorCodes.CANCEL)
    server.on_call = server._answer
    assert (await done(begin(exchange, GET % b"next"))).body == b"/next "


async def test_both_sides_talk_at_once(server: Server, connect: Connect) -> None:
    def echo(peer: Peer, call: Call, what: str) -> None:
        if what == "head":
            peer.h2.send_headers(call.stream, OK)
        elif what == "data":
            peer.h2.send_data(call.stream, bytes(call.body))
            call.body.clear()
        else:
            peer.h2.send_headers(call.stream, [("grpc-status", "0")], end_stream=True)

    server.on_call = echo
    exchange = (await connect(server.port)).exchange()
    answer = begin(exchange, POST % b"x" + b"\r\n", raw=True)
    for number in range(1, 6):
        exchange.write(b"ping")
        await until(lambda number=number: answer.body == b"ping" * number)
    assert not answer.done.is_set()
    exchange.finish()
    assert (await done(answer)).body == b"ping" * 5
    assert exchange.grpc == b"0"


async def test_heads_larger_than_a_frame_pass_both_ways(server: Server, connect: Connect) -> None:
    server.on_call = lambda peer, call, what: (
        peer.h2.send_headers(call.stream, [*OK, ("x-large", "r" * 40_000)], end_stream=True) if what == "end" else None
    )
    server.settings = {SettingCodes.MAX_HEADER_LIST_SIZE: 100_000}
    exchange = (await connect(server.port)).exchange()
    answer = await done(begin(exchange, b"GET / HTTP/1.1\r\nhost: x\r\nx-large: %b\r\n\r\n" % (b"s" * 40_000)))
    assert answer.block is not None
    assert dict(answer.block.headers)["x-large"] == "r" * 40_000
    assert server.calls[0].header(b"x-large") == b"s" * 40_000


# ---- windows


async def test_a_window_that_shrinks_below_nothing_is_kept(server: Server, connect: Connect) -> None:
    carrier = await connect(server.port)
    peer = server.peers[0]
    peer.auto_window = False
    exchange = carrier.exchange()
    answer = begin(exchange, POST % b"x" + b"content-length: 60000\r\n\r\n" + b"a" * 50_000)
    await until(lambda: server.calls and len(server.calls[0].body) == 50_000)
    peer.transport.write(frames.settings({frames.INITIAL_WINDOW_SIZE: 40_000}))
    await until(lambda: carrier.stream_window == 40_000)
    exchange.write(b"b" * 10_000)
    await asyncio.sleep(0.02)
    assert len(server.calls[0].body) == 50_000
    assert exchange.blocked
    peer.transport.write(frames.window_update(1, 10_001))
    await until(lambda: len(server.calls[0].body) == 50_001)
    peer.transport.write(frames.window_update(1, 10_000))
    assert (await done(answer)).status == 200
    assert server.calls[0].body == b"a" * 50_000 + b"b" * 10_000


async def test_a_large_request_waits_for_the_window_and_says_so(server: Server, connect: Connect) -> None:
    server.settings = {SettingCodes.INITIAL_WINDOW_SIZE: 1000}
    carrier = await connect(server.port)
    exchange = carrier.exchange()
    body = bytes(range(256)) * 4000
    answer = begin(exchange, POST % b"x" + b"\r\n" + body[:100_000], raw=True)
    assert exchange.blocked
    assert answer.blocked == 1
    await until(lambda: not exchange.blocked)
    assert answer.blocked == 0
    for at in range(100_000, len(body), 50_000):
        exchange.write(body[at : at + 50_000])
    exchange.finish(b"x-sum: 1\r\n")
    assert (await done(answer)).status == 200
    assert server.calls[0].body == body
    assert server.calls[0].trailers == [(b"x-sum", b"1")]


async def test_exchanges_share_the_connections_window(server: Server, connect: Connect) -> None:
    """One that fills it keeps no other from its turn, once there is room again."""
    server.settings = {SettingCodes.INITIAL_WINDOW_SIZE: 10_000_000}
    carrier = await connect(server.port)
    server.peers[0].auto_window = False
    big = begin(carrier.exchange(), POST % b"big" + b"content-length: 1000000\r\n\r\n" + b"b" * 1_000_000)
    small = begin(carrier.exchange(), POST % b"small" + b"content-length: 5\r\n\r\nsmall")
    await until(lambda: len(server.calls) == 2 and len(server.calls[0].body) == 65535)
    peer = server.peers[0]
    peer.h2.increment_flow_control_window(20_000)
    peer.flush()
    assert (await done(small)).body == b"/small small"
    assert not big.done.is_set()
    peer.h2.increment_flow_control_window(2_000_000)
    peer.flush()
    assert (await done(big)).status == 200
    assert len(server.calls[0].body) == 1_000_000


async def test_a_receiver_that_pauses_is_sent_no_more_than_the_window(server: Server, connect: Connect) -> None:
    body = bytes(1_000_000)

    def on_call(peer: Peer, call: Call, what: str) -> None:
        if what == "end" and call.header(b":path") == b"/big":
            peer.h2.send_headers(call.stream, OK)
            peer.left = bytearray(body)  # type: ignore[attr-defined]
            on_window(peer)
        elif what == "end":
            peer.answer(call)

    def on_window(peer: Peer) -> None:
        left = getattr(peer, "left", bytearray())
        while left:
            size = min(peer.h2.local_flow_control_window(1), 16384, len(left))
            if size <= 0:
                return
            peer.h2.send_data(1, bytes(left[:size]), end_stream=size == len(left))
            del left[:size]

    server.on_call = on_call
    server.on_window = on_window
    carrier = await connect(server.port)
    exchange = carrier.exchange()
    answer = begin(exchange, GET % b"big")
    exchange.pause()
    await until(lambda: len(answer.body) == STREAM_WINDOW)
    assert (await done(begin(carrier.exchange(), GET % b"other"))).body == b"ok"
    assert len(answer.body) == STREAM_WINDOW
    exchange.resume()
    assert (await done(answer)).body == body


# ---- ends


async def test_who_breaks_off_resets_the_stream_alone(server: Server, connect: Connect) -> None:
    server.on_call = lambda peer, call, what: None
    carrier = await connect(server.port)
    exchange, other = carrier.exchange(), carrier.exchange()
    begin(exchange, GET % b"")
    answer = begin(other, GET % b"")
    await until(lambda: len(server.calls) == 2)
    exchange.abort()
    assert exchange.closed
    await until(lambda: server.calls[0].reset == ErrorCodes.CANCEL)
    server.peers[0].answer(server.calls[1])
    server.peers[0].flush()
    assert (await done(answer)).body == b"ok"
    assert carrier.has_room


@pytest.mark.parametrize("at", ["on_response", "on_data", "on_end"])
async def test_a_receiver_that_fails_costs_its_own_exchange(
    server: Server, connect: Connect, loop_errors: list[dict[str, Any]], at: str
) -> None:
    server.on_call = lambda peer, call, what: None
    carrier = await connect(server.port)

    class Failing(Answer):
        def __getattribute__(self, name: str) -> Any:
            if name == at:
                raise RuntimeError("a bug")
            return super().__getattribute__(name)

    failing, answer = Failing(), Answer()
    place, other = carrier.exchange(), carrier.exchange()
    place.begin(failing, GET % b"")
    other.begin(answer, GET % b"")
    await until(lambda: len(server.calls) == 2)
    peer = server.peers[0]
    peer.h2.send_headers(1, OK)
    peer.flush()
    await until(lambda: place.closed or failing.begun.is_set())
    if not place.closed:
        peer.h2.send_data(1, b"x")
    peer.answer(server.calls[1])
    peer.flush()
    assert (await done(answer)).body == b"ok"
    if at == "on_end":
        peer.h2.send_headers(1, [("x", "y")], end_stream=True)
        peer.flush()
    await until(lambda: place.closed)
    (error,) = loop_errors
    assert str(error["exception"]) == "a bug"
    loop_errors.clear()


@pytest.mark.parametrize(
    ("code", "why"), [(ErrorCodes.REFUSED_STREAM, Broken.UNSEEN), (ErrorCodes.INTERNAL_ERROR, Broken.CLOSED)]
)
async def test_a_reset_ends_the_exchange(server: Server, connect: Connect, code: int, why: Broken) -> None:
    server.on_call = lambda peer, call, what: peer.h2.reset_stream(call.stream, code) if what == "end" else None
    carrier = await connect(server.port)
    exchange = carrier.exchange()
    assert (await done(begin(exchange, GET % b""))).broken is why
    assert exchange.closed
    assert carrier.has_room


async def test_streams_above_the_last_one_were_not_seen(server: Server, connect: Connect) -> None:
    server.on_call = lambda peer, call, what: None
    carrier = await connect(server.port)
    answers = [begin(carrier.exchange(), GET % b"%d" % number) for number in range(3)]
    idle = carrier.exchange()
    await until(lambda: len(server.calls) == 3)
    peer = server.peers[0]
    peer.transport.write(frames.goaway(3, 0))
    assert (await done(answers[2])).broken is Broken.UNSEEN
    assert idle.closed
    assert not carrier.has_room
    for call in server.calls[:2]:
        peer.answer(call)
    peer.flush()
    for answer in answers[:2]:
        assert (await done(answer)).body == b"ok"
    await until(lambda: carrier.closed)


async def test_a_lost_connection_breaks_every_exchange_once(server: Server, connect: Connect) -> None:
    server.on_call = lambda peer, call, what: None
    carrier = await connect(server.port)
    places = [carrier.exchange() for _ in range(3)]
    answers = [begin(place, GET % b"") for place in places]
    idle = carrier.exchange()
    await until(lambda: len(server.calls) == 3)
    server.peers[0].transport.abort()
    for answer in answers:
        assert (await done(answer)).broken is Broken.CLOSED
    assert all(place.closed for place in [*places, idle])
    assert not any(place.answered for place in places)


async def test_a_retired_connection_says_good_bye_after_its_last_exchange(server: Server, connect: Connect) -> None:
    server.on_call = lambda peer, call, what: None
    carrier = await connect(server.port)
    answer = begin(carrier.exchange(), GET % b"")
    await until(lambda: server.calls)
    carrier.retire()
    assert not carrier.has_room
    server.peers[0].answer(server.calls[0])
    server.peers[0].flush()
    assert (await done(answer)).body == b"ok"
    await asyncio.sleep(0)
    for place in tuple(carrier.exchanges):
        place.close()
    await until(lambda: server.peers[0].terminated and carrier.closed)


async def test_the_servers_limit_of_streams_holds(server: Server, connect: Connect) -> None:
    server.settings = {SettingCodes.MAX_CONCURRENT_STREAMS: 2}
    carrier = await connect(server.port)
    first, _ = carrier.exchange(), carrier.exchange()
    assert not carrier.has_room
    first.close()
    assert carrier.has_room


# ---- peers that break the protocol


class Bare:
    """A server that writes frames as a test says: `script` gets what came since the hello, and writes."""

    def __init__(self) -> None:
        self.port = 0
        self.hello = frames.settings({})
        self.reply = b""
        self.got = b""


@pytest.fixture
async def bare() -> AsyncIterator[Bare]:
    made = Bare()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(made.hello)
        try:
            while data := await reader.read(65536):
                made.got += data
                if b"\x82" in data or b"\x83" in data:  # a method: a request has come
                    writer.write(made.reply)
        except ConnectionError:
            pass
        finally:
            writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    made.port = listening.sockets[0].getsockname()[1]
    yield made
    listening.close()
    await asyncio.sleep(0.01)


def fields(*pairs: tuple[str, str]) -> bytes:
    return Encoder().encode(list(pairs))


def head(*pairs: tuple[str, str], end: bool = True, stream: int = 1) -> bytes:
    return frames.headers(stream, fields(*pairs), 16384, end=end)


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return frames.HEAD.pack(len(payload) << 8 | kind, flags, stream) + payload


S = (":status", "200")
MALFORMED = {
    "no status": head(("a", "b")),
    "a status of two digits": head((":status", "99")),
    "two statuses": head(S, S),
    "a status behind a header": head(("a", "b"), S),
    "another pseudo-header": head(S, (":path", "/")),
    "switching protocols": head((":status", "101")),
    "an upper-case name": head(S, ("Upper", "x")),
    "a line break in a value": head(S, ("a", "b\r\nset-cookie: c")),
    "a NUL in a value": head(S, ("a", "b\0")),
    "a connection's header": head(S, ("connection", "close")),
    "chunks": head(S, ("transfer-encoding", "chunked")),
    "two lengths": head(S, ("content-length", "1"), ("content-length", "2")),
    "less than it says": head(S, ("content-length", "5")),
    "less data than it says": head(S, ("content-length", "5"), end=False) + frames.data(1, b"four", end=True),
    "more data than it says": head(S, ("content-length", "3"), end=False) + frames.data(1, b"four", end=False),
    "data before the head": frames.data(1, b"x", end=True),
    "a second head": head(S, end=False) + head(S, end=False),
    "trailers with a status": head(S, end=False) + head(S),
    "an interim head that ends": head((":status", "103")),
    "interim heads without end": head((":status", "103"), end=False) * 20,
    "a window that grows by nothing": head(S, end=False) + frame(frames.WINDOW_UPDATE, 0, 1, bytes(4)),
    "a window that grows too much": frames.window_update(1, 0x7FFFFFFF),
}


@pytest.mark.parametrize("name", MALFORMED)
async def test_a_malformed_response_costs_its_stream_alone(bare: Bare, connect: Connect, name: str) -> None:
    bare.reply = MALFORMED[name]
    carrier = await connect(bare.port)
    answer = begin(carrier.exchange(), GET % b"")
    assert (await done(answer)).broken is Broken.PROTOCOL
    await until(lambda: frames.reset(1, 1) in bare.got or frames.reset(1, 3) in bare.got)
    bare.reply = head(S, stream=3)
    assert (await done(begin(carrier.exchange(), GET % b""))).status == 200


BROKEN = {
    "a frame that is too large": frame(frames.DATA, 0, 1, bytes(16385)),
    "padding beyond the frame": head(S, end=False) + frame(frames.DATA, frames.PADDED, 1, b"\x05abc"),
    "an index that is none": frame(frames.HEADERS, 5, 1, b"\xff\xff\xff\x03"),
    "a block that ends early": frame(frames.HEADERS, 5, 1, b"\x00\x05ab"),
    "a continuation of nothing": frame(frames.CONTINUATION, 4, 1, b""),
    "an interrupted block": frame(frames.HEADERS, 0, 1, b"\x88") + frames.ping(bytes(8), ack=False),
    "continuations without end": frame(frames.HEADERS, 0, 1, b"\x88") + frame(frames.CONTINUATION, 0, 1, b"") * 100,
    "a stream that never was": head(S, stream=7),
    "a stream of the server's": head(S, stream=2),
    "a push": frame(frames.PUSH_PROMISE, 4, 1, bytes(4) + b"\x82"),
    "settings of half a setting": frame(frames.SETTINGS, 0, 0, bytes(5)),
    "a window beyond all": frames.window_update(0, 0x7FFFFFFF),
    "a stream's window beyond all": frames.settings({frames.INITIAL_WINDOW_SIZE: 1 << 31}),
    "pings without end": frames.ping(bytes(8), ack=False) * 1100,
    "settings without end": frames.settings({}) * 1100,
    "empty data without end": head(S, end=False) + frames.data(1, b"", end=False) * 1100,
    "resets of what is over": head(S) + frames.reset(1, 0) * 1100,
    "unknown frames without end": frame(99, 0, 0, b"") * 1100,
}


@pytest.mark.parametrize("name", BROKEN)
async def test_a_broken_protocol_costs_the_connection(bare: Bare, connect: Connect, name: str) -> None:
    bare.reply = BROKEN[name]
    carrier = await connect(bare.port)
    answer = begin(carrier.exchange(), GET % b"")
    await until(lambda: carrier.closed)
    assert answer.done.is_set()
    assert not carrier.exchanges
    # It may be lost: a connection that closes with bytes unread is reset.
    assert bare.got.count(frames.HEAD.pack(8 << 8 | frames.GOAWAY, 0, 0)) <= 1


async def test_a_broken_protocol_is_named_in_the_good_bye(bare: Bare, connect: Connect) -> None:
    bare.reply = BROKEN["an index that is none"]
    begin((await connect(bare.port)).exchange(), GET % b"")
    await until(lambda: frames.goaway(0, frames.Code.COMPRESSION_ERROR) in bare.got)


async def test_more_than_the_window_costs_the_stream(bare: Bare, connect: Connect) -> None:
    bare.reply = head(S, end=False) + frames.data(1, bytes(16384), end=False) * (STREAM_WINDOW // 16384 + 1)
    carrier = await connect(bare.port)
    exchange = carrier.exchange()
    answer = begin(exchange, GET % b"")
    exchange.pause()
    assert (await done(answer)).broken is Broken.PROTOCOL
    await until(lambda: frames.reset(1, 3) in bare.got)
    assert not carrier.closed


async def test_data_of_a_stream_that_was_broken_off_costs_no_other(bare: Bare, connect: Connect) -> None:
    """A server that streams small messages has thousands on their way when its client leaves."""
    bare.reply = head(S, end=False)
    carrier = await connect(bare.port)
    exchange = carrier.exchange()
    answer = begin(exchange, GET % b"")
    await until(lambda: answer.status)
    exchange.abort()
    bare.reply = frames.data(1, b"message", end=False) * 5000 + head(S, stream=3)
    assert (await done(begin(carrier.exchange(), GET % b""))).status == 200
    # Not any number: what the stream's window held.
    bare.reply = frames.data(1, b"", end=False) * 1100 + head(S, stream=5)
    assert (await done(begin(carrier.exchange(), GET % b""))).broken is Broken.PROTOCOL


async def test_pings_that_measure_an_upload_are_no_nuisance(bare: Bare, connect: Connect) -> None:
    bare.reply = frames.ping(bytes(8), ack=False) * 3000 + head(S)
    carrier = await connect(bare.port)
    exchange = carrier.exchange()
    message = b"twenty bytes, or so."
    answer = Answer()
    exchange.begin(answer, POST % b"" + b"\r\n", raw=True)
    for _ in range(3000):
        exchange.write(message)
    assert (await done(answer)).status == 200
    assert not carrier.closed


async def test_a_connection_that_is_given_up_takes_no_further_exchange(bare: Bare, connect: Connect) -> None:
    """Neither one that has its place there already: what it sends would be lost."""
    bare.reply = frame(frames.PING, 0, 1, bytes(8))
    carrier = await connect(bare.port)
    kept, found = carrier.exchange(), []

    class Next(Answer):
        def on_broken(self, *args: Any) -> None:
            found.append(kept.closed)
            super().on_broken(*args)

    answer = Next()
    carrier.exchange().begin(answer, GET % b"")
    await done(answer)
    assert found == [True]


@pytest.mark.parametrize(
    "hello", [b"HTTP/1.1 400 Bad Request\r\n\r\n", frames.ping(bytes(8), ack=False), frames.SETTINGS_ACK]
)
async def test_a_server_of_another_protocol_is_found_out_before_a_request_goes(
    bare: Bare, connect: Connect, hello: bytes
) -> None:
    bare.hello = hello
    carrier = await connect(bare.port, wait=False)
    with pytest.raises(NotSpoken, match="does not speak HTTP/2"):
        await asyncio.wait_for(carrier.ready, 5)


async def test_an_encoder_without_a_table_says_so_when_the_server_allows_none(bare: Bare, connect: Connect) -> None:
    bare.hello = frames.settings({frames.HEADER_TABLE_SIZE: 0})
    bare.reply = head(S)
    carrier = await connect(bare.port)
    await done(begin(carrier.exchange(), GET % b""))
    assert b"\x20\x82" in bare.got
    bare.got, bare.reply = b"", head(S, stream=3)
    await done(begin(carrier.exchange(), GET % b""))
    assert b"\x20\x82" not in bare.got


async def test_a_silent_connection_is_asked_for_a_sign_of_life_and_broken_off_without_one(
    bare: Bare, connect: Connect, clock: Clock
) -> None:
    carrier = await connect(bare.port)
    answer = begin(carrier.exchange(), GET % b"")
    await until(lambda: bare.got)
    carrier.on_deadline()
    assert not answer.done.is_set()
    carrier.on_deadline()
    await until(lambda: frame(frames.PING, 0, 0, b"nexus\x00\x00\x00") in bare.got)
    carrier.on_deadline()
    assert (await done(answer)).broken is Broken.CLOSED
    await until(lambda: carrier.closed)
