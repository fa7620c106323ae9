"""Hooks beside bodies: which upstream, each attempt, replies in a response's place, requests that are over; what plugins may see."""

from __future__ import annotations

import asyncio
import gc
import json
import weakref
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from nexus_core.snapshot import Candidate, Hedge, Permissions, Retry, WeightedBackend
from nexus_gateway.edge.plugins import overseeing
from nexus_gateway.edge.plugins.slots import MAX_NOTES
from nexus_gateway.edge.plugins.trials import Trial
from nexus_gateway.testing import Harness, route, rule, snapshot, until, upstream
from nexus_wire.testing import Answer

from tests.integration.gateway.echoes import PROTOCOLS, Connect, Echo, Listen, ask, combinations
from tests.integration.gateway.plugged import Plugged

pytestmark = pytest.mark.usefixtures("loop_errors")
Peers = Callable[..., Awaitable[int]]
Settled = Callable[..., Awaitable[None]]
both = pytest.mark.parametrize("client", PROTOCOLS)
policies = pytest.mark.parametrize("policy", ["open", "closed"])


def naming(name: bytes) -> Any:
    """Return an upstream that answers with its name, on connections that are kept."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(name), name))

    return serve


async def two_upstreams(plugged: Plugged, peers: Peers, *instances: Any) -> None:
    """Put plugins on a rule that sends all to `one` and nothing to `two`."""
    one, two = await peers(naming(b"one")), await peers(naming(b"two"))
    await plugged.harness.start()
    backends = (WeightedBackend("shop/one", 1), WeightedBackend("shop/two", 0))
    rules = rule(*backends, plugins=tuple(each.id for each in instances))
    await plugged.harness.publish(
        snapshot(
            route(rules),
            upstream(one, upstream_id="shop/one"),
            upstream(two, upstream_id="shop/two"),
            plugins=instances,
        )
    )


# ---- on_route


@both
@pytest.mark.parametrize("kind", ["", "async "])
async def test_a_plugin_chooses_the_upstream(
    plugged: Plugged, connect: Connect, peers: Peers, client: str, kind: str
) -> None:
    code = f"""
seen = None
{kind}def on_route(self, request, choice):
    self.seen = choice
    if request.header("x-reply"):
        return Reply(403, (), b"no")
    return choice.with_upstream("shop/two") if request.header("x-canary") else choice
"""
    await two_upstreams(plugged, peers, plugged.plugin(code))
    connection = await connect(client)
    for _ in range(2):
        assert (await ask(connection, b"GET /")).body == b"one"
        assert (await ask(connection, b"GET /", lines=b"x-canary: 1\r\n")).body == b"two"
        got = await ask(connection, b"GET /", lines=b"x-reply: 1\r\n")
        assert (got.status, got.body) == (403, b"no")
    choice = plugged.live().seen
    assert (choice.route, choice.rule) == ("HTTPRoute/shop/main", "HTTPRoute/shop/main/0")
    assert (choice.upstream, choice.upstreams) == ("shop/one", ("shop/one", "shop/two"))


@policies
@pytest.mark.parametrize(
    "result",
    ["1 / 0", "return None", "return choice.with_upstream('shop/other')", "return 'shop/two'", "return Reply(1)"],
)
@pytest.mark.parametrize("kind", ["", "async "])
async def test_a_failing_choice_is_isolated(
    plugged: Plugged, connect: Connect, peers: Peers, kind: str, result: str, policy: Any
) -> None:
    failing = plugged.plugin(
        f"{kind}def on_route(self, request, choice):\n    {result}", "failing", failure_policy=policy
    )
    sound = plugged.plugin(
        f"{kind}def on_route(self, request, choice):\n    return choice.with_upstream('shop/two')", "sound"
    )
    await two_upstreams(plugged, peers, failing, sound)
    connection = await connect("h1")
    for _ in range(2):
        got = await ask(connection, b"GET /")
        if policy == "open":
            assert (got.status, got.body) == (200, b"two")
        else:
            assert (got.status, json.loads(got.body)["reason"]) == (503, "PluginUnavailable")
    assert plugged.slot("failing").meter.errors == 2


# ---- on_endpoint


SIGNING = """
seen = None
def on_endpoint(self, request, endpoint):
    self.seen = [*(self.seen or ()), endpoint]
    return (("x-signed", endpoint.authority + "/" + str(endpoint.attempt)), ("content-length", "9"), ("host", "other"))
"""


@combinations
async def test_an_attempt_gets_headers_of_its_own(
    plugged: Plugged, connect: Connect, listen: Listen, echo: Echo, client: str, server: str
) -> None:
    port = await listen(server)
    await plugged.serve(port, plugged.plugin(SIGNING), server=server)
    connection = await connect(client)
    for number in range(3):
        got = await ask(connection, b"POST /framed", [b"abc", b"def"], sized=None)
        assert got.body == b"abcdef"
        assert echo.heads[number]["x-signed"] == f"127.0.0.1:{port}/1"
        assert echo.heads[number].get("host", "x") == "x"
    assert plugged.live().seen[0].upstream == "shop/orders"


async def test_a_retry_is_signed_for_its_own_endpoint(plugged: Plugged, connect: Connect, peers: Peers) -> None:
    heads: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            heads.append(await reader.readuntil(b"\r\n\r\n"))
            status = b"503 Later" if len(heads) < 3 else b"200 OK"
            writer.write(b"HTTP/1.1 %b\r\ncontent-length: 0\r\n\r\n" % status)

    ports = [await peers(serve) for _ in range(3)]
    instance = plugged.plugin(SIGNING)
    await plugged.harness.start()
    rules = route(rule("shop/orders", plugins=(instance.id,)))
    await plugged.harness.publish(snapshot(rules, upstream(*ports, retry=Retry(attempts=3)), plugins=(instance,)))
    assert (await ask(await connect("h1"), b"GET /")).status == 200
    signed = [head.partition(b"x-signed: ")[2].partition(b"\r\n")[0].decode() for head in heads]
    assert signed == [f"{each.authority}/{each.attempt}" for each in plugged.live().seen]
    assert [each.attempt for each in plugged.live().seen] == [1, 2, 3]
    assert all(head.count(b"x-signed") == 1 for head in heads)


async def test_a_hedge_is_signed_too(plugged: Plugged, connect: Connect, peers: Peers) -> None:
    heads: list[bytes] = []
    slow = False

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            if slow:
                heads.append(head)
                if len(heads) == 1:
                    await reader.read()  # this one never answers
                    return
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")

    ports = [await peers(serve) for _ in range(2)]
    instance = plugged.plugin(SIGNING)
    await plugged.harness.start()
    rules = route(rule("shop/orders", plugins=(instance.id,)))
    hedge = Hedge(percentile=0.9, budget_ratio=1.0)
    await plugged.harness.publish(snapshot(rules, upstream(*ports, hedge=hedge), plugins=(instance,)))
    connection = await connect("h1")
    for _ in range(150):
        await ask(connection, b"GET /")
    await asyncio.sleep(1.1)  # the percentile is worked out once a second
    slow = True
    assert (await ask(connection, b"GET /")).status == 200
    signed = {head.partition(b"x-signed: ")[2].partition(b"\r\n")[0].decode() for head in heads}
    one, two = (f"127.0.0.1:{port}" for port in ports)
    assert signed in ({f"{one}/1", f"{two}/2"}, {f"{two}/1", f"{one}/2"})


@policies
@pytest.mark.parametrize(
    "result",
    ["1 / 0", "return None", "return ['x']", "return (('a', 'b\\r\\nc: d'),)", "return (('a b', 'c'),)", "return (1,)"],
)
async def test_a_failing_signature_is_isolated(
    plugged: Plugged, connect: Connect, listen: Listen, settled: Settled, result: str, policy: Any
) -> None:
    code = f"def on_endpoint(self, request, endpoint):\n    {result}"
    await plugged.serve(await listen("h1"), plugged.plugin(code, failure_policy=policy))
    connection = await connect("h1")
    for _ in range(2):
        got = await ask(connection, b"POST /sized", [b"abc"], sized=3)
        if policy == "open":
            assert (got.status, got.body) == (200, b"abc")
        else:
            assert (got.status, json.loads(got.body)["reason"]) == (503, "PluginUnavailable")
    assert plugged.slot().meter.errors == 2
    await settled(clients=False)


# ---- on_response that replies


@combinations
@pytest.mark.parametrize("kind", ["", "async "])
async def test_a_reply_takes_the_place_of_a_response(
    plugged: Plugged, connect: Connect, listen: Listen, client: str, server: str, kind: str
) -> None:
    """The upstream's body is dropped, however much of it is still to come; plugins before see the reply."""
    inner = plugged.plugin(
        f"{kind}def on_response(self, request, response):\n"
        "    return Reply(409, (('x-by', 'inner'), ('content-length', '3')), b'replaced') if request.header('x-replace') else response",
        "inner",
    )
    outer = plugged.plugin(
        "def on_response(self, request, response):\n    return response.with_header('x-outer', str(response.status))",
        "outer",
    )
    await plugged.serve(await listen(server), outer, inner, server=server)
    connection = await connect(client)
    large = [b"x" * 70_000] * 5
    for path in (b"/sized", b"/framed"):
        for body in ([b"abc"], large):
            size = sum(map(len, body))
            got = await ask(connection, b"POST " + path, body, sized=size, lines=b"x-replace: 1\r\n")
            assert (got.status, got.body, got.headers["content-length"]) == (409, b"replaced", "8")
            assert (got.headers["x-by"], got.headers["x-outer"]) == ("inner", "409")
            got = await ask(connection, b"POST " + path, body, sized=size)
            assert (got.status, got.body, got.headers["x-outer"]) == (200, b"".join(body), "200")
    got = await ask(connection, b"HEAD /sized", lines=b"x-replace: 1\r\n")
    assert (got.status, got.body, got.headers["content-length"]) == (409, b"", "8")


async def test_a_reply_takes_the_place_of_another_plugins_reply(
    plugged: Plugged, connect: Connect, listen: Listen
) -> None:
    outer = plugged.plugin("def on_response(self, request, response):\n    return Reply(200, (), b'outer')", "outer")
    inner = plugged.plugin("def on_request(self, request):\n    return Reply(401, (), b'inner')", "inner")
    await plugged.serve(await listen("h1"), outer, inner)
    got = await ask(await connect("h1"), b"GET /")
    assert (got.status, got.body) == (200, b"outer")


# ---- on_done

NOTING = """
noted = None
{kind}def on_done(self, request, done):
    self.noted = [*(self.noted or ()), (request, done)]
"""


@both
@pytest.mark.parametrize("kind", ["", "async "])
async def test_a_request_that_is_over_is_told(
    plugged: Plugged, connect: Connect, listen: Listen, settled: Settled, client: str, kind: str
) -> None:
    first = plugged.plugin("def on_request(self, request):\n    return request.with_header('x-first', '1')", "first")
    noting = plugged.plugin(NOTING.format(kind=kind), "noting")
    port = await listen("h1")
    await plugged.serve(port, first, noting)
    got = await ask(await connect(client), b"POST /sized", [b"abc"], sized=3, lines=b"x-request-id: my-id\r\n")
    assert got.body == b"abc"
    await until(lambda: plugged.live("noting").noted)
    ((request, done),) = plugged.live("noting").noted
    assert (request.path, request.header("x-first")) == ("/sized", "1")
    assert (done.status, done.reason, done.route, done.upstream) == (200, "", "HTTPRoute/shop/main", "shop/orders")
    assert (done.endpoint, done.attempts, done.bytes_in, done.bytes_out) == (f"127.0.0.1:{port}", 1, 3, 3)
    assert (done.request_id, len(done.trace_id)) == ("my-id", 32)
    assert 0 < done.seconds < 10
    assert done.at_unix_s > 1_600_000_000
    await settled(clients=False)


NOTES = """from nexus_sdk.plugin import RequestHead
---
noted = None
def on_request(self, request):
    request.notes[{name!r}] = [request.path]
    return {made}
async def on_request_body(self, request, body):
    request.notes[{name!r}].append("body")
    return request.with_header("x-{name}", "1"), body
def on_response(self, request, response):
    request.notes[{name!r}].append("response")
    return response
def on_done(self, request, done):
    self.noted = request.notes[{name!r}]
"""
MADE = (
    "request",
    "request.with_header('x-more', '1')",
    "RequestHead(request.method, request.path, headers=request.headers)",
)


@both
@pytest.mark.parametrize("made", MADE)
@pytest.mark.parametrize("granted", [Permissions(), Permissions(read_headers=("x-a",), write_headers=("x-*",))])
async def test_notes_reach_all_hooks_of_their_request(
    plugged: Plugged, connect: Connect, listen: Listen, client: str, made: str, granted: Permissions
) -> None:
    plugins = [plugged.plugin(NOTES.format(name=name, made=made), name, granted=granted) for name in ("one", "two")]
    await plugged.serve(await listen("h1"), *plugins)
    connection = await connect(client)
    for path in ("/sized", "/chunked"):
        await ask(connection, f"POST {path}".encode(), [b"abc"], sized=3, lines=b"x-a: b\r\n")
        for name in ("one", "two"):
            await until(lambda name=name, path=path: (plugged.live(name).noted or [""])[0] == path)  # type: ignore[misc]
            assert plugged.live(name).noted == [path, "body", "response"]


async def test_whoever_was_reached_is_told_of_refusals_and_departures(
    plugged: Plugged, connect: Connect, peers: Peers, settled: Settled
) -> None:
    """A plugin behind one that replies never saw the request."""

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    code = (
        NOTING.format(kind="")
        + "def on_request(self, request):\n    return Reply(401) if request.path == '/no' else request"
    )
    replying = plugged.plugin(code, "replying")
    behind = plugged.plugin(NOTING.format(kind=""), "behind")
    await plugged.serve(await peers(silent), replying, behind)
    assert (await ask(await connect("h1"), b"GET /no")).status == 401
    connection = await connect("h2")
    connection.begin(Answer(), b"GET /leaving HTTP/1.1\r\nhost: x\r\n\r\n")
    assert plugged.harness.gateway is not None
    proxy = plugged.harness.gateway.proxy
    await until(lambda: proxy.in_flight)
    connection.abort()
    await until(lambda: plugged.live("behind").noted)
    assert [(request.path, done.status) for request, done in plugged.live("replying").noted] == [
        ("/no", 401),
        ("/leaving", 499),
    ]
    assert [(request.path, done.reason) for request, done in plugged.live("behind").noted] == [
        ("/leaving", "ClientClosed")
    ]
    await settled(clients=False)


async def test_notes_in_the_background_are_bounded(
    plugged: Plugged, connect: Connect, listen: Listen, harness: Harness
) -> None:
    code = """
begun = 0
async def on_done(self, request, done):
    self.begun += 1
    await asyncio.sleep(0.2 if self.begun > 2 else 30)
"""
    await plugged.serve(await listen("h1"), plugged.plugin(code, timeout_s=0.4))
    connection = await connect("h1")
    await ask(connection, b"GET /framed")
    slot = plugged.slot()
    await until(lambda: slot.notes == 1)
    slot.notes += MAX_NOTES - 1  # as if so many ran
    await ask(connection, b"GET /framed")
    await until(lambda: slot.notes == MAX_NOTES - 1)  # the first one's time is over
    assert plugged.live().begun == 1, "one too many is not begun"
    slot.notes -= MAX_NOTES - 1
    assert slot.meter.errors == 1
    async with harness.client.get(harness.admin("/metrics")) as response:  # type: ignore[union-attr]
        assert 'nexus_gateway_plugin_hook_errors_total{hook="on_done",plugin="shop/demo"} 2.0' in await response.text()


@pytest.mark.parametrize("error", ["RuntimeError", "SystemExit"])
async def test_a_note_too_many_that_does_not_let_itself_be_dropped(
    plugged: Plugged, connect: Connect, listen: Listen, settled: Settled, error: str
) -> None:
    """Whoever else is told is told all the same, and the request is over."""
    code = f"""
class Stubborn:
    def __await__(self):
        return iter(())
    def close(self):
        raise {error}
---
def on_done(self, request, done):
    return Stubborn()
"""
    other = plugged.plugin("told = 0\ndef on_done(self, request, done):\n    self.told += 1", "other")
    await plugged.serve(await listen("h1"), plugged.plugin(code), other)
    plugged.slot().notes += MAX_NOTES  # as if so many ran
    await ask(await connect("h1"), b"GET /framed")
    await until(lambda: plugged.live("other").told == 1)
    await settled(clients=False)


@pytest.mark.parametrize("result", ["1 / 0", "return 1", "raise SystemExit"])
@pytest.mark.parametrize("kind", ["", "async "])
async def test_a_failing_note_is_counted_and_nothing_else(
    plugged: Plugged, connect: Connect, listen: Listen, kind: str, result: str
) -> None:
    code = f"{kind}def on_done(self, request, done):\n    {result}"
    await plugged.serve(await listen("h1"), plugged.plugin(code, failure_policy="closed"))
    connection = await connect("h1")
    for _ in range(2):
        assert (await ask(connection, b"POST /sized", [b"abc"], sized=3)).body == b"abc"
    await until(lambda: plugged.slot().meter.errors == 2)


async def test_a_plugin_is_told_before_it_is_stopped(plugged: Plugged, connect: Connect, listen: Listen) -> None:
    code = """
log = []
async def on_done(self, request, done):
    await asyncio.sleep(0.1)
    self.log.append("told")
async def stop(self):
    self.log.append("stopped")
"""
    port = await listen("h1")
    await plugged.serve(port, plugged.plugin(code))
    log = plugged.live().log
    await ask(await connect("h1"), b"GET /framed")
    await plugged.serve(port)
    await until(lambda: "stopped" in log)
    assert log == ["told", "stopped"]


# ---- plugins that hold a request up


async def test_the_last_plugin_that_is_uninstalled_is_let_go_of(
    plugged: Plugged, connect: Connect, listen: Listen, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those who look after plugins go on, and have none to look at any more."""
    counted = asyncio.Event()
    count = overseeing.Overseer._count

    def count_and_tell(overseer: overseeing.Overseer) -> None:
        count(overseer)
        counted.set()

    monkeypatch.setattr(overseeing.Overseer, "_count", count_and_tell)
    port = await listen("h1")
    await plugged.serve(port, plugged.plugin("def on_request(self, request):\n    return request"))
    await ask(await connect("h1"), b"GET /framed")
    await counted.wait()
    plugin = weakref.ref(plugged.live())
    await plugged.serve(port)

    def is_gone() -> bool:
        gc.collect()
        return plugin() is None

    await until(is_gone)


@policies
@pytest.mark.parametrize(
    "hook", ["on_request(self, request", "on_request_body(self, request, body", "on_route(self, request, choice"]
)
async def test_a_hook_that_does_not_let_itself_be_cancelled_is_left_behind(
    plugged: Plugged, connect: Connect, listen: Listen, settled: Settled, hook: str, policy: Any
) -> None:
    code = f"""
async def {hook}):
    while True:
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            pass
"""
    await plugged.serve(await listen("h1"), plugged.plugin(code, failure_policy=policy, timeout_s=0.1))
    got = await ask(await connect("h1"), b"POST /sized", [b"abc"], sized=3)
    assert got.status == (200 if policy == "open" else 503)
    assert plugged.slot().meter.errors == 1
    await settled(clients=False)


@pytest.mark.parametrize("hook", ["on_request(self, request", "on_response_body(self, request, response, body"])
async def test_a_hook_may_clean_up_when_its_time_is_over(
    plugged: Plugged, connect: Connect, listen: Listen, hook: str
) -> None:
    code = f"""
cleaned = False
async def {hook}):
    try:
        await asyncio.sleep(30)
    finally:
        await asyncio.sleep(0.05)
        self.cleaned = True
"""
    await plugged.serve(await listen("h1"), plugged.plugin(code, timeout_s=0.1))
    assert (await ask(await connect("h1"), b"POST /sized", [b"abc"], sized=3)).body == b"abc"
    assert plugged.live().cleaned


# ---- permissions on headers

ALL = """
seen = None
def note(self, head):
    self.seen = [*(self.seen or ()), tuple(name for name, _ in head.headers)]
def on_request(self, request):
    self.note(request)
    self.one = request.header("authorization"), request.header("x-acme-a")
    return request
def on_request_body(self, request, body):
    self.note(request)
    return body
def on_request_stream(self, request):
    self.note(request)
def on_route(self, request, choice):
    self.note(request)
    return choice
def on_endpoint(self, request, endpoint):
    self.note(request)
    return ()
def on_response(self, request, response):
    self.note(request)
    self.note(response)
    return response
def wants_response_body(self, request, response):
    self.note(response)
    return True
def on_response_body(self, request, response, body):
    self.note(request)
    self.note(response)
    return body
def on_response_stream(self, request, response):
    self.note(response)
def on_done(self, request, done):
    self.note(request)
    self.over = True
"""


def may(*read: str, write: tuple[str, ...] = ()) -> Permissions:
    return Permissions(read_headers=read, write_headers=write)


async def test_a_plugin_sees_only_headers_that_it_may_read(
    plugged: Plugged, connect: Connect, listen: Listen, echo: Echo
) -> None:
    await plugged.serve(await listen("h2"), plugged.plugin(ALL, granted=may("x-acme-*", "content-type")), server="h2")
    lines = b"authorization: secret\r\ncookie: a=b\r\nx-acme-a: 1\r\nx-other: 2\r\n"
    got = await ask(await connect("h1"), b"POST /framed", [b"abc"], sized=3, lines=lines)
    assert got.body == b"abc"
    await until(lambda: getattr(plugged.live(), "over", False))
    assert set(plugged.live().seen) == {("x-acme-a",), ("content-type",)}
    assert plugged.live().one == (None, "1")
    assert echo.heads[0]["authorization"] == "secret", "what it cannot see goes on"
    assert echo.heads[0]["cookie"] == "a=b"


@pytest.mark.parametrize("kind", ["", "async "])
@pytest.mark.parametrize(
    ("change", "allowed"),
    [
        ("request.with_header('x-acme-new', '1')", True),
        ("request.with_header('x-acme-a', '9')", True),
        ("request.without_header('x-acme-a')", True),
        ("request.with_header('authorization', 'mine')", False),
        ("request.with_header('X-Other', 'mine')", False),
        ("request.with_header('x-seen', 'changed')", False),
        ("request.without_header('x-seen')", False),
        ("request.with_headers(())", False),
    ],
)
@policies
async def test_a_plugin_writes_only_headers_that_it_may_write(
    plugged: Plugged, connect: Connect, listen: Listen, echo: Echo, kind: str, change: str, allowed: bool, policy: Any
) -> None:
    granted = may("x-acme-*", "x-seen", write=("x-acme-*",))
    code = f"{kind}def on_request(self, request):\n    return {change}"
    await plugged.serve(await listen("h1"), plugged.plugin(code, granted=granted, failure_policy=policy))
    lines = b"authorization: secret\r\nx-acme-a: 1\r\nx-seen: s\r\nx-other: o\r\n"
    got = await ask(await connect("h1"), b"GET /framed", lines=lines)
    assert got.status == (503 if policy == "closed" and not allowed else 200)
    assert plugged.slot().meter.errors == (not allowed)
    if got.status == 200:
        (head,) = echo.heads
        assert (head["authorization"], head["x-seen"], head["x-other"]) == ("secret", "s", "o")
        wanted = {"new": ("1", "1"), "9": ("9", None), "without": (None, None)} if allowed else {}
        found = (head.get("x-acme-a"), head.get("x-acme-new"))
        assert found == next((after for word, after in wanted.items() if word in change), ("1", None))


@pytest.mark.parametrize(
    ("hook", "allowed"),
    [
        ("def on_response(self, request, response):\n    return response.with_header('x-acme', '1')", True),
        ("def on_response(self, request, response):\n    return response.with_header('set-cookie', 'a=b')", False),
        ("def on_response(self, request, response):\n    return response.with_header('content-type', 'mine')", False),
        ("def on_endpoint(self, request, endpoint):\n    return (('x-acme', '1'),)", True),
        ("def on_endpoint(self, request, endpoint):\n    return (('authorization', '1'),)", False),
        ("def on_request_body(self, request, body):\n    return request.with_header('x-acme', '1'), body", True),
        ("async def on_request_body(self, request, body):\n    return request.with_header('cookie', '1'), body", False),
    ],
)
async def test_all_hooks_keep_to_what_may_be_written(
    plugged: Plugged, connect: Connect, listen: Listen, echo: Echo, hook: str, allowed: bool
) -> None:
    await plugged.serve(await listen("h2"), plugged.plugin(hook, granted=may(write=("x-acme",))), server="h2")
    got = await ask(await connect("h1"), b"POST /framed", [b"abc"], sized=3, lines=b"cookie: theirs\r\n")
    assert (got.status, got.body, got.headers["content-type"]) == (200, b"abc", "text/plain")
    assert "set-cookie" not in got.headers
    (head,) = echo.heads
    assert (head["cookie"], "authorization" in head) == ("theirs", False)
    assert ("x-acme" in head or "x-acme" in got.headers) is allowed
    assert plugged.slot().meter.errors == (not allowed)


# ---- disabled, tried, traced

EVERYTHING = ALL.replace("def ", "def ").replace("return request\n", "return request.with_header('x-on', '1')\n", 1)


@policies
async def test_a_plugin_that_is_disabled_is_not_called(
    plugged: Plugged, connect: Connect, listen: Listen, echo: Echo, policy: Any
) -> None:
    await plugged.serve(await listen("h1"), plugged.plugin(EVERYTHING, failure_policy=policy))
    connection = await connect("h1")
    assert (await ask(connection, b"GET /framed")).status == 200
    await until(lambda: getattr(plugged.live(), "over", False))
    calls = plugged.slot().meter.calls
    plugged.slot().open = False
    got = await ask(connection, b"GET /framed")
    assert got.status == (200 if policy == "open" else 503)
    assert plugged.slot().meter.calls == calls
    plugged.slot().open = True
    assert (await ask(connection, b"GET /framed")).status == 200
    assert plugged.slot().meter.calls > calls
    assert ["x-on" in head for head in echo.heads] == ([True, False, True] if policy == "open" else [True, True])


@policies
async def test_a_plugin_of_responses_alone_refuses_requests_while_it_is_disabled(
    plugged: Plugged, connect: Connect, listen: Listen, policy: Any
) -> None:
    code = "def on_response(self, request, response):\n    return response.with_header('x-on', '1')"
    await plugged.serve(await listen("h1"), plugged.plugin(code, failure_policy=policy))
    plugged.slot().open = False
    assert (await ask(await connect("h1"), b"GET /framed")).status == (200 if policy == "open" else 503)


@policies
async def test_a_plugin_that_is_disabled_in_the_middle_of_a_request_has_no_more_part_in_it(
    plugged: Plugged, connect: Connect, listen: Listen, policy: Any
) -> None:
    code = "def on_request_body(self, request, body):\n    return b'changed'\ndef on_done(self, request, done):\n    self.over = True"
    await plugged.serve(await listen("h1"), plugged.plugin(code, failure_policy=policy))
    connection = await connect("h1")
    answer = Answer()
    connection.begin(answer, b"POST /sized HTTP/1.1\r\nhost: x\r\ncontent-length: 6\r\n\r\nabc")
    assert plugged.harness.gateway is not None
    proxy = plugged.harness.gateway.proxy
    await until(lambda: proxy.in_flight)
    plugged.slot().open = False
    connection.write(b"def")
    await asyncio.wait_for(answer.done.wait(), 5)
    assert (answer.status, bytes(answer.body)[:6]) == ((200, b"abcdef") if policy == "open" else (503, answer.body[:6]))
    assert plugged.slot().meter.calls == 0
    assert not hasattr(plugged.live(), "over")


async def test_an_exchange_stays_with_the_version_that_it_met(
    plugged: Plugged, connect: Connect, listen: Listen
) -> None:
    mark = """
def on_request(self, request):
    return request.with_header("x-version", {0!r})
def on_request_body(self, request, body):
    assert request.header("x-version") == {0!r}
    return body + {0!r}.encode()
def on_response(self, request, response):
    assert request.header("x-version") == {0!r}
    return response.with_header("x-version", {0!r})
"""
    stable, other = plugged.plugin(mark.format("1"), "stable"), plugged.plugin(mark.format("2"), "other")
    port = await listen("h1")
    await plugged.harness.start()
    rules = route(rule("shop/orders", plugins=(stable.id,)))
    await plugged.harness.publish(snapshot(rules, upstream(port), plugins=(other, stable)))
    trials: list[Trial] = []
    terms = Candidate(instance=other, percent=50.0)
    one = plugged.slot("stable")
    one.trial = trial = Trial(one, plugged.slot("other"), terms, 0.0, trials.append)
    connection = await connect("h1")
    seen = []
    for _ in range(4):
        got = await ask(connection, b"POST /sized", [b"-"], sized=1)
        seen.append(got.body)
    assert sorted(seen) == [b"-1", b"-1", b"-2", b"-2"], "half of them met the candidate"
    assert (trial.requests, trial.in_flight) == (2, 0)


async def test_each_hook_is_a_span(plugged: Plugged, connect: Connect, listen: Listen) -> None:
    await plugged.serve(await listen("h1"), plugged.plugin(ALL), settings={"trace_ratio": 1.0})
    await ask(await connect("h1"), b"POST /framed", [b"abc"], sized=3)
    answer = await plugged.harness.ask("/traces")
    text = json.dumps(answer)
    for hook in (
        "on_request", "on_request_body", "on_request_stream", "on_route", "on_endpoint", "on_response", "on_response_body",
        "on_response_stream",
    ):  # fmt: skip
        assert f'{hook}"' in text or hook in text, hook
