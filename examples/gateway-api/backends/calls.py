"""A gRPC service without any gRPC library: `example.Greeter/Hello` answers each message with `Hello MESSAGE`. Listens on PORT.

One message or many: a unary call, a stream from the client, or both ways. Messages are texts, so that `curl` can write them.
What is here of gRPC over HTTP/2: https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md
"""

from __future__ import annotations

import asyncio
import os
import struct

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, RequestReceived, StreamEnded, StreamReset
from h2.exceptions import ProtocolError

METHODS = ("/example.Greeter/Hello",)
UNIMPLEMENTED = "12"


class Calls(asyncio.Protocol):
    """One connection of any number of calls."""

    def __init__(self) -> None:
        self._h2 = H2Connection(H2Configuration(client_side=False, header_encoding="utf-8"))
        self._received: dict[int, bytes] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._h2.initiate_connection()
        transport.write(self._h2.data_to_send())

    def data_received(self, data: bytes) -> None:
        """Go on with all calls that the bytes are of."""
        try:
            for event in self._h2.receive_data(data):
                self._take(event)
        except ProtocolError:
            self._transport.write(self._h2.data_to_send())
            self._transport.close()
            return
        self._transport.write(self._h2.data_to_send())

    def _take(self, event: object) -> None:
        match event:
            case RequestReceived():
                path = next(value for name, value in event.headers if name == ":path")
                self._begin(event.stream_id, str(path))
            case DataReceived():
                self._h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                if event.stream_id in self._received:
                    self._received[event.stream_id] += event.data
                    self._answer(event.stream_id)
            case StreamEnded() if event.stream_id in self._received:
                del self._received[event.stream_id]
                self._h2.send_headers(event.stream_id, [("grpc-status", "0")], end_stream=True)
            case StreamReset():
                self._received.pop(event.stream_id, None)

    def _begin(self, stream: int, path: str) -> None:
        head = [(":status", "200"), ("content-type", "application/grpc")]
        if path in METHODS:
            self._received[stream] = b""
            self._h2.send_headers(stream, head)
            return
        said = [("grpc-status", UNIMPLEMENTED), ("grpc-message", f"There is no {path}.")]
        self._h2.send_headers(stream, head + said, end_stream=True)

    def _answer(self, stream: int) -> None:
        """Answer each message that has come whole: a flag, its length, and what it says."""
        data = self._received[stream]
        while len(data) >= 5 and len(data) >= 5 + (size := struct.unpack(">xI", data[:5])[0]):
            message = b"Hello " + data[5 : 5 + size]
            self._h2.send_data(stream, struct.pack(">xI", len(message)) + message)
            data = data[5 + size :]
        self._received[stream] = data


async def main() -> None:
    """Serve until told to stop."""
    server = await asyncio.get_running_loop().create_server(Calls, "127.0.0.1", int(os.environ["PORT"]))
    await server.serve_forever()


asyncio.run(main())
