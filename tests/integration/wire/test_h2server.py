"""Connections of HTTP/2 between our server and an independent client, on both event loops: what is served, and what is survived."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import h2.config
import h2.connection
import h2.events
import h2.settings
import pytest
from nexus_wire.h2server import Http2
from nexus_wire.http1 import RequestParser
from nexus_wire.http2 import frames, hpack
from nexus_wire.http2.frames import Code
from nexus_wire.http2.limits import Limits
from nexus_wire.testing import App, Served

Start = Callable[..., Any]
Connect = Callable[..., Awaitable["Client"]]
HEADERS = [(":method", "GET"), (":scheme", "http"), (":path", "/a"), (":authority", "shop.example")]
OK = b"HTTP/1.1 200 OK\r\n"


class Client:
    """The `h2` package on a socket. events: by stream, 0 for the connection. takes: whether windows are renewed as data comes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, takes: bool = True) -> None:
        self.reader = reader
        self.writer = writer
        self.takes = takes
        self.h2 = h2.connection.H2Connection(
            h2.config.H2Configuration(
                header_encoding="utf-8", validate_outbound_headers=False, normalize_outbound_headers=False
            )
        )
        self.events: dict[int, list[Any]] = {}
        self.ended = False

    def begin(self, settings: dict[int, int] | None = None) -> None:
        self.h2.initiate_connection()
        if settings:
            self.h2.update_settings(settings)
        self.flush()

    def flush(self) -> None:
        self.writer.write(self.h2.data_to_send())

    def request(self, *extra: tuple[str, str], body: bytes = b"", end: bool = True, **pseudo: str) -> int:
        stream: int = self.h2.get_next_available_stream_id()
        head = [(name, pseudo.get(name[1:], value)) for name, value in HEADERS]
        self.h2.send_headers(stream, [*head, *extra], end_stream=end and not body)
        if body:
            self.h2.send_data(stream, body, end_stream=end)
        self.flush()
        return stream

    async def turn(self) -> bool:
        """Take what the server sends next; False at its end."""
        data = await self.reader.read(65536)
        if not data:
            self.ended = True
            return False
        for event in self.h2.receive_data(data):
            self.events.setdefault(getattr(event, "stream_id", 0) or 0, []).append(event)
            if isinstance(event, h2.events.DataReceived) and self.takes and event.flow_controlled_length:
                self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        self.flush()
        return True

    async def until(self, check: Callable[[], object]) -> None:
        async with asyncio.timeout(10):
            while not check():
                if not await self.turn():
                    assert check(), self.events
                    return

    def find(self, stream: int, kind: type) -> Any:
        return next((event for event in self.events.get(stream, ()) if isinstance(event, kind)), None)

    async def answer(self, stream: int) -> tuple[int, dict[str, str], bytes]:
        """Return a response in full; trailers are among its headers."""
        await self.until(lambda: self.find(stream, h2.events.StreamEnded))
        headers: dict[str, str] = {}
        for event in self.events[stream]:
            if isinstance(event, h2.events.ResponseReceived | h2.events.TrailersReceived):
                headers |= dict(event.headers)
        return int(headers.pop(":status")), headers, self.body(stream)

    def body(self, stream: int) -> bytes:
        return b"".join(
            event.data for event in self.events.get(stream, ()) if isinstance(event, h2.events.DataReceived)
        )

    async def reset(self, stream: int) -> Any:
        """Return the code with which the server ended a stream."""
        await self.until(lambda: self.find(stream, h2.events.StreamReset))
        return self.find(stream, h2.events.StreamReset).error_code

    async def gone(self) -> Any:
        """Return the code with which the server ended the connection, which is closed then."""
        async with asyncio.timeout(10):
            while await self.turn():
                pass
        found = self.find(0, h2.events.ConnectionTerminated)
        return found.error_code if found is not None else None


@pytest.fixture
async def connect() -> AsyncIterator[Connect]:
    writers: list[asyncio.StreamWriter] = []

    async def begin(app: App, settings: dict[int, int] | None = None, *, takes: bool = True) -> Client:
        reader, writer = await asyncio.open_connection("127.0.0.1", app.port)
        writers.append(writer)
        client = Client(reader, writer, takes=takes)
        client.begin(settings)
        return client

    yield begin
    for writer in writers:
        writer.transport.abort()


async def until(check: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not check():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.005)


def answering(*steps: tuple[str, Any]) -> Callable[[Served], bool]:
    """Serve every request with these calls of its stream."""

    def serve(served: Served) -> bool:
        for name, arguments in steps:
            getattr(served.stream, name)(*arguments)
        return True

    return serve


# ---- requests


async def test_requests_and_responses_of_one_connection(start: Start, connect: Connect) -> None:
    app = await start()
    client = await connect(app)
    streams = [client.request(path=f"/{number}", body=b"x" * number) for number in range(20)]
    for number, stream in enumerate(streams):
        status, headers, body = await client.answer(stream)
        assert (status, body) == (200, b"/%d %b" % (number, b"x" * number))
        assert headers["content-length"] == str(len(body))
    assert app.opened == 2  # as a connection of HTTP/1.1 first
    assert len(app.connections) == 1


@pytest.mark.parametrize("sized", [True, False])
@pytest.mark.parametrize("size", [0, 1, 70000, 1_000_000])
async def test_bodies_of_any_size_come_and_go(start: Start, connect: Connect, sized: bool, size: int) -> None:
    app = await start()
    client = await connect(app)
    body = bytes(index % 251 for index in range(size))
    stream = client.request(*([("content-length", str(size))] if sized else []), end=False)
    at = 0
    while at < size:
        window = min(client.h2.local_flow_control_window(stream), 16384, size - at)
        if window:
            client.h2.send_data(stream, body[at : at + window])
            at += window
            client.flush()
        else:
            await client.turn()
    client.h2.end_stream(stream)
    client.flush()
    status, _, answer = await client.answer(stream)
    assert (status, answer) == (200, b"/a " + body)


@pytest.mark.parametrize(
    ("sized", "together", "length"), [(True, True, 4), (True, False, 4), (False, True, 4), (False, False, -2)]
)
async def test_the_length_of_a_body_is_known_when_it_came_with_its_head(
    start: Start, connect: Connect, sized: bool, together: bool, length: int
) -> None:
    app = await start()
    seen: list[tuple[int, bool, bytes]] = []

    def note(served: Served) -> bool:
        seen.append((served.stream.block.length, served.stream.complete, served.stream.body))
        return False

    app.on_head = note
    client = await connect(app)
    extra = [("content-length", "4")] if sized else []
    if together:
        stream = client.request(*extra, body=b"body")
    else:
        stream = client.request(*extra, end=False)
        await until(lambda: seen)
        client.h2.send_data(stream, b"body", end_stream=True)
        client.flush()
    assert (await client.answer(stream))[2] == b"/a body"
    assert seen == [(length, together, b"body" if together else b"")]


async def test_trailers_of_a_request_are_told_with_its_end(start: Start, connect: Connect) -> None:
    app = await start()
    client = await connect(app)
    for body in (b"", b"body"):
        stream = client.request(body=body, end=False)
        client.h2.send_headers(stream, [("x-sum", "1"), ("host", "other")], end_stream=True)
        client.flush()
        assert (await client.answer(stream))[0] == 200
        assert app.served[-1].stream.trailers == b"x-sum: 1\r\n"
        assert app.served[-1].stream.block.length == -2


@pytest.mark.parametrize("said", ["3", "5"])
async def test_a_body_that_is_not_as_long_as_it_says_is_no_request(start: Start, connect: Connect, said: str) -> None:
    app = await start()
    client = await connect(app)
    stream = client.request(("content-length", said), end=False)
    await until(lambda: app.served)
    client.writer.write(frames.data(stream, b"body", end=True))
    assert await client.reset(stream) == Code.PROTOCOL_ERROR
    assert app.served[0].events == ["gone"]
    assert (await client.answer(client.request()))[0] == 200


async def test_a_client_that_waits_is_invited_and_told_of_interim_answers(start: Start, connect: Connect) -> None:
    app = await start()

    def invite(served: Served) -> bool:
        served.stream.invite()
        served.stream.inform(b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n")
        return False

    app.on_head = invite
    client = await connect(app)
    stream = client.request(("expect", "100-continue"), end=False)
    await client.until(lambda: len(client.events.get(stream, ())) >= 2)
    interim = [dict(event.headers) for event in client.events[stream]]
    assert interim == [{":status": "100"}, {":status": "103", "link": "</a>"}]
    client.h2.send_data(stream, b"body", end_stream=True)
    client.flush()
    assert (await client.answer(stream))[2] == b"/a body"


async def test_a_refused_head_is_answered_and_the_others_are_served(start: Start, connect: Connect) -> None:
    app = await start()
    client = await connect(app)
    bad, good = client.request(path="/../a", end=False), client.request()
    await client.until(lambda: client.find(bad, h2.events.StreamEnded))
    assert dict(client.find(bad, h2.events.ResponseReceived).headers)[":status"] == "400"
    assert await client.reset(bad) == Code.NO_ERROR
    assert (await client.answer(good))[0] == 200
    assert len(app.served) == 1


async def test_a_malformed_head_costs_its_stream_alone(start: Start, connect: Connect) -> None:
    app = await start()
    counted: list[int] = []
    app.options.on_refused = lambda _, refused: counted.append(refused.status) or b""
    client = await connect(app)
    bad, good = client.request(("connection", "close")), client.request()
    assert await client.reset(bad) == Code.PROTOCOL_ERROR
    assert (await client.answer(good))[0] == 200
    assert counted == [400]


# ---- responses


@pytest.mark.parametrize(
    ("steps", "body", "trailers"),
    [
        ([("respond", (OK, b"", -2, b"one", False)), ("write", (b"two",)), ("finish", ())], b"onetwo", {}),
        ([("respond", (OK, b"", -2, b"", False)), ("write", (b"x",)), ("finish", (b"grpc-status: 0\r\n",))], b"x", {"grpc-status": "0"}),
        ([("respond", (OK, b"", -2, b"all", True))], b"all", {}),
        ([("respond", (OK, b"", -1, b"3\r\none\r\n0\r\nx: y\r\n\r\n", True))], b"one", {"x": "y"}),
        ([("respond", (OK, b"", -1, b"3\r\non", False)), ("write", (b"e\r\n0\r\nx: y\r\n\r\n",)), ("finish", ())], b"one", {"x": "y"}),
        ([("respond", (OK, b"", -1, b"3\r\none\r\n0\r\n\r\n", True))], b"one", {}),
        ([("respond", (OK, b"content-length: 6\r\n", 6, b"one", False)), ("write", (b"two",)), ("finish", ())], b"onetwo", {}),
        ([("respond", (OK, b"content-length: 100000\r\n", 100000, b"x" * 100000, True))], b"x" * 100000, {}),
        ([("respond", (OK, b"", -2, b"x" * 100000, False)), ("write", (b"y" * 100000,)), ("finish", (b"a: b\r\n",))],
         b"x" * 100000 + b"y" * 100000, {"a": "b"}),
        ([("respond", (b"HTTP/1.1 204 No Content\r\n", b"", 0, b"", True))], b"", {}),
        ([("respond", (OK, b"a: %b\r\n" % (b"v" * 40000), 0, b"", True))], b"", {}),
        ([("respond_whole", (OK, b"", b"all", b"grpc-status: 0\r\n"))], b"all", {"grpc-status": "0"}),
        ([("respond_whole", (OK, b"", b"", b"a: b\r\n"))], b"", {"a": "b"}),
        ([("respond_whole", (OK, b"", b"x" * 100000, b"a: b\r\n"))], b"x" * 100000, {"a": "b"}),
        ([("respond_whole", (OK, b"", b"x", b"a: %b\r\n" % (b"v" * 40000)))], b"x", {"a": "v" * 40000}),
    ],
    ids=range(15),
)  # fmt: skip
async def test_responses_come_in_whatever_framing_they_are_written(
    start: Start, connect: Connect, steps: Any, body: bytes, trailers: dict[str, str]
) -> None:
    app = await start()
    app.on_head = answering(*steps)
    client = await connect(app, {h2.settings.SettingCodes.MAX_HEADER_LIST_SIZE: 2**17})
    client.h2.decoder.max_header_list_size = 2**17
    stream = client.request()
    _, headers, found = await client.answer(stream)
    assert found == body
    assert trailers.items() <= headers.items()
    assert "transfer-encoding" not in headers
    await until(lambda: not any(connection.busy for connection in app.connections))


@pytest.mark.parametrize(
    "step", [("respond", (OK, b"", -2, b"x" * 100000, True)), ("respond_whole", (OK, b"", b"x" * 100000, b"a: b\r\n"))]
)
async def test_nobody_is_asked_to_wait_for_a_response_that_is_here_in_full(
    start: Start, connect: Connect, step: Any
) -> None:
    """Where it came from may serve others by now."""
    app = await start()
    app.on_head = answering(step)
    client = await connect(app, takes=False)
    stream = client.request()
    await client.until(lambda: len(client.body(stream)) == 65535)
    assert not app.served[0].events
    for number in (None, stream):
        client.h2.increment_flow_control_window(50000, number)
    client.flush()
    assert len((await client.answer(stream))[2]) == 100000


async def test_headers_that_belong_to_http_1_are_left_out(start: Start, connect: Connect) -> None:
    app = await start()
    app.on_head = answering(("respond", (OK, b"Connection: close\r\nKeep-Alive: 5\r\nX-Kept: 1\r\n", 0, b"", True)))
    client = await connect(app)
    assert (await client.answer(client.request()))[1] == {"x-kept": "1"}


async def test_a_client_without_a_table_is_told_so_once(start: Start, connect: Connect) -> None:
    app = await start()
    client = await connect(app)
    client.h2.update_settings({h2.settings.SettingCodes.HEADER_TABLE_SIZE: 0})
    client.flush()
    for _ in range(3):
        assert (await client.answer(client.request()))[0] == 200


async def test_an_answer_before_the_body_is_there_asks_for_no_more_of_it(start: Start, connect: Connect) -> None:
    app = await start()
    app.on_head = answering(("respond", (b"HTTP/1.1 413 Too Large\r\n", b"", 0, b"", True)))
    client = await connect(app)
    stream = client.request(end=False)
    assert await client.reset(stream) == Code.NO_ERROR
    client.writer.write(frames.data(stream, b"late", end=True))
    assert (await client.answer(client.request()))[0] == 413


async def test_a_response_that_breaks_off_is_reset(start: Start, connect: Connect) -> None:
    app = await start()
    app.on_head = answering(("respond", (OK, b"content-length: 9\r\n", 9, b"part", False)), ("abort", ()))
    client = await connect(app)
    stream = client.request()
    assert await client.reset(stream) == Code.INTERNAL_ERROR
    assert client.body(stream) in (b"", b"part")
    await until(lambda: not any(connection.busy for connection in app.connections))


# ---- windows


async def test_a_response_waits_for_the_windows_and_its_writer_is_told(start: Start, connect: Connect) -> None:
    app = await start()
    app.on_head = answering(("respond", (OK, b"", -2, b"x" * 100000, False)))
    client = await connect(app, {h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 1000}, takes=False)
    stream = client.request()
    await client.until(lambda: len(client.body(stream)) == 1000)
    served = app.served[0]
    assert served.events == ["blocked"]
    assert served.stream.blocked
    client.h2.increment_flow_control_window(50000, stream)
    client.flush()
    await client.until(lambda: len(client.body(stream)) == 51000)
    client.h2.increment_flow_control_window(50000, stream)
    client.flush()
    # The connection's own window, of 65,535, is the next to end.
    await client.until(lambda: len(client.body(stream)) == 65535)
    assert served.events == ["blocked"]
    client.h2.increment_flow_control_window(50000)
    client.flush()
    await client.until(lambda: len(client.body(stream)) == 100000)
    assert served.events == ["blocked", "ready"]
    served.stream.finish()
    assert len((await client.answer(stream))[2]) == 100000


async def test_streams_share_the_connection_s_window_in_turns(start: Start, connect: Connect) -> None:
    app = await start()
    app.on_head = answering(("respond", (OK, b"content-length: 300000\r\n", 300000, b"x" * 300000, True)))
    client = await connect(app, {h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 2**20}, takes=False)
    streams = [client.request() for _ in range(3)]
    await client.until(lambda: sum(len(client.body(stream)) for stream in streams) == 65535)
    client.h2.increment_flow_control_window(3 * 2**16)
    client.flush()
    await client.until(lambda: sum(len(client.body(stream)) for stream in streams) == 65535 + 3 * 2**16)
    assert all(len(client.body(stream)) >= 2**16 for stream in streams)
    client.h2.increment_flow_control_window(2**20)
    client.flush()
    for stream in streams:
        assert len((await client.answer(stream))[2]) == 300000


async def test_a_window_that_shrinks_below_nothing_is_waited_for(start: Start, connect: Connect) -> None:
    app = await start()
    app.on_head = answering(("respond", (OK, b"", 50000, b"x" * 50000, True)))
    client = await connect(app, {h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 20000}, takes=False)
    stream = client.request()
    await client.until(lambda: len(client.body(stream)) == 20000)
    client.h2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 0})
    client.flush()
    await client.until(lambda: client.h2.remote_flow_control_window(stream) == -20000)
    client.h2.increment_flow_control_window(20000 + 30000, stream)
    client.flush()
    assert len((await client.answer(stream))[2]) == 50000


async def test_a_paused_request_stops_its_client_and_no_other(start: Start, connect: Connect) -> None:
    app = await start()
    app.on_head = lambda served: served.stream.line.path == "/paused" and not served.stream.pause()
    client = await connect(app)
    stream = client.request(path="/paused", end=False)
    sent = 0
    while window := min(client.h2.local_flow_control_window(stream), 16384):
        client.h2.send_data(stream, b"x" * window)
        sent += window
    client.flush()
    assert sent == 65535
    # Another one's answer shows that all of it was looked at.
    assert (await client.answer(client.request()))[0] == 200
    assert client.h2.local_flow_control_window(stream) == 0
    served = next(each for each in app.served if each.stream.line.path == "/paused")
    paused = served.stream
    paused.resume()
    await client.until(lambda: client.h2.local_flow_control_window(stream) > 0)
    client.h2.reset_stream(stream)
    client.flush()
    await until(lambda: served.events[-1:] == ["gone"])


async def test_a_client_that_does_not_keep_the_window_is_cut_off(start: Start, connect: Connect) -> None:
    app = await start()
    app.on_head = lambda served: not served.stream.pause()
    client = await connect(app)
    stream = client.request(end=False)
    for _ in range(5):
        client.writer.write(frames.data(stream, b"x" * 16384, end=False))
    assert await client.reset(stream) == Code.FLOW_CONTROL_ERROR


# ---- deadlines


async def test_a_stream_s_deadline_is_its_own(start: Start, connect: Connect) -> None:
    app = await start()

    def late(served: Served) -> bool:
        served.stream.deadline = app.options.clock.tick + 3
        app.options.clock.soon(served.stream)
        return True

    app.on_head = late
    client = await connect(app)
    assert (await client.answer(client.request()))[0] == 504
    assert app.served[0].events == ["late"]


@pytest.mark.parametrize("after", [11, 15])
async def test_deadlines_are_kept_to_the_tick(start: Start, connect: Connect, after: int) -> None:
    """Those of a second and more, which nobody announces: whenever the connection is looked at otherwise."""
    app = await start()
    clock = app.options.clock
    late: list[tuple[int, int]] = []

    def note(served: Served) -> bool:
        wanted = next(iter(app.connections)).deadline + (after if len(app.served) == 2 else after + 3)
        served.stream.deadline = wanted

        def on_late() -> None:
            late.append((wanted, clock.tick))
            served.answer()

        served.on_late = on_late  # type: ignore[method-assign]
        return True

    app.on_head = note
    client = await connect(app)
    farther, nearer = client.request(), client.request()
    for stream in (farther, nearer):
        assert (await client.answer(stream))[0] == 200
    assert len(late) == 2
    assert late[0][0] < late[1][0]
    assert all(came == wanted for wanted, came in late), late


async def test_a_response_that_nobody_takes_is_given_up(start: Start, connect: Connect) -> None:
    app = await start(keepalive_s=0.5)
    app.on_head = answering(("respond", (OK, b"", 100000, b"x" * 100000, True)))
    client = await connect(app, takes=False)
    stream = client.request()
    assert await client.reset(stream) == Code.CANCEL


async def test_an_idle_connection_is_closed_with_a_word(start: Start, connect: Connect) -> None:
    app = await start(keepalive_s=0.5)
    client = await connect(app)
    assert (await client.answer(client.request()))[0] == 200
    assert await client.gone() == Code.NO_ERROR
    assert client.find(0, h2.events.ConnectionTerminated).last_stream_id == 1
    await until(lambda: not app.connections)


async def test_a_preface_that_does_not_end_holds_no_place(start: Start) -> None:
    app = await start(head_timeout_s=0.3)
    _, writer = await app.connect()
    writer.write(frames.PREFACE[:20])
    await until(lambda: app.opened == 2)
    await until(lambda: not app.connections)


async def test_a_header_block_that_does_not_end_holds_no_place(start: Start, connect: Connect) -> None:
    app = await start(head_timeout_s=0.3, linger_s=0.3)
    client = await connect(app)
    client.writer.write(frames.HEAD.pack(frames.HEADERS, 0, 1))
    assert await client.gone() == Code.PROTOCOL_ERROR


async def test_a_slow_upload_is_seen(start: Start, connect: Connect) -> None:
    app = await start(head_timeout_s=0.2, min_body_bytes_per_s=1000)
    client = await connect(app)
    slow = client.request(end=False)
    assert (await client.answer(client.request()))[0] == 200
    connection = next(iter(app.connections))
    await until(lambda: [stream.number for stream in connection.dripping()] == [slow])
    assert not connection.complete


# ---- ends


async def test_a_client_that_leaves_or_gives_up_is_noticed(start: Start, connect: Connect) -> None:
    app = await start()
    app.on_head = lambda served: True
    client = await connect(app)
    first, _ = client.request(), client.request()
    await until(lambda: len(app.served) == 2)
    client.h2.reset_stream(first)
    client.flush()
    await until(lambda: app.served[0].events == ["gone"])
    assert not app.served[1].events
    client.writer.close()
    await until(lambda: app.served[1].events == ["gone"])
    assert not app.connections


async def test_a_drained_connection_finishes_what_it_has(start: Start, connect: Connect) -> None:
    app = await start()
    app.on_head = lambda served: True
    client = await connect(app)
    first = client.request()
    await until(lambda: app.served)
    connection = next(iter(app.connections))
    connection.drain()
    await client.until(lambda: client.find(0, h2.events.ConnectionTerminated))
    assert client.find(0, h2.events.ConnectionTerminated).last_stream_id == 2**31 - 1
    # A request that was on its way is served still; one behind the second word is not.
    late = bytes(frames.headers(3, HEAD, 16384, end=True))
    client.writer.write(late)
    await until(lambda: len(app.served) == 2)
    connection.close_idle()
    client.writer.write(frames.headers(5, HEAD, 16384, end=True))
    await asyncio.sleep(0.05)
    assert len(app.served) == 2
    assert app.connections
    for served in app.served:
        served.answer()
    rest = b""
    async with asyncio.timeout(5):
        while data := await client.reader.read(65536):
            rest += data
    assert frames.goaway(3, Code.NO_ERROR) in rest
    assert rest.count(b"/a ") == 2
    assert first == 1
    await until(lambda: not app.connections)


HEAD = b"".join(hpack.field(name.encode(), value.encode()) for name, value in HEADERS)


# ---- attacks


async def raw(app: App, data: bytes) -> tuple[int | None, bytes]:
    """Send bytes behind the preface; return the code of the GOAWAY that came, and all else, once the server has closed."""
    reader, writer = await app.connect()
    writer.write(frames.PREFACE + frames.settings({}) + data)
    found = b""
    try:
        async with asyncio.timeout(10):
            while piece := await reader.read(65536):
                found += piece
    except ConnectionError:
        pass
    at = 0
    while len(found) - at >= 9:
        word, _, _ = frames.HEAD.unpack_from(found, at)
        if word & 0xFF == frames.GOAWAY:
            return struct.unpack_from(">I", found, at + 13)[0], found
        at += 9 + (word >> 8)
    return None, found


FLOODS = {
    "SETTINGS": frames.settings({}) * 2000,
    "PING": frames.ping(b"12345678", ack=False) * 2000,
    "PING acks": frames.ping(b"12345678", ack=True) * 2000,
    "PRIORITY": (frames.HEAD.pack(5 << 8 | frames.PRIORITY, 0, 1) + b"\x00\x00\x00\x03\x10") * 2000,
    "unknown": frames.HEAD.pack(0x99, 0, 1) * 2000,
    "window updates": frames.window_update(0, 1) * 2000,
    "empty DATA": frames.headers(1, HEAD, 16384, end=False) + frames.data(1, b"", end=False) * 2000,
    "DATA on a stream that is closed": frames.headers(1, HEAD, 16384, end=True) + frames.data(1, b"", end=False) * 2000,
    "empty CONTINUATIONs": frames.HEAD.pack(frames.HEADERS, 0, 1) + frames.HEAD.pack(frames.CONTINUATION, 0, 1) * 2000,
    "CONTINUATIONs": frames.HEAD.pack(frames.HEADERS, 0, 1)
    + (frames.HEAD.pack(16384 << 8 | frames.CONTINUATION, 0, 1) + b"\x00" * 16384) * 20,
    "rapid reset": b"".join(
        frames.headers(number, HEAD, 16384, end=True) + frames.reset(number, 8) for number in range(1, 2001, 2)
    ),
    "resets that we are made to send": b"".join(
        frames.headers(number, HEAD, 16384, end=True) + frames.window_update(number, 0) for number in range(1, 2001, 2)
    ),
    "malformed requests": b"".join(frames.headers(number, b"\x82", 16384, end=True) for number in range(1, 2001, 2)),
    "references": frames.headers(1, b"\x82" * 16000, 16384, end=True),
}


@pytest.mark.parametrize("flood", FLOODS)
async def test_floods_end_their_connection_and_no_other(start: Start, connect: Connect, flood: str) -> None:
    app = await start(linger_s=0.3)
    app.on_head = lambda served: served.stream.line.path == "/a"  # nothing is answered before it is given up
    other = await connect(app)
    code, _ = await raw(app, FLOODS[flood])
    assert code == Code.ENHANCE_YOUR_CALM
    assert (await other.answer(other.request(path="/other")))[0] == 200
    assert len(app.served) < 1100
    await until(lambda: len(app.connections) == 1)


async def test_a_table_s_bomb_is_refused_as_a_large_head(start: Start, connect: Connect) -> None:
    """A byte of the block stands for four kilobytes of header."""
    app = await start()
    client = await connect(app)
    bomb = HEAD + hpack.field(b"x", b"")[:0] + b"\x40\x01x\x7f\xa1\x1e" + b"v" * 4000 + b"\xbe" * 900
    client.writer.write(frames.headers(1, bomb, 16384, end=True))
    client.h2.get_next_available_stream_id()
    await until(lambda: app.connections)
    found = b""
    async with asyncio.timeout(5):
        while b"\x08\x03431" not in found:
            found += await client.reader.read(65536)
    assert not app.served


async def test_more_streams_than_allowed_are_refused(start: Start, connect: Connect) -> None:
    parser = RequestParser()
    app = await start(http2=Http2(parser, Limits(max_streams=3)))
    app.on_head = lambda served: True
    client = await connect(app)
    await client.until(lambda: client.find(0, h2.events.RemoteSettingsChanged))
    client.h2.remote_settings[h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS] = 100
    client.h2.remote_settings.acknowledge()
    streams = [client.request() for _ in range(4)]
    assert await client.reset(streams[3]) == Code.REFUSED_STREAM
    assert len(app.served) == 3
    for served in app.served:
        served.answer()
    for stream in streams[:3]:
        assert (await client.answer(stream))[0] == 200


async def test_a_number_that_was_used_is_not_used_again(start: Start) -> None:
    app = await start(linger_s=0.3)
    request = frames.headers(5, HEAD, 16384, end=True)
    code, _ = await raw(app, request + request)
    assert code == Code.STREAM_CLOSED
    code, _ = await raw(app, request + frames.headers(3, HEAD, 16384, end=True))
    assert code == Code.PROTOCOL_ERROR
    code, _ = await raw(app, frames.headers(2, HEAD, 16384, end=True))
    assert code == Code.PROTOCOL_ERROR


async def test_who_asks_without_reading_is_cut_off(start: Start) -> None:
    """Answers to PINGs pile up for a client that does not read them; streams pay for the noise."""
    app = await start(http2=Http2(RequestParser(), Limits(max_noise=10**9)))
    reader, writer = await app.connect()
    reader.set_exception = lambda exc: None  # type: ignore[method-assign] - a reset is what is waited for
    writer.transport.pause_reading()
    writer.write(frames.PREFACE + frames.settings({}))
    flood = frames.ping(b"12345678", ack=False) * 10000
    try:
        async with asyncio.timeout(20):
            while not writer.transport.is_closing() and (app.connections or not app.opened):
                writer.write(flood)
                await writer.drain()
                await asyncio.sleep(0)
    except ConnectionError:
        pass
    await until(lambda: not app.connections)


# ---- WebSockets (RFC 8441)

ASK = [
    (":method", "CONNECT"), (":protocol", "websocket"), (":scheme", "http"), (":path", "/socket"), (":authority", "a.example"),
    ("sec-websocket-version", "13"),
]  # fmt: skip


async def test_a_websocket_s_bytes_pass_both_ways(start: Start, connect: Connect) -> None:
    app = await start()
    ahead: list[bytes] = []

    def switch(served: Served) -> bool:
        stream = served.stream
        assert (stream.line.method, stream.line.path, stream.block.upgrade) == ("GET", "/socket", b"websocket")
        assert stream.complete
        head = b"HTTP/1.1 101 Switching Protocols\r\nsec-websocket-accept: x\r\nsec-websocket-protocol: chat\r\nconnection: upgrade\r\n"
        ahead.append(stream.switch(head + b"upgrade: websocket\r\n\r\nfirst"))
        return True

    app.on_head = switch
    client = await connect(app)
    await client.until(lambda: client.h2.remote_settings.get(8) == 1)
    client.h2.send_headers(1, ASK)
    client.flush()
    await client.until(lambda: client.body(1) == b"first")
    assert dict(client.find(1, h2.events.ResponseReceived).headers) == {
        ":status": "200",
        "sec-websocket-protocol": "chat",
    }
    assert ahead == [b""]
    client.h2.send_data(1, b"up")
    client.flush()
    served = app.served[0]
    await until(lambda: served.body == b"up")
    served.stream.write(b"down")
    await client.until(lambda: client.body(1) == b"firstdown")
    served.stream.close_tunnel()
    await client.until(lambda: client.find(1, h2.events.StreamEnded))
    await until(lambda: not any(connection.busy for connection in app.connections))


async def test_a_websocket_that_its_client_ends_is_ended(start: Start, connect: Connect) -> None:
    app = await start()
    app.on_head = answering(("switch", (b"HTTP/1.1 101 Switching Protocols\r\n\r\n",)))
    client = await connect(app)
    client.h2.send_headers(1, ASK)
    client.flush()
    await client.until(lambda: client.find(1, h2.events.ResponseReceived))
    client.h2.send_data(1, b"last", end_stream=True)
    client.flush()
    await client.until(lambda: client.find(1, h2.events.StreamEnded))
    served = app.served[0]
    assert (bytes(served.body), served.events) == (b"last", ["gone"])


@pytest.mark.parametrize(
    ("status", "told"), [(b"403 Forbidden", "403"), (b"200 OK", "502"), (b"204 No Content", "502")]
)
async def test_a_websocket_may_be_refused(start: Start, connect: Connect, status: bytes, told: str) -> None:
    """Also by a server that has never heard of it, and answers as it would have otherwise."""
    app = await start()
    app.on_head = answering(("respond", (b"HTTP/1.1 " + status + b"\r\n", b"", 2, b"no", True)))
    client = await connect(app)
    client.h2.send_headers(1, ASK)
    client.flush()
    await client.until(lambda: client.find(1, h2.events.StreamEnded))
    assert dict(client.find(1, h2.events.ResponseReceived).headers)[":status"] == told
    assert await client.reset(1) == Code.NO_ERROR


async def test_a_body_that_nobody_took_is_credited_when_its_request_is_answered(start: Start, connect: Connect) -> None:
    """Otherwise the connection's window would shrink with every early answer, until nobody can send anything."""

    class Reluctant(Served):
        def on_body(self, data: bytes, complete: bool) -> None:
            self.complete = complete

    app = await start()
    taken: list[Reluctant] = []

    def serve(served: Served) -> bool:
        served.stream.requestor = reluctant = Reluctant(app, served.stream)
        reluctant.complete = False
        taken.append(reluctant)
        served.stream.pause()
        return True

    app.on_head = lambda served: True if isinstance(served, Reluctant) else serve(served)
    client = await connect(app)
    for number in range(40):
        stream = client.request(end=False)
        await until(lambda: len(taken) == number + 1)  # noqa: B023
        await client.until(lambda: client.h2.local_flow_control_window(stream) > 48000)  # noqa: B023
        for left in (2, 1, 0):
            client.h2.send_data(stream, b"x" * 16000, end_stream=not left)
        client.flush()
        await until(lambda: taken[-1].complete)
        taken[-1].answer()
        assert (await client.answer(stream))[0] == 200


async def test_a_client_that_leaves_is_told_of_by_all_its_streams_whatever_one_does(
    start: Start, connect: Connect, loop_errors: list[dict[str, Any]]
) -> None:
    """What a stream leaves behind, a place in a queue say, another one of the same connection may get, and answer; or it fails."""

    class Leaving(Served):
        def on_gone(self) -> None:
            super().on_gone()
            for other in app.served:
                if not other.events:
                    other.answer()
            raise LookupError("nothing of this stream is known")

    app = await start()
    app.on_head = lambda served: isinstance(served, Leaving) or bool(Leaving(app, served.stream))
    client = await connect(app)
    for _ in range(3):
        client.request()
    await until(lambda: len(app.served) == 6)
    client.writer.transport.abort()
    await until(lambda: not app.connections)
    assert [each.events for each in app.served if isinstance(each, Leaving)] == [["gone"]] * 3
    assert [type(each["exception"]) for each in loop_errors] == [LookupError] * 3
    loop_errors.clear()


async def test_a_websocket_s_client_may_send_any_number_of_bytes(start: Start, connect: Connect) -> None:
    """Its window is renewed as that of a body."""
    app = await start()

    def serve(served: Served) -> bool:
        served.body += served.stream.switch(b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\n\r\n")
        return True

    app.on_head = serve
    client = await connect(app)
    stream = client.h2.get_next_available_stream_id()
    client.h2.send_headers(stream, ASK)
    client.flush()
    left = 1_000_000
    while left:
        await client.until(lambda: client.h2.local_flow_control_window(stream) > 0)
        size = min(left, 16384, client.h2.local_flow_control_window(stream))
        client.h2.send_data(stream, bytes(size))
        client.flush()
        left -= size
    await until(lambda: len(app.served[0].body) == 1_000_000)
