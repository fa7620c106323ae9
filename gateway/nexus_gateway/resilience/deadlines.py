"""How long a client will wait, as its headers say, and what is left of that for upstream.

Two headers are read, and the same ones written again with the time that remains:
- `grpc-timeout`: 1 to 8 digits and a unit (`H`, `M`, `S`, `m`, `u`, `n`). Source: gRPC over HTTP/2, "Timeout".
- `x-request-timeout`: seconds, decimal (`2.5`).
A value that is neither is ignored, and not passed on; so is a zero, which some take for "at once" and some for "never".
"""

from __future__ import annotations

import re
from collections.abc import Mapping

GRPC = b"grpc-timeout"
SECONDS = b"x-request-timeout"

_GRPC = re.compile(rb"([0-9]{1,8})([HMSmun])")
_SECONDS = re.compile(rb"[0-9]{1,9}(?:\.[0-9]{1,9})?")
_UNITS_S = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_MOST = 99_999_999


def are_in(aside: Mapping[bytes, bytes]) -> bool:
    """Return whether the client says how long it waits. aside: header values by lower-case name."""
    return SECONDS in aside or GRPC in aside


def parse_grpc(value: bytes) -> float | None:
    """Return the seconds that a `grpc-timeout` means, above 0; None when it means nothing."""
    match = _GRPC.fullmatch(value)
    return int(match[1]) * _UNITS_S[match[2]] or None if match else None


def parse_seconds(value: bytes) -> float | None:
    """Return the seconds that an `x-request-timeout` means, above 0; None when it means nothing."""
    return float(value) or None if _SECONDS.fullmatch(value) else None


def client_timeout_s(aside: Mapping[bytes, bytes]) -> float | None:
    """Return the shortest time in seconds that the client's headers allow, above 0; None without one.

    aside: header values by lower-case name.
    """
    grpc, seconds = aside.get(GRPC), aside.get(SECONDS)
    first = None if grpc is None else parse_grpc(grpc)
    second = None if seconds is None else parse_seconds(seconds)
    if first is None or second is None:
        return first or second
    return min(first, second)


def remaining_lines(aside: Mapping[bytes, bytes], remaining_s: float) -> bytes:
    """Return the header lines that tell upstream the time left: of those headers that the client sent and that mean something.

    remaining_s: 0.0 for a request without a deadline, which has no lines; what is below becomes the least that can be said.
    """
    if remaining_s == 0.0:
        return b""
    lines = b""
    grpc, seconds = aside.get(GRPC), aside.get(SECONDS)
    if grpc is not None and parse_grpc(grpc) is not None:
        lines = b"grpc-timeout: %b\r\n" % render_grpc(remaining_s)
    if seconds is not None and parse_seconds(seconds) is not None:
        lines += b"x-request-timeout: %.3f\r\n" % max(0.001, remaining_s)
    return lines


def render_grpc(seconds: float) -> bytes:
    """Return a `grpc-timeout`: the finest unit from microseconds on that 8 digits can hold, rounded down, 1 at least."""
    for unit, length_s in ((b"u", 1e-6), (b"m", 1e-3), (b"S", 1.0)):
        count = int(seconds / length_s)
        if count <= _MOST:
            return b"%d%b" % (max(1, count), unit)
    return b"%dH" % min(_MOST, int(seconds / 3600.0))
