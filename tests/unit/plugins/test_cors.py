"""The plugin `cors`: preflights and responses as the Fetch standard wants them, and origins that try to pass for others."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nexus_core.hooks import Headers, PluginConfigError, Reply, RequestHead, ResponseHead
from nexus_plugin_cors import Cors
from nexus_plugin_cors.origins import Origins

SHOP = "https://shop.example"


def preflight(origin: str = SHOP, method: str = "PUT", asked: str | None = None, *more: tuple[str, str]) -> RequestHead:
    headers: list[tuple[str, str]] = [("origin", origin), ("access-control-request-method", method), *more]
    if asked is not None:
        headers.append(("access-control-request-headers", asked))
    return RequestHead("OPTIONS", "/a", host="api.example", headers=tuple(headers))


def plain(origin: str | None = SHOP, method: str = "GET") -> RequestHead:
    return RequestHead(method, "/a", host="api.example", headers=() if origin is None else (("origin", origin),))


async def answer(make: Any, config: dict[str, Any], request: RequestHead) -> tuple[int, dict[str, str]]:
    reply = await make(Cors, config).request(request)
    assert isinstance(reply, Reply)
    return reply.status, dict(reply.headers)


async def headers_of(make: Any, config: dict[str, Any], request: RequestHead, headers: Headers = ()) -> Headers:
    response = await make(Cors, config).exchange(request, lambda _: ResponseHead(200, headers))
    assert isinstance(response, ResponseHead)
    return response.headers


async def test_a_preflight_is_told_what_may_be_done(make: Any) -> None:
    config = {"origins": [SHOP], "methods": ["PUT", "GET"], "headers": ["x-b", "x-a"], "maxAgeSeconds": 60}
    status, headers = await answer(make, config, preflight(asked="x-a"))
    assert status == 204
    assert headers == {
        "access-control-allow-origin": SHOP,
        "access-control-allow-methods": "GET, PUT",
        "access-control-allow-headers": "x-a, x-b",
        "access-control-max-age": "60",
        "content-length": "0",
        "vary": "origin, access-control-request-method, access-control-request-headers",
    }


async def test_who_asks_for_no_headers_is_told_of_none(make: Any) -> None:
    _, headers = await answer(make, {"origins": [SHOP]}, preflight())
    assert "access-control-allow-headers" not in headers


@pytest.mark.parametrize(
    ("asked", "told"),
    [("X-One, x-two", "X-One, x-two"), ("a b", None), ("x\x00", None), ("a," * 4000 + "a", None), ("", None)],
)
async def test_any_headers_means_those_that_were_asked_for_if_they_are_names(
    make: Any, asked: str, told: str | None
) -> None:
    _, headers = await answer(
        make, {"origins": [SHOP], "headers": ["*"], "methods": ["*"]}, preflight(method="PURGE", asked=asked)
    )
    assert headers.get("access-control-allow-headers") == told
    assert headers["access-control-allow-methods"] == "PURGE"


async def test_any_method_does_not_echo_what_is_none(make: Any) -> None:
    _, headers = await answer(make, {"origins": [SHOP], "methods": ["*"]}, preflight(method="A B"))
    assert "access-control-allow-methods" not in headers


async def test_a_preflight_of_another_origin_is_refused_and_still_varies(make: Any) -> None:
    status, headers = await answer(make, {"origins": [SHOP]}, preflight("https://evil.example"))
    assert status == 403
    assert headers.keys() == {"vary", "content-length"}


async def test_private_networks_are_opened_only_when_asked_for_and_configured(make: Any) -> None:
    asking = preflight(SHOP, "GET", None, ("access-control-request-private-network", "true"))
    name = "access-control-allow-private-network"
    _, opened = await answer(make, {"origins": [SHOP], "privateNetwork": True}, asking)
    _, unasked = await answer(make, {"origins": [SHOP], "privateNetwork": True}, preflight())
    _, closed = await answer(make, {"origins": [SHOP]}, asking)
    assert (opened.get(name), unasked.get(name), closed.get(name)) == ("true", None, None)
    assert "access-control-request-private-network" in opened["vary"]


async def test_an_options_request_that_is_no_preflight_passes(make: Any) -> None:
    kit = make(Cors, {"origins": [SHOP]})
    for request in (
        plain(method="OPTIONS"),
        RequestHead("OPTIONS", "/", headers=(("access-control-request-method", "GET"),)),
    ):
        assert await kit.request(request) is request


async def test_responses_are_opened_to_the_origin_and_the_services_own_words_go(make: Any) -> None:
    config = {"origins": [SHOP], "credentials": True, "exposeHeaders": ["ETag", "x-b"]}
    sent = (("access-control-allow-origin", "*"), ("vary", "Accept"), ("etag", '"1"'))
    assert await headers_of(make, config, plain(), sent) == (
        ("etag", '"1"'),
        ("vary", "Accept"),
        ("vary", "origin"),
        ("access-control-allow-origin", SHOP),
        ("access-control-allow-credentials", "true"),
        ("access-control-expose-headers", "ETag, x-b"),
    )


@pytest.mark.parametrize("origin", [None, "https://evil.example"])
async def test_responses_to_others_say_only_that_they_vary(make: Any, origin: str | None) -> None:
    assert await headers_of(make, {"origins": [SHOP]}, plain(origin)) == (("vary", "origin"),)


@pytest.mark.parametrize("vary", ["Origin", "accept, ORIGIN", "*"])
async def test_vary_names_origin_once(make: Any, vary: str) -> None:
    assert await headers_of(make, {"origins": [SHOP]}, plain(None), (("vary", vary),)) == (("vary", vary),)


async def test_any_origin_gets_the_same_answer_so_that_caches_need_one_copy(make: Any) -> None:
    assert await headers_of(make, {"origins": ["*"]}, plain()) == (("access-control-allow-origin", "*"),)
    assert await headers_of(make, {"origins": ["*"]}, plain(None)) == ()
    assert await headers_of(make, {"origins": ["*"]}, plain("null")) == (), "null is no origin among any"


def test_any_origin_with_credentials_is_refused(make: Any) -> None:
    with pytest.raises(PluginConfigError, match=r"config\.credentials: .*list the origins"):
        make(Cors, {"origins": ["*"], "credentials": True})


async def test_other_origins_are_refused_only_where_that_is_wanted(make: Any) -> None:
    config = {"origins": [SHOP], "refuseOthers": True}
    status, headers = await answer(make, config, plain("https://evil.example", "POST"))
    assert (status, headers["vary"]) == (403, "origin")
    kit = make(Cors, config)
    for origin in (SHOP, None, "https://api.example", "https://api.example:8443"):
        assert isinstance(await kit.request(plain(origin, "POST")), RequestHead), origin
    assert isinstance(await kit.request(plain("https://api.example.evil.example", "POST")), Reply)
    assert isinstance(await make(Cors, {"origins": [SHOP]}).request(plain("https://evil.example", "POST")), RequestHead)


@pytest.mark.parametrize(
    ("origin", "known"),
    [
        (SHOP, True), ("HTTPS://SHOP.EXAMPLE", True), ("https://shop.example:443", True), ("https://shop.example:8443", False),
        ("http://shop.example", False), ("https://shop.example.evil.example", False), ("https://evil-shop.example", False),
        ("https://a.wild.example", True), ("https://a.b.wild.example", True), ("https://wild.example", False),
        ("https://.wild.example", False), ("https://evil.example:1.wild.example", False), ("https://evil.example/.wild.example", False),
        ("https://a..wild.example", False), ("https://a@b.wild.example", False), ("https://a.wild.example:8443", False),
        ("https://p.port.example:8443", True), ("https://p.port.example", False),
        ("https://tenant-12.app.example", True), ("https://tenant-12.app.example.evil", False), ("https://xtenant-12.app.example", False),
        ("http://[::1]:3000", True), ("null", False), ("", False), ("*", False), ("shop.example", False), ("https://", False),
        (f"{SHOP}, https://evil.example", False), (f"{SHOP}\r\nx: y", False), ("https://" + "a" * 300 + ".wild.example", False),
    ],
)  # fmt: skip
def test_origins_are_known_by_the_whole_of_them(origin: str, known: bool) -> None:
    origins = Origins(
        [SHOP, "https://*.wild.example", "https://*.port.example:8443", "http://[::1]:3000"],
        [r"https://tenant-[0-9]+\.app\.example"],
    )
    assert (origin in origins) is known


def test_null_is_known_only_where_it_is_listed() -> None:
    assert "null" in Origins(["null"], [])
    assert "null" not in Origins(["*"], [".*"])


@pytest.mark.parametrize(
    "origin", ["shop.example", "https://shop.example/", "https://*", "https://a.*.example", "https://*example", "ws:"]
)
def test_what_is_no_origin_is_refused_with_its_place(make: Any, origin: str) -> None:
    with pytest.raises(PluginConfigError, match=r"config\.origins\[1\]"):
        make(Cors, {"origins": [SHOP, origin]})


@pytest.mark.parametrize("pattern", ["(a+)*", "https://.*a.*b.*c", "("])
def test_expressions_that_strangers_could_make_slow_are_refused(make: Any, pattern: str) -> None:
    with pytest.raises(PluginConfigError, match=r"config\.originPatterns\[0\]: The expression "):
        make(Cors, {"originPatterns": [pattern]})


@given(st.text(max_size=300))
def test_no_text_breaks_the_answer(text: str) -> None:
    config: dict[str, Any] = {
        "origins": [SHOP], "originPatterns": [], "credentials": True, "methods": ["*"], "headers": ["*"], "exposeHeaders": [],
        "maxAgeSeconds": 1, "privateNetwork": True, "refuseOthers": True,
    }  # fmt: skip
    plugin = Cors(config)
    for request in (preflight(text, text, text), preflight(SHOP, text, text), plain(text)):
        reply = plugin.on_request(request)
        if isinstance(reply, Reply):
            assert not any(char in value for _, value in reply.headers for char in "\r\n\x00")


def test_the_schema_wants_an_origin(refused: Any) -> None:
    assert refused(Cors, {})
    assert refused(Cors, {"origins": [SHOP], "methods": ["get it"]})
    assert refused(Cors, {"origins": [SHOP], "exposeHeaders": ["a\r\nb"]})
    assert refused(Cors, {"originPatterns": ["https://x"]}) == ""
