"""One open door: its sockets, and which protocol each connection to it gets."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from nexus_core.snapshot import Listener
from nexus_wire.client_hello import Hello
from nexus_wire.clock import Clock
from nexus_wire.server import ServerOptions
from nexus_wire.tls import INTERNAL_ERROR, UNRECOGNIZED_NAME, Choice, Ends, Failure, PassesOn, Refuses, TlsListener

from nexus_gateway.edge.listeners import plans
from nexus_gateway.edge.listeners.plans import Door, Front, Site
from nexus_gateway.edge.tls.serving import Shown
from nexus_gateway.edge.workers.places import Listening, Place


class Datagrams(Protocol):
    """The clients of one UDP socket."""

    def close(self) -> None:
        """Take nothing more."""
        ...


class Host(Protocol):
    """Who serves what comes in. clock, max_connections: of all doors together."""

    clock: Clock
    max_connections: int

    def options(self, site: str) -> ServerOptions:
        """Return the options of a site's connections. site: one that `sites` named."""
        ...

    def sites(self, sites: Mapping[str, Site], admissions: Mapping[str, object]) -> None:
        """Take note of all sites there are, by key, and what clients prove there: connections to others, and those that proved
        something else, are asked to leave."""
        ...

    def tls_failed(self, failure: Failure, peer: str, words: str) -> None:
        """A connection broke over TLS."""
        ...

    def directory(self) -> Ends | None:
        """Return what TLS clients get whom no listener serves; None for nothing."""
        ...

    def connection(self, listener: Listener, server_name: str = "", *, tls: bool = False) -> asyncio.Protocol:
        """Return what passes a connection's bytes on. tls: whether they are TLS that was not ended."""
        ...

    def datagrams(self, bound: socket.socket, listener: Callable[[], Listener]) -> Datagrams:
        """Pass on what comes to a socket, which it owns from here on. listener: asked for each datagram."""
        ...


class OpenDoor:
    """plan: what is served there now. port: the one that is bound."""

    def __init__(self, plan: Door, host: Host) -> None:
        self.plan = plan
        self.port = plan.port
        self._host = host
        self._shown: Mapping[str, Shown] = {}
        self._listening: Listening | None = None
        self._tls = TlsListener(None, host.clock, None, host.tls_failed, max_handshakes=host.max_connections)
        self._make: Callable[[], asyncio.BaseProtocol] = _Refusal

    def _receive(self, bound: socket.socket) -> Datagrams:
        return self._host.datagrams(bound, lambda: self.plan.listeners[0])

    def __call__(self) -> asyncio.BaseProtocol:
        """Return the protocol of a new connection: a door is the protocol factory of its sockets."""
        return self._make()

    async def open(self, place: Place) -> None:
        """Bind; accept nothing yet. Raises OSError."""
        plan = self.plan
        if plan.family == "udp":
            self._listening = await place.receive(self._receive, plan.hosts, plan.port)
        else:
            self._listening = await place.listen(plan.key, self, plan.hosts, plan.port)
        self.port = self._listening.port

    def follow(self, plan: Door, shown: Mapping[str, Shown]) -> None:
        """Serve this plan from the next connection on. shown: by `Front.key`, of all doors."""
        host = self._host
        self.plan = plan
        self._shown = shown
        if plan.family == "http":
            options = host.options(plan.key)
            self._make = options.connection
        elif plan.family == "tls":
            directory = host.directory() if plan.key == plans.SECURE else None
            self._tls.ends = directory
            self._tls.choose = self._choose if plan.fronts or directory is None else None
            self._make = self._tls
        elif plan.family == "tcp":
            listener = plan.listeners[0]
            self._make = lambda: host.connection(listener)

    def _choose(self, hello: Hello) -> Choice:
        front = self.plan.front(hello.server_name)
        if front is None:
            if self._tls.ends is not None:
                return self._tls.ends
            # Clients of HTTPS are told why; those of other protocols know the end alone, and wait for no words of TLS.
            http = all(front.http for front in self.plan.fronts.values())
            return Refuses(UNRECOGNIZED_NAME) if http else Refuses()
        host, name = self._host, hello.server_name
        if not front.ends:
            return PassesOn(lambda: host.connection(front.listeners[0], name, tls=True))
        shown = self._shown.get(front.key)
        if shown is None:
            return Refuses(INTERNAL_ERROR) if front.http else Refuses()
        return Ends(shown.context(name), lambda protocol: self._ended(front, name, protocol))

    def _ended(self, front: Front, name: str, protocol: str | None) -> asyncio.Protocol:
        if front.http:
            return self._host.options(front.key).connection(protocol)
        return self._host.connection(front.listeners[0], name)

    async def accept(self) -> None:
        """Accept from here on. A second call has no effect."""
        if self._listening is not None:
            await self._listening.accept()

    def stop(self) -> None:
        """Accept nothing more."""
        if self._listening is not None:
            self._listening.close()

    async def close(self) -> None:
        """Accept nothing more, and let go of the port."""
        self.stop()
        if self._listening is not None:
            await self._listening.release()
            self._listening = None


class _Refusal(asyncio.Protocol):
    """Ends a connection at once."""

    def connection_made(self, transport: Any) -> None:
        transport.abort()
