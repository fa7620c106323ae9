"""Clients that leave before their answer: noticed, and called off upstream, however they go."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from nexus_core.snapshot import Timeouts
from nexus_gateway.testing import Harness, simple, until

Peers = Callable[..., Awaitable[int]]
Clients = Callable[..., Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]
Settled = Callable[..., Awaitable[None]]

NO_DEADLINE = Timeouts(request_s=0.0)
CHUNK = b"x" * 65536


async def test_a_client_that_leaves_while_its_body_is_not_read_is_noticed(
    harness: Harness, peers: Peers, clients: Clients, settled: Settled
) -> None:
    """The upstream takes nothing, so nobody reads from the client: its FIN stands behind what it sent."""
    stuck = asyncio.Event()

    async def take_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await stuck.wait()

    gateway = await harness.start(simple(await peers(take_nothing, limit=1024), timeouts=NO_DEADLINE))
    _, writer = await clients(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000000\r\n\r\n")
    paused = gateway.proxy.options("listen").paused

    async def fill() -> bool:
        if not paused:
            writer.write(CHUNK)
            await writer.drain()
        return bool(paused)

    await until(fill)
    assert gateway.proxy.in_flight == 1
    writer.close()
    await until(lambda: gateway.proxy.in_flight == 0, timeout_s=5.0)
    await settled()
    assert not paused
    stuck.set()


async def test_a_client_that_leaves_with_pipelined_requests_unread_is_noticed(
    harness: Harness, peers: Peers, clients: Clients, settled: Settled
) -> None:
    called_off = asyncio.Event()

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        assert await reader.read() == b""
        called_off.set()

    gateway = await harness.start(simple(await peers(say_nothing), timeouts=NO_DEADLINE))
    _, writer = await clients(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n" * 5000)
    await until(lambda: gateway.proxy.options("listen").paused)
    writer.close()
    async with asyncio.timeout(5.0):
        await called_off.wait()
    await settled()


@pytest.mark.parametrize("close", ["half", "full"])
async def test_a_client_that_closes_its_side_has_left(
    harness: Harness, peers: Peers, clients: Clients, settled: Settled, close: str
) -> None:
    """As with nginx and Envoy: docs/reference/gateway-settings.md says so. Half-closed cannot be told from gone."""
    begun, called_off = asyncio.Event(), asyncio.Event()

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        begun.set()
        assert await reader.read() == b""
        called_off.set()

    await harness.start(simple(await peers(say_nothing), timeouts=NO_DEADLINE))
    reader, writer = await clients(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
    await begun.wait()
    if close == "half":
        writer.write_eof()
    else:
        writer.close()
    async with asyncio.timeout(5.0):
        await called_off.wait()
        if close == "half":
            assert await reader.read() == b""
    await settled()
