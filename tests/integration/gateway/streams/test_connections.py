"""TCP connections through the gateway, with real sockets on both sides."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from nexus_gateway.edge.streams.testing import Lab, echo, route, upstream

Peers = Callable[..., Awaitable[int]]


async def test_bytes_go_both_ways(lab: Lab, peers: Peers, loop_errors: list[Any]) -> None:
    one = upstream("echo", await peers(echo))
    lab.swap([route("echo", one)], [one])
    sent = bytes(range(256)) * 10_000
    assert await lab.ask(sent) == sent
    await lab.settled()
