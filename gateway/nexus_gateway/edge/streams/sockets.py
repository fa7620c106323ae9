"""What is asked of the sockets under transports: to notice dead peers, and to reset instead of closing."""

from __future__ import annotations

import contextlib
import socket
import struct
from typing import Any

KEEPALIVE_S = 60
"""A connection that is silent for so long is asked whether its peer is still there,"""
PROBE_S = 10
"""again so often,"""
PROBES = 6
"""and given up after so many questions without an answer: two minutes after a machine went dark."""

_AT_ONCE = struct.pack("ii", 1, 0)


def keep_alive(transport: Any) -> None:
    """Have the kernel notice a peer that is gone without a word."""
    found = transport.get_extra_info("socket")
    if found is None:
        return
    # Best effort: a peer that left already shows itself by other means.
    with contextlib.suppress(OSError):
        found.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in (("TCP_KEEPIDLE", KEEPALIVE_S), ("TCP_KEEPINTVL", PROBE_S), ("TCP_KEEPCNT", PROBES)):
            option = getattr(socket, name, None)  # not everywhere
            if option is not None:
                found.setsockopt(socket.IPPROTO_TCP, option, value)


def reset(transport: Any) -> None:
    """Close at once with a reset, so that the peer does not take what it has for the whole."""
    found = transport.get_extra_info("socket")
    if found is not None:
        # Closed already: there is nobody left to be told.
        with contextlib.suppress(OSError):
            found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
    transport.abort()
