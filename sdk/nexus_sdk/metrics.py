"""RED metrics of one app in its own registry: rate, errors, duration, by route template.

Labels are bounded: methods that are not HTTP's become `other`, paths that match no route become `unmatched`.
"""

from __future__ import annotations

from aiohttp import web
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, PlatformCollector, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"})
BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
CONTENT_TYPE = CONTENT_TYPE_LATEST


class Metrics:
    """`registry` is the app's: authors add their own collectors with `registry=app.metrics`."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        names = ("method", "route", "status")
        self._requests = Counter(
            "nexus_http_requests", "Requests answered.", names, registry=self.registry)  # fmt: skip
        self._seconds = Histogram(
            "nexus_http_request_duration_seconds", "Time from the request's head to the end of its handler.",
            ("method", "route"), buckets=BUCKETS_S, registry=self.registry)  # fmt: skip
        self._active = Gauge("nexus_http_requests_active", "Requests being handled.", registry=self.registry)
        self.attempts = Counter(
            "nexus_client_attempts", "Attempts of calls to other services, by outcome (ok, or why it failed).",
            ("service", "outcome"), registry=self.registry)  # fmt: skip
        self.refused = Counter(
            "nexus_client_refused", "Calls to other services that no instance could take.",
            ("service",), registry=self.registry)  # fmt: skip
        self.circuits_open = Gauge(
            "nexus_client_circuits_open", "Instances of other services whose circuit is open: requests are refused.",
            ("service",), registry=self.registry)  # fmt: skip
        self.restarts = Counter(
            "nexus_background_restarts", "Crashes of background tasks.", ("task",), registry=self.registry)  # fmt: skip

    def begin(self) -> None:
        self._active.inc()

    def end(self, request: web.Request, status: int, seconds: float) -> None:
        self._active.dec()
        method = request.method if request.method in METHODS else "other"
        route = route_of(request)
        self._requests.labels(method, route, str(status)).inc()
        self._seconds.labels(method, route).observe(seconds)

    def render(self) -> bytes:
        """Return the text that Prometheus scrapes."""
        return generate_latest(self.registry)


def route_of(request: web.Request) -> str:
    """Return the route's template (`/orders/{id}`), or `unmatched`."""
    resource = request.match_info.route.resource
    return "unmatched" if resource is None else resource.canonical
