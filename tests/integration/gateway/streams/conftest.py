"""Streams on a loop of their own, and ports where nobody is."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Iterator

import pytest
import uvloop
from nexus_gateway.edge.streams.testing import Lab


@pytest.fixture
async def lab() -> AsyncIterator[Lab]:
    made = Lab()
    await made.listen()
    yield made
    await made.close()


@pytest.fixture
def refused_port() -> Iterator[Callable[[], int]]:
    """Finds ports where nobody listens, and that nobody else is given while the test runs."""
    held: list[socket.socket] = []

    def find() -> int:
        held.append(socket.socket())
        held[-1].setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held[-1].bind(("127.0.0.1", 0))
        return int(held[-1].getsockname()[1])

    yield find
    for each in held:
        each.close()


@pytest.hookimpl(optionalhook=True)
def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Each test runs on both loops: their transports differ in how they pause, end and reset."""
    return {"uvloop": uvloop.new_event_loop, "asyncio": asyncio.new_event_loop}
