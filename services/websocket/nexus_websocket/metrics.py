"""What the WebSocket service counts, beside the SDK's request metrics."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge


class SocketMetrics:
    """In the app's registry; labels are of fixed sets, never channel names."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._opened = Counter("nexus_websocket_opened", "Clients connected.", registry=registry)
        self._closed = Counter(
            "nexus_websocket_closed", "Clients gone, by close code (1006: without one).", ("code",), registry=registry
        )
        self._refused = Counter("nexus_websocket_refused", "Clients refused with 503.", registry=registry)
        self._messages = Counter(
            "nexus_websocket_messages", "Messages delivered to a channel.", ("origin",), registry=registry
        )
        self._deliveries = Counter(
            "nexus_websocket_deliveries", "Messages queued for clients.", ("origin",), registry=registry
        )
        self._invalid = Counter(
            "nexus_websocket_invalid", "Messages of clients that were refused.", ("code",), registry=registry
        )
        self._duplicates = Counter(
            "nexus_websocket_duplicates", "Events that had been delivered here before.", registry=registry
        )
        self._connections = Gauge("nexus_websocket_connections", "Clients connected now.", registry=registry)
        self._channels = Gauge("nexus_websocket_channels", "Channels with subscribers now.", registry=registry)

    def watch(self, connections: Callable[[], int], channels: Callable[[], int]) -> None:
        self._connections.set_function(connections)
        self._channels.set_function(channels)

    def opened(self) -> None:
        self._opened.inc()

    def closed(self, code: int) -> None:
        known = (
            code if code in (1000, 1001, 1002, 1003, 1005, 1006, 1007, 1009, 1011, 1012) or 4000 <= code < 4300 else 0
        )
        self._closed.labels(str(known) if known else "other").inc()

    def refused(self) -> None:
        self._refused.inc()

    def delivered(self, origin: str, receivers: int) -> None:
        self._messages.labels(origin).inc()
        self._deliveries.labels(origin).inc(receivers)

    def invalid(self, code: str) -> None:
        self._invalid.labels(code).inc()

    def duplicate(self) -> None:
        self._duplicates.inc()
