"""Every kind of filter, and active health checks, through a running gateway."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import ClientError, web
from nexus_core.snapshot import (
    CircuitBreaker,
    Cors,
    DirectReply,
    Fallback,
    Fault,
    Filter,
    HeaderModifier,
    HealthCheck,
    Mirror,
    RateLimit,
    Retry,
    SizeLimit,
    Snapshot,
    UrlRewrite,
    WeightedBackend,
)
from nexus_gateway.testing import Harness, route, rule, simple, snapshot, until, upstream

ORIGIN = "https://shop.example"
CORS = Cors((ORIGIN,), credentials=True)


async def echo(request: web.Request) -> web.Response:
    body = await request.read()
    headers = [[name.lower(), value] for name, value in request.headers.items()]
    seen = {"method": request.method, "path": request.raw_path, "headers": headers, "body": body.decode()}
    return web.json_response(seen, headers={"x-upstream": "1", "access-control-allow-origin": "*"})


def ruled(port: int, *filters: Filter, backend: tuple[Filter, ...] = (), path: str = "/") -> Snapshot:
    one = rule(WeightedBackend("shop/orders", filters=backend), filters=filters, path=path)
    return snapshot(route(one), upstream(port))


@pytest.fixture
async def port(harness: Harness) -> int:
    return await harness.upstreams.start(echo)


def value_of(seen: dict[str, Any], name: str) -> list[str]:
    return [value for key, value in seen["headers"] if key == name]


@pytest.mark.parametrize("as_values", [False, True])
async def test_modifiers_and_rewrites_of_rule_and_backend(harness: Harness, port: int, as_values: bool) -> None:
    """With a filter that needs heads as values the same comes out as without."""
    filters: tuple[Filter, ...] = (
        UrlRewrite("orders.internal", "prefix", "/v1"),
        HeaderModifier("request", set=(("x-a", "rule"),), remove=("x-gone",)),
        HeaderModifier("response", set=(("x-upstream", "rule"),)),
    )
    backend = (
        HeaderModifier("request", add=(("x-a", "backend"),)),
        HeaderModifier("response", add=(("x-upstream", "backend"),)),
    )
    await harness.start(ruled(port, *filters, *((CORS,) if as_values else ()), backend=backend, path="/orders"))
    sent = {"X-A": "client", "X-GONE": "1", "x-kept": "1", "x-nexus-mirror": "1"}
    async with harness.client.get(harness.url("/orders/7?a=b"), headers=sent) as response:
        seen = await response.json()
    assert seen["path"] == "/v1/7?a=b"
    assert value_of(seen, "host") == ["orders.internal"]
    assert value_of(seen, "x-a") == ["rule", "backend"]
    assert value_of(seen, "x-gone") == []
    assert value_of(seen, "x-kept") == ["1"]
    assert value_of(seen, "x-nexus-mirror") == [], "a client cannot pass its request off as a copy"
    assert response.headers.getall("x-upstream") == ["rule"]
    assert len(response.headers.getall("date")) == 1


async def test_a_reply_of_the_configuration(harness: Harness) -> None:
    await harness.start(snapshot(route(rule(filters=(DirectReply(503, "Back at noon."),)))))
    async with harness.client.get(harness.url("/")) as response:
        assert (response.status, await response.text()) == (503, "Back at noon.")
        assert response.headers["content-type"] == "text/plain; charset=utf-8"
    async with harness.client.head(harness.url("/")) as response:
        assert (response.status, await response.read()) == (503, b"")


async def test_cors(harness: Harness, port: int) -> None:
    await harness.start(ruled(port, CORS, RateLimit("r", 2, per_s=1000.0)))
    asked = {"Origin": ORIGIN, "Access-Control-Request-Method": "POST"}
    for _ in range(3):
        async with harness.client.options(harness.url("/"), headers=asked) as response:
            assert response.status == 200, "preflights count against no limit"
            assert response.headers["access-control-allow-methods"] == "GET, HEAD, POST"
            assert response.headers["access-control-allow-credentials"] == "true"
            assert await response.read() == b""
    async with harness.client.options(harness.url("/"), headers={**asked, "Origin": "https://evil"}) as response:
        assert response.status == 403
        assert "access-control-allow-origin" not in response.headers
    async with harness.client.get(harness.url("/"), headers={"Origin": ORIGIN}) as response:
        assert response.status == 200
        assert response.headers.getall("access-control-allow-origin") == [ORIGIN]
        assert response.headers["vary"] == "origin"
    async with harness.client.get(harness.url("/"), headers={"Origin": "https://evil"}) as response:
        assert response.status == 200
        assert "access-control-allow-origin" not in response.headers
    async with harness.client.get(harness.url("/"), headers={"Origin": ORIGIN}) as response:
        assert response.status == 429
        assert response.headers["access-control-allow-origin"] == ORIGIN, "the page may read why"


async def test_a_mirror_gets_its_share_as_it_was_sent(harness: Harness, port: int) -> None:
    copies: list[dict[str, Any]] = []

    async def shadow(request: web.Request) -> web.Response:
        copies.append({"headers": request.headers.copy(), "body": await request.text(), "path": request.raw_path})
        return web.Response(status=500)

    other = upstream(await harness.upstreams.start(shadow), upstream_id="shop/shadow")
    one = rule("shop/orders", filters=(Mirror("shop/shadow", 0.25), UrlRewrite("", "prefix", "/v1")))
    await harness.start(snapshot(route(one), upstream(port), other))
    sent = b"POST /a HTTP/1.1\r\nhost: shop.example\r\ncontent-length: 4\r\nconnection: close\r\n\r\nbody"
    for _ in range(12):
        answer = await harness.raw(sent)
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert b"x-nexus-mirror" not in answer, "the upstream echoes what it was sent"
    await until(lambda: len(copies) >= 3)
    await asyncio.sleep(0.05)
    assert len(copies) == 3
    assert {(copy["path"], copy["body"], copy["headers"]["host"]) for copy in copies} == {
        ("/v1/a", "body", "shop.example")
    }
    assert {copy["headers"]["x-nexus-mirror"] for copy in copies} == {"1"}


@pytest.mark.parametrize(
    "body",
    [
        b"content-length: 300000\r\n\r\n" + b"x" * 300_000,
        b"transfer-encoding: chunked\r\n\r\n4\r\nbody\r\n3e8\r\n" + b"x" * 1000 + b"\r\n0\r\n\r\n",
    ],
    ids=["too large", "chunks that are too large"],
)
async def test_copies_that_cannot_be_made_are_counted(harness: Harness, port: int, body: bytes) -> None:
    """The body is passed on as it comes: nobody has all of it."""
    other = upstream(port, upstream_id="shop/shadow")
    one = rule("shop/orders", filters=(Mirror("shop/shadow", 0.5),))
    gateway = await harness.start(snapshot(route(one), upstream(port), other), max_body_replay_bytes=1000)
    for _ in range(4):
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        writer.write(b"POST /a HTTP/1.1\r\nhost: x\r\nconnection: close\r\n" + body[:40])
        await asyncio.sleep(0.02)
        writer.write(body[40:])
        async with asyncio.timeout(5):
            assert (await reader.read()).startswith(b"HTTP/1.1 200")
        writer.close()
    async with harness.client.get(harness.admin("/metrics")) as response:
        text = await response.text()
    assert re.findall(r"nexus_gateway_mirrored_total\{(.*)\} (.*)", text) == [
        ('outcome="failed",upstream="shop/shadow"', "2.0")
    ]


async def chunks(count: int) -> AsyncIterator[bytes]:
    for _ in range(count):
        yield b"x" * 100


@pytest.mark.parametrize(("count", "status"), [(1, 200), (50, 413)])
@pytest.mark.parametrize("announced", [True, False])
async def test_requests_that_are_too_large(
    harness: Harness, port: int, count: int, status: int, announced: bool
) -> None:
    await harness.start(ruled(port, SizeLimit(request_bytes=1000)))
    data = b"x" * 100 * count if announced else chunks(count)
    async with harness.client.post(harness.url("/"), data=data) as response:
        assert response.status == status


@pytest.mark.parametrize("announced", [True, False])
async def test_responses_that_are_too_large(harness: Harness, announced: bool) -> None:
    async def large(request: web.Request) -> web.StreamResponse:
        if announced:
            return web.Response(body=b"x" * 5000)
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(50):
            await response.write(b"x" * 100)
            await asyncio.sleep(0.002)
        return response

    await harness.start(ruled(await harness.upstreams.start(large), SizeLimit(response_bytes=1000)))
    if announced:
        async with harness.client.get(harness.url("/")) as response:
            assert response.status == 502
            assert (await response.json())["reason"] == "ResponseTooLarge"
    else:
        async with harness.client.get(harness.url("/")) as response:
            assert response.status == 200
            with pytest.raises(ClientError):
                await response.read()


async def test_faults(harness: Harness, port: int) -> None:
    await harness.start(ruled(port, Fault(delay_s=0.1, delay_ratio=1.0, abort_status=418, abort_ratio=1.0)))
    loop = asyncio.get_running_loop()
    began = loop.time()
    async with harness.client.get(harness.url("/")) as response:
        assert response.status == 418
    assert loop.time() - began >= 0.1


async def failing(request: web.Request) -> web.Response:
    transport = request.transport
    assert transport is not None
    transport.abort()
    return web.Response()


@pytest.mark.parametrize(("method", "status"), [("GET", 200), ("POST", 299)])
async def test_fallbacks(harness: Harness, port: int, method: str, status: int) -> None:
    """An order that may have been carried out is not given to another service."""
    calm = upstream(await harness.upstreams.start(failing), retry=Retry(0), breaker=CircuitBreaker(failures=0))
    other = upstream(port, upstream_id="shop/static")
    one = rule("shop/orders", filters=(Fallback("shop/static", DirectReply(299, "later")),))
    await harness.start(snapshot(route(one), calm, other))
    async with harness.client.request(method, harness.url("/")) as response:
        assert response.status == status


async def test_a_fallback_is_not_for_answers_of_the_upstream(harness: Harness) -> None:
    async def busy(request: web.Request) -> web.Response:
        return web.Response(status=503, text="mine")

    await harness.start(ruled(await harness.upstreams.start(busy), Fallback(reply=DirectReply(299))))
    async with harness.client.get(harness.url("/")) as response:
        assert (response.status, await response.text()) == (503, "mine")


async def test_an_endpoint_that_fails_its_check_gets_no_requests(harness: Harness) -> None:
    sick = asyncio.Event()

    def service(name: str, event: asyncio.Event | None) -> Any:
        async def handle(request: web.Request) -> web.Response:
            if request.path == "/healthz":
                return web.Response(status=503 if event is not None and event.is_set() else 200)
            return web.Response(text=name)

        return handle

    ports = [await harness.upstreams.start(service("a", sick)), await harness.upstreams.start(service("b", None))]
    check = HealthCheck(interval_s=0.1, unhealthy=2, healthy=1)
    await harness.start(simple(*ports, health=check))

    async def answers() -> set[str]:
        found = set()
        for _ in range(20):
            async with harness.client.get(harness.url("/")) as response:
                found.add(await response.text())
        return found

    async def only_b() -> bool:
        return await answers() == {"b"}

    async def both() -> bool:
        return await answers() == {"a", "b"}

    assert await both()
    sick.set()
    await until(only_b)
    await harness.publish(simple(*ports, health=check, retry=Retry(1)))
    assert await only_b(), "a reload that leaves the check alone keeps its verdict"
    sick.clear()
    await until(both)
