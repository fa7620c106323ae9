"""The gateway's own answers pass through the plugins that saw the request: marked, replaced, and still told as what they were."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from nexus_core.snapshot import (
    Candidate,
    CircuitBreaker,
    Concurrency,
    Cors,
    DirectReply,
    Fallback,
    HeaderModifier,
    PluginInstance,
    Retry,
    SizeLimit,
    Timeouts,
)
from nexus_gateway.edge.plugins.trials import Trial
from nexus_gateway.testing import route, rule, snapshot, until, upstream
from nexus_wire.testing import Answer

from tests.integration.gateway.echoes import PROTOCOLS, Connect, Got, Listen, ask
from tests.integration.gateway.plugged import Plugged

pytestmark = pytest.mark.usefixtures("loop_errors")
Peers = Callable[..., Awaitable[int]]
Settled = Callable[..., Awaitable[None]]
both = pytest.mark.parametrize("client", PROTOCOLS)
kinds = pytest.mark.parametrize(
    "way", [{"kind": "", "wait": "pass"}, {"kind": "async ", "wait": "await asyncio.sleep(0)"}], ids=["plain", "coroutine"]
)  # fmt: skip

WATCHING = """
answers = ()
noted = ()
def on_request(self, request):
    return request.with_header("x-met", "1")
{kind}def on_response(self, request, response):
    {wait}
    self.answers += ((response.status, response.header("content-type")),)
    return response.with_headers((*response.headers, ("x-seen-by", NAME)))
def on_done(self, request, done):
    self.noted += ((done.status, done.reason),)
"""
AVERTING = """
noted = ()
{kind}def on_response(self, request, response):
    {wait}
    if response.status >= 500:
        return Reply({reply}, (("content-type", "text/plain"), ("x-from", "plugin")), b"instead")
    return response
def on_done(self, request, done):
    self.noted += ((done.status, done.reason),)
"""
ONCE: dict[str, Any] = {"retry": Retry(attempts=0), "breaker": CircuitBreaker(failures=0)}


async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """An upstream that never answers."""
    await reader.read()


async def resetting(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """An upstream that hangs up over each request."""
    await reader.readuntil(b"\r\n\r\n")


async def babbling(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """An upstream that speaks no HTTP."""
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"no HTTP at all\r\n\r\n")
    await reader.read()


def watching_plugin(plugged: Plugged, name: str = "demo", *, kind: str = "", wait: str = "pass") -> PluginInstance:
    """Return one that keeps what it sees, and puts its name on responses."""
    return plugged.plugin(WATCHING.format(kind=kind, wait=wait).replace("NAME", repr(name)), name)


def reason_of(got: Got) -> str:
    return str(json.loads(got.body)["reason"])


async def refused(plugged: Plugged, reason: str) -> float:
    """Return how often the gateway counted a reason."""
    assert plugged.harness.client is not None
    async with plugged.harness.client.get(plugged.harness.admin("/metrics")) as response:
        lines = (await response.text()).splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if "refused" in line and f'reason="{reason}"' in line)


# ---- which answers


@both
@kinds
async def test_plugins_see_what_the_gateway_says_of_an_upstream_in_reverse(
    plugged: Plugged, connect: Connect, settled: Settled, unused_tcp_port: int, client: str, way: dict[str, str]
) -> None:
    first, second = (watching_plugin(plugged, name, **way) for name in ("first", "second"))
    await plugged.serve(unused_tcp_port, first, second, **ONCE)
    connection = await connect(client)
    for _ in range(2):
        got = await ask(connection, b"GET /")
        assert (got.status, reason_of(got)) == (502, "UpstreamConnectFailure")
        assert got.headers["x-seen-by"] == "first", "the last of two"
    assert plugged.live("first").answers == ((502, "application/problem+json"),) * 2
    await until(lambda: len(plugged.live("second").noted) == 2)
    assert plugged.live("second").noted == ((502, "UpstreamConnectFailure"),) * 2
    assert await refused(plugged, "UpstreamConnectFailure") == 2
    await settled(clients=False)


@kinds
@pytest.mark.parametrize(
    ("serve", "policies", "status", "reason"),
    [
        (silent, {"timeouts": Timeouts(request_s=0.1)}, 504, "RequestTimeout"),
        (resetting, {}, 502, "UpstreamReset"),
        (babbling, {}, 502, "UpstreamProtocolError"),
        (None, {}, 503, "NoEndpoints"),
    ],
    ids=["late", "reset", "no HTTP", "no endpoint"],
)
async def test_whatever_an_upstream_failed_by(
    plugged: Plugged, connect: Connect, peers: Peers, settled: Settled, way: dict[str, str], serve: Any,
    policies: dict[str, Any], status: int, reason: str,
) -> None:  # fmt: skip
    watching = watching_plugin(plugged, **way)
    rules = rule("shop/orders", plugins=(watching.id,))
    await plugged.harness.start(endpoints_wait_s=0.05)
    ports = (await peers(serve),) if serve is not None else ()
    await plugged.harness.publish(snapshot(route(rules), upstream(*ports, **ONCE, **policies), plugins=(watching,)))
    got = await ask(await connect("h1"), b"GET /")
    assert (got.status, reason_of(got)) == (status, reason)
    assert plugged.live().answers == ((status, "application/problem+json"),)
    await settled(clients=False)


@kinds
async def test_an_open_circuit_and_a_full_bulkhead(
    plugged: Plugged, connect: Connect, peers: Peers, way: dict[str, str]
) -> None:
    policies = {**ONCE, "breaker": CircuitBreaker(failures=1, reset_s=60.0)}
    await plugged.serve(await peers(resetting), watching_plugin(plugged, **way), **policies)
    connection = await connect("h1")
    assert [reason_of(await ask(connection, b"GET /")) for _ in range(3)] == [
        "UpstreamReset", "CircuitOpen", "CircuitOpen",
    ]  # fmt: skip
    assert [status for status, _ in plugged.live().answers] == [502, 503, 503]
    await plugged.serve(await peers(silent), watching_plugin(plugged, **way), concurrency=Concurrency(max_requests=1))
    (await connect("h1")).begin(Answer(), b"GET /stays HTTP/1.1\r\nhost: x\r\n\r\n")
    assert plugged.harness.gateway is not None
    proxy = plugged.harness.gateway.proxy
    await until(lambda: proxy.in_flight)
    got = await ask(connection, b"GET /")
    assert (reason_of(got), got.headers["x-seen-by"]) == ("UpstreamOverloaded", "demo")


async def test_a_broken_request_and_a_failing_plugin_are_answered_at_once(
    plugged: Plugged, connect: Connect, listen: Listen
) -> None:
    watching = watching_plugin(plugged, "watching")
    failing = plugged.plugin(
        "def on_request(self, request):\n    if request.path == '/fail':\n        1 / 0\n    return request",
        "failing", failure_policy="closed",
    )  # fmt: skip
    limit = {"filters": (SizeLimit(request_bytes=4),)}
    await plugged.serve(await listen("h1"), watching, failing, rule_fields=limit)
    got = await ask(await connect("h1"), b"GET /fail")
    assert (got.status, reason_of(got)) == (503, "PluginUnavailable")
    got = await ask(await connect("h2"), b"POST /framed", [b"abc", b"def"], sized=None)
    assert (got.status, reason_of(got)) == (413, "BodyTooLarge")
    assert plugged.live("watching").answers == ()
    assert (await ask(await connect("h1"), b"GET /framed")).headers["x-seen-by"] == "watching"


@pytest.mark.parametrize("kind", ["", "async "])
@pytest.mark.parametrize(
    ("policy", "status", "reason"), [("open", 502, "UpstreamConnectFailure"), ("closed", 503, "PluginUnavailable")]
)
async def test_a_hook_that_fails_over_it_is_asked_once(
    plugged: Plugged, connect: Connect, settled: Settled, unused_tcp_port: int, kind: str, policy: str, status: int, reason: str
) -> None:  # fmt: skip
    code = f"calls = 0\n{kind}def on_response(self, request, response):\n    self.calls += 1\n    1 / 0"
    failing = plugged.plugin(code, "failing", failure_policy=policy)
    watching = watching_plugin(plugged, "watching")
    await plugged.serve(unused_tcp_port, watching, failing, **ONCE)
    got = await ask(await connect("h1"), b"GET /")
    assert (got.status, reason_of(got)) == (status, reason)
    assert plugged.live("failing").calls == 1
    assert len(plugged.live("watching").answers) == (policy == "open")
    await settled(clients=False)


# ---- a reply in its place


@both
@kinds
async def test_a_reply_takes_the_place_of_the_gateways_answer(
    plugged: Plugged, connect: Connect, settled: Settled, unused_tcp_port: int, client: str, way: dict[str, str]
) -> None:
    watching = watching_plugin(plugged, "watching", **way)
    averting = plugged.plugin(AVERTING.format(reply=200, **way), "averting")
    await plugged.serve(unused_tcp_port, watching, averting, **ONCE)
    got = await ask(await connect(client), b"GET /")
    assert (got.status, got.body, got.headers["x-from"]) == (200, b"instead", "plugin")
    assert "retry-after" not in got.headers
    assert got.headers["x-seen-by"] == "watching"
    assert plugged.live("watching").answers == ((200, "text/plain"),)
    # What happened is told all the same.
    await until(lambda: plugged.live("averting").noted)
    assert plugged.live("averting").noted == ((200, "UpstreamConnectFailure"),)
    assert await refused(plugged, "UpstreamConnectFailure") == 1
    await settled(clients=False)


@kinds
async def test_errors_of_calls_stay_errors_of_calls(
    plugged: Plugged, connect: Connect, unused_tcp_port: int, way: dict[str, str]
) -> None:
    averting = plugged.plugin(AVERTING.format(reply=401, **way), "averting")
    watching = watching_plugin(plugged, "watching", **way)
    await plugged.serve(unused_tcp_port, watching, **ONCE)
    kind = b"content-type: application/grpc\r\nte: trailers\r\n"
    got = await ask(await connect("h2"), b"POST /s/m", lines=kind)
    assert (got.status, got.headers["content-type"], got.headers["grpc-status"]) == (200, "application/grpc", "14")
    assert got.headers["x-seen-by"] == "watching"
    assert plugged.live("watching").answers == ((502, "application/problem+json"),)
    await plugged.serve(unused_tcp_port, averting, timeouts=Timeouts(request_s=0.0), **ONCE)
    got = await ask(await connect("h2"), b"POST /avert", lines=kind)
    assert (got.status, got.headers["grpc-status"], got.body) == (200, "16", b"")


async def test_a_reply_has_its_own_reason_in_a_call(plugged: Plugged, connect: Connect, peers: Peers) -> None:
    """A timeout means `DEADLINE_EXCEEDED`; the 401 that a plugin puts in its place does not."""
    averting = plugged.plugin(AVERTING.format(reply=401, kind="", wait="pass"))
    await plugged.serve(await peers(silent), averting, timeouts=Timeouts(request_s=0.1), **ONCE)
    kind = b"content-type: application/grpc\r\nte: trailers\r\n"
    assert (await ask(await connect("h2"), b"POST /s/m", lines=kind)).headers["grpc-status"] == "16"


@both
async def test_bodies_pass_through_hooks(
    plugged: Plugged, connect: Connect, settled: Settled, unused_tcp_port: int, client: str
) -> None:
    code = """
def on_response(self, request, response):
    return response.with_header("x-whole", "1")
def on_response_body(self, request, response, body):
    return Reply(200, (), b"instead") if request.path == "/avert" else body + b" "
"""
    await plugged.serve(unused_tcp_port, plugged.plugin(code), **ONCE)
    connection = await connect(client)
    got = await ask(connection, b"GET /")
    assert (got.status, reason_of(got), got.headers["x-whole"]) == (502, "UpstreamConnectFailure", "1")
    assert got.body.endswith(b"} ")
    got = await ask(connection, b"GET /avert")
    assert (got.status, got.body) == (200, b"instead")
    got = await ask(connection, b"HEAD /")
    assert (got.status, got.body) == (502, b"")
    await settled(clients=False)


# ---- beside other parts of the rule


@pytest.mark.parametrize("body", ["", "def on_response_body(self, request, response, body):\n    return body\n"])
async def test_the_cors_filter_runs_once_and_other_filters_do_not(
    plugged: Plugged, connect: Connect, unused_tcp_port: int, body: str
) -> None:
    code = "seen = None\ndef on_response(self, request, response):\n    self.seen = response.headers\n    return response\n"
    filters = (
        Cors(("https://shop.example",), credentials=True),
        HeaderModifier("response", add=(("x-upstream", "1"),)),
    )
    await plugged.serve(unused_tcp_port, plugged.plugin(code + body), rule_fields={"filters": filters}, **ONCE)
    got = await ask(await connect("h1"), b"GET /", lines=b"origin: https://shop.example\r\n")
    assert (got.status, got.headers["access-control-allow-origin"]) == (502, "https://shop.example")
    names = [name for name, _ in plugged.live().seen]
    assert names.count("access-control-allow-origin") == names.count("vary") == 1
    assert "x-upstream" not in got.headers


@kinds
async def test_a_fallback_comes_before_plugins(
    plugged: Plugged, connect: Connect, unused_tcp_port: int, way: dict[str, str]
) -> None:
    fallback = Fallback(reply=DirectReply(203, "fallback"))
    watching = watching_plugin(plugged, **way)
    await plugged.serve(unused_tcp_port, watching, rule_fields={"filters": (fallback,)}, **ONCE)
    got = await ask(await connect("h1"), b"GET /")
    assert (got.status, got.body) == (203, b"fallback")
    assert [status for status, _ in plugged.live().answers] == [203]


# ---- while a hook takes its time

HOLDING = """
answers = ()
async def on_response(self, request, response):
    self.answers += (response.status,)
    self.gate = asyncio.Event()
    await self.gate.wait()
    return response.with_header("x-late", "1")
"""


@both
async def test_nothing_else_goes_on_meanwhile(
    plugged: Plugged, connect: Connect, peers: Peers, settled: Settled, client: str
) -> None:
    """The place in the bulkhead is free, and the client may leave."""
    policies = {"concurrency": Concurrency(max_requests=1), "timeouts": Timeouts(request_s=0.05), **ONCE}
    holding = plugged.plugin(HOLDING, timeout_s=20.0)
    await plugged.serve(await peers(silent), holding, **policies)
    connection, answer = await connect(client), Answer()
    connection.begin(answer, b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
    live = plugged.live()
    await until(lambda: live.answers == (504,))
    gate = live.gate
    other, later = await connect(client), Answer()
    other.begin(later, b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
    await until(lambda: len(live.answers) == 2)
    assert live.answers == (504, 504), "the second one was sent, too"
    assert not answer.begun.is_set()
    other.abort()
    assert plugged.harness.gateway is not None
    proxy = plugged.harness.gateway.proxy
    await until(lambda: proxy.in_flight == 1)
    live.gate.set()
    gate.set()
    await asyncio.wait_for(answer.done.wait(), 5)
    assert answer.block is not None
    assert (answer.status, dict(answer.block.headers)["x-late"]) == (504, "1")
    assert not later.begun.is_set()
    assert len(live.answers) == 2
    await settled(clients=False)


@pytest.mark.parametrize("client", PROTOCOLS)
@pytest.mark.parametrize(("serve", "status"), [(resetting, 502), (None, 503)], ids=["reset", "no endpoint"])
async def test_no_deadline_strikes_meanwhile(
    plugged: Plugged, connect: Connect, peers: Peers, settled: Settled, serve: Any, status: int, client: str
) -> None:
    """The request's own time runs out while a hook is at work on an answer that is known: it stays that answer."""
    holding = plugged.plugin(HOLDING, timeout_s=20.0)
    rules = rule("shop/orders", plugins=(holding.id,))
    await plugged.harness.start(endpoints_wait_s=0.1)
    ports = (await peers(serve),) if serve is not None else ()
    await plugged.harness.publish(
        snapshot(route(rules), upstream(*ports, timeouts=Timeouts(request_s=0.3), **ONCE), plugins=(holding,))
    )
    connection, answer = await connect(client), Answer()
    connection.begin(answer, b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
    live = plugged.live()
    await until(lambda: len(live.answers) == 1)
    await asyncio.sleep(0.7)
    assert not answer.begun.is_set()
    live.gate.set()
    await asyncio.wait_for(answer.done.wait(), 5)
    assert answer.block is not None
    assert (answer.status, dict(answer.block.headers)["x-late"], live.answers) == (status, "1", (status,))
    await settled(clients=False)


# ---- two versions


async def test_a_candidate_is_not_blamed_for_what_it_averts(
    plugged: Plugged, connect: Connect, unused_tcp_port: int
) -> None:
    """Both versions get the same failures of the upstream; what counts is the status that clients got."""
    stable = watching_plugin(plugged, "stable")
    other = plugged.plugin(AVERTING.format(kind="", wait="pass", reply=200), "other")
    await plugged.harness.start()
    rules = rule("shop/orders", plugins=(stable.id,))
    await plugged.harness.publish(snapshot(route(rules), upstream(unused_tcp_port, **ONCE), plugins=(other, stable)))
    one = plugged.slot("stable")
    trials: list[Trial] = []
    terms = Candidate(instance=other, percent=50.0)
    one.trial = trial = Trial(one, plugged.slot("other"), terms, 0.0, trials.append)
    connection = await connect("h1")
    statuses = sorted([(await ask(connection, b"GET /")).status for _ in range(20)])
    assert statuses == [200] * 10 + [502] * 10
    await until(lambda: trial.seen()[0].requests + trial.seen()[1].requests == 20)
    seen_stable, seen_other = trial.seen()
    assert (seen_stable.failures, seen_other.failures) == (10, 0)
    assert not trials
