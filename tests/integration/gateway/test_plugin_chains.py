"""Several plugins on one request: whatever the one in the middle does, the others' parts of it come out the same."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from msgspec.structs import replace
from nexus_core.snapshot import Candidate, Permissions, PluginInstance
from nexus_core.snapshot.filters import HeaderModifier
from nexus_gateway.testing import until

from tests.integration.gateway.echoes import Connect, ask
from tests.integration.gateway.plugged import Plugged

pytestmark = pytest.mark.usefixtures("loop_errors")
Peers = Callable[..., Awaitable[int]]


def adding(name: str, value: str = "1") -> str:
    return f"def on_request(self, request):\n    return request.with_header({name!r}, {value!r})"


MIDDLES = {
    "looks": ("def on_request(self, request):\n    assert request.header('x-first') == '1'\n    return request", "/", "1 -"),
    "adds": (adding("x-mid"), "/", "1 1"),
    "adds-two": (
        "def on_request(self, request):\n    return request.with_header('x-mid', '1').with_header('x-mid', '2')", "/", "1 2"
    ),
    "gives-up-what-it-made": ("def on_request(self, request):\n    request.with_header('x-mid', '1')\n    return request", "/", "1 -"),
    "replaces": (adding("x-first", "2"), "/", "2 -"),
    "replaces-the-client's": (adding("x-client", "2"), "/", "1 -"),
    "takes-away": ("def on_request(self, request):\n    return request.without_header('x-first')", "/", "- -"),
    "goes-elsewhere": (
        ("import dataclasses\n---\ndef on_request(self, request):\n"
        "    return dataclasses.replace(request.with_header('x-mid', '1'), path='/other')"), "/other", "1 1",
    ),
    "waits": (
        "async def on_request(self, request):\n    await asyncio.sleep(0)\n    return request.with_header('x-mid', '1')", "/", "1 1"
    ),
    "need-not-wait": ("async def on_request(self, request):\n    return request.with_header('x-mid', '1')", "/", "1 1"),
    "returns-a-coroutine": (
        ("async def later(self, request):\n    return request.with_header('x-mid', '1')\n"
        "def on_request(self, request):\n    return self.later(request.with_header('x-mid', '0'))"), "/", "1 1",
    ),
    "fails": ("def on_request(self, request):\n    request.with_header('x-mid', '1')\n    1 / 0", "/", "1 -"),
    "returns-nothing": ("def on_request(self, request):\n    request.with_header('x-mid', '1')", "/", "1 -"),
    "says-what-cannot-be-sent": (adding("x-mid", "1\r\nx-worse: 1"), "/", "1 -"),
    "answers-too": (
        adding("x-mid") + "\ndef on_response(self, request, response):\n    return response.with_header('x-mid', request.header('x-mid'))",
        "/", "1 1",
    ),
    "sees-bodies": (adding("x-mid") + "\ndef on_request_body(self, request, body):\n    return body", "/", "1 1"),
}  # fmt: skip
"""Of the plugin in the middle: its code, the path that goes on, and the values of x-first and x-mid."""


async def told(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers with the head it got."""
    while True:
        head = await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(head), head))


def parsed(head: bytes) -> tuple[str, dict[str, str]]:
    start, *lines = head.decode().rstrip("\r\n").split("\r\n")
    pairs = [(name.lower(), value.strip()) for name, _, value in (line.partition(":") for line in lines)]
    assert len(dict(pairs)) == len(pairs), pairs
    return start.split(" ")[1], dict(pairs)


@pytest.mark.parametrize("sampled", [False, True])
@pytest.mark.parametrize("limited", [False, True])
@pytest.mark.parametrize("middle", MIDDLES)
async def test_each_has_its_part(
    plugged: Plugged, connect: Connect, peers: Peers, middle: str, limited: bool, sampled: bool
) -> None:
    code, path, values = MIDDLES[middle]
    writes = ("x-first", "x-mid", "x-client")
    granted = Permissions(read_headers=writes, write_headers=writes) if limited else Permissions()
    chain: tuple[PluginInstance, ...] = (
        plugged.plugin(adding("x-first"), "first"),
        plugged.plugin(code, granted=granted),
        plugged.plugin(adding("x-last"), "last"),
    )
    rule_fields = {"filters": (HeaderModifier("request", set=(("x-rule", "1"),)),)}
    await plugged.serve(await peers(told), *chain, rule_fields=rule_fields, settings={"trace_ratio": float(sampled)})
    connection = await connect("h1")
    for _ in range(3):
        got = await ask(connection, b"GET /", lines=b"x-client: 1\r\n")
        assert got.status == 200
        went, headers = parsed(got.body)
        assert went == path
        assert f"{headers.get('x-first', '-')} {headers.get('x-mid', '-')}" == values
        assert headers["x-client"] == ("2" if middle == "replaces-the-client's" else "1")
        assert (headers["x-last"], headers["x-rule"]) == ("1", "1")
    calls = {name: plugged.slot(name).meter.spread("on_request").buckets for name in ("first", "demo", "last")}
    assert {name: sum(each) for name, each in calls.items()} == {"first": 3, "demo": 3, "last": 3}
    assert plugged.slot().meter.errors == (
        3 if middle in ("fails", "returns-nothing", "says-what-cannot-be-sent") else 0
    )


async def test_a_former_release_that_goes_on_sees_what_it_asked_for_itself(
    plugged: Plugged, connect: Connect, peers: Peers
) -> None:
    """What another asks for, that cannot be started, is not what this one needs."""
    code = "def on_request(self, request):\n    return request.with_header('x-mid', request.header('x-client') or 'nothing')"
    granted = Permissions(read_headers=("x-client",), write_headers=("x-mid",))
    await plugged.serve(port := await peers(told), plugged.plugin(code, granted=granted))
    other = plugged.plugin(f"raise OSError\n---\n{code}", granted=Permissions(read_headers=(), write_headers=()))
    with pytest.raises(AssertionError, match="previous"):
        await plugged.serve(port, other)
    _, headers = parsed((await ask(await connect("h1"), b"GET /", lines=b"x-client: 7\r\n")).body)
    assert headers["x-mid"] == "7"


async def test_what_may_not_be_called_any_more_is_not_called_though_nothing_new_starts(
    plugged: Plugged, connect: Connect, peers: Peers
) -> None:
    code = (
        "from nexus_sdk.plugin import CallFailed, NotGranted\n---\n"
        "def __init__(self, config):\n    assert 'broken' not in config\n"
        "async def on_request(self, request):\n"
        "    try:\n        await self.context.call('GET', 'http://127.0.0.1:1/')\n"
        "    except (CallFailed, NotGranted) as error:\n"
        "        return request.with_header('x-mid', type(error).__name__)\n"
    )
    fine = plugged.plugin(code, granted=Permissions(network=("127.0.0.1",)))
    said = []

    async def asked() -> None:
        _, headers = parsed((await ask(await connect("h1"), b"GET /")).body)
        said.append(headers["x-mid"])

    await plugged.serve(port := await peers(told), fine)
    await asked()
    with pytest.raises(AssertionError, match="previous"):
        await plugged.serve(port, replace(fine, granted=Permissions(), config='{"broken":true}'))
    await asked()
    await plugged.serve(port, fine)
    await asked()
    assert said == ["CallFailed", "NotGranted", "CallFailed"]


@pytest.mark.parametrize("sampled", [False, True])
async def test_one_that_fails_closed_ends_it_and_the_next_request_begins_anew(
    plugged: Plugged, connect: Connect, peers: Peers, sampled: bool
) -> None:
    code = "def on_request(self, request):\n    return request.with_header('x-mid', '1') if request.header('x-fine') else 1 / 0"
    chain = (
        plugged.plugin(adding("x-first"), "first"),
        plugged.plugin(code, failure_policy="closed"),
        plugged.plugin(adding("x-last"), "last"),
    )
    await plugged.serve(await peers(told), *chain, settings={"trace_ratio": float(sampled)})
    connection = await connect("h1")
    for _ in range(3):
        assert (await ask(connection, b"GET /")).status == 503
        _, headers = parsed((await ask(connection, b"GET /", lines=b"x-fine: 1\r\n")).body)
        assert [headers[name] for name in ("x-first", "x-mid", "x-last")] == ["1", "1", "1"]


@pytest.mark.parametrize(("policy", "status"), [("open", 200), ("closed", 503)])
@pytest.mark.parametrize("kind", ["", "async "])
async def test_one_that_returns_nothing_behind_one_that_changed_more_has_failed(
    plugged: Plugged, connect: Connect, peers: Peers, kind: str, policy: Any, status: int
) -> None:
    chain = (
        plugged.plugin(MIDDLES["goes-elsewhere"][0], "first"),
        plugged.plugin(f"{kind}def on_request(self, request):\n    return None", failure_policy=policy),
    )
    await plugged.serve(await peers(told), *chain)
    connection = await connect("h1")
    for _ in range(2):
        assert (await ask(connection, b"GET /")).status == status
    assert plugged.slot().meter.errors == 2


async def test_one_that_is_disabled_or_has_a_candidate_takes_another_way_from_the_next_request_on(
    plugged: Plugged, connect: Connect, peers: Peers
) -> None:
    first, last = plugged.plugin(adding("x-first"), "first"), plugged.plugin(adding("x-last"), "last")
    port = await peers(told)
    await plugged.serve(port, first, last)
    connection = await connect("h1")

    async def seen() -> tuple[str | None, str | None]:
        _, headers = parsed((await ask(connection, b"GET /")).body)
        return headers.get("x-first"), headers.get("x-last")

    assert await seen() == ("1", "1")
    plugged.slot("first").open = False
    assert await seen() == (None, "1")
    plugged.slot("first").open = True
    assert await seen() == ("1", "1")
    other = plugged.plugin(adding("x-first", "candidate"), "first")
    await plugged.serve(port, replace(first, candidate=Candidate(instance=other, percent=50.0, seconds=60.0)), last)
    assert {(await seen())[0] for _ in range(8)} == {"1", "candidate"}
    trial = plugged.slot("first").trial
    assert trial is not None
    await until(lambda: trial.in_flight == 0)


# ---- what no plugin may make of a request


@pytest.mark.parametrize(("sent", "made"), [("HEAD", "GET"), ("GET", "HEAD"), ("GET", "CONNECT")])
@pytest.mark.parametrize("policy", ["open", "closed"])
async def test_whether_a_body_follows_is_the_clients_method_to_say(
    plugged: Plugged, connect: Connect, peers: Peers, sent: str, made: str, policy: Any
) -> None:
    seen: list[bytes] = []

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            seen.append(head.split(b" ")[0])
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n")
            if not head.startswith(b"HEAD"):
                await asyncio.sleep(0.05)
                writer.write(b"ok")

    code = (
        "import dataclasses\n---\ndef on_request(self, request):\n    if request.path == '/a':\n"
        f"        return dataclasses.replace(request, method={made!r})\n    return request"
    )
    await plugged.serve(await peers(slow), plugged.plugin(code, failure_policy=policy))
    one, other = await connect("h1"), await connect("h1")
    for _ in range(2):
        first = await ask(one, f"{sent} /a".encode())
        assert (await ask(other, b"GET /b")).body == b"ok"
        assert first.status == (200 if policy == "open" else 503)
    assert set(seen) <= {sent.encode(), b"GET"}
    assert plugged.slot().meter.errors == 2


@pytest.mark.parametrize("name", ["host", "Host"])
async def test_a_host_that_a_plugin_puts_behind_the_clients_is_the_only_one(
    plugged: Plugged, connect: Connect, peers: Peers, name: str
) -> None:
    code = f"def on_request(self, request):\n    return request.with_headers((*request.headers, ({name!r}, 'other.example')))"
    await plugged.serve(await peers(told), plugged.plugin(code), plugged.plugin(adding("x-last"), "last"))
    connection = await connect("h1")
    _, headers = parsed((await ask(connection, b"GET /")).body)
    assert (headers["host"], headers["x-last"]) == ("other.example", "1")
