"""HTTP/2 clients and servers that mean harm, or are merely odd: no request is anybody else's, and nothing stays behind."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any
from unittest.mock import ANY

import pytest
from nexus_gateway.testing import Harness, simple, until
from nexus_wire.http2 import frames, hpack

from tests.integration.h2_servers import OK, Call, Peer, Server

Clients = Callable[..., Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]
Peers = Callable[..., Awaitable[int]]

HELLO = frames.PREFACE + frames.settings({})


def head(
    stream: int, *fields: tuple[bytes, bytes], end: bool = True, method: bytes = b"GET", path: bytes = b"/"
) -> bytes:
    """Return a request's HEADERS."""
    pseudo = ((b":method", method), (b":scheme", b"http"), (b":path", path), (b":authority", b"a.example"))
    return frames.headers(stream, b"".join(hpack.field(*pair) for pair in (*pseudo, *fields)), 16384, end=end)


async def read_frame(reader: asyncio.StreamReader) -> tuple[int, int, int, bytes]:
    """Return kind, flags, stream and payload of the next frame."""
    word, flags, stream = frames.HEAD.unpack(await reader.readexactly(frames.HEAD_BYTES))
    return word & 0xFF, flags, stream & frames.STREAM_MASK, await reader.readexactly(word >> 8)


async def answer_of(reader: asyncio.StreamReader, stream: int) -> tuple[bytes, bytes]:
    """Return status and body of a stream's response; the code, and nothing, of a reset one."""
    decoder = hpack.decoder()
    status, body = b"", b""
    async with asyncio.timeout(10):
        while True:
            kind, flags, number, payload = await read_frame(reader)
            if kind == frames.HEADERS:
                fields = decoder.decode(payload)
                if number == stream:
                    status = dict(fields).get(b":status", status)
            elif kind == frames.GOAWAY:
                raise AssertionError(f"the connection ended: {frames.read_goaway(payload)}")
            elif number != stream:
                continue
            elif kind == frames.RST_STREAM:
                return b"reset %d" % frames.read_word(payload, "RST_STREAM"), b""
            elif kind == frames.DATA:
                body += payload
            if number == stream and kind in (frames.DATA, frames.HEADERS) and flags & frames.END_STREAM:
                return status, body


# ---- WebSockets


async def test_what_a_websocket_s_client_sends_ahead_is_no_second_request(
    harness: Harness, clients: Clients, peers: Peers, settled: Any
) -> None:
    """The upstream sees it behind its 101, once; one that switches nothing never sees it: it would take it for a request."""
    seen: list[bytes] = []
    switches = False

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while found := await reader.readuntil(b"\r\n\r\n"):
            seen.append(found)
            if switches:
                await asyncio.sleep(0.05)  # whatever is there too early is here by then
                seen.append(reader._buffer[:])  # type: ignore[attr-defined]
                writer.write(b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n")
                seen.append(await reader.readexactly(len(smuggled)))
                writer.close()
                return
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nno")

    smuggled = b"GET /admin HTTP/1.1\r\nhost: a.example\r\n\r\n"
    await harness.start(simple(await peers(serve)))
    connect = frames.headers(
        1,
        b"".join(
            hpack.field(*pair)
            for pair in ((b":method", b"CONNECT"), (b":protocol", b"websocket"), (b":scheme", b"http"), (b":path", b"/"),
                         (b":authority", b"a.example"), (b"sec-websocket-version", b"13"))
        ),
        16384, end=False,
    )  # fmt: skip
    reader, writer = await clients(HELLO + connect + frames.data(1, smuggled, end=False))
    assert (await answer_of(reader, 1))[0] == b"502"
    writer.write(head(3))
    assert (await answer_of(reader, 3))[0] == b"200"
    assert [each.partition(b" ")[2][:2] for each in seen] == [b"/ ", b"/ "]
    seen.clear()
    switches = True
    await clients(HELLO + connect + frames.data(1, smuggled, end=False))
    await until(lambda: len(seen) == 3)
    assert seen[1:] == [b"", smuggled]
    writer.close()
    await settled(clients=False)


# ---- slow ones, and those that only seem to be


@pytest.mark.parametrize("answers_early", [True, False])
@pytest.mark.parametrize("content_type", [b"application/grpc", b"application/connect+proto"])
async def test_a_conversation_is_no_slow_upload(
    harness: Harness, clients: Clients, settled: Any, content_type: bytes, *, answers_early: bool
) -> None:
    """A call of gRPC may say little for hours; so may whoever is being answered already."""
    server = Server()

    def on_call(peer: Peer, call: Call, what: str) -> None:
        if what == ("data" if answers_early else "end") and not call.trailers:
            call.trailers = [(b"begun", b"")]
            peer.h2.send_headers(call.stream, OK)
            peer.h2.send_data(call.stream, b"hello")
        if what == "end":
            peer.h2.send_headers(call.stream, [("grpc-status", "0")], end_stream=True)

    server.on_call = on_call
    listening = await server.listen()
    await harness.start(simple(server.port, protocol="h2"), head_timeout_s=0.3, min_body_bytes_per_s=64)
    assert harness.gateway is not None
    clock = harness.gateway.proxy.clock
    reader, writer = await clients(
        HELLO
        + head(1, (b"content-type", content_type), method=b"POST", end=False)
        + frames.data(1, b"hello", end=False)
    )
    until_tick = clock.tick + 25  # the gateway looks once a second
    await until(lambda: clock.tick >= until_tick)
    writer.write(frames.data(1, b"bye", end=True))
    slow = not answers_early and content_type != b"application/grpc"
    assert await answer_of(reader, 1) == ((b"408", ANY) if slow else (b"200", b"hello"))
    writer.close()
    await settled()
    listening.close()
