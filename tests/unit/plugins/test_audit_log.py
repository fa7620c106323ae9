"""audit-log: lines, chains that show what was done to them, sinks that fail."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from nexus_core.hooks import Called, CallFailed, Done, Reply, RequestHead, ResponseHead
from nexus_plugin_audit_log import AuditLog, verify
from nexus_plugin_audit_log.chains import Chain
from nexus_sdk.plugin import PluginConfigError
from nexus_sdk.testing import Call, FakeContext, PluginKit

REQUEST = RequestHead(
    "DELETE", "/orders/7", "token=t0p", "shop",
    (("x-consumer-name", "app"), ("user-agent", "curl"), ("user-agent", "é\t"), ("authorization", "t0p")), "192.0.2.7",
)  # fmt: skip
DONE = Done(204, "", "shop/orders", "shop/orders", "10.0.0.7:80", 1, 0.25, 3, 0, "ab" * 16, "r1", 1767268800.0)


def lines_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [message for message in caplog.messages if message.startswith("{")]


async def test_a_line_says_who_what_when_and_how_it_ended(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    async with PluginKit(AuditLog, {"headers": ["User-Agent"]}) as kit:
        await kit.done(REQUEST, DONE)
    (line,) = lines_in(caplog)
    fields = json.loads(line)
    assert line.isascii()
    assert list(fields)[:3] == ["chain", "seq", "at"]
    assert fields["at"] == "2026-01-01T12:00:00.000+00:00"
    assert (fields["subject"], fields["client"], fields["method"], fields["path"]) == (
        "app",
        "192.0.2.7",
        "DELETE",
        "/orders/7",
    )
    assert (fields["status"], fields["outcome"], fields["seconds"], fields["request_id"]) == (
        204,
        "success",
        0.25,
        "r1",
    )
    assert fields["headers"] == {"user-agent": ["curl", "é\t"]}
    assert "t0p" not in line
    assert verify([line]) == []


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        (200, "success"),
        (302, "success"),
        (401, "denied"),
        (403, "denied"),
        (404, "refused"),
        (499, "left"),
        (500, "failure"),
    ],
)
async def test_outcomes_and_chosen_fields(status: int, outcome: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    async with PluginKit(AuditLog, {"fields": ["outcome", "query"], "subject": [], "methods": ["DELETE"]}) as kit:
        await kit.done(REQUEST, Done(status))
        await kit.done(RequestHead("GET", "/"), Done(status))
    (line,) = lines_in(caplog)
    assert list(json.loads(line)) == ["chain", "seq", "outcome", "query", "prev"]
    assert json.loads(line)["outcome"] == outcome


def chained(count: int, name: str = "a", key: bytes = b"") -> list[str]:
    chain = Chain(name, key)
    return [chain.line({"n": index}) for index in range(count)]


@pytest.mark.parametrize(
    ("change", "broken"),
    [
        (lambda lines: lines, []),
        (lambda lines: [f"{line}\r\n" for line in lines] + ["\n"], []),
        (lambda lines: lines[:2] + lines[3:], [(3, "1 lines are missing before it")]),
        (lambda lines: lines[1:], [(1, "1 lines are missing before it")]),
        (lambda lines: [lines[0], lines[2], lines[1], *lines[3:]],
         [(2, "1 lines are missing before it"), (3, "is not in its place"), (4, "1 lines are missing before it")]),
        (lambda lines: [lines[0], lines[1].replace('"n":1', '"n":7'), *lines[2:]], [(3, "the line before was changed, or it was")]),
        (lambda lines: [*lines, lines[-1]], [(6, "is not in its place")]),
        (lambda lines: [lines[0], "{", "[]", '{"chain": 1, "seq": 1, "prev": 1}', *lines[1:]],
         [(2, "is no line of this log"), (3, "is no line of this log"), (4, "is no line of this log")]),
        (lambda lines: [lines[0].replace('"prev":"', '"prev":"0'), *lines[1:]],
         [(1, "is not this chain's first line"), (2, "the line before was changed, or it was")]),
    ],
)  # fmt: skip
def test_what_was_done_to_a_chain_is_seen(
    change: Callable[[list[str]], list[str]], broken: list[tuple[int, str]]
) -> None:
    assert [(each.line, each.what) for each in verify(change(chained(5)))] == broken


def test_chains_may_be_mixed_and_parts_verified() -> None:
    mixed = [line for pair in zip(chained(4, "a"), chained(4, "b"), strict=True) for line in pair]
    assert verify(line.encode() for line in mixed) == []
    assert verify(mixed[3:], from_start=False) == []
    assert len(verify(mixed[3:])) == 2


def test_a_chain_with_a_key_cannot_be_made_anew_without_it() -> None:
    lines = chained(3, key=b"key")
    assert verify(lines, b"key") == []
    assert len(verify(lines)) == 3
    assert len(verify(chained(3), b"key")) == 3


async def test_bodies_are_digested_while_they_pass(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    config = {"requestDigest": True, "responseDigest": True}
    async with PluginKit(AuditLog, config) as kit:
        other = RequestHead("POST", "/orders")
        passed = await kit.request(REQUEST.with_headers(()))
        assert isinstance(passed, RequestHead)
        assert passed.headers == (), "nothing of it goes on to the service"
        assert await kit.request_stream(passed, [b"ab", b"c"]) == b"abc"
        assert await kit.response_stream(passed, ResponseHead(200), [b"x" * 10, b"y"]) == b"x" * 10 + b"y"
        await kit.done(passed, DONE)
        await kit.done(other, DONE)
        assert kit.plugin.on_request_stream(other) is None
    first, second = (json.loads(line) for line in lines_in(caplog))
    assert first["request_sha256"] == hashlib.sha256(b"abc").hexdigest()
    assert first["response_sha256"] == hashlib.sha256(b"x" * 10 + b"y").hexdigest()
    assert "request_sha256" not in second


def http_kit(answer: Callable[[Call], Called | Awaitable[Called]], **config: Any) -> PluginKit:
    context = FakeContext(secrets={"http-token": "t0k"}, answer=answer)
    return PluginKit(AuditLog, {"log": False, "http": {"url": "https://siem.example/in"}, **config}, context=context)


def posted(context: FakeContext) -> list[list[str]]:
    return [call.body.decode().splitlines() for call in context.calls]


async def test_lines_are_posted_in_batches_while_others_are_on_their_way() -> None:
    gate = asyncio.Event()

    async def answer(call: Call) -> Called:
        await gate.wait()
        return Called(202)

    async with http_kit(answer, batchLines=3) as kit:
        for _ in range(8):
            await kit.done(REQUEST, DONE)
        gate.set()
        await kit.context.settle()
        batches = posted(kit.context)
        assert sum(map(len, batches)) == 8
        assert max(map(len, batches)) == 3
        assert verify(line for batch in batches for line in batch) == []
        assert kit.context.calls[0].header("authorization") == "Bearer t0k"
        assert kit.context.calls[0].header("content-type") == "application/x-ndjson"


async def test_a_sink_that_fails_is_tried_again_with_longer_waits(caplog: pytest.LogCaptureFixture) -> None:
    answers: list[int | None] = [None, 503, 429, 500, 500, 500, 500, 500, 200]

    def answer(call: Call) -> Called:
        status = answers.pop(0)
        if status is None:
            raise CallFailed("siem.example did not answer")
        return Called(status)

    async with http_kit(answer) as kit:
        waits: list[float] = []

        async def sleep(seconds: float) -> None:
            waits.append(seconds)

        kit.plugin._buffers[0].sleep = sleep  # type: ignore[attr-defined]
        await kit.done(REQUEST, DONE)
        await kit.context.settle()
        assert waits == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]
        assert len({tuple(batch) for batch in posted(kit.context)}) == 1
    assert "t0k" not in caplog.text


async def test_what_is_refused_for_good_or_left_at_the_end_goes_to_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    async with http_kit(lambda call: Called(400)) as kit:
        await kit.done(REQUEST, DONE)
        await kit.context.settle()
        assert len(lines_in(caplog)) == 1
    caplog.clear()
    kit = http_kit(lambda call: Called(503))
    await kit.start()
    kit.plugin.on_done(REQUEST, DONE)
    kit.plugin.on_done(REQUEST, DONE)
    await kit.stop()
    assert len(lines_in(caplog)) == 2
    assert verify(lines_in(caplog)) == []


@pytest.mark.parametrize("when_full", ["log", "refuse"])
async def test_when_too_many_lines_wait(when_full: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    gate = asyncio.Event()

    async def answer(call: Call) -> Called:
        await gate.wait()
        return Called(200)

    async with http_kit(answer, bufferLines=2, whenFull=when_full) as kit:
        for _ in range(2):
            assert await kit.request(REQUEST) is REQUEST
            await kit.done(REQUEST, DONE)
        third = await kit.request(REQUEST)
        if when_full == "refuse":
            assert isinstance(third, Reply)
            assert (third.status, json.loads(third.body)["reason"]) == (503, "AuditLogFull")
        else:
            assert third is REQUEST
        await kit.done(REQUEST, DONE)
        assert len(lines_in(caplog)) == 1
        gate.set()
        await kit.context.settle()
        assert await kit.request(REQUEST) is REQUEST
        kept = [line for batch in posted(kit.context) for line in batch]
        assert len(kept) == 2
        assert verify([*kept, *lines_in(caplog)]) == []


@pytest.mark.connected
async def test_lines_go_to_a_redis_stream(redis_url: str) -> None:
    context = FakeContext(hosts=frozenset({"127.0.0.1"}))
    async with PluginKit(
        AuditLog, {"log": False, "redis": {"url": redis_url, "stream": "audit", "maxLength": 1000}}, context=context
    ) as kit:
        for _ in range(5):
            await kit.done(REQUEST, DONE)
        await context.settle()
        client = await context.redis(redis_url)
        entries = await client.xrange("audit")
        assert verify(fields[b"line"] for _, fields in entries) == []
        assert len(entries) == 5


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"log": False}, "would go nowhere"),
        ({"headers": ["Cookie"]}, "carries secrets"),
        ({"headers": ["x-api-key"]}, "carries secrets"),
    ],
)
def test_configurations_that_cannot_be_used_say_why(config: dict[str, Any], message: str) -> None:
    with pytest.raises(PluginConfigError, match=message):
        PluginKit(AuditLog, config)
