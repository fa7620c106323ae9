"""mock: examples, made values, preferences."""

from __future__ import annotations

import json
import re
from typing import Any

import jsonschema
import pytest
from nexus_core.hooks import Reply, RequestHead
from nexus_plugin_mock import Mock
from nexus_plugin_mock.documents import Document
from nexus_plugin_mock.expressions import text_for
from nexus_plugin_mock.generation import Generator, NoValue
from nexus_plugin_mock.preferences import choose, preferences
from nexus_sdk.plugin import PluginConfigError
from nexus_sdk.testing import PluginKit

NODE = {
    "type": "object",
    "required": ["id"],
    "properties": {"id": {"type": "string", "format": "uuid"}, "next": {"$ref": "#/components/schemas/Node"}},
}
API: dict[str, Any] = {
    "openapi": "3.0.3",
    "servers": [{"url": "/v1"}],
    "paths": {
        "/orders": {
            "get": {"operationId": "list", "responses": {
                "200": {"description": "", "headers": {"X-Total": {"schema": {"type": "integer",
                    "minimum": 3}}, "Bad": {"example": "a\r\nb"}},
                        "content": {"application/json": {"examples": {"one": {"$ref": "#/components/examples/one"}, "none": {"value": []}}},
                                    "text/csv": {"example": "a;b"}}},
                "4XX": {"description": "", "content": {"application/problem+json": {"example": {"title": "no"}}}}}},
            "post": {"operationId": "make", "responses": {"201": {"description": ""}, "default": {"description": "", "content": {
                "application/json": {"schema": {"type": "string", "pattern": "(?=x)y"}}}}}},
        },
        "/orders/{id}": {"get": {"operationId": "get", "responses": {
            "200": {"description": "", "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Node"}}}}}}},
        "/orders/mine": {"get": {"responses": {"204": {"description": ""}}}},
    },
    "components": {"schemas": {"Node": NODE}, "examples": {"one": {"value": [{"id": 1}]}}},
}  # fmt: skip


async def got(
    path: str, method: str = "GET", config: dict[str, Any] | None = None, **headers: str
) -> Reply | RequestHead:
    request = RequestHead(method, path, headers=tuple(headers.items()))
    async with PluginKit(Mock, {"openapi": API, **(config or {})}) as kit:
        return await kit.request(request)


def reason(answer: object) -> tuple[int, str]:
    assert isinstance(answer, Reply)
    return answer.status, json.loads(answer.body)["reason"]


async def test_the_first_example_by_name_is_the_answer_with_the_responses_headers() -> None:
    assert await got("/v1/orders") == Reply(200, (("content-type", "application/json"), ("x-total", "3")), b"[]")
    assert await got("/v1/orders", "HEAD") == await got("/v1/orders"), "the gateway sends its length, and not the body"
    assert await got("/v1/orders/mine") == Reply(204)
    assert await got("/v1/orders", "POST") == Reply(201)


async def test_clients_choose_status_example_and_media_type() -> None:
    one = await got("/v1/orders", prefer="example=one")
    assert isinstance(one, Reply)
    assert (one.body, dict(one.headers)["preference-applied"]) == (b'[{"id": 1}]', "example=one")
    refused = await got("/v1/orders", prefer='respond-async, code="404"; x=y')
    assert isinstance(refused, Reply)
    assert (refused.status, refused.body) == (404, b'{"title": "no"}')
    csv = await got("/v1/orders", accept="application/json;q=0.1, text/*")
    assert isinstance(csv, Reply)
    assert (csv.headers[0], csv.body) == (("content-type", "text/csv"), b"a;b")
    plain = await got("/v1/orders", config={"prefer": False}, prefer="code=404")
    assert isinstance(plain, Reply)
    assert plain.status == 200


@pytest.mark.parametrize(
    ("path", "method", "headers", "expected"),
    [
        ("/v1/orders", "GET", {"prefer": "code=99"}, (400, "PreferenceInvalid")),
        ("/v1/orders", "GET", {"prefer": "code=²00"}, (400, "PreferenceInvalid")),
        ("/v1/orders", "GET", {"prefer": "code=500"}, (404, "ResponseUnknown")),
        ("/v1/orders", "GET", {"prefer": "example=two"}, (404, "ExampleUnknown")),
        ("/v1/orders", "GET", {"accept": "image/png, */*;q=0"}, (406, "MediaTypeUnknown")),
        ("/v1/orders", "POST", {"prefer": "code=500"}, (501, "ExampleMissing")),
        ("/v1/orders", "PUT", {}, (405, "MethodUnknown")),
        ("/orders", "GET", {}, (404, "OperationUnknown")),
        ("/v1/orders/", "GET", {}, (404, "OperationUnknown")),
    ],
)
async def test_what_the_document_does_not_have(
    path: str, method: str, headers: dict[str, str], expected: tuple[int, str]
) -> None:
    assert reason(await got(path, method, **headers)) == expected


async def test_only_some_operations_with_chosen_statuses_after_a_delay() -> None:
    config = {"operations": ["list"], "statuses": {"list": "4XX"}, "unknownOperations": "pass", "delaySeconds": 3}
    async with PluginKit(Mock, {"openapi": API, **config}) as kit:
        slept: list[float] = []

        async def sleep(seconds: float) -> None:
            slept.append(seconds)

        kit.plugin.sleep = sleep  # type: ignore[attr-defined]
        answer = await kit.request(RequestHead("GET", "/v1/orders"))
        assert isinstance(answer, Reply)
        assert (answer.status, slept) == (400, [3.0])
        assert isinstance(await kit.request(RequestHead("GET", "/v1/orders/7")), RequestHead)
        assert slept == [3.0]


async def test_made_values_are_the_same_every_time_and_follow_the_schema() -> None:
    first, second = await got("/v1/orders/7"), await got("/v1/orders/8")
    assert first == second
    assert isinstance(first, Reply)
    value = json.loads(first.body)
    assert re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", value["id"])
    assert value["next"]["id"] != value["id"]
    other = await got("/v1/orders/7", config={"seed": 1})
    assert other != first


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "integer", "minimum": 5, "multipleOf": 4},
        {"type": "integer", "exclusiveMinimum": 5},
        {"type": "integer", "maximum": -3},
        {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},
        {"type": "number", "multipleOf": 0.5, "minimum": 0.7},
        {"type": "string", "minLength": 10, "maxLength": 11},
        {"type": "string", "maxLength": 2},
        {"type": "string", "pattern": "^[A-Z]{2}\\d{4}-(x|y)+$"},
        {"type": "string", "pattern": "^[^a-z]+$", "minLength": 5},
        {"type": ["null", "string"], "enum": ["b", None]},
        {"type": "array", "minItems": 3, "items": {"type": "boolean"}},
        {"type": "array", "items": {"not": {}}, "maxItems": 0},
        {"prefixItems": [{"type": "integer"}, {"type": "string"}], "items": False},
        {
            "allOf": [
                {"properties": {"a": {"type": "integer"}}, "required": ["a"]},
                {"properties": {"b": {"type": "null"}}, "required": ["b"]},
            ]
        },
        {"allOf": [{"minimum": 3}, {"minimum": 5, "type": "integer"}]},
        {"oneOf": [{"type": "string", "pattern": "(?=x)"}, {"type": "integer", "minimum": 1}]},
        {"type": "object", "required": ["a", "b"], "additionalProperties": {"type": "integer"}, "minProperties": 4},
        {"const": {"a": 1}},
        {"type": "string", "format": "date-time"},
        {},
    ],
)
def test_generated_values_validate(schema: dict[str, Any]) -> None:
    made = Generator(Document({"openapi": "3.1.0"}, "x")).value(schema)
    jsonschema.validate(made, schema, jsonschema.Draft202012Validator)


@pytest.mark.parametrize(
    "schema",
    [{"$ref": "#/components/schemas/Loop"}, {"type": "array", "minItems": 10_000}, {"type": "object",
        "required": ["a"], "additionalProperties": False},
     {"type": "string", "minLength": 10**9}],
)  # fmt: skip
def test_where_no_value_is_found_it_says_so(schema: dict[str, Any]) -> None:
    loop = {"required": ["again"], "properties": {"again": {"$ref": "#/components/schemas/Loop"}}}
    generator = Generator(Document({"openapi": "3.1.0", "components": {"schemas": {"Loop": loop}}}, "x"))
    with pytest.raises(NoValue):
        generator.value(schema)


@pytest.mark.parametrize(
    "pattern",
    ["^abc$", r"^\d{3}-\d{2,}$", "a|b", "(ab){2}c?", r"^[a-z]+@[a-z]+\.[a-z]{2,3}$", r"[\]x]", "^[^abc]$",
        "^(?:a|b)*$", r"\+\d+", "^.{3}$", "[-a]", r"^[\w.]+$"],
)  # fmt: skip
def test_texts_for_expressions(pattern: str) -> None:
    text = text_for(pattern)
    assert text is not None
    assert re.search(pattern, text)
    longer = text_for(r"^\w+$", 8)
    assert longer == "a" * 8


@pytest.mark.parametrize("pattern", ["(?=a)b", r"(a)\1", "(", "a{9999}{9999}", "[a", r"\p{L}", "*a"])
def test_expressions_that_are_not_made(pattern: str) -> None:
    assert text_for(pattern) is None


def test_preferences_and_media_types() -> None:
    assert preferences(['a=1, B="2"; x', "a=3,c"]) == {"a": "1", "b": "2", "c": ""}
    offered = ["application/json", "text/csv"]
    for accept, chosen in (
        (None, 0),
        ("*/*", 0),
        ("text/csv", 1),
        ("text/*;q=0.5, application/*;q=0.4", 1),
        ("application/json;q=x", None),
        ("a/b", None),
    ):
        assert choose(accept, offered) == (None if chosen is None else offered[chosen])


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"openapi": "2.0", "paths": {}}, "convert the document"),
        ({"openapi": "3.1.0", "paths": {"/a": {"get": {"responses": {"200": {"$ref": "other.yaml#/x"}}}}}}, "leaves the document"),
        ({"openapi": "3.1.0", "paths": {"/a": {"get": {"responses": {"200": {"$ref": "#/x"}}}}}}, "names nothing"),
        ({"openapi": "3.1.0", "a": {"$ref": "#/a"}, "paths": {"/a": {"$ref": "#/a"}}}, "circle"),
        ({"openapi": "3.1.0",
            "paths": {"/a": {"get": {"responses": {"200": {"content": {"application/json": {"schema": {"type": "text"}}}}}}}}},
         "not valid"),
    ],
)  # fmt: skip
def test_documents_that_cannot_be_used_say_why(document: dict[str, Any], message: str) -> None:
    with pytest.raises(PluginConfigError, match=message):
        PluginKit(Mock, {"openapi": document})
