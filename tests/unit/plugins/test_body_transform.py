"""body-transform: expressions, templates, headers made of bodies, and bodies that do not fit."""

from __future__ import annotations

import json
from typing import Any

import pytest
from nexus_core.hooks import Reply, RequestHead, ResponseHead
from nexus_plugin_body_transform import BodyTransform
from nexus_sdk.plugin import PluginConfigError
from nexus_sdk.testing import PluginKit

JSON = ("content-type", "application/json; charset=utf-8")
REQUEST = RequestHead(
    "POST",
    "/a/b",
    "page=2&q=a%20b",
    "shop",
    (JSON, ("x-user", "eve"), ("content-digest", "d"), ("accept-encoding", "br")),
)
BODY = {"user": {"id": 7, "name": "Ann", "mail": None}, "items": [{"p": 1.5}, {"p": 2}], "big": 10**20}


async def asked(
    rule: dict[str, Any], body: Any = BODY, request: RequestHead = REQUEST
) -> bytes | tuple[RequestHead, bytes] | Reply:
    async with PluginKit(BodyTransform, {"request": rule}) as kit:
        passed = await kit.request(request)
        assert isinstance(passed, RequestHead)
        return await kit.request_body(passed, body if isinstance(body, bytes) else json.dumps(body).encode())


def made(answer: object) -> Any:
    assert isinstance(answer, tuple), answer
    return json.loads(answer[1])


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("user.name", "Ann"),
        ("nothing", None),
        ("sum(items[*].p)", 3.5),
        ("big", 10**20),
        ("{who: upper(user.name), page: query('page'), q: query('q'), h: header('X-User'), m: method(), p: path(), s: status()}",
         {"who": "ANN", "page": "2", "q": "a b", "h": "eve", "m": "POST", "p": "/a/b", "s": None}),
        ("split('a,b,c', ',')", ["a", "b", "c"]),
        ("lower(query('missing') || 'X')", "x"),
    ],
)  # fmt: skip
async def test_expressions_give_the_new_body(expression: str, value: Any) -> None:
    answer = await asked({"expression": expression})
    assert made(answer) == value
    assert isinstance(answer, tuple)
    assert answer[0].header("content-digest") is None, "it was of the former body"


async def test_templates_hold_expressions_defaults_and_what_is_left_out() -> None:
    template = {
        "id": {"$": "user.id"},
        "mail": {"$": "user.mail", "default": "none"},
        "gone": {"$": "user.mail", "omit": True},
        "null": {"$": "user.mail"},
        "list": [1, {"$": "items[0].p"}, {"$": "nothing", "omit": True}, {"deep": {"$": "user.name"}}],
    }
    assert made(await asked({"template": template})) == {
        "id": 7, "mail": "none", "null": None, "list": [1, 1.5, {"deep": "Ann"}],
    }  # fmt: skip
    assert made(await asked({"template": {"$": "nothing", "omit": True}})) is None
    assert made(await asked({"template": "fixed"})) == "fixed"


async def test_headers_are_made_of_the_body_and_never_the_clients_own() -> None:
    rule = {
        "headers": {
            "X-User": "user.name",
            "x-id": "user.id",
            "x-mail": "user.mail",
            "x-paid": "`true`",
            "x-price": "items[0].p",
        }
    }
    answer = await asked(rule)
    assert isinstance(answer, tuple)
    head, body = answer
    assert json.loads(body) == BODY
    assert head.headers[-4:] == (("x-user", "Ann"), ("x-id", "7"), ("x-paid", "true"), ("x-price", "1.5"))
    assert head.header("content-digest") == "d", "the body is the same"
    without = await asked(rule, b"")
    assert without == b""
    async with PluginKit(BodyTransform, {"request": rule}) as kit:
        passed = await kit.request(REQUEST)
        assert isinstance(passed, RequestHead)
        assert passed.header("x-user") is None


@pytest.mark.parametrize("value", ["a\r\nb: c", "\x00", "\ud800", "x" * 5000, ["a"], {"a": 1}])
async def test_what_cannot_stand_in_a_header_is_refused_and_not_quoted(value: Any) -> None:
    answer = await asked({"headers": {"x-a": "v"}}, json.dumps({"v": value}).encode())
    assert isinstance(answer, Reply)
    assert (answer.status, json.loads(answer.body)["reason"]) == (422, "BodyUnfit")


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        ((("content-type", "text/plain"),), b"hello", 415),
        ((), b"{}", 415),
        ((JSON, ("content-encoding", "gzip")), b"\x1f\x8b", 415),
        ((JSON,), b"{", 400),
        ((JSON,), b"\xff\xfe{", 400),
        ((JSON,), b"[" * 200_000, 400),
    ],
)
async def test_what_is_not_json_passes_or_is_refused(
    headers: tuple[tuple[str, str], ...], body: bytes, status: int
) -> None:
    request = RequestHead("POST", "/", headers=headers)
    assert await asked({"expression": "a"}, body, request) == body
    answer = await asked({"expression": "a", "notJson": "refuse"}, body, request)
    assert isinstance(answer, Reply)
    assert (answer.status, json.loads(answer.body)["reason"]) == (status, "BodyNotJson")


async def test_bodies_that_do_not_fit_pass_or_are_refused_without_quoting_them() -> None:
    secret = {"user": {"name": "secret"}}
    answer = await asked({"expression": "sum(user.name)"}, secret)
    assert isinstance(answer, Reply)
    assert answer.status == 422
    assert b"secret" not in answer.body
    assert await asked({"expression": "sum(user.name)", "failed": "pass"}, secret) == json.dumps(secret).encode()
    large = await asked({"expression": "[@, @, @]", "maxBytes": 100}, {"a": "x" * 50})
    assert isinstance(large, Reply)
    assert b"maxBytes" in large.body
    infinite = await asked({"expression": "@"}, b"1e999")
    assert isinstance(infinite, Reply)
    assert infinite.status == 422


async def test_responses_of_chosen_statuses_are_changed(caplog: pytest.LogCaptureFixture) -> None:
    config = {
        "response": {"expression": "{s: status(), n: name}", "headers": {"x-n": "name"}, "statuses": ["2xx", "404"]}
    }
    async with PluginKit(BodyTransform, config) as kit:
        passed = await kit.request(REQUEST)
        assert isinstance(passed, RequestHead)
        assert passed.header("accept-encoding") is None
        assert passed.header("x-user") == "eve"
        part = await kit.request(REQUEST.with_header("range", "bytes=1-").with_header("if-range", '"a"'))
        assert isinstance(part, RequestHead)
        assert {"range", "if-range"}.isdisjoint(dict(part.headers)), "a part of JSON is none, and would pass as it is"
        assert await kit.request_body(passed, b"{}") == b"{}"
        head = ResponseHead(201, (JSON, ("etag", '"a"'), ("set-cookie", "a=b"), ("set-cookie", "c=d")))
        answer = await kit.response_body(passed, head, b'{"name": "Ann"}')
        assert answer == Reply(
            201, (JSON, ("set-cookie", "a=b"), ("set-cookie", "c=d"), ("x-n", "Ann")), b'{"s":201,"n":"Ann"}'
        )
        assert isinstance(await kit.response_body(passed, ResponseHead(404, (JSON,)), b"{}"), Reply)
        for status in (500, 204, 304):
            assert await kit.response_body(passed, ResponseHead(status, (JSON,)), b"{}") == b"{}"
    async with PluginKit(BodyTransform, {"response": {"expression": "abs(name)", "notJson": "refuse"}}) as kit:
        for body, reason in ((b'{"name": "secret"}', "ResponseUnfit"), (b"<html>", "ResponseNotJson")):
            refused = await kit.response_body(REQUEST, ResponseHead(200, (JSON,)), body)
            assert isinstance(refused, Reply)
            assert (refused.status, json.loads(refused.body)["reason"]) == (502, reason)
            assert b"secret" not in refused.body
        assert "abs(name)" in caplog.text
        assert "secret" not in caplog.text


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, "nothing to do"),
        ({"request": {}}, "config.request: nothing to do"),
        ({"request": {"expression": "a", "template": {}}}, "two ways"),
        ({"request": {"expression": "a["}}, "is no JMESPath expression"),
        ({"response": {"expression": "items[*].nope(@)"}}, r"there is no function nope\(\)"),
        (
            {"request": {"template": {"a": [{"$": "b", "defualt": 1}]}}},
            r"config.request.template.a\[0\]: 'defualt' is not known",
        ),
        ({"request": {"template": {"$": 1}}}, "is not a text"),
        ({"request": {"headers": {"x": "("}}}, "config.request.headers.x"),
    ],
)
def test_configurations_that_cannot_be_used_say_why(config: dict[str, Any], message: str) -> None:
    with pytest.raises(PluginConfigError, match=message):
        PluginKit(BodyTransform, config)
