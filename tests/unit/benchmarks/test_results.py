"""Figures on their way from a load generator's report to the page."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

WRK = """Running 2s test @ http://127.0.0.1:1/items/7
  1 threads and 32 connections
  Latency Distribution
     50%  612.00us
     75%  700.00us
     90%    0.90ms
     99%    1.25s
  100000 requests in 2.00s, 30.00MB read
  Socket errors: connect 1, read 2, write 3, timeout 4
  Non-2xx or 3xx responses: 5
Requests/sec:  50000.50
Transfer/sec:     15.00MB
"""

H2LOAD = """TLS Protocol: TLSv1.3
Application protocol: h2
Main benchmark duration is over for thread #0. Stopping all clients.

finished in 2.00s, 38821.50 req/s, 5.90MB/s
requests: 77643 total, 77771 started, 77643 done, 77640 succeeded, 3 failed, 0 errored, 0 timeout
status codes: 77640 2xx, 0 3xx, 1 4xx, 2 5xx
traffic: 11.80MB (12368740) total, 2.97MB (3117513) headers (space savings 49.52%), 592.36KB (606550) data
                     min         max         mean         sd        +/- sd
time for request:       12us      4.30ms        60us        99us    98.30%
"""


def rounds() -> list[dict[str, float | str]]:
    return [
        {"proxy": proxy, "cpu_us": cpu_us, "p99_ms": 2 * cpu_us, "errors": errors}
        for proxy, cpu_us, errors in (
            ("nexus", 10.0, 0), ("envoy-full", 40.0, 0), ("nexus", 30.0, 1), ("envoy-full", 20.0, 0),
            ("nexus", 12.0, 2), ("envoy-full", 24.0, 0),
        )
    ]  # fmt: skip


def test_wrk_report_counts_every_kind_of_failure(bench: SimpleNamespace) -> None:
    seen = bench.wrk.parse(WRK)
    assert seen.requests == 100_000
    assert seen.errors == 15
    assert seen.requests_per_s == 50_000.5
    assert seen.bytes_per_s == 15 * 2**20
    assert (seen.p50_ms, seen.p99_ms) == (pytest.approx(0.612), 1250.0)


@pytest.mark.parametrize("missing", ["requests in", "Requests/sec", "     99%"])
def test_wrk_report_without_a_figure_is_an_error(bench: SimpleNamespace, missing: str) -> None:
    with pytest.raises(bench.processes.Unusable):
        bench.wrk.parse(WRK.replace(missing, "nothing"))


def test_h2load_report_is_read(bench: SimpleNamespace) -> None:
    seen = bench.h2load.parse(H2LOAD)
    assert (seen.protocol, seen.done, seen.requests_per_s, seen.seconds) == ("h2", 77643, 38821.5, 2.0)
    assert (seen.total_bytes, seen.data_bytes) == (12368740, 606550)


@pytest.mark.parametrize(
    ("counts", "statuses", "errors"),
    [
        ("77640 succeeded, 3 failed, 0 errored, 0 timeout", "77640 2xx, 0 3xx, 1 4xx, 2 5xx", 3),
        ("77643 succeeded, 0 failed, 0 errored, 0 timeout", "77643 2xx, 0 3xx, 0 4xx, 0 5xx", 0),
        ("77643 succeeded, 0 failed, 0 errored, 0 timeout", "77640 2xx, 3 3xx, 0 4xx, 0 5xx", 3),
        ("77633 succeeded, 10 failed, 4 errored, 4 timeout", "77633 2xx, 0 3xx, 0 4xx, 2 5xx", 10),
    ],
)
def test_h2load_report_counts_each_failure_once(
    bench: SimpleNamespace, counts: str, statuses: str, errors: int
) -> None:
    text = H2LOAD.replace("77640 succeeded, 3 failed, 0 errored, 0 timeout", counts)
    assert bench.h2load.parse(text.replace("77640 2xx, 0 3xx, 1 4xx, 2 5xx", statuses)).errors == errors


@pytest.mark.parametrize("missing", ["Application protocol", "finished in", " done, ", "status codes", "traffic"])
def test_h2load_report_without_a_figure_is_an_error(bench: SimpleNamespace, missing: str) -> None:
    with pytest.raises(bench.processes.Unusable):
        bench.h2load.parse(H2LOAD.replace(missing, "nothing"))


def test_answers_without_their_message_are_failures(bench: SimpleNamespace) -> None:
    """77,643 answers, and bytes enough for 60,655: gRPC's own errors look like that."""
    seen = bench.h2load.parse(H2LOAD)
    assert bench.h2load.lacking(seen, 10) == 77643 - 60655
    assert bench.h2load.lacking(seen, 7) == 0  # those under way at the end brought more


def test_h2load_log_has_the_time_of_each_request(bench: SimpleNamespace) -> None:
    assert bench.h2load.times_us("1795293270516063\t200\t142\n1795293270516066\t-1\t155\n") == [142, 155]


def test_medians_are_of_each_proxy_and_errors_add_up(bench: SimpleNamespace) -> None:
    found = bench.results.medians(rounds())
    assert list(found) == ["nexus", "envoy-full"]
    assert found["nexus"] == {"cpu_us": 12.0, "p99_ms": 24.0, "errors": 3}
    assert found["envoy-full"]["cpu_us"] == 24.0


def test_ratios_are_multiples_of_the_reference(bench: SimpleNamespace) -> None:
    found = bench.results.ratios(bench.results.medians(rounds()), "envoy-full")
    assert found["nexus"] == {"cpu_us": 0.5, "p99_ms": 0.5}  # errors: the reference had none
    assert bench.results.ratios(bench.results.medians(rounds()), "absent") == {}


def test_written_results_are_read_back(bench: SimpleNamespace, tmp_path: Path) -> None:
    kept = bench.results.report("latency", rounds(), {"rounds": 3}, "envoy-full")
    assert json.loads(bench.results.write(kept, tmp_path).read_text()) == kept


@pytest.mark.parametrize(
    ("share", "expected"), [(0.0, 1), (0.5, 5), (0.51, 6), (0.9, 9), (0.99, 10), (0.999, 10), (1.0, 10)]
)
def test_percentile_is_the_nearest_rank(bench: SimpleNamespace, share: float, expected: int) -> None:
    assert bench.pace.percentile(list(range(1, 11)), share) == expected


def test_varied_requests_are_all_different_and_well_formed(bench: SimpleNamespace) -> None:
    made = bench.messages.varied(2000)
    for part in (b"Cookie: ", b"Authorization: ", b"X-Request-Id: ", b"X-Device-Id: ", b"Referer: "):
        assert len({each.partition(part)[2].partition(b"\r\n")[0] for each in made}) == 2000
    assert len({each.partition(b" HTTP/1.1")[0] for each in made}) == 2000
    for each in made:
        head, _, body = each.partition(b"\r\n\r\n")
        assert body == b""
        assert len(head.split(b"\r\n")) == 13 + head.startswith(b"POST")
        assert bench.messages.SEPARATOR not in each
    assert len({each.partition(b"Host: ")[2].partition(b"\r\n")[0] for each in made}) > 450
