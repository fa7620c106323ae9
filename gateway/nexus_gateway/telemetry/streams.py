"""What is kept of a connection, or of a UDP client's session, that is over; its line in the access log, and its span."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import msgspec

from nexus_gateway.telemetry.contexts import is_sampled, trace_id_of
from nexus_gateway.telemetry.finished import Tried
from nexus_gateway.telemetry.lines import stamp
from nexus_gateway.telemetry.spans import SERVER, Fixed, Span, Value

_encode = msgspec.json.Encoder().encode
_NS = 1e9


class FinishedStream(msgspec.Struct, frozen=True, gc=False):
    """One connection or session. Times are monotonic: accepted, and both sides closed.

    protocol: `tls` is passed through or terminated. peer: the client's address, without port. server_name: what its TLS client
    asked for. connected: whether an endpoint took it. reason: why it was refused or broken off; empty for one that both sides
    ended. lines: of `Contexts.start`. tried: in order, the last one took it.
    """

    protocol: Literal["tcp", "tls", "udp"]
    peer: str
    lines: bytes
    started_at: float
    ended_at: float
    connected: bool
    reason: str = ""
    route: str = ""
    upstream: str = ""
    server_name: str = ""
    listener: str = ""
    tried: tuple[Tried, ...] = ()
    bytes_in: int = 0
    bytes_out: int = 0


class Line(msgspec.Struct, omit_defaults=True, gc=False):
    """The fields of a line, in their order; empty texts are left out."""

    time: str
    protocol: str
    duration_ms: float
    bytes_in: int
    bytes_out: int
    attempts: int
    kind: str = ""
    host: str = ""
    client_ip: str = ""
    trace_id: str = ""
    listener: str = ""
    route: str = ""
    upstream: str = ""
    endpoint: str = ""
    reason: str = ""


def stream_line(done: FinishedStream, offset_s: float) -> bytes:
    """Return the line of a connection, with its newline. offset_s: what to add to monotonic seconds for Unix time."""
    line = Line(
        stamp(done.ended_at + offset_s),
        done.protocol,
        round((done.ended_at - done.started_at) * 1000, 3),
        done.bytes_in,
        done.bytes_out,
        len(done.tried),
        "connection",
        done.server_name,
        done.peer,
        trace_id_of(done.lines).decode("latin-1"),
        done.listener,
        done.route,
        done.upstream,
        done.tried[-1].endpoint if done.tried else "",
        done.reason,
    )
    return _encode(line) + b"\n"


def stream_span(done: FinishedStream, offset_ns: int, entropy: Callable[[int], bytes]) -> Span:
    """Return the one span of a connection: what it carries is no business of the gateway's, and there is no header to hand the
    trace on in. Attribute names: OpenTelemetry's network conventions. The arguments are those of `spans.spans_of`."""
    last = done.tried[-1] if done.tried else None
    fixed: dict[str, Value] = {
        "network.transport": "udp" if done.protocol == "udp" else "tcp",
        "nexus.protocol": done.protocol,
        "nexus.listener": done.listener,
        "nexus.route": done.route,
        "nexus.upstream": done.upstream,
    }
    if last is not None:
        fixed["nexus.endpoint"] = last.endpoint
        fixed["nexus.outcome"] = last.outcome
        fixed["nexus.breaker.state"] = last.breaker
    if len(done.tried) > 1:
        fixed["nexus.retries"] = len(done.tried) - 1
    if done.reason:
        fixed["error.type"] = done.reason
    varied: dict[str, Value] = {
        "client.address": done.peer,
        "nexus.bytes_in": done.bytes_in,
        "nexus.bytes_out": done.bytes_out,
    }
    if done.server_name:
        varied["server.address"] = done.server_name
    if last is not None and done.connected:
        varied["nexus.connect_ms"] = round((last.ended_at - done.started_at) * 1000, 3)
    return Span(
        trace_id_of(done.lines),
        entropy(8).hex().encode(),
        b"",
        False,
        is_sampled(done.lines),
        b"",
        f"{done.protocol} {done.route}" if done.route else done.protocol,
        SERVER,
        offset_ns + int(done.started_at * _NS),
        offset_ns + int(done.ended_at * _NS),
        bool(done.reason),
        Fixed({name: value for name, value in fixed.items() if value != ""}),
        varied,
    )
