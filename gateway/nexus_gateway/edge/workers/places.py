"""Where one gateway process stands: what it listens on, where its admin API is, which memory its cells are in.

`Place.alone` makes all of it, as a gateway without workers does; `Place.inherited` takes what a supervisor prepared. The rest of the
gateway does not know which.
"""

from __future__ import annotations

import asyncio
import mmap
import os
import socket
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

from aiohttp import web

from nexus_gateway.edge.workers.handover import Handover
from nexus_gateway.edge.workers.memory import SharedMemory
from nexus_gateway.edge.workers.sockets import BACKLOG

CELLS_BYTES = 4 * 2**20
"""Room for the shared state of about 20,000 endpoints and as many limits; untouched pages of it cost nothing."""

ProtocolFactory = Callable[[], asyncio.BaseProtocol]


@dataclass(frozen=True, slots=True)
class Place:
    """plain, secure, admin: `(host, port)` to bind, or what was inherited; secure is None without a TLS listener.

    cells, lock, worker: for `Cells(cells, lock=lock, worker=worker)`. index: 0..workers-1. column: for `Bulkheads`.
    """

    plain: tuple[str, int] | socket.socket
    secure: tuple[str, int] | socket.socket | None
    admin: tuple[str, int] | str
    cells: bytearray | memoryview
    lock: Callable[[], AbstractContextManager[object]] = nullcontext
    worker: int = 0
    index: int = 0
    workers: int = 1
    column: int = 0
    memory: SharedMemory | None = field(default=None, repr=False)

    @property
    def inherits(self) -> bool:
        """Whether its sockets were open before this process and stay so after it."""
        return isinstance(self.plain, socket.socket)

    @classmethod
    def alone(cls, plain: tuple[str, int], secure: tuple[str, int] | None, admin: tuple[str, int]) -> Place:
        """Return the place of a process that is the whole gateway."""
        # Not a bytearray: that one writes its zeros, so that all of its 4 MB are resident from the start.
        return cls(plain, secure, admin, memoryview(mmap.mmap(-1, CELLS_BYTES)))

    @classmethod
    def inherited(cls, handover: Handover) -> Place:
        """Return the place that a supervisor prepared. Takes over its descriptors."""
        memory = SharedMemory(handover.memory)
        return cls(
            socket.socket(fileno=handover.plain),
            socket.socket(fileno=handover.secure) if handover.secure is not None else None,
            handover.admin,
            memory.buffer,
            memory.lock,
            handover.serial,
            handover.index,
            handover.workers,
            handover.column,
            memory,
        )

    async def listen(self, factory: ProtocolFactory) -> asyncio.Server:
        """Return what will serve clients in clear, once it is told to start. Raises OSError."""
        return await _listen(factory, self.plain)

    async def listen_tls(self, factory: ProtocolFactory) -> asyncio.Server | None:
        """Return the same for clients over TLS, which the factory's protocols bring; None without a TLS listener. Raises OSError."""
        return None if self.secure is None else await _listen(factory, self.secure)

    async def serve_admin(self, runner: web.AppRunner) -> int:
        """Serve the admin API, return its port; 0 on a Unix socket. Raises OSError."""
        if isinstance(self.admin, str):
            await web.UnixSite(runner, self.admin).start()
            return 0
        host, port = self.admin
        await web.TCPSite(runner, host, port, reuse_address=True).start()
        return int(runner.addresses[0][1])


async def _listen(factory: ProtocolFactory, at: tuple[str, int] | socket.socket) -> asyncio.Server:
    loop = asyncio.get_running_loop()
    if isinstance(at, socket.socket):
        return await loop.create_server(factory, sock=at, backlog=BACKLOG, start_serving=False)
    server = await loop.create_server(factory, *at, backlog=BACKLOG, reuse_address=True, start_serving=False)
    for each in server.sockets:
        # An address is its process's own from here on, not from when it begins to accept: what connects meanwhile waits.
        with socket.socket(fileno=os.dup(each.fileno())) as listening:
            listening.listen(BACKLOG)
    return server
