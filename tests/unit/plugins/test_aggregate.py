"""aggregate: calls side by side and one after the other, what is missing, and values made to break out."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from nexus_core.hooks import Called, CallFailed, Reply, RequestHead
from nexus_plugin_aggregate import Aggregate
from nexus_sdk.plugin import PluginConfigError
from nexus_sdk.testing import Call, FakeContext, PluginKit

CALLS: dict[str, Any] = {
    "user": {"url": "nexus://shop/users/users/{path.id}"},
    "orders": {"url": "nexus://shop/orders/list?all=1", "query": {"user": "{path.id}", "page": "{query.page}"}, "take": "body.items",
               "required": False, "default": []},
    "advice": {"url": "nexus://shop/advice/for/{user.kind}/{method}", "headers": {"X-Lang": "{header.\"accept-language\"}-{user.kind}"},
               "required": False},
}  # fmt: skip
ANSWERS: dict[str, Any] = {
    "nexus://shop/users/users/7": {"name": "Ann", "kind": "a b"},
    "nexus://shop/orders/list?all=1&user=7": {"items": [1, 2]},
    "nexus://shop/advice/for/a%20b/GET": "buy",
}
REQUEST = RequestHead(
    "GET",
    "/start/7",
    "",
    "shop",
    (("accept-language", "de"), ("authorization", "Bearer x"), ("cookie", "secret=1"), ("x-request-id", "r1")),
)


def ok(value: Any) -> Called:
    return Called(200, (("cache-control", "max-age=5"), ("set-cookie", "a=b")), json.dumps(value).encode())


def told(call: Call) -> Called:
    return ok(ANSWERS[call.url]) if call.url in ANSWERS else Called(404)


def kit(
    answer: Callable[[Call], Called | Awaitable[Called]] = told, calls: dict[str, Any] | None = None, **route: Any
) -> PluginKit:
    config = {"routes": [{"path": "/start/{id}", "calls": calls or CALLS, **route}], "external": "https://api.example"}
    return PluginKit(Aggregate, config, context=FakeContext(answer=answer))


def parts(reply: object) -> Any:
    assert isinstance(reply, Reply)
    return json.loads(reply.body)


async def test_parts_are_put_together_and_later_calls_use_earlier_ones() -> None:
    async with kit() as plugin:
        reply = await plugin.request(REQUEST)
    assert reply == Reply(
        200,
        (("content-type", "application/json"),),
        b'{"advice":"buy","orders":[1,2],"user":{"name":"Ann","kind":"a b"}}',
    )
    made = {call.url: call for call in plugin.context.calls}
    advice = made["nexus://shop/advice/for/a%20b/GET"]
    assert advice.headers == (
        ("accept-language", "de"), ("authorization", "Bearer x"), ("x-request-id", "r1"), ("x-lang", "de-a b"),
            ("accept", "application/json"),
    ), "forwarded headers, its own, and no cookie"  # fmt: skip


async def test_head_is_answered_as_get_and_for_no_other_method() -> None:
    head = RequestHead("HEAD", "/start/7")
    calls = {"user": {"url": "nexus://shop/users/{path.id}"}}
    async with kit(calls=calls) as plugin:
        assert await plugin.request(head) == await plugin.request(RequestHead("GET", "/start/7"))
    async with kit(calls=calls, method="POST") as plugin:
        assert await plugin.request(head) is head


async def test_requests_for_other_addresses_go_on() -> None:
    async with kit() as plugin:
        for request in (
            RequestHead("POST", "/start/7"),
            RequestHead("GET", "/start"),
            RequestHead("GET", "/start/7/8"),
        ):
            assert await plugin.request(request) is request
            assert await plugin.request_body(request, b"x") == b"x"
        assert plugin.context.calls == []


async def test_calls_run_side_by_side_within_their_number() -> None:
    running, most = 0, 0
    release = asyncio.Event()

    async def answer(call: Call) -> Called:
        nonlocal running, most
        running += 1
        most = max(most, running)
        if most == 3:
            release.set()
        await release.wait()
        running -= 1
        return ok(1)

    calls = {f"c{index}": {"url": f"nexus://shop/a/{index}"} for index in range(7)}
    async with kit(answer, calls, maxParallel=3) as plugin:
        assert parts(await plugin.request(REQUEST)) == dict.fromkeys(calls, 1)
    assert most == 3


@pytest.mark.parametrize(
    ("answer", "reason", "status"),
    [
        (Called(500), "PartFailed", 500),
        (Called(200, (), b"<html>"), "PartNotJson", 200),
        (Called(200, (), b"[" * 200_000), "PartNotJson", 200),
        (Called(200, (), b'"' + b"x" * 300_000 + b'"'), "PartTooLarge", 200),
        (CallFailed("10.0.0.7:80 refused"), "PartUnreachable", None),
    ],
)
async def test_optional_parts_may_be_missing(answer: Called | Exception, reason: str, status: int | None) -> None:
    def answered(call: Call) -> Called:
        if "orders" not in call.url:
            return told(call)
        if isinstance(answer, Exception):
            raise answer
        return answer

    calls = {**CALLS, "orders": {**CALLS["orders"], "maxBytes": 300_000}}
    async with kit(answered, calls) as plugin:
        reply = await plugin.request(REQUEST)
    value = parts(reply)
    assert (value["orders"], value["advice"]) == ([], "buy")
    assert [(error["part"], error["reason"], error.get("status")) for error in value["errors"]] == [
        ("orders", reason, status)
    ]
    assert isinstance(reply, Reply)
    assert b"10.0.0.7" not in reply.body, "addresses are for the log"
    assert dict(reply.headers)["x-aggregate-missing"] == "orders"
    assert dict(reply.headers)["cache-control"] == "no-store"


@pytest.mark.parametrize(("status", "client"), [(404, 404), (401, 401), (500, 502), (302, 502)])
async def test_without_a_required_part_there_is_no_reply(status: int, client: int) -> None:
    async with kit(lambda call: Called(status) if "users" in call.url else told(call)) as plugin:
        reply = await plugin.request(REQUEST)
    assert isinstance(reply, Reply)
    problem = parts(reply)
    assert (reply.status, problem["reason"], problem["request_id"]) == (client, "PartMissing", "r1")
    assert {
        "part": "user",
        "reason": "PartFailed",
        "detail": f"The service answered {status}.",
        "status": status,
    } in problem["errors"]


async def test_a_failed_required_part_gives_up_what_is_still_running() -> None:
    given_up = asyncio.Event()

    async def answer(call: Call) -> Called:
        if "users" in call.url:
            return Called(503)
        try:
            await asyncio.Event().wait()
        finally:
            given_up.set()
        raise AssertionError

    async with kit(answer) as plugin:
        reply = await plugin.request(REQUEST)
    assert isinstance(reply, Reply)
    assert reply.status == 502
    assert given_up.is_set()
    assert "orders" not in [each["part"] for each in parts(reply)["errors"]], "it was given up, not late"


async def test_what_is_late_is_missing() -> None:
    async def answer(call: Call) -> Called:
        if "orders" in call.url:
            await asyncio.Event().wait()
        return told(call)

    async with kit(answer, timeoutSeconds=0.02) as plugin:
        value = parts(await plugin.request(REQUEST))
        assert value["errors"] == [{"part": "orders", "reason": "PartLate", "detail": "It was not there in time."}]
        assert value["user"]["name"] == "Ann"
    async with kit(answer, {"orders": {"url": "nexus://shop/orders/x"}}, timeoutSeconds=0.02) as plugin:
        reply = await plugin.request(REQUEST)
        assert isinstance(reply, Reply)
        assert reply.status == 504


async def test_a_call_whose_need_is_missing_is_not_made() -> None:
    calls = {**CALLS, "user": {**CALLS["user"], "required": False}}
    async with kit(lambda call: Called(500), calls) as plugin:
        errors = parts(await plugin.request(REQUEST))["errors"]
    assert [(each["part"], each["reason"]) for each in errors] == [
        ("advice", "PartNotAsked"), ("orders", "PartFailed"), ("user", "PartFailed"),
    ]  # fmt: skip
    assert not [call for call in plugin.context.calls if "advice" in call.url]


@pytest.mark.parametrize(
    ("path", "url"),
    [
        ("/start/a%2F..%2Fadmin", "nexus://shop/users/users/a%2F..%2Fadmin"),
        ("/start/a%3Fb=c%23d", "nexus://shop/users/users/a%3Fb%3Dc%23d"),
        ("/start/%25", "nexus://shop/users/users/%25"),
        ("/start/%2E%2E", None),
        ("/start/.", None),
        ("/start/a%0D%0Ab", None),
        ("/start/" + "x" * 5000, None),
    ],
)
async def test_values_cannot_break_out_of_their_segment(path: str, url: str | None) -> None:
    async with kit(lambda call: ok(1), {"user": CALLS["user"]}) as plugin:
        reply = await plugin.request(RequestHead("GET", path))
    assert [call.url for call in plugin.context.calls] == ([url] if url else [])
    assert isinstance(reply, Reply)
    assert reply.status == (200 if url else 502)


async def test_bodies_go_in_and_a_reply_is_shaped() -> None:
    calls = {"made": {"url": "https://api.example/things", "method": "POST", "body": "{name: body.name, by: header.\"x-user\"}",
                      "replyHeaders": ["Cache-Control"]}}  # fmt: skip
    request = RequestHead("POST", "/start/7", headers=(("x-user", "ann"), ("x-user", "eve")))
    async with kit(
        lambda call: ok({"id": 1}), calls, method="POST", reply="{id: made.id, for: path.id, n: length(body.name)}"
    ) as plugin:
        assert await plugin.request(request) is request
        reply = await plugin.request_body(request, b'{"name": "cup"}')
        assert reply == Reply(
            200, (("content-type", "application/json"), ("cache-control", "max-age=5")), b'{"id":1,"for":"7","n":3}'
        )
        assert json.loads(plugin.context.calls[0].body) == {"name": "cup", "by": "ann"}
        for body in (b"{", b"\xff", b"[" * 200_000):
            refused = await plugin.request_body(request, body)
            assert isinstance(refused, Reply)
            assert refused.status == 400


async def test_replies_are_bounded_and_shaped_or_refused() -> None:
    for route, reason in (({"maxBytes": 10}, "ReplyTooLarge"), ({"reply": "abs(user.name)"}, "ReplyUnfit")):
        async with kit(**route) as plugin:
            reply = await plugin.request(REQUEST)
        assert isinstance(reply, Reply)
        assert (reply.status, parts(reply)["reason"]) == (502, reason)


@pytest.mark.parametrize(
    ("calls", "route", "message"),
    [
        ({"a": {"url": "nexus://s/x/{b}"}, "b": {"url": "nexus://s/x/{a}"}}, {}, "wait for each other"),
        ({"a": {"url": "nexus://s/x/{a.b}"}}, {}, "'a' is not there"),
        ({"a": {"url": "nexus://s/x/{c.b}"}}, {}, "'c' is not there"),
        ({"a": {"url": "https://{path.id}/"}}, {}, "scheme and host are fixed"),
        ({"a": {"url": "nexus://shop/{path.id}"}}, {}, "the service is fixed"),
        ({"a": {"url": "https://user@api.example/"}}, {}, "scheme and host are fixed"),
        ({"a": {"url": "https://other.example/"}}, {}, "other.example may not be called"),
        ({"a": {"url": "https://api.example{path.id}/"}}, {}, "scheme and host are fixed"),
        ({"a": {"url": "file:///etc/passwd"}}, {}, "scheme and host are fixed"),
        ({"query": {"url": "nexus://s/x"}}, {}, "another name"),
        ({"a": {"url": "nexus://s/x/{"}}, {}, "not closed"),
        ({"a": {"url": "nexus://s/x/{a[}"}}, {}, "no JMESPath"),
        ({"a": {"url": "nexus://s/x", "headers": {"Host": "b"}}}, {}, "written by the gateway"),
        ({"a": {"url": "nexus://s/x", "take": "path.id"}}, {}, "`body` and `status`"),
        ({"a": {"url": "nexus://s/x"}}, {"reply": "b"}, "there is no 'b'"),
        ({"a": {"url": "nexus://s/x"}}, {"path": "/{a}/{a}"}, "twice"),
        ({"a": {"url": "nexus://s/x"}}, {"path": "/{a b}"}, "no variable"),
        ({"errors": {"url": "nexus://s/x"}}, {}, "errorsKey"),
    ],
)
def test_configurations_that_cannot_be_used_say_why(calls: dict[str, Any], route: dict[str, Any], message: str) -> None:
    with pytest.raises(PluginConfigError, match=message):
        kit(calls=calls, **route)
