"""A real ServiceApp on a free port, asked by a real client."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import socket
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from nexus_core.discovery import Endpoint
from nexus_sdk import HttpProblem, ServiceApp, SettingsError, tracing
from nexus_sdk.testing import MemoryDiscovery
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = {"traceparent": f"00-{TRACE}-b7ad6b7169203331-01"}


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


def build(**options: Any) -> ServiceApp:
    app = ServiceApp("orders", version="1.2.3", environ={}, **options)

    @app.get("/orders/{id}")
    async def one(request: web.Request) -> web.Response:
        return web.json_response({"id": request.match_info["id"]})

    @app.post("/orders")
    async def take(request: web.Request) -> web.Response:
        return web.json_response({"bytes": len(await request.read())}, status=201)

    @app.get("/bug")
    async def bug(request: web.Request) -> web.Response:
        raise RuntimeError("secret-address-10.1.2.3")

    @app.get("/refused")
    async def refused(request: web.Request) -> web.Response:
        raise HttpProblem(409, "OrderClosed", "Order 7 is closed.", headers={"x-hint": "1"}, order=7)

    @app.get("/moved")
    async def moved(request: web.Request) -> web.Response:
        raise web.HTTPFound("/orders/1")

    return app


async def test_health_readiness_and_openapi(http: aiohttp.ClientSession) -> None:
    app = build(openapi={"openapi": "3.1.0"})
    broken = True

    async def check() -> None:
        if broken:
            raise OSError("disk full")

    app.readiness("store", check)
    async with app.test_server() as server:
        async with http.get(server.url + "/healthz") as answer:
            assert answer.status == 200
        async with http.get(server.url + "/openapi.json") as answer:
            assert await answer.json() == {"openapi": "3.1.0"}
        async with http.get(server.url + "/readyz") as answer:
            problem = await answer.json(content_type="application/problem+json")
            assert (answer.status, problem["reason"], problem["checks"]) == (503, "NotReady", {"store": "disk full"})
        broken = False
        async with http.get(server.url + "/readyz") as answer:
            assert (answer.status, await answer.json()) == (200, {"status": "ready", "checks": {"store": "ok"}})


async def test_a_readiness_check_that_hangs_is_named(
    http: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nexus_sdk.readiness.CHECK_S", 0.05)
    app = build()
    app.readiness("peer", asyncio.Event().wait)
    async with app.test_server() as server, http.get(server.url + "/readyz") as answer:
        assert (answer.status, "no answer within 0.05 s" in await answer.text()) == (503, True)


@pytest.mark.parametrize(
    ("method", "path", "status", "reason"),
    [
        ("GET", "/nothing", 404, "NotFound"),
        ("PUT", "/orders", 405, "MethodNotAllowed"),
        ("GET", "/bug", 500, "InternalError"),
        ("GET", "/refused", 409, "OrderClosed"),
    ],
)
async def test_errors_are_problem_documents(
    http: aiohttp.ClientSession, method: str, path: str, status: int, reason: str
) -> None:
    async with (
        build().test_server() as server,
        http.request(method, server.url + path, headers={**PARENT, "x-request-id": "me-1"}) as answer,
    ):
        problem = json.loads(await answer.read())
        assert answer.content_type == "application/problem+json"
        assert (answer.status, problem["status"], problem["reason"]) == (status, status, reason)
        assert (problem["request_id"], problem["trace_id"]) == ("me-1", TRACE)
        assert "secret-address" not in json.dumps(problem)
        assert "Traceback" not in json.dumps(problem)
        if status == 405:
            assert answer.headers["allow"] == "POST"
        if status == 409:
            assert (problem["order"], answer.headers["x-hint"]) == (7, "1")


async def test_a_redirect_passes(http: aiohttp.ClientSession) -> None:
    async with build().test_server() as server:
        async with http.get(server.url + "/moved", allow_redirects=False) as answer:
            assert (answer.status, answer.headers["location"]) == (302, "/orders/1")
        async with http.get(server.url + "/metrics") as answer:
            assert 'nexus_http_requests_total{method="GET",route="/moved",status="302"} 1.0' in await answer.text()


async def _chunks(size: int) -> AsyncIterator[bytes]:
    for _ in range(size // 1000):
        yield b"x" * 1000


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_above_the_limit_is_refused(http: aiohttp.ClientSession, chunked: bool) -> None:
    app = build(max_body_bytes=10_000)
    async with app.test_server() as server:
        for size, status in ((10_000, 201), (11_000, 413)):
            data: Any = _chunks(size) if chunked else b"x" * size
            async with http.post(server.url + "/orders", data=data) as answer:
                assert answer.status == status
                if status == 413:
                    assert "10000 bytes" in await answer.text()


async def test_the_default_limit_is_one_mebibyte(http: aiohttp.ClientSession) -> None:
    async with build().test_server() as server:
        for size, status in ((1024 * 1024, 201), (1024 * 1024 + 1, 413)):
            async with http.post(server.url + "/orders", data=io.BytesIO(b"x" * size)) as answer:
                assert answer.status == status


async def test_the_deadline_cancels_the_handler_and_answers_504(http: aiohttp.ClientSession) -> None:
    app, cancelled = build(), asyncio.Event()

    @app.get("/slow")
    async def slow(request: web.Request) -> web.Response:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        return web.Response()

    async with app.test_server() as server:
        async with http.get(server.url + "/slow", headers={"x-request-timeout": "0.05"}) as answer:
            assert (answer.status, "DeadlineExceeded" in await answer.text()) == (504, True)
        assert cancelled.is_set()
        async with http.get(server.url + "/orders/1", headers={"x-request-timeout": "soon"}) as answer:
            assert (answer.status, "decimal seconds" in await answer.text()) == (400, True)


async def test_a_timeout_of_the_handlers_own_is_its_own_failure(http: aiohttp.ClientSession) -> None:
    app = build()

    @app.get("/own")
    async def own(request: web.Request) -> web.Response:
        raise TimeoutError

    async with app.test_server() as server, http.get(server.url + "/own", headers={"x-request-timeout": "5"}) as answer:
        assert answer.status == 500


async def test_metrics_have_bounded_labels(http: aiohttp.ClientSession) -> None:
    async with build().test_server() as server:
        for number in range(20):
            await (await http.get(f"{server.url}/orders/{number}")).read()
            await (await http.get(f"{server.url}/nothing/{number}")).read()
        for method in ("PROPFIND", "LOCK", "UNLOCK", "PURGE", "LINK"):
            await (await http.request(method, f"{server.url}/orders/1")).read()
        async with http.get(server.url + "/metrics") as answer:
            assert answer.content_type == "text/plain"
            lines = [x for x in (await answer.text()).splitlines() if x.startswith("nexus_http_requests_total")]
    assert 'nexus_http_requests_total{method="GET",route="/orders/{id}",status="200"} 20.0' in lines
    assert 'nexus_http_requests_total{method="GET",route="unmatched",status="404"} 20.0' in lines
    assert 'nexus_http_requests_total{method="other",route="unmatched",status="405"} 5.0' in lines
    assert len(lines) == 3


async def test_two_apps_in_one_process_share_nothing(http: aiohttp.ClientSession) -> None:
    first_spans, second_spans = InMemorySpanExporter(), InMemorySpanExporter()
    first = build(span_processors=[SimpleSpanProcessor(first_spans)])
    second = build(span_processors=[SimpleSpanProcessor(second_spans)])
    async with first.test_server() as one, second.test_server() as two:
        await (await http.get(one.url + "/orders/1")).read()
        await (await http.get(two.url + "/orders/1")).read()
        await (await http.get(two.url + "/orders/2")).read()
        async with http.get(one.url + "/metrics") as answer:
            assert 'route="/orders/{id}",status="200"} 1.0' in await answer.text()
    assert (len(first_spans.get_finished_spans()), len(second_spans.get_finished_spans())) == (1, 2)


async def test_one_trace_goes_through_the_client_to_the_next_service(http: aiohttp.ClientSession, caplog: Any) -> None:
    spans, discovery = InMemorySpanExporter(), MemoryDiscovery()
    orders = build(discovery=discovery, span_processors=[SimpleSpanProcessor(spans)])
    catalog = ServiceApp("catalog", environ={}, discovery=discovery, span_processors=[SimpleSpanProcessor(spans)])

    @catalog.get("/items/{sku}")
    async def item(request: web.Request) -> web.Response:
        catalog.log.info("looked up")
        return web.json_response({"traceparent": request.headers["traceparent"]})

    @orders.get("/ask")
    async def ask(request: web.Request) -> web.Response:
        return web.json_response((await orders.client.get("catalog", "/items/1")).json())

    with caplog.at_level(logging.INFO):
        async with orders.test_server() as front, catalog.test_server() as back:
            discovery.set("catalog.default", [Endpoint(back.host, back.port)])
            async with http.get(front.url + "/ask", headers=PARENT) as answer:
                sent = (await answer.json())["traceparent"]
            await (await http.get(front.url + "/healthz", headers=PARENT)).read()
    found = {(s.resource.attributes["service.name"], s.name): s for s in spans.get_finished_spans()}
    assert set(found) == {("orders", "GET /ask"), ("orders", "GET"), ("catalog", "GET /items/{sku}")}
    server, client, last = found["orders", "GET /ask"], found["orders", "GET"], found["catalog", "GET /items/{sku}"]
    assert {f"{s.context.trace_id:032x}" for s in found.values()} == {TRACE}
    assert f"{server.parent.span_id:016x}" == "b7ad6b7169203331"
    assert client.parent.span_id == server.context.span_id
    assert last.parent.span_id == client.context.span_id
    assert sent == f"00-{TRACE}-{client.context.span_id:016x}-01"
    assert server.resource.attributes["service.version"] == "1.2.3"


async def test_a_client_that_goes_away_while_it_sends_is_a_status_and_no_error(caplog: Any) -> None:
    app, reading = ServiceApp("uploads", environ={}), asyncio.Event()

    @app.post("/")
    async def take(request: web.Request) -> web.Response:
        reading.set()
        return web.json_response(len(await request.read()))

    def logged() -> list[Any]:
        return [r for r in caplog.records if getattr(r, "path", "") == "/"]

    with caplog.at_level(logging.DEBUG):
        async with app.test_server() as server:
            _, writer = await asyncio.open_connection(server.host, server.port)
            writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
            await reading.wait()
            writer.transport.abort()
            async with asyncio.timeout(5):
                while not logged():  # noqa: ASYNC110 - a log record is no event
                    await asyncio.sleep(0.01)
    assert [record.status for record in logged()] == [499]
    assert [r for r in caplog.records if r.levelno >= logging.WARNING] == []


async def test_what_a_service_does_untraced_is_recorded_on_neither_side() -> None:
    spans, discovery = InMemorySpanExporter(), MemoryDiscovery()
    orders = build(discovery=discovery, span_processors=[SimpleSpanProcessor(spans)])
    catalog = ServiceApp("catalog", environ={}, discovery=discovery, span_processors=[SimpleSpanProcessor(spans)])

    @catalog.get("/items")
    async def items(request: web.Request) -> web.Response:
        return web.json_response({"sampled": bool(int(request.headers["traceparent"][-2:], 16) & 1)})

    async with orders.test_server(), catalog.test_server() as back:
        discovery.set("catalog.default", [Endpoint(back.host, back.port)])
        with tracing.untraced():
            assert (await orders.client.get("catalog", "/items")).json() == {"sampled": False}
        assert not spans.get_finished_spans()
        assert (await orders.client.get("catalog", "/items")).json() == {"sampled": True}
    assert len(spans.get_finished_spans()) == 2


async def test_spans_reach_an_otlp_receiver_before_the_app_has_stopped(http: aiohttp.ClientSession) -> None:
    received: list[str] = []

    async def receive(request: web.Request) -> web.Response:
        message = ExportTraceServiceRequest.FromString(await request.read())
        received.extend(s.name for r in message.resource_spans for scope in r.scope_spans for s in scope.spans)
        return web.Response(content_type="application/x-protobuf")

    jaeger = web.Application()
    jaeger.router.add_post("/v1/traces", receive)
    runner = web.AppRunner(jaeger)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    endpoint = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        app = ServiceApp("orders", environ={"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint})
        app.get("/hello")(_hello)
        async with app.test_server() as server:
            await (await http.get(server.url + "/hello")).read()
    finally:
        await runner.cleanup()
    assert received == ["GET /hello"]


async def _hello(_: web.Request) -> web.Response:
    return web.Response(text="hello")


async def test_a_receiver_that_never_answers_does_not_hold_the_stop(http: aiohttp.ClientSession, caplog: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # the kernel takes connections; nobody reads them
        app = ServiceApp(
            "orders", environ={"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{silent.getsockname()[1]}"}
        )
        app.get("/hello")(_hello)
        app._tracing._flush_s = 0.2
        async with asyncio.timeout(4), app.test_server() as server:
            await (await http.get(server.url + "/hello")).read()
    assert "spans lost" in caplog.text


async def test_hooks_run_in_order_and_a_failing_one_does_not_stop_the_rest(caplog: Any) -> None:
    app, seen = build(), list[str]()

    def note(name: str, error: Exception | None = None) -> Any:
        async def hook() -> None:
            seen.append(name)
            if error:
                raise error

        return hook

    app.on_start(note("start 1"))
    app.on_start(note("start 2"))
    app.on_drain(note("drain"))
    app.on_stop(note("stop 1"))
    app.on_stop(note("stop 2", ValueError("broken hook")))
    async with app.test_server():
        assert seen == ["start 1", "start 2"]
    assert seen == ["start 1", "start 2", "drain", "stop 2", "stop 1"]
    assert "broken hook" in caplog.text


async def test_a_start_hook_that_raises_keeps_the_app_from_starting_and_what_started_is_stopped() -> None:
    app, stopped = build(), asyncio.Event()

    async def fail() -> None:
        raise OSError("no database")

    async def stop() -> None:
        stopped.set()

    app.on_start(fail)
    app.on_stop(stop)
    with pytest.raises(OSError, match="no database"):
        await app.start("127.0.0.1", 0)
    assert stopped.is_set()


async def test_a_crashed_background_task_starts_again_and_ends_with_the_app(
    http: aiohttp.ClientSession, caplog: Any
) -> None:
    app, runs, again, ended = build(), list[int](), asyncio.Event(), asyncio.Event()

    async def work() -> None:
        runs.append(1)
        if len(runs) == 1:
            raise RuntimeError("first run fails")
        again.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    app.background(work, name="outbox")
    async with asyncio.timeout(10), app.test_server() as server:
        await again.wait()
        async with http.get(server.url + "/metrics") as answer:
            assert 'nexus_background_restarts_total{task="outbox"} 1.0' in await answer.text()
    assert ended.is_set()
    assert "first run fails" in caplog.text


async def test_a_taken_port_is_explained() -> None:
    async with build().test_server() as server:
        with pytest.raises(SettingsError, match=r"cannot listen on 127.0.0.1:\d+ .*Stop what uses it, or set PORT"):
            await build().start("127.0.0.1", server.port)
