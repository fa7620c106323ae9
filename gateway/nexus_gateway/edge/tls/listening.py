"""The TLS side of a gateway's listener: whose certificates, which connections, and what is told of those that break."""

from __future__ import annotations

import logging

from nexus_wire.server import ServerConnection, ServerOptions
from nexus_wire.tls import Failure, TlsListener

from nexus_gateway.edge.measurements import Measurements
from nexus_gateway.edge.tls.store import Certificates
from nexus_gateway.telemetry import names

log = logging.getLogger("nexus.gateway.tls")


def build_listener(
    certificates: Certificates, options: ServerOptions, measurements: Measurements, max_connections: int
) -> TlsListener:
    """Return the protocol factory of the TLS listener. max_connections: handshakes at once too, 0 for any number."""

    def failed(failure: Failure, peer: str, words: str) -> None:
        measurements.tally(names.TLS_FAILURES, failure.value).inc()
        # Anybody can cause these at any rate: a line for each is for whoever looks for one.
        log.debug("TLS with %s failed: %s%s", peer, failure.value, f" ({words})" if words else "")

    return TlsListener(
        certificates.context,
        options.clock,
        lambda protocol: ServerConnection(options),
        failed,
        max_handshakes=max_connections,
    )
