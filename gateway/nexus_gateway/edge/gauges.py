"""What metrics read off the running gateway when they are scraped: no request pays for a gauge."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from nexus_gateway.edge.measurements import Measurements
from nexus_gateway.edge.pools import Pool
from nexus_gateway.edge.proxy import Proxy
from nexus_gateway.telemetry import names

Row = tuple[tuple[str, ...], float]


def watch(measurements: Measurements, proxy: Proxy) -> None:
    """Have the gauges of a proxy and its pools read with each scrape."""
    measurements.watch(names.IN_FLIGHT, lambda: [((), proxy.in_flight)])
    measurements.watch(names.CLIENT_CONNECTIONS, lambda: [((), len(proxy.connections))])
    measurements.watch(names.PENDING, lambda: _pending(proxy.runtime.pools))
    measurements.watch(names.CONCURRENCY_LIMIT, lambda: _limits(proxy.runtime.pools))


def _pending(pools: Mapping[str, Pool]) -> Iterator[Row]:
    for upstream, pool in pools.items():
        if pool.limiter is not None:
            yield (upstream,), pool.limiter.pending


def _limits(pools: Mapping[str, Pool]) -> Iterator[Row]:
    for upstream, pool in pools.items():
        if pool.limiter is not None and pool.upstream.concurrency.adaptive:
            yield (upstream,), pool.limiter.limit
