"""The signed debug header and the sample of requests, on the wire: who gets an answer, what it says, and what is kept."""

from __future__ import annotations

import time
from typing import Any

import pytest
from aiohttp import web
from nexus_core.snapshot import CircuitBreaker, RateLimit, Retry
from nexus_gateway.telemetry import debugging
from nexus_gateway.testing import Harness, route, rule, simple, snapshot, upstream

KEY = "a key of sixteen characters"
NONCE = "nonce-0001"


def token(
    path: str = "/orders", *, host: str = "127.0.0.1", method: str = "GET", key: str = KEY, ahead_s: int = 30
) -> str:
    return debugging.make_token(key.encode(), method, host, path, int(time.time()) + ahead_s, NONCE)


class Echo:
    """Answers 200 and remembers the headers it got."""

    def __init__(self) -> None:
        self.seen: list[dict[str, str]] = []

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.seen.append({name.lower(): value for name, value in request.headers.items()})
        return web.Response(text="x" * 10)


async def fail(request: web.Request) -> web.StreamResponse:
    return web.Response(status=503)


def read(headers: Any) -> dict[str, Any]:
    found = debugging.read_answer(KEY.encode(), NONCE, headers[debugging.ANSWERS], headers[debugging.SIGNS])
    assert found is not None
    return found


async def ask(harness: Harness, given: str, path: str = "/orders", **options: Any) -> tuple[int, Any]:
    assert harness.client is not None
    method = options.pop("method", "GET")
    headers = {debugging.ASKS: given, **options.pop("headers", {})}
    async with harness.client.request(method, harness.url(path), headers=headers, **options) as response:
        await response.read()
        return response.status, response.headers


async def test_a_signed_token_gets_what_happened(harness: Harness) -> None:
    echo = Echo()
    good, bad = await harness.upstreams.start(echo.answer), await harness.upstreams.start(fail)
    rules = (
        rule("shop/orders", path="/orders", retry=Retry(attempts=2)),
        rule("shop/orders", rule_id="HTTPRoute/shop/main/1"),
    )
    await harness.start(
        snapshot(route(*rules), upstream(bad, good, breaker=CircuitBreaker(failures=100))), debug_key=KEY
    )
    for _ in range(20):
        status, headers = await ask(harness, token())
        found = read(headers)
        if found["retries"]:
            break
    assert status == found["status"] == 200
    assert (found["route"], found["rule"]) == ("HTTPRoute/shop/main", "HTTPRoute/shop/main/0")
    assert [(each["endpoint"], each["status"]) for each in found["attempts"]] == [
        (f"127.0.0.1:{bad}", 503), (f"127.0.0.1:{good}", 200),
    ]  # fmt: skip
    assert found["others"][0]["why"] == "It matches too, but the winner's prefix is longer."
    assert found["listeners"] == ["default/nexus/http"]
    assert 0 < found["attempts"][0]["ms"] <= found["ms"]
    assert all(debugging.ASKS not in each for each in echo.seen), "services never see the token"


@pytest.mark.parametrize(
    "wrong",
    [{"path": "/other"}, {"host": "else"}, {"method": "POST"}, {"key": "k" * 16}, {"ahead_s": -2}, {"ahead_s": 90}],
)
async def test_any_other_token_is_served_as_none(harness: Harness, wrong: dict[str, Any]) -> None:
    echo = Echo()
    await harness.start(simple(await harness.upstreams.start(echo.answer)), debug_key=KEY)
    for given in (token(**wrong), "x", token() + "0"):
        status, headers = await ask(harness, given)
        assert status == 200
        assert debugging.ANSWERS not in headers
        assert debugging.ASKS not in echo.seen[-1]


async def test_without_a_key_nobody_gets_an_answer(harness: Harness) -> None:
    await harness.start(simple(await harness.upstreams.start(Echo().answer)))
    assert debugging.ANSWERS not in (await ask(harness, token(key="")))[1]


async def test_refusals_are_explained_too(harness: Harness) -> None:
    limit = RateLimit("NexusPolicy shop/calm/0", 1, per_s=60.0)
    await harness.start(
        snapshot(
            route(rule("shop/orders", path="/orders", filters=(limit,))),
            upstream(await harness.upstreams.start(Echo().answer)),
        ),
        debug_key=KEY,
    )
    await ask(harness, token())
    status, headers = await ask(harness, token())
    assert (status, read(headers)["reason"]) == (429, "RateLimited")
    status, headers = await ask(harness, token("/none"), "/none")
    found = read(headers)
    assert (status, found["reason"], found["route"]) == (404, "RouteNotFound", "")


async def test_streamed_bodies_and_the_next_request_of_a_connection_are_as_ever(harness: Harness) -> None:
    await harness.start(simple(await harness.upstreams.start(Echo().answer)), debug_key=KEY)
    status, headers = await ask(harness, token(method="POST"), method="POST", data=b"y" * 200_000)
    assert (status, read(headers)["status"]) == (200, 200)
    assert harness.client is not None
    async with harness.client.get(harness.url("/orders")) as response:
        assert await response.text() == "x" * 10
        assert debugging.ANSWERS not in response.headers


async def test_requests_come_into_the_sample_redacted(harness: Harness) -> None:
    await harness.start(simple(await harness.upstreams.start(Echo().answer)))
    assert harness.client is not None
    for number in range(5):
        async with harness.client.get(
            harness.url(f"/orders/{number}?token=HUSH&n=1"), headers={"authorization": "Bearer HUSH", "x-beta": "yes"}
        ):
            pass
    found = await harness.ask("/samples")
    assert found["passed"] == 5
    assert {each["path"] for each in found["samples"]} == {f"/orders/{n}" for n in range(5)}
    one = found["samples"][0]
    assert (one["method"], one["host"], one["route"], one["status"]) == ("GET", "127.0.0.1", "HTTPRoute/shop/main", 200)
    assert one["client"] == "127.0.0.0/24"
    assert dict(one["headers"])["x-beta"] == "yes"
    assert one["query"] == "token=[redacted]&n=1"
    assert "HUSH" not in str(found)


async def test_size_0_keeps_no_sample(harness: Harness) -> None:
    await harness.start(simple(await harness.upstreams.start(Echo().answer)), sample_requests=0)
    await ask(harness, "x")
    assert (await harness.ask("/samples"))["samples"] == []


async def test_bytes_beyond_ascii_and_targets_in_absolute_form_are_kept(harness: Harness) -> None:
    await harness.start(simple(await harness.upstreams.start(Echo().answer)))
    await harness.raw(
        b"GET http://Shop.Example:80/a HTTP/1.1\r\nHost: shop.example\r\nX-Odd: \xff\xfe\r\nConnection: close\r\n\r\n"
    )
    (one,) = (await harness.ask("/samples"))["samples"]
    assert (one["host"], one["path"]) == ("shop.example", "/a")
    assert dict(one["headers"])["x-odd"] == "\xff\xfe"
