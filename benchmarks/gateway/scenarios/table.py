"""All scenarios by name, in the order in which `make bench` runs them."""

from __future__ import annotations

from collections.abc import Mapping

from peers.table import DEFAULT

from scenarios import throughput
from scenarios.kinds import Scenario

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
    )
}
