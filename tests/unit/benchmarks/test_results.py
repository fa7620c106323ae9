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
