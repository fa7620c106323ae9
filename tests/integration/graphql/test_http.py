"""GraphQL over HTTP: the audits' essentials, limits and the cache, on a running service."""

from __future__ import annotations

import json
from typing import Any

import aiohttp
import pytest

NEW = "application/graphql-response+json"
OLD = "application/json"
TYPENAME = {"query": "{ __typename }"}


@pytest.fixture
async def http(empty_shop: Any) -> aiohttp.ClientSession:
    """A service whose catalogue is empty: HTTP does not depend on it."""
    await empty_shop.start_graphql(NEXUS_GRAPHQL_MAX_BODY_BYTES="4096")
    await empty_shop.until(lambda v: v.version == 1)
    session: aiohttp.ClientSession = empty_shop.session
    return session


@pytest.mark.parametrize(
    ("accept", "served"),
    [
        (NEW, NEW), (OLD, OLD), ("*/*", OLD), ("application/*", OLD), (None, OLD), ("", OLD),
        (f"{NEW}, {OLD};q=0.9", NEW), (f"{NEW};q=0.5, {OLD}", OLD), ("text/html;q=0.1, application/json", OLD),
        (f"{NEW}; charset=utf-8", NEW), (f"text/plain, {NEW}", NEW),
    ],
)  # fmt: skip
async def test_the_media_type_follows_accept(http: aiohttp.ClientSession, accept: str | None, served: str) -> None:
    headers = {} if accept is None else {"accept": accept}
    skip = ["accept"] if accept is None else []
    async with http.post("/graphql", json=TYPENAME, headers=headers, skip_auto_headers=skip) as answer:
        assert (answer.status, answer.headers["content-type"]) == (200, f"{served}; charset=utf-8")
        assert await answer.json(content_type=None) == {"data": {"__typename": "Query"}}


@pytest.mark.parametrize("accept", ["image/png", f"{NEW};q=0", "text/plain", f"{OLD}; charset=latin-1"])
async def test_an_accept_that_cannot_be_met_is_406(http: aiohttp.ClientSession, accept: str) -> None:
    async with http.post("/graphql", json=TYPENAME, headers={"accept": accept}) as answer:
        assert answer.status == 406


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b"{", OLD, 400), (b"", OLD, 400), (b'"text"', OLD, 400), (b"{}", OLD, 400), (b'{"query": 7}', OLD, 400),
        (b'{"query": "{__typename}", "variables": []}', OLD, 400), (b"\xff", OLD, 400),
        (b'{"query": "{__typename}", "variables": "{}"}', OLD, 400),
        (b'{"query": "{__typename}", "operationName": 1}', OLD, 400),
        (b'{"query": "{__typename}", "extensions": 1}', OLD, 400), (b"[" * 100 + b"]" * 100, OLD, 400),
        (b'{"query": "{__typename}"}', "text/plain", 415), (b'{"query": "{__typename}"}', "application/xml", 415),
        (b'{"query": "{__typename}"}', "application/json; charset=latin-1", 415),
        (b"query=%7B__typename%7D", "application/x-www-form-urlencoded", 415),
        (b'{"query": "{__typename}"}', "Application/JSON; charset=UTF-8", 200),
        (b'{"query": "{__typename}", "variables": null, "operationName": null, "extensions": null}', OLD, 200),
    ],
)  # fmt: skip
@pytest.mark.parametrize("accept", [NEW, OLD])
async def test_what_is_no_graphql_request_is_refused(
    http: aiohttp.ClientSession, body: bytes, kind: str, status: int, accept: str
) -> None:
    headers = {"content-type": kind, "accept": accept}
    async with http.post("/graphql", data=body, headers=headers) as answer:
        found = await answer.json(content_type=None)
        assert answer.status == status, found
        assert ("data" in found) is (status == 200)


@pytest.mark.parametrize(
    "body",
    [
        {"query": "{"}, {"query": "{ nothing }"}, {"query": "query A { __typename } query B { __typename }"},
        {"query": "{ __typename }", "operationName": "B"},
        {"query": "query($n: Int!) { __typename @skip(if: false) a: __typename @include(if: $n) }"},
        {"query": "query($b: Boolean!) { __typename @skip(if: $b) }"},
        {"query": "query($b: Boolean!) { __typename @skip(if: $b) }", "variables": {"b": "yes"}},
    ],
)  # fmt: skip
async def test_a_document_that_cannot_run_is_400_and_200_for_legacy_clients(
    http: aiohttp.ClientSession, body: Any
) -> None:
    for accept, status in ((NEW, 400), (OLD, 200)):
        async with http.post("/graphql", json=body, headers={"accept": accept}) as answer:
            found = await answer.json(content_type=None)
            assert (answer.status, "data" in found) == (status, False)
            assert found["errors"][0]["message"]


async def test_get_takes_queries_and_refuses_mutations(shop: Any) -> None:
    query = {"query": "query P($id: String!) { product(id: $id) { name } }", "variables": json.dumps({"id": "tea"})}
    async with shop.session.get("/graphql", params=query) as answer:
        assert (answer.status, await answer.json()) == (200, {"data": {"product": {"name": "Tea"}}})
    async with shop.session.get("/graphql", params={"query": 'mutation { cancelOrder(id: "1") }'}) as answer:
        assert (answer.status, answer.headers["allow"]) == (405, "POST")
    assert ("DELETE", "/orders/1") not in shop.requests
    async with shop.session.get("/graphql", params={"query": "{ __typename }", "variables": "{"}) as answer:
        assert answer.status == 400
    async with shop.session.get("/graphql") as answer:
        assert answer.status == 400
    async with shop.session.put("/graphql", json=TYPENAME) as answer:
        assert (answer.status, answer.headers["allow"]) == (405, "GET, POST")


async def test_batches_are_refused_with_a_reason(http: aiohttp.ClientSession) -> None:
    async with http.post("/graphql", json=[TYPENAME, TYPENAME]) as answer:
        error = (await answer.json())["errors"][0]
        assert (answer.status, error["extensions"]["code"]) == (400, "BATCHING_UNSUPPORTED")


async def test_a_body_over_the_limit_is_413(http: aiohttp.ClientSession) -> None:
    async with http.post("/graphql", json={"query": "{ __typename }" + " " * 5000}) as answer:
        assert answer.status == 413


@pytest.mark.parametrize(
    ("limit", "query"),
    [
        ("NEXUS_GRAPHQL_MAX_DEPTH", "{ product(id: 1) { maker { name } } }"),
        ("NEXUS_GRAPHQL_MAX_DEPTH", "{ ...A } fragment A on Query { product(id: 1) { ... { maker { name } } } }"),
        ("NEXUS_GRAPHQL_MAX_ALIASES", "{ a: __typename b: __typename c: __typename }"),
        ("NEXUS_GRAPHQL_MAX_FIELDS", "{ product(id: 1) { id name } }"),
    ],
)
async def test_an_operation_over_a_limit_never_reaches_a_service(shop: Any, limit: str, query: str) -> None:
    await shop.start_graphql(**{limit: "2"})
    await shop.until_live("catalog", "orders")
    (error,) = (await shop.ask(query))["errors"]
    assert error["extensions"]["code"] == "LIMIT_EXCEEDED"
    assert "2 are allowed" in error["message"]
    assert shop.requests == []


async def test_a_document_that_doubles_itself_is_refused_in_no_time(http: aiohttp.ClientSession) -> None:
    bomb = "{ ...F0 } " + " ".join(f"fragment F{i} on Query {{ ...F{i + 1} ...F{i + 1} }}" for i in range(60))
    async with http.post("/graphql", json={"query": f"{bomb} fragment F60 on Query {{ __typename }}"}) as answer:
        assert "more than 10^9 fields" in (await answer.json())["errors"][0]["message"]


async def test_a_circle_of_fragments_is_refused_by_name(http: aiohttp.ClientSession) -> None:
    circle = "{ ...A } fragment A on Query { ...B } fragment B on Query { __typename ...A }"
    async with http.post("/graphql", json={"query": circle}, headers={"accept": NEW}) as answer:
        assert answer.status == 400
        assert "within itself" in (await answer.json(content_type=None))["errors"][0]["message"]


async def test_tokens_are_limited(http: aiohttp.ClientSession) -> None:
    async with http.post("/graphql", json={"query": "{" + " a" * 2001 + "}"}, headers={"accept": NEW}) as answer:
        assert answer.status == 400
        assert "2000" in (await answer.json(content_type=None))["errors"][0]["message"]


async def test_introspection_can_be_switched_off_with_its_hints(shop: Any) -> None:
    ask = "{ __schema { types { name } } }"
    assert "data" in await shop.ask(ask)
    await shop.start_graphql(NEXUS_GRAPHQL_INTROSPECTION="false")
    await shop.until_live("catalog")
    assert "introspection" in (await shop.ask(ask))["errors"][0]["message"]
    assert "Did you mean" not in (await shop.ask("{ product_ { id } }"))["errors"][0]["message"]


async def test_the_cache_of_documents_is_counted_and_dropped_with_its_schema(shop: Any) -> None:
    await shop.ask("{ products { id } }")
    await shop.ask("{ products { id } }")
    async with shop.session.get("/metrics") as answer:
        text = await answer.text()
    assert 'nexus_graphql_documents_total{result="hit"} 1.0' in text
    assert "nexus_graphql_services 2.0" in text
    before = shop.graphql.catalogue.view
    await shop.serve("third", {"openapi": "3.1.0", "paths": {"/x": {"get": {"responses": {"204": {}}}}}})
    after = await shop.until_live("third")
    assert after.version > before.version
    assert len(after.engine.documents) == 0


async def test_browsers_get_graphiql_with_a_policy(http: aiohttp.ClientSession) -> None:
    accept = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
    async with http.get("/graphql", headers={"accept": accept}) as answer:
        page, policy = await answer.text(), answer.headers["content-security-policy"]
    assert (answer.status, answer.content_type) == (200, "text/html")
    assert "default-src 'none'" in policy
    assert "https://cdn.jsdelivr.net" in policy
    assert "graphiql@4.1.2" in page
    assert page.count('"integrity": "sha384-') == 4


async def test_every_operation_is_a_span_and_its_calls_are_children(shop: Any) -> None:
    from nexus_graphql.app import GraphqlService
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    memory = InMemorySpanExporter()
    environ = {
        "NEXUS_DISCOVERY_FILE": str(shop.file),
        "NEXUS_NAMESPACE": "shop",
        "NEXUS_GRAPHQL_REFRESH_SECONDS": "600",
    }
    service = GraphqlService(environ=environ, span_processors=[SimpleSpanProcessor(memory)])
    running = await shop.stack.enter_async_context(service.app.test_server())
    await service.catalogue.wait_for(lambda v: v.version == 1)
    memory.clear()
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    headers = {"traceparent": f"00-{trace}-00f067aa0ba902b7-01"}
    body = {"query": 'query Tea { product(id: "tea") { id } }'}
    async with shop.session.post(f"{running.url}/graphql", json=body, headers=headers) as answer:
        assert answer.status == 200
    spans = {s.name: s for s in memory.get_finished_spans() if f"{s.context.trace_id:032x}" == trace}
    operation = spans["graphql query"]
    assert operation.attributes["graphql.operation.name"] == "Tea"
    assert any(s.parent is not None and s.parent.span_id == operation.context.span_id for s in spans.values())
