"""body-validate: JSON Schema, OpenAPI, parameters, and bodies made to harm."""

from __future__ import annotations

import json
from typing import Any

import pytest
from nexus_core.hooks import Reply, RequestHead, ResponseHead
from nexus_plugin_body_validate import BodyValidate
from nexus_plugin_body_validate.documents import NotJson, parse
from nexus_plugin_body_validate.formats import CHECKER
from nexus_sdk.plugin import PluginConfigError
from nexus_sdk.testing import PluginKit

JSON = ("content-type", "application/json")
PET = {
    "type": "object",
    "required": ["name", "id"],
    "additionalProperties": False,
    "properties": {
        "id": {"type": "integer", "readOnly": True},
        "name": {"type": "string", "minLength": 2, "nullable": True},
        "secret": {"type": "string", "writeOnly": True},
        "age": {"type": "integer", "minimum": 0, "exclusiveMinimum": True},
        "tags": {"type": "array", "items": {"type": "string"}, "uniqueItems": True},
    },
}
API: dict[str, Any] = {
    "openapi": "3.0.3",
    "info": {"title": "Pets", "version": "1"},
    "servers": [{"url": "https://pets.example/v1"}],
    "paths": {
        "/pets": {
            "get": {
                "parameters": [
                    {"name": "limit", "in": "query", "schema": {"type": "integer", "maximum": 100}},
                    {"name": "tag", "in": "query", "schema": {"type": "array", "items": {"type": "integer"}}},
                    {"name": "ids", "in": "query", "explode": False, "schema": {"type": "array", "items": {"type": "integer"}}},
                    {"name": "filter", "in": "query", "style": "deepObject",
                     "schema": {"type": "object", "properties": {"old": {"type": "boolean"}}, "additionalProperties": False}},
                    {"name": "where", "in": "query", "content": {"application/json": {"schema": {"type": "object"}}}},
                    {"name": "X-Tenant", "in": "header", "required": True, "schema": {"type": "string", "format": "uuid"}},
                    {"name": "session", "in": "cookie", "schema": {"type": "string", "minLength": 3}},
                ],
                "responses": {"200": {"description": "", "content": {"application/json": {
                    "schema": {"type": "array", "items": {"$ref": "#/components/schemas/Pet"}}}}}},
            },
            "post": {
                "requestBody": {"$ref": "#/components/requestBodies/Pet"},
                "responses": {"201": {"description": ""}, "4XX": {"description": "", "content": {"application/problem+json": {}}}},
            },
        },
        "/pets/{id}": {
            "parameters": [{"name": "id", "in": "path", "required": True, "schema": {"type": "integer", "format": "int32"}}],
            "get": {"responses": {"default": {"description": ""}}},
            "delete": {"responses": {}},
        },
        "/pets/mine": {"get": {"responses": {}}},
        "/files/{name}.{kind}": {"get": {
            "parameters": [{"name": "kind", "in": "path", "schema": {"enum": ["png", "jpg"]}}], "responses": {}}},
    },
    "components": {
        "requestBodies": {"Pet": {"required": True, "content": {
            "application/json": {"schema": {"$ref": "#/components/schemas/Pet"}}, "text/*": {}}}},
        "schemas": {"Pet": PET},
    },
}  # fmt: skip
TENANT = ("x-tenant", "7d444840-9dc0-11d1-b245-5ffdce74fad2")
SCHEMA = {"type": "object", "required": ["a"], "properties": {"a": {"type": "integer"}, "b": {"$ref": "#/$defs/b"}},
          "$defs": {"b": {"type": "string", "pattern": "^[a-z]+$"}}}  # fmt: skip


def kit(config: dict[str, Any]) -> PluginKit:
    return PluginKit(BodyValidate, config)


def head(method: str, path: str, query: str = "", *headers: tuple[str, str]) -> RequestHead:
    return RequestHead(method, path, query, "pets", headers)


def told(answer: object) -> tuple[int, str, list[str]]:
    """Return status, reason, and each error as `place detail`."""
    assert isinstance(answer, Reply), answer
    assert dict(answer.headers)["content-type"] == "application/problem+json"
    body = json.loads(answer.body)
    assert body["status"] == answer.status
    errors = [
        f"{each.get('pointer') or each['in'] + ' ' + each['name']} {each['detail']}" for each in body.get("errors", ())
    ]
    return answer.status, body["reason"], errors


async def sent(config: dict[str, Any], request: RequestHead, body: bytes) -> object:
    async with kit(config) as plugin:
        passed = await plugin.request(request)
        return passed if isinstance(passed, Reply) else await plugin.request_body(passed, body)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"a": 1, "b": "x"}', None),
        (b'{"a": 1.0}', None),
        (b'{"a": true}', (422, "BodyInvalid", ["#/a must be of type integer"])),
        (b"{}", (422, "BodyInvalid", ["#/a is required"])),
        (b'{"a": 1, "b": "X"}', (422, "BodyInvalid", ["#/b must match ^[a-z]+$"])),
        (b'{"a": 1, "a": 2}', (400, "BodyNotJson", [])),
        (b'{"a": NaN}', (400, "BodyNotJson", [])),
        (b'{"a": Infinity}', (400, "BodyNotJson", [])),
        (b'{"a": 1', (400, "BodyNotJson", [])),
        (b'\xff{"a": 1}', (400, "BodyNotJson", [])),
        (b"[" * 100_000, (400, "BodyNotJson", [])),
        (b"[" * 70 + b"]" * 70, (400, "BodyNotJson", [])),
        (b"1" * 5000, (400, "BodyNotJson", [])),
        (b"", (400, "BodyMissing", [])),
    ],
)
async def test_bodies_against_a_schema(body: bytes, expected: object) -> None:
    answer = await sent({"request": {"schema": SCHEMA}}, head("POST", "/", "", JSON), body)
    if expected is None:
        assert answer == body
    else:
        assert told(answer) == expected
        assert isinstance(answer, Reply)
        assert b"request_id" not in answer.body


async def test_only_the_methods_that_are_named_need_a_body() -> None:
    assert await sent({"request": {"schema": SCHEMA}}, head("GET", "/"), b"") == b""
    refused = await sent({"request": {"schema": SCHEMA}, "methods": ["GET"]}, head("GET", "/", "", JSON), b"")
    assert told(refused)[1] == "BodyMissing"


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        ((("content-type", "text/plain"), ("content-length", "3")), "ContentTypeUnsupported"),
        ((("content-type", "application/xml"),), "ContentTypeUnsupported"),
        ((("content-type", "application/json"), ("content-type", "text/plain")), "ContentTypeUnsupported"),
        ((("content-encoding", "identity"), ("content-encoding", "gzip")), "EncodingUnsupported"),
        ((), "ContentTypeUnsupported"),
        ((JSON, ("content-encoding", "gzip")), "EncodingUnsupported"),
        ((("content-type", "application/vnd.pet+json; charset=utf-8"),), ""),
        ((("content-type", "APPLICATION/JSON"), ("content-encoding", "Identity")), ""),
    ],
)
async def test_bodies_that_cannot_be_read_are_refused(headers: tuple[tuple[str, str], ...], reason: str) -> None:
    answer = await sent({"request": {"schema": SCHEMA}}, head("POST", "/", "", *headers), b'{"a":1}')
    if reason:
        assert told(answer)[:2] == (415, reason)
    else:
        assert answer == b'{"a":1}'


async def test_errors_are_bounded_escaped_and_never_quote_the_value() -> None:
    schema = {"type": "object", "additionalProperties": {"type": "integer"}}
    body = json.dumps({"a/b~c": "private", **{str(i): "private" for i in range(50)}}).encode()
    answer = await sent(
        {"request": {"schema": schema}, "maxErrors": 5}, head("POST", "/", "", JSON, ("x-request-id", "r1")), body
    )
    status, _, errors = told(answer)
    assert (status, len(errors)) == (422, 5)
    assert isinstance(answer, Reply)
    assert b"private" not in answer.body
    assert json.loads(answer.body)["request_id"] == "r1"
    one = await sent({"request": {"schema": schema}}, head("POST", "/", "", JSON), b'{"a/b~c": "private"}')
    assert told(one)[2] == ["#/a~1b~0c must be of type integer"]


async def test_unique_items_are_found_in_linear_time_as_json_schema_defines_equal() -> None:
    async with kit({"request": {"schema": {"uniqueItems": True}}, "maxValues": 100_000}) as plugin:
        request = head("POST", "/", "", JSON)
        for equal in ([1, 1.0], [{"a": [1], "b": 2}, {"b": 2.0, "a": [1.0]}], [None, None]):
            assert told(await plugin.request_body(request, json.dumps(equal).encode()))[0] == 422
        for different in ([1, True], [0, False, "0", None], [{"a": i} for i in range(20_000)] + ["x"]):
            body = json.dumps(different).encode()
            assert await plugin.request_body(request, body) == body


@pytest.mark.parametrize(
    ("method", "path", "query", "headers", "expected"),
    [
        ("GET", "/v1/pets", "limit=10&tag=1&tag=2&ids=1,2&filter[old]=true&where=%7B%7D", (TENANT,), None),
        ("GET", "/v1/pets", "", (), (400, "ParametersInvalid", ["header x-tenant is required"])),
        ("GET", "/v1/pets", "limit=101", (TENANT,), (400, "ParametersInvalid", ["query limit must be at most 100"])),
        ("GET", "/v1/pets", "limit=1&limit=2", (TENANT,), (400, "ParametersInvalid", ["query limit must be given once"])),
        ("GET", "/v1/pets", "limit=0x1", (TENANT,), (400, "ParametersInvalid", ["query limit must be of type integer"])),
        ("GET", "/v1/pets", "tag=1&tag=x", (TENANT,), (400, "ParametersInvalid", ["query tag /1 must be of type integer"])),
        ("GET", "/v1/pets", "ids=1,x", (TENANT,), (400, "ParametersInvalid", ["query ids /1 must be of type integer"])),
        ("GET", "/v1/pets", "filter[old]=1", (TENANT,), (400, "ParametersInvalid", ["query filter /old must be of type boolean"])),
        ("GET", "/v1/pets", "filter[new]=1", (TENANT,), (400, "ParametersInvalid", ["query filter /new is not known"])),
        ("GET", "/v1/pets", "where=%7B", (TENANT,), (400, "ParametersInvalid", None)),
        ("GET", "/v1/pets", "", (TENANT, ("cookie", "a=b; session=x")),
         (400, "ParametersInvalid", ["cookie session must have at least 3 characters"])),
        ("GET", "/v1/pets", "", (("x-tenant", "x"),), (400, "ParametersInvalid", ["header x-tenant must be a uuid"])),
        ("GET", "/v1/pets/12", "", (), None),
        ("HEAD", "/v1/pets/12", "", (), None),
        ("GET", "/v1/pets/mine", "", (), None),
        ("GET", "/v1/pets/x%2Fy", "", (), (400, "ParametersInvalid", ["path id must be of type integer"])),
        ("GET", "/v1/pets/2147483648", "", (), (400, "ParametersInvalid", ["path id must be a int32"])),
        ("GET", "/v1/files/a.b.png", "", (), None),
        ("GET", "/v1/files/a.exe", "", (), (400, "ParametersInvalid", ['path kind must be one of: "png", "jpg"'])),
        ("PUT", "/v1/pets/12", "", (), (405, "MethodUnknown", [])),
        ("GET", "/v1/cats", "", (), (404, "OperationUnknown", [])),
        ("GET", "/pets/12", "", (), (404, "OperationUnknown", [])),
        ("GET", "/v1/pets/", "", (), (400, "ParametersInvalid", None)),
    ],
)  # fmt: skip
async def test_operations_and_parameters(
    method: str,
    path: str,
    query: str,
    headers: tuple[tuple[str, str], ...],
    expected: tuple[int, str, list[str] | None] | None,
) -> None:
    async with kit({"openapi": API}) as plugin:
        answer = await plugin.request(head(method, path, query, *headers))
    if expected is None:
        assert isinstance(answer, RequestHead)
    elif path.endswith("/"):
        assert told(answer)[0] == 404, "an empty segment is no variable's value"
    else:
        status, reason, errors = told(answer)
        assert (status, reason) == expected[:2]
        assert expected[2] is None or errors == expected[2]
    if expected and expected[0] == 405:
        assert isinstance(answer, Reply)
        assert dict(answer.headers)["allow"] == "GET, DELETE"


async def test_unknown_operations_and_parameters_as_configured() -> None:
    async with kit({"openapi": API, "unknownOperations": "pass", "basePath": ""}) as plugin:
        assert isinstance(await plugin.request(head("GET", "/cats")), RequestHead)
        assert isinstance(await plugin.request(head("PUT", "/pets/1")), RequestHead)
        assert await plugin.request_body(head("PUT", "/pets/1"), b"x") == b"x"
    async with kit({"openapi": API, "refuseUnknownParameters": True}) as plugin:
        answer = await plugin.request(head("GET", "/v1/pets", "filter[old]=true&x=1&y=2&x=3", TENANT))
        assert told(answer)[2] == ["query x is not known", "query y is not known"]


@pytest.mark.parametrize(
    ("body", "headers", "expected"),
    [
        (b'{"name": "Rex"}', (JSON,), None),
        (b'{"name": null, "secret": "x", "age": 1}', (JSON,), None),
        (b'{"name": "Rex", "age": 0}', (JSON,), (422, "BodyInvalid", ["#/age must be greater than 0"])),
        (
            b'{"name": "R", "colour": 1}',
            (JSON,),
            (422, "BodyInvalid", ["#/colour is not known", "#/name must have at least 2 characters"]),
        ),
        (
            b'{"name": "Rex", "tags": ["a", "a"]}',
            (JSON,),
            (422, "BodyInvalid", ["#/tags must not have two equal items"]),
        ),
        (b"", (JSON,), (400, "BodyMissing", [])),
        (b"anything", (("content-type", "text/plain"),), None),
    ],
)
async def test_bodies_of_an_operation(body: bytes, headers: tuple[tuple[str, str], ...], expected: object) -> None:
    answer = await sent({"openapi": API}, head("POST", "/v1/pets", "", *headers), body)
    if expected is None:
        assert answer == body
    else:
        status, reason, errors = told(answer)
        assert (status, reason, sorted(errors)) == expected


async def test_a_body_where_the_operation_has_none_is_refused() -> None:
    assert told(await sent({"openapi": API}, head("DELETE", "/v1/pets/1"), b"x"))[:2] == (400, "BodyUnexpected")
    smuggled = head("GET", "/v1/pets/1", "", ("content-length", "1"))
    assert told(await sent({"openapi": API}, smuggled, b"x"))[:2] == (400, "BodyUnexpected")
    assert await sent({"openapi": API}, head("DELETE", "/v1/pets/1"), b"") == b""


@pytest.mark.parametrize(
    ("body", "content_type", "fine"),
    [
        (b'[{"id": 1, "name": "Rex"}]', "application/json", True),
        (b'[{"name": "Rex"}]', "application/json", False),  # readOnly is missed only in requests
        (b"<html>", "text/html", False),
        (b"not json", "application/json", False),
    ],
)
async def test_responses_are_refused_or_logged(
    body: bytes, content_type: str, fine: bool, caplog: pytest.LogCaptureFixture
) -> None:
    request = head("GET", "/v1/pets", "", TENANT, ("accept-encoding", "br"), ("range", "bytes=1-"))
    response = ResponseHead(200, (("content-type", content_type),))
    async with kit({"openapi": API, "responses": "refuse"}) as plugin:
        passed = await plugin.request(request)
        assert isinstance(passed, RequestHead)
        assert {"accept-encoding", "range"}.isdisjoint(dict(passed.headers)), "so that the answer can be read"
        answer = await plugin.response_body(passed, response, body)
        if fine:
            assert answer == body
        else:
            assert told(answer) == (502, "ResponseInvalid", [])
    async with kit({"openapi": API, "responses": "log"}) as plugin:
        caplog.clear()
        assert await plugin.response_body(request, response, body) == body
        assert bool(caplog.records) is not fine
    async with kit({"openapi": API}) as plugin:
        assert not plugin.plugin.wants_response_body(request, response)


async def test_a_compressed_response_is_not_taken_for_a_valid_one() -> None:
    async with kit({"response": {"schema": SCHEMA}}) as plugin:
        good = ResponseHead(200, (JSON,))
        assert await plugin.response_body(head("GET", "/"), good, b'{"a":1}') == b'{"a":1}'
        packed = good.with_header("content-encoding", "gzip")
        assert told(await plugin.response_body(head("GET", "/"), packed, b"\x1f\x8b"))[0] == 502
        assert await plugin.response_body(head("GET", "/"), ResponseHead(404), b"gone") == b"gone"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, "nothing to check"),
        ({"openapi": API, "request": {"schema": {}}}, "two ways"),
        ({"openapi": {"openapi": "2.0", "paths": {}}}, "convert the document"),
        ({"request": {"schema": {"$ref": "https://evil.example/x.json"}}}, "leaves the document"),
        ({"request": {"schema": {"$ref": "file:///etc/passwd"}}}, "leaves the document"),
        ({"request": {"schema": {"$ref": "#/$defs/none"}}}, "names nothing"),
        ({"request": {"schema": {"properties": {"a": {"$id": "x"}}}}}, r"\$id is not supported"),
        ({"request": {"schema": {"$ref": "#"}}}, "without end"),
        ({"request": {"schema": {"type": "text"}}}, "config.request.schema"),
        ({"request": {"schema": {"properties": {"a": {"pattern": "(a+)+$"}}}}}, "repeat inside a repeat"),
        ({"request": {"schema": {"patternProperties": {"(a|a)*$": {}}}}}, "can take very long"),
        ({"openapi": {"openapi": "3.1.0", "paths": {"/a": {"get": {"parameters": [
            {"name": "o", "in": "query", "schema": {"type": "object"}}]}}}}}, "deepObject"),
        ({"openapi": {"openapi": "3.1.0", "paths": {"/a": {"get": {"parameters": [
            {"name": "o", "in": "path", "style": "matrix", "schema": {}}]}}}}}, "style 'matrix'"),
        ({"openapi": {"openapi": "3.1.0", "paths": {"a": {}}}}, "starts with '/'"),
    ],
)  # fmt: skip
def test_configurations_that_cannot_be_used_say_why(config: dict[str, Any], message: str) -> None:
    with pytest.raises(PluginConfigError, match=message):
        kit(config)


def test_members_that_look_like_keywords_are_members() -> None:
    kit({"request": {"schema": {"$id": "https://example.com/a", "properties": {"$ref": {"type": "string"}, "pattern": {"const": "("}},
                                "default": {"$ref": "elsewhere"}}}})  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        ("date", ["2024-02-29"], ["2023-02-29", "20240101", "2024-1-1"]),
        (
            "date-time",
            ["2024-01-01T00:00:00Z", "2024-01-01t23:59:60.5+01:00"],
            ["2024-01-01", "2024-01-01T24:00:00Z", "2024-01-01T00:00"],
        ),
        ("email", ["a@b.example"], ["a", "a@", "@b", "a b@c", "a@b@c"]),
        ("uuid", ["7d444840-9dc0-11d1-b245-5ffdce74fad2"], ["7d4448409dc011d1b2455ffdce74fad2", "x"]),
        ("ipv4", ["0.0.0.0", "10.1.2.3"], ["256.1.1.1", "1.2.3", "01.2.3.4"]),
        ("ipv6", ["::", "2001:db8::1"], ["1.2.3.4", ":::"]),
        ("hostname", ["a.example"], ["-a.example", "a..b", "x" * 64]),
        ("uri", ["https://a.example/b?c#d"], ["/a", "https://a b"]),
        ("byte", ["YWJj", ""], ["YWJ", "a*=="]),
        ("int32", [2**31 - 1, "text"], [2**31, -(2**31) - 1]),
    ],
)
def test_formats(kind: str, good: list[Any], bad: list[Any]) -> None:
    assert [value for value in good if not CHECKER.conforms(value, kind)] == []
    assert [value for value in bad if CHECKER.conforms(value, kind)] == []
    assert CHECKER.conforms(None, kind)


def test_levels_and_values_are_bounded() -> None:
    for text in (b"1", b"[]", b"[1]"):
        parse(text, 1, 10)
    for text in (b"[[]]", b"[[1]]", b'{"a": {"b": 1}}'):
        parse(text, 2, 10)
        with pytest.raises(NotJson, match="deeper than 1 levels"):
            parse(text, 1, 10)
    assert parse(b'{"a": [1, 2]}', 2, 3) == {"a": [1, 2]}
    with pytest.raises(NotJson, match="more than 2 values"):
        parse(b'{"a": [1, 2]}', 2, 2)


async def test_a_body_with_very_many_values_is_refused_before_it_is_checked() -> None:
    body = json.dumps({"a": [0] * 10_000}).encode()
    assert told(await sent({"request": {"schema": SCHEMA}}, head("POST", "/", "", JSON), body)) == (
        400,
        "BodyNotJson",
        [],
    )
