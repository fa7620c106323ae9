"""How the catalogue follows registry and documents, and how execution meets services that misbehave."""

from __future__ import annotations

import asyncio
import hashlib
import json
from typing import Any

import pytest
from aiohttp import web
from nexus_sdk import ServiceApp


def one_field(name: str, schema: Any) -> dict[str, Any]:
    answer = {"200": {"description": "", "content": {"application/json": {"schema": schema}}}}
    return {"openapi": "3.1.0", "paths": {f"/{name}": {"get": {"operationId": name, "responses": answer}}}}


class Documents:
    """A service whose document can change, with an ETag. statuses: what its document was answered with."""

    def __init__(self, document: Any) -> None:
        self.document = document
        self.statuses: list[int] = []
        self.answered = asyncio.Event()

    def add(self, app: ServiceApp) -> None:
        @app.get("/openapi.json")
        async def document(request: web.Request) -> web.Response:
            body = json.dumps(self.document).encode()
            etag = f'"{hashlib.sha256(body).hexdigest()[:16]}"'
            same = request.headers.get("if-none-match") == etag
            self.statuses.append(304 if same else 200)
            if len(self.statuses) >= 3:
                self.answered.set()
            if same:
                return web.Response(status=304, headers={"etag": etag})
            return web.Response(body=body, content_type="application/json", headers={"etag": etag})


async def test_a_document_is_sent_again_only_when_it_changed(empty_shop: Any) -> None:
    documents = Documents(one_field("old", {"type": "string"}))
    await empty_shop.serve("changing", None, documents.add)
    await empty_shop.start_graphql()
    before = await empty_shop.until_live("changing")
    async with asyncio.timeout(20):
        await documents.answered.wait()
    assert documents.statuses[:3] == [200, 304, 304]
    assert empty_shop.graphql.catalogue.view.engine is before.engine
    documents.document = one_field("new", {"type": "string"})
    await empty_shop.until(lambda v: v.version > before.version)
    answer = await empty_shop.ask('{ __type(name: "Query") { fields { name } } }')
    assert answer["data"]["__type"]["fields"] == [{"name": "new"}, {"name": "_services"}]
    documents.document = {"openapi": "1"}
    view = await empty_shop.until(lambda v: v.services[0].state == "broken")
    assert view.services[0].operations == 1
    assert "errors" in await empty_shop.ask("{ old }")
    assert (await empty_shop.ask("{ __typename new }"))["data"]["__typename"] == "Query"


async def test_a_service_that_left_the_registry_keeps_its_fields_for_a_while(empty_shop: Any) -> None:
    await empty_shop.serve("brief", one_field("brief", {"type": "string"}))
    await empty_shop.serve("other", one_field("other", {"type": "string"}))
    await empty_shop.start_graphql(NEXUS_GRAPHQL_KEEP_SECONDS="1")
    live = await empty_shop.until_live("brief", "other")
    before = await empty_shop.until(lambda v: v is not live)
    # A look has just ended; the next begins after this and sees the service, so that the second counts from no earlier.
    now = asyncio.get_running_loop().time
    seen_after = now()
    await empty_shop.until(lambda v: v is not before)
    del empty_shop.table["brief.shop"]
    empty_shop.write()
    await empty_shop.until(lambda v: [s.name for s in v.services] == ["other.shop"])
    assert now() - seen_after > 1
    assert "errors" in await empty_shop.ask("{ brief }")


async def test_a_registry_that_is_away_changes_nothing(empty_shop: Any) -> None:
    await empty_shop.serve("steady", one_field("steady", {"type": "string"}))
    await empty_shop.start_graphql(NEXUS_GRAPHQL_KEEP_SECONDS="0.05")
    before = await empty_shop.until_live("steady")
    empty_shop.file.unlink()
    after = await empty_shop.until(lambda v: v is not before)
    again = await empty_shop.until(lambda v: v is not after)
    assert again.engine is before.engine
    async with empty_shop.session.get("/readyz") as answer:
        assert answer.status == 200


async def test_an_answer_that_breaks_its_contract_is_an_error_of_that_field(empty_shop: Any) -> None:
    document = one_field("thing", {"type": "object", "properties": {"n": {"type": "integer"}, "s": {"type": "string"}}})
    document["paths"]["/text"] = one_field("text", {"type": "string"})["paths"]["/text"]
    answers = [web.json_response([1]), web.json_response({"n": "many", "s": "yes"})]

    def add(app: ServiceApp) -> None:
        @app.get("/thing")
        async def thing(request: web.Request) -> web.Response:
            return answers.pop(0)

        @app.get("/text")
        async def text(request: web.Request) -> web.Response:
            return web.Response(text='{"secret": ')

    await empty_shop.serve("loose", document, add)
    await empty_shop.start_graphql()
    await empty_shop.until_live("loose")
    answer = await empty_shop.ask("{ thing { n s } text }")
    assert answer["data"] == {"thing": {"n": None, "s": None}, "text": None}
    assert {e["extensions"]["reason"] for e in answer["errors"]} == {"ContractBroken"}
    assert "secret" not in str(answer)
    answer = await empty_shop.ask("{ thing { n s } }")
    assert answer["data"] == {"thing": {"n": None, "s": "yes"}}
    assert answer["errors"][0]["path"] == ["thing", "n"]


async def test_a_slow_service_costs_its_field_when_the_time_is_up(shop: Any) -> None:
    release = asyncio.Event()

    def add(app: ServiceApp) -> None:
        @app.get("/slow")
        async def slow(request: web.Request) -> web.Response:
            await release.wait()
            return web.json_response("late")

    await shop.serve("slow", one_field("slow", {"type": "string"}), add)
    await shop.start_graphql(NEXUS_GRAPHQL_TIMEOUT_SECONDS="0.5")
    await shop.until_live("slow", "catalog")
    answer = await shop.ask('{ slow again: slow product(id: "tea") { id } }')
    release.set()
    assert answer["data"] == {"slow": None, "again": None, "product": {"id": "tea"}}
    assert [e["extensions"]["reason"] for e in answer["errors"]] == ["DeadlineExceeded"] * 2
    assert sorted(e["path"] for e in answer["errors"]) == [["again"], ["slow"]]
    assert len([r for r in shop.requests if r[1] == "/slow"]) == 1


async def test_json_literals_take_variables_and_odd_text_is_refused(empty_shop: Any) -> None:
    document = {
        "openapi": "3.1.0",
        "paths": {"/echo": {"post": {"operationId": "echo", "requestBody": {"content": {"application/json": {}}},
                                     "responses": {"200": {"description": "", "content": {"application/json": {}}}}}}},
    }  # fmt: skip

    def add(app: ServiceApp) -> None:
        @app.post("/echo")
        async def echo(request: web.Request) -> web.Response:
            return web.Response(body=await request.read(), content_type="application/json")

    await empty_shop.serve("echo", document, add)
    await empty_shop.start_graphql()
    await empty_shop.until_live("echo")
    query = "mutation($n: Int) { echo(input: {a: [1, $n], b: {c: null, d: 1.5, e: true}}) }"
    answer = await empty_shop.ask(query, {"n": 7})
    assert answer == {"data": {"echo": {"a": [1, 7], "b": {"c": None, "d": 1.5, "e": True}}}}
    query = "mutation($x: JSON) { echo(input: $x) }"
    answer = await empty_shop.ask(query, {"x": {"big": 2**70, "text": "é☃"}})
    assert answer == {"data": {"echo": {"big": 2**70, "text": "é☃"}}}
    answer = await empty_shop.ask(query, {"x": "\ud800"})
    assert answer["errors"][0]["extensions"]["code"] == "BAD_USER_INPUT"


async def test_what_was_read_before_a_change_is_read_again_after_it(empty_shop: Any) -> None:
    read = one_field("count", {"type": "integer"})["paths"]["/count"]
    read["get"]["x-nexus-graphql"] = {"kind": "mutation"}
    document = {
        "openapi": "3.1.0",
        "paths": {"/count": {**read, "post": {"operationId": "add", "responses": {"204": {}}}}},
    }
    state = {"count": 0}

    def add(app: ServiceApp) -> None:
        @app.get("/count")
        async def count(request: web.Request) -> web.Response:
            return web.json_response(state["count"])

        @app.post("/count")
        async def more(request: web.Request) -> web.Response:
            state["count"] += 1
            return web.Response(status=204)

    await empty_shop.serve("counter", document, add)
    await empty_shop.start_graphql()
    await empty_shop.until_live("counter")
    answer = await empty_shop.ask("mutation { before: count add after: count }")
    assert answer == {"data": {"before": 0, "add": True, "after": 1}}


async def test_path_items_shared_by_reference_stay_two_operations(empty_shop: Any) -> None:
    item = one_field("x", {"type": "string"})["paths"]["/x"]
    del item["get"]["operationId"]
    shared = {"$ref": "#/components/pathItems/Shared"}
    document = {
        "openapi": "3.1.0", "paths": {"/a": shared, "/b": shared}, "components": {"pathItems": {"Shared": item}}
    }  # fmt: skip

    def add(app: ServiceApp) -> None:
        for path in ("/a", "/b"):

            @app.get(path)
            async def one(request: web.Request) -> web.Response:
                return web.json_response(request.path)

    await empty_shop.serve("shared", document, add)
    await empty_shop.start_graphql()
    await empty_shop.until_live("shared")
    assert await empty_shop.ask("{ a b }") == {"data": {"a": "/a", "b": "/b"}}


@pytest.mark.parametrize(
    ("patterns", "names"),
    [
        ("", ["a.shop", "b.shop"]), ("*", ["a.other", "a.shop", "b.shop"]), ("a.*", ["a.other", "a.shop"]),
        ("*.shop,!a.*", ["b.shop"]), ("!a.*", ["b.shop"]), ("!*.shop, a.shop", ["a.shop"]), ("b.shop", ["b.shop"]),
    ],
)  # fmt: skip
async def test_services_of_the_own_namespace_take_part_or_those_that_are_named(
    empty_shop: Any, patterns: str, names: list[str]
) -> None:
    meta = {"nexus-openapi": "/openapi.json"}
    empty_shop.table.update({n: {"endpoints": [], "meta": meta} for n in ("a.shop", "b.shop", "a.other")})
    empty_shop.table["c.shop"] = {"endpoints": [], "meta": {}}
    empty_shop.table["graphql.shop"] = {"endpoints": [], "meta": meta}
    empty_shop.write()
    await empty_shop.start_graphql(NEXUS_GRAPHQL_SERVICES=patterns)
    view = await empty_shop.until(lambda v: v.version == 1)
    assert [s.name for s in view.services] == names
    assert {s.state for s in view.services} == {"waiting"}


async def test_a_weaker_type_is_a_note_and_a_lost_operation_a_problem(empty_shop: Any) -> None:
    document = one_field("either", {"oneOf": [{"type": "string"}, {"type": "integer"}]})
    await empty_shop.serve("weak", document)
    document["paths"]["/lost/{id}"] = {"get": {"responses": {"204": {"description": ""}}}}
    await empty_shop.serve("lossy", document)
    await empty_shop.start_graphql()
    view = await empty_shop.until_live("weak", "lossy")
    lossy, weak = view.services
    assert (weak.problem, len(weak.notes)) == (None, 1)
    assert lossy.problem is not None
    assert lossy.problem.startswith("/paths/~1lost~1{id}/get: ")
    assert (weak.operations, lossy.operations) == (1, 1)
