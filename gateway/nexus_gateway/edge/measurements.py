"""Prometheus metrics of one gateway, in a registry of its own: several gateways in one process do not mix."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from nexus_gateway.resilience.breakers import HALF_OPEN, OPEN
from nexus_gateway.resilience.endpoints import EndpointState
from nexus_gateway.telemetry import names

_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_HOOK_BUCKETS = (0.00001, 0.0001, 0.001, 0.01, 0.1, 0.5, 1.0)
_CIRCUIT = {OPEN: 1.0, HALF_OPEN: 0.5}

LiveEndpoints = Callable[[], Iterable[tuple[str, tuple[EndpointState, ...]]]]
"""→ (upstream id, live endpoints) of the live Snapshot."""


class _EndpointCollector(Collector):
    """Reads endpoint state when scraped, so that endpoints that left leave no series behind."""

    def __init__(self, live: LiveEndpoints) -> None:
        self._live = live

    def collect(self) -> Iterator[Metric]:
        counts = _family(names.ENDPOINTS)
        active = _family(names.ACTIVE)
        circuit = _family(names.BREAKER)
        for upstream, states in self._live():
            counts.add_metric([upstream], len(states))
            for state in states:
                labels = [upstream, state.authority]
                active.add_metric(labels, state.active)
                circuit.add_metric(labels, _CIRCUIT.get(state.breaker.state, 0.0))
        yield from (counts, active, circuit)


def _family(metric: names.Metric) -> GaugeMetricFamily:
    return GaugeMetricFamily(metric.name, metric.help, labels=metric.labels)


class Measurements:
    """All metrics. Children are kept by label values: looking one up through the library costs 1 µs a request."""

    def __init__(self, live: LiveEndpoints) -> None:
        self.registry = CollectorRegistry()
        self._requests = self._counter(names.REQUESTS)
        self._duration = self._histogram(names.DURATION, _BUCKETS)
        self.in_flight = self._gauge(names.IN_FLIGHT)
        self._refused = self._counter(names.REFUSED)
        self._attempts = self._counter(names.ATTEMPTS)
        self._retries = self._counter(names.RETRIES)
        self._budget = self._counter(names.BUDGET_SPENT)
        self.generation = self._gauge(names.GENERATION)
        self.swaps = self._counter(names.SWAPS)
        self.swap_failures = self._counter(names.SWAP_FAILURES)
        self._hook_duration = self._histogram(names.PLUGIN_DURATION, _HOOK_BUCKETS)
        self._hook_errors = self._counter(names.PLUGIN_ERRORS)
        self.registry.register(_EndpointCollector(live))
        self._request_children: dict[tuple[str, str, str], Counter] = {}
        self._duration_children: dict[str, Histogram] = {}
        self._attempt_children: dict[tuple[str, str], Counter] = {}

    def _counter(self, metric: names.Metric) -> Counter:
        return Counter(metric.name, metric.help, metric.labels, registry=self.registry)

    def _gauge(self, metric: names.Metric) -> Gauge:
        return Gauge(metric.name, metric.help, metric.labels, registry=self.registry)

    def _histogram(self, metric: names.Metric, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(metric.name, metric.help, metric.labels, registry=self.registry, buckets=buckets)

    def request(self, route: str, upstream: str, status: int, seconds: float) -> None:
        """Count one answered request."""
        key = (route, upstream, names.code_class(status))
        child = self._request_children.get(key)
        if child is None:
            child = self._request_children[key] = self._requests.labels(*key)
        child.inc()
        duration = self._duration_children.get(route)
        if duration is None:
            duration = self._duration_children[route] = self._duration.labels(route)
        duration.observe(seconds)

    def refused(self, reason: str) -> None:
        """Count an answer of the gateway's own."""
        self._refused.labels(reason).inc()

    def attempt(self, upstream: str, outcome: str) -> None:
        """Count one attempt."""
        key = (upstream, outcome)
        child = self._attempt_children.get(key)
        if child is None:
            child = self._attempt_children[key] = self._attempts.labels(*key)
        child.inc()

    def retry(self, upstream: str) -> None:
        """Count a repeated attempt."""
        self._retries.labels(upstream).inc()

    def budget_spent(self, upstream: str) -> None:
        """Count a retry that the budget refused."""
        self._budget.labels(upstream).inc()

    def hook(self, plugin: str, hook: str, seconds: float, failed: bool) -> None:
        """Count one hook call."""
        self._hook_duration.labels(plugin, hook).observe(seconds)
        if failed:
            self._hook_errors.labels(plugin, hook).inc()

    def forget(self, routes: set[str], upstreams: set[str], plugins: set[str]) -> None:
        """Drop the series of what is configured no longer. The sets hold what is."""
        for key in [key for key in self._request_children if key[0] and key[0] not in routes]:
            del self._request_children[key]
            self._requests.remove(*key)
        for route in [route for route in self._duration_children if route and route not in routes]:
            del self._duration_children[route]
            self._duration.remove(route)
        for pair in [pair for pair in self._attempt_children if pair[0] not in upstreams]:
            del self._attempt_children[pair]
            self._attempts.remove(*pair)
        for counter, kept in (
            (self._retries, upstreams), (self._budget, upstreams), (self._hook_errors, plugins), (self._hook_duration, plugins),
        ):  # fmt: skip
            for family in list(counter.collect()):
                label = family.samples[0].labels if family.samples else {}
                names_of = tuple(name for name in label if name != "le")
                gone = {tuple(sample.labels[name] for name in names_of) for sample in family.samples if sample.labels}
                for values in gone:
                    if values and values[0] not in kept:
                        counter.remove(*values)

    def scrape(self) -> bytes:
        """Return the text exposition of everything."""
        return generate_latest(self.registry)
