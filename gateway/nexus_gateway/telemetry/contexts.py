"""W3C trace context, parsed and formatted. Source: W3C Trace Context, Recommendation 23 November 2021."""

from __future__ import annotations

import re
from dataclasses import dataclass

_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")


@dataclass(frozen=True, slots=True)
class TraceContext:
    """The caller's span. trace_id, span_id: never 0. sampled: whether the caller records."""

    trace_id: int
    span_id: int
    sampled: bool


def find_traceparent(value: str | None) -> TraceContext | None:
    """Return the context of a `traceparent` header; None for a missing or invalid one, which starts a new trace."""
    if value is None or len(value) > 256:
        return None
    match = _TRACEPARENT.fullmatch(value)
    if match is None:
        return None
    version, trace, span, flags, rest = match.groups()
    # Section 3.2.2.1: ff is forbidden; version 00 has exactly four fields, later ones may have more.
    if version == "ff" or (version == "00" and rest):
        return None
    trace_id, span_id = int(trace, 16), int(span, 16)
    if not trace_id or not span_id:
        return None
    return TraceContext(trace_id, span_id, bool(int(flags, 16) & 1))


def format_traceparent(context: TraceContext) -> str:
    """Return the `traceparent` header of a context."""
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{'01' if context.sampled else '00'}"
