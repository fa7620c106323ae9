"""All scenarios by name, in the order in which `make bench` runs them."""

from __future__ import annotations

from collections.abc import Mapping

from peers.table import DEFAULT

from scenarios import idle, latency, memory, swaps, throughput, workers
from scenarios.kinds import Scenario

_H2 = ("nexus", "envoy-full", "envoy", "nginx")
_FULL = ("nexus", "envoy-full")
_LOADED = ("cpu_us", "requests_per_s", "p50_ms", "p99_ms", "rss_mb", "busy_ratio", "others_ratio", "errors")
_BODIES = ("cpu_us", "mb_per_s", "requests_per_s", "p99_ms", "busy_ratio", "others_ratio", "errors")
SCENARIOS: Mapping[str, Scenario] = {
    scenario.name: scenario
    for scenario in (
        Scenario("repeated", "one small request, again and again", DEFAULT, _LOADED, throughput.run),
        Scenario(
            "varied",
            "unique paths, cookies, tokens and ids, twelve headers, all routes",
            DEFAULT,
            _LOADED,
            throughput.run,
        ),
        Scenario("tls", "the repeated request over TLS, keep-alive", DEFAULT, _LOADED, throughput.run),
        Scenario("body-64k", "replies of 64 KiB", DEFAULT, _BODIES, throughput.run),
        Scenario("body-1m", "replies of 1 MiB", DEFAULT, _BODIES, throughput.run),
        Scenario(
            "h2-tls",
            "the repeated request over HTTP/2 and TLS, 4 connections with 32 streams each",
            _H2,
            _LOADED,
            throughput.run,
        ),
        Scenario("grpc", "a unary call from HTTP/2 over TLS to HTTP/2 in clear", _H2, _LOADED, throughput.run),
        Scenario(
            "latency",
            "an open loop at 70 % of each one's own capacity, waiting in line counted",
            ("nexus", "envoy-full", "envoy"),
            ("rate_per_s", "p50_ms", "p99_ms", "p999_ms", "max_ms", "late_p99_ms", "errors"),
            latency.run,
        ),
        Scenario(
            "swap",
            "one of 5,000 routes changes every second",
            _FULL,
            ("calm_p99_ms", "changing_p99_ms", "p99_times", "calm_block_ms", "block_ms", "in_force_ms", "errors"),
            swaps.run,
            rounds=3,
        ),
        Scenario(
            "idle",
            "memory of an idle client connection",
            ("nexus", "envoy-full", "nginx"),
            ("plain_bytes", "tls_bytes"),
            idle.run,
            rounds=1,
        ),
        Scenario(
            "workers",
            "CPU per request of two workers beside one, nothing pinned, 256 connections",
            _FULL,
            ("one_cpu_us", "two_cpu_us", "cpu_times", "one_requests_per_s", "two_requests_per_s", "errors"),
            workers.run,
            rounds=3,
        ),
        Scenario(
            "memory",
            "resident memory with 5,000 routes over many requests",
            _FULL,
            ("start_mb", "settled_mb", "end_mb", "highest_mb", "growth_mb", "requests", "errors"),
            memory.run,
            rounds=1,
        ),
    )
}
