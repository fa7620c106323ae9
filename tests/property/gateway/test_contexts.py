"""Any bytes make a context and never an error; what is read is what OpenTelemetry's propagators read."""

from __future__ import annotations

import random
import re

from hypothesis import given
from hypothesis import strategies as st
from nexus_gateway.telemetry.contexts import HEADERS, Contexts, Parent, find_parent
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.propagators.b3 import B3MultiFormat, B3SingleFormat
from opentelemetry.propagators.jaeger import JaegerPropagator
from opentelemetry.propagators.textmap import TextMapPropagator
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

LINES = re.compile(rb"traceparent: 00-[0-9a-f]{32}-[0-9a-f]{16}-0[01]\r\n(?:[a-z0-9-]+: [\x20-\x7e]+\r\n)*")
HEX = st.text("0123456789abcdefABCDEF", min_size=0, max_size=34)


def digits(*sizes: int) -> st.SearchStrategy[str]:
    return st.one_of(*(st.text("0123456789abcdef", min_size=size, max_size=size) for size in sizes))


NEARLY = st.one_of(
    st.builds("{}-{}-{}-{}{}".format, digits(2), digits(32, 31), digits(16), digits(2, 1), st.sampled_from(["", "-x"])),
    st.builds("{}-{}".format, HEX | digits(16, 32), digits(16)),
    st.builds("{}-{}-{}".format, digits(16, 32), digits(16, 15), st.sampled_from(["0", "1", "d", "true", ""])),
    st.builds(
        "{}:{}:{}:{}".format,
        HEX | digits(32),
        HEX | digits(16),
        digits(1, 16),
        st.sampled_from(["0", "1", "03", "ff", "g"]),
    ),
)
STATES = st.lists(
    st.builds("{}={}".format, st.text("abz09@*/_-", max_size=20), st.text("ab ~!=,", max_size=10)), max_size=4
).map(",".join)


@given(st.dictionaries(st.sampled_from(HEADERS), st.binary(max_size=300) | NEARLY.map(str.encode)), st.booleans())
def test_any_bytes_make_lines_that_are_headers(aside: dict[bytes, bytes], recording: bool) -> None:
    made = Contexts(0.5, recording, random.Random(1).randbytes)
    lines = made.start(aside)
    assert LINES.fullmatch(lines)
    assert LINES.fullmatch(made.again(lines, aside))


def theirs(propagator: TextMapPropagator, carrier: dict[str, str]) -> Parent | None:
    found = trace.get_current_span(propagator.extract(carrier, Context())).get_span_context()
    if not found.is_valid:
        return None
    state = found.trace_state.to_header()
    return Parent(b"%032x" % found.trace_id, b"%016x" % found.span_id, bool(found.trace_flags & 1), state.encode())


def ours(carrier: dict[str, str]) -> Parent | None:
    return find_parent({name.encode(): value.encode() for name, value in carrier.items()})


@given(NEARLY, STATES)
def test_w3c_reads_as_opentelemetry_reads_it(value: str, state: str) -> None:
    carrier = {"traceparent": value, "tracestate": state}
    assert ours(carrier) == theirs(TraceContextTextMapPropagator(), carrier)


@given(NEARLY)
def test_b3_single_reads_as_opentelemetry_reads_it(value: str) -> None:
    assert ours({"b3": value}) == theirs(B3SingleFormat(), {"b3": value})


@given(
    HEX | digits(16, 32),
    HEX | digits(16),
    st.sampled_from(["0", "1", "true", "True", "d", "x"]),
    st.sampled_from(["0", "1"]),
)
def test_b3_multi_reads_as_opentelemetry_reads_it(trace_id: str, span_id: str, sampled: str, flags: str) -> None:
    carrier = {"x-b3-traceid": trace_id, "x-b3-spanid": span_id, "x-b3-sampled": sampled, "x-b3-flags": flags}
    assert ours(carrier) == theirs(B3MultiFormat(), carrier)


@given(NEARLY)
def test_jaeger_reads_as_opentelemetry_reads_it(value: str) -> None:
    assert ours({"uber-trace-id": value}) == theirs(JaegerPropagator(), {"uber-trace-id": value})
