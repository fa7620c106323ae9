"""A small service and a small client built on the wire alone, as services use it. Both event loops run every test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import uvloop
from nexus_wire.clock import Clock
from nexus_wire.server import ServerConnection
from nexus_wire.testing import App, Caller


@pytest.fixture
async def clock() -> AsyncIterator[Clock]:
    made = Clock(asyncio.get_running_loop())
    yield made
    made.stop()


@pytest.fixture(autouse=True)
async def loop_errors() -> AsyncIterator[list[dict[str, Any]]]:
    """Nothing may reach the loop's exception handler: there, errors of callbacks would go unnoticed."""
    found: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: found.append(context))
    yield found
    assert not found


@pytest.fixture
async def start(clock: Clock) -> AsyncIterator[Callable[..., Any]]:
    """Starts the service; options as of `ServerOptions`."""
    servers: list[asyncio.Server] = []
    apps: list[App] = []

    async def begin(**options: Any) -> App:
        app = App(clock, **options)
        server = await asyncio.get_running_loop().create_server(lambda: ServerConnection(app.options), "127.0.0.1", 0)
        app.port = server.sockets[0].getsockname()[1]
        servers.append(server)
        apps.append(app)
        return app

    yield begin
    for app in apps:
        app.close()
    for server in servers:
        server.close()
        await server.wait_closed()
    await asyncio.sleep(0.01)


@pytest.fixture
async def caller() -> AsyncIterator[Caller]:
    made = Caller()
    yield made
    for connection in tuple(made.connections):
        connection.abort()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not made.connections


@pytest.fixture
async def scripted() -> AsyncIterator[Callable[..., Any]]:
    """Starts a server that says what the test says: `serve(reader, writer)` for each connection."""
    servers: list[asyncio.Server] = []
    tasks: set[asyncio.Task[None]] = set()

    async def begin(serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Any]) -> int:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                await serve(reader, writer)
            except (ConnectionError, asyncio.IncompleteReadError):
                pass  # the client may leave at any time
            finally:
                writer.close()

        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.create_task(handle(reader, writer))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

        server = await asyncio.start_server(accept, "127.0.0.1", 0)
        servers.append(server)
        return int(server.sockets[0].getsockname()[1])

    yield begin
    for server in servers:
        server.close()
    for task in tuple(tasks):
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@pytest.hookimpl(optionalhook=True)
def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"uvloop": uvloop.new_event_loop, "asyncio": asyncio.new_event_loop}
