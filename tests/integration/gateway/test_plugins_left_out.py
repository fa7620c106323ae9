"""A plugin whose `on_request` failed, and that fails open, has no other part in its exchange: what its hooks build on was never done."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from aiohttp import web
from nexus_gateway.testing import until

from tests.integration.gateway.echoes import PROTOCOLS, Connect, Listen, ask
from tests.integration.gateway.plugged import Plugged

pytestmark = pytest.mark.usefixtures("loop_errors")
Settled = Callable[..., Awaitable[None]]
both = pytest.mark.parametrize("client", PROTOCOLS)

FAILING = """
class Through:
    def __init__(self, mark):
        self.mark = mark

    def feed(self, data):
        return data

    def finish(self):
        return self.mark

---
called = ()
noted = ()
{kind}def on_request(self, request):
    {wait}
    if request.header("x-fail"):
        raise RuntimeError("boom")
    return request.with_header("x-asked", "1")
def on_request_body(self, request, body):
    self.called += ("on_request_body",)
    return body + b"a"
def on_request_stream(self, request):
    self.called += ("on_request_stream",)
    return Through(b"b")
def on_route(self, request, choice):
    self.called += ("on_route",)
    return choice
def on_endpoint(self, request, endpoint):
    self.called += ("on_endpoint",)
    return ()
def on_response(self, request, response):
    self.called += ("on_response",)
    return response.with_header("x-answered", "1")
def on_response_body(self, request, response, body):
    self.called += ("on_response_body",)
    return body + b"c"
def on_response_stream(self, request, response):
    self.called += ("on_response_stream",)
    return Through(b"d")
def on_client_message(self, socket, message):
    self.called += ("on_client_message",)
    return message
def on_server_message(self, socket, message):
    self.called += ("on_server_message",)
    return message
def on_done(self, request, done):
    self.noted += (done.status,)
"""
SOUND = """
def on_request(self, request):
    return request.with_header("x-sound", "1")
def on_request_body(self, request, body):
    return body + b"1"
def on_response(self, request, response):
    return response.with_header("x-sound", "1")
def on_response_body(self, request, response, body):
    return body + b"2"
"""
kinds = pytest.mark.parametrize(
    ("kind", "wait"), [("", "pass"), ("async ", "await asyncio.sleep(0)")], ids=["plain", "coroutine"]
)


@both
@kinds
async def test_no_hook_runs_of_a_plugin_that_a_request_goes_on_without(
    plugged: Plugged, connect: Connect, listen: Listen, settled: Settled, client: str, kind: str, wait: str
) -> None:
    failing = plugged.plugin(FAILING.format(kind=kind, wait=wait), "failing", failure_policy="open")
    before, behind = plugged.plugin(SOUND, "before"), plugged.plugin(SOUND, "behind")
    await plugged.serve(await listen("h1"), before, failing, behind)
    connection = await connect(client)
    for _ in range(2):
        got = await ask(connection, b"POST /sized", [b"x"], sized=1, lines=b"x-fail: 1\r\n")
        assert (got.status, got.body) == (200, b"x1122"), "only the others had a part in the bodies"
        assert got.headers["x-sound"] == "1"
        assert "x-answered" not in got.headers
    live = plugged.live("failing")
    await until(lambda: len(live.noted) == 2)
    assert (live.called, live.noted) == ((), (200, 200))
    assert plugged.slot("failing").meter.errors == 2
    # The next request has all of it.
    got = await ask(connection, b"POST /sized", [b"x"], sized=1)
    assert got.body == b"x1a1b2cd2"
    assert got.headers["x-answered"] == "1"
    assert live.called == (
        "on_request_body", "on_request_stream", "on_route", "on_endpoint", "on_response", "on_response_body",
        "on_response_stream",
    )  # fmt: skip
    await settled(clients=False)


@both
async def test_it_has_no_part_in_the_reply_of_another_plugin(
    plugged: Plugged, connect: Connect, listen: Listen, client: str
) -> None:
    failing = plugged.plugin(FAILING.format(kind="", wait="pass"), "failing", failure_policy="open")
    replying = plugged.plugin("def on_request(self, request):\n    return Reply(418, (), b'tea')", "replying")
    await plugged.serve(await listen("h1"), failing, replying)
    got = await ask(await connect(client), b"GET /", lines=b"x-fail: 1\r\n")
    assert (got.status, got.body) == (418, b"tea")
    live = plugged.live("failing")
    await until(lambda: live.noted)
    assert (live.called, live.noted) == ((), (418,))


@kinds
async def test_it_sees_no_messages(plugged: Plugged, kind: str, wait: str) -> None:
    async def service(request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        async for message in socket:
            await socket.send_str(message.data)
        return socket

    failing = plugged.plugin(FAILING.format(kind=kind, wait=wait), "failing", failure_policy="open")
    await plugged.serve(await plugged.harness.upstreams.start(service), failing)
    live = plugged.live("failing")
    client = plugged.harness.client
    assert client is not None
    for headers, called in (({"x-fail": "1"}, 0), ({}, 1)):
        async with client.ws_connect(plugged.harness.url("/"), headers=headers) as socket:
            await socket.send_str("hello")
            async with asyncio.timeout(5):
                assert await socket.receive_str() == "hello"
        for hook in ("on_client_message", "on_server_message"):
            assert live.called.count(hook) == called
