"""Listening sockets for several processes: one each, all on one address, which the kernel spreads connections over.

The supervisor keeps every socket open. So a connection that waits to be accepted belongs to the socket and not to a process:
when a worker dies or is replaced, its successor accepts what waits.
"""

from __future__ import annotations

import socket

BACKLOG = 1024


def bind(host: str, port: int, count: int) -> tuple[socket.socket, ...]:
    """Return `count` listening sockets on one address, non-blocking. port 0: any free one, the same for all.

    Raises OSError when somebody has the address, also when they would share it: two gateways on one port by mistake would
    each get half of the traffic.
    """
    family, _, _, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE | socket.AI_ADDRCONFIG
    )[0]
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(address)
    made: list[socket.socket] = []
    try:
        for _ in range(count):
            each = socket.socket(family, socket.SOCK_STREAM)
            made.append(each)
            each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if family == socket.AF_INET6:
                each.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            each.bind(address)
            each.listen(BACKLOG)
            each.setblocking(False)
            address = each.getsockname()
    except BaseException:
        for each in made:
            each.close()
        raise
    return tuple(made)
