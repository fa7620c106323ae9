"""The plugin `headers`: every kind of rule, where values come from, and that no value gets out of its header."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nexus_core.hooks import Headers, PluginConfigError, RequestHead, ResponseHead
from nexus_plugin_headers import HeaderRules
from nexus_plugin_headers.templates import Moment, Template

REQUEST = RequestHead(
    "POST", "/api/a", "q=1", "shop.example", (("x-a", "1"), ("x-b", "2"), ("x-a", "3")), "192.0.2.1", "shop/orders/0"
)


async def requested(make: Any, *rules: dict[str, Any], head: RequestHead = REQUEST, **config: Any) -> Headers:
    passed = await make(HeaderRules, {"request": list(rules), **config}).request(head)
    assert isinstance(passed, RequestHead)
    return passed.headers


async def responded(make: Any, *rules: dict[str, Any], response: ResponseHead) -> Headers:
    answer = await make(HeaderRules, {"response": list(rules)}).response(REQUEST, response)
    assert isinstance(answer, ResponseHead)
    return answer.headers


@pytest.mark.parametrize(
    ("rule", "after"),
    [
        ({"do": "set", "name": "X-A", "value": "9"}, (("x-b", "2"), ("x-a", "9"))),
        ({"do": "set", "name": "x-c", "value": "9"}, (*REQUEST.headers, ("x-c", "9"))),
        ({"do": "add", "name": "x-b", "value": "9"}, (*REQUEST.headers, ("x-b", "9"))),
        ({"do": "default", "name": "x-a", "value": "9"}, REQUEST.headers),
        ({"do": "default", "name": "x-c", "value": "9"}, (*REQUEST.headers, ("x-c", "9"))),
        ({"do": "remove", "name": "x-a"}, (("x-b", "2"),)),
        ({"do": "remove", "name": "x-*"}, ()),
        ({"do": "remove", "name": "x-missing"}, REQUEST.headers),
        ({"do": "rename", "name": "x-a", "to": "X-D"}, (("x-d", "1"), ("x-b", "2"), ("x-d", "3"))),
        ({"do": "rename", "name": "x-a", "to": "x-b"}, (("x-b", "1"), ("x-b", "3"))),
        ({"do": "rename", "name": "x-missing", "to": "x-b"}, REQUEST.headers),
    ],
)  # fmt: skip
async def test_each_kind_of_rule(make: Any, rule: dict[str, Any], after: Headers) -> None:
    assert await requested(make, rule) == after


@pytest.mark.parametrize(
    ("value", "filled"),
    [
        ("${client_ip} via ${host}", "192.0.2.1 via shop.example"), ("${method} ${path}?${query}", "POST /api/a?q=1"),
        ("${route}", "shop/orders/0"), ("${header:X-B}!", "2!"), ("a${header:x-missing}b", "ab"), ("$$5 ${value:region}", "$5 eu"),
        ("$${path}", "${path}"),
    ],
)  # fmt: skip
async def test_values_are_filled_from_the_request_and_the_configuration(make: Any, value: str, filled: str) -> None:
    rule = {"do": "set", "name": "x-new", "value": value}
    assert (await requested(make, rule, values={"region": "eu"}))[-1] == ("x-new", filled)


async def test_a_value_that_comes_out_empty_changes_nothing(make: Any) -> None:
    assert await requested(make, {"do": "set", "name": "x-a", "value": "${header:x-missing}"}) == REQUEST.headers


async def test_rules_run_in_order_and_conditions_see_what_rules_before_did(make: Any) -> None:
    rules: list[dict[str, Any]] = [
        {"do": "remove", "name": "x-a"},
        {"do": "set", "name": "x-gone", "value": "yes", "when": {"absent": "x-a"}},
        {"do": "set", "name": "x-kept", "value": "no", "when": {"present": "x-a"}},
    ]
    assert await requested(make, *rules) == (("x-b", "2"), ("x-gone", "yes"))


@pytest.mark.parametrize(
    ("when", "holds"),
    [
        ({"methods": ["post"]}, True), ({"methods": ["GET"]}, False), ({"paths": ["/api/*"]}, True), ({"paths": ["/api"]}, False),
        ({"paths": ["/x", "/api/a"]}, True), ({"methods": ["POST"], "paths": ["/other"]}, False), ({"status": ["2xx"]}, False),
        ({"present": "X-A"}, True), ({}, True),
    ],
)  # fmt: skip
async def test_conditions_of_requests(make: Any, when: dict[str, Any], holds: bool) -> None:
    after = await requested(make, {"do": "set", "name": "x-new", "value": "1", "when": when})
    assert (("x-new", "1") in after) is holds


@pytest.mark.parametrize(
    ("statuses", "status", "holds"),
    [(["5xx"], 500, True), (["5xx"], 599, True), (["5xx"], 499, False), ([404], 404, True), (["500-502"], 502, True),
     (["500-502"], 503, False),      (["404", "200-299"], 204, True)],
)  # fmt: skip
async def test_conditions_by_status(make: Any, statuses: list[Any], status: int, holds: bool) -> None:
    rule = {
        "do": "set",
        "name": "x-new",
        "value": "${status}/${response:etag}/${header:x-b}",
        "when": {"status": statuses},
    }
    after = await responded(make, rule, response=ResponseHead(status, (("etag", '"e"'),)))
    assert after == (("etag", '"e"'), *([("x-new", f'{status}/"e"/2')] if holds else []))


async def test_a_message_that_no_rule_changes_stays_the_same_object(make: Any) -> None:
    kit = make(HeaderRules, {"request": [{"do": "default", "name": "x-a", "value": "1"}]})
    response = ResponseHead(200, (("a", "b"),))
    assert kit.plugin.on_request(REQUEST) is REQUEST
    assert kit.plugin.on_response(REQUEST, response) is response


async def test_what_a_client_sends_cannot_add_a_header(make: Any) -> None:
    head = RequestHead(
        "GET", "/", "a=\r\nx-admin: 1", "h\x00ost", (("x-a", "v\r\n\r\nHTTP/1.1 200"), ("x-b", "y" * 20_000))
    )
    rules = [
        {"do": "set", "name": "x-one", "value": "${query}|${host}|${header:x-a}"},
        {"do": "set", "name": "x-two", "value": "${header:x-b}"},
        {"do": "remove", "name": "x-a"},
    ]
    after = await requested(make, *rules, head=head)
    assert after[-2] == ("x-one", "a=x-admin: 1|host|vHTTP/1.1 200")
    assert len(after[-1][1]) == 8192


@given(st.text())
def test_no_text_gets_out_of_its_header(text: str) -> None:
    filled = Template("${header:x}", "here", {}, response=False).fill(
        Moment(RequestHead("GET", "/", headers=(("x", text),)))
    )
    assert not set(filled) & {chr(code) for code in (*range(9), *range(10, 32), 127)}
    assert filled == filled.strip(" \t")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"request": [{"do": "set", "name": "x", "value": "${nothing}"}]}, r"config\.request\[0\]\.value: there is no `\${nothing}`"),
        ({"request": [{"do": "set", "name": "x", "value": "${status}"}]}, r"config\.request\[0\]\.value: there is no `\${status}`"),
        ({"response": [{"do": "set", "name": "x", "value": "${value:no}"}]}, r"config\.response\[0\]\.value"),
        ({"request": [{"do": "set", "name": "x", "value": "${header:a b}"}]}, r"there is no"),
        ({"request": [{"do": "set", "name": "x", "value": "5$"}]}, r"a lone `\$` at character 2"),
        ({"request": [{"do": "set", "name": "x", "value": "${host"}]}, r"a lone"),
        ({"request": [{"do": "set", "name": "x"}]}, r"needs a `value`"),
        ({"request": [{"do": "rename", "name": "x"}]}, r"needs `to`"),
        ({"request": [{"do": "set", "name": "Host", "value": "x"}]}, r"host belongs to the gateway"),
        ({"request": [{"do": "set", "name": "Traceparent", "value": "x"}]}, r"traceparent belongs to the gateway"),
        ({"request": [{"do": "rename", "name": "x", "to": "grpc-timeout"}]}, r"grpc-timeout belongs to the gateway"),
        ({"response": [{"do": "rename", "name": "x", "to": "Content-Length"}]}, r"config\.response\[0\]\.to: content-length belongs"),
    ],
)  # fmt: skip
def test_configurations_that_cannot_work_are_refused_with_their_place(
    make: Any, config: dict[str, Any], message: str
) -> None:
    if config["request" if "request" in config else "response"][0]["name"] == "x*":
        assert make(HeaderRules, config).plugin.on_request(REQUEST).headers[-1] == ("x*", "1"), (
            "`*` is a letter of names"
        )
        return
    with pytest.raises(PluginConfigError, match=message):
        make(HeaderRules, config)


def test_the_schema_refuses_what_no_header_can_hold(refused: Any) -> None:
    assert refused(HeaderRules, {"request": [{"do": "set", "name": "a b", "value": "1"}]})
    assert refused(HeaderRules, {"request": [{"do": "set", "name": "a", "value": "1\r\nb: 2"}]})
    assert refused(HeaderRules, {"request": [{"do": "replace", "name": "a", "value": "1"}]})
    assert refused(HeaderRules, {"response": [{"do": "remove", "name": "a", "when": {"status": ["600"]}}]})
    assert refused(HeaderRules, {"response": [{"do": "remove", "name": "a", "when": {"status": ["5xx", 404]}}]}) == ""


def test_removing_by_prefix_leaves_the_framing_alone(make: Any) -> None:
    head = RequestHead("GET", "/", headers=(("host", "a"), ("content-length", "1"), ("content-type", "x")))
    kit = make(HeaderRules, {"request": [{"do": "remove", "name": "co*"}, {"do": "remove", "name": "h*"}]})
    assert kit.plugin.on_request(head).headers == (("host", "a"), ("content-length", "1"))
