"""Sockets of ports that come and go, for workers: lent by the supervisor, who keeps each of them open.

So a connection that waits to be accepted belongs to the socket and not to a worker, for these ports as for the two that settings
name: whoever takes a worker's place accepts what waits. And a port is bound once, for all workers or for none.
"""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import os
import socket
from typing import Any

from nexus_gateway.edge.workers.sockets import bind

log = logging.getLogger("nexus.gateway.workers")

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
            each.set_inheritable(False)
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


class Lender:
    """The supervisor's side. Its sockets are bound for all workers at once; each worker is lent its own.

    A port is closed here when every place has said that it needs it no more; a worker that ends says nothing, since its successor
    goes on with what waits at its sockets.
    """

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._lent: dict[tuple[str, int], list[tuple[socket.socket, ...]]] = {}
        self._users: dict[tuple[str, int], set[int]] = {}
        self._ends: set[socket.socket] = set()

    def attend(self, end: socket.socket, index: int) -> None:
        """Serve a worker. end: our side of its socket, owned from here on. index: its place."""
        end.setblocking(False)
        self._ends.add(end)
        asyncio.get_running_loop().add_reader(end.fileno(), self._asked, end, index)

    def _asked(self, end: socket.socket, index: int) -> None:
        try:
            data = end.recv(_MAX_BYTES)
            if data:
                self._answer(end, index, json.loads(data))
                return
        except BlockingIOError:
            return
        except (OSError, ValueError, KeyError, TypeError):
            log.exception("worker %d asked for sockets in a way that is none", index)
        self.leave(end)

    def _answer(self, end: socket.socket, index: int, message: dict[str, Any]) -> None:
        key = (str(message["kind"]), int(message["port"]))
        if message.get("release"):
            self._release(key, index)
            socket.send_fds(end, [b"{}"], [])
            return
        try:
            mine = self._lend(key, message["hosts"], index)
        except OSError as error:
            socket.send_fds(end, [json.dumps({"errno": error.errno or errno.EIO}).encode()], [])
            return
        socket.send_fds(end, [b"{}"], [each.fileno() for each in mine])

    def _lend(self, key: tuple[str, int], hosts: list[str], index: int) -> list[socket.socket]:
        found = self._lent.get(key)
        if found is None:
            kind = socket.SOCK_DGRAM if key[0] == "udp" else socket.SOCK_STREAM
            found = []
            try:
                for host in hosts:
                    found.append(bind(host, key[1], self._workers, kind))
            except BaseException:
                _close(found)
                raise
            self._lent[key] = found
            self._users[key] = set()
        self._users[key].add(index)
        return [each[index] for each in found]

    def _release(self, key: tuple[str, int], index: int) -> None:
        users = self._users.get(key)
        if users is None:
            return
        users.discard(index)
        if not users:
            _close(self._lent.pop(key))
            del self._users[key]

    def leave(self, end: socket.socket) -> None:
        """Serve a worker no more: it ended."""
        if end in self._ends:
            self._ends.discard(end)
            asyncio.get_running_loop().remove_reader(end.fileno())
            end.close()

    def close(self) -> None:
        """Close everything."""
        for end in tuple(self._ends):
            self.leave(end)
        for found in self._lent.values():
            _close(found)
        self._lent.clear()
        self._users.clear()


def _close(found: list[tuple[socket.socket, ...]]) -> None:
    for each in found:
        for one in each:
            one.close()
