"""What metrics read off the running gateway when they are scraped: no request pays for a gauge."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

from nexus_gateway.edge.measurements import Measurements, Spread
from nexus_gateway.edge.plugins.meters import Meter, shown
from nexus_gateway.edge.plugins.overseeing import by_version
from nexus_gateway.edge.plugins.slots import Slot
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


def watch_plugins(measurements: Measurements, slots: Callable[[], Iterable[Slot]]) -> None:
    """Have what plugins count read with each scrape. slots: of the live Snapshot."""

    def counted(value: Callable[[Meter], float]) -> Iterator[Row]:
        for plugin, version, meter in by_version(slots()):
            yield (plugin, version), value(meter)

    measurements.watch(names.PLUGIN_CALLS, lambda: counted(lambda meter: meter.calls))
    measurements.watch(names.PLUGIN_FAILED, lambda: counted(lambda meter: meter.errors))
    measurements.watch(names.PLUGIN_CPU, lambda: counted(lambda meter: meter.cpu_s))
    measurements.watch(names.PLUGIN_DISABLED, lambda: _disabled(slots()))
    measurements.watch(names.PLUGIN_CANDIDATE, lambda: _candidates(slots()))
    measurements.watch_spreads(
        names.PLUGIN_SECONDS,
        lambda: (((plugin, version), shown(meter.spreads.values())) for plugin, version, meter in by_version(slots())),
    )
    measurements.watch_spreads(names.PLUGIN_DURATION, lambda: _hooks(slots()))


def _disabled(slots: Iterable[Slot]) -> Iterator[Row]:
    for slot in slots:
        if slot.running is not None:
            yield (slot.instance.id,), 0.0 if slot.open else 1.0


def _candidates(slots: Iterable[Slot]) -> Iterator[Row]:
    for slot in slots:
        report = slot.report.candidate
        if report is not None:
            yield (slot.instance.id, report.version), 0.0 if report.state == "refused" else 1.0


def _hooks(slots: Iterable[Slot]) -> Iterator[tuple[tuple[str, ...], Spread]]:
    found: dict[tuple[str, str], list[Spread]] = {}
    for plugin, _, meter in by_version(slots):
        for hook, spread in meter.spreads.items():
            found.setdefault((plugin, hook), []).append(spread)
    for labels, spreads in found.items():
        yield labels, shown(spreads)


def _pending(pools: Mapping[str, Pool]) -> Iterator[Row]:
    for upstream, pool in pools.items():
        if pool.limiter is not None:
            yield (upstream,), pool.limiter.pending


def _limits(pools: Mapping[str, Pool]) -> Iterator[Row]:
    for upstream, pool in pools.items():
        if pool.limiter is not None and pool.upstream.concurrency.adaptive:
            yield (upstream,), pool.limiter.limit
