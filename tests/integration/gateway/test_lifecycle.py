"""Start, drain and stop of the real process, and what the admin API, metrics, logs and traces show."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import signal
import socket
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from aiohttp import ClientConnectorError, ClientSession, web
from nexus_core.problems import Problem
from nexus_core.snapshot import HeaderModifier, WeightedBackend
from nexus_gateway import app
from nexus_gateway.app import Gateway
from nexus_gateway.edge.sources.port import StaticSource
from nexus_gateway.settings import GatewaySettings
from nexus_gateway.telemetry.names import METRICS
from nexus_gateway.testing import Harness, Upstreams, route, rule, simple, snapshot, until, upstream
from nexus_sdk.discovery.memory import MemoryDiscovery
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

MANIFEST = """
apiVersion: nexus.dev/v1alpha1
kind: NexusService
metadata: {name: orders, namespace: shop}
spec: {type: http, backend: {addresses: ["127.0.0.1:PORT"]}, expose: {path: /}}
"""
PROGRAM = """
import os, sys, pathlib
from nexus_gateway.app import run
from nexus_gateway.settings import GatewaySettings
run(GatewaySettings.from_env(os.environ), pathlib.Path(sys.argv[1]))
"""


class Process:
    """The gateway as a process of its own."""

    def __init__(self, tmp_path: Path, find_port: Callable[[], int], upstream_port: int, **environ: str) -> None:
        self.port, self.admin = find_port(), find_port()
        self.log = tmp_path / "log"
        (tmp_path / "manifests").mkdir()
        (tmp_path / "manifests" / "orders.yaml").write_text(MANIFEST.replace("PORT", str(upstream_port)))
        self._folder = tmp_path / "manifests"
        self._environ = {
            **os.environ, "NEXUS_GATEWAY_LISTEN": f"127.0.0.1:{self.port}", "NEXUS_GATEWAY_ADMIN": f"127.0.0.1:{self.admin}",
            "NEXUS_PLUGIN_CACHE": str(tmp_path / "cache"), **environ,
        }  # fmt: skip

    async def start(self, client: ClientSession) -> asyncio.subprocess.Process:
        with self.log.open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-c",
                PROGRAM,
                str(self._folder),
                env=self._environ,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
            )
        async with asyncio.timeout(20):
            while await self.ready(client) != 200:
                assert process.returncode is None, self.log.read_text()
                await asyncio.sleep(0.05)
        return process

    async def ready(self, client: ClientSession) -> int:
        try:
            async with client.get(f"http://127.0.0.1:{self.admin}/readyz") as response:
                return response.status
        except ClientConnectorError:
            return 0


async def test_sigterm_under_load_loses_no_request(tmp_path: Path, unused_tcp_port_factory: Callable[[], int]) -> None:
    """Keep-alive connections, new connections and slow requests: all are answered; only new connections are refused in the end."""

    async def answer(request: web.Request) -> web.Response:
        await asyncio.sleep(1.0 if request.path == "/slow" else 0.005)
        return web.Response(text="ok")

    upstreams = Upstreams()
    port = await upstreams.start(answer)
    gateway = Process(tmp_path, unused_tcp_port_factory, port, NEXUS_DRAIN_DELAY="0.5", NEXUS_DRAIN_SECONDS="10")
    statuses: list[int] = []
    async with ClientSession() as client:
        process = await gateway.start(client)

        async def load(fresh: bool) -> None:
            async with ClientSession() as session:
                while True:
                    try:
                        headers = {"Connection": "close"} if fresh else {}
                        async with session.get(f"http://127.0.0.1:{gateway.port}/", headers=headers) as response:
                            assert await response.text() == "ok"
                            statuses.append(response.status)
                    except ClientConnectorError:
                        return

        workers = [asyncio.create_task(load(number % 2 == 0)) for number in range(8)]
        slow = asyncio.create_task(client.get(f"http://127.0.0.1:{gateway.port}/slow").__aenter__())
        await until(lambda: len(statuses) >= 50)
        process.send_signal(signal.SIGTERM)
        seen: set[int] = set()

        async def not_ready() -> bool:
            seen.add(await gateway.ready(client))
            return seen != {200}

        await until(not_ready)
        async with asyncio.timeout(20):
            await asyncio.gather(*workers)
            assert (await slow).status == 200
            output, _ = await process.communicate()
    await upstreams.close()
    assert 503 in seen, "not ready is said before the listener closes"
    assert set(statuses) == {200}
    assert process.returncode == 0
    lines = [json.loads(line) for line in output.decode().splitlines()]
    assert sum(line["kind"] == "access" for line in lines) == len(statuses) + 1


async def test_a_stop_waits_for_clients_that_read_slowly(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a client was answered is its own, although the request is over for everybody else."""
    monkeypatch.setattr(app, "_IDLE_GRACE_S", 0.05)  # longer would do for this client
    body = os.urandom(60_000)

    async def large(request: web.Request) -> web.Response:
        return web.Response(body=body)

    gateway = await harness.start(simple(await harness.upstreams.start(large)))
    loop = asyncio.get_running_loop()
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.setblocking(False)
        await loop.sock_connect(client, ("127.0.0.1", gateway.port))
        await until(lambda: gateway.proxy.connections)
        [connection] = gateway.proxy.connections
        connection.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        await loop.sock_sendall(client, b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        await until(lambda: gateway.measurements.red("HTTPRoute/shop/main", "shop/orders").codes[2])
        assert not gateway.proxy.in_flight
        assert connection.transport.get_write_buffer_size() > 0, "the client has not taken it yet"
        stopping = asyncio.create_task(gateway.stop(10.0))
        await asyncio.sleep(0.5)
        got = b""
        async with asyncio.timeout(20):
            while len(got) < len(body):
                piece = await loop.sock_recv(client, 4000)
                assert piece, f"cut off after {len(got)} bytes"
                got += piece
                await asyncio.sleep(0.01)
            await stopping
    assert got.endswith(body[-1000:])


async def test_a_second_signal_ends_at_once(tmp_path: Path, unused_tcp_port_factory: Callable[[], int]) -> None:
    arrived = asyncio.Event()

    async def stuck(request: web.Request) -> web.Response:
        arrived.set()
        await asyncio.Event().wait()
        return web.Response()

    upstreams = Upstreams()
    gateway = Process(tmp_path, unused_tcp_port_factory, await upstreams.start(stuck), NEXUS_DRAIN_SECONDS="60")
    async with ClientSession() as client:
        process = await gateway.start(client)
        request = asyncio.create_task(client.get(f"http://127.0.0.1:{gateway.port}/").__aenter__())
        async with asyncio.timeout(10):
            await arrived.wait()
        process.send_signal(signal.SIGSTOP)  # so that it gets the next two in one go
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGINT)  # so soon it is taken for the same wish
        process.send_signal(signal.SIGCONT)

        async def draining() -> bool:
            return await gateway.ready(client) != 200

        await until(draining)
        await asyncio.sleep(0.6)
        assert process.returncode is None
        assert "stopping at once" not in gateway.log.read_text()
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(10):
            await process.communicate()
        said = gateway.log.read_text()
        assert "stopping at once" in said
        assert "plugins were not stopped" not in said, "nothing waits for the request any more"
        await asyncio.gather(request, return_exceptions=True)
    await upstreams.close()


async def ok(request: web.Request) -> web.Response:
    return web.Response(text=request.headers.get("traceparent", ""))


async def test_a_port_that_is_taken_is_an_error_and_leaves_nothing_open(harness: Harness) -> None:
    gateway = await harness.start()
    other = Harness(harness.tmp_path)
    with pytest.raises(OSError, match="address already in use"):
        await other.start(listen=f"127.0.0.1:{gateway.port}")
    other.gateway = None
    await other.close()


async def test_ready_follows_the_first_snapshot_and_the_drain(harness: Harness) -> None:
    gateway = await harness.start()
    async with harness.client.get(harness.admin("/readyz")) as response:
        assert (response.status, (await response.json())["reason"]) == (503, "no Snapshot yet")
    await harness.publish(simple(await harness.upstreams.start(ok)))
    async with harness.client.get(harness.admin("/readyz")) as response:
        assert (response.status, (await response.json())["generation"]) == (200, 1)
    async with harness.client.get(harness.admin("/healthz")) as response:
        assert response.status == 200
    gateway._draining = True
    async with harness.client.get(harness.admin("/readyz")) as response:
        assert (response.status, (await response.json())["reason"]) == (503, "draining")


async def test_one_trace_goes_from_the_caller_through_the_attempts(harness: Harness) -> None:
    calls = 0

    async def flaky(request: web.Request) -> web.Response:
        nonlocal calls
        calls += 1
        return web.Response(status=503 if calls == 1 else 200, text=request.headers["traceparent"])

    await harness.start(simple(await harness.upstreams.start(flaky)))
    caller = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    async with harness.client.get(
        harness.url("/a?token=secret"), headers={"traceparent": caller, "tracestate": "v=1"}
    ) as response:
        seen = await response.text()
    _, trace_id, span_id, _ = seen.split("-")
    assert trace_id == "0af7651916cd43dd8448eb211c80319c"
    trace = await harness.ask(f"/traces/{trace_id}")
    (root,) = trace["spans"]
    first, second = root["children"]
    assert (root["name"], root["kind"], root["attributes"]["http.route"]) == (
        "GET HTTPRoute/shop/main",
        "server",
        "HTTPRoute/shop/main",
    )
    assert root["attributes"]["url.query"] == "token=[redacted]"
    assert (first["attributes"]["http.response.status_code"], first["status"]) == (503, "error")
    assert (second["span_id"], second["attributes"]["http.request.resend_count"], second["kind"]) == (
        span_id,
        1,
        "client",
    )
    assert second["attributes"]["nexus.breaker.state"] == "closed"
    assert (await harness.ask("/traces?limit=1"))["traces"][0]["trace_id"] == trace_id


@pytest.mark.parametrize(("ratio", "flags"), [(1.0, "01"), (0.0, "00")])
async def test_without_a_collector_contexts_still_go_through(harness: Harness, ratio: float, flags: str) -> None:
    await harness.start(simple(await harness.upstreams.start(ok)), traces_memory=0, trace_ratio=ratio)
    caller = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    async with harness.client.get(harness.url("/"), headers={"traceparent": caller}) as response:
        assert await response.text() == caller
    async with harness.client.get(harness.url("/")) as response:
        assert (await response.text()).split("-")[3] == flags
    async with harness.client.get(harness.admin("/traces")) as response:
        assert response.status == 404


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("b3", "0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-1"),
        ("uber-trace-id", "0af7651916cd43dd8448eb211c80319c:b7ad6b7169203331:0:1"),
        ("x-b3-traceid", "0af7651916cd43dd8448eb211c80319c"),
    ],
)
async def test_callers_with_b3_or_jaeger_headers_keep_their_trace(harness: Harness, header: str, value: str) -> None:
    async def answer(request: web.Request) -> web.Response:
        return web.json_response({name.lower(): value for name, value in request.headers.items()})

    await harness.start(simple(await harness.upstreams.start(answer)))
    sent = {header: value}
    if header == "x-b3-traceid":
        sent |= {"x-b3-spanid": "b7ad6b7169203331", "x-b3-sampled": "1"}
    async with harness.client.get(harness.url("/"), headers=sent) as response:
        seen = await response.json()
    trace_id, span_id = seen["traceparent"].split("-")[1:3]
    assert trace_id == "0af7651916cd43dd8448eb211c80319c"
    assert span_id in (seen[header] if header != "x-b3-traceid" else seen["x-b3-spanid"])
    assert "b7ad6b7169203331" not in json.dumps(seen)


async def test_services_send_their_spans_to_the_admin_api(harness: Harness) -> None:
    await harness.start()
    export = ExportTraceServiceRequest()
    group = export.resource_spans.add()
    name = group.resource.attributes.add()
    name.key, name.value.string_value = "service.name", "orders"
    span = group.scope_spans.add().spans.add()
    span.trace_id, span.span_id, span.name = bytes(range(16)), bytes(range(8)), "work"
    span.start_time_unix_nano, span.end_time_unix_nano = 10**9, 2 * 10**9
    data = export.SerializeToString()
    headers = {"Content-Type": "application/x-protobuf"}
    url = harness.admin("/v1/traces")
    async with harness.client.post(
        url, data=gzip.compress(data), headers={**headers, "Content-Encoding": "gzip"}
    ) as response:
        assert response.status == 200
    trace = (await harness.ask("/traces"))["traces"][0]
    assert (trace["services"], trace["duration_ms"], trace["spans"][0]["name"]) == (["orders"], 1000.0, "work")
    for body, sent, status in ((b"\xff", headers, 400), (b"{}", {"Content-Type": "application/json"}, 415)):
        async with harness.client.post(url, data=body, headers=sent) as response:
            assert response.status == status
    bomb = gzip.compress(b"\0" * 2**24)
    async with harness.client.post(url, data=bomb, headers={**headers, "Content-Encoding": "gzip"}) as response:
        assert response.status == 413


async def test_metrics_are_all_there_and_forget_what_is_gone(harness: Harness) -> None:
    port = await harness.upstreams.start(ok)
    await harness.start(simple(port))
    async with harness.client.get(harness.url("/")) as response:
        assert response.status == 200
    async with harness.client.get(harness.admin("/metrics")) as response:
        text = await response.text()
    for metric in METRICS:
        assert f"# TYPE {metric.name}" in text, metric.name
    wanted = 'nexus_gateway_requests_total{code_class="2xx",route="HTTPRoute/shop/main",upstream="shop/orders"} 1.0'
    assert wanted in text
    # A scraper takes one value for each series, and which one is its choice; workers' would be added up.
    series = Counter(line.rpartition(" ")[0] for line in text.splitlines() if not line.startswith("#"))
    assert [name for name, count in series.items() if count > 1] == []
    assert 'nexus_gateway_upstream_connections{state="idle",upstream="shop/orders"} 1.0' in text
    await harness.publish(
        snapshot(route(rule("shop/b"), route_id="HTTPRoute/shop/b"), upstream(port, upstream_id="shop/b"))
    )
    async with harness.client.get(harness.admin("/metrics")) as response:
        assert "shop/orders" not in await response.text()


async def test_explain_names_the_winner_and_why_others_lost(harness: Harness) -> None:
    rules = (rule("shop/orders", path="/a"), rule("shop/orders", path="/a/b", rule_id="HTTPRoute/shop/main/1"))
    await harness.start(snapshot(route(*rules), upstream(9000)))
    answer = await harness.ask("/explain?url=http://x/a/b/c")
    assert (answer["rule"], answer["upstreams"][0]["endpoints"][0]["endpoint"]) == (
        "HTTPRoute/shop/main/1",
        "127.0.0.1:9000",
    )
    assert answer["others"][0]["why"] == "It matches too, but the winner's prefix is longer."
    async with harness.client.get(harness.admin("/explain?url=/a%252Fb")) as response:
        assert response.status == 400
    for path in ("/config", "/routes", "/endpoints", "/breakers", "/plugins", "/problems"):
        assert isinstance(await harness.ask(path), dict)


async def test_secrets_that_a_route_sends_upstream_are_shown_to_nobody(harness: Harness) -> None:
    secrets = (("authorization", "Basic HUSH"), ("x-api-key", "HUSH"), ("x-plain", "seen"))
    filters = (HeaderModifier("request", set=secrets, add=secrets),)
    backend = WeightedBackend("shop/orders", filters=filters)
    await harness.start(snapshot(route(rule(backend, filters=filters)), upstream(9000)))
    for path in ("/config", "/explain?url=/"):
        async with harness.client.get(harness.admin(path)) as response:
            text = await response.text()
        assert "seen" in text
        assert "HUSH" not in text


@pytest.mark.parametrize("limit", ["%C2%B2", "9" * 5000, "-1", "x"])
async def test_a_limit_that_is_no_number_is_the_callers_fault(harness: Harness, limit: str) -> None:
    await harness.start()
    async with harness.client.get(harness.admin(f"/traces?limit={limit}")) as response:
        assert response.status == 400
        assert "whole number" in (await response.json())["error"]


async def status(port: int) -> int:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
    try:
        return int((await reader.read()).split()[1])
    finally:
        writer.close()


@pytest.fixture
async def starting(tmp_path: Path) -> AsyncIterator[Gateway]:
    """A gateway as a process has it, before its source has said anything."""
    settings = GatewaySettings(
        listen="127.0.0.1:0", admin="127.0.0.1:0", access_log=False, plugin_cache=tmp_path / "plugins"
    )
    gateway = Gateway(settings, StaticSource(), MemoryDiscovery())
    await gateway.start(once_live=True)
    yield gateway
    await gateway.stop(0.5)


async def test_a_process_accepts_when_it_has_something_to_serve(harness: Harness, starting: Gateway) -> None:
    async def answer(request: web.Request) -> web.Response:
        return web.Response(text="ok")

    port = await harness.upstreams.start(answer)
    with pytest.raises(OSError, match="in use"):
        await asyncio.get_running_loop().create_server(asyncio.Protocol, "127.0.0.1", starting.port)
    early = asyncio.create_task(status(starting.port))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.shield(early), 0.3)
    assert starting.not_ready() == "no Snapshot yet"
    source = starting.source
    assert isinstance(source, StaticSource)
    await source.publish(simple(port))
    async with asyncio.timeout(5):
        assert await early == 200, "it was not told that there is no configuration yet"
    assert starting.not_ready() is None


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "_LIVE_S", 0.2)


async def test_a_process_whose_source_says_nothing_accepts_in_the_end(impatient: None, starting: Gateway) -> None:
    async with asyncio.timeout(5):
        await starting.listening.wait()
    assert await status(starting.port) == 503
    assert starting.not_ready() == "no Snapshot yet"


async def test_problems_of_the_source_are_shown(harness: Harness) -> None:
    from nexus_core.problems import ObjectRef

    gateway = await harness.start()
    shown = Problem(ObjectRef("NexusService", "shop", "x"), ".spec", "InvalidSpec", "What.", "Fix.")
    type(gateway.source).problems = property(lambda self: (shown,))  # type: ignore[assignment, method-assign]
    try:
        (row,) = (await harness.ask("/problems"))["problems"]
    finally:
        type(gateway.source).problems = property(lambda self: ())  # type: ignore[assignment, method-assign]
    assert (row["where"], row["reason"], row["fix"]) == ("NexusService shop/x", "InvalidSpec", "Fix.")


def test_settings_name_the_variable_that_is_wrong() -> None:
    with pytest.raises(ValueError, match="NEXUS_TRACE_RATIO='2' cannot be used: it wants a number from 0 to 1"):
        GatewaySettings.from_env({"NEXUS_TRACE_RATIO": "2"})
