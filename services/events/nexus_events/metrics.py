"""What the event service counts, beside the SDK's request metrics."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge

from nexus_events.verdicts import Verdict


class EventMetrics:
    """In the app's registry. lag, head: asked at each scrape."""

    def __init__(
        self,
        registry: CollectorRegistry,
        *,
        head: Callable[[], int],
        subscriptions: Callable[[], int],
        lag: Callable[[], int],
    ) -> None:
        self._accepted = Counter(
            "nexus_events_accepted", "Events acknowledged to publishers.", ("result",), registry=registry
        )
        self._refused = Counter(
            "nexus_events_refused", "Requests to publish that were refused.", ("reason",), registry=registry
        )
        self._attempts = Counter(
            "nexus_events_delivery_attempts",
            "Attempts to deliver an event, by what followed.",
            ("verdict",),
            registry=registry,
        )
        self._skipped = Counter(
            "nexus_events_skipped", "Events that retention deleted before a subscription got them.", registry=registry
        )
        self._purged = Counter("nexus_events_purged", "Events deleted by retention.", registry=registry)
        Gauge("nexus_events_head", "Offset of the newest event.", registry=registry).set_function(head)
        Gauge("nexus_events_subscriptions", "Subscriptions.", registry=registry).set_function(subscriptions)
        Gauge("nexus_events_lag", "Events that the slowest subscription is behind.", registry=registry).set_function(
            lag
        )

    def accepted(self, new: int, duplicates: int) -> None:
        self._accepted.labels("new").inc(new)
        self._accepted.labels("duplicate").inc(duplicates)

    def refused(self, reason: str) -> None:
        self._refused.labels(reason).inc()

    def attempted(self, verdict: Verdict) -> None:
        self._attempts.labels(verdict.value).inc()

    def skipped(self, events: int) -> None:
        self._skipped.inc(events)

    def purged(self, events: int) -> None:
        self._purged.inc(events)
