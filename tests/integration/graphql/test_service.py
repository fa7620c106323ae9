"""The GraphQL service against real services on real sockets."""

from __future__ import annotations

from typing import Any

from aiohttp import web
from nexus_sdk import ServiceApp


async def test_query_over_one_service(shop: Any) -> None:
    answer = await shop.ask("{ products(limit: 1) { id name maker { name } } }")
    assert answer == {"data": {"products": [{"id": "tea", "name": "Tea", "maker": {"name": "Leaf & Co"}}]}}
    assert shop.requests == [("GET", "/products?limit=1")]


async def test_integers_beyond_json_are_strings(shop: Any) -> None:
    answer = await shop.ask('{ product(id: "gold") { priceCents } }')
    assert answer == {"data": {"product": {"priceCents": str(2**60)}}}


async def test_one_query_over_two_services(shop: Any) -> None:
    await shop.ask('mutation { placeOrder(input: {product: "tea"}) { id } }')
    answer = await shop.ask('{ product(id: "tea") { name } order(id: "1") { product giftNote } }')
    assert answer == {"data": {"product": {"name": "Tea"}, "order": {"product": "tea", "giftNote": None}}}


async def test_mutation_sends_the_body_under_its_json_names(shop: Any) -> None:
    query = "mutation Place($input: NewOrderInput!) { placeOrder(input: $input) { id giftNote } }"
    answer = await shop.ask(query, {"input": {"product": "tea", "giftNote": "for you"}})
    assert answer == {"data": {"placeOrder": {"id": "1", "giftNote": "for you"}}}
    answer = await shop.ask('mutation { cancelOrder(id: "1") }')
    assert answer == {"data": {"cancelOrder": True}}


async def test_a_problem_of_a_service_is_an_error_with_its_reason_and_the_rest_is_answered(shop: Any) -> None:
    answer = await shop.ask('{ missing: product(id: "none") { name } tea: product(id: "tea") { name } }')
    assert answer["data"] == {"missing": None, "tea": {"name": "Tea"}}
    (error,) = answer["errors"]
    assert error["message"] == "There is no product 'none'."
    assert error["path"] == ["missing"]
    extensions = error["extensions"]
    assert extensions.pop("request_id")
    assert extensions == {"code": "NOT_FOUND", "service": "catalog.shop", "status": 404, "reason": "ProductNotFound"}


async def test_field_errors_of_a_problem_are_handed_on(shop: Any) -> None:
    answer = await shop.ask('mutation { placeOrder(input: {product: "nothing"}) { id } }')
    extensions = answer["errors"][0]["extensions"]
    assert (extensions["code"], extensions["errors"]) == ("BAD_USER_INPUT", [{"pointer": "/product"}])


async def test_an_unexpected_failure_of_a_service_gives_nothing_of_its_inside_away(shop: Any) -> None:
    answer = await shop.ask('{ order(id: "77") { id } }')  # KeyError in the service
    (error,) = answer["errors"]
    assert (error["extensions"]["status"], error["extensions"]["service"]) == (500, "orders.shop")
    assert "KeyError" not in str(answer)


async def test_the_same_get_is_sent_once_in_a_request_and_again_in_the_next(shop: Any) -> None:
    query = '{ a: product(id: "tea") { name } b: product(id: "tea") { id } c: product(id: "gold") { id } }'
    answer = await shop.ask(query)
    assert answer["data"] == {"a": {"name": "Tea"}, "b": {"id": "tea"}, "c": {"id": "gold"}}
    assert sorted(shop.requests) == [("GET", "/products/gold"), ("GET", "/products/tea")]
    await shop.ask(query)
    assert len(shop.requests) == 4


async def test_arguments_cannot_leave_their_path(shop: Any) -> None:
    answer = await shop.ask('{ product(id: "../orders/1") { id } dots: product(id: "..") { id } }')
    assert sorted(e["extensions"]["status"] for e in answer["errors"]) == [400, 404]
    assert shop.requests == [("GET", "/products/..%2Forders%2F1")]


async def test_the_caller_s_credentials_and_request_id_travel_on(shop: Any) -> None:
    await shop.ask("{ products { id } }", authorization="Bearer one", cookie="secret=1", **{"x-request-id": "r-1"})
    sent = {k.lower(): v for k, v in shop.headers["catalog"].items()}
    assert (sent["authorization"], sent["x-request-id"]) == ("Bearer one", "r-1")
    assert "cookie" not in sent
    assert "traceparent" in sent
    assert 0 < float(sent["x-request-timeout"]) <= 15


async def test_a_service_that_is_down_costs_its_own_fields_alone_and_keeps_its_schema(shop: Any) -> None:
    await shop.apps["orders"].stop(settle_s=0)
    await shop.until(lambda v: any(s.name == "orders.shop" and s.state == "stale" for s in v.services))
    answer = await shop.ask('{ order(id: "1") { id } product(id: "tea") { name } _services { name state problem } }')
    assert answer["data"]["order"] is None
    assert answer["data"]["product"] == {"name": "Tea"}
    (error,) = answer["errors"]
    assert error["extensions"]["reason"] in ("ServiceUnavailable", "ConnectionLost")
    assert "127.0.0.1" not in str(error)
    states = {s["name"]: s["state"] for s in answer["data"]["_services"]}
    assert states == {"catalog.shop": "live", "orders.shop": "stale"}


async def test_a_new_service_makes_the_schema_grow_without_a_restart(shop: Any) -> None:
    asked = "{ reviews }"
    assert "reviews" in (await shop.ask(asked))["errors"][0]["message"]
    document = {
        "openapi": "3.1.0", "info": {"title": "Reviews", "version": "1"},
        "paths": {"/reviews": {"get": {"operationId": "reviews", "responses": {"200": {"description": "", "content": {
            "application/json": {"schema": {"type": "array", "items": {"type": "string"}}}}}}}}},
    }  # fmt: skip

    def add(app: ServiceApp) -> None:
        @app.get("/reviews")
        async def reviews(request: web.Request) -> web.Response:
            return web.json_response(["good"])

    await shop.serve("reviews", document, add)
    await shop.until_live("reviews")
    assert await shop.ask(asked) == {"data": {"reviews": ["good"]}}


async def test_a_broken_document_costs_its_own_service_alone_and_says_where(shop: Any) -> None:
    await shop.serve("broken", {"openapi": "2.9", "paths": {}})
    await shop.until(lambda v: any(s.state == "broken" for s in v.services))
    answer = await shop.ask('{ _services { name state operations problem url } product(id: "tea") { id } }')
    assert answer["data"]["product"] == {"id": "tea"}
    broken = next(s for s in answer["data"]["_services"] if s["name"] == "broken.shop")
    assert (broken["state"], broken["operations"]) == ("broken", 0)
    assert broken["problem"].startswith("/openapi: ")
    assert broken["url"] == "http://broken.shop/openapi.json"


async def test_without_services_the_schema_lists_none_and_the_service_is_ready(empty_shop: Any) -> None:
    await empty_shop.start_graphql()
    await empty_shop.until(lambda v: v.version == 1)
    assert await empty_shop.ask("{ _services { name } }") == {"data": {"_services": []}}
    async with empty_shop.session.get("/readyz") as answer:
        assert answer.status == 200


async def test_not_ready_before_the_registry_has_answered(empty_shop: Any) -> None:
    empty_shop.file.write_text("{")
    await empty_shop.start_graphql()
    async with empty_shop.session.get("/readyz") as answer:
        assert answer.status == 503
        assert "catalogue" in (await answer.json(content_type=None))["checks"]
    empty_shop.write()
    await empty_shop.until(lambda v: v.version == 1)
    async with empty_shop.session.get("/readyz") as answer:
        assert answer.status == 200


async def test_a_document_is_parsed_and_validated_once(shop: Any) -> None:
    documents = shop.graphql.catalogue.view.engine.documents
    for _ in range(3):
        await shop.ask("{ products { id } }")
    assert (documents.hits, documents.misses) == (2, 1)
