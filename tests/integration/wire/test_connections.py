"""Server and client connections without a gateway: what services build on."""

from __future__ import annotations

import asyncio
import gc
import random
import socket
import tracemalloc
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from nexus_wire.client import Broken
from nexus_wire.clock import Clock
from nexus_wire.http1 import Dechunker
from nexus_wire.testing import Answer, App, Caller, Served

Start = Callable[..., Awaitable[App]]
Scripted = Callable[..., Awaitable[int]]
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
GET = b"GET /%b HTTP/1.1\r\nhost: x\r\n\r\n"
LAST = b"GET /last HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


async def until(check: Callable[[], object]) -> None:
    async with asyncio.timeout(5):
        while not check():  # noqa: ASYNC110 - what is waited for sends no event
            await asyncio.sleep(0.01)


# ---- the server's side


async def test_a_connection_serves_one_request_after_the_other(start: Start) -> None:
    app = await start()
    reader, writer = await app.connect()
    for number in range(3):
        writer.write(GET % str(number).encode())
        assert (await reader.readuntil(b"/%d " % number)).startswith(b"HTTP/1.1 200 OK\r\n")
    writer.close()
    assert app.opened == 1


async def test_pipelined_requests_are_answered_in_order_and_one_at_a_time(start: Start) -> None:
    app = await start()
    running = most = 0

    def slow(served: Served) -> bool:
        nonlocal running, most
        running += 1
        most = max(most, running)

        def answer() -> None:
            nonlocal running
            running -= 1
            served.answer()

        asyncio.get_running_loop().call_later(0.001, answer)
        return True

    app.on_head = slow
    answer = await app.raw(b"".join(GET % b"%d" % number for number in range(50)) + LAST)
    found = [part.split(b" ")[0] for part in answer.split(b"\r\n\r\n/")[1:]]
    assert [part.partition(b"HTTP")[0] for part in found] == [b"%d" % number for number in range(50)] + [b"last"]
    assert most == 1


async def test_a_thousand_requests_in_one_piece_do_not_nest(start: Start) -> None:
    app = await start()
    answer = await app.raw(GET % b"a" * 1000 + LAST)
    assert answer.count(b"HTTP/1.1 200 OK") == 1001


async def test_any_split_of_any_request_is_read_the_same(start: Start) -> None:
    app = await start()
    requests = (
        GET % b"one",
        b"POST /two HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\nhello",
        b"POST /three HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=1\r\nde\r\n0\r\nX-T: 1\r\n\r\n",
        LAST,
    )
    data = b"".join(requests)
    expected = await app.raw(data)
    assert expected.count(b"HTTP/1.1 200") == 4
    draw = random.Random(7)
    for _ in range(30):
        reader, writer = await app.connect()
        cuts = sorted(draw.sample(range(1, len(data)), draw.randint(1, 12)))
        for begin, end in zip([0, *cuts], [*cuts, len(data)], strict=True):
            writer.write(data[begin:end])
            await writer.drain()
            await asyncio.sleep(0)
        async with asyncio.timeout(5):
            assert await reader.read() == expected
        writer.close()


async def test_a_half_read_head_stays_within_its_size_and_time(start: Start) -> None:
    app = await start(head_timeout_s=0.2)
    answer = await app.raw(b"GET / HTTP/1.1\r\nhost: x\r\nx: " + b"a" * 40_000)
    assert answer.startswith(b"HTTP/1.1 431 ")
    answer = await app.raw(b"GET / HTTP/1.1\r\nhost:")
    assert answer.startswith(b"HTTP/1.1 408 ")
    await until(lambda: not app.connections)


async def test_time_spent_before_a_request_is_not_taken_from_it(start: Start) -> None:
    """The head's deadline is over once the head is here, however late in it the head came."""
    app = await start(head_timeout_s=1.0)
    app.on_head = lambda served: True
    reader, writer = await app.connect()
    writer.write(b"GET / HTTP/1.1\r\n")
    await asyncio.sleep(0.1)
    writer.write(b"host: x\r\n\r\n")
    await until(lambda: app.served)
    await asyncio.sleep(1.3)
    assert app.served[0].events == [], "who serves sets the deadline, nobody else"
    app.served[0].answer()
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
    writer.close()


async def test_a_client_that_reads_nothing_is_not_answered_for_ever(start: Start) -> None:
    """Pipelined requests whose answers nobody reads wait, instead of piling up as answers."""
    app = await start(keepalive_s=5.0)
    answered = 0

    def large(served: Served) -> bool:
        nonlocal answered
        answered += 1
        body = b"x" * 2**18
        served.stream.respond(b"HTTP/1.1 200 OK\r\n", b"content-length: %d\r\n" % len(body), len(body), body, True)
        return True

    app.on_head = large
    plain = socket.socket()
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    plain.setblocking(False)
    await asyncio.get_running_loop().sock_connect(plain, ("127.0.0.1", app.port))
    plain.send(GET % b"a" * 200)
    await until(lambda: answered)
    await asyncio.sleep(0.2)
    (connection,) = app.connections
    buffered = connection.transport.get_write_buffer_size()
    assert buffered <= 2**18, f"{answered} answers, {buffered} bytes"
    assert answered < 100
    # They all come once they are read.
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**22)
    loop = asyncio.get_running_loop()
    got = 0
    async with asyncio.timeout(20):
        while got < 200 * 2**18:
            piece = await loop.sock_recv(plain, 2**20)
            assert piece, f"{got} bytes of {answered} answers"
            got += len(piece)
    assert answered == 200
    plain.close()
    await until(lambda: not app.connections)


async def test_an_idle_client_that_left_an_answer_unread_is_cut_off(start: Start) -> None:
    """A graceful close waits for what is written to be read, which may be never."""
    app = await start(keepalive_s=0.3)
    body = b"x" * 2**24

    def large(served: Served) -> bool:
        served.stream.respond(b"HTTP/1.1 200 OK\r\n", b"content-length: %d\r\n" % len(body), len(body), body, True)
        return True

    app.on_head = large
    plain = socket.socket()
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    plain.setblocking(False)
    await asyncio.get_running_loop().sock_connect(plain, ("127.0.0.1", app.port))
    plain.send(GET % b"a")
    await until(lambda: app.served)
    await until(lambda: not app.connections)
    plain.close()


async def test_idle_connections_end_after_their_time(start: Start) -> None:
    app = await start(keepalive_s=0.2)
    reader, writer = await app.connect()
    writer.write(GET % b"a")
    await reader.readuntil(b"/a ")
    async with asyncio.timeout(3):
        assert await reader.read() == b""
    writer.close()


async def test_a_draining_service_says_close(start: Start) -> None:
    app = await start()
    app.options.draining = True
    assert b"connection: close\r\n" in await app.raw(GET % b"a")


async def test_bodies_come_piece_by_piece_and_can_be_held_back(start: Start) -> None:
    app = await start()

    def hold(served: Served) -> bool:
        served.stream.pause()
        return False

    app.on_head = hold
    reader, writer = await app.connect()
    size = 2**25
    writer.write(b"POST /a HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % size)
    await until(lambda: app.served)
    (served,) = app.served
    sent = 0

    async def send() -> None:
        nonlocal sent
        while sent < size:
            writer.write(b"x" * 2**16)
            await writer.drain()
            sent += 2**16

    sending = asyncio.create_task(send())
    before = -1
    while sent != before:
        before = sent
        await asyncio.sleep(0.1)
    assert before < size
    assert len(served.body) < 2**20, "nothing is read meanwhile"
    served.stream.resume()
    await sending
    async with asyncio.timeout(10):
        await reader.readuntil(b"\r\n\r\n")
    assert len(served.body) == size
    writer.close()


async def test_a_slow_reader_is_told_of_and_the_writer_goes_on_when_it_reads(start: Start) -> None:
    app = await start()

    def endless(served: Served) -> bool:
        if served.stream.line.path == "/last":
            served.answer()
            return True
        served.stream.respond(b"HTTP/1.1 200 OK\r\n", b"", -2, b"", False)
        while not served.stream.blocked:
            served.stream.write(b"x" * 2**16)
        return True

    app.on_head = endless
    reader, writer = await app.connect()
    writer.write(GET % b"a")
    await until(lambda: app.served)
    (served,) = app.served
    assert served.stream.blocked
    while "ready" not in served.events:
        await reader.read(2**16)
    served.stream.finish()
    writer.write(LAST)
    async with asyncio.timeout(5):
        assert b"\r\n0\r\n\r\nHTTP/1.1 200 OK" in await reader.read()
    writer.close()


async def test_an_answer_before_the_body_is_read_and_the_connection_closes(start: Start) -> None:
    app = await start(linger_s=1.0)

    def refuse(served: Served) -> bool:
        served.answer(b"HTTP/1.1 413 Content Too Large\r\n")
        return True

    app.on_head = refuse
    reader, writer = await app.connect()
    writer.write(b"POST /a HTTP/1.1\r\nhost: x\r\ncontent-length: 10000000\r\n\r\n")
    async with asyncio.timeout(5):
        for _ in range(100):
            writer.write(b"x" * 100_000)
            await writer.drain()
        answer = await reader.read()
    assert answer.startswith(b"HTTP/1.1 413")
    assert b"connection: close\r\n" in answer
    writer.close()
    await until(lambda: not app.connections)


async def test_a_client_that_never_stops_sending_is_cut_off_after_its_answer(start: Start) -> None:
    app = await start(linger_s=0.2)
    reader, writer = await app.connect()
    writer.write(b"nonsense\r\n\r\n")
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 400")
    with pytest.raises(ConnectionError):  # noqa: PT012 - which of the writes meets it is chance
        async with asyncio.timeout(5):
            while True:
                writer.write(b"more of it")
                await writer.drain()
                await asyncio.sleep(0.02)
    writer.close()
    await until(lambda: not app.connections)


async def test_a_body_that_is_no_http_is_told_and_nothing_behind_it_is_read(start: Start) -> None:
    app = await start()
    answer = await app.raw(
        b"POST /a HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n", and_then=b"zz\r\n" + LAST
    )
    assert answer.count(b"HTTP/1.1 ") == 1
    assert answer.startswith(b"HTTP/1.1 400")
    assert app.served[0].events == ["refused"]


async def test_an_invitation_is_sent_only_when_asked_for(start: Start) -> None:
    app = await start()
    reader, writer = await app.connect()
    head = b"POST /a HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\nexpect: 100-continue\r\n\r\n"
    writer.write(head)
    await until(lambda: app.served)
    app.served[0].stream.invite()
    assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    writer.write(b"hi")
    assert (await reader.readuntil(b"/a hi")).startswith(b"HTTP/1.1 200")
    writer.write(head.replace(b"1.1", b"1.0"))
    await until(lambda: len(app.served) == 2)
    app.served[1].stream.invite()
    writer.write(b"hi")
    assert (await reader.readuntil(b"/a hi")).startswith(b"HTTP/1.1 200"), "HTTP/1.0 knows no interim answers"
    writer.close()


@pytest.mark.parametrize(
    "first",
    [
        GET % b"first",
        b"POST /first HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\nhi",
        b"POST /first HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
    ],
    ids=["no body", "a length", "chunks"],
)
@pytest.mark.parametrize("cut", [None, -1], ids=["in one piece", "in two"])
async def test_what_is_held_of_pipelined_requests_is_bounded(start: Start, first: bytes, cut: int | None) -> None:
    app = await start()
    app.on_head = lambda served: True  # answered by the test
    ahead = GET.replace(b"\r\n\r\n", b"\r\nx-filler: " + b"x" * 4000 + b"\r\n\r\n") % b"next" * 500
    reader, writer = await app.connect()
    writer.write(first[:cut])
    if cut is not None:
        await asyncio.sleep(0.02)
    writer.write(first[len(first[:cut]) :] + ahead + LAST)
    await until(lambda: app.served and app.served[0].stream.complete)
    if app.served[0].stream.requestor is None:
        await until(lambda: len(app.served) == 2)  # a body that comes later is answered with its end
    for _ in range(3):
        await asyncio.sleep(0.02)
        held = app.served[-1]
        assert len(held.stream._buffer) <= 2**16 + 2**18
        held.stream.resume()  # whoever stopped reading for reasons of their own and goes on does not undo it
    app.on_head = None
    held.answer()
    async with asyncio.timeout(5):
        assert (await reader.read()).count(b"HTTP/1.1 200") == 502
    writer.close()


async def test_a_tunnel_takes_what_was_sent_ahead_of_it(start: Start) -> None:
    app = await start()
    size = 2**21  # more than is held ahead, so that reading had stopped
    app.on_head = lambda served: True
    reader, writer = await app.connect()
    writer.write(b"GET /a HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n" + b"x" * size)
    await until(lambda: app.served)
    await asyncio.sleep(0.05)
    (served,) = app.served
    served.body += served.stream.switch(b"HTTP/1.1 101 Switching Protocols\r\n\r\n")
    await until(lambda: len(served.body) == size)
    served.stream.write(b"back")
    served.stream.close_tunnel()
    async with asyncio.timeout(5):
        assert (await reader.read()).endswith(b"\r\n\r\nback")
    writer.close()


async def test_http_1_0_clients_get_bodies_they_can_read(start: Start) -> None:
    app = await start()

    def stream(served: Served) -> bool:
        length = -1 if served.stream.line.path == "/framed" else -2
        lines = b"transfer-encoding: chunked\r\n" if length == -1 else b""
        served.stream.respond(b"HTTP/1.1 200 OK\r\n", lines, length, b"", False)
        served.stream.write(b"2\r\nhe\r\n3\r\n" if length == -1 else b"he")
        served.stream.write(b"llo\r\n0\r\n\r\n" if length == -1 else b"llo")
        served.stream.finish()
        return True

    app.on_head = stream
    for path in (b"framed", b"open"):
        for extra in (b"", b"connection: keep-alive\r\n"):
            answer = await app.raw(b"GET /%b HTTP/1.0\r\n%b\r\n" % (path, extra))
            head, _, body = answer.partition(b"\r\n\r\n")
            assert (body, b"chunked" in head, b"connection: close" in head) == (b"hello", False, True)


@pytest.mark.parametrize("extra", [b"", b"connection: keep-alive\r\n"], ids=["closing", "kept"])
async def test_http_1_0_clients_hear_nothing_of_chunks_where_no_body_follows(start: Start, extra: bytes) -> None:
    app = await start(keepalive_s=0.2)

    def head_only(served: Served) -> bool:
        served.stream.respond(b"HTTP/1.1 200 OK\r\n", b"a: b\r\ntransfer-encoding: chunked\r\n", 0, b"", True)
        return True

    app.on_head = head_only
    answer = await app.raw(b"HEAD / HTTP/1.0\r\n%b\r\n" % extra)
    assert (answer.count(b"\r\na: b\r\n"), b"chunked" in answer, b"keep-alive" in answer) == (1, False, bool(extra))


async def test_idle_connections_keep_nothing_of_their_last_request(start: Start) -> None:
    app = await start()
    count = 40

    def answer(served: Served) -> bool:
        served.stream.respond(b"HTTP/1.1 200 OK\r\n", b"content-length: 0\r\n", 0, b"", True)
        return True

    app.on_head = answer
    opened = [await app.connect() for _ in range(count)]
    tracemalloc.start()
    try:
        for number, (reader, writer) in enumerate(opened):
            head = b"POST /%d%b HTTP/1.1\r\nhost: x\r\ncontent-length: 30000\r\nx: %b\r\n\r\n"
            writer.write(head % (number, b"p" * 5_000, b"h" * 15_000) + b"b" * 30_000)
            async with asyncio.timeout(5):
                await reader.readuntil(b"\r\n\r\n")
        app.served.clear()
        gc.collect()
        assert tracemalloc.get_traced_memory()[0] / count < 10_000
    finally:
        tracemalloc.stop()


HOSTILE = [
    b"\x00" * 200,
    b"\r\n" * 50,
    b"\r\n\r\n\r\n" + GET % b"a",
    b"GET / HTTP/1.1\nhost: x\n\n" + LAST,
    b"GET  / HTTP/1.1\r\nhost: x\r\n\r\n",
    b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999999999999999\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\xff" * 500 + b"\r\n\r\n",
]


@pytest.mark.parametrize("data", HOSTILE, ids=range(len(HOSTILE)))
async def test_hostile_bytes_get_one_refusal_and_are_served_nothing(start: Start, data: bytes) -> None:
    app = await start(head_timeout_s=0.3, linger_s=0.5, http2=None)
    answer = await app.raw(data)
    assert answer.count(b"HTTP/1.1 ") == 1
    assert answer.split(b" ")[1] in (b"400", b"405", b"408", b"431", b"505")
    assert not app.served
    await until(lambda: not app.connections)


async def test_garbage_in_any_pieces_breaks_nothing(start: Start) -> None:
    """Valid requests with bytes changed, removed and put in, in random pieces, the client leaving at a random moment."""
    app = await start(head_timeout_s=0.3, linger_s=0.5, keepalive_s=0.3)
    draw = random.Random(11)
    valid = (
        b"POST /a HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n" + GET % b"b" + LAST
    )
    for _ in range(150):
        data = bytearray(valid)
        for _ in range(draw.randint(0, 4)):
            at = draw.randrange(len(data))
            match draw.randrange(3):
                case 0:
                    data[at] = draw.randrange(256)
                case 1:
                    del data[at : at + draw.randint(1, 8)]
                case _:
                    data[at:at] = draw.randbytes(draw.randint(1, 8))
        data = data[: draw.randint(1, len(data))]
        _, writer = await app.connect()
        at = 0
        while at < len(data):
            size = draw.choice((1, 7, 50, 500))
            writer.write(bytes(data[at : at + size]))
            at += size
            await asyncio.sleep(0)
        if draw.random() < 0.5:
            writer.transport.abort()
        else:
            writer.close()
    assert (await app.raw(LAST)).startswith(b"HTTP/1.1 200"), "it still serves"
    await until(lambda: not app.connections)
    for served in app.served:
        assert served.events.count("gone") <= 1


async def test_a_deadline_that_fails_costs_no_other_its_own(clock: Clock, loop_errors: list[dict[str, Any]]) -> None:
    class Due:
        closed = False

        def __init__(self, *, fails: bool) -> None:
            self.deadline = clock.tick + 1
            self.fails = fails

        def on_deadline(self) -> None:
            self.closed = True
            if self.fails:
                raise RuntimeError("on purpose")

    every = [Due(fails=fails) for fails in (True, False, True, False)]
    for each in every[:2]:
        clock.watch(each)
    for each in every[2:]:
        clock.soon(each)
    await until(lambda: all(each.closed for each in every))
    assert [str(each["exception"]) for each in loop_errors] == ["on purpose"] * 2
    loop_errors.clear()


# ---- the client's side


async def ask(caller: Caller, port: int, path: bytes = b"a", **how: Any) -> tuple[Any, Answer]:
    connection = await caller.connect(port)
    answer = Answer()
    connection.begin(answer, GET % path, **how)
    async with asyncio.timeout(5):
        await answer.done.wait()
    return connection, answer


async def test_a_client_keeps_its_connection(start: Start, caller: Caller) -> None:
    app = await start()
    connection = await caller.connect(app.port)
    for number in range(3):
        answer = Answer()
        connection.begin(answer, GET % b"%d" % number)
        async with asyncio.timeout(5):
            await answer.done.wait()
        assert (answer.status, bytes(answer.body), connection.reusable) == (200, b"/%d " % number, True)
    assert (app.opened, connection.begun) == (1, 3)


ANSWERS = {
    "sized": (b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello", b"hello", True),
    "empty": (b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", b"", True),
    "chunked": (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", b"5\r\nhello\r\n0\r\n\r\n", True),
    "trailers": (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\nX-T: 1\r\n\r\n", b"0\r\nX-T: 1\r\n\r\n", True),
    "no content": (b"HTTP/1.1 204 No Content\r\n\r\n", b"", True),
    "not modified": (b"HTTP/1.1 304 Not Modified\r\ncontent-length: 9\r\n\r\n", b"", True),
    "closing": (b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close\r\n\r\nhello", b"hello", False),
    "old": (b"HTTP/1.0 200 OK\r\ncontent-length: 5\r\n\r\nhello", b"hello", False),
    "until close": (b"HTTP/1.1 200 OK\r\n\r\nhello", b"hello", False),
    "after interim ones": (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" + OK, b"ok", True),
}  # fmt: skip


@pytest.mark.parametrize("name", ANSWERS)
@pytest.mark.parametrize("size", [1, 7, 1000])
async def test_answers_are_read_the_same_in_pieces_of_any_size(
    scripted: Scripted, caller: Caller, name: str, size: int
) -> None:
    data, body, reusable = ANSWERS[name]

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        for at in range(0, len(data), size):
            writer.write(data[at : at + size])
            await asyncio.sleep(0)
        if name != "until close":
            await reader.read()

    connection, answer = await ask(caller, await scripted(serve))
    assert (bytes(answer.body), answer.broken, connection.reusable) == (body, None, reusable)
    assert answer.interim == ([103] if name == "after interim ones" else [])


async def test_an_interim_answer_is_told_without_what_is_one_connections_or_a_bodys(
    scripted: Scripted, caller: Caller
) -> None:
    """Whoever passes it on would tell its own client to close, or of a body that never comes."""
    heads: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(
            b"HTTP/1.0 103 Early Hints\r\nLink: </a>\r\nConnection: close, x-own\r\nX-Own: 1\r\nKeep-Alive: 9\r\n"
            b"Upgrade: h2c\r\nContent-Length: 30\r\n\r\n" + OK
        )
        await reader.read()

    answer = Answer()
    answer.on_interim = lambda head, code: heads.append(head)  # type: ignore[method-assign]
    connection = await caller.connect(await scripted(serve))
    connection.begin(answer, b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
    async with asyncio.timeout(5):
        await answer.done.wait()
    assert heads == [b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"]
    assert (answer.status, bytes(answer.body)) == (200, b"ok")


BROKEN = {
    "nothing": b"",
    "half a head": b"HTTP/1.1 200 OK\r\ncontent-le",
    "half a body": b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhel",
    "half a chunk": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhel",
    "no last chunk": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n",
    "a bad chunk": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\nhello\r\n0\r\n\r\n",
    "garbage": b"garbage\r\n\r\n",
    "interim ones without end": b"HTTP/1.1 102 Processing\r\n\r\n" * 1000,
    "a switch nobody asked for": b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
    "two lengths": b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello!",
    "a huge head": b"HTTP/1.1 200 OK\r\nx: " + b"a" * 200_000,
}


@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
async def test_broken_answers_are_told_once_and_end_the_connection(
    scripted: Scripted, caller: Caller, name: str, reset: bool
) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(BROKEN[name])
        if reset:
            await writer.drain()
            await asyncio.sleep(0.02)
            writer.transport.abort()

    connection, answer = await ask(caller, await scripted(serve))
    assert answer.broken in (Broken.CLOSED, Broken.PROTOCOL)
    assert not connection.reusable
    await until(lambda: connection.closed)


EXCESS = {
    "a second answer": OK + OK,
    "more than announced": OK + b"!",
    "a body after HEAD": OK,
    "more after the last chunk": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\nHTTP/1.1 200 OK\r\n",
}


@pytest.mark.parametrize("name", EXCESS)
@pytest.mark.parametrize("apart", [False, True], ids=["at once", "later"])
async def test_bytes_beyond_an_answer_are_never_another_answer(
    scripted: Scripted, caller: Caller, name: str, apart: bool
) -> None:
    data = EXCESS[name]
    cut = data.index(b"\r\n\r\n") + 4 if name != "a second answer" else len(OK)
    if name == "more than announced":
        cut = len(OK)
    elif name == "more after the last chunk":
        cut = data.index(b"0\r\n\r\n") + 5

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(data[:cut] if apart else data)
        if apart:
            await asyncio.sleep(0.05)
            writer.write(data[cut:])
        await reader.read()

    connection, answer = await ask(caller, await scripted(serve), head_only=name == "a body after HEAD")
    assert (answer.status, answer.broken) == (200, None)
    if apart:
        await until(lambda: connection.closed)
    assert not connection.reusable


async def test_an_answer_to_no_request_ends_the_connection(scripted: Scripted, caller: Caller) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(OK)
        await reader.read()

    connection = await caller.connect(await scripted(serve))
    await until(lambda: connection.closed)
    assert not connection.reusable


async def test_a_slow_server_holds_the_sender_back(scripted: Scripted, caller: Caller) -> None:
    go = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await go.wait()
        await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(2**24)
        writer.write(OK)

    connection = await caller.connect(await scripted(serve))
    answer = Answer()
    connection.begin(answer, b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % 2**24)
    sent = 0
    while not connection.blocked:
        connection.write(b"x" * 2**16)
        sent += 2**16
    assert sent < 2**24
    assert answer.blocked == 1
    go.set()
    await until(lambda: not connection.blocked)
    assert answer.blocked == 0
    connection.write(b"x" * (2**24 - sent))
    async with asyncio.timeout(10):
        await answer.done.wait()
    assert answer.status == 200


async def test_a_slow_receiver_holds_the_server_back(start: Start, caller: Caller) -> None:
    app = await start()

    def endless(served: Served) -> bool:
        served.stream.respond(b"HTTP/1.1 200 OK\r\n", b"", -2, b"", False)

        def more() -> None:
            if not served.stream.blocked:
                served.stream.write(b"x" * 2**16)
                asyncio.get_running_loop().call_soon(more)

        more()
        return True

    app.on_head = endless
    connection = await caller.connect(app.port)
    answer = Answer()
    connection.begin(answer, GET % b"a")
    async with asyncio.timeout(5):
        await answer.begun.wait()
    connection.pause()
    await until(lambda: app.served[0].stream.blocked)
    held = len(answer.body)
    await asyncio.sleep(0.05)
    assert len(answer.body) == held
    connection.resume()
    await until(lambda: "ready" in app.served[0].events)
    app.served[0].stream.finish()
    async with asyncio.timeout(5):
        await answer.done.wait()
    assert bytes(answer.body).endswith(b"\r\n0\r\n\r\n")


async def test_a_call_that_is_broken_off_says_nothing_more(start: Start, caller: Caller) -> None:
    app = await start()
    app.on_head = lambda served: True
    connection = await caller.connect(app.port)
    answer = Answer()
    connection.begin(answer, GET % b"a")
    await until(lambda: app.served)
    connection.abort()
    await until(lambda: app.served[0].events == ["gone"])
    assert connection.closed
    assert not answer.done.is_set()


# ---- raw bodies: payload alone, framed here


async def test_a_raw_response_is_sized_when_it_is_here_in_full_and_chunked_with_trailers_otherwise(
    start: Start,
) -> None:
    app = await start()

    def answer(served: Served) -> bool:
        stream = served.stream
        if stream.line.path == "/whole":
            stream.respond(b"HTTP/1.1 200 OK\r\n", b"", -2, b"whole", True)
        elif stream.line.path == "/trailers":
            stream.respond_whole(b"HTTP/1.1 200 OK\r\n", b"", b"all", b"x-sum: 3\r\n")
        else:
            stream.respond(b"HTTP/1.1 200 OK\r\n", b"", -2, b"pie", False)
            stream.write(b"ces")
            stream.write(b"")
            stream.finish(b"x-sum: 6\r\n")
        return True

    app.on_head = answer
    whole = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nwhole"
    head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n"
    chunks = b"3\r\npie\r\n3\r\nces\r\n0\r\nx-sum: 6\r\n\r\n"
    got = await app.raw(GET % b"whole" + GET % b"pieces" + LAST.replace(b"/last", b"/pieces"))
    assert got == whole + head + b"\r\n" + chunks + head + b"connection: close\r\n\r\n" + chunks
    got = await app.raw(GET % b"trailers" + LAST.replace(b"/last", b"/trailers"))
    whole = b"3\r\nall\r\n0\r\nx-sum: 3\r\n\r\n"
    assert got == head + b"\r\n" + whole + head + b"connection: close\r\n\r\n" + whole
    got = await app.raw((GET % b"pieces").replace(b"/1.1", b"/1.0"))
    assert got == b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\npieces"


async def test_a_raw_request_is_chunked_and_its_connection_serves_the_next_one(start: Start, caller: Caller) -> None:
    app = await start()
    connection = await caller.connect(app.port)
    for body in (b"first", b""):
        answer = Answer()
        connection.begin(answer, b"POST /raw HTTP/1.1\r\nhost: x\r\n\r\n" + body, raw=True)
        connection.write(b"")
        connection.write(b" more")
        connection.finish(b"x-sum: 1\r\n")
        await asyncio.wait_for(answer.done.wait(), 5)
        dechunker = Dechunker()
        assert dechunker.take(bytes(app.served[-1].body)) == (body + b" more", b"")
        assert dechunker.trailers == b"x-sum: 1\r\n"
    answer = Answer()
    connection.begin(answer, GET % b"plain")
    await asyncio.wait_for(answer.done.wait(), 5)
    assert answer.body == b"/plain "
