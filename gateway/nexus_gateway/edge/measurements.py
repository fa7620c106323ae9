"""What one gateway process counts, as plain numbers that the hot path adds to and a scrape reads.

Kept by label values through every Snapshot swap, and forgotten with what is configured no longer. A series is shown once it
counted something: 5,000 idle routes are no series at all.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Any

import msgspec
from nexus_hosting.spreads import Spread as Spread

from nexus_gateway.resilience.breakers import HALF_OPEN, OPEN
from nexus_gateway.resilience.endpoints import EndpointState
from nexus_gateway.telemetry import exposition, names
from nexus_gateway.telemetry.exposition import Labels, State
from nexus_gateway.telemetry.red import Red
from nexus_gateway.telemetry.series import Series

_STREAM_BOUNDS = (0.01, 0.1, 1.0, 10.0, 60.0, 600.0, 3600.0)
_CIRCUIT = {OPEN: 1.0, HALF_OPEN: 0.5}

LiveEndpoints = Callable[[], Iterable[tuple[str, tuple[EndpointState, ...]]]]
"""→ (upstream id, live endpoints) of the live Snapshot."""
Live = tuple[tuple[str, tuple[EndpointState, ...]], ...]
Reader = Callable[[], Iterable[tuple[Labels, float]]]
"""→ (label values, value) of a gauge now."""
SpreadReader = Callable[[], Iterable[tuple[Labels, "Spread"]]]
"""→ (label values, durations) of a histogram now."""
Row = list[Any]
"""Of a state: label values, value."""


class Tally:
    """One series of a counter or gauge. The hot path adds to `value` itself."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0

    def inc(self) -> None:
        """Add one."""
        self.value += 1

    def dec(self) -> None:
        """Take one off."""
        self.value -= 1

    def set(self, value: float) -> None:
        """Be this."""
        self.value = value


class Measurements:
    """All metrics of one process. worker: its name among the workers of a gateway. series: that a scrape shows at most."""

    def __init__(self, live: LiveEndpoints, worker: str = "0", series: int = 2000) -> None:
        self._series = Series(series)
        self._scraping = asyncio.Lock()
        self._live = live
        self._worker = worker
        self._red: dict[tuple[str, str], Red] = {}
        self._tallies: dict[names.Metric, dict[Labels, Tally]] = {}
        self._streams: dict[Labels, Spread] = {}
        self._readers: dict[names.Metric, list[Reader]] = {}
        self._spread_readers: dict[names.Metric, list[SpreadReader]] = {}
        self._attempts: dict[Labels, Tally] = {}
        self._tallies[names.ATTEMPTS] = self._attempts
        self.generation = self.tally(names.GENERATION)
        self.swaps = self.tally(names.SWAPS)
        self.swap_failures = self.tally(names.SWAP_FAILURES)
        self.spans_dropped = self.tally(names.SPANS_DROPPED)
        self.log_lines_dropped = self.tally(names.LINES_DROPPED)

    def red(self, route: str, upstream: str) -> Red:
        """Return the counts of a route and upstream, the same through every swap. For a runtime's build, not for each request."""
        key = (route, upstream)
        found = self._red.get(key)
        if found is None:
            found = self._red[key] = Red(route, upstream)
        return found

    def tally(self, metric: names.Metric, *labels: str) -> Tally:
        """Return one series of a counter or gauge. labels: values in the metric's order; a ValueError for another number."""
        series = self._tallies.get(metric)
        if series is None:
            series = self._tallies[metric] = {}
        found = series.get(labels)
        if found is None:
            if len(labels) != len(metric.labels):
                raise ValueError(f"{metric.name} has the labels {metric.labels}, not {len(labels)} of them.")
            found = series[labels] = Tally()
        return found

    def watch(self, metric: names.Metric, read: Reader) -> None:
        """Have a gauge read whenever the metrics are. read: cheap; it runs on the event loop."""
        self._readers.setdefault(metric, []).append(read)

    def watch_spreads(self, metric: names.Metric, read: SpreadReader) -> None:
        """Have a histogram read whenever the metrics are. read: cheap; it runs on the event loop."""
        self._spread_readers.setdefault(metric, []).append(read)

    def request(self, route: str, upstream: str, status: int, seconds: float) -> None:
        """Count one answered request."""
        self.red(route, upstream).add(status, seconds)

    def refused(self, reason: str) -> None:
        """Count an answer of the gateway's own."""
        self.tally(names.REFUSED, reason).value += 1

    def attempt(self, upstream: str, outcome: str) -> None:
        """Count one attempt. Called once per request at least."""
        found = self._attempts.get((upstream, outcome))
        if found is None:
            found = self.tally(names.ATTEMPTS, upstream, outcome)
        found.value += 1

    def retry(self, upstream: str) -> None:
        """Count a repeated attempt."""
        self.tally(names.RETRIES, upstream).value += 1

    def hedge(self, upstream: str) -> None:
        """Count an attempt beside another."""
        self.tally(names.HEDGES, upstream).value += 1

    def hedge_budget_spent(self, upstream: str) -> None:
        """Count a hedge that the budget refused."""
        self.tally(names.HEDGE_BUDGET_SPENT, upstream).value += 1

    def ejection(self, upstream: str) -> None:
        """Count an endpoint that was taken out as an outlier."""
        self.tally(names.EJECTIONS, upstream).value += 1

    def mirrored(self, upstream: str, ok: bool) -> None:
        """Count a copy of a request: sent, or given up."""
        self.tally(names.MIRRORED, upstream, "ok" if ok else "failed").value += 1

    def fallback(self, upstream: str) -> None:
        """Count a request that the fallback of an upstream's rule answered."""
        self.tally(names.FALLBACKS, upstream).value += 1

    def rate_limited(self, limit: str) -> None:
        """Count a request over a limit."""
        self.tally(names.RATE_LIMITED, limit).value += 1

    def shed(self, reason: str) -> None:
        """Count what was turned away for want of room. reason: the bound, of a few words that are in the code."""
        self.tally(names.SHED, reason).value += 1

    def health_check(self, upstream: str, ok: bool) -> None:
        """Count an active health check."""
        self.tally(names.HEALTH_CHECKS, upstream, "ok" if ok else "failed").value += 1

    def budget_spent(self, upstream: str) -> None:
        """Count a retry that the budget refused."""
        self.tally(names.BUDGET_SPENT, upstream).value += 1

    def stream_spread(self, route: str, upstream: str) -> Spread:
        """Return the durations of a route's connections to an upstream."""
        key = (route, upstream)
        found = self._streams.get(key)
        if found is None:
            found = self._streams[key] = Spread(_STREAM_BOUNDS)
        return found

    def failed(self, plugin: str, hook: str) -> None:
        """Count a hook call that failed or ran out of time."""
        self.tally(names.PLUGIN_ERRORS, plugin, hook).value += 1

    def forget(self, routes: set[str], upstreams: set[str], plugins: set[str]) -> None:
        """Drop the series of what is configured no longer. The sets hold what is; empty labels (no route) stay.

        A request that began before may still add to its dropped series; nobody will see it.
        """
        kept = {"route": routes, "upstream": upstreams, "plugin": plugins}
        for pair in [pair for pair in self._red if not _lives(("route", "upstream"), pair, kept)]:
            del self._red[pair]
        for metric, series in self._tallies.items():
            for labels in [labels for labels in series if not _lives(metric.labels, labels, kept)]:
                del series[labels]
        for labels in [labels for labels in self._streams if not _lives(names.STREAM_DURATION.labels, labels, kept)]:
            del self._streams[labels]

    def state(self) -> State:
        """Return everything as JSON values, for a supervisor that adds up its workers' (`exposition.merge`)."""
        state = self._state()
        return {
            **state,
            "counts": {name: [list(row) for row in rows] for name, rows in state["counts"].items()},
            "red": list(state["red"]),
        }

    def scrape(self, accept: str = "") -> tuple[bytes, str]:
        """Return the exposition and its content type. accept: the scraper's header. At once: for tests and few routes."""
        openmetrics = exposition.accepts_openmetrics(accept)
        body = "".join(exposition.render(self._state(), self._series, openmetrics=openmetrics))
        return body.encode(), exposition.OPENMETRICS if openmetrics else exposition.TEXT

    async def scrape_in_slices(self, accept: str = "") -> tuple[bytes, str]:
        """Do the same, giving way to the event loop after each part (0.5 ms): thousands of routes stop no request."""
        openmetrics = exposition.accepts_openmetrics(accept)
        parts = []
        async with self._scraping:
            for part in exposition.render(self._state(), self._series, openmetrics=openmetrics):
                parts.append(part)
                await asyncio.sleep(0)
        return "".join(parts).encode(), exposition.OPENMETRICS if openmetrics else exposition.TEXT

    def _state(self) -> dict[str, Any]:
        """Return the state with its rows read as they are used."""
        counts: dict[str, Iterable[Row]] = {
            metric.name: _rows(tuple(series.items())) for metric, series in self._tallies.items()
        }
        for metric, readers in self._readers.items():
            own = counts.get(metric.name, ())
            counts[metric.name] = chain(own, chain.from_iterable(_labelled(read) for read in tuple(readers)))
        live = tuple(self._live())
        every = [
            (names.ENDPOINTS, _endpoints),
            (names.ACTIVE, _active),
            (names.BREAKER, _circuits),
            (names.HEALTHY, _healthy),
        ]
        for metric, read in (*every, (names.UPSTREAM_CONNECTIONS, _connections)):
            counts[metric.name] = chain(counts.get(metric.name, ()), read(live))
        return {
            "workers": [self._worker],
            "counts": counts,
            "spreads": {
                names.STREAM_DURATION.name: _spreads(self._streams.items()),
                **{
                    metric.name: [row for read in readers for row in _spreads(read())]
                    for metric, readers in self._spread_readers.items()
                },
            },
            "red": (red.state() for red in tuple(self._red.values()) if any(red.codes)),
        }


def _rows(series: Iterable[tuple[Labels, Tally]]) -> Iterator[Row]:
    return ([list(labels), tally.value] for labels, tally in series)


def _spreads(series: Iterable[tuple[Labels, Spread]]) -> list[Row]:
    return [[list(labels), list(each.bounds), list(each.buckets), each.sum] for labels, each in series]


def _labelled(read: Reader) -> Iterator[Row]:
    return ([list(labels), value] for labels, value in read())


def _endpoints(live: Live) -> Iterator[Row]:
    return ([[upstream], len(states)] for upstream, states in live)


def _active(live: Live) -> Iterator[Row]:
    return ([[upstream, state.authority], state.active] for upstream, states in live for state in states)


def _circuits(live: Live) -> Iterator[Row]:
    return (
        [[upstream, state.authority], _CIRCUIT.get(state.breaker.state, 0.0)]
        for upstream, states in live
        for state in states
    )


def _healthy(live: Live) -> Iterator[Row]:
    return ([[upstream, state.authority], float(state.healthy)] for upstream, states in live for state in states)


def _connections(live: Live) -> Iterator[Row]:
    for upstream, states in live:
        opened = sum(state.connections for state in states)
        if opened:
            idle = sum(len(state.idle) for state in states)
            yield [[upstream, "active"], max(opened - idle, 0)]
            yield [[upstream, "idle"], idle]


def encode(state: State) -> bytes:
    """Return a state as one worker hands it to its supervisor."""
    return msgspec.json.encode(state)


class Renderer:
    """Renders the states of several workers as one exposition."""

    def __init__(self, series: int = 2000) -> None:
        """series: that a scrape shows at most."""
        self._series = Series(series)

    def render_encoded(self, states: Iterable[bytes], accept: str = "") -> tuple[bytes, str]:
        """Do what `render` does with states that were encoded. Raises ValueError for what is none."""
        try:
            return self.render([msgspec.json.decode(each) for each in states], accept)
        except (msgspec.DecodeError, KeyError, TypeError) as error:
            raise ValueError(f"a worker's measurements cannot be read: {error}") from error

    def render(self, states: Iterable[State], accept: str = "") -> tuple[bytes, str]:
        """Return the exposition and its content type. accept: the scraper's header."""
        openmetrics = exposition.accepts_openmetrics(accept)
        body = "".join(exposition.render(exposition.merge(states), self._series, openmetrics=openmetrics)).encode()
        return body, exposition.OPENMETRICS if openmetrics else exposition.TEXT


def _lives(names_of: tuple[str, ...], values: tuple[str, ...], kept: dict[str, set[str]]) -> bool:
    return all(
        not value or name not in kept or value in kept[name] for name, value in zip(names_of, values, strict=True)
    )
