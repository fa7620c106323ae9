"""Under which address others reach this process, when nobody said so."""

from __future__ import annotations

import socket
from urllib.parse import urlsplit

_ANY = ("0.0.0.0", "::", "")


def find_address(host: str, consul_url: str | None) -> str:
    """Return the address listened on, else that of the interface that leads to Consul, else the loopback.

    host: as listened on. Without Consul the services are processes of one machine. Raises OSError: no route.
    """
    if host not in _ANY:
        return host
    parts = urlsplit(consul_url or "")
    if not parts.hostname:
        return "127.0.0.1"
    family, _, _, _, target = socket.getaddrinfo(parts.hostname, parts.port or 8500, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect(target)  # a datagram socket: chooses the route, sends nothing
        return str(probe.getsockname()[0])
