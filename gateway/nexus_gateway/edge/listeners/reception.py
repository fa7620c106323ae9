"""What is behind the doors: HTTP for the proxy, bytes and datagrams for the streams, certificates from a directory."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from nexus_core.snapshot import Listener
from nexus_wire.server import ServerOptions
from nexus_wire.tls import Ends, Failure

from nexus_gateway.edge.listeners import plans
from nexus_gateway.edge.listeners.doors import Datagrams
from nexus_gateway.edge.streams.connections import TcpConnection
from nexus_gateway.telemetry import names

if TYPE_CHECKING:
    from nexus_gateway.edge.proxy import Proxy
    from nexus_gateway.edge.streams.service import Streams
    from nexus_gateway.edge.tls.store import Certificates

log = logging.getLogger("nexus.gateway.tls")


class Reception:
    """A `doors.Host`. certificates: of a directory, None without one."""

    def __init__(self, proxy: Proxy, streams: Streams, certificates: Certificates | None = None) -> None:
        self._proxy = proxy
        self._streams = streams
        self._measurements = proxy.measurements
        self.clock = proxy.clock
        self.max_connections = proxy.settings.max_connections
        self._directory = (
            Ends(certificates.context, lambda protocol: proxy.options(plans.CERTIFICATES).connection(protocol))
            if certificates is not None
            else None
        )

    def options(self, site: str) -> ServerOptions:
        """See `Host`."""
        return self._proxy.options(site)

    def sites(self, sites: Mapping[str, plans.Site], admissions: Mapping[str, object]) -> None:
        """See `Host`."""
        self._proxy.sites(sites, admissions)

    def tls_failed(self, failure: Failure, peer: str, words: str) -> None:
        """Count it. Anybody can cause these at any rate: a line for each is for whoever looks for one."""
        self._measurements.tally(names.TLS_FAILURES, failure.value).inc()
        log.debug("TLS with %s failed: %s%s", peer, failure.value, f" ({words})" if words else "")

    def directory(self) -> Ends | None:
        """See `Host`."""
        return self._directory

    def connection(self, listener: Listener, server_name: str = "", *, tls: bool = False) -> asyncio.Protocol:
        """See `Host`."""
        plan = self._proxy.runtime.streams.connection((listener.id,), server_name)
        return TcpConnection(
            self._streams, plan, listener.id, protocol="tls" if tls else "tcp", server_name=server_name
        )

    def datagrams(self, bound: socket.socket, listener: Callable[[], Listener]) -> Datagrams:
        """See `Host`."""
        # Here: few gateways have UDP.
        from nexus_gateway.edge.streams.datagrams import UdpListener

        proxy = self._proxy
        return UdpListener(
            self._streams, bound, lambda: proxy.runtime.streams.datagrams((listener().id,)), listener().id
        )
