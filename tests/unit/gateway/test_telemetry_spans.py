"""Finished requests become spans, OTLP that opentelemetry-proto reads, in-memory traces and log lines."""

from __future__ import annotations

import json
import random
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nexus_gateway.telemetry.contexts import Contexts, span_id_of, trace_id_of
from nexus_gateway.telemetry.finished import MAX_TEXT, NOTHING, Finished, Hook, Tried, shortened
from nexus_gateway.telemetry.lines import log_line, stamp
from nexus_gateway.telemetry.otlp import encode_request, encode_resource, encode_scope, encode_span
from nexus_gateway.telemetry.spans import CLIENT, INTERNAL, SERVER, Fixed, Span, spans_of, to_record
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue

OFFSET_S = 1_700_000_000.0
OFFSET_NS = 1_700_000_000_000_000_000
PARENT = {b"traceparent": b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", b"tracestate": b"a=1"}
ENTROPY = random.Random(5).randbytes


def contexts(ratio: float = 1.0) -> Contexts:
    return Contexts(ratio, True, random.Random(1).randbytes)


def finished(*, aside: Any = None, ratio: float = 1.0, attempts: int = 1, **given: Any) -> Finished:
    line = SimpleNamespace(method="GET", path="/items/1", query="page=2&token=hunter2")
    block = SimpleNamespace(
        host="shop.example", aside=aside, forward=b"", joined={"user-agent": "curl/8", "cookie": "hunter2"}
    )
    made = contexts(ratio)
    lines = made.start(aside)
    tried = tuple(
        Tried(
            "10.0.0.5:8000",
            lines if not number else made.again(lines, aside),
            1.0 + number,
            1.5 + number,
            200,
            "answered",
        )
        for number in range(attempts)
    )
    values: dict[str, Any] = {
        "line": line, "block": block, "client_ip": b"10.1.2.3", "request_id": b"req-1", "lines": lines, "started_at": 1.0,
        "ended_at": 2.25, "status": 200, "route": "NexusService/shop/orders", "rule": "rule/0", "upstream": "shop/orders",
        "tried": tried, "bytes_out": 12, "scheme": "https",
    }  # fmt: skip
    return Finished(**{**values, **given})


def test_a_request_has_a_span_and_one_for_its_attempt() -> None:
    done = finished(aside=PARENT)
    request, attempt = spans_of(done, OFFSET_NS, ENTROPY)
    assert (request.name, request.kind, attempt.name, attempt.kind) == (
        "GET NexusService/shop/orders", SERVER, "GET shop/orders", CLIENT,
    )  # fmt: skip
    assert request.trace_id == attempt.trace_id == trace_id_of(done.lines) == b"0af7651916cd43dd8448eb211c80319c"
    assert (request.parent_id, request.remote, request.state) == (b"b7ad6b7169203331", True, b"a=1")
    assert (attempt.parent_id, attempt.remote) == (request.span_id, False)
    assert attempt.span_id == span_id_of(done.lines), "what the upstream was told is its parent"
    assert (request.start_ns, request.end_ns - request.start_ns) == (1_700_000_001_000_000_000, 1_250_000_000)
    assert not request.error
    assert not attempt.error
    assert request.attributes == {
        "http.request.method": "GET",
        "url.scheme": "https",
        "url.path": "/items/1",
        "url.query": "page=2&token=[redacted]",
        "server.address": "shop.example",
        "client.address": "10.1.2.3",
        "user_agent.original": "curl/8",
        "http.route": "NexusService/shop/orders",
        "nexus.rule": "rule/0",
        "nexus.upstream": "shop/orders",
        "nexus.request_id": "req-1",
        "http.response.status_code": 200,
    }
    assert attempt.attributes == {
        "http.request.method": "GET",
        "server.address": "10.0.0.5",
        "server.port": 8000,
        "nexus.upstream": "shop/orders",
        "nexus.endpoint": "10.0.0.5:8000",
        "nexus.breaker.state": "closed",
        "nexus.outcome": "answered",
        "http.response.status_code": 200,
    }


def test_retries_and_hedges_are_told_apart() -> None:
    done = finished(attempts=3)
    lines = done.tried[2].lines
    tried = (
        Tried("10.0.0.5:8000", done.lines, 1.0, 1.1, 0, "timeout"),
        Tried("[::1]:8001", done.tried[1].lines, 1.2, 1.3, 503, "503", "half-open"),
        Tried("10.0.0.6:8000", lines, 1.4, 1.5, 404, "answered", "closed", True),
    )
    request, first, second, third = spans_of(finished(tried=tried, status=404), OFFSET_NS, ENTROPY)
    assert (request.attributes["nexus.retries"], request.attributes["nexus.hedges"]) == (1, 1)
    assert not request.error, "a server's span is an error for 5xx alone"
    assert [each.error for each in (first, second, third)] == [True, True, True]
    assert [each.attributes["error.type"] for each in (first, second, third)] == ["timeout", "503", "404"]
    assert [each.attributes.get("http.request.resend_count") for each in (first, second, third)] == [None, 1, 2]
    assert (second.attributes["server.address"], second.attributes["nexus.breaker.state"]) == ("::1", "half-open")
    assert third.attributes["nexus.hedge"] is True
    assert "http.response.status_code" not in first.attributes
    assert len({each.span_id for each in (request, first, second, third)}) == 4


@pytest.mark.parametrize(
    ("status", "reason", "error"),
    [(200, "", False), (404, "RouteNotFound", False), (503, "NoEndpoints", True), (200, "UpstreamReset", True), (0, "x", True),
     (499, "ClientClosed", False)],
)  # fmt: skip
def test_what_makes_a_request_an_error(status: int, reason: str, error: bool) -> None:
    request, *_ = spans_of(finished(status=status, reason=reason, tried=()), OFFSET_NS, ENTROPY)
    assert request.error is error
    assert request.attributes.get("error.type", "") == reason


def test_requests_kept_for_their_end_say_so() -> None:
    request, *_ = spans_of(finished(ratio=0.0), OFFSET_NS, ENTROPY)
    assert request.attributes["nexus.kept"] is True
    assert not request.sampled
    assert "nexus.kept" not in spans_of(finished(), OFFSET_NS, ENTROPY)[0].attributes


def read(spans: list[Span]) -> Any:
    resource = encode_resource({"service.name": "nexus-gateway", "odd": 1.5})
    body = encode_request(resource, encode_scope("nexus.gateway", "1"), map(encode_span, spans))
    return ExportTraceServiceRequest.FromString(body)


def values(attributes: Any) -> dict[str, Any]:
    def value(item: KeyValue) -> Any:
        return getattr(item.value, item.value.WhichOneof("value"))

    return {item.key: value(item) for item in attributes}


def test_opentelemetry_reads_what_is_encoded() -> None:
    hooks = (Hook("shop/demo", "on_request", 1.1, 0.0015),)
    spans = spans_of(finished(aside=PARENT, attempts=2, hooks=hooks, status=502), OFFSET_NS, ENTROPY)
    (group,) = read(spans).resource_spans
    assert values(group.resource.attributes) == {"service.name": "nexus-gateway", "odd": 1.5}
    (scope,) = group.scope_spans
    assert (scope.scope.name, scope.scope.version) == ("nexus.gateway", "1")
    assert len(scope.spans) == 4
    for ours, theirs in zip(spans, scope.spans, strict=True):
        same(ours, theirs)


def test_a_plugins_call_is_a_span_below_the_requests() -> None:
    hooks = (
        Hook("shop/demo", "on_request", 1.1, 0.0015, "2.0", True),
        Hook("shop/demo", "on_response", 1.2, 0.5, "2.0", True, "TimeoutError"),
    )
    request, asked, answered, attempt = spans_of(finished(aside=PARENT, hooks=hooks), OFFSET_NS, ENTROPY)
    assert (asked.name, asked.kind, attempt.kind) == ("shop/demo on_request", INTERNAL, CLIENT)
    assert (asked.trace_id, asked.parent_id, asked.error) == (request.trace_id, request.span_id, False)
    assert len({each.span_id for each in (request, asked, answered, attempt)}) == 4
    assert asked.end_ns - asked.start_ns == pytest.approx(1_500_000, abs=1000)
    told = {
        "nexus.plugin": "shop/demo",
        "nexus.hook": "on_request",
        "nexus.plugin.version": "2.0",
        "nexus.plugin.candidate": True,
    }
    assert asked.attributes == told
    assert answered.attributes == {**told, "nexus.hook": "on_response", "error.type": "TimeoutError"}
    assert answered.error


def same(ours: Span, theirs: Any) -> None:
    assert (theirs.trace_id.hex(), theirs.span_id.hex()) == (ours.trace_id.decode(), ours.span_id.decode())
    assert theirs.parent_span_id.hex() == ours.parent_id.decode()
    assert theirs.trace_state == ours.state.decode()
    assert (theirs.name, theirs.kind) == (ours.name, ours.kind)
    assert (theirs.start_time_unix_nano, theirs.end_time_unix_nano) == (ours.start_ns, ours.end_ns)
    assert values(theirs.attributes) == ours.attributes
    assert theirs.status.code == (2 if ours.error else 0)
    assert theirs.flags == (0x100 | (0x200 if ours.remote else 0) | int(ours.sampled))


VALUES = (
    st.text(max_size=20)
    | st.sampled_from(["é" * 64, "x" * 127, "x" * 128, "x" * 20_000])
    | st.integers(-(2**63), 2**63 - 1)
    | st.booleans()
    | st.floats(allow_nan=False)
)
ATTRIBUTES = st.dictionaries(st.text(min_size=1, max_size=20), VALUES, max_size=5)
IDS = st.binary(min_size=8, max_size=8).map(lambda raw: raw.hex().encode())


@given(
    st.builds(
        Span, st.binary(min_size=16, max_size=16).map(lambda raw: raw.hex().encode()), IDS, IDS | st.just(b""), st.booleans(),
        st.booleans(), st.sampled_from([b"", b"a=1," * 60]), st.text(max_size=20), st.sampled_from([INTERNAL, SERVER, CLIENT]),
        st.integers(0, 2**63), st.integers(0, 2**63), st.booleans(), st.builds(Fixed, ATTRIBUTES), ATTRIBUTES,
    )
)  # fmt: skip
def test_any_span_goes_round(span: Span) -> None:
    same(span, read([span]).resource_spans[0].scope_spans[0].spans[0])
    same(span, read([span]).resource_spans[0].scope_spans[0].spans[0])


def test_text_that_is_no_unicode_is_replaced() -> None:
    span = spans_of(finished(request_id="a\ud800"), OFFSET_NS, ENTROPY)[0]
    assert values(read([span]).resource_spans[0].scope_spans[0].spans[0].attributes)["nexus.request_id"] == "a?"


def test_the_traces_in_memory_keep_the_same() -> None:
    hooks = (Hook("shop/demo", "on_request", 1.1, 0.0015),)
    request, call, attempt = (to_record(each, "gw") for each in spans_of(finished(hooks=hooks), OFFSET_NS, ENTROPY))
    assert (request.kind, attempt.kind, attempt.parent_id, request.parent_id) == (
        "server",
        "client",
        request.span_id,
        "",
    )
    assert request.attributes["http.route"] == "NexusService/shop/orders"
    assert (call.kind, call.parent_id, call.name) == ("internal", request.span_id, "shop/demo on_request")


def test_a_log_line_is_flat_json_without_secrets() -> None:
    raw = log_line(finished(), OFFSET_S)
    assert raw.endswith(b"}\n")
    assert b"hunter2" not in raw
    line = json.loads(raw)
    assert {**line, "trace_id": ""} == {
        "time": "2023-11-14T22:13:22.250Z",
        "kind": "access",
        "method": "GET",
        "host": "shop.example",
        "path": "/items/1?page=2&token=[redacted]",
        "status": 200,
        "duration_ms": 1250.0,
        "bytes_in": 0,
        "bytes_out": 12,
        "client_ip": "10.1.2.3",
        "request_id": "req-1",
        "trace_id": "",
        "route": "NexusService/shop/orders",
        "upstream": "shop/orders",
        "endpoint": "10.0.0.5:8000",
        "attempts": 1,
        "user_agent": "curl/8",
    }
    assert line["trace_id"] == trace_id_of(finished().lines).decode()


def test_a_request_without_a_head_has_a_line_too() -> None:
    line = json.loads(log_line(Finished(NOTHING, NOTHING, "10.0.0.1", "", b"", 1.0, 1.0, 400, "BadRequest"), OFFSET_S))
    assert (line["status"], line["reason"], line["method"]) == (400, "BadRequest", "")
    assert "path" not in line
    assert "trace_id" not in line


@given(st.text(max_size=3000), st.text(max_size=3000))
def test_any_text_makes_one_line(path: str, agent: str) -> None:
    line = SimpleNamespace(method="GET", path=path, query=agent)
    block = SimpleNamespace(host=path, aside=None, joined={"user-agent": agent})
    raw = log_line(finished(line=line, block=block), OFFSET_S)
    assert raw.count(b"\n") == 1
    assert len(raw) < 100_000
    json.loads(raw)


def test_half_a_surrogate_pair_makes_a_line() -> None:
    raw = log_line(finished(request_id="\udc80"), OFFSET_S)
    assert json.loads(raw)["request_id"] == "\udc80"


def test_stamps_are_utc_to_the_millisecond() -> None:
    assert [stamp(each) for each in (0.0, 1.0009, 1_700_000_000.999)] == [
        "1970-01-01T00:00:00.000Z", "1970-01-01T00:00:01.000Z", "2023-11-14T22:13:20.999Z",
    ]  # fmt: skip


@pytest.mark.parametrize("part", ["path", "query", "header", "agent", "aside"])
def test_a_record_that_waits_keeps_of_a_long_head_what_is_shown_of_it(part: str) -> None:
    """Thousands wait when the log's reader is slow, and clients choose how long heads are."""
    long = "x" * 30_000
    aside = {**PARENT, b"x-forwarded-for": long.encode()} if part == "aside" else PARENT
    line = SimpleNamespace(
        method="GET",
        path="/" + long if part == "path" else "/a",
        query="token=hunter2&a=" + long if part == "query" else "",
    )
    agent = long if part == "agent" else "curl/8"
    forward = f"user-agent: {agent}\r\nx: {long if part == 'header' else ''}\r\n".encode()
    block = SimpleNamespace(host="shop.example", aside=aside, forward=forward, joined={"user-agent": agent, "x": long})
    done = finished(line=line, block=block, aside=aside)
    short = shortened(done)
    parts = [short.line.path, short.line.query, short.block.forward, *short.block.joined.values()]
    assert sum(map(len, [*parts, *(short.block.aside or {}).values()])) <= 2 * MAX_TEXT
    assert log_line(short, OFFSET_S) == log_line(done, OFFSET_S)
    assert b"hunter2" not in log_line(short, OFFSET_S)
    entropy = b"\1" * 8
    assert spans_of(short, OFFSET_NS, lambda size: entropy) == spans_of(done, OFFSET_NS, lambda size: entropy)


def test_a_record_of_a_short_head_refers_to_it() -> None:
    done = finished(aside=PARENT)
    assert shortened(done) is done
    assert shortened(Finished(NOTHING, NOTHING, "10.0.0.1", "", b"", 1.0, 1.0, 400)).block is NOTHING


@pytest.mark.parametrize(("status", "failed"), [(b"0", False), (b"5", False), (b"14", True), ("4", True)])
def test_a_grpc_call_shows_its_status(status: str | bytes, failed: bool) -> None:
    done = finished(grpc=status)
    request, *_ = spans_of(done, OFFSET_NS, ENTROPY)
    assert request.attributes["rpc.system"] == "grpc"
    assert request.attributes["rpc.grpc.status_code"] == int(status)
    assert request.error is failed
    assert json.loads(log_line(done, OFFSET_S))["grpc_status"] == (
        status if isinstance(status, str) else status.decode()
    )
    assert "grpc_status" not in json.loads(log_line(finished(), OFFSET_S))
