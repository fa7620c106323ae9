"""Every metric of the gateway: name, meaning, labels. `docs/reference/metrics.md` lists the same; a test compares them.

Labels are bounded by the configuration: routes, upstreams, plugins and live endpoints, never paths, hosts or clients.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


# Compared by identity: hashing its texts would cost more than all else that is done to count something.
@dataclass(frozen=True, slots=True, eq=False)
class Metric:
    """One metric. name: as scraped, without the `_total` that the text format adds to counters.

    combine: how the values of several workers make one. fold: how those of several upstreams or endpoints do, where that is another
    way; see `series`. by_worker: with several workers each keeps its own series, told apart
    by the label `worker`; for gauges whose spread over the workers matters.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()
    combine: Literal["sum", "max", "min"] = "sum"
    by_worker: bool = False
    fold: Literal["", "sum", "max", "min"] = ""


REQUESTS = Metric("nexus_gateway_requests", "counter", "Requests answered.", ("route", "upstream", "code_class"))
DURATION = Metric(
    "nexus_gateway_request_duration_seconds", "histogram", "Request head read to response sent.", ("route", "upstream")
)
IN_FLIGHT = Metric(
    "nexus_gateway_requests_in_flight", "gauge", "Requests and tunnels being served now.", by_worker=True
)
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
HEDGES = Metric("nexus_gateway_upstream_hedges", "counter", "Attempts started beside a slow one.", ("upstream",))
HEDGE_BUDGET_SPENT = Metric(
    "nexus_gateway_hedge_budget_exhausted", "counter", "Hedges not made for want of budget.", ("upstream",)
)
MIRRORED = Metric("nexus_gateway_mirrored", "counter", "Copies of requests sent to a mirror.", ("upstream", "outcome"))
FALLBACKS = Metric("nexus_gateway_fallbacks", "counter", "Requests answered by a fallback.", ("upstream",))
RATE_LIMITED = Metric("nexus_gateway_rate_limited", "counter", "Requests over a rate limit.", ("limit",))
SHED = Metric(
    "nexus_gateway_requests_shed", "counter", "Connections and requests turned away for want of room.", ("reason",)
)
CLIENT_CONNECTIONS = Metric(
    "nexus_gateway_client_connections", "gauge", "Client connections that are open.", by_worker=True
)
TLS_FAILURES = Metric(
    "nexus_gateway_tls_failures", "counter", "Client connections that broke over TLS itself, by reason.", ("reason",)
)
UPSTREAM_CONNECTIONS = Metric(
    "nexus_gateway_upstream_connections", "gauge", "Upstream connections that are open, in use or idle.",
    ("upstream", "state"),
)  # fmt: skip
PENDING = Metric("nexus_gateway_upstream_pending", "gauge", "Requests waiting for room at the upstream.", ("upstream",))
CONCURRENCY_LIMIT = Metric(
    "nexus_gateway_upstream_concurrency_limit", "gauge", "Requests that the adaptive limit lets run at once.", ("upstream",)
)  # fmt: skip
EJECTIONS = Metric(
    "nexus_gateway_outlier_ejections", "counter", "Endpoints taken out for failing more than others.", ("upstream",)
)  # fmt: skip
HEALTH_CHECKS = Metric(
    "nexus_gateway_health_checks", "counter", "Active health checks, by outcome.", ("upstream", "outcome")
)
HEALTHY = Metric(
    "nexus_gateway_endpoint_healthy", "gauge", "1 healthy, 0 not, by active health checks.", ("upstream", "endpoint"),
    combine="min",
)  # fmt: skip
ENDPOINTS = Metric(
    "nexus_gateway_upstream_endpoints", "gauge", "Live endpoints.", ("upstream",), combine="max", fold="sum"
)
ACTIVE = Metric(
    "nexus_gateway_endpoint_active", "gauge", "Attempts running on a live endpoint.", ("upstream", "endpoint")
)
BREAKER = Metric(
    "nexus_gateway_endpoint_circuit_open", "gauge", "1 open (requests refused), 0.5 half-open, 0 closed.",
    ("upstream", "endpoint"), combine="max",
)  # fmt: skip
GENERATION = Metric("nexus_gateway_snapshot_generation", "gauge", "Generation of the live Snapshot.", combine="min")
SWAPS = Metric("nexus_gateway_snapshot_swaps", "counter", "Snapshots taken into service.", combine="max")
SWAP_FAILURES = Metric(
    "nexus_gateway_snapshot_failures", "counter", "Snapshots that could not be taken; the last one stayed.", combine="max"
)  # fmt: skip
PLUGIN_DURATION = Metric(
    "nexus_gateway_plugin_hook_duration_seconds", "histogram", "Time in a plugin's hook.", ("plugin", "hook")
)
PLUGIN_ERRORS = Metric(
    "nexus_gateway_plugin_hook_errors", "counter", "Hook calls that failed or ran out of time.", ("plugin", "hook")
)
PLUGIN_CALLS = Metric("nexus_plugin_calls", "counter", "Calls of a plugin's hooks.", ("plugin", "version"))
PLUGIN_FAILED = Metric(
    "nexus_plugin_errors", "counter", "Of these, calls that failed or ran out of time.", ("plugin", "version")
)
PLUGIN_SECONDS = Metric("nexus_plugin_seconds", "histogram", "How long these calls took.", ("plugin", "version"))
PLUGIN_CPU = Metric(
    "nexus_plugin_cpu_seconds", "counter", "How long these calls held the event loop.", ("plugin", "version")
)
PLUGIN_DISABLED = Metric(
    "nexus_plugin_disabled", "gauge", "1 while a plugin is not called, for it went beyond a budget.", ("plugin",), combine="max"
)  # fmt: skip
PLUGIN_CANDIDATE = Metric(
    "nexus_plugin_candidate", "gauge", "1 while a candidate gets a share of requests, 0 when it was refused.",
    ("plugin", "version"), combine="min",
)  # fmt: skip

STREAMS = Metric(
    "nexus_gateway_streams", "counter", "TCP connections and sessions of UDP clients that ended, by how.",
    ("route", "upstream", "outcome"),
)  # fmt: skip
STREAMS_ACTIVE = Metric(
    "nexus_gateway_streams_active", "gauge", "TCP connections and sessions of UDP clients that are open.",
    ("route", "upstream"),
)  # fmt: skip
STREAM_BYTES = Metric(
    "nexus_gateway_stream_bytes", "counter", "Bytes that TCP and UDP clients sent (in) and were sent (out).",
    ("route", "upstream", "direction"),
)  # fmt: skip
STREAM_DURATION = Metric(
    "nexus_gateway_stream_duration_seconds", "histogram", "How long TCP connections and sessions of UDP clients lasted.",
    ("route", "upstream"),
)  # fmt: skip
DATAGRAMS_DROPPED = Metric(
    "nexus_gateway_datagrams_dropped", "counter", "Datagrams that went nowhere, by reason.", ("reason",)
)

SPANS_DROPPED = Metric(
    "nexus_gateway_recordings_dropped", "counter", "Recorded requests whose spans were not exported."
)
TASK_FAILURES = Metric(
    "nexus_gateway_background_failures", "counter", "Background tasks that failed; the log says how.", ("task",)
)
LINES_DROPPED = Metric("nexus_gateway_access_log_dropped", "counter", "Lines of the access log that were not written.")

METRICS = (
    REQUESTS, DURATION, IN_FLIGHT, REFUSED, SHED, RATE_LIMITED, FALLBACKS, MIRRORED, ATTEMPTS, RETRIES, BUDGET_SPENT, HEDGES,
    HEDGE_BUDGET_SPENT, CLIENT_CONNECTIONS, TLS_FAILURES, UPSTREAM_CONNECTIONS, PENDING, CONCURRENCY_LIMIT, ENDPOINTS, ACTIVE, BREAKER,
    EJECTIONS, HEALTH_CHECKS, HEALTHY, STREAMS, STREAMS_ACTIVE, STREAM_BYTES, STREAM_DURATION, DATAGRAMS_DROPPED, GENERATION, SWAPS,
    SWAP_FAILURES, PLUGIN_DURATION, PLUGIN_ERRORS, PLUGIN_CALLS, PLUGIN_FAILED, PLUGIN_SECONDS, PLUGIN_CPU, PLUGIN_DISABLED,
    PLUGIN_CANDIDATE, SPANS_DROPPED, LINES_DROPPED, TASK_FAILURES,
)  # fmt: skip
BY_NAME = {metric.name: metric for metric in METRICS}


def code_class(status: int) -> str:
    """Return `2xx` for 200 and so on: a hundred statuses would be a hundred series for each route."""
    return f"{status // 100}xx"
