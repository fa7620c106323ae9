"""An HTTP/2 server by the `h2` package's state machine, which minds the protocol."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    RequestReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
    WindowUpdated,
)
from h2.settings import Settings

OK = [(":status", "200"), ("content-type", "text/plain")]


@dataclass
class Call:
    """One request as the server saw it."""

    stream: int
    headers: list[tuple[bytes, bytes]]
    body: bytearray = field(default_factory=bytearray)
    trailers: list[tuple[bytes, bytes]] | None = None
    ended: bool = False
    reset: int | None = None

    def header(self, name: bytes) -> bytes | None:
        return dict(self.headers).get(name)


class Peer(asyncio.Protocol):
    """A server by the `h2` package. on_call: told of each request when its head, a piece, or its end comes."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.h2 = H2Connection(H2Configuration(client_side=False, header_encoding=None))
        self.calls: dict[int, Call] = {}
        self.terminated = False
        self.auto_window = True

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.server.peers.append(self)
        if self.server.settings:
            self.h2.local_settings = Settings(client=False, initial_values=self.server.settings)
        self.h2.initiate_connection()
        self.flush()

    def flush(self) -> None:
        self.transport.write(self.h2.data_to_send())

    def data_received(self, data: bytes) -> None:
        for event in self.h2.receive_data(data):
            self._on(event)
        self.flush()

    def _on(self, event: Event) -> None:
        if isinstance(event, RequestReceived):
            call = self.calls[event.stream_id] = Call(event.stream_id, list(event.headers))
            self.server.calls.append(call)
            self.server.on_call(self, call, "head")
        elif isinstance(event, DataReceived):
            call = self.calls[event.stream_id]
            call.body += event.data
            if self.auto_window:
                self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            self.server.on_call(self, call, "data")
        elif isinstance(event, TrailersReceived):
            self.calls[event.stream_id].trailers = list(event.headers)
        elif isinstance(event, StreamEnded):
            call = self.calls[event.stream_id]
            call.ended = True
            self.server.on_call(self, call, "end")
        elif isinstance(event, StreamReset):
            self.calls[event.stream_id].reset = event.error_code
        elif isinstance(event, WindowUpdated):
            self.server.on_window(self)
        elif isinstance(event, ConnectionTerminated):
            self.terminated = True

    def answer(self, call: Call, body: bytes = b"ok", trailers: list[tuple[str, str]] | None = None) -> None:
        self.h2.send_headers(call.stream, OK)
        self.h2.send_data(call.stream, body, end_stream=trailers is None)
        if trailers is not None:
            self.h2.send_headers(call.stream, trailers, end_stream=True)


class Server:
    """on_call: what it does; answers requests that are over unless a test says otherwise."""

    def __init__(self) -> None:
        self.peers: list[Peer] = []
        self.calls: list[Call] = []
        self.settings: dict[int, int] = {}
        self.port = 0
        self.on_call: Callable[[Peer, Call, str], None] = self._answer
        self.on_window: Callable[[Peer], None] = lambda peer: None

    def _answer(self, peer: Peer, call: Call, what: str) -> None:
        if what == "end":
            peer.answer(call, (call.header(b":path") or b"") + b" " + bytes(call.body[:100]))

    async def listen(self, **options: Any) -> asyncio.Server:
        """Serve on a port of its own."""
        listening = await asyncio.get_running_loop().create_server(lambda: Peer(self), "127.0.0.1", 0, **options)
        self.port = listening.sockets[0].getsockname()[1]
        return listening

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        """Serve on a port of its own for as long as this lasts; connections end with it."""
        made = await self.listen()
        try:
            yield
        finally:
            made.close()
            for peer in self.peers:
                peer.transport.abort()
