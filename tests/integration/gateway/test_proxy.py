"""Requests through the gateway: what reaches the upstream and what comes back, byte for byte where it matters."""

from __future__ import annotations

import asyncio
import gzip
import io
import json
from ipaddress import ip_network
from typing import Any

import pytest
from aiohttp import ClientConnectionError, ClientPayloadError, web
from nexus_core.snapshot import Cors, HeaderModifier, Redirect, Retry, Timeouts, UrlRewrite, WeightedBackend
from nexus_gateway.testing import Harness, route, rule, simple, snapshot, upstream
from yarl import URL


async def echo(request: web.Request) -> web.Response:
    body = await request.read()
    return web.json_response(
        {
            "method": request.method,
            "path": request.raw_path,
            "headers": [[name.lower(), value] for name, value in request.headers.items()],
            "body": body.decode("latin-1"),
        }
    )


def headers_of(seen: dict[str, Any], name: str) -> list[str]:
    return [value for key, value in seen["headers"] if key == name]


async def test_a_request_arrives_as_it_was_sent(harness: Harness) -> None:
    await harness.start(simple(await harness.upstreams.start(echo)))
    url = URL(harness.url("/a%20b/c?x=%2F&y=+&z"), encoded=True)
    async with harness.client.post(url, data=b"hello", headers={"X-Custom": "v", "Host": "shop.example"}) as response:
        seen = await response.json()
    assert (response.status, seen["method"], seen["path"], seen["body"]) == (
        200,
        "POST",
        "/a%20b/c?x=%2F&y=+&z",
        "hello",
    )
    assert headers_of(seen, "x-custom") == ["v"]
    assert headers_of(seen, "host") == ["shop.example"]
    assert headers_of(seen, "x-forwarded-for") == ["127.0.0.1"]
    assert headers_of(seen, "x-forwarded-proto") == ["http"]
    assert headers_of(seen, "x-forwarded-host") == ["shop.example"]
    assert len(headers_of(seen, "x-request-id")[0]) == 32
    assert headers_of(seen, "content-length") == ["5"]


async def test_forwarding_headers_of_strangers_are_replaced_and_those_of_trusted_proxies_extended(
    harness: Harness,
) -> None:
    snap = simple(await harness.upstreams.start(echo))
    await harness.start(snap)
    sent = {
        "X-Forwarded-For": "6.6.6.6",
        "X-Forwarded-Proto": "https",
        "X-Forwarded-Host": "evil",
        "X-Forwarded-Port": "666",
        "X-Forwarded-Prefix": "/evil",
        "X-Request-Id": "mine",
    }
    async with harness.client.get(harness.url("/"), headers=sent) as response:
        seen = await response.json()
    assert headers_of(seen, "x-forwarded-for") == ["127.0.0.1"]
    assert headers_of(seen, "x-forwarded-proto") == ["http"]
    assert headers_of(seen, "x-forwarded-port") == headers_of(seen, "x-forwarded-prefix") == []
    assert headers_of(seen, "x-request-id") == ["mine"]
    trusting = Harness(harness.tmp_path)
    try:
        await trusting.start(snap, trusted_proxies=(ip_network("127.0.0.0/8"),))
        async with trusting.client.get(trusting.url("/"), headers=sent) as response:
            seen = await response.json()
    finally:
        await trusting.close()
    assert headers_of(seen, "x-forwarded-for") == ["6.6.6.6, 127.0.0.1"]
    assert headers_of(seen, "x-forwarded-proto") == ["https"]
    assert headers_of(seen, "x-forwarded-host") == ["evil"]
    assert headers_of(seen, "x-forwarded-port") == ["666"]


WORDS = (
    "X-Real-IP",
    "True-Client-IP",
    "X-Client-IP",
    "CF-Connecting-IP",
    "X-Cluster-Client-IP",
    "X-Original-Host",
    "X-Host",
)


@pytest.mark.parametrize("hooked", [False, True], ids=["as bytes", "as values"])
async def test_other_names_for_a_clients_address_and_host_are_a_trusted_proxys_alone(
    harness: Harness, hooked: bool
) -> None:
    """What no proxy says is the service's own matter: X-HTTP-Method-Override goes through."""
    filters = (Cors(),) if hooked else ()
    snap = snapshot(route(rule("shop/orders", filters=filters)), upstream(await harness.upstreams.start(echo)))
    sent = {**dict.fromkeys(WORDS, "6.6.6.6"), "X-HTTP-Method-Override": "PUT"}
    trusting = Harness(harness.tmp_path)
    try:
        await harness.start(snap)
        await trusting.start(snap, trusted_proxies=(ip_network("127.0.0.0/8"),))
        for each, passed in ((harness, []), (trusting, ["6.6.6.6"])):
            async with each.client.get(each.url("/"), headers=sent) as response:
                seen = await response.json()
            assert {name: headers_of(seen, name.lower()) for name in WORDS} == dict.fromkeys(WORDS, passed)
            assert headers_of(seen, "x-http-method-override") == ["PUT"]
    finally:
        await trusting.close()


async def test_hop_by_hop_headers_stop_at_the_gateway_both_ways(harness: Harness) -> None:
    async def answer(request: web.Request) -> web.Response:
        return web.Response(
            text=json.dumps([[k.lower(), v] for k, v in request.headers.items()]),
            headers={
                "Connection": "x-secret",
                "X-Secret": "1",
                "Keep-Alive": "timeout=5",
                "Proxy-Authenticate": "x",
                "X-Kept": "1",
            },
        )

    await harness.start(simple(await harness.upstreams.start(answer)))
    sent = {
        "Connection": "keep-alive, x-hop",
        "X-Hop": "1",
        "TE": "trailers",
        "Proxy-Authorization": "s",
        "Keep-Alive": "3",
    }
    async with harness.client.get(harness.url("/"), headers=sent) as response:
        names = {name for name, _ in json.loads(await response.text())}
    assert names.isdisjoint({"x-hop", "te", "proxy-authorization", "keep-alive"})
    assert "X-Kept" in response.headers
    assert {"X-Secret", "Keep-Alive", "Proxy-Authenticate"}.isdisjoint(response.headers)


async def test_compressed_bodies_cookies_and_redirects_pass_untouched(harness: Harness) -> None:
    packed = gzip.compress(b"x" * 5000)
    cookies: list[str | None] = []

    async def answer(request: web.Request) -> web.Response:
        cookies.append(request.headers.get("Cookie"))
        response = web.Response(status=302, body=packed, headers={"Content-Encoding": "gzip", "Location": "/next"})
        response.headers.add("Set-Cookie", "a=1; Path=/")
        response.headers.add("Set-Cookie", "b=2; Path=/")
        return response

    await harness.start(simple(await harness.upstreams.start(answer)))
    for _ in range(2):
        async with harness.client.get(harness.url("/"), allow_redirects=False) as response:
            assert (response.status, await response.read()) == (302, packed)
            assert response.headers.getall("Set-Cookie") == ["a=1; Path=/", "b=2; Path=/"]
    assert cookies == [None, None]


@pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("GET", 204), ("GET", 304)])
async def test_answers_without_a_body_keep_their_framing(harness: Harness, method: str, status: int) -> None:
    async def answer(request: web.Request) -> web.Response:
        headers = {"Content-Length": "1234"} if method == "HEAD" else {"ETag": '"x"'}
        return web.Response(status=status, headers=headers)

    await harness.start(simple(await harness.upstreams.start(answer)))
    for _ in range(2):  # twice: wrong framing would spoil the second answer on the same connection
        async with harness.client.request(method, harness.url("/")) as response:
            assert (response.status, await response.read()) == (status, b"")
            assert response.headers.get("Content-Length") == ("1234" if method == "HEAD" else None)
            assert "Transfer-Encoding" not in response.headers


async def test_bodies_stream_both_ways_without_being_collected(harness: Harness) -> None:
    """The upstream answers each piece before the client sends the next: collected bodies would deadlock."""

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        async for piece in request.content.iter_any():
            await response.write(piece.upper())
        return response

    await harness.start(simple(await harness.upstreams.start(answer)))
    turn = asyncio.Queue[bytes | None]()

    async def pieces() -> Any:
        while (piece := await turn.get()) is not None:
            yield piece

    turn.put_nowait(b"a")
    async with harness.client.post(harness.url("/"), data=pieces()) as response:
        for piece in (b"a", b"b", b"c"):
            assert await response.content.readany() == piece.upper()
            turn.put_nowait(bytes([piece[0] + 1]) if piece != b"c" else None)
        assert await response.content.readany() == b""


async def test_large_bodies_arrive_whole(harness: Harness) -> None:
    async def answer(request: web.Request) -> web.Response:
        return web.Response(body=io.BytesIO(await request.read()))

    await harness.start(simple(await harness.upstreams.start(answer)))
    body = bytes(range(256)) * 20_000
    async with harness.client.post(harness.url("/"), data=io.BytesIO(body)) as response:
        assert await response.read() == body


async def test_a_slow_reader_slows_the_upstream_down(harness: Harness) -> None:
    """Back-pressure: with the client not reading, the upstream gets stuck instead of the gateway's memory growing."""
    sent = 0

    async def answer(request: web.Request) -> web.StreamResponse:
        nonlocal sent
        response = web.StreamResponse()
        await response.prepare(request)
        while sent < 2**28:
            await response.write(b"x" * 2**16)
            sent += 2**16
        return response

    await harness.start(simple(await harness.upstreams.start(answer)))
    async with harness.client.get(harness.url("/")):
        before = -1
        while sent != before or not sent:
            before = sent
            await asyncio.sleep(0.2)
    assert sent < 2**26


async def test_server_sent_events_are_not_held_back(harness: Harness) -> None:
    go = asyncio.Event()

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await go.wait()
        await response.write(b"data: 1\n\n")
        await asyncio.Event().wait()
        return response

    await harness.start(simple(await harness.upstreams.start(answer)))
    async with harness.client.get(harness.url("/")) as response:
        assert response.headers["Content-Type"] == "text/event-stream"  # the head comes before any event
        go.set()
        assert await response.content.readuntil(b"\n\n") == b"data: 1\n\n"


async def test_a_client_that_leaves_cancels_the_upstream(harness: Harness) -> None:
    began, cancelled = asyncio.Event(), asyncio.Event()

    async def answer(request: web.Request) -> web.Response:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        return web.Response()

    await harness.start(simple(await harness.upstreams.start(answer)))
    task = asyncio.create_task(harness.client.get(harness.url("/")).__aenter__())
    await began.wait()
    task.cancel()
    async with asyncio.timeout(5):
        await cancelled.wait()
    breakers = await harness.ask("/breakers")
    assert breakers["breakers"][0]["failures"] == 0


async def test_an_upstream_that_dies_in_mid_body_breaks_the_client_off(harness: Harness) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        if request.path == "/sized":
            response.content_length = 100
        await response.prepare(request)
        await response.write(b"half")
        assert request.transport is not None
        request.transport.abort()
        return response

    await harness.start(simple(await harness.upstreams.start(answer)))
    for path in ("/sized", "/chunked"):
        with pytest.raises((ClientPayloadError, ClientConnectionError)):
            async with harness.client.get(harness.url(path)) as response:
                await response.read()


async def test_the_body_is_asked_for_only_when_the_upstream_takes_it(harness: Harness) -> None:
    await harness.start(snapshot(route(rule("shop/orders", path="/in")), upstream(await harness.upstreams.start(echo))))
    assert harness.gateway is not None
    reader, writer = await asyncio.open_connection("127.0.0.1", harness.gateway.port)
    writer.write(b"POST /in HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n")
    assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    writer.write(b"abc")
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200")
    writer.close()
    reader, writer = await asyncio.open_connection("127.0.0.1", harness.gateway.port)
    writer.write(b"POST /out HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n")
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 404")
    writer.close()


async def test_problems_are_rfc_9457_with_reason_and_request_id(harness: Harness) -> None:
    await harness.start()
    async with harness.client.get(harness.url("/x"), headers={"X-Request-Id": "abc"}) as response:
        body = await response.json()
    assert (response.status, body["reason"], body["request_id"]) == (503, "NotConfigured", "abc")
    assert response.headers["Server"] == "nexus"
    await harness.publish(snapshot(route(rule("shop/orders", path="/a")), upstream()))
    async with harness.client.get(harness.url("/x"), headers={"X-Request-Id": "abc"}) as response:
        body = await response.json()
    assert response.headers["Content-Type"] == "application/problem+json"
    assert (response.status, body["status"], body["reason"], body["request_id"]) == (404, 404, "RouteNotFound", "abc")


async def test_filters_rewrite_redirect_and_change_headers(harness: Harness) -> None:
    port = await harness.upstreams.start(echo)
    rules = (
        rule("shop/orders", path="/orders", filters=(
            UrlRewrite(hostname="internal", path_kind="prefix", path="/"),
            HeaderModifier("request", set=(("x-set", "1"),), remove=("user-agent",)),
            HeaderModifier("response", add=(("x-added", "2"),)),
        )),
        rule(path="/old", rule_id="r/1", filters=(Redirect(path_kind="prefix", path="/new", status=308),)),
    )  # fmt: skip
    await harness.start(snapshot(route(*rules), upstream(port)))
    async with harness.client.get(harness.url("/orders/7?q=1"), headers={"Host": "shop.example"}) as response:
        seen = await response.json()
    assert (seen["path"], headers_of(seen, "host"), headers_of(seen, "x-set")) == ("/7?q=1", ["internal"], ["1"])
    assert headers_of(seen, "user-agent") == []
    assert response.headers["X-Added"] == "2"
    async with harness.client.get(
        harness.url("/old/a?b=c"), headers={"Host": "shop.example:81"}, allow_redirects=False
    ) as response:
        assert (response.status, response.headers["Location"]) == (308, "http://shop.example:81/new/a?b=c")


async def test_weights_are_kept_exactly_and_a_backend_that_does_not_exist_answers_for_its_share(
    harness: Harness,
) -> None:
    one, two = [await harness.upstreams.start(_named(name)) for name in "ab"]
    backends = (WeightedBackend("shop/a", 3), WeightedBackend("shop/b", 1), WeightedBackend("", 1))
    await harness.start(
        snapshot(route(rule(*backends)), upstream(one, upstream_id="shop/a"), upstream(two, upstream_id="shop/b"))
    )
    answers: list[str] = []
    for _ in range(10):
        async with harness.client.get(harness.url("/")) as response:
            answers.append(await response.text() if response.status == 200 else (await response.json())["reason"])
    assert sorted(answers) == ["BackendNotFound"] * 2 + ["a"] * 6 + ["b"] * 2


def _named(name: str) -> Any:
    async def answer(request: web.Request) -> web.Response:
        return web.Response(text=name)

    return answer


async def test_overload_is_shed_with_503_and_retry_after(harness: Harness) -> None:
    began, release = asyncio.Event(), asyncio.Event()

    async def answer(request: web.Request) -> web.Response:
        began.set()
        await release.wait()
        return web.Response()

    await harness.start(simple(await harness.upstreams.start(answer)), max_in_flight=1)
    first = asyncio.create_task(harness.client.get(harness.url("/")).__aenter__())
    await began.wait()
    async with harness.client.get(harness.url("/")) as response:
        assert (response.status, response.headers["Retry-After"]) == (503, "1")
        assert (await response.json())["reason"] == "Overloaded"
    release.set()
    assert (await first).status == 200


async def test_a_slow_upstream_is_answered_504_in_time(harness: Harness) -> None:
    async def answer(request: web.Request) -> web.Response:
        await asyncio.sleep(30)
        return web.Response()

    timeouts = Timeouts(request_s=0.2)
    await harness.start(simple(await harness.upstreams.start(answer), timeouts=timeouts, retry=Retry(attempts=0)))
    async with asyncio.timeout(5), harness.client.get(harness.url("/")) as response:
        assert (response.status, (await response.json())["reason"]) == (504, "RequestTimeout")


async def test_a_callers_deadline_holds_and_is_passed_on_shortened(harness: Harness) -> None:
    await harness.start(simple(await harness.upstreams.start(echo)))
    for asked, at_most in (("2", 2.0), ("100", 15.0)):  # the upstream's own request timeout is 15 s
        async with harness.client.get(harness.url("/"), headers={"X-Request-Timeout": asked}) as response:
            (left,) = headers_of(await response.json(), "x-request-timeout")
        assert at_most - 1 < float(left) <= at_most
    async with harness.client.get(harness.url("/")) as response:
        assert headers_of(await response.json(), "x-request-timeout") == []
