"""Cluster DNS, as much of it as pods need: A records of Services and of the endpoints of headless ones.

Everything else is NXDOMAIN at once: the cluster has no uplink, and a resolver that waits for one would only slow tests.
`build_answer` is pure. Source: RFC 1035; names as in the Kubernetes DNS specification 1.1.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable, Sequence
from typing import cast

TTL_S = 1
MAX_RECORDS = 24
"""As many A records as surely fit into a 512 byte UDP answer."""
A, AAAA, ANY, IN = 1, 28, 255, 1
NOERROR, FORMERR, NXDOMAIN, NOTIMP = 0, 1, 3, 4

Lookup = Callable[[str], Sequence[str] | None]
"""Lower-case name without final dot → IPv4 addresses; None if there is no such name."""


def read_question(query: bytes) -> tuple[str, int, int]:
    """Return (name, type, end of the question). Raises ValueError for a malformed or compressed one."""
    labels, at = [], 12
    while True:
        if at >= len(query):
            raise ValueError("the question ends early")
        length = query[at]
        at += 1
        if length == 0:
            break
        if length > 63 or at + length > len(query):
            raise ValueError("bad label")
        labels.append(query[at : at + length].decode("ascii", "replace").lower())
        at += length
    if at + 4 > len(query):
        raise ValueError("the question ends early")
    kind, _ = struct.unpack_from("!HH", query, at)
    return ".".join(labels), kind, at + 4


def build_answer(query: bytes, lookup: Lookup) -> bytes | None:
    """Return the answer to one DNS message, None for what deserves none (too short, or an answer itself)."""
    if len(query) < 12:
        return None
    ident, flags, questions = struct.unpack_from("!HHH", query)
    if flags & 0x8000:
        return None
    recursion = flags & 0x0100

    def reply(code: int, question: bytes = b"", records: Sequence[bytes] = ()) -> bytes:
        head = struct.pack("!HHHHHH", ident, 0x8480 | recursion | code, 1 if question else 0, len(records), 0, 0)
        return head + question + b"".join(records)

    if (flags >> 11) & 0xF:
        return reply(NOTIMP)
    try:
        if questions != 1:
            raise ValueError("not one question")
        name, kind, end = read_question(query)
    except ValueError:
        return reply(FORMERR)
    question = query[12:end]
    addresses = lookup(name)
    if addresses is None:
        return reply(NXDOMAIN, question)
    if kind not in (A, ANY):
        return reply(NOERROR, question)
    records = [
        struct.pack("!HHHIH", 0xC00C, A, IN, TTL_S, 4) + bytes(int(part) for part in address.split("."))
        for address in addresses[:MAX_RECORDS]
    ]
    return reply(NOERROR, question, records)


class Server(asyncio.DatagramProtocol):
    """Answers each datagram at once."""

    def __init__(self, lookup: Lookup) -> None:
        self._lookup = lookup

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.DatagramTransport", transport)  # uvloop's is one in all but name

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        if (answer := build_answer(data, self._lookup)) is not None:
            self._transport.sendto(answer, addr)
