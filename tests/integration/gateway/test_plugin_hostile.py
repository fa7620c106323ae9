"""Plugins that hold on, leave or lie by means that Python gives them: what each does is a failure of its own, and requests go on."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from nexus_core.snapshot import Budgets
from nexus_gateway.testing import until

from tests.integration.gateway.echoes import Connect, Echo, Listen, ask
from tests.integration.gateway.plugged import Plugged

pytestmark = pytest.mark.usefixtures("loop_errors")
Settled = Callable[..., Awaitable[None]]
policies = pytest.mark.parametrize("policy", ["open", "closed"])

HOOKS = {
    "on_request": "self, request",
    "wants_request_body": "self, request",
    "on_request_body": "self, request, body",
    "on_request_stream": "self, request",
    "on_route": "self, request, choice",
    "on_endpoint": "self, request, endpoint",
    "on_response": "self, request, response",
    "wants_response_body": "self, request, response",
    "on_response_body": "self, request, response, body",
    "on_response_stream": "self, request, response",
    "on_done": "self, request, done",
}
COROUTINES = ("on_request", "on_request_body", "on_route", "on_response", "on_response_body", "on_done")
QUIET = {"on_done"}
BEHIND = {
    "wants_request_body": "def on_request_body(self, request, body):\n    return body\n",
    "wants_response_body": "def on_response_body(self, request, response, body):\n    return body\n",
}


def hook(name: str, *lines: str, waits: bool = False) -> str:
    body = "".join(f"    {line}\n" for line in lines)
    return f"{'async ' if waits else ''}def {name}({HOOKS[name]}):\n{body}{BEHIND.get(name, '')}"


async def contained(
    plugged: Plugged, connect: Connect, listen: Listen, code: str, quiet: bool, policy: str, **fields: Any
) -> None:
    """Ask twice: each is answered as the policy says, and each is a failure."""
    await plugged.serve(await listen("h1"), plugged.plugin(code, failure_policy=policy, **fields))
    for count in (1, 2):
        connection = await connect("h1")
        async with asyncio.timeout(5):
            got = await ask(connection, b"POST /sized", [b"abc"], sized=3)
        assert got.status == (200 if policy == "open" or quiet else 503), got
        if got.status == 200:
            assert got.body == b"abc"
        await until(lambda count=count: plugged.slot().meter.errors >= count)


@policies
@pytest.mark.parametrize("thrown", ["GeneratorExit", "asyncio.CancelledError", "StopIteration", "KeyboardInterrupt"])
@pytest.mark.parametrize("name", HOOKS)
async def test_what_ends_the_callers_of_others_is_a_failure_as_any(
    plugged: Plugged, connect: Connect, listen: Listen, settled: Settled, name: str, thrown: str, policy: str
) -> None:
    code = hook(name, f"raise {thrown}")
    await contained(plugged, connect, listen, code, name in QUIET, policy)
    await settled(clients=False)


@policies
@pytest.mark.parametrize(
    "lines",
    [["raise GeneratorExit"], ["await asyncio.sleep(0)", "raise GeneratorExit"],
     ["asyncio.current_task().cancel()", "await asyncio.sleep(0)"], ["raise asyncio.CancelledError"],
     ["await asyncio.Event().wait()"]],
    ids=["leaves", "leaves later", "cancels whoever waits", "cancels", "never ends"],
)  # fmt: skip
@pytest.mark.parametrize("name", COROUTINES)
async def test_a_coroutine_that_leaves_its_caller_alone_is_a_failure_as_any(
    plugged: Plugged, connect: Connect, listen: Listen, settled: Settled, name: str, lines: list[str], policy: str
) -> None:
    code = hook(name, *lines, waits=True)
    await contained(plugged, connect, listen, code, name in QUIET, policy, timeout_s=0.2)
    await settled(clients=False)


@policies
@pytest.mark.parametrize("waits", [False, True])
@pytest.mark.parametrize("name", HOOKS)
async def test_a_result_of_the_wrong_type_is_a_failure_as_any(
    plugged: Plugged, connect: Connect, listen: Listen, name: str, waits: bool, policy: str
) -> None:
    waits = waits and name in COROUTINES
    await contained(plugged, connect, listen, hook(name, "return 7", waits=waits), name in QUIET, policy)


HUGE = {
    "on_request": "return request.with_header('x-big', 'a' * 70_000)",
    "on_endpoint": "return tuple((f'x-{n}', 'v') for n in range(300))",
    "on_response": "return type(response)(response.status, (*response.headers, *((f'x-{n}', 'v') for n in range(300))))",
}


@policies
@pytest.mark.parametrize("name", HUGE)
async def test_heads_that_nobody_takes_are_not_sent(
    plugged: Plugged, connect: Connect, listen: Listen, name: str, policy: str
) -> None:
    """They would end a connection that others share, and count against the endpoint."""
    await contained(plugged, connect, listen, hook(name, HUGE[name]), False, policy)


LOOPS = {
    "loops": ["while True:", "    pass"],
    "catches all": ["while True:", "    try:", "        while True:", "            pass", "    except BaseException:", "        pass"],
    "sleeps": ["import time", "time.sleep(30)"],
    "backtracks": ["import re", "re.match('(a+)+$', 'a' * 40 + 'b')"],
}  # fmt: skip


@pytest.mark.parametrize("way", LOOPS)
@pytest.mark.parametrize("name", HOOKS)
async def test_a_hook_that_blocks_the_loop_is_interrupted(
    plugged: Plugged, connect: Connect, listen: Listen, name: str, way: str
) -> None:
    budgets = Budgets(block_s=0.05)
    await contained(plugged, connect, listen, hook(name, *LOOPS[way]), name in QUIET, "open", budgets=budgets)


STREAM = """
class Stream:
    def feed(self, data):
        while {feed}: pass
        return data
    def finish(self):
        while {finish}: pass
        return b""
---
def {hook}):
    return Stream()
"""


@pytest.mark.parametrize("where", ["feed", "finish"])
@pytest.mark.parametrize("name", ["on_request_stream", "on_response_stream"])
async def test_a_stream_that_blocks_the_loop_is_interrupted(
    plugged: Plugged, connect: Connect, listen: Listen, name: str, where: str
) -> None:
    given = {"feed": False, "finish": False} | {where: True}
    code = STREAM.format(hook=f"{name}({HOOKS[name]}", **given)
    await plugged.serve(await listen("h1"), plugged.plugin(code, budgets=Budgets(block_s=0.05)))
    for count in (1, 2):
        # Broken off or refused, by how much of it had gone out.
        async with asyncio.timeout(5):
            await asyncio.gather(ask(await connect("h1"), b"POST /sized", [b"abc"], sized=3), return_exceptions=True)
        assert plugged.slot().meter.errors == count


LIES = {
    "an error that cannot say what it is": """
class Evil(Exception):
    def __str__(self): raise SystemExit(3)
    def __bool__(self): raise SystemExit(3)
---
def on_request(self, request):
    raise Evil
""",
    "an error that is never done saying what it is": """
class Evil(Exception):
    def __str__(self):
        while True: pass
---
def on_request(self, request):
    raise Evil
""",
    "a host of two lines": """
---
def on_request(self, request):
    return RequestHead(request.method, request.path, request.query, "a\\r\\nx-smuggled: 1", request.headers, request.client_ip, "")
""",
    "a property that never ends": """
class Evil(RequestHead):
    @property
    def method(self):
        while True: pass
---
def on_request(self, request):
    return Evil(request.method, request.path, request.query, request.host, (), request.client_ip, request.route)
""",
    "a value that is another each time": """
class Evil(str):
    def __format__(self, how):
        return "1\\r\\nx-smuggled: 1"
---
def on_request(self, request):
    return request.with_header("x-evil", Evil("1"))
""",
    "a value like one that is there": """
class Evil(str):
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __hash__(self): return hash("127.0.0.1")
    def __format__(self, how): return "1\\r\\nx-smuggled: 1"
---
def on_request(self, request):
    changed = tuple((name, Evil("1") if name == "x-forwarded-for" else value) for name, value in reversed(request.headers))
    return RequestHead(request.method, "/sized/", request.query, request.host, changed, request.client_ip, request.route)
""",
    "a path that is another later": """
class Evil(str):
    def __format__(self, how): return "/ HTTP/1.1\\r\\nx-smuggled: 1\\r\\nx-b: "
---
def on_request(self, request):
    return RequestHead(request.method, Evil("/sized"), request.query, request.host, request.headers, request.client_ip, request.route)
""",
    "a status that is no whole number": """
---
def on_response(self, request, response):
    return type(response)(200.0, response.headers)
""",
}


@pytest.mark.parametrize("name", LIES)
async def test_what_only_looks_like_a_result_is_none(
    plugged: Plugged, connect: Connect, listen: Listen, echo: Echo, name: str
) -> None:
    code = "from nexus_sdk.plugin import RequestHead\n" + LIES[name].lstrip("\n")
    await contained(plugged, connect, listen, code, False, "open", budgets=Budgets(block_s=0.05))
    assert all("x-smuggled" not in head for head in echo.heads)


PLAIN = {
    "a status that never ends": """
class Evil(int):
    def __ge__(self, other):
        while True: pass
    __le__ = __gt__ = __lt__ = __eq__ = __ne__ = __ge__
    __hash__ = int.__hash__
---
def on_request(self, request):
    return Reply(Evil(299))
""",
    "a reply's body that is another later": """
class Evil(bytearray):
    def __len__(self): return 1
---
def on_request(self, request):
    return Reply(299, (), Evil(b"HTTP/1.1 200 OK"))
""",
    "a status of two lines": """
class Evil(int):
    def __format__(self, how): return "200 OK\\r\\nx-smuggled: 1\\r\\nx-b: "
---
def on_request(self, request):
    return Reply(Evil(299))
""",
}


@pytest.mark.parametrize("client", ["h1", "h2"])
@pytest.mark.parametrize("name", PLAIN)
async def test_what_goes_out_is_plain_whatever_its_class_says(
    plugged: Plugged, connect: Connect, listen: Listen, name: str, client: str
) -> None:
    await plugged.serve(await listen("h1"), plugged.plugin(PLAIN[name].lstrip("\n")))
    connection = await connect(client)
    for _ in range(2):
        async with asyncio.timeout(5):
            got = await ask(connection, b"GET /sized")
        assert (got.status, got.body) == (299, b"HTTP/1.1 200 OK" if "body" in name else b"")
        assert "x-smuggled" not in got.headers
    assert plugged.slot().meter.errors == 0
