"""Memory of an idle client connection: one request each, then nothing.

The slope between a first few hundred connections and the rest counts, so that what a proxy sets up once, and the slack
of its heap after a fresh start, are not taken for the cost of a connection.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import time
from collections.abc import Iterator

import messages
import routes
from processes import Unusable
from results import Round
from sessions import Session, Stage, session

from scenarios.kinds import Options

FIRST = 400
CONNECTIONS = 2000
_SETTLE_S = 0.5


def run(stage: Stage, options: Options, wanted: tuple[str, ...]) -> Iterator[tuple[str, Round]]:
    """Yield a round for each proxy: bytes for each plain and for each TLS connection, on a start of its own each."""
    for _ in range(options.rounds):
        for proxy in options.proxies:
            found: dict[str, float | str] = {"proxy": proxy}
            for kind in ("plain", "tls"):
                with session(stage, proxy, tls=True) as running:
                    found[f"{kind}_bytes"] = measure(running, tls=kind == "tls")
            for name in wanted:
                yield name, {**found, "connections": CONNECTIONS, "errors": 0}


def measure(running: Session, *, tls: bool) -> float:
    """Return the bytes of resident memory for each of `CONNECTIONS` further connections. Raises Unusable."""
    context = ssl.create_default_context(cafile=str(running.stage.around.certificate)) if tls else None
    with contextlib.ExitStack() as held:

        def hold(count: int) -> None:
            for _ in range(count):
                held.enter_context(_connect(running, context))

        running.server.settle()
        hold(FIRST)
        time.sleep(_SETTLE_S)
        before = running.server.rss_bytes()
        hold(CONNECTIONS)
        time.sleep(_SETTLE_S)
        return (running.server.rss_bytes() - before) / CONNECTIONS


def _connect(running: Session, context: ssl.SSLContext | None) -> socket.socket:
    port = running.bed.port if context is None else running.bed.tls_port
    connection = socket.create_connection(("127.0.0.1", port), timeout=10)
    # Without it the request waits for the acknowledgement of the handshake's end, 40 ms each.
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if context is not None:
        connection = context.wrap_socket(connection, server_hostname=routes.HOST)
    connection.sendall(messages.repeated())
    seen = b""
    while b'"ok":true}' not in seen:
        data = connection.recv(65536)
        if not data:
            raise Unusable(f"{running.peer.name} closed an idle connection: {seen[:200]!r}")
        seen += data
    return connection
