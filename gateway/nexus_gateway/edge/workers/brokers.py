"""Sockets of ports that come and go, for workers: lent by the supervisor, who keeps each of them open.

So a connection that waits to be accepted belongs to the socket and not to a worker, for these ports as for the two that settings
name: whoever takes a worker's place accepts what waits. And a port is bound once, for all workers or for none.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import socket
from typing import Any

ANSWER_S = 10.0
_MAX_BYTES = 4096
_MAX_SOCKETS = 8


class Broker:
    """A worker's side. One request at a time, over a socket that keeps messages apart."""

    def __init__(self, descriptor: int) -> None:
        """descriptor: of a SOCK_SEQPACKET socket to the supervisor, owned from here on."""
        self._socket = socket.socket(fileno=descriptor)
        self._socket.setblocking(True)
        self._socket.settimeout(ANSWER_S)
        self._turn = asyncio.Lock()

    async def ask(self, kind: str, hosts: tuple[str, ...], port: int) -> list[socket.socket]:
        """Return the sockets of a port, one for each host. kind: `tcp` (listening already) or `udp`. Raises OSError."""
        answer, descriptors = await self._say({"kind": kind, "hosts": list(hosts), "port": port})
        if "errno" in answer:
            code = int(answer["errno"])
            raise OSError(code, os.strerror(code))
        found = [socket.socket(fileno=each) for each in descriptors]
        for each in found:
            each.setblocking(False)
        return found

    async def release(self, kind: str, port: int) -> None:
        """Say that this worker needs a port no more. Raises nothing: a supervisor that is gone has nothing open."""
        try:
            await self._say({"kind": kind, "port": port, "release": True})
        except OSError:
            return

    async def _say(self, message: dict[str, Any]) -> tuple[dict[str, Any], list[int]]:
        async with self._turn:
            return await asyncio.to_thread(self._exchange, json.dumps(message).encode())

    def _exchange(self, message: bytes) -> tuple[dict[str, Any], list[int]]:
        self._socket.send(message)
        data, descriptors, _, _ = socket.recv_fds(self._socket, _MAX_BYTES, _MAX_SOCKETS)
        if not data:
            raise OSError(errno.EPIPE, "the supervisor is gone")
        return json.loads(data), descriptors

    def close(self) -> None:
        """Close this end."""
        self._socket.close()
