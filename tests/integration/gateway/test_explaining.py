"""`/explain` of a running gateway: everything that holds on a request, where it comes from, and who could serve it now."""

from __future__ import annotations

from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from nexus_core.match.asking import parse_question
from nexus_core.snapshot import (
    Balancing,
    CircuitBreaker,
    Fault,
    HashKey,
    Hedge,
    Match,
    RateLimit,
    Retry,
    SizeLimit,
    WeightedBackend,
)
from nexus_core.snapshot.routes import HeaderMatch
from nexus_gateway.edge.admin import Admin, State
from nexus_gateway.edge.explaining import explain
from nexus_gateway.edge.plugins.logbooks import Logbook
from nexus_gateway.testing import Harness, route, rule, snapshot, turns_while, upstream

LIMIT = RateLimit("NexusPolicy shop/calm/0", 10, per_s=1.0, burst=20)


async def fail(request: web.Request) -> web.StreamResponse:
    return web.Response(status=503)


async def name(request: web.Request) -> web.StreamResponse:
    assert request.transport is not None
    return web.Response(text=str(request.transport.get_extra_info("sockname")[1]))


async def test_everything_that_holds_is_told_with_its_origin(harness: Harness) -> None:
    filters = (LIMIT, SizeLimit(request_bytes=100), SizeLimit(request_bytes=50), Fault(delay_s=0.1, delay_ratio=0.5))
    backends = (WeightedBackend("shop/orders", 3), WeightedBackend("shop/b", 1))
    await harness.start(
        snapshot(
            route(rule(*backends, filters=filters, retry=Retry(attempts=7)), hostnames=("shop.example",)),
            upstream(9000, hedge=Hedge()),
            upstream(9001, upstream_id="shop/b"),
        )
    )
    told = await harness.ask("/explain?url=http://shop.example:8080/x?token=HUSH%26page=2")
    assert told["request"] == {
        "method": "GET", "host": "shop.example", "path": "/x", "query": "token=[redacted]&page=2"
    }  # fmt: skip
    assert [each["id"] for each in told["listeners"]] == ["default/nexus/http"]
    assert told["limits"][0] == {
        "name": "NexusPolicy shop/calm/0", "requests": 10, "per_s": 1.0, "burst": 20, "key": [],
        "from": "NexusPolicy shop/calm",
    }  # fmt: skip
    assert told["size"] == {"request_bytes": 50, "response_bytes": 0}
    assert told["fault"]["delay_ratio"] == 0.5
    first, second = told["upstreams"]
    assert (first["share"], second["share"]) == (0.75, 0.25)
    policies = first["policies"]
    assert (policies["retry"]["value"]["attempts"], policies["retry"]["from"]) == (7, "rule HTTPRoute/shop/main/0")
    assert (policies["hedge"]["from"], second["policies"]["hedge"]["from"]) == ("NexusService shop/orders", "off")
    assert policies["breaker"] == {
        "value": {
            "failures": 5, "reset_s": 10.0, "error_ratio": 0.0, "min_requests": 20, "window_s": 10.0, "probes": 1,
        },
        "from": "default",
    }  # fmt: skip


async def test_an_open_circuit_is_told_with_the_time_that_it_stays_open(harness: Harness) -> None:
    good, bad = await harness.upstreams.start(name), await harness.upstreams.start(fail)
    quick = CircuitBreaker(failures=1, reset_s=60.0)
    await harness.start(
        snapshot(route(rule("shop/orders", retry=Retry(attempts=0))), upstream(good, bad, breaker=quick))
    )
    assert harness.client is not None
    for _ in range(40):
        async with harness.client.get(harness.url("/")) as response:
            if response.status == 503:
                break
    told = await harness.ask("/explain?url=/")
    rows = {each["endpoint"]: each for each in told["upstreams"][0]["endpoints"]}
    assert rows[f"127.0.0.1:{good}"]["serves"]
    assert not rows[f"127.0.0.1:{good}"]["why_not"]
    broken = rows[f"127.0.0.1:{bad}"]
    (reason,) = broken["why_not"]
    assert (broken["serves"], broken["circuit"], reason["why"]) == (False, "open", "circuit-open")
    assert 50.0 < reason["for_s"] <= 60.0
    assert told["upstreams"][0]["pick"]["endpoint"] == f"127.0.0.1:{good}", "nobody else is left"


@pytest.mark.parametrize(
    ("breaker", "expected"),
    [
        (CircuitBreaker(failures=0), "off"),
        (CircuitBreaker(failures=0, error_ratio=0.5), "closed"),
        (CircuitBreaker(), "closed"),
    ],
)
async def test_a_circuit_that_nothing_opens_is_off(harness: Harness, breaker: CircuitBreaker, expected: str) -> None:
    await harness.start(snapshot(route(rule("shop/orders")), upstream(9000, breaker=breaker)))
    told = await harness.ask("/explain?url=/")
    assert [each["circuit"] for each in told["upstreams"][0]["endpoints"]] == [expected]


@pytest.mark.parametrize("algorithm", ["ring-hash", "maglev"])
async def test_the_endpoint_that_is_told_is_the_one_that_serves(harness: Harness, algorithm: Any) -> None:
    ports = [await harness.upstreams.start(name) for _ in range(4)]
    balancing = Balancing(algorithm=algorithm, hash_on=(HashKey("header", "x-client"),))
    await harness.start(snapshot(route(rule("shop/orders")), upstream(*ports, balancing=balancing)))
    assert harness.client is not None
    seen = set()
    for client in map(str, range(40)):  # of few, with the ports that it happens to get, all may belong to one endpoint
        told = await harness.ask(f"/explain?url=/&header=x-client: {client}")
        async with harness.client.get(harness.url("/"), headers={"x-client": client}) as response:
            served = f"127.0.0.1:{await response.text()}"
        assert told["upstreams"][0]["pick"]["endpoint"] == served
        seen.add(served)
    assert len(seen) > 1


async def test_values_of_secret_headers_are_in_no_sentence(harness: Harness) -> None:
    wanted = Match("/", headers=(HeaderMatch("authorization", "Bearer HUSH"),))
    await harness.start(snapshot(route(rule("shop/orders", matches=(wanted,))), upstream(9000)))
    assert harness.client is not None
    for given in ("", "&header=authorization: Bearer MINE", "&header=authorization: Bearer HUSH"):
        async with harness.client.get(harness.admin(f"/explain?url=/{given}")) as response:
            text = await response.text()
        assert "authorization" in text
        assert "HUSH" not in text
        assert "MINE" not in text


@pytest.mark.parametrize("query", ["url=/a%252Fb", "url=http://[::bad/", "header=none&url=/"])
async def test_what_the_gateway_would_refuse_is_said(harness: Harness, query: str) -> None:
    await harness.start()
    async with harness.client.get(harness.admin(f"/explain?{query}")) as response:  # type: ignore[union-attr]
        assert response.status == 400
        assert (await response.json())["error"]


async def test_requests_are_served_while_thousands_of_routes_are_looked_through(harness: Harness) -> None:
    """Handlers are called here, and not over HTTP, whose own waiting would count as turns."""
    rules = tuple(rule("shop/orders", rule_id=f"HTTPRoute/shop/main/{n}", path=f"/{n}") for n in range(2000))
    gateway = await harness.start(snapshot(route(*rules), upstream(9000)))
    assert (await turns_while(explain(gateway.runtime, parse_question("GET", "http://shop.example/1999"))))[1] > 0
    admin = Admin(
        State(
            "r",
            lambda: gateway.runtime,
            gateway.pools,
            gateway.measurements,
            tuple,
            lambda: None,
            None,
            gateway.samples,
            Logbook(lambda _: False),
        )
    )
    asked = make_mocked_request("GET", "/")
    assert (await turns_while(admin.routes(asked)))[1] > 0
    assert (await turns_while(admin.config(asked)))[1] > 0
