"""Trace context in bytes: starting, passing on, repeating, in every format; the same readings as OpenTelemetry's propagators."""

from __future__ import annotations

import random

import pytest
from nexus_gateway.telemetry.contexts import (
    Contexts,
    Parent,
    check_state,
    find_decision,
    find_parent,
    is_sampled,
    span_id_of,
    trace_id_of,
)

TRACE = b"0af7651916cd43dd8448eb211c80319c"
SPAN = b"b7ad6b7169203331"
GOOD = b"00-" + TRACE + b"-" + SPAN + b"-01"


def contexts(ratio: float = 1.0, *, recording: bool = True, seed: int = 1) -> Contexts:
    return Contexts(ratio, recording, random.Random(seed).randbytes)


def headers(lines: bytes) -> dict[bytes, bytes]:
    assert lines.endswith(b"\r\n")
    return dict(line.split(b": ", 1) for line in lines.split(b"\r\n")[:-1])


def test_a_new_trace_has_fresh_ids_in_every_request() -> None:
    made = contexts()
    seen = [made.start(None) for _ in range(1000)]
    assert len({trace_id_of(each) for each in seen}) == len({span_id_of(each) for each in seen}) == 1000
    version, trace_id, span_id, flags = headers(seen[0])[b"traceparent"].split(b"-")
    assert (version, trace_id, span_id, flags) == (b"00", trace_id_of(seen[0]), span_id_of(seen[0]), b"01")


@pytest.mark.parametrize(("ratio", "low", "high"), [(0.0, 0, 0), (0.1, 850, 1150), (1.0, 10_000, 10_000)])
def test_the_ratio_of_new_traces_is_sampled(ratio: float, low: int, high: int) -> None:
    made = contexts(ratio)
    assert low <= sum(is_sampled(made.start(None)) for _ in range(10_000)) <= high


def test_sampling_agrees_with_opentelemetry() -> None:
    from opentelemetry.sdk.trace.sampling import Decision, TraceIdRatioBased

    made, sampler = contexts(0.3), TraceIdRatioBased(0.3)
    for _ in range(500):
        lines = made.start(None)
        theirs = sampler.should_sample(None, int(trace_id_of(lines), 16), "x").decision
        assert is_sampled(lines) == (theirs is Decision.RECORD_AND_SAMPLE)


def test_ids_of_zeros_are_not_used() -> None:
    batches = [bytes(24 * 128), random.Random(1).randbytes(24 * 128)]
    lines = Contexts(1.0, True, lambda _: batches.pop(0)).start(None)
    assert set(span_id_of(lines)) != {48}
    assert not batches


@pytest.mark.parametrize("state", [b"", b"congo=t61rcWkgMzE,rojo=00f067aa0ba902b7"])
@pytest.mark.parametrize("flags", [b"00", b"01", b"02", b"03", b"fe", b"ff"])
def test_a_callers_trace_goes_on_with_a_span_of_ours(flags: bytes, state: bytes) -> None:
    aside = {b"traceparent": GOOD[:-2] + flags} | ({b"tracestate": state} if state else {})
    lines = contexts(0.0).start(aside)
    assert trace_id_of(lines) == TRACE
    assert span_id_of(lines) != SPAN
    assert is_sampled(lines) == bool(int(flags, 16) & 1)
    assert headers(lines).get(b"tracestate", b"") == state
    assert find_parent(aside) == Parent(TRACE, SPAN, bool(int(flags, 16) & 1), state)


def test_a_gateway_that_records_nothing_leaves_no_gap() -> None:
    made = contexts(recording=False)
    for aside in ({b"traceparent": GOOD}, {b"b3": TRACE + b"-" + SPAN + b"-1"}):
        lines = made.start(aside)
        assert span_id_of(lines) == SPAN
        assert made.again(lines, aside) == lines


@pytest.mark.parametrize(
    "value",
    [b"", b"x", b"ff" + GOOD[2:], GOOD + b"-more", GOOD.upper(), GOOD[:-1], b"00-" + b"0" * 32 + b"-" + SPAN + b"-01",
     b"00-" + TRACE + b"-" + b"0" * 16 + b"-01", GOOD + b"\n", b"01" + GOOD[2:] + b"-" + b"a" * 300, GOOD + b", " + GOOD],
)  # fmt: skip
@pytest.mark.parametrize("state", [None, b"a=b"])
def test_a_broken_traceparent_starts_a_new_trace_without_its_state(value: bytes, state: bytes | None) -> None:
    aside = {b"traceparent": value} | ({b"tracestate": state} if state else {})
    lines = contexts().start(aside)
    assert trace_id_of(lines) != TRACE
    assert list(headers(lines)) == [b"traceparent"]


def test_later_versions_may_have_more_fields() -> None:
    assert find_parent({b"traceparent": b"01" + GOOD[2:] + b"-more"}) == Parent(TRACE, SPAN, True)


@pytest.mark.parametrize(
    ("aside", "parent"),
    [
        ({b"b3": TRACE + b"-" + SPAN}, Parent(TRACE, SPAN, True)),
        ({b"b3": TRACE + b"-" + SPAN + b"-0"}, Parent(TRACE, SPAN, False)),
        ({b"b3": TRACE + b"-" + SPAN + b"-d-" + SPAN}, Parent(TRACE, SPAN, True)),
        ({b"b3": SPAN + b"-" + SPAN + b"-1"}, Parent(b"0" * 16 + SPAN, SPAN, True)),
        ({b"b3": b"0"}, None),
        ({b"x-b3-traceid": TRACE.upper(), b"x-b3-spanid": SPAN, b"x-b3-flags": b"1"}, Parent(TRACE, SPAN, True)),
        ({b"x-b3-traceid": TRACE, b"x-b3-spanid": SPAN}, Parent(TRACE, SPAN, False)),
        ({b"x-b3-traceid": TRACE}, None),
        ({b"uber-trace-id": TRACE + b":" + SPAN + b":0:1"}, Parent(TRACE, SPAN, True)),
        ({b"uber-trace-id": TRACE + b"%3A" + SPAN + b"%3a0%3A0"}, Parent(TRACE, SPAN, False)),
        ({b"uber-trace-id": b"1f:2:0:3"}, Parent(b"1f".rjust(32, b"0"), b"2".rjust(16, b"0"), True)),
        ({b"uber-trace-id": b"0:2:0:3"}, None),
        ({b"traceparent": b"no", b"b3": TRACE + b"-" + SPAN + b"-1"}, Parent(TRACE, SPAN, True)),
    ],
)
def test_b3_and_jaeger_are_read(aside: dict[bytes, bytes], parent: Parent | None) -> None:
    assert find_parent(aside) == parent


@pytest.mark.parametrize(
    ("aside", "decision"),
    [({b"b3": b"0"}, False), ({b"b3": b"1"}, True), ({b"b3": b"d"}, True), ({b"x-b3-sampled": b"0"}, False),
     ({b"x-b3-flags": b"1", b"x-b3-sampled": b"0"}, True), ({b"x-b3-sampled": b"maybe"}, None), ({b"other": b"1"}, None)],
)  # fmt: skip
def test_a_caller_may_decide_without_a_span_of_its_own(aside: dict[bytes, bytes], decision: bool | None) -> None:
    assert find_decision(aside) is decision
    for ratio in (0.0, 1.0):
        expected = bool(ratio) if decision is None else decision
        assert is_sampled(contexts(ratio).start(aside)) is expected


def test_upstreams_get_the_formats_that_the_client_used() -> None:
    made = contexts()
    sent = headers(made.start({b"b3": TRACE + b"-" + SPAN + b"-1"}))
    own = sent[b"traceparent"].split(b"-")[2]
    assert sent == {b"traceparent": b"00-" + TRACE + b"-" + own + b"-01", b"b3": TRACE + b"-" + own + b"-1"}
    sent = headers(made.start({b"x-b3-traceid": TRACE, b"x-b3-spanid": SPAN, b"x-b3-parentspanid": SPAN}))
    own = sent[b"traceparent"].split(b"-")[2]
    assert sent == {
        b"traceparent": b"00-" + TRACE + b"-" + own + b"-00",
        b"x-b3-traceid": TRACE,
        b"x-b3-spanid": own,
        b"x-b3-sampled": b"0",
    }
    sent = headers(made.start({b"uber-trace-id": TRACE + b":" + SPAN + b":0:1"}))
    own = sent[b"traceparent"].split(b"-")[2]
    assert sent[b"uber-trace-id"] == TRACE + b":" + own + b":0:1"


def test_each_attempt_has_a_span_id_of_its_own_in_every_format() -> None:
    made = contexts()
    aside = {b"b3": TRACE + b"-" + SPAN + b"-1", b"uber-trace-id": b"1:2:0:1", b"x-b3-traceid": b"?"}
    first = made.start(aside)
    second = made.again(first, aside)
    assert trace_id_of(second) == TRACE
    assert span_id_of(second) != span_id_of(first)
    assert span_id_of(first) not in second
    assert second.replace(span_id_of(second), span_id_of(first)) == first


@pytest.mark.parametrize(
    ("value", "kept"),
    [(b"a=1", b"a=1"), (b" a=1 ,, b=2\t", b"a=1,b=2"), (b"a=1,a=2", b""), (b"A=1", b""), (b"a=1\r\nx: y", b""), (b"a", b""),
     (b"1t@v=x", b"1t@v=x"), (b",".join(b"k%d=v" % i for i in range(33)), b""), (b"a=" + b"x" * 257, b""), (b"a=\xff", b"")],
)  # fmt: skip
def test_a_tracestate_is_passed_whole_or_not_at_all(value: bytes, kept: bytes) -> None:
    assert check_state(value) == kept
