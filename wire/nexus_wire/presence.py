"""Which clients have left while nobody read from them.

A connection that is not read from (its upstream takes no more of the body, or too many pipelined requests wait) does not
say that its client is gone: the FIN stands behind bytes that nobody wants yet. The kernel knows all the same.
"""

from __future__ import annotations

import select
from collections.abc import Iterable

from nexus_wire.server import ServerConnection

_LEFT = getattr(select, "POLLRDHUP", 0)
"""Linux tells of a FIN behind unread bytes; where a system does not, only a reset is noticed."""


def find_left(connections: Iterable[ServerConnection]) -> list[ServerConnection]:
    """Return those whose client has closed its side or reset the connection. One system call for all of them."""
    poll = select.poll()
    by_descriptor = {}
    for connection in connections:
        socket = connection.transport.get_extra_info("socket")
        descriptor = -1 if connection.closed or socket is None else socket.fileno()
        if descriptor >= 0:
            poll.register(descriptor, _LEFT)
            by_descriptor[descriptor] = connection
    if not by_descriptor:
        return []
    # POLLHUP and POLLERR are told whether asked for or not.
    return [by_descriptor[descriptor] for descriptor, _ in poll.poll(0)]
