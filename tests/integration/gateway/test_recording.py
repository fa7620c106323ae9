"""Spans to a collector and lines to a pipe, by threads: nothing lost while both are there, bounded loss while they are not."""

from __future__ import annotations

import gzip
import io
import json
import logging
import random
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any

import pytest
from nexus_gateway.edge import accesslogs, recording
from nexus_gateway.edge.accesslogs import AccessLog
from nexus_gateway.edge.collecting import Collector, SendFailed
from nexus_gateway.edge.measurements import Tally
from nexus_gateway.edge.recording import Recorder
from nexus_gateway.telemetry.contexts import Contexts
from nexus_gateway.telemetry.finished import Finished, Tried
from nexus_gateway.telemetry.trees import TraceBook
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

CONTEXTS = Contexts(1.0, True, random.Random(1).randbytes)


def finished(number: int = 0) -> Finished:
    lines = CONTEXTS.start(None)
    line = SimpleNamespace(method="GET", path=f"/{number}", query="")
    block = SimpleNamespace(host="h", aside=None, joined={})
    tried = (Tried("127.0.0.1:80", lines, 1.0, 1.5, 200, "answered"),)
    return Finished(line, block, "10.0.0.1", "r", lines, 1.0, 2.0, 200, "", "route", "rule", "up", tried)


class Server(ThreadingHTTPServer):
    """A collector. answers: statuses to give, the last one for ever."""

    daemon_threads = True

    def __init__(self) -> None:
        self.answers = [200]
        self.bodies: list[bytes] = []
        self.headers: list[dict[str, str]] = []
        self.open = 0
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def paths(self) -> list[str]:
        """`url.path` of each request span that came."""
        return [
            item.value.string_value
            for body in self.bodies
            for group in ExportTraceServiceRequest.FromString(body).resource_spans
            for span in group.scope_spans[0].spans
            for item in span.attributes
            if item.key == "url.path"
        ]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # head and body are written apart: the body would wait for the head's delayed ACK
    server: Server

    def setup(self) -> None:
        self.server.open += 1
        super().setup()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        status = self.server.answers.pop(0) if len(self.server.answers) > 1 else self.server.answers[0]
        if status == 200 and self.path == "/v1/traces":
            self.server.bodies.append(body)
            self.server.headers.append({name.lower(): value for name, value in self.headers.items()})
        self.send_response(status)
        self.send_header("content-length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *args: Any) -> None:
        """Say nothing."""


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield made
    made.shutdown()
    thread.join()
    made.server_close()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits of the threads, shortened: settings of the modules, none of their behaviour."""
    monkeypatch.setattr(recording, "EVERY_S", 0.01)
    monkeypatch.setattr(recording, "BACKOFF_MAX_S", 0.02)
    monkeypatch.setattr(accesslogs, "EVERY_S", 0.01)


def until(met: Callable[[], bool]) -> None:
    for _ in range(500):
        if met():
            return
        time.sleep(0.01)
    raise AssertionError("not within 5 s")


def test_every_request_reaches_the_collector_once_over_one_connection(server: Server) -> None:
    dropped = Tally()
    recorder = Recorder("r-1", dropped, otlp_endpoint=server.url, environ={"OTEL_EXPORTER_OTLP_HEADERS": "x-key=a%20b"})
    recorder.start()
    for number in range(1000):
        recorder.record(finished(number))
    recorder.close()
    assert sorted(server.paths()) == sorted(f"/{number}" for number in range(1000))
    assert (dropped.value, server.open) == (0, 1)
    assert {each["x-key"] for each in server.headers} == {"a b"}
    (group,) = ExportTraceServiceRequest.FromString(server.bodies[0]).resource_spans
    found = {item.key: item.value.string_value for item in group.resource.attributes}
    assert (found["service.name"], found["service.instance.id"]) == ("nexus-gateway", "r-1")


def test_a_collector_that_is_busy_for_a_while_loses_nothing(server: Server) -> None:
    server.answers = [503, 429, 200]
    dropped = Tally()
    recorder = Recorder("r", dropped, otlp_endpoint=server.url, environ={})
    recorder.start()
    for number in range(100):
        recorder.record(finished(number))
    until(lambda: len(server.paths()) == 100)
    recorder.close()
    assert dropped.value == 0


def test_a_batch_that_is_refused_for_good_is_not_repeated(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    server.answers = [400, 200]
    dropped = Tally()
    recorder = Recorder("r", dropped, otlp_endpoint=server.url, environ={})
    recorder.record(finished(1))
    recorder.start()
    until(lambda: dropped.value == 1)
    recorder.record(finished(2))
    until(lambda: server.paths() == ["/2"])
    recorder.close()
    assert [each.getMessage() for each in caplog.records if each.levelno == logging.WARNING] == [
        "the trace collector takes no spans: it answers 400; 1 were dropped so far"
    ]


def test_a_dead_collector_costs_dropped_spans_and_one_warning(
    server: Server, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = server.url
    server.shutdown()
    server.server_close()
    monkeypatch.setattr(recording, "MAX_PENDING_DOWN", 10)
    dropped = Tally()
    recorder = Recorder("r", dropped, otlp_endpoint=url, environ={})
    recorder.start()
    recorder.record(finished())
    until(lambda: bool(caplog.records))
    for number in range(1000):
        recorder.record(finished(number))
    assert dropped.value >= 980
    began = time.monotonic()
    recorder.close()
    assert time.monotonic() - began < recording.CLOSE_S
    warnings = [each for each in caplog.records if "takes no spans" in each.getMessage()]
    assert len(warnings) == 1
    assert dropped.value == 1001, "each request is exported or counted"


def test_a_full_queue_counts_what_it_does_not_take(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    dropped = Tally()
    recorder = Recorder("r", dropped, otlp_endpoint=server.url, environ={})
    for number in range(recording.MAX_PENDING + 5):
        recorder.record(finished(number))
    assert dropped.value == 5
    recorder.start()
    recorder.close()
    assert len(server.paths()) == recording.MAX_PENDING


def test_one_odd_request_costs_its_own_spans_alone(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    dropped = Tally()
    recorder = Recorder("r", dropped, otlp_endpoint=server.url, environ={})
    odd = finished(1)
    recorder.record(Finished(None, odd.block, "", "", odd.lines, 0.0, 0.0, 200))  # type: ignore[arg-type]
    recorder.record(finished(2))
    recorder.start()
    recorder.close()
    assert (server.paths(), dropped.value) == (["/2"], 1)


@pytest.mark.parametrize("compression", ["gzip", "deflate", "none"])
def test_bodies_are_compressed_when_asked(server: Server, compression: str) -> None:
    collector = Collector(server.url, {"OTEL_EXPORTER_OTLP_TRACES_COMPRESSION": compression})
    collector.send(b"body" * 100)
    collector.close()
    assert server.headers[0].get("content-encoding", "none") == compression
    if compression == "gzip":
        assert gzip.decompress(server.bodies[0]) == b"body" * 100


def test_a_kept_connection_that_was_closed_is_made_again(server: Server) -> None:
    collector = Collector(server.url, {})
    collector.send(b"a")
    connection = collector._connection
    assert connection is not None
    connection.sock.shutdown(2)
    collector.send(b"b")
    collector.close()
    assert (server.bodies, server.open) == ([b"a", b"b"], 2)


@pytest.mark.parametrize(("status", "retry"), [(429, True), (503, True), (500, False), (404, False), (302, False)])
def test_which_answers_may_be_repeated(server: Server, status: int, retry: bool) -> None:
    server.answers = [status]
    collector = Collector(server.url, {})
    with pytest.raises(SendFailed) as raised:
        collector.send(b"a")
    collector.close()
    assert raised.value.retry is retry


@pytest.mark.parametrize("url", ["jaeger:4318", "ftp://x", "http://", ""])
def test_what_is_no_url_is_refused_at_the_start(url: str) -> None:
    with pytest.raises(ValueError, match="OTEL_EXPORTER_OTLP_ENDPOINT"):
        Collector(url, {})


def test_traces_in_memory_are_made_when_they_are_read() -> None:
    book = TraceBook(3)
    recorder = Recorder("r", Tally(), book=book, environ={})
    assert recorder.active
    assert not Recorder("r", Tally(), environ={}).active
    for number in range(5):
        recorder.record(finished(number))
    traces = book.recent(10)
    assert [trace["spans"][0]["attributes"]["url.path"] for trace in traces] == ["/4", "/3", "/2"]
    assert traces[0]["spans"][0]["children"][0]["name"] == "GET up"
    last = finished(9)
    recorder.record(last)
    found = book.find(last.lines[16:48].decode())
    assert found is not None
    assert found["span_count"] == 2


def test_no_line_of_the_access_log_is_lost_or_torn() -> None:
    stream, dropped = io.BytesIO(), Tally()
    access = AccessLog(True, dropped, stream)
    access.start()
    for number in range(5000):
        access.write(finished(number))
    access.close()
    assert [json.loads(line)["path"] for line in stream.getvalue().splitlines()] == [
        f"/{number}" for number in range(5000)
    ]
    assert dropped.value == 0


def test_a_log_that_is_off_writes_nothing() -> None:
    stream = io.BytesIO()
    access = AccessLog(False, Tally(), stream)
    access.start()
    access.write(finished())
    access.close()
    assert stream.getvalue() == b""


def test_a_slow_reader_costs_counted_lines_and_no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accesslogs, "MAX_PENDING", 100)
    gate = threading.Event()

    class Slow(io.BytesIO):
        def write(self, data: Any) -> int:
            gate.wait(5)
            return super().write(data)

    stream, dropped = Slow(), Tally()
    access = AccessLog(True, dropped, stream)
    access.start()
    for number in range(1000):
        access.write(finished(number))
    assert dropped.value > 700
    gate.set()
    access.close()
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert sum(line["kind"] == "access" for line in lines) == 1000 - dropped.value
    assert sum(line.get("dropped", 0) for line in lines) == dropped.value


def test_a_reader_that_left_turns_the_log_off(caplog: pytest.LogCaptureFixture) -> None:
    class Gone(io.BytesIO):
        def write(self, data: Any) -> int:
            raise BrokenPipeError("gone")

    access = AccessLog(True, Tally(), Gone())
    access.start()
    access.write(finished())
    until(lambda: not access.enabled)
    access.write(finished())
    access.close()
    assert "cannot be written" in caplog.text


def test_one_odd_request_costs_its_own_line_alone(caplog: pytest.LogCaptureFixture) -> None:
    stream, dropped = io.BytesIO(), Tally()
    access = AccessLog(True, dropped, stream)
    access.write(Finished(None, None, "", "", b"", 0.0, 0.0, 200))  # type: ignore[arg-type]
    access.write(finished(2))
    access.start()
    access.close()
    first, second = (json.loads(line) for line in stream.getvalue().splitlines())
    assert (first["path"], second["dropped"]) == ("/2", 1)
