"""Measurements: what is counted is scraped, forgotten with its route, added up over workers, and understood by Prometheus' parsers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable

import pytest
from nexus_core.discovery import Endpoint
from nexus_core.snapshot import CircuitBreaker
from nexus_gateway.edge.measurements import Measurements, Renderer, Spread, encode
from nexus_gateway.resilience.endpoints import EndpointRegistry, EndpointState
from nexus_gateway.telemetry import names
from nexus_gateway.telemetry.exposition import OPENMETRICS, TEXT, accepts_openmetrics
from nexus_gateway.telemetry.red import BOUNDS
from nexus_gateway.testing import turns_while
from prometheus_client import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

ACCEPT = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.1"
ROUTE, UPSTREAM = "HTTPRoute/shop/main", "shop/orders"
Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def measurements(worker: str = "0", states: tuple[EndpointState, ...] = ()) -> Measurements:
    return Measurements(lambda: [(UPSTREAM, states)] if states else [], worker)


def samples(families: Iterable[Metric]) -> Samples:
    return {
        (each.name, tuple(sorted(each.labels.items()))): each.value for family in families for each in family.samples
    }


def scraped(made: Measurements) -> Samples:
    """What both formats say, which must be the same."""
    body, kind = made.scrape()
    assert kind == TEXT
    plain = samples(parse_text(body.decode()))
    body, kind = made.scrape(ACCEPT)
    assert kind == OPENMETRICS
    assert samples(parse_openmetrics(body.decode())) == plain
    return plain


def only(found: Samples, name: str) -> list[float]:
    return [value for (each, _), value in found.items() if each == name]


def test_what_is_counted_is_scraped() -> None:
    made = measurements()
    red = made.red(ROUTE, UPSTREAM)
    for code, seconds in ((200, 0.001), (201, 0.3), (503, 99.0)):
        red.add(code, seconds)
    made.refused("NoEndpoints")
    made.tally(names.UPSTREAM_CONNECTIONS, UPSTREAM, "idle").set(3)
    made.watch(names.PENDING, lambda: [((UPSTREAM,), 7)])
    hook(made, "shop/demo", 0.002)
    made.failed("shop/demo", "on_request")
    found = scraped(made)
    where = (("route", ROUTE), ("upstream", UPSTREAM))
    assert found["nexus_gateway_requests_total", (("code_class", "2xx"), *where)] == 2
    assert found["nexus_gateway_requests_total", (("code_class", "5xx"), *where)] == 1
    les = [
        found["nexus_gateway_request_duration_seconds_bucket", (("le", le), *where)]
        for le in (*map(str, BOUNDS), "+Inf")
    ]
    assert les == [1.0] * 8 + [2.0] * 6 + [3.0]
    assert found["nexus_gateway_request_duration_seconds_count", where] == 3
    assert found["nexus_gateway_request_duration_seconds_sum", where] == pytest.approx(99.301)
    assert found["nexus_gateway_requests_refused_total", (("reason", "NoEndpoints"),)] == 1
    assert found["nexus_gateway_upstream_connections", (("state", "idle"), ("upstream", UPSTREAM))] == 3
    assert found["nexus_gateway_upstream_pending", (("upstream", UPSTREAM),)] == 7
    assert found["nexus_gateway_plugin_hook_errors_total", (("hook", "on_request"), ("plugin", "shop/demo"))] == 1
    assert (
        found["nexus_gateway_plugin_hook_duration_seconds_sum", (("hook", "on_request"), ("plugin", "shop/demo"))]
        == 0.002
    )


def test_every_metric_is_announced_in_both_formats() -> None:
    for accept in ("", ACCEPT):
        text = measurements().scrape(accept)[0].decode()
        for metric in names.METRICS:
            assert f"# HELP {metric.name}" in text
            assert f"# TYPE {metric.name}" in text


def test_labels_are_escaped() -> None:
    made = measurements()
    odd = 'a"b\\c\nd,e}'
    made.red(odd, odd).add(200, 0.1)
    made.refused(odd)
    found = scraped(made)
    assert found["nexus_gateway_requests_refused_total", (("reason", odd),)] == 1
    assert found["nexus_gateway_requests_total", (("code_class", "2xx"), ("route", odd), ("upstream", odd))] == 1


def test_exemplars_are_shown_to_those_who_can_read_them() -> None:
    made = measurements()
    red = made.red(ROUTE, UPSTREAM)
    red.add(200, 0.3)
    red.exemplar(b"a" * 32, 0.3, 1700000000.25)
    assert b"a" * 32 not in made.scrape()[0]
    found = [
        each.exemplar
        for family in parse_openmetrics(made.scrape(ACCEPT)[0].decode())
        for each in family.samples
        if each.exemplar is not None
    ]
    assert [(each.labels, each.value, float(each.timestamp)) for each in found] == [
        ({"trace_id": "a" * 32}, 0.3, 1700000000.25)
    ]


def test_idle_routes_have_no_series_and_what_is_gone_is_forgotten() -> None:
    made = measurements()
    for number in range(5000):
        made.red(f"route-{number}", "shop/orders")
    assert b"route-" not in made.scrape()[0]
    made.red("route-1", "shop/orders").add(200, 0.1)
    made.red("route-2", "shop/orders").add(200, 0.1)
    made.red("route-2", "shop/gone").add(200, 0.1)
    made.red("", "").add(404, 0.1)
    made.attempt("shop/gone", "answered")
    made.failed("shop/demo", "on_request")
    kept = made.red("route-2", "shop/orders")
    made.forget({"route-2"}, {"shop/orders"}, set())
    assert made.red("route-2", "shop/orders") is kept, "counts outlive a swap"
    found = scraped(made)
    assert {labels for name, labels in found if name == "nexus_gateway_requests_total"} == {
        (("code_class", "2xx"), ("route", "route-2"), ("upstream", "shop/orders")),
        (("code_class", "4xx"), ("route", ""), ("upstream", "")),
    }
    assert not only(found, "nexus_gateway_upstream_attempts_total")
    assert not only(found, "nexus_gateway_plugin_hook_errors_total")


def test_series_have_the_labels_of_their_metric() -> None:
    with pytest.raises(ValueError, match="labels"):
        measurements().tally(names.RETRIES)


def test_endpoints_are_read_when_scraped() -> None:
    registry = EndpointRegistry()
    states = registry.update(UPSTREAM, [Endpoint("127.0.0.1", 80), Endpoint("127.0.0.1", 81)], CircuitBreaker(), 0.0)
    states[1].active = 3
    states[0].connections, states[1].connections, states[1].healthy = 2, 3, False
    states[1].idle.extend([object(), object()])
    found = scraped(measurements(states=states))
    assert only(found, "nexus_gateway_upstream_endpoints") == [2]
    assert only(found, "nexus_gateway_endpoint_active") == [0, 3]
    assert only(found, "nexus_gateway_endpoint_circuit_open") == [0, 0]
    assert only(found, "nexus_gateway_endpoint_healthy") == [1, 0]
    assert found["nexus_gateway_upstream_connections", (("state", "active"), ("upstream", UPSTREAM))] == 3
    assert found["nexus_gateway_upstream_connections", (("state", "idle"), ("upstream", UPSTREAM))] == 2


def hook(made: Measurements, plugin: str, seconds: float) -> None:
    spread = Spread((0.001, 0.1))
    spread.observe(seconds)
    made.watch_spreads(names.PLUGIN_DURATION, lambda: [((plugin, "on_request"), spread)])


def worker(name: str, requests: int) -> Measurements:
    registry = EndpointRegistry()
    made = measurements(name, registry.update(UPSTREAM, [Endpoint("127.0.0.1", 80)], CircuitBreaker(), 0.0))
    for _ in range(requests):
        made.red(ROUTE, UPSTREAM).add(200, 0.3)
    made.red(ROUTE, UPSTREAM).exemplar(name.encode() * 32, 0.3, 100.0 + int(name))
    made.red(f"only-{name}", UPSTREAM).add(404, 0.1)
    made.tally(names.IN_FLIGHT).set(requests)
    made.generation.set(10 + requests)
    made.swaps.set(4)
    hook(made, "p", 0.5)
    made.refused(f"reason-{name}")
    return made


def test_workers_are_added_up() -> None:
    states = [
        json.loads(json.dumps(worker(name, requests).state())) for name, requests in (("0", 1), ("1", 2), ("2", 4))
    ]
    found = samples(parse_text(Renderer().render(states)[0].decode()))
    where = (("route", ROUTE), ("upstream", UPSTREAM))
    assert found["nexus_gateway_requests_total", (("code_class", "2xx"), *where)] == 7
    assert found["nexus_gateway_request_duration_seconds_bucket", (("le", "+Inf"), *where)] == 7
    assert found["nexus_gateway_request_duration_seconds_sum", where] == pytest.approx(2.1)
    assert len(only(found, "nexus_gateway_requests_total")) == 4
    in_flight = {labels: value for (name, labels), value in found.items() if name == "nexus_gateway_requests_in_flight"}
    assert in_flight == {(("worker", "0"),): 1, (("worker", "1"),): 2, (("worker", "2"),): 4}
    assert only(found, "nexus_gateway_snapshot_generation") == [11], "the oldest: not live before it is on every worker"
    assert only(found, "nexus_gateway_snapshot_swaps_total") == [4]
    assert only(found, "nexus_gateway_upstream_endpoints") == [1]
    assert only(found, "nexus_gateway_plugin_hook_duration_seconds_count") == [3]
    assert len(only(found, "nexus_gateway_requests_refused_total")) == 3
    assert "2" * 32 in Renderer().render(states, ACCEPT)[0].decode(), "the newest exemplar"
    list(parse_openmetrics(Renderer().render(states, ACCEPT)[0].decode()))


def test_one_worker_is_rendered_as_it_scrapes_itself() -> None:
    made = worker("0", 3)
    assert Renderer().render([made.state()], ACCEPT) == made.scrape(ACCEPT)
    assert Renderer().render_encoded([encode(made.state())], ACCEPT) == made.scrape(ACCEPT)


@pytest.mark.parametrize("odd", [b"", b"[]", b"{}", b"nonsense"])
def test_measurements_that_cannot_be_read_are_said_to_be(odd: bytes) -> None:
    with pytest.raises(ValueError, match="cannot be read"):
        Renderer().render_encoded([odd, odd])


def test_a_worker_of_another_version_may_count_what_this_one_does_not_know() -> None:
    state = worker("0", 1).state()
    state["counts"]["nexus_gateway_new"] = [[["x"], 1]]
    state["spreads"]["nexus_gateway_new_seconds"] = [[["x"], [1.0], [1, 2], 3.0]]
    assert b"nexus_gateway_new" not in Renderer().render([state, worker("1", 1).state()])[0]


def test_a_scrape_in_slices_gives_way_and_says_the_same() -> None:
    made = measurements()
    for number in range(500):
        made.red(f"route-{number}", UPSTREAM).add(200, 0.1)

    (body, _), turns = asyncio.run(turns_while(made.scrape_in_slices()))
    assert body == made.scrape()[0]
    assert turns > 30


@pytest.mark.parametrize(
    ("accept", "wanted"),
    [("", False), ("*/*", False), (ACCEPT, True), ("application/openmetrics-text", True), ("text/plain", False),
     ("application/openmetrics-text;q=0.2, text/plain;q=0.9", False), ("application/openmetrics-text;q=0", False),
     ("APPLICATION/OpenMetrics-Text; version=0.0.1", True), (";;q=,,", False), ("application/openmetrics-text;q=x", False)],
)  # fmt: skip
def test_the_format_is_the_scrapers_choice(accept: str, wanted: bool) -> None:
    assert accepts_openmetrics(accept) is wanted
