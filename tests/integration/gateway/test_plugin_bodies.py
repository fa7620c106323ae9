"""Plugins that want bodies in full: collected to a limit, changed, replaced, and sent on with the right length."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from time import sleep
from typing import Any

import pytest
from nexus_core.snapshot import Budgets, Retry, SizeLimit, Timeouts
from nexus_gateway.testing import Harness, until
from nexus_wire.testing import Answer

from tests.integration.gateway.echoes import PROTOCOLS, Connect, Echo, Listen, ask, combinations
from tests.integration.gateway.plugged import Plugged

pytestmark = pytest.mark.usefixtures("loop_errors")
Peers = Callable[..., Awaitable[int]]
Clients = Callable[..., Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]
Settled = Callable[..., Awaitable[None]]
both = pytest.mark.parametrize("client", PROTOCOLS)
policies = pytest.mark.parametrize("policy", ["open", "closed"])

UPPER = """
seen = None
def on_request_body(self, request, body):
    self.seen = [*(self.seen or ()), bytes(body)]
    return request.with_header("x-size", str(len(body))), body.upper() + b"!"
"""
SHOUT = """
seen = None
def on_response(self, request, response):
    return response.with_header("x-shouted", "yes")
def on_response_body(self, request, response, body):
    self.seen = [*(self.seen or ()), (response.status, response.header("x-shouted"), bytes(body))]
    return body.upper() + b"?"
"""


async def reason_of(connection: Any, start: bytes, body: list[bytes], **how: Any) -> tuple[int, str]:
    got = await ask(connection, start, body, **how)
    content = json.loads(got.body) if got.status >= 400 else {}
    return got.status, content.get("reason", "")


# ---- of requests


@combinations
async def test_a_changed_body_goes_on_with_its_own_length(
    plugged: Plugged, connect: Connect, listen: Listen, echo: Echo, client: str, server: str
) -> None:
    await plugged.serve(await listen(server), plugged.plugin(UPPER), server=server)
    connection = await connect(client)
    for _ in range(2):
        got = await ask(connection, b"POST /sized", [b"sized"], sized=5)
        assert (got.status, got.body) == (200, b"SIZED!")
        got = await ask(connection, b"POST /sized", [b"in ", b"two ", b"pieces"], sized=13)
        assert got.body == b"IN TWO PIECES!"
        got = await ask(connection, b"POST /framed", [b"one ", b"two"], sized=None, trailers=b"x-sent: yes\r\n")
        assert (got.body, got.trailers) == (b"ONE TWO!", b"x-length: 8\r\nx-got: yes\r\n")
        got = await ask(connection, b"POST /sized", [b"one ", b"two"], sized=None)
        assert got.body == b"ONE TWO!"
        got = await ask(connection, b"GET /sized")
        assert got.body == b"!", "an empty body is one, too"
    lengths = [(head.get("content-length"), head["x-size"]) for head in echo.heads[:5]]
    assert lengths == [("6", "5"), ("14", "13"), (None, "7"), ("8", "7"), ("1", "0")]
    assert plugged.live().seen[:5] == [b"sized", b"in two pieces", b"one two", b"one two", b""]
    assert plugged.harness.gateway is not None
    assert plugged.harness.gateway.proxy.connector.open_connections == 1


@pytest.mark.parametrize("protocol", ["websocket", "h2c", "anything"])
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_who_asks_for_an_upgrade_is_looked_at_as_well(
    plugged: Plugged, peers: Peers, clients: Clients, settled: Settled, method: str, protocol: str
) -> None:
    """A service may answer it as a request like any other: who checks bodies must not be passed by with a header."""
    code = """
def on_request_body(self, request, body):
    return Reply(403, (), b"empty") if not body else body
"""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")

    await plugged.serve(await peers(serve), plugged.plugin(code))
    head = f"{method} / HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: {protocol}\r\n\r\n"
    reader, writer = await clients(head.encode())
    assert (await reader.readuntil(b"empty")).startswith(b"HTTP/1.1 403 ")
    writer.transport.abort()
    await settled()


@both
async def test_a_body_hook_may_wait_and_may_answer(
    plugged: Plugged, connect: Connect, listen: Listen, client: str
) -> None:
    code = """
async def on_request_body(self, request, body):
    await asyncio.sleep(0)
    return Reply(403, (("x-by", "plugin"),), b"no " + body) if body == b"bad" else body[::-1]
def on_response(self, request, response):
    return response.with_header("x-seen", str(response.status))
"""
    await plugged.serve(await listen("h1"), plugged.plugin(code))
    connection = await connect(client)
    for _ in range(2):
        got = await ask(connection, b"POST /sized", [b"abc"], sized=3)
        assert (got.status, got.body) == (200, b"cba")
        got = await ask(connection, b"POST /sized", [b"bad"], sized=3)
        assert (got.status, got.body, got.headers["x-by"], got.headers["x-seen"]) == (403, b"no bad", "plugin", "403")


@both
async def test_plugins_change_a_body_in_their_order(
    plugged: Plugged, connect: Connect, listen: Listen, client: str
) -> None:
    first = plugged.plugin("def on_request_body(self, request, body):\n    return body + b'1'", "first")
    second = plugged.plugin("async def on_request_body(self, request, body):\n    return body + b'2'", "second")
    await plugged.serve(await listen("h1"), first, second)
    assert (await ask(await connect(client), b"POST /sized", [b"0"], sized=1)).body == b"012"


@both
async def test_a_body_that_nobody_wants_is_not_collected(
    plugged: Plugged, connect: Connect, listen: Listen, client: str
) -> None:
    code = """
def wants_request_body(self, request):
    return request.method == "PUT"
def on_request_body(self, request, body):
    return b"collected"
"""
    await plugged.serve(await listen("h1"), plugged.plugin(code))
    connection = await connect(client)
    assert (await ask(connection, b"POST /sized", [b"a", b"b"], sized=2)).body == b"ab"
    assert (await ask(connection, b"PUT /sized", [b"a", b"b"], sized=2)).body == b"collected"


@combinations
@policies
@pytest.mark.parametrize("sized", [True, False])
async def test_a_body_beyond_the_budget_passes_or_is_refused(
    plugged: Plugged, connect: Connect, listen: Listen, client: str, server: str, policy: Any, sized: bool
) -> None:
    instance = plugged.plugin(UPPER, budgets=Budgets(body_bytes=8), failure_policy=policy)
    await plugged.serve(await listen(server), instance, server=server)
    pieces = [b"a" * 5, b"b" * 5, b"c" * 90_000]
    size = sum(map(len, pieces)) if sized else None
    if policy == "open":
        connection = await connect(client)
        for _ in range(2):
            got = await ask(connection, b"POST /sized", pieces, sized=size)
            assert (got.status, got.body) == (200, b"".join(pieces))
            assert (await ask(connection, b"POST /sized", [b"12345678"], sized=8)).body == b"12345678!"
        assert plugged.live().seen == [b"12345678"] * 2
    else:
        answer = Answer()
        connection = await connect(client)
        length = b"content-length: %d\r\n" % size if size else b""
        connection.begin(answer, b"POST /sized HTTP/1.1\r\nhost: x\r\n%b\r\n" % length + pieces[0], raw=not sized)
        if not sized:
            await asyncio.sleep(0.02)
            connection.write(pieces[1])
        await asyncio.wait_for(answer.done.wait(), 5)
        assert answer.status == 413
        assert b"BodyTooLarge" in answer.body
        assert plugged.live().seen is None
    assert plugged.slot().meter.errors == (2 if policy == "open" else 1)


async def test_each_plugin_has_its_own_limit(plugged: Plugged, connect: Connect, listen: Listen) -> None:
    small = plugged.plugin(
        "def on_request_body(self, request, body):\n    return body + b'1'", "small", budgets=Budgets(body_bytes=4)
    )
    large = plugged.plugin("def on_request_body(self, request, body):\n    return body + b'2'", "large")
    await plugged.serve(await listen("h1"), large, small)
    connection = await connect("h1")
    assert (await ask(connection, b"POST /sized", [b"abc", b"def"], sized=None)).body == b"abcdef2"
    assert (await ask(connection, b"POST /sized", [b"abc"], sized=3)).body == b"abc21"
    assert (await ask(connection, b"POST /sized", [b"abcd"], sized=4)).body == b"abcd2", (
        "what another made of it counts"
    )


FAILURES = {
    "raises": "def on_request_body(self, request, body):\n    raise RuntimeError('x')",
    "exits": "def on_request_body(self, request, body):\n    raise SystemExit(1)",
    "None": "def on_request_body(self, request, body):\n    return None",
    "text": "def on_request_body(self, request, body):\n    return 'text'",
    "a head alone": "def on_request_body(self, request, body):\n    return request",
    "a pair the wrong way round": "def on_request_body(self, request, body):\n    return body, request",
    "a head that splits": "def on_request_body(self, request, body):\n    return request.with_header('a', 'b\\r\\nc: d'), body",
    "a reply of text": "def on_request_body(self, request, body):\n    return Reply(200, (), 'text')",
    "is too slow": "async def on_request_body(self, request, body):\n    await asyncio.sleep(30)\n    return body",
    "cancels": "async def on_request_body(self, request, body):\n    raise asyncio.CancelledError",
    "wishes nonsense": "def wants_request_body(self, request):\n    return 1\ndef on_request_body(self, request, body):\n    return b''",
    "fails to wish": "def wants_request_body(self, request):\n    1 / 0\ndef on_request_body(self, request, body):\n    return b''",
}


@policies
@pytest.mark.parametrize("failure", FAILURES)
async def test_a_failing_body_hook_is_isolated(
    plugged: Plugged, connect: Connect, listen: Listen, failure: str, policy: Any
) -> None:
    instance = plugged.plugin(FAILURES[failure], failure_policy=policy, timeout_s=0.1)
    await plugged.serve(await listen("h1"), instance)
    connection = await connect("h1")
    for _ in range(2):
        if policy == "open":
            assert (await ask(connection, b"POST /sized", [b"as ", b"it came"], sized=10)).body == b"as it came"
        else:
            assert await reason_of(connection, b"POST /sized", [b"abc"], sized=3) == (503, "PluginUnavailable")
    assert plugged.slot().meter.errors == 2


@both
async def test_a_client_that_leaves_within_its_body_leaves_nothing_behind(
    plugged: Plugged, connect: Connect, listen: Listen, settled: Settled, client: str
) -> None:
    await plugged.serve(await listen("h1"), plugged.plugin(UPPER))
    assert plugged.harness.gateway is not None
    proxy = plugged.harness.gateway.proxy
    for raw in (True, False):
        connection = await connect(client)
        length = b"" if raw else b"content-length: 100\r\n"
        connection.begin(Answer(), b"POST / HTTP/1.1\r\nhost: x\r\n%b\r\nabc" % length, raw=raw)
        await until(lambda: proxy.in_flight)
        connection.abort()
        await until(lambda: not proxy.in_flight)
    assert plugged.live().seen is None
    await settled(clients=False)


@both
async def test_a_client_that_stops_within_its_body_is_told_so(
    plugged: Plugged, connect: Connect, listen: Listen, client: str
) -> None:
    await plugged.serve(await listen("h1"), plugged.plugin(UPPER), timeouts=Timeouts(request_s=0.3))
    connection = await connect(client)
    answer = Answer()
    connection.begin(answer, b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\nabc")
    await asyncio.wait_for(answer.done.wait(), 5)
    assert (answer.status, json.loads(bytes(answer.body))["reason"]) == (408, "BodyTimeout")


@both
async def test_a_client_is_not_to_blame_for_a_gateway_that_was_held_up(
    plugged: Plugged, connect: Connect, listen: Listen, client: str
) -> None:
    """Its next piece is read before the gateway's clock is put right."""
    await plugged.serve(await listen("h1"), plugged.plugin(UPPER), timeouts=Timeouts(request_s=0.4))
    connection = await connect(client)
    answer = Answer()
    connection.begin(answer, b"POST /sized HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\na")
    await asyncio.sleep(0.1)
    connection.write(b"b")
    sleep(0.8)  # noqa: ASYNC251 - the loop stands still, and the gateway with it
    await asyncio.sleep(0.1)
    connection.write(b"b")
    await asyncio.wait_for(answer.done.wait(), 5)
    assert (answer.status, bytes(answer.body)) == (200, b"ABB!")


async def test_a_body_may_take_longer_than_a_request_as_long_as_it_comes(
    plugged: Plugged, connect: Connect, listen: Listen
) -> None:
    await plugged.serve(await listen("h1"), plugged.plugin(UPPER), timeouts=Timeouts(request_s=0.4))
    connection = await connect("h1")
    answer = Answer()
    connection.begin(answer, b"POST /sized HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\na")
    for _ in range(4):
        await asyncio.sleep(0.2)
        connection.write(b"b")
    await asyncio.wait_for(answer.done.wait(), 5)
    assert (answer.status, bytes(answer.body)) == (200, b"ABBBB!")


async def test_a_client_that_waits_for_100_is_asked_for_its_body(
    plugged: Plugged, listen: Listen, clients: Clients
) -> None:
    await plugged.serve(await listen("h1"), plugged.plugin(UPPER))
    reader, writer = await clients(
        b"POST /sized HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 3\r\nconnection: close\r\n\r\n"
    )
    async with asyncio.timeout(5):
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"abc")
        rest = await reader.read()
    assert rest.startswith(b"HTTP/1.1 200")
    assert rest.endswith(b"ABC!")


async def test_a_broken_chunk_is_the_clients_fault(
    plugged: Plugged, listen: Listen, clients: Clients, settled: Settled
) -> None:
    await plugged.serve(await listen("h1"), plugged.plugin(UPPER))
    reader, writer = await clients(b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n")
    await asyncio.sleep(0.02)
    writer.write(b"nonsense\r\n")
    async with asyncio.timeout(5):
        assert (await reader.read()).startswith(b"HTTP/1.1 400")
    await settled()


async def test_a_size_limit_holds_while_a_body_is_collected(plugged: Plugged, connect: Connect, listen: Listen) -> None:
    await plugged.serve(
        await listen("h1"), plugged.plugin(UPPER), rule_fields={"filters": (SizeLimit(request_bytes=4),)}
    )
    answer = Answer()
    connection = await connect("h2")
    connection.begin(answer, b"POST / HTTP/1.1\r\nhost: x\r\n\r\nabc", raw=True)
    await asyncio.sleep(0.02)
    connection.write(b"def")
    await asyncio.wait_for(answer.done.wait(), 5)
    assert answer.status == 413
    assert plugged.live().seen is None


@both
@pytest.mark.parametrize("sized", [True, False])
async def test_a_collected_body_can_be_sent_again(
    plugged: Plugged, connect: Connect, peers: Peers, client: str, sized: bool
) -> None:
    seen: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            size = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            seen.append(await reader.readexactly(size))
            status = b"503 Later" if len(seen) == 1 else b"200 OK"
            writer.write(b"HTTP/1.1 %b\r\ncontent-length: 2\r\n\r\nok" % status)

    await plugged.serve(await peers(serve), plugged.plugin(UPPER), retry=Retry(attempts=2))
    connection = await connect(client)
    # More than is held for the sake of retries alone.
    pieces = [b"a" * 50_000, b"b" * 50_000]
    got = await ask(connection, b"PUT /", pieces, sized=100_000 if sized else None)
    assert got.status == 200
    assert seen == [b"A" * 50_000 + b"B" * 50_000 + b"!"] * 2
    assert len(plugged.live().seen) == 1, "the plugin saw it once"


async def test_what_comes_while_plugins_are_at_work_is_collected_too(
    plugged: Plugged, connect: Connect, listen: Listen
) -> None:
    code = UPPER + "async def on_request(self, request):\n    await asyncio.sleep(0.1)\n    return request\n"
    await plugged.serve(await listen("h1"), plugged.plugin(code))
    connection = await connect("h1")
    body = [b"x" * 30_000 for _ in range(6)]
    got = await ask(connection, b"POST /sized", body, sized=180_000)
    assert got.body == b"X" * 180_000 + b"!"
    assert (await ask(connection, b"POST /sized", [b"more"], sized=4)).body == b"MORE!"


# ---- of responses


@combinations
async def test_a_changed_response_has_its_own_length(
    plugged: Plugged, connect: Connect, listen: Listen, client: str, server: str
) -> None:
    await plugged.serve(await listen(server), plugged.plugin(SHOUT), server=server)
    connection = await connect(client)
    large = [b"x" * 60_000] * 5
    for _ in range(2):
        got = await ask(connection, b"POST /sized", [b"sized"], sized=5)
        assert (got.status, got.body, got.headers["content-length"]) == (200, b"SIZED?", "6")
        assert got.headers["x-shouted"] == "yes"
        got = await ask(connection, b"POST /framed", [b"one ", b"two"], sized=None, trailers=b"x-sent: yes\r\n")
        assert (got.body, got.trailers) == (b"ONE TWO?", b"x-length: 7\r\nx-got: yes\r\n")
        got = await ask(connection, b"POST /sized", large, sized=300_000)
        assert got.body == b"X" * 300_000 + b"?"
        got = await ask(connection, b"GET /framed")
        assert got.body == b"?"
    assert plugged.live().seen[0] == (200, None, b"sized"), "the head is as it came to this plugin"
    assert plugged.harness.gateway is not None
    assert plugged.harness.gateway.proxy.connector.open_connections == 1


@combinations
async def test_responses_without_a_body_are_left_alone(
    plugged: Plugged, connect: Connect, listen: Listen, client: str, server: str
) -> None:
    await plugged.serve(await listen(server), plugged.plugin(SHOUT), server=server)
    connection = await connect(client)
    for _ in range(2):
        got = await ask(connection, b"HEAD /sized")
        assert (got.status, got.body, got.headers["content-length"]) == (200, b"", "7")
        assert got.headers["x-shouted"] == "yes"
        for status in (204, 304):
            got = await ask(connection, b"GET /%d" % status)
            assert (got.status, got.body, got.headers.get("content-length")) == (status, b"", None)
    assert plugged.live().seen is None


@pytest.mark.parametrize(
    "head",
    [b"204 None\r\n", b"304 Same\r\n", b"304 Same\r\ncontent-length: 55\r\n", b"304 Same\r\ntransfer-encoding: chunked\r\n"],
)  # fmt: skip
@pytest.mark.parametrize("hooks", ["heads", "bodies"])
async def test_a_response_without_a_body_gets_another_status(
    plugged: Plugged, connect: Connect, peers: Peers, settled: Settled, hooks: str, head: bytes
) -> None:
    """What it said of a body, or did not, would have its client wait for one, and take the next response for it."""
    code = """
def on_response(self, request, response):
    return response.__class__(200, response.headers)
"""
    if hooks == "bodies":
        code += "def on_response_body(self, request, response, body):\n    return body\n"

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 " + head + b"\r\n")

    await plugged.serve(await peers(serve), plugged.plugin(code))
    for client in PROTOCOLS:
        connection = await connect(client)
        for _ in range(2):
            got = await ask(connection, b"GET /")
            assert (got.status, got.body, got.headers["content-length"]) == (200, b"", "0")
            assert (await ask(connection, b"HEAD /")).status == 200


@both
async def test_a_plugin_replaces_a_whole_response(
    plugged: Plugged, connect: Connect, listen: Listen, client: str
) -> None:
    """Plugins before it see its reply; those behind it have seen the response."""
    outer = plugged.plugin(SHOUT, "outer")
    inner = plugged.plugin(
        "async def on_response_body(self, request, response, body):\n"
        "    return Reply(451, (('x-by', 'inner'),), b'instead of ' + body)", "inner",
    )  # fmt: skip
    await plugged.serve(await listen("h1"), outer, inner)
    connection = await connect(client)
    for _ in range(2):
        got = await ask(connection, b"POST /framed", [b"abc"], sized=None)
        assert (got.status, got.body, got.headers["x-by"]) == (451, b"INSTEAD OF ABC?", "inner")
        assert got.headers["content-length"] == "15"
    assert plugged.live("outer").seen[0] == (451, None, b"instead of abc")


@both
async def test_replies_of_plugins_pass_through_bodies_too(
    plugged: Plugged, connect: Connect, listen: Listen, client: str
) -> None:
    """Or a head that says gzip would be before a body that is not."""
    outer = plugged.plugin(SHOUT, "outer")
    inner = plugged.plugin("def on_request(self, request):\n    return Reply(401, (), b'who?')", "inner")
    await plugged.serve(await listen("h1"), outer, inner)
    connection = await connect(client)
    for _ in range(2):
        got = await ask(connection, b"GET /")
        assert (got.status, got.body, got.headers["x-shouted"]) == (401, b"WHO??", "yes")
        got = await ask(connection, b"HEAD /")
        assert (got.status, got.body, got.headers["content-length"]) == (401, b"", "4")


@combinations
@policies
@pytest.mark.parametrize("path", [b"/sized", b"/framed"])
async def test_a_response_beyond_the_budget_passes_or_is_refused(
    plugged: Plugged,
    connect: Connect,
    listen: Listen,
    settled: Settled,
    client: str,
    server: str,
    policy: Any,
    path: bytes,
) -> None:
    """What passes does so without what the plugin did to its head, which speaks of the body."""
    instance = plugged.plugin(SHOUT, budgets=Budgets(body_bytes=8), failure_policy=policy)
    await plugged.serve(await listen(server), instance, server=server)
    connection = await connect(client)
    body = [b"a" * 70_000] * 3
    for _ in range(2):
        if policy == "open":
            got = await ask(connection, b"POST " + path, body, sized=210_000)
            assert (got.status, got.body, "x-shouted" in got.headers) == (200, b"".join(body), False)
        else:
            got_status, reason = await reason_of(connection, b"POST " + path, body, sized=210_000)
            assert (got_status, reason) == (502, "ResponseTooLarge")
        assert (await ask(connection, b"POST /sized", [b"fits"], sized=4)).body == b"FITS?"
    assert plugged.slot().meter.errors == 2
    await settled(clients=False)


RESPONSE_FAILURES = {
    "raises": "def on_response_body(self, request, response, body):\n    raise RuntimeError('x')",
    "None": "def on_response_body(self, request, response, body):\n    return None",
    "a head": "def on_response_body(self, request, response, body):\n    return response",
    "a pair": "def on_response_body(self, request, response, body):\n    return response, body",
    "a bad reply": "def on_response_body(self, request, response, body):\n    return Reply(99)",
    "is too slow": "async def on_response_body(self, request, response, body):\n    await asyncio.sleep(30)\n    return body",
    "wishes nonsense": "def wants_response_body(self, request, response):\n    return None\n"
    "def on_response_body(self, request, response, body):\n    return b''",
}  # fmt: skip


@policies
@pytest.mark.parametrize("failure", RESPONSE_FAILURES)
async def test_a_failing_hook_of_responses_is_isolated(
    plugged: Plugged, connect: Connect, listen: Listen, failure: str, policy: Any
) -> None:
    code = (
        RESPONSE_FAILURES[failure]
        + "\ndef on_response(self, request, response):\n    return response.with_header('x-made', '1')"
    )
    await plugged.serve(await listen("h1"), plugged.plugin(code, failure_policy=policy, timeout_s=0.1))
    connection = await connect("h1")
    for _ in range(2):
        if policy == "open":
            got = await ask(connection, b"POST /framed", [b"as it came"], sized=10)
            assert (got.body, "x-made" in got.headers, got.trailers) == (
                b"as it came",
                False,
                b"x-length: 10\r\nx-got: \r\n",
            )
        else:
            assert await reason_of(connection, b"POST /framed", [b"abc"], sized=3) == (503, "PluginUnavailable")
    assert plugged.slot().meter.errors == 2


@policies
@pytest.mark.parametrize("kind", ["", "async "])
@pytest.mark.parametrize("name", ["on_response", "on_response_stream"])
async def test_a_response_is_changed_by_all_hooks_of_a_plugin_or_by_none(
    plugged: Plugged, connect: Connect, listen: Listen, name: str, kind: str, policy: Any
) -> None:
    """Half of it would be a body that its head does not tell of, such as one that is compressed."""
    hooks = {
        "on_response": f"{kind}def on_response(self, request, response):",
        "on_response_body": f"{kind}def on_response_body(self, request, response, body):",
        "on_response_stream": "def on_response_stream(self, request, response):",
    }
    results = {
        "on_response": "return response.with_header('content-encoding', 'x')",
        "on_response_body": "return b'changed'",
        "on_response_stream": "return None",
    } | {name: "1 / 0"}
    code = "\n".join(f"{hooks[each]}\n    {results[each]}" for each in hooks)
    await plugged.serve(await listen("h1"), plugged.plugin(code, failure_policy=policy))
    connection = await connect("h1")
    for _ in range(2):
        if policy == "open":
            got = await ask(connection, b"POST /sized", [b"as it came"], sized=10)
            assert (got.body, got.headers.get("content-encoding")) == (b"as it came", None)
        else:
            assert await reason_of(connection, b"POST /sized", [b"abc"], sized=3) == (503, "PluginUnavailable")
    assert plugged.slot().meter.errors == 2


async def test_a_response_that_breaks_off_while_it_is_collected_is_a_502(
    plugged: Plugged, connect: Connect, peers: Peers, settled: Settled
) -> None:
    """And it is not asked for again: plugins have seen its head."""
    asked = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        await reader.readuntil(b"\r\n\r\n")
        asked += 1
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\npart")
        await asyncio.sleep(0.05)

    await plugged.serve(await peers(serve), plugged.plugin(SHOUT), retry=Retry(attempts=2))
    for client in PROTOCOLS:
        assert await reason_of(await connect(client), b"GET /", []) == (502, "UpstreamReset")
    assert asked == 2
    assert plugged.live().seen is None
    await settled(clients=False)


async def test_a_response_that_stops_while_it_is_collected_is_a_504(
    plugged: Plugged, connect: Connect, peers: Peers, settled: Settled
) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\npart")
        await reader.read()

    await plugged.serve(await peers(serve), plugged.plugin(SHOUT), timeouts=Timeouts(request_s=1.0, idle_s=0.3))
    assert await reason_of(await connect("h1"), b"GET /", []) == (504, "RequestTimeout")
    await settled(clients=False)


@both
async def test_a_client_that_leaves_while_its_response_is_collected(
    plugged: Plugged, connect: Connect, peers: Peers, settled: Settled, client: str
) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\npart")
        await reader.read()

    await plugged.serve(await peers(serve), plugged.plugin(SHOUT))
    assert plugged.harness.gateway is not None
    proxy = plugged.harness.gateway.proxy
    connection = await connect(client)
    connection.begin(Answer(), b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
    await until(lambda: proxy.in_flight)
    await asyncio.sleep(0.05)
    connection.abort()
    await settled(clients=False)
    assert plugged.live().seen is None


@both
async def test_a_request_that_still_comes_behind_its_collected_response(
    plugged: Plugged, connect: Connect, peers: Peers, settled: Settled, client: str
) -> None:
    """Nobody takes the rest of it; what was answered is what the plugin made of it."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nearly")
        await reader.read()

    code = """
async def on_response_body(self, request, response, body):
    await asyncio.sleep(0.2)
    return body.upper()
"""
    await plugged.serve(await peers(serve), plugged.plugin(code))
    connection = await connect(client)
    answer = Answer()
    connection.begin(answer, b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\nabc")
    for _ in range(8):
        await asyncio.sleep(0.01)
        connection.write(b"x" * 20_000)
    await asyncio.wait_for(answer.done.wait(), 5)
    assert (answer.status, bytes(answer.body)) == (200, b"EARLY")
    connection.abort()
    await settled(clients=False)


async def test_a_size_limit_holds_for_responses_that_are_collected(
    plugged: Plugged, connect: Connect, listen: Listen
) -> None:
    await plugged.serve(
        await listen("h1"), plugged.plugin(SHOUT), rule_fields={"filters": (SizeLimit(response_bytes=4),)}
    )
    connection = await connect("h1")
    got = await ask(connection, b"POST /framed", [b"abcde"], sized=5)
    assert (got.status, json.loads(got.body[:-1])["REASON"]) == (502, "RESPONSETOOLARGE"), (
        "what is said in its place, too"
    )
    assert (await ask(connection, b"POST /framed", [b"abcd"], sized=4)).body == b"ABCD?"


async def test_pipelined_requests_are_answered_in_their_order(
    plugged: Plugged, listen: Listen, clients: Clients
) -> None:
    both_ways = UPPER + SHOUT.replace("seen = None\n", "")
    await plugged.serve(await listen("h1"), plugged.plugin(both_ways))
    requests = [
        b"POST /sized HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\n\r\na",
        b"POST /sized HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n1;e=f\r\nb\r\n1\r\nc\r\n0\r\nx-t: u\r\n\r\n",
        b"GET /sized HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
    ]
    reader, _ = await clients(b"".join(requests))
    async with asyncio.timeout(5):
        said = await reader.read()
    assert [part.partition(b"\r\n\r\n")[2] for part in said.split(b"HTTP/1.1 200 ")[1:]] == [b"A!?", b"BC!?", b"!?"]


async def test_an_http_1_0_client_gets_its_body(plugged: Plugged, harness: Harness, listen: Listen) -> None:
    await plugged.serve(await listen("h1"), plugged.plugin(UPPER + SHOUT.replace("seen = None\n", "")))
    said = await harness.raw(b"POST /framed HTTP/1.0\r\nhost: x\r\ncontent-length: 3\r\n\r\nabc")
    head, _, body = said.partition(b"\r\n\r\n")
    assert (b"transfer-encoding" in head.lower(), body) == (False, b"ABC!?")
