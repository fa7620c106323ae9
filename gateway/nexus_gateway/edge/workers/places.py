"""Where one gateway process stands: what it listens on, where its admin API is, which memory its cells are in.

`Place.alone` makes all of it, as a gateway without workers does; `Place.inherited` takes what a supervisor prepared. The rest of the
gateway does not know which.
"""

from __future__ import annotations

import asyncio
import mmap
import os
import socket
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Protocol

from aiohttp import web

from nexus_gateway.edge.workers.brokers import Broker
from nexus_gateway.edge.workers.handover import Handover
from nexus_gateway.edge.workers.memory import SharedMemory
from nexus_gateway.edge.workers.sockets import BACKLOG, bind_datagrams

CELLS_BYTES = 4 * 2**20
"""Room for the shared state of about 20,000 endpoints and as many limits; untouched pages of it cost nothing."""

ProtocolFactory = Callable[[], asyncio.BaseProtocol]


@dataclass(frozen=True, slots=True)
class Place:
    """plain, secure: what was inherited; None for none. admin: `(host, port)` to bind, or the path of a Unix socket. broker: lends the
    sockets of further ports; None where this process binds them itself.

    cells, lock, worker: for `Cells(cells, lock=lock, worker=worker)`. index: 0..workers-1. column: for `Bulkheads`.
    """

    plain: socket.socket | None
    secure: socket.socket | None
    admin: tuple[str, int] | str
    cells: bytearray | memoryview
    lock: Callable[[], AbstractContextManager[object]] = nullcontext
    worker: int = 0
    index: int = 0
    workers: int = 1
    column: int = 0
    memory: SharedMemory | None = field(default=None, repr=False)
    broker: Broker | None = field(default=None, repr=False)

    @property
    def inherits(self) -> bool:
        """Whether its sockets were open before this process and stay so after it."""
        return self.broker is not None or self.plain is not None

    @property
    def inherited_doors(self) -> dict[str, socket.socket]:
        """The sockets that were open before this process, by `Door.key`."""
        found = {"listen": self.plain, "tls-listen": self.secure}
        return {key: each for key, each in found.items() if each is not None}

    @classmethod
    def alone(cls, admin: tuple[str, int]) -> Place:
        """Return the place of a process that is the whole gateway."""
        # Not a bytearray: that one writes its zeros, so that all of its 4 MB are resident from the start.
        return cls(None, None, admin, memoryview(mmap.mmap(-1, CELLS_BYTES)))

    @classmethod
    def inherited(cls, handover: Handover) -> Place:
        """Return the place that a supervisor prepared. Takes over its descriptors."""
        memory = SharedMemory(handover.memory)
        return cls(
            socket.socket(fileno=handover.plain) if handover.plain is not None else None,
            socket.socket(fileno=handover.secure) if handover.secure is not None else None,
            handover.admin,
            memory.buffer,
            memory.lock,
            handover.serial,
            handover.index,
            handover.workers,
            handover.column,
            memory,
            Broker(handover.broker),
        )

    async def listen(self, key: str, factory: ProtocolFactory, hosts: tuple[str, ...], port: int) -> Listening:
        """Return what will serve the connections to a port, once it is told to accept. key: of the door; the two that settings name
        are inherited where there is a supervisor, which is asked for the others. Raises OSError."""
        inherited = self.inherited_doors.get(key)
        if inherited is not None:
            return Listening((await _listen(factory, inherited),))
        if self.broker is not None:
            broker = self.broker
            found = await broker.ask("tcp", hosts, port)
            servers = tuple([await _listen(factory, each) for each in found])
            return Listening(servers, release=lambda: broker.release("tcp", port))
        return Listening((await _listen(factory, (hosts, port)),))

    async def receive(self, take: Callable[[socket.socket], Closes], hosts: tuple[str, ...], port: int) -> Listening:
        """Return what will take the datagrams that come to a port, once it is told to accept. take: given each socket then.

        Raises OSError."""
        broker = self.broker
        if broker is None:
            return Listening((), tuple(bind_datagrams(hosts, port)), take)
        found = await broker.ask("udp", hosts, port)
        return Listening((), tuple(found), take, lambda: broker.release("udp", port))

    async def serve_admin(self, runner: web.AppRunner) -> int:
        """Serve the admin API, return its port; 0 on a Unix socket. Raises OSError."""
        if isinstance(self.admin, str):
            await web.UnixSite(runner, self.admin).start()
            return 0
        host, port = self.admin
        await web.TCPSite(runner, host, port, reuse_address=True).start()
        return int(runner.addresses[0][1])


class Closes(Protocol):
    """Whatever serves a socket of datagrams."""

    def close(self) -> None:
        """Take nothing more, and close the socket."""
        ...


class Listening:
    """The sockets of one port. port: the bound one."""

    def __init__(
        self,
        servers: tuple[asyncio.Server, ...],
        sockets: tuple[socket.socket, ...] = (),
        take: Callable[[socket.socket], Closes] | None = None,
        release: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """sockets: of datagrams; take: what serves them."""
        self._servers = servers
        self._sockets = sockets
        self._take = take
        self._taken: list[Closes] = []
        self._release = release
        self._accepting = False
        first = sockets[0] if sockets else servers[0].sockets[0]
        self.port: int = first.getsockname()[1]

    async def accept(self) -> None:
        """Accept from here on. A second call has no effect."""
        if self._accepting:
            return
        self._accepting = True
        for server in self._servers:
            await server.start_serving()
        if self._take is not None:
            self._taken = [self._take(each) for each in self._sockets]

    def close(self) -> None:
        """Accept and receive nothing more."""
        for server in self._servers:
            server.close()
        for each in self._taken or self._sockets:
            each.close()
        self._taken, self._sockets = [], ()

    async def release(self) -> None:
        """Tell whoever lent the sockets that they are not needed any more."""
        if self._release is not None:
            await self._release()


async def _listen(factory: ProtocolFactory, at: tuple[tuple[str, ...], int] | socket.socket) -> asyncio.Server:
    loop = asyncio.get_running_loop()
    if isinstance(at, socket.socket):
        return await loop.create_server(factory, sock=at, backlog=BACKLOG, start_serving=False)
    hosts, port = at
    server = await loop.create_server(
        factory, list(hosts), port, backlog=BACKLOG, reuse_address=True, start_serving=False
    )
    for each in server.sockets:
        # An address is its process's own from here on, not from when it begins to accept: what connects meanwhile waits.
        with socket.socket(fileno=os.dup(each.fileno())) as listening:
            listening.listen(BACKLOG)
    return server
