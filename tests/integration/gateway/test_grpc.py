"""gRPC through the gateway, with grpcio's client and server: all four kinds of calls, metadata, deadlines, cancellation, errors."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import grpc.aio
import pytest
from nexus_core.snapshot import Timeouts
from nexus_gateway.testing import Harness, route, rule, simple, snapshot, until, upstream

from .grpc_peers import Client, Echo, Service

Start = Callable[..., Awaitable[Client]]


@pytest.fixture
async def echo() -> AsyncIterator[Echo]:
    yield Echo()


@pytest.fixture
async def service(echo: Echo) -> AsyncIterator[Service]:
    made = Service(echo)
    await made.start()
    yield made
    await made.stop()


@pytest.fixture
async def call(harness: Harness, service: Service) -> AsyncIterator[Client]:
    """A client of the gateway, which passes everything on to the service."""
    gateway = await harness.start(simple(service.port, protocol="h2"))
    client = Client(gateway.port)
    yield client
    await client.close()


async def failure(calling: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await calling
    return raised.value


async def test_a_unary_call_brings_message_and_metadata_both_ways(call: Client, echo: Echo) -> None:
    calling = call.unary(b"hello", metadata=(("x-say", "a b"), ("x-bin-bin", b"\x00\xff\x10")))
    assert await calling == b"olleh"
    first, last = await calling.initial_metadata(), await calling.trailing_metadata()
    assert (first["x-first"], first["x-first-bin"]) == ("1", b"\x01\x02")
    assert (last["x-last"], last["x-last-bin"]) == ("2", b"\xfe\x00")
    assert await calling.code() is grpc.StatusCode.OK
    (seen,) = echo.seen
    assert (seen["x-say"], seen["x-bin-bin"]) == ("a b", b"\x00\xff\x10")
    assert len(seen["x-request-id"]) == 32
    assert seen["x-forwarded-for"] == "127.0.0.1"
