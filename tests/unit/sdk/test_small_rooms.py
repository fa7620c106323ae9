"""Deadlines, logs, the discovery file's format, backoff, lazy imports."""

import io
import json
import logging
import random
import subprocess
import sys
from typing import Any

import pytest
from nexus_core.discovery import Endpoint
from nexus_sdk import background, deadlines, logs
from nexus_sdk.discovery import file
from opentelemetry.sdk.trace import TracerProvider


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("2", 2.0), (" 0.25 ", 0.25), ("0", 0.0), ("999999999", 86400.0), ("-1", None), ("1e3", None), ("nan", None), ("", None),
     ("1s", None), ("٣", None)],
)  # fmt: skip
def test_deadline_header(text: str, seconds: float | None) -> None:
    assert deadlines.parse(text) == seconds


@pytest.mark.parametrize(("seconds", "text"), [(1.5, "1.500"), (-3.0, "0.000"), (0.00001, "0.000")])
def test_deadline_shown(seconds: float, text: str) -> None:
    assert deadlines.show(seconds) == text


def line_of(call: Any) -> dict[str, Any]:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logs.JsonFormatter({"service": "orders"}))
    log = logs.make("unit")
    log.logger.propagate = False
    log.logger.addHandler(handler)
    log.logger.setLevel("INFO")
    try:
        call(log)
    finally:
        log.logger.removeHandler(handler)
        log.logger.propagate = True
    text = stream.getvalue()
    assert text.count("\n") == 1
    return dict(json.loads(text))


def test_a_log_line_has_its_fields_and_its_trace() -> None:
    tracer = TracerProvider(shutdown_on_exit=False).get_tracer("t")
    with tracer.start_as_current_span("x") as span:
        line = line_of(lambda log: log.info("order %s\nstored", 7, order=7, name="shadows", level="own"))
    assert line["message"] == "order 7\nstored"
    assert (line["service"], line["level"], line["order"], line["name_"], line["level_"]) == (
        "orders", "info", 7, "shadows", "own")  # fmt: skip
    assert line["trace_id"] == f"{span.get_span_context().trace_id:032x}"
    assert line["span_id"] == f"{span.get_span_context().span_id:016x}"


def test_a_logged_exception_stays_on_one_line_and_odd_values_become_text() -> None:
    def call(log: Any) -> None:
        try:
            raise KeyError("gone")
        except KeyError:
            log.exception("failed", what={1, 2}.__class__)

    line = line_of(call)
    assert line["error"] == "KeyError"
    assert "KeyError: 'gone'" in line["stack"]
    assert line["what"] == "<class 'set'>"
    assert "trace_id" not in line


def test_discovery_file() -> None:
    data = json.dumps({"services": {"o.s": {"endpoints": [
        {"address": "::1", "port": 2, "meta": {"v": "2", "t": "a"}, "draining": True},
        {"address": "10.0.0.1", "port": 1, "id": "a", "weight": 5, "zone": "z", "tags": ["t"]},
    ], "meta": {"nexus-type": "http"}}}})  # fmt: skip
    entry, tags = file.parse(data.encode(), "f")["o.s"]
    assert entry.endpoints == (
        Endpoint("10.0.0.1", 1, "a", 5, "z"),
        Endpoint("::1", 2, meta=(("t", "a"), ("v", "2")), draining=True),
    )
    assert entry.meta == {"nexus-type": "http"}
    assert tags == {"t": [entry.endpoints[0]]}


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "not JSON"),
        ("[]", ".services"),
        ('{"services": []}', ".services"),
        ('{"services": {"a": 1}}', ".services['a'] is no object"),
        ('{"services": {"a": {"endpoints": {}}}}', "endpoints is no list"),
        ('{"services": {"a": {"endpoints": [{"port": 1}]}}}', "endpoints[0].address"),
        ('{"services": {"a": {"endpoints": [{"address": "x", "port": "1"}]}}}', "endpoints[0].port: '1'"),
        ('{"services": {"a": {"endpoints": [{"address": "x", "port": true}]}}}', "endpoints[0].port: True"),
        ('{"services": {"a": {"endpoints": [{"address": "x", "port": 1, "weight": 0}]}}}', "endpoints[0].weight"),
        ('{"services": {"a": {"endpoints": [{"address": "x", "port": 1, "tags": "t"}]}}}', "endpoints[0].tags"),
        ('{"services": {"a": {"endpoints": [{"address": "x", "port": 1, "meta": {"a": 1}}]}}}', "endpoints[0].meta"),
        (
            '{"services": {"a": {"endpoints": [{"address": "x", "port": 1, "draining": 1}]}}}',
            "endpoints[0].draining: 1",
        ),
        ('{"services": {"a": {"meta": {"x": 1}}}}', "meta"),
    ],
)
def test_a_wrong_discovery_file_is_explained(text: str, part: str) -> None:
    with pytest.raises(file.DiscoveryFileError) as caught:
        file.parse(text.encode(), "services.json")
    assert "services.json" in str(caught.value)
    assert part in str(caught.value)


def test_backoff_doubles_to_its_cap_and_never_spins() -> None:
    rng = random.Random(1)
    for failures, ceiling in ((1, 0.25), (2, 0.5), (8, 30.0), (10_000, 30.0)):
        waits = [background.backoff_s(failures, rng) for _ in range(200)]
        assert ceiling / 2 <= min(waits)
        assert max(waits) <= ceiling


def test_heavy_libraries_load_only_where_they_are_used() -> None:
    """A plugin pays for no web server, a service without Consul and receiver for neither client (start below 0.5 s)."""
    code = (
        "import sys, nexus_sdk; from nexus_sdk import Plugin; assert not {'aiohttp', 'opentelemetry'} & set(sys.modules);"
        "from nexus_sdk import ServiceApp; ServiceApp('orders', environ={});"
        "loaded = {'consul', 'requests', 'opentelemetry.exporter'} & set(sys.modules); assert not loaded, loaded"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=30)
