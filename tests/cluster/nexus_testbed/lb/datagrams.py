"""A UDP proxy in user space: one socket per address and port, and one more for each client that is talking.

UDP has no connections, so a client is told from others by its address and port, and stays with one endpoint as long as it
goes on talking and the endpoint is ready, as kube-proxy does it with the kernel's connection tracking. A datagram that
nobody can take is dropped without a word.
"""

from __future__ import annotations

import asyncio
import random
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import cast

from nexus_testbed.lb.proxy import Address

IDLE_S = 30.0
"""How long a client may be silent before it is forgotten: nf_conntrack_udp_timeout's default."""
MAX_CLIENTS = 2048
"""Per listener; beyond it the one that was silent longest is forgotten."""


class _Session(asyncio.DatagramProtocol):
    """One client's socket towards its endpoint."""

    def __init__(self, listener: Listener, client: Address, endpoint: Address) -> None:
        self._listener, self._client, self.endpoint = listener, client, endpoint
        self._transport: asyncio.DatagramTransport | None = None
        self._waiting: list[bytes] = []
        self.active_at = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.DatagramTransport", transport)
        for data in self._waiting:
            self._transport.sendto(data)
        self._waiting.clear()

    def send(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.sendto(data)
        elif len(self._waiting) < 64:  # the socket is being made: a matter of one turn of the loop
            self._waiting.append(data)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self._listener.answer(self._client, data)

    def error_received(self, exc: Exception) -> None:
        self._listener.forget(self._client, self)  # the endpoint's port is closed; the next datagram may go elsewhere

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


class Listener(asyncio.DatagramProtocol):
    """Receives on one address and passes each datagram on to a ready endpoint, and its answers back."""

    def __init__(self, find_endpoints: Callable[[], Sequence[Address]]) -> None:
        self._find_endpoints = find_endpoints
        self._transport: asyncio.DatagramTransport | None = None
        self._sessions: OrderedDict[Address, _Session] = OrderedDict()  # the one silent longest first
        self._making: set[asyncio.Task[None]] = set()
        self._expiry: asyncio.TimerHandle | None = None

    async def open(self, address: Address) -> None:
        """Start to listen. Raises OSError."""
        self._loop = asyncio.get_running_loop()
        await self._loop.create_datagram_endpoint(lambda: self, local_addr=address)
        self._expiry = self._loop.call_later(IDLE_S, self._expire)

    def close(self) -> None:
        """End at once; there is nothing to be finished."""
        if self._expiry is not None:
            self._expiry.cancel()
        if self._transport is not None:
            self._transport.close()
        for task in self._making:
            task.cancel()
        for session in self._sessions.values():
            session.close()
        self._sessions.clear()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        endpoints = self._find_endpoints()
        session = self._sessions.get(addr)
        if session is not None and session.endpoint not in endpoints:
            self.forget(addr, session)
            session = None
        if session is None:
            if not endpoints:
                return
            session = _Session(self, addr, random.choice(list(endpoints)))
            self._sessions[addr] = session
            task = self._loop.create_task(self._connect(addr, session))
            self._making.add(task)
            task.add_done_callback(self._making.discard)
            if len(self._sessions) > MAX_CLIENTS:
                self.forget(*next(iter(self._sessions.items())))
        session.active_at = self._loop.time()
        self._sessions.move_to_end(addr)
        session.send(data)

    async def _connect(self, client: Address, session: _Session) -> None:
        try:
            await self._loop.create_datagram_endpoint(lambda: session, remote_addr=session.endpoint)
        except OSError:
            self.forget(client, session)
        if self._sessions.get(client) is not session:
            session.close()

    def answer(self, client: Address, data: bytes) -> None:
        """Send an endpoint's datagram back to its client."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.sendto(data, client)

    def forget(self, client: Address, session: _Session) -> None:
        """End a session, if it is still the client's."""
        if self._sessions.get(client) is session:
            del self._sessions[client]
        session.close()

    def _expire(self) -> None:
        limit = self._loop.time() - IDLE_S
        while self._sessions and (oldest := next(iter(self._sessions.items())))[1].active_at <= limit:
            self.forget(*oldest)
        self._expiry = self._loop.call_later(IDLE_S / 2, self._expire)
