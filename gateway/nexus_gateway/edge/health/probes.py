"""One probe of one endpoint: a connection of its own, a bound on time and bytes, an outcome.

Why a connection for each probe: it shows that the endpoint accepts connections, which a kept one does not.
A probe never raises because of what the other side does; what it did is in the outcome.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from nexus_core.snapshot import HealthCheck

MAX_HEAD_BYTES = 16_384
"""Of an answer to an HTTP probe; its body is not read."""
_MAX_INTERIM = 8
_STATUS_LINE = re.compile(rb"HTTP/1\.[01] ([1-5][0-9]{2})(?: [^\r\n]*)?")
_FIELD = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+:[^\r\n\x00]*")


@dataclass(frozen=True, slots=True)
class Outcome:
    """good: whether the endpoint passed. detail: why not, for logs and the admin API."""

    good: bool
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Target:
    """Where a probe goes. tls: with ALPN as the kind of probe needs it; None for plain. server_name: for SNI and verification."""

    address: str
    port: int
    tls: ssl.SSLContext | None = None
    server_name: str = ""

    @property
    def authority(self) -> str:
        """`address:port`, an IPv6 address in brackets."""
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"


Probe = Callable[[Target, HealthCheck], Awaitable[Outcome]]


class Unfit(Exception):
    """The endpoint answered, and not as it must. The text says how."""


class Stream:
    """A connection as a probe uses it: a reader and a writer whose transport is never left open."""

    __slots__ = ("reader", "writer")

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer


async def run(
    probe: Callable[[Stream, Target, HealthCheck], Awaitable[None]], target: Target, policy: HealthCheck
) -> Outcome:
    """Return the outcome of a probe on a new connection, within the policy's time. probe: returns when all is well, or raises.

    A policy without a timeout gets its interval: a probe that never ends would be the last one.
    """
    bound_s = policy.timeout_s or max(policy.interval_s, 1.0)
    try:
        async with asyncio.timeout(bound_s):
            reader, writer = await asyncio.open_connection(
                target.address,
                target.port,
                ssl=target.tls,
                server_hostname=(target.server_name or target.address) if target.tls is not None else None,
                limit=MAX_HEAD_BYTES,
            )
            try:
                await probe(Stream(reader, writer), target, policy)
            finally:
                # Nothing is worth waiting for: not the rest of a body, not a TLS goodbye from a server that hangs.
                writer.transport.abort()
    except TimeoutError:
        return Outcome(False, f"no answer within {bound_s:g} s")
    except Unfit as unfit:
        return Outcome(False, str(unfit))
    except (OSError, ssl.SSLError, EOFError, UnicodeError) as error:
        # UnicodeError: a host name that is none. EOFError: asyncio's IncompleteReadError.
        return Outcome(False, f"{type(error).__name__}: {error}")
    return Outcome(True)


async def tcp(target: Target, policy: HealthCheck) -> Outcome:
    """Good when a connection opens; over TLS, when the handshake succeeds."""
    return await run(_connected, target, policy)


async def _connected(stream: Stream, target: Target, policy: HealthCheck) -> None:
    """The connection is all that was asked for."""


async def http(target: Target, policy: HealthCheck) -> Outcome:
    """Good when a GET is answered with a status of the policy's ranges, in a valid head of HTTP/1."""
    return await run(_get, target, policy)


async def _get(stream: Stream, target: Target, policy: HealthCheck) -> None:
    host = policy.host or target.authority
    stream.writer.write(
        f"GET {policy.path} HTTP/1.1\r\nhost: {host}\r\nuser-agent: nexus-health\r\naccept: */*\r\nconnection: close\r\n\r\n".encode(
            "latin-1"
        )
    )
    for _ in range(_MAX_INTERIM):
        status = await _read_status(stream.reader)
        if status >= 200:
            if not any(first <= status <= last for first, last in policy.statuses):
                raise Unfit(f"status {status}")
            return
    raise Unfit("interim responses and no answer")


async def _read_status(reader: asyncio.StreamReader) -> int:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as ended:
        raise Unfit(
            "the answer ends within its head" if ended.partial else "the connection closed without an answer"
        ) from ended
    except asyncio.LimitOverrunError as overrun:
        raise Unfit(f"the answer's head is longer than {MAX_HEAD_BYTES} bytes, or is none") from overrun
    first, *fields = head[:-4].split(b"\r\n")
    found = _STATUS_LINE.fullmatch(first)
    if found is None or not all(_FIELD.fullmatch(field) for field in fields):
        raise Unfit("the answer is not HTTP/1")
    return int(found[1])
