"""Every metric of the gateway: name, meaning, labels. `docs/reference/metrics.md` lists the same; a test compares them.

Labels are bounded by the configuration: routes, upstreams, plugins and live endpoints, never paths, hosts or clients.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric. name: as scraped, without the `_total` that the text format adds to counters."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()


REQUESTS = Metric("nexus_gateway_requests", "counter", "Requests answered.", ("route", "upstream", "code_class"))
DURATION = Metric(
    "nexus_gateway_request_duration_seconds", "histogram", "Request head read to response sent.", ("route",)
)
IN_FLIGHT = Metric("nexus_gateway_requests_in_flight", "gauge", "Requests and tunnels being served now.")
REFUSED = Metric(
    "nexus_gateway_requests_refused", "counter", "Requests the gateway answered itself, by reason.", ("reason",)
)
ATTEMPTS = Metric(
    "nexus_gateway_upstream_attempts", "counter", "Attempts on endpoints, by outcome.", ("upstream", "outcome")
)
RETRIES = Metric("nexus_gateway_upstream_retries", "counter", "Attempts after the first one.", ("upstream",))
BUDGET_SPENT = Metric(
    "nexus_gateway_retry_budget_exhausted", "counter", "Retries not made for want of budget.", ("upstream",)
)
ENDPOINTS = Metric("nexus_gateway_upstream_endpoints", "gauge", "Live endpoints.", ("upstream",))
ACTIVE = Metric(
    "nexus_gateway_endpoint_active", "gauge", "Attempts running on a live endpoint.", ("upstream", "endpoint")
)
BREAKER = Metric(
    "nexus_gateway_endpoint_circuit_open", "gauge", "1 open (requests refused), 0.5 half-open, 0 closed.",
    ("upstream", "endpoint"),
)  # fmt: skip
GENERATION = Metric("nexus_gateway_snapshot_generation", "gauge", "Generation of the live Snapshot.")
SWAPS = Metric("nexus_gateway_snapshot_swaps", "counter", "Snapshots taken into service.")
SWAP_FAILURES = Metric(
    "nexus_gateway_snapshot_failures", "counter", "Snapshots that could not be taken; the last one stayed."
)
PLUGIN_DURATION = Metric(
    "nexus_gateway_plugin_hook_duration_seconds", "histogram", "Time in a plugin's hook.", ("plugin", "hook")
)
PLUGIN_ERRORS = Metric(
    "nexus_gateway_plugin_hook_errors", "counter", "Hook calls that failed or ran out of time.", ("plugin", "hook")
)

METRICS = (
    REQUESTS, DURATION, IN_FLIGHT, REFUSED, ATTEMPTS, RETRIES, BUDGET_SPENT, ENDPOINTS, ACTIVE, BREAKER, GENERATION, SWAPS,
    SWAP_FAILURES, PLUGIN_DURATION, PLUGIN_ERRORS,
)  # fmt: skip


def code_class(status: int) -> str:
    """Return `2xx` for 200 and so on: a hundred statuses would be a hundred series for each route."""
    return f"{status // 100}xx"
