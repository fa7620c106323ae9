"""Trace context in bytes: the caller's read, ours written. W3C, B3 (single and multi) and Jaeger.

The trace of a request *is* the header lines that its first attempt sends upstream: `traceparent` first, its ids at fixed places
(`trace_id_of`, `span_id_of`, `is_sampled`). A request whose client sent no context takes ready-made lines, so tracing costs it
one `pop`; everything else (parent, own span, attributes) is worked out when a span is exported, and most never are.

Sources: W3C Trace Context, Recommendation 23 November 2021; github.com/openzipkin/b3-propagation;
jaegertracing.io/docs/1.76/client-libraries (propagation format). What OpenTelemetry's propagators accept and this does not
(signs, underscores and blanks in Jaeger's numbers) no Jaeger client writes.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Mapping
from typing import NamedTuple

Aside = Mapping[bytes, bytes]
"""Values of the headers kept aside, by lower-case name; repeats joined by `, `. Others than `HEADERS` may be among them."""

HEADERS = (
    b"traceparent", b"tracestate", b"b3", b"x-b3-traceid", b"x-b3-spanid", b"x-b3-sampled", b"x-b3-flags", b"x-b3-parentspanid",
    b"uber-trace-id",
)  # fmt: skip
"""What a client may send of trace context. None of it goes upstream as it came."""

MAX_STATE_BYTES = 2048
"""A longer `tracestate` is dropped; the recommendation asks for 512 at least."""
_MAX_STATE_MEMBERS = 32
_BATCH = 128
"""Lines made ready at a time: 25 µs of work, 13 KB."""
_IDS = struct.Struct("16s16s16s")

_W3C = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]([0-9a-f])(-[\x20-\x7e]*)?")
_W3C_00 = re.compile(rb"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
"""What nearly every caller that traces sends."""
_B3_TRACE = re.compile(rb"[0-9a-fA-F]{16}(?:[0-9a-fA-F]{16})?")
_B3_SPAN = re.compile(rb"[0-9a-fA-F]{16}")
_JAEGER = re.compile(rb"([0-9a-fA-F]{1,32}):([0-9a-fA-F]{1,16}):[^:]*:([0-9a-fA-F]{1,2})")
_STATE_MEMBER = re.compile(
    rb"(?:[a-z][_0-9a-z\-*/]{0,255}|[a-z0-9][_0-9a-z\-*/]{0,240}@[a-z][_0-9a-z\-*/]{0,13})"
    rb"=[\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e]"
)
_NAMES = frozenset(HEADERS)
_B3_YES = frozenset((b"1", b"d", b"true", b"True"))
_B3_NO = frozenset((b"0", b"false", b"False"))
_NO_TRACE = b"0" * 32
_NO_SPAN = b"0" * 16
_ODD = frozenset(b"13579bdf")


class Parent(NamedTuple):
    """The caller's span. trace_id: 32, span_id: 16 lower-case hex digits, neither all 0. state: its `tracestate`, checked."""

    trace_id: bytes
    span_id: bytes
    sampled: bool
    state: bytes = b""


def find_parent(aside: Aside | None) -> Parent | None:
    """Return the caller's span: of `traceparent`, else of `b3`, `x-b3-*` or `uber-trace-id`; None for none that is valid."""
    if aside is None:
        return None
    value = aside.get(b"traceparent")
    if value is not None:
        found = _w3c(value, aside.get(b"tracestate", b""))
        if found is not None:
            return found
    value = aside.get(b"b3")
    if value is not None:
        found = _b3_single(value)
        if found is not None:
            return found
    value = aside.get(b"x-b3-traceid")
    if value is not None:
        sampled = aside.get(b"x-b3-sampled") in _B3_YES or aside.get(b"x-b3-flags") == b"1"
        found = _b3(value, aside.get(b"x-b3-spanid", b""), sampled)
        if found is not None:
            return found
    value = aside.get(b"uber-trace-id")
    return _jaeger(value) if value is not None else None


def find_decision(aside: Aside) -> bool | None:
    """Return what a caller without a span of its own decided on sampling (`b3: 0`, `x-b3-sampled: 1`); None for nothing."""
    value = aside.get(b"b3")
    if value is None:
        if aside.get(b"x-b3-flags") == b"1":
            return True
        value = aside.get(b"x-b3-sampled")
    return True if value in _B3_YES else False if value in _B3_NO else None


def trace_id_of(lines: bytes) -> bytes:
    """Return the 32 hex digits of the trace id in the lines that `Contexts` made."""
    return lines[16:48]


def span_id_of(lines: bytes) -> bytes:
    """Return the 16 hex digits of the span id that goes upstream: the attempt's."""
    return lines[49:65]


def is_sampled(lines: bytes) -> bool:
    """Return whether head sampling, the caller's or ours, records this trace."""
    return lines[67] == 49


def traceparent_of(lines: bytes) -> str:
    """Return the value of `traceparent` in the lines."""
    return lines[13:68].decode("ascii")


class Contexts:
    """Starts the traces of one process.

    Ids are taken from a batch of randomness: an instance belongs to one process and must not be used before it forks.
    """

    __slots__ = ("_bound", "_entropy", "_ready", "_recording")

    def __init__(self, ratio: float, recording: bool, entropy: Callable[[int], bytes]) -> None:
        """ratio: share of new traces that are sampled. recording: whether spans are kept or sent by this gateway at all;
        when not, callers' contexts go on as they came, so that no trace has a gap. entropy: bytes → that many random ones.
        """
        # OpenTelemetry's TraceIdRatioBased: the low 64 bits below the ratio; hex of equal length compares like the number.
        bound = round(ratio * 2**64)
        self._bound = b"%016x" % bound if bound < 2**64 else b"g"
        self._recording = recording
        self._entropy = entropy
        self._ready: list[bytes] = []

    def start(self, aside: Aside | None) -> bytes:
        """Return the context lines of a request's first attempt, CRLF after each. Never raises, whatever the client sent.

        Cost: one `pop` for a client that sent nothing; called once per request.
        """
        if aside is None:
            try:
                return self._ready.pop()
            except IndexError:
                return self._refill()
        return self._from(aside)

    def again(self, lines: bytes, aside: Aside | None) -> bytes:
        """Return the lines of a further attempt of the same request: its own span id, all else as before."""
        if not self._recording and find_parent(aside) is not None:
            return lines
        # Only our own 64 random bits are replaced: nothing that the client sent can hold them but by 1 in 2^64.
        return lines.replace(span_id_of(lines), span_id_of(self.start(None)))

    def _from(self, aside: Aside) -> bytes:
        fresh = self.start(None)
        if _NAMES.isdisjoint(aside):
            return fresh
        value = aside.get(b"traceparent")
        if value is not None and _W3C_00.fullmatch(value):
            # The common cases in one step, a third of what `find_parent` and `write` take for the same.
            state = aside.get(b"tracestate")
            if len(aside) == (1 if state is None else 2):
                span_id = fresh[49:65] if self._recording else value[36:52]
                end = b"-01\r\n" if value[54] in _ODD else b"-00\r\n"
                if state is None or not (state := check_state(state)):
                    return b"".join((b"traceparent: ", value[:36], span_id, end))
                return b"".join((b"traceparent: ", value[:36], span_id, end, b"tracestate: ", state, b"\r\n"))
        parent = find_parent(aside)
        if parent is None:
            decision = find_decision(aside)
            trace_id, span_id, state = fresh[16:48], fresh[49:65], b""
            sampled = is_sampled(fresh) if decision is None else decision
        else:
            trace_id, span_id, sampled, state = parent
            if self._recording:
                span_id = fresh[49:65]
        return write(aside, trace_id, span_id, sampled, state)

    def _refill(self) -> bytes:
        digits = self._entropy(24 * _BATCH).hex().encode()
        while _NO_SPAN in digits:  # an id must not be all 0; so rare that a fresh batch costs nothing
            digits = self._entropy(24 * _BATCH).hex().encode()
        bound = self._bound
        # One `join` a line: `%` takes twice as long.
        self._ready = [
            b"".join((b"traceparent: 00-", high, low, b"-", span_id, b"-01\r\n" if low < bound else b"-00\r\n"))
            for high, low, span_id in _IDS.iter_unpack(digits)
        ]
        return self._ready.pop()


def write(aside: Aside | None, trace_id: bytes, span_id: bytes, sampled: bool, state: bytes = b"") -> bytes:
    """Return the lines of a context: W3C always, the other formats as the client used them."""
    lines = b"traceparent: 00-%b-%b-%b\r\n" % (trace_id, span_id, b"01" if sampled else b"00")
    if state:
        lines += b"tracestate: %b\r\n" % state
    if aside is None:
        return lines
    flag = b"1" if sampled else b"0"
    if b"b3" in aside:
        lines += b"b3: %b-%b-%b\r\n" % (trace_id, span_id, flag)
    if b"x-b3-traceid" in aside or b"x-b3-sampled" in aside or b"x-b3-flags" in aside:
        lines += b"x-b3-traceid: %b\r\nx-b3-spanid: %b\r\nx-b3-sampled: %b\r\n" % (trace_id, span_id, flag)
    if b"uber-trace-id" in aside:
        # The third field, the parent span, is deprecated; 0 is what clients write for it. Bit 2 would be Jaeger's debug flag.
        lines += b"uber-trace-id: %b:%b:0:%b\r\n" % (trace_id, span_id, flag)
    return lines


def check_state(value: bytes) -> bytes:
    """Return a `tracestate` that may go on, without blank members; empty for a broken one, which is dropped as a whole."""
    if len(value) > MAX_STATE_BYTES:
        return b""
    if b"," not in value and _STATE_MEMBER.fullmatch(value) is not None:
        return value  # most have one vendor's member
    members = [member for part in value.split(b",") if (member := part.strip(b" \t"))]
    if len(members) > _MAX_STATE_MEMBERS or not all(map(_STATE_MEMBER.fullmatch, members)):
        return b""
    if len(members) > 1 and len({member.partition(b"=")[0] for member in members}) < len(members):
        return b""
    return b",".join(members)


def _w3c(value: bytes, state: bytes) -> Parent | None:
    if len(value) > 256:
        return None
    match = _W3C.fullmatch(value)
    if match is None:
        return None
    version, trace_id, span_id, flags, rest = match.groups()
    # Section 3.2.2.1: ff is forbidden; version 00 has exactly four fields, later ones may have more.
    if version == b"ff" or (rest and version == b"00") or trace_id == _NO_TRACE or span_id == _NO_SPAN:
        return None
    return Parent(trace_id, span_id, flags[0] in _ODD, check_state(state) if state else b"")


def _b3_single(value: bytes) -> Parent | None:
    # {trace}-{span}[-{sampled}[-{parent}]]; without the third field the decision is ours, and OpenTelemetry's is to sample.
    fields = value.split(b"-", 4)
    if not 2 <= len(fields) <= 4:
        return None
    return _b3(fields[0], fields[1], len(fields) == 2 or fields[2] in _B3_YES)


def _b3(trace_id: bytes, span_id: bytes, sampled: bool) -> Parent | None:
    if _B3_TRACE.fullmatch(trace_id) is None or _B3_SPAN.fullmatch(span_id) is None:
        return None
    return _padded(trace_id, span_id, sampled)


def _jaeger(value: bytes) -> Parent | None:
    if len(value) > 256:
        return None
    # Jaeger's own HTTP clients percent-encode the colons.
    match = _JAEGER.fullmatch(value.replace(b"%3A", b":").replace(b"%3a", b":") if b"%" in value else value)
    if match is None:
        return None
    trace_id, span_id, flags = match.groups()
    return _padded(trace_id, span_id, flags.lower()[-1] in _ODD)


def _padded(trace_id: bytes, span_id: bytes, sampled: bool) -> Parent | None:
    trace_id, span_id = trace_id.lower().rjust(32, b"0"), span_id.lower().rjust(16, b"0")
    return None if trace_id == _NO_TRACE or span_id == _NO_SPAN else Parent(trace_id, span_id, sampled)
