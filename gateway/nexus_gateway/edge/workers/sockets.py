"""Listening sockets for several processes: one each, all on one address, which the kernel spreads connections over.

The supervisor keeps every socket open. So a connection that waits to be accepted belongs to the socket and not to a process:
when a worker dies or is replaced, its successor accepts what waits.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence

BACKLOG = 1024


def bind(host: str, port: int, count: int, kind: int = socket.SOCK_STREAM) -> tuple[socket.socket, ...]:
    """Return `count` listening sockets on one address, non-blocking; of datagrams with kind SOCK_DGRAM. port 0: any free one, the same
    for all.

    Raises OSError when somebody has the address, also when they would share it: two gateways on one port by mistake would
    each get half of the traffic.
    """
    family, _, _, _, address = socket.getaddrinfo(host, port, type=kind, flags=socket.AI_PASSIVE)[0]
    streams = kind == socket.SOCK_STREAM
    with socket.socket(family, kind) as probe:
        if streams:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        probe.bind(address)
    made: list[socket.socket] = []
    try:
        for _ in range(count):
            each = socket.socket(family, kind)
            made.append(each)
            if streams:
                each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if count > 1 or streams:
                each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if family == socket.AF_INET6:
                each.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            each.bind(address)
            if streams:
                each.listen(BACKLOG)
            each.setblocking(False)
            address = each.getsockname()
    except BaseException:
        for each in made:
            each.close()
        raise
    return tuple(made)


def bind_datagrams(hosts: Sequence[str], port: int) -> list[socket.socket]:
    """Return one bound socket for each host, for a gateway of one process. Raises OSError; nothing is left open then."""
    made: list[socket.socket] = []
    try:
        for host in hosts:
            made += bind(host, made[0].getsockname()[1] if made else port, 1, socket.SOCK_DGRAM)
    except BaseException:
        for each in made:
            each.close()
        raise
    return made


def every_address() -> tuple[str, ...]:
    """Return the hosts that stand for every address of this machine: of IPv4, and of IPv6 where there is one."""
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            probe.bind(("::", 0))
    except OSError:
        return ("0.0.0.0",)
    return ("0.0.0.0", "::")
