"""Which upstream connections may serve another request."""

from __future__ import annotations

from typing import Any

import pytest
from nexus_wire.client import ClientConnection
from nexus_wire.http1 import ResponseParser


class Quiet:
    """A transport and a receiver that take everything."""

    def __getattr__(self, name: str) -> Any:
        return lambda *_, **__: None


@pytest.mark.parametrize(
    ("response", "reusable"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", True),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok!", False),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok", False),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", True),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\nConnection: keep-alive\r\n\r\nok", True),
        (b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: keep-alive\r\n\r\n0\r\n\r\n", False),
    ],
)
def test_connections_are_reused_only_when_the_end_is_certain(response: bytes, reusable: bool) -> None:
    quiet: Any = Quiet()
    connection = ClientConnection(ResponseParser(), lambda _: None)
    connection.connection_made(quiet)
    connection.begin(quiet, b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
    connection.data_received(response)
    assert connection.reusable is reusable
