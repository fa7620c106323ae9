"""The gateway under test, upstreams that say what a test says, and what has to hold once everybody has left."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from nexus_gateway.testing import Harness, until

from tests.integration.gateway.echoes import clock, connect, echo, listen
from tests.integration.gateway.plugged import Plugged

__all__ = ["clock", "connect", "echo", "listen"]  # fixtures, too

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@pytest.fixture
def unused_tcp_port_factory() -> Iterator[Callable[[], int]]:
    """Finds ports, and holds each to the test's end: bound and not listening, so that nobody else is given it.

    Who connects is refused, until a server with SO_REUSEADDR listens there; what the gateway and asyncio's servers have.
    It stands in for pytest-asyncio's, which lets go of a port before it is used; `unused_tcp_port` is one of these.
    """
    with ExitStack() as held:

        def find() -> int:
            probe = held.enter_context(socket.socket())
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", 0))
            return int(probe.getsockname()[1])

        yield find


@pytest.fixture
async def harness(tmp_path: Path) -> AsyncIterator[Harness]:
    made = Harness(tmp_path)
    try:
        yield made
    finally:
        await made.close()


@pytest.fixture
async def plugged(harness: Harness) -> Plugged:
    made = Plugged(harness)
    await made.open()
    return made


@pytest.fixture
async def peers() -> AsyncIterator[Callable[..., Awaitable[int]]]:
    """Starts upstreams on bare sockets: `await peers(serve)` returns the port; `serve(reader, writer)` has each connection."""
    servers: list[asyncio.Server] = []
    tasks: set[asyncio.Task[None]] = set()
    writers: set[asyncio.StreamWriter] = set()

    async def begin(serve: Serve, **options: Any) -> int:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                await serve(reader, writer)
            except (ConnectionError, asyncio.IncompleteReadError):
                pass  # the gateway may leave at any time
            except RuntimeError:
                if not writer.transport.is_closing():  # what uvloop says to a write after that
                    raise
            finally:
                writers.discard(writer)
                writer.close()

        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writers.add(writer)
            task = asyncio.create_task(handle(reader, writer))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

        server = await asyncio.start_server(accept, "127.0.0.1", 0, **options)
        servers.append(server)
        return int(server.sockets[0].getsockname()[1])

    yield begin
    for server in servers:
        server.close()
    for writer in tuple(writers):
        writer.transport.abort()
    for task in tuple(tasks):
        task.cancel()
    for ended in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(ended, Exception):
            raise ended


@pytest.fixture
async def clients(harness: Harness) -> AsyncIterator[Callable[..., Awaitable[Any]]]:
    """Opens connections to the gateway: `await clients(data)` sends it and returns reader and writer, closed in the end."""
    writers: list[asyncio.StreamWriter] = []

    async def connect(data: bytes = b"", **options: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        assert harness.gateway is not None
        reader, writer = await asyncio.open_connection("127.0.0.1", harness.gateway.port, **options)
        writers.append(writer)
        writer.write(data)
        return reader, writer

    yield connect
    for writer in writers:
        writer.transport.abort()
    await asyncio.sleep(0)


@pytest.fixture
async def loop_errors() -> AsyncIterator[list[dict[str, Any]]]:
    """Nothing may reach the loop's exception handler: there, errors of callbacks would go unnoticed."""
    found: list[dict[str, Any]] = []

    def note(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        # The test's own clients: a stream that was reset and that nobody asked for its end.
        if isinstance(context.get("exception"), ConnectionError) and type(context.get("future")) is asyncio.Future:
            return
        found.append(context)

    asyncio.get_running_loop().set_exception_handler(note)
    yield found
    assert not found


@pytest.fixture
def settled(harness: Harness) -> Callable[..., Awaitable[None]]:
    """Returns once nothing of any request is left in the gateway; fails when something stays.

    clients: whether the clients' connections are gone, too.
    """

    async def check(*, clients: bool = True) -> None:
        gateway = harness.gateway
        assert gateway is not None
        proxy = gateway.proxy
        pools = gateway.pools.all().values()
        states = {state for pool in pools for state in pool.endpoints}

        def left() -> dict[str, object]:
            connector = proxy.connector
            found: dict[str, object] = {
                "exchanges": proxy.in_flight,
                "users of the runtime": gateway.runtime.users,
                "tasks": len(proxy._tasks),
                "copies": proxy.mirrors.running,
                "queues for connections": sum(len(queue) for queue in connector._queues.values()),
                "active": {state.authority: state.active for state in states if state.active},
                "connections that are not idle": connector.open_connections - sum(len(state.idle) for state in states),
                "miscounted connections": sum(state.connections for state in states) - connector.open_connections,
                "places in bulkheads": sum(
                    pool.limiter.running + pool.limiter.pending for pool in pools if pool.limiter
                ),
                "waiting for endpoints": sum(len(pool._waiters) for pool in pools),
            }
            if clients:
                found["client connections"] = len(proxy.connections)
            return {name: value for name, value in found.items() if value}

        try:
            await until(lambda: not left(), 6.0)
        except TimeoutError:
            pytest.fail(f"left behind: {left()}")

    return check
