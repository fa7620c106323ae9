"""However much is configured, a scrape shows a bounded number of series, and what it says of the rest is right."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nexus_core.discovery import Endpoint
from nexus_core.snapshot import CircuitBreaker
from nexus_gateway.edge.measurements import Measurements, Renderer, Spread
from nexus_gateway.edge.plugins.meters import SHOWN
from nexus_gateway.resilience.endpoints import EndpointRegistry, EndpointState
from nexus_gateway.telemetry import names
from nexus_gateway.telemetry.red import BOUNDS
from nexus_gateway.telemetry.series import LEAST, OTHER, Series
from prometheus_client.parser import text_string_to_metric_families


@pytest.fixture
def many() -> tuple[tuple[str, tuple[EndpointState, ...]], ...]:
    registry = EndpointRegistry()
    return tuple(
        (upstream, registry.update(upstream, [Endpoint("127.0.0.1", 80)], CircuitBreaker(), 0.0))
        for upstream in (f"shop/s{number}" for number in range(400))
    )


def lines(body: bytes) -> list[str]:
    return [line for line in body.decode().splitlines() if line and not line.startswith("#")]


def crowded(made: Measurements, routes: int) -> None:
    """Everything that can be counted is, in every way."""
    for number in range(routes):
        route, upstream = f"HTTPRoute/shop/r{number}", f"shop/s{number}"
        red = made.red(route, upstream)
        for status in (101, 200, 301, 404, 503):
            red.add(status, 0.01)
        for outcome in ("answered", "connect-failure", "reset", "timeout", "502", "503", "504", "abandoned"):
            made.attempt(upstream, outcome)
        for metric in names.METRICS:
            if metric.kind == "counter" and metric.labels == ("upstream",):
                made.tally(metric, upstream).inc()
        made.mirrored(upstream, True)
        made.mirrored(upstream, False)
        made.health_check(upstream, True)
        made.health_check(upstream, False)
        made.rate_limited(f"NexusPolicy/shop/{number}")
        for hook in ("on_request", "on_response", "on_end"):
            made.failed(f"shop/p{number}", hook)
        stream = f"TCPRoute/shop/r{number}"
        for outcome in ("ended", "ClientReset", "UpstreamReset", "IdleTimeout"):
            made.tally(names.STREAMS, stream, upstream, outcome).inc()
        for direction in ("in", "out"):
            made.tally(names.STREAM_BYTES, stream, upstream, direction).inc()
        made.tally(names.STREAMS_ACTIVE, stream, upstream).inc()
        made.stream_spread(stream, upstream).observe(1.0)
    plugins = [f"shop/p{number}" for number in range(routes)]
    spread = Spread(SHOWN)
    spread.observe(0.001)
    hooks = [((plugin, hook), spread) for plugin in plugins for hook in ("on_request", "on_response", "on_end")]
    made.watch_spreads(names.PLUGIN_DURATION, lambda: hooks)
    made.watch_spreads(names.PLUGIN_SECONDS, lambda: [((plugin, "1.0"), spread) for plugin in plugins])
    for metric in (names.PLUGIN_CALLS, names.PLUGIN_FAILED, names.PLUGIN_CPU, names.PLUGIN_CANDIDATE):
        made.watch(metric, lambda: [((plugin, "1.0"), 1) for plugin in plugins])
    made.watch(names.PLUGIN_DISABLED, lambda: [((plugin,), 1) for plugin in plugins])
    every = [f"shop/s{number}" for number in range(routes)]
    made.watch(names.PENDING, lambda: [((upstream,), 1) for upstream in every])
    made.watch(names.CONCURRENCY_LIMIT, lambda: [((upstream,), 8) for upstream in every])


@pytest.mark.parametrize("limit", [LEAST, 2000, 5000])
def test_the_bound_holds_when_everything_counts(
    limit: int, many: tuple[tuple[str, tuple[EndpointState, ...]], ...]
) -> None:
    made = Measurements(lambda: many, series=limit)
    crowded(made, len(many))
    shown = lines(made.scrape()[0])
    assert limit / 3 < len(shown) <= limit
    again = lines(made.scrape()[0])
    assert [line.split(" ")[0] for line in again] == [line.split(" ")[0] for line in shown], "the same ones each time"


def test_a_few_routes_are_all_shown(many: tuple[tuple[str, tuple[EndpointState, ...]], ...]) -> None:
    made = Measurements(lambda: many[:12], series=2000)
    for number in range(12):
        made.red(f"HTTPRoute/shop/r{number}", f"shop/s{number}").add(200, 0.01)
        made.attempt(f"shop/s{number}", "answered")
    assert not any(f'"{OTHER}"' in line for line in lines(made.scrape()[0]))


def test_nothing_is_lost_in_the_sums(many: tuple[tuple[str, tuple[EndpointState, ...]], ...]) -> None:
    made = Measurements(lambda: many, series=LEAST)
    crowded(made, len(many))
    found: Counter[str] = Counter()
    for family in text_string_to_metric_families(made.scrape()[0].decode()):
        for sample in family.samples:
            found[sample.name] += sample.value
    routes = len(many)
    assert found["nexus_gateway_requests_total"] == 5 * routes
    assert found["nexus_gateway_request_duration_seconds_count"] == 5 * routes
    assert found["nexus_gateway_request_duration_seconds_sum"] == pytest.approx(0.05 * routes)
    assert found["nexus_gateway_upstream_attempts_total"] == 8 * routes
    assert found["nexus_gateway_plugin_hook_duration_seconds_count"] == 3 * routes
    assert found["nexus_gateway_upstream_endpoints"] == routes
    assert found["nexus_gateway_upstream_pending"] == routes


def test_trouble_of_one_among_the_others_is_seen(many: tuple[tuple[str, tuple[EndpointState, ...]], ...]) -> None:
    many[-1][1][0].healthy = False
    made = Measurements(lambda: many, series=LEAST)
    found = {line.split(" ")[0]: float(line.split(" ")[1]) for line in lines(made.scrape()[0])}
    assert found[f'nexus_gateway_endpoint_healthy{{endpoint="{OTHER}",upstream="{OTHER}"}}'] == 0


def test_workers_share_one_bound(many: tuple[tuple[str, tuple[EndpointState, ...]], ...]) -> None:
    states = []
    for worker in range(3):
        made = Measurements(lambda: many, str(worker))
        crowded(made, 200 + worker)
        states.append(made.state())
    renderer = Renderer(LEAST)
    assert len(lines(renderer.render(states)[0])) <= LEAST
    assert renderer.render(states) == renderer.render(states)


Step = st.dictionaries(st.integers(0, 12), st.integers(0, 5), max_size=13)


@given(st.lists(Step, min_size=1, max_size=8))
def test_counters_never_fall_while_routes_come_and_go(steps: list[dict[int, int]]) -> None:
    """steps: in each, what is configured and by how much it grew. The database adds up rises: a fall would look like a restart."""
    series = Series(LEAST)
    room = 20  # of routes that are answered; a quarter of them timed: the property needs folded ones of both kinds
    counts: dict[str, int] = {}
    before: dict[tuple[str, int], float] = {}
    for step in steps:
        names_of = [f"r/{number * room + extra}" for number in step for extra in range(room)]
        counts = {name: counts.get(name, 0) + step[int(name[2:]) // room] for name in names_of}
        rows: list[dict[str, Any]] = [
            {
                "route": name, "upstream": "u/u", "codes": [0, 0, count, 0, 0, 0, 0, 0, 0, 0],
                "buckets": [count] + [0] * len(BOUNDS), "sum": float(count), "exemplars": {},
            }
            for name, count in counts.items()
        ]  # fmt: skip
        shown = [row for row in series.red(rows) if row is not None]
        tallies = [row for row in series.rows(names.RETRIES, [[[n], c] for n, c in counts.items()]) if row is not None]
        now: dict[tuple[str, int], float] = {}
        for row in shown:
            now["codes " + row["route"], 0] = sum(row["codes"])
            now["times " + row["route"], 0] = sum(row["buckets"])
        for labels, value in tallies:
            now["retries " + labels[0], 0] = value
        others = {key: value for key, value in now.items() if key[0].endswith(OTHER)}
        assert all(value >= before.get(key, 0) for key, value in others.items())
        assert all(key in now for key in before), "and what was counted together does not vanish"
        before = others
        assert sum(sum(row["codes"]) for row in shown) >= sum(counts.values())
