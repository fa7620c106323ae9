"""Which requests are logged and recorded at their end; the counts of a route; what is secret by its name."""

from __future__ import annotations

import random

import pytest
from nexus_gateway.telemetry.decisions import LOG, TRACE, Decisions
from nexus_gateway.telemetry.red import BOUNDS, Red
from nexus_gateway.telemetry.redactions import is_secret, redact_query

NO = b"traceparent: 00-" + b"a" * 32 + b"-" + b"b" * 16 + b"-00\r\n"
YES = NO[:-3] + b"1\r\n"


def decisions(*, log: bool = True, ratio: float = 0.0, trace: bool = True, slow_s: float = 1.0) -> Decisions:
    return Decisions(log=log, log_ratio=ratio, trace=trace, slow_s=slow_s, random=random.Random(1).random)


@pytest.mark.parametrize(
    ("lines", "status", "seconds", "attempts", "reason", "expected"),
    [
        (NO, 200, 0.1, 1, "", 0),
        (YES, 200, 0.1, 1, "", TRACE),
        (NO, 404, 0.1, 1, "", 0),
        (NO, 500, 0.1, 1, "", LOG | TRACE),
        (NO, 200, 1.0, 1, "", LOG | TRACE),
        (NO, 200, 0.1, 2, "", LOG | TRACE),
        (NO, 404, 0.1, 0, "RouteNotFound", LOG),
        (YES, 429, 0.1, 0, "RateLimited", LOG | TRACE),
        (NO, 503, 0.1, 0, "NoEndpoints", LOG | TRACE),
        (NO, 200, 0.1, 1, "UpstreamReset", LOG | TRACE),
        (NO, 499, 0.1, 1, "ClientClosed", LOG | TRACE),
        (NO, 404, 0.1, 1, "UpstreamReset", LOG | TRACE),
        (NO, 200, 0.1, 1, "ResponseTooLarge", LOG | TRACE),
        (NO, 404, 1.5, 1, "", LOG | TRACE),
        (b"", 400, 0.0, 0, "BadRequest", LOG),
        (b"", 503, 0.0, 0, "Overloaded", LOG),
        (b"", 200, 0.0, 0, "", 0),
    ],
)
def test_what_the_end_of_a_request_decides(
    lines: bytes, status: int, seconds: float, attempts: int, reason: str, expected: int
) -> None:
    assert decisions().end(lines, status, seconds, attempts, reason) == expected
    assert decisions(log=False).end(lines, status, seconds, attempts, reason) == expected & TRACE
    assert decisions(trace=False).end(lines, status, seconds, attempts, reason) == expected & LOG


def test_the_ratio_of_other_requests_is_logged() -> None:
    made = decisions(ratio=0.1)
    assert 850 < sum(made.end(NO, 200, 0.1, 1, "") & LOG for _ in range(10_000)) < 1150
    assert all(decisions(ratio=1.0).end(NO, 200, 0.1, 1, "") == LOG for _ in range(100))


def test_a_bound_of_zero_finds_nothing_slow() -> None:
    assert decisions(slow_s=0.0).end(NO, 200, 1e9, 1, "") == 0


def test_red_counts_classes_and_buckets() -> None:
    red = Red("r", "u")
    for code, seconds in ((200, 0.0005), (204, 0.001), (302, 0.002), (404, 0.3), (503, 31.0), (999, 0.3)):
        red.add(code, seconds)
    state = red.state()
    assert state["codes"] == [0, 0, 2, 1, 1, 1, 0, 0, 0, 1]
    assert {index: count for index, count in enumerate(state["buckets"]) if count} == {0: 2, 1: 1, 8: 2, len(BOUNDS): 1}
    assert state["sum"] == pytest.approx(31.6035)
    red.exemplar(b"a" * 32, 0.3, 5.0)
    red.exemplar(b"b" * 32, 0.4, 6.0)
    assert red.state()["exemplars"] == {"8": ["b" * 32, 0.4, 6.0]}


@pytest.mark.parametrize(
    "name", ["accessToken", "clientSecret", "user[password]", "X-Api-Key", "x" * 300, "client_assertion"]
)
def test_more_names_that_are_secret(name: str) -> None:
    assert is_secret(name)


def test_names_are_compared_as_servers_decode_them() -> None:
    assert redact_query("%74oken=x&a%20b=1&pass%77ord=y") == "%74oken=[redacted]&a%20b=1&pass%77ord=[redacted]"
